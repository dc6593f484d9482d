"""Answers about the state as plain data: what an answer is, and those about runs, usage and alerts.

Pure over a state and an instant, so that the same question gives the same answer from the journal file and from a
daemon's memory. Every field is there in every answer; words and units are the business of whoever prints.
"""

from __future__ import annotations

import msgspec

from palyra.projections.alerts import Alert, is_open
from palyra.projections.runs import Run, RunSummary
from palyra.projections.state import State
from palyra.projections.usage import UsageCell, total_of


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Part of an answer; what is not known is null and not left out."""


class RunAnswer(Answer, frozen=True, kw_only=True):
    """One line about a run."""

    run_id: str
    #: open, cancelling, completed, failed, cancelled or refused.
    state: str
    endpoint: str
    stream: bool
    principal_id: str
    session_id: str
    model_requested: str
    #: Where it is being tried, or was answered.
    provider_id: str
    model_id: str
    code: str
    attempts_count: int
    input_tokens: int
    output_tokens: int
    #: The known part of its cost, and the attempts whose cost is not known.
    known_nanousd: int
    unpriced_count: int
    admitted_us: int
    duration_us: int


class UsageAnswer(Answer, frozen=True, kw_only=True):
    """Sums over recorded usage."""

    since_us: int | None
    rows_count: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    reasoning_tokens: int
    #: Rows whose counts are not all the provider's.
    estimated_count: int
    #: Sum of the known costs, and the rows whose cost is not known.
    cost_nanousd: int
    unpriced_count: int


class AlertAnswer(Answer, frozen=True, kw_only=True):
    """Something that somebody should know."""

    alert_id: str
    #: open, acknowledged or ended.
    state: str
    kind: str
    severity: str
    subject_kind: str
    subject_id: str
    #: How often it was raised before.
    recurrence: int
    facts: dict[str, int | str]
    because_positions: list[int]
    recommended_action: str
    raised_us: int
    valid_until_us: int | None
    #: A rule that is tried out would have stopped somebody.
    dry_run: bool
    acknowledged_by: str | None
    acknowledged_us: int | None
    ended_us: int | None


def alert_answer(alert: Alert, now_us: int) -> AlertAnswer:
    """Return an alert as it is shown."""
    raised, seen_us = alert.raised, alert.acknowledged_us
    ended_us = alert.cleared_us
    if ended_us is None and not is_open(alert, now_us):
        ended_us = raised.valid_until_us
    return AlertAnswer(
        alert_id=alert.alert_id,
        state="ended" if ended_us is not None else "open" if seen_us is None else "acknowledged",
        kind=raised.kind,
        severity=raised.severity,
        subject_kind=raised.subject_kind,
        subject_id=raised.subject_id,
        recurrence=raised.recurrence,
        facts=raised.facts,
        because_positions=raised.because_positions,
        recommended_action=raised.recommended_action,
        raised_us=alert.raised_us,
        valid_until_us=raised.valid_until_us,
        dry_run=raised.dry_run,
        acknowledged_by=alert.acknowledged_by or None,
        acknowledged_us=seen_us,
        ended_us=ended_us,
    )


def usage_since(state: State, since_us: int) -> UsageAnswer:
    """Return the sums of all quarters of an hour that began at or after an instant, 35 days back at most."""
    cells = [
        cell for start_us, by_key in state.usage.cells.items() if start_us >= since_us for cell in by_key.values()
    ]
    return _usage(cells, since_us)


def usage_total(state: State) -> UsageAnswer:
    """Return the sums of everything that was recorded."""
    return _usage([total_of(state)], None)


def _usage(cells: list[UsageCell], since_us: int | None) -> UsageAnswer:
    return UsageAnswer(
        since_us=since_us,
        rows_count=sum(cell.rows_count for cell in cells),
        input_tokens=sum(cell.input_tokens for cell in cells),
        output_tokens=sum(cell.output_tokens for cell in cells),
        cached_input_tokens=sum(cell.cached_input_tokens for cell in cells),
        reasoning_tokens=sum(cell.reasoning_tokens for cell in cells),
        estimated_count=sum(cell.estimated_count for cell in cells),
        cost_nanousd=sum(cell.cost_nanousd for cell in cells),
        unpriced_count=sum(cell.unpriced_count for cell in cells),
    )


def runs_answer(state: State, *, now_us: int, is_open: bool = False) -> list[RunAnswer]:
    """Return open and recent runs, newest first."""
    runs = open_run_answers(state, now_us)
    if not is_open:
        runs += [_ended_run(summary) for summary in state.runs.recent]
    return sorted(runs, key=lambda run: (run.admitted_us, run.run_id), reverse=True)


def open_run_answers(state: State, now_us: int) -> list[RunAnswer]:
    """Return the open runs, in the order in which they were admitted."""
    return [_open_run(run, now_us) for run in state.runs.open.values()]


def _open_run(run: Run, now_us: int) -> RunAnswer:
    return RunAnswer(
        run_id=run.run_id,
        state="cancelling" if run.cancel_requested else "open",
        endpoint=run.admitted.endpoint,
        stream=run.admitted.stream,
        principal_id=run.admitted.principal_id,
        session_id=run.admitted.session_id,
        model_requested=run.admitted.model_requested,
        provider_id=run.attempt.provider_id if run.attempt is not None else "",
        model_id=run.attempt.model_id if run.attempt is not None else "",
        code="",
        attempts_count=run.attempts_count,
        input_tokens=run.input_tokens,
        output_tokens=run.output_tokens,
        known_nanousd=run.known_nanousd,
        unpriced_count=run.unpriced_count,
        admitted_us=run.admitted_us,
        duration_us=max(0, now_us - run.admitted_us),
    )


def _ended_run(summary: RunSummary) -> RunAnswer:
    fields = {name: getattr(summary, name) for name in RunSummary.__struct_fields__ if name != "outcome"}
    return RunAnswer(state=summary.outcome, **fields)
