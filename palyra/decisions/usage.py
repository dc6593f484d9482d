"""Usage rows: what is recorded for an attempt, however it ended (governance specification 2.2)."""

from __future__ import annotations

from typing import Literal

import msgspec

from palyra.decisions.pricing import Cost, cost_of, usage_of_recording
from palyra.events.attempts import AttemptStarted
from palyra.events.usage import UsageRecorded
from palyra.projections.catalog import provider_entry
from palyra.projections.pricing import entry_of, price_at
from palyra.projections.runs import Run
from palyra.projections.state import State
from palyra.usage import TokenUsage

#: An answer with content whose provider says that it took no tokens.
_ZERO = "usage_zero_reported"


class Metered(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of an attempt's consumption."""

    #: Counts that the provider gave, None if it gave none.
    reported: TokenUsage | None = None
    #: Output by the estimator, from what was seen of the answer.
    output_estimate_tokens: int = 0
    anomalies: tuple[str, ...] = ()
    provider_cost_nanousd: int | None = None
    #: Variant that the provider says it was served by, "" where it says nothing.
    variant: str = ""
    #: The call carried a part of the request, so that its counts say nothing about the whole's estimate.
    is_part: bool = False


#: Failures after which the provider cannot have done billable work: it was not reached, or it said no.
_UNBILLED_PHASES = ("connect",)
_UNBILLED_CLASSES = ("redirect_refused",)


def row_of_answer(
    state: State, run: Run, attempt: AttemptStarted, metered: Metered, *, estimated_input_tokens: int
) -> UsageRecorded:
    """Return the row of a complete answer."""
    usage = metered.reported
    if usage is None:
        usage = _estimate(state, run, attempt, estimated_input_tokens, metered.output_estimate_tokens)
        return _row(state, run, attempt, usage, "estimated", "yes", metered)
    provider = provider_entry(state, attempt.provider_id)
    if _ZERO in metered.anomalies and provider is not None and provider.zero_usage == "estimate":
        usage = msgspec.structs.replace(
            usage,
            input_tokens=usage.input_tokens or estimated_input_tokens,
            output_tokens=metered.output_estimate_tokens,
        )
        return _row(state, run, attempt, usage, "partial", "yes", metered)
    return _row(state, run, attempt, usage, "provider", "yes", metered)


def row_of_cut(
    state: State,
    run: Run,
    attempt: AttemptStarted,
    metered: Metered,
    *,
    estimated_input_tokens: int,
    is_answered: bool,
) -> UsageRecorded | None:
    """Return the row of an answer that ended early: what was seen, the rest estimated.

    Where the provider had not even begun to answer, the rule for unknown outcomes says what is counted; None:
    nothing.
    """
    seen = metered.reported
    if seen is not None:
        usage = msgspec.structs.replace(
            seen,
            input_tokens=seen.input_tokens or estimated_input_tokens,
            output_tokens=max(seen.output_tokens, metered.output_estimate_tokens),
        )
        return _row(state, run, attempt, usage, "partial", "yes", metered)
    if metered.output_estimate_tokens:
        usage = _estimate(state, run, attempt, estimated_input_tokens, metered.output_estimate_tokens)
        return _row(state, run, attempt, usage, "estimated", "yes", metered)
    rule = "input" if is_answered else state.config.accounting.unknown_outcome
    return _row_of_unknown(state, run, attempt, rule, estimated_input_tokens)


def row_of_abandoned(
    state: State, run: Run, attempt: AttemptStarted, *, estimated_input_tokens: int
) -> UsageRecorded | None:
    """Return the row of an attempt whose process died, by the rule for those; None: nothing is counted."""
    return _row_of_unknown(state, run, attempt, state.config.accounting.abandoned, estimated_input_tokens)


def _row_of_unknown(
    state: State, run: Run, attempt: AttemptStarted, rule: str, estimated_input_tokens: int
) -> UsageRecorded | None:
    if rule == "zero":
        return None
    usage = _estimate(state, run, attempt, estimated_input_tokens, 0)
    if rule == "reserved":
        usage = _estimate(state, run, attempt, attempt.input_max_tokens, attempt.output_max_tokens)
    return _row(state, run, attempt, usage, "estimated", "unknown", Metered())


def _estimate(state: State, run: Run, attempt: AttemptStarted, input_tokens: int, output_tokens: int) -> TokenUsage:
    """Return what an attempt is taken to have used; of a recording that is its length, where that is what costs."""
    audio_ms = run.admitted.audio_ms
    if audio_ms:
        return usage_of_recording(entry_of(state, attempt.price_id), input_tokens, output_tokens, audio_ms)
    return TokenUsage(input_tokens=input_tokens, output_tokens=output_tokens)


def may_have_cost(*, phase: str, status: int, saw_output: bool, failure_class: str = "") -> bool:
    """Return whether a failed attempt gets a row: not one that never left, nor one answered with an error."""
    if saw_output:
        return True
    return phase not in _UNBILLED_PHASES and failure_class not in _UNBILLED_CLASSES and status < 300


def _row(
    state: State,
    run: Run,
    attempt: AttemptStarted,
    usage: TokenUsage,
    source: Literal["provider", "partial", "estimated"],
    billed: Literal["yes", "unknown"],
    metered: Metered,
) -> UsageRecorded:
    """Return a row, priced as of the start of its attempt."""
    entry = entry_of(state, attempt.price_id)
    variant = metered.variant or attempt.variant
    if variant != attempt.variant:
        entry = price_at(state, attempt.provider_id, attempt.model_id, run.started_us, variant)
    cost = _believed(state, attempt, cost_of(usage, entry), metered)
    asked = run.admitted
    return UsageRecorded(
        attempt=attempt.attempt,
        provider_id=attempt.provider_id,
        model_id=attempt.model_id,
        upstream_model=attempt.upstream_model,
        principal_id=asked.principal_id,
        key_id=asked.key_id,
        session_id=asked.session_id,
        agent_id=asked.agent_id,
        endpoint=asked.endpoint,
        origin=asked.origin,
        effective_at_us=run.admitted_us,
        usage=usage,
        overshoot_tokens=max(0, usage.input_tokens - attempt.input_max_tokens)
        + max(0, usage.output_tokens - attempt.output_max_tokens),
        source=source,
        billed=billed,
        raw_input_tokens=0 if metered.is_part else asked.tokens.raw,
        price_id="" if entry is None else entry.price_id,
        variant=variant,
        tier_above_tokens=cost.tier_above_tokens,
        cost_state=cost.state,
        cost_nanousd=cost.nanousd,
        # Of a cost that is known whole this says nothing new.
        known_nanousd=cost.known_nanousd if cost.nanousd is None else 0,
        anomalies=list(metered.anomalies),
        provider_cost_nanousd=metered.provider_cost_nanousd,
    )


def _believed(state: State, attempt: AttemptStarted, cost: Cost, metered: Metered) -> Cost:
    """Return the cost by the rule of the provider: that of the price list, or the one that it reports itself."""
    provider = provider_entry(state, attempt.provider_id)
    reported = metered.provider_cost_nanousd
    if provider is None or provider.cost_source != "provider" or reported is None:
        return cost
    return Cost("priced", reported, reported)
