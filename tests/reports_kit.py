"""Requests for reports, written down as facts without asking any decision, and a reader over them in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import msgspec

from palyra.engine.codec import to_row
from palyra.events import attempts, daemon, runs, usage
from palyra.events.base import Fact, Recorded
from palyra.journal.memory import MemoryReader
from palyra.usage import TokenUsage

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def day_us(year: int, month: int, day: int, hour: int = 0) -> int:
    """Return an instant."""
    return (datetime(year, month, day, hour, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


class Told(msgspec.Struct, kw_only=True):
    """What a request was: calls to models one after another, all of them used and billed alike, and its end."""

    at_us: int
    principal_id: str = "key:a"
    key_id: str = ""
    session_id: str = ""
    agent_id: str = ""
    origin: str = "http"
    provider_id: str = "openai"
    model_ids: list[str] = []
    end: str = "completed"
    #: Input and output.
    tokens: tuple[int, int] = (100, 20)
    cost_nanousd: int | None = 1_000
    known_nanousd: int = 0
    source: str = "provider"
    #: Cost afterwards, and tokens of output more.
    corrections: list[tuple[int | None, int]] = []
    request_id: str = ""


def rows_of(told: Sequence[Told], *, step_us: int = 0) -> list[Recorded]:
    """Return the facts in the order in which requests are given; `step_us` notes a step of the clock between."""
    history: list[Recorded] = []

    def note(stream: str, at_us: int, body: Fact) -> Recorded:
        version = sum(one.stream == stream for one in history) + 1
        history.append(Recorded(len(history) + 1, stream, version, at_us, "engine", "", 0, "", body))
        return history[-1]

    for number, one in enumerate(told):
        if step_us and number:
            note("daemon", one.at_us, _step(step_us))
        _tell(note, f"run-{number:04}", one)
    return history


def _step(step_us: int) -> Fact:
    return daemon.DaemonClockStepped(cause="step", wall_before_us=0, wall_after_us=step_us, monotonic_elapsed_us=0)


def history_of(told: Sequence[Told]) -> list[Recorded]:
    """Return the facts in the order of time."""
    return rows_of(sorted(told, key=lambda one: one.at_us))


def _tell(note: object, stream: str, one: Told) -> None:
    assert callable(note)
    if one.end == "refused" and not one.model_ids:
        refused = runs.RunRefused(
            code="budget_blocked",
            http_status=429,
            principal_id=one.principal_id,
            key_id=one.key_id,
            session_id=one.session_id,
            agent_id=one.agent_id,
            endpoint="chat",
            origin=one.origin,
        )
        note(stream, one.at_us, refused)
        return
    whose = {name: getattr(one, name) for name in ("principal_id", "key_id", "session_id", "agent_id", "origin")}
    note(
        stream,
        one.at_us,
        runs.RunAdmitted(
            **whose,
            endpoint="chat",
            config_generation=1,
            body_digest="",
            body_bytes=1,
            deadline_us=one.at_us + 1,
            tokens=runs.TokenEstimate(raw=100, upper=130),
        ),
    )
    for attempt, model_id in enumerate(one.model_ids, 1):
        where = {"provider_id": one.provider_id, "model_id": model_id, "upstream_model": model_id}
        started = attempts.AttemptStarted(
            attempt=attempt, **where, api="chat", deadline_ms=1, input_max_tokens=1, output_max_tokens=1
        )
        note(stream, one.at_us, started)
        is_last = attempt == len(one.model_ids)
        if is_last and one.end == "completed":
            note(
                stream,
                one.at_us,
                attempts.AttemptSucceeded(
                    attempt=attempt, stop="end_turn", duration_us=5, upstream_request_id=one.request_id
                ),
            )
        else:
            failed = attempts.AttemptFailed(attempt=attempt, failure_class="overloaded", phase="headers")
            note(stream, one.at_us, failed)
        _use(note, stream, one, attempt, {**whose, **where})
    ends: dict[str, Fact] = {
        "completed": runs.RunCompleted(
            stop="end_turn", provider_id=one.provider_id, model_id=(one.model_ids or [""])[-1], duration_us=7_000
        ),
        "failed": runs.RunFailed(code="upstream_failed"),
        "cancelled": runs.RunCancelled(reason="client"),
        "refused": runs.RunRefused(code="budget_blocked", http_status=429),
    }
    if one.end in ends:
        note(stream, one.at_us + 1, ends[one.end])


def _use(note: object, stream: str, one: Told, attempt: int, whose: dict[str, str]) -> None:
    assert callable(note)
    used = TokenUsage(input_tokens=one.tokens[0], output_tokens=one.tokens[1])
    row = note(
        stream,
        one.at_us,
        usage.UsageRecorded(
            attempt=attempt,
            **whose,
            endpoint="chat",
            effective_at_us=one.at_us,
            usage=used,
            source=one.source,
            raw_input_tokens=100,
            cost_state="unknown" if one.cost_nanousd is None else "priced",
            cost_nanousd=one.cost_nanousd,
            known_nanousd=one.known_nanousd if one.cost_nanousd is None else one.cost_nanousd,
        ),
    )
    whose = {name: value for name, value in whose.items() if name != "upstream_model"}
    tokens, cost = used.total_tokens, one.cost_nanousd
    known = one.known_nanousd
    for after, more in one.corrections:
        note(
            "corrections",
            one.at_us + 1,
            usage.UsageCorrected(
                run_id=stream[4:],
                attempt=attempt,
                corrects_position=row.position,
                **whose,
                endpoint="chat",
                effective_at_us=one.at_us,
                tokens_before=tokens,
                deltas=TokenUsage(output_tokens=more),
                cost_before_nanousd=cost,
                known_before_nanousd=known,
                cost_after_nanousd=after,
            ),
        )
        known = (known if cost is None else cost) if after is None else known
        tokens, cost = tokens + more, after


class RowsReader(MemoryReader):
    """A reader over a history."""

    def __init__(self, history: Iterable[Recorded]) -> None:
        rows = [to_row(one) for one in history]
        journal = SimpleNamespace(journal_id="01REPORTS", created_at_us=0, rows=rows, links=[b""] * len(rows))
        super().__init__(journal, len(rows))  # type: ignore[arg-type]
