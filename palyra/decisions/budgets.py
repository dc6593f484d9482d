"""Reservations: how much an attempt may consume, held right before it starts and released when it ends."""

from __future__ import annotations

from typing import Literal

from palyra.events.budgets import BudgetReleased, BudgetReserved
from palyra.events.registry import ModelEntry
from palyra.limits import DEFAULT_OUTPUT_CAP_TOKENS
from palyra.projections.budgets import Hold
from palyra.projections.runs import Run
from palyra.units import US_PER_S
from palyra.usage import TokenUsage

#: A hold outlives its run's deadline by this much, so that a settlement on time always finds it.
_GRACE_US = 60 * US_PER_S


def output_bound_tokens(run: Run, entry: ModelEntry | None) -> int:
    """Return the most output that an attempt can have: every choice at the smallest maximum that anybody names."""
    if run.endpoint == "embeddings":
        return 0
    named = [run.output_requested_tokens, entry.max_output_tokens if entry is not None else None]
    bounds = [bound for bound in named if bound is not None] or [DEFAULT_OUTPUT_CAP_TOKENS]
    if entry is not None:
        bounds.append(entry.max_tokens_per_event)
    return run.choices_count * min(bounds)


def reserve(run: Run, entry: ModelEntry | None, *, attempt: int, input_upper_tokens: int) -> BudgetReserved:
    """Return the hold of the attempt that is about to start: input at its upper bound, output at its maximum."""
    output_tokens = output_bound_tokens(run, entry)
    return BudgetReserved(
        attempt=attempt,
        input_tokens=input_upper_tokens,
        output_tokens=output_tokens,
        expires_us=run.deadline_us + _GRACE_US,
    )


def release(
    hold: Hold, usage: TokenUsage | None, because: Literal["settled", "cancelled", "abandoned"]
) -> BudgetReleased:
    """Return the end of a hold, with what passed it."""
    overshoot_tokens = 0
    if usage is not None:
        overshoot_tokens = max(0, usage.input_tokens - hold.input_tokens)
        overshoot_tokens += max(0, usage.output_tokens - hold.output_tokens)
    return BudgetReleased(attempt=hold.attempt, because=because, overshoot_tokens=overshoot_tokens)
