"""Reservations: what open attempts may still consume."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from palyra.events import budgets
from palyra.events.base import Recorded
from palyra.projections.base import Chapter

if TYPE_CHECKING:
    from palyra.projections.state import State


class Hold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The hold of one open attempt."""

    attempt: int
    input_tokens: int
    output_tokens: int
    reserved_us: int
    expires_us: int


class BudgetsState(msgspec.Struct, kw_only=True):
    """Open holds by run: a run has one open attempt at most, so one hold."""

    holds: dict[str, Hold] = {}
    #: Tokens that passed their hold since the journal began.
    overshoot_tokens: int = 0


CHAPTER = Chapter()


def reserved_tokens(state: State) -> int:
    """Return the sum of all open holds."""
    return sum(hold.input_tokens + hold.output_tokens for hold in state.budgets.holds.values())


@CHAPTER.on(budgets.BudgetReserved)
def _reserved(state: State, recorded: Recorded, body: budgets.BudgetReserved) -> None:
    state.budgets.holds[recorded.stream[4:]] = Hold(
        attempt=body.attempt,
        input_tokens=body.input_tokens,
        output_tokens=body.output_tokens,
        reserved_us=recorded.recorded_at_us,
        expires_us=body.expires_us,
    )


@CHAPTER.on(budgets.BudgetReleased)
def _released(state: State, recorded: Recorded, body: budgets.BudgetReleased) -> None:
    hold = state.budgets.holds.get(recorded.stream[4:])
    if hold is not None and hold.attempt == body.attempt:
        del state.budgets.holds[recorded.stream[4:]]
    state.budgets.overshoot_tokens += body.overshoot_tokens
