"""Answers from the rows of a journal file as plain data: events, one run's story, the file's figures, its checks.

Synchronous, read-only, beside a live daemon or without one. Nothing is folded here but one run's own stream; what
needs a whole fold stands in `questions`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from palyra.engine.codec import to_recorded
from palyra.engine.questions import Answer
from palyra.errors import PalyraError
from palyra.events.base import Recorded
from palyra.journal.port import Reader, Row
from palyra.projections.run_view import AttemptView, RunView, view_of_run

#: Rows that are looked through at once when the newest ones are wanted.
_LOOK_BACK_COUNT = 5_000
#: Runs that are named when a prefix is not enough.
_NAMED_COUNT = 4
_GLOB_CHARS = frozenset("*?[]")


class EventAnswer(Answer, frozen=True, kw_only=True):
    """One event: its envelope, and its body as plain data."""

    position: int
    stream: str
    version: int
    name: str
    schema: int
    recorded_at_us: int
    actor: str
    #: The work it belongs to where that is not its stream, and the event that led to it.
    correlation: str
    causation: int
    command_key: str
    #: Null when the stored bytes are no JSON object.
    body: dict[str, Any] | None


class Wanted(Answer, frozen=True, kw_only=True):
    """Which events somebody wants to see; patterns as of a shell."""

    names: Sequence[str] = ()
    streams: Sequence[str] = ()

    def takes(self, row: Row) -> bool:
        """Return whether the row is one of them."""
        return _matches(row.name, self.names) and _matches(row.stream, self.streams)


def _matches(text: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(text, pattern) for pattern in patterns)


def event_answer(row: Row) -> EventAnswer:
    """Return a row as it is shown."""
    try:
        body = msgspec.json.decode(row.body, type=dict[str, Any])
    except msgspec.DecodeError:
        body = None
    fields = row._asdict() | {"body": body}
    return EventAnswer(**fields)


def last_events(reader: Reader, upto: int, count: int, wanted: Wanted) -> list[EventAnswer]:
    """Return the newest `count` events up to a position that are wanted, in order."""
    found: deque[Row] = deque()
    high = upto
    while high > 0 and len(found) < count:
        low = max(0, high - _LOOK_BACK_COUNT)
        piece = [row for rows in reader.rows(low, high) for row in rows if wanted.takes(row)]
        found.extendleft(reversed(piece))
        high = low
    return [event_answer(row) for row in list(found)[-count:]] if count else []


def events_after(reader: Reader, after: int, wanted: Wanted) -> Iterator[tuple[int, list[EventAnswer]]]:
    """Yield, batch by batch up to the head, how far it was looked and what was wanted there."""
    for rows in reader.rows(after):
        yield rows[-1].position, [event_answer(row) for row in rows if wanted.takes(row)]


def events_at(reader: Reader, name: str) -> list[Row]:
    """Return the rows that `name` means: a position, `STREAM:VERSION`, or a whole stream.

    Raises `position_not_found`.
    """
    if name.isascii() and name.isdigit():
        row = reader.row(int(name)) if len(name) <= 18 else None
        if row is not None:
            return [row]
        raise PalyraError(f"The journal ends at position {reader.head().position}.", code="position_not_found")
    stream, colon, version = name.rpartition(":")
    if not colon or not (version.isascii() and version.isdigit()):
        stream, version = name, ""
    rows = [] if _GLOB_CHARS & set(stream) else [row for rows in reader.stream(stream) for row in rows]
    if not rows:
        raise PalyraError(f"The journal has no stream '{stream}'.", code="position_not_found")
    found = [row for row in rows if not version or row.version == int(version)]
    if not found:
        message = f"The stream '{stream}' ends at version {rows[-1].version}."
        raise PalyraError(message, code="position_not_found")
    return found


def newest_run(reader: Reader) -> str:
    """Return the id of the run that was admitted or refused last; raises `run_not_found`."""
    newest = last_events(reader, reader.head().position, 1, Wanted(names=("run.admitted", "run.refused")))
    if not newest:
        raise PalyraError("No request was made yet.", hint="palyra serve, then ask it", code="run_not_found")
    return newest[0].stream[4:]


def find_run(reader: Reader, name: str) -> str:
    """Return the id of the run that `name` is, or is the unique beginning of; `last` is the newest.

    Raises `run_not_found`.
    """
    if name == "last":
        return newest_run(reader)
    found: dict[str, None] = {}
    if name and not _GLOB_CHARS & set(name):
        for rows in reader.stream(f"run-{name}*"):
            found.update(dict.fromkeys(row.stream[4:] for row in rows))
            if name in found or len(found) > _NAMED_COUNT:
                break
    if name in found:
        return name
    if len(found) == 1:
        return next(iter(found))
    if not found:
        raise PalyraError(
            f"There is no run '{name}'.", hint="palyra runs list shows open and recent runs", code="run_not_found"
        )
    named = ", ".join(list(found)[:_NAMED_COUNT]) + (" and more" if len(found) > _NAMED_COUNT else "")
    raise PalyraError(f"'{name}' is the beginning of {named}.", hint="name more of it", code="run_not_found")


class AttemptAnswer(Answer, frozen=True, kw_only=True):
    """One call to a provider."""

    attempt: int
    #: Index in the plan, and which try at this candidate.
    candidate: int
    retry: int
    provider_id: str
    model_id: str
    upstream_model: str
    is_trial: bool
    #: Id of the credential it was made with, "" for none, and the revision of its secret; 0 where it has none.
    credential_ref: str
    credential_revision: int
    #: The dialect the provider was asked in, and whether the client's own bytes went there.
    api: str
    is_passthrough: bool
    edits: list[str]
    #: What that dialect has no place for.
    dropped: list[str]
    #: What stood in the answer and the client's dialect has no place for.
    answer_dropped: list[str]
    queue_wait_ms: int
    started_us: int
    #: open, succeeded, failed or abandoned.
    state: str
    duration_us: int | None
    first_byte_us: int | None
    #: Of a success: why the answer ended.
    stop: str
    #: Of a failure: class, phase, HTTP status, the provider's own words, and whether the circuit counted it.
    failure_class: str
    phase: str
    status: int
    message: str
    is_counted: bool
    #: How long the next try at the same candidate waited; null when there was none.
    wait_ms: int | None
    #: What it could use at most, and the budgets that kept it free; none where no budget applied.
    reserved_input_tokens: int
    reserved_output_tokens: int
    reserved_for: list[str]
    overshoot_tokens: int
    #: What was used; null when nothing was recorded.
    input_tokens: int | None
    output_tokens: int | None
    #: provider, partial or estimated; "" when nothing was recorded.
    usage_source: str
    #: yes, or unknown for a call that may not have been billed.
    billed: str


class StepAnswer(Answer, frozen=True, kw_only=True):
    """One candidate of a plan; `readiness` and `health` as they were when it was made."""

    provider_id: str
    model_id: str
    upstream_model: str
    #: 0 ready, 2 unavailable and therefore last.
    readiness: int
    health: str
    #: requested, fallback or compatible.
    via: str


class ExclusionAnswer(Answer, frozen=True, kw_only=True):
    """One candidate that could not be tried, the rule that said so, and the figures behind it."""

    provider_id: str
    model_id: str
    excluded_by: str
    figures: dict[str, int]


class CredentialAnswer(Answer, frozen=True, kw_only=True):
    """One credential that a candidate could not be tried with, the rule that said so, and the end of a pause."""

    provider_id: str
    model_id: str
    credential_ref: str
    verdict: str
    until_us: int | None


class FailoverAnswer(Answer, frozen=True, kw_only=True):
    """A step to the next candidate."""

    from_attempt: int
    trigger: str
    provider_id: str
    model_id: str
    skipped: list[ExclusionAnswer]
    remaining_count: int


class WouldAnswer(Answer, frozen=True, kw_only=True):
    """What mode enforced would have done."""

    provider_id: str
    model_id: str
    action: str
    expected_nanousd: int | None
    verdict: str


class RoutingAnswer(Answer, frozen=True, kw_only=True):
    """The plan, as it was decided at admission."""

    resolved_by: str
    model_id: str
    failover: str
    plan: list[StepAnswer]
    excluded: list[ExclusionAnswer]
    #: Credentials that were passed over.
    verdicts: list[CredentialAnswer]
    output_requested_tokens: int | None
    output_cap_tokens: int | None
    mode: str
    task_class: str
    #: Null, "" and empty where there was nothing to choose from.
    complexity_bp: int | None
    strategy: str
    #: `provider/model`.
    recommended: str
    would: WouldAnswer | None
    #: proceed, switch, degrade, upgrade, failover or blocked.
    action: str
    reason_codes: list[str]
    budget_outcome: str


class HitAnswer(Answer, frozen=True, kw_only=True):
    """An answer from the response cache: the run that it was made for, how long before, and what that one used."""

    of_run_id: str
    age_ms: int
    saved_input_tokens: int
    saved_output_tokens: int
    #: As far as it is known.
    saved_nanousd: int


class RunReport(Answer, frozen=True, kw_only=True):
    """One run from its admission to its end, from its own stream alone."""

    run_id: str
    #: open, completed, failed, cancelled or refused.
    state: str
    first_position: int
    last_position: int
    admitted_us: int
    ended_us: int | None
    duration_us: int
    first_byte_us: int | None
    endpoint: str
    stream: bool
    principal_id: str
    session_id: str
    agent_id: str
    tags: dict[str, str]
    model_requested: str
    needs: list[str]
    config_generation: int | None
    body_bytes: int | None
    #: The input as it was estimated at admission: count, calibration, upper bound.
    estimated_tokens: int | None
    estimated_upper_tokens: int | None
    calibration_bp: int | None
    routing: RoutingAnswer | None
    #: None where the response cache gave no answer.
    hit: HitAnswer | None
    attempts: list[AttemptAnswer]
    failovers: list[FailoverAnswer]
    #: Of a run that did not complete: code, and the class behind it.
    code: str
    failure_class: str
    http_status: int
    stop: str
    #: Of a cancelled run: who wanted it, and whether the answer was still read to its end.
    cancelled_by: str
    is_drained: bool
    input_tokens: int
    output_tokens: int
    reserved_tokens: int


def history_of(reader: Reader, run_id: str) -> list[Recorded]:
    """Return all events of a run."""
    return [to_recorded(row) for rows in reader.stream(f"run-{run_id}") for row in rows]


def run_report(reader: Reader, run_id: str, now_us: int) -> RunReport:
    """Return the story of a run that exists; an open one has lasted until `now_us`."""
    history = history_of(reader, run_id)
    view = view_of_run(history)
    if view is None:
        raise PalyraError(f"There is no run '{run_id}'.", code="run_not_found")
    return _report(view, now_us)


def _report(view: RunView, now_us: int) -> RunReport:
    admitted, routing, end = view.admitted, view.routing, view.ended_us
    attempts = [_attempt(row) for row in view.attempts]
    asked = admitted or view.refused
    return RunReport(
        run_id=view.run_id,
        state=view.state,
        first_position=view.first_position,
        last_position=view.last_position,
        admitted_us=view.admitted_us,
        ended_us=end,
        duration_us=max(0, (now_us if end is None else end) - view.admitted_us),
        first_byte_us=view.first_byte_us,
        endpoint=asked.endpoint if asked is not None else "",
        stream=admitted is not None and admitted.stream,
        principal_id=asked.principal_id if asked is not None else "",
        session_id=admitted.session_id if admitted is not None else "",
        agent_id=admitted.agent_id if admitted is not None else "",
        tags=admitted.tags if admitted is not None else {},
        model_requested=asked.model_requested if asked is not None else "",
        needs=asked.needs if asked is not None else [],
        config_generation=admitted.config_generation if admitted is not None else None,
        body_bytes=admitted.body_bytes if admitted is not None else None,
        estimated_tokens=admitted.tokens.estimated if admitted is not None else None,
        estimated_upper_tokens=admitted.tokens.upper if admitted is not None else None,
        calibration_bp=admitted.tokens.ratio_bp if admitted is not None else None,
        routing=None if routing is None else msgspec.convert(routing, RoutingAnswer, from_attributes=True),
        hit=None if view.hit is None else msgspec.convert(view.hit, HitAnswer, from_attributes=True),
        attempts=attempts,
        failovers=msgspec.convert(view.failovers, list[FailoverAnswer], from_attributes=True),
        code=_code(view),
        failure_class=view.failed.failure_class if view.failed is not None else "",
        http_status=_http_status(view),
        stop=view.completed.stop if view.completed is not None else "",
        cancelled_by=view.cancelled.by if view.cancelled is not None else "",
        is_drained=view.cancelled is not None and view.cancelled.drained,
        input_tokens=view.usage.input_tokens,
        output_tokens=view.usage.output_tokens,
        reserved_tokens=sum(one.reserved_input_tokens + one.reserved_output_tokens for one in attempts),
    )


def _code(view: RunView) -> str:
    if view.cancelled is not None:
        return view.cancelled.reason
    end = view.failed or view.refused
    return end.code if end is not None else ""


def _http_status(view: RunView) -> int:
    end = view.failed or view.refused
    return end.http_status if end is not None else 200 if view.completed is not None else 0


def _attempt(row: AttemptView) -> AttemptAnswer:
    started, reserved, succeeded, failed, usage = row.started, row.reserved, row.succeeded, row.failed, row.usage
    ended = succeeded or failed
    return AttemptAnswer(
        attempt=started.attempt,
        candidate=started.candidate,
        retry=started.retry,
        provider_id=started.provider_id,
        model_id=started.model_id,
        upstream_model=started.upstream_model,
        is_trial=started.trial,
        credential_ref=started.credential_ref,
        credential_revision=started.credential_revision,
        api=started.api,
        is_passthrough=started.passthrough,
        edits=started.edits,
        dropped=started.dropped,
        answer_dropped=succeeded.dropped if succeeded is not None else [],
        queue_wait_ms=started.queue_wait_ms,
        started_us=row.started_us,
        state=_attempt_state(row),
        duration_us=ended.duration_us if ended is not None else None,
        first_byte_us=succeeded.first_byte_us if succeeded is not None else None,
        stop=succeeded.stop if succeeded is not None else "",
        failure_class=failed.failure_class if failed is not None else "",
        phase=failed.phase if failed is not None else "",
        status=failed.status if failed is not None else 0,
        message=failed.message if failed is not None else "",
        is_counted=failed is not None and failed.counted,
        wait_ms=failed.wait_ms if failed is not None else None,
        reserved_input_tokens=started.input_max_tokens,
        reserved_output_tokens=started.output_max_tokens,
        reserved_for=[share.policy_id for share in reserved.shares] if reserved is not None else [],
        overshoot_tokens=usage.overshoot_tokens if usage is not None else 0,
        input_tokens=usage.usage.input_tokens if usage is not None else None,
        output_tokens=usage.usage.output_tokens if usage is not None else None,
        usage_source=usage.source if usage is not None else "",
        billed=usage.billed if usage is not None else "",
    )


def _attempt_state(row: AttemptView) -> str:
    if row.abandoned:
        return "abandoned"
    if row.failed is not None:
        return "failed"
    return "open" if row.succeeded is None else "succeeded"
