"""Usage rows: what is recorded for an attempt, however it ended (governance specification 2.2)."""

from __future__ import annotations

import msgspec

from palyra.events.usage import UsageRecorded
from palyra.projections.budgets import Hold
from palyra.projections.runs import Attempt, Run
from palyra.usage import TokenUsage


class Metered(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of an attempt's consumption."""

    #: Counts that the provider gave, None if it gave none.
    reported: TokenUsage | None = None
    #: Output by the estimator, from what was seen of the answer.
    output_estimate_tokens: int = 0
    anomalies: tuple[str, ...] = ()
    provider_cost_nanousd: int | None = None


#: Failures after which the provider cannot have done billable work: it was not reached, or it said no.
_UNBILLED_PHASES = ("connect",)
_UNBILLED_CLASSES = ("redirect_refused",)


def row_of_answer(run: Run, attempt: Attempt, metered: Metered, *, estimated_input_tokens: int) -> UsageRecorded:
    """Return the row of a complete answer."""
    usage, source = metered.reported, "provider"
    if usage is None:
        source = "estimated"
        usage = TokenUsage(input_tokens=estimated_input_tokens, output_tokens=metered.output_estimate_tokens)
    return _row(run, attempt, usage, source, "yes", metered)


def row_of_cut(
    run: Run, attempt: Attempt, metered: Metered, *, estimated_input_tokens: int, billed: bool
) -> UsageRecorded:
    """Return the row of an answer that ended early: what was seen, the rest estimated."""
    seen = metered.reported
    if seen is None:
        usage = TokenUsage(input_tokens=estimated_input_tokens, output_tokens=metered.output_estimate_tokens)
        return _row(run, attempt, usage, "estimated", "yes" if billed else "unknown", metered)
    usage = msgspec.structs.replace(
        seen,
        input_tokens=seen.input_tokens or estimated_input_tokens,
        output_tokens=max(seen.output_tokens, metered.output_estimate_tokens),
    )
    return _row(run, attempt, usage, "partial", "yes" if billed else "unknown", metered)


def row_of_abandoned(run: Run, attempt: Attempt, hold: Hold) -> UsageRecorded:
    """Return the row of an attempt whose process died: all that was held, because nothing else is known."""
    usage = TokenUsage(input_tokens=hold.input_tokens, output_tokens=hold.output_tokens)
    return _row(run, attempt, usage, "estimated", "unknown", Metered())


def may_have_cost(*, phase: str, status: int, saw_output: bool, failure_class: str = "") -> bool:
    """Return whether a failed attempt gets a row: not one that never left, nor one answered with an error."""
    if saw_output:
        return True
    return phase not in _UNBILLED_PHASES and failure_class not in _UNBILLED_CLASSES and status < 300


def _row(
    run: Run, attempt: Attempt, usage: TokenUsage, source: str, billed: str, metered: Metered
) -> UsageRecorded:
    return UsageRecorded(
        attempt=attempt.attempt,
        provider_id=attempt.provider_id,
        model_id=attempt.model_id,
        upstream_model=attempt.upstream_model,
        usage=usage,
        source=source,  # type: ignore[arg-type]
        billed=billed,  # type: ignore[arg-type]
        raw_input_tokens=run.tokens.raw,
        anomalies=list(metered.anomalies),
        provider_cost_nanousd=metered.provider_cost_nanousd,
    )
