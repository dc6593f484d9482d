"""The watchdog's judgement: work that has been silent for too long by its recorded life, a clock that was set, and
the incidents which that opens or resolves.

Detection never repairs. A verdict is given once: what an open incident already says is not said again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from palyra.events.base import Draft
from palyra.events.incidents import (
    IncidentOpened,
    IncidentReopened,
    IncidentResolved,
    IncidentSeverityChanged,
    Severity,
)
from palyra.projections.daemon import ClockStep
from palyra.projections.heartbeats import beat_key
from palyra.projections.incidents import Incident, incident_key, newest_incident, open_incidents
from palyra.projections.runs import Run
from palyra.projections.state import State
from palyra.units import US_PER_MS, us_to_ms

#: A run is suspect after this, or after its attempt's deadline and a grace, whichever is longer.
RUN_STALLS_AFTER_MS = 120_000
STALLS_GRACE_MS = 30_000
#: A loop that was down is well again when it has run for this long.
_LOOP_WELL_AFTER_US = 60_000 * US_PER_MS
#: The same trouble within this time is the same incident.
_REOPEN_WITHIN_US = 1_800_000 * US_PER_MS

#: A clock that was set is worth a look for this long.
_CLOCK_STEP_US = 3_600_000 * US_PER_MS

StallKind = Literal[
    "run_stalled", "loop_stalled", "loop_down", "clock_step", "disk_low", "secret_in_event", "login_needed"
]
_SUBJECT_OF: dict[str, str] = {
    "run_stalled": "run",
    "loop_stalled": "loop",
    "loop_down": "loop",
    "clock_step": "clock",
    "disk_low": "disk",
    "secret_in_event": "fact",
    "login_needed": "credential",
}
_WORST: dict[str, Severity] = {"run_stalled": "danger"}
_FIRST: dict[str, Severity] = {
    "run_stalled": "warning",
    "loop_stalled": "danger",
    "loop_down": "danger",
    "clock_step": "info",
    "disk_low": "critical",
    "secret_in_event": "danger",
    "login_needed": "warning",
}
#: Kinds that `judge` resolves; whoever else opens incidents resolves them.
_JUDGED = ("run_stalled", "loop_stalled", "loop_down", "clock_step")
#: Loops without which the daemon is not whole.
_VITAL_LOOPS = ("watchdog",)


class Stall(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict about a piece of work or what it needs; which incident it opens, worsens or resolves follows."""

    kind: StallKind
    #: `recovered` is said of open incidents only.
    stage: Literal["suspect", "hung", "recovered"]
    subject_kind: str
    subject_id: str
    #: Positions of the events that show it.
    because_positions: tuple[int, ...] = ()


class Stalls(msgspec.Struct, frozen=True, kw_only=True):
    """What the open incidents do not say yet, and when the next silence becomes too long."""

    verdicts: tuple[Stall, ...] = ()
    next_deadline_us: int | None = None


def stalls_after_ms(run: Run, base_ms: int = RUN_STALLS_AFTER_MS) -> int:
    """Return how long a run may be silent before it is suspect."""
    deadline_ms = run.attempt.deadline_ms if run.attempt is not None else 0
    return max(base_ms, deadline_ms + STALLS_GRACE_MS)


class _Work(msgspec.Struct, frozen=True, kw_only=True):
    """Watched work: when it last lived, and how long it may be silent."""

    kind: StallKind
    subject_id: str
    last_life_us: int
    after_us: int
    position: int = 0


def judge(state: State, now_us: int, bases_ms: Mapping[str, int] | None = None) -> Stalls:
    """Judge all watched work by its recorded life; `bases_ms` is the configured patience by kind of work."""
    verdicts: list[Stall] = []
    deadlines: list[int] = []
    bad: dict[str, None] = {}
    for work in _watched(state, bases_ms or {}):
        silent_us = now_us - work.last_life_us
        key = incident_key(work.kind, _SUBJECT_OF[work.kind], work.subject_id)
        if silent_us > work.after_us:
            bad[key] = None
            stage: Literal["suspect", "hung"] = "hung" if silent_us > 2 * work.after_us else "suspect"
            if _is_news(newest_incident(state, key), work.kind, stage):
                verdicts.append(_verdict(work, stage))
        if silent_us <= 2 * work.after_us:
            deadlines.append(work.last_life_us + work.after_us * (2 if silent_us > work.after_us else 1) + 1)
    step = state.daemon.clock_step
    if step is not None and now_us < step.at_us + _CLOCK_STEP_US:
        deadlines.append(step.at_us + _CLOCK_STEP_US)
        verdict = _of_clock(step)
        bad[_key(verdict)] = None
        if _is_news(newest_incident(state, _key(verdict)), verdict.kind, verdict.stage):
            verdicts.append(verdict)
    for incident in open_incidents(state):
        if incident.kind == "loop_down":
            well_us = _loop_well_us(state, incident.subject_id)
            if well_us is not None and well_us > now_us:
                deadlines.append(well_us)
            if well_us is None or well_us > now_us:
                continue
        elif incident.kind not in _JUDGED or _key(incident) in bad:
            continue
        verdicts.append(_recovered(incident))
    return Stalls(verdicts=tuple(verdicts), next_deadline_us=min(deadlines, default=None))


def report(state: State, stall: Stall, *, incident_id: str, now_us: int) -> list[Draft]:
    """Open the incident of a verdict, open it again, or raise its severity; `incident_id` is for a new one."""
    severity = _severity(stall)
    known = newest_incident(state, _key(stall))
    if known is not None and known.status == "open":
        if not _is_news(known, stall.kind, stall.stage):
            return []
        changed = IncidentSeverityChanged(before=known.severity, after=severity, reason_code=stall.stage)
        return [Draft(f"incident-{known.incident_id}", changed)]
    if known is not None and now_us - (known.resolved_us or 0) <= _REOPEN_WITHIN_US:
        again = IncidentReopened(
            because_positions=list(stall.because_positions), reopened_count=known.reopened_count + 1
        )
        return [Draft(f"incident-{known.incident_id}", again)]
    opened = IncidentOpened(
        kind=stall.kind,
        severity=severity,
        subject_kind=stall.subject_kind,
        subject_id=stall.subject_id,
        because_positions=list(stall.because_positions),
    )
    return [Draft(f"incident-{incident_id}", opened)]


def resolve(state: State, stall: Stall, *, now_us: int) -> list[Draft]:
    """Resolve the incident of a verdict, if it is open."""
    known = newest_incident(state, _key(stall))
    if known is None or known.status != "open":
        return []
    is_gone = stall.kind == "run_stalled" and stall.subject_id not in state.runs.open
    resolved = IncidentResolved(
        because="subject_gone" if is_gone else "recovered",
        open_for_ms=us_to_ms(max(0, now_us - known.opened_us)),
    )
    return [Draft(f"incident-{known.incident_id}", resolved)]


def _watched(state: State, bases_ms: Mapping[str, int]) -> Iterator[_Work]:
    for run in state.runs.open.values():
        beat = state.heartbeats.board.get(beat_key("run", run.run_id))
        yield _Work(
            kind="run_stalled",
            subject_id=run.run_id,
            last_life_us=max(run.last_life_us, beat.last_life_us if beat is not None else 0),
            after_us=stalls_after_ms(run, bases_ms.get("run", RUN_STALLS_AFTER_MS)) * US_PER_MS,
            position=beat.position if beat is not None else 0,
        )
    for beat in state.heartbeats.board.values():
        if beat.work_kind == "loop":
            yield _Work(
                kind="loop_stalled",
                subject_id=beat.work_id,
                last_life_us=beat.last_life_us,
                after_us=bases_ms.get("loop", beat.stalls_after_ms) * US_PER_MS,
                position=beat.position,
            )


def _verdict(work: _Work, stage: Literal["suspect", "hung"]) -> Stall:
    return Stall(
        kind=work.kind,
        stage=stage,
        subject_kind=_SUBJECT_OF[work.kind],
        subject_id=work.subject_id,
        because_positions=(work.position,) if work.position else (),
    )


def _of_clock(step: ClockStep) -> Stall:
    return Stall(
        kind="clock_step",
        stage="suspect",
        subject_kind=_SUBJECT_OF["clock_step"],
        subject_id="wall",
        because_positions=(step.position,),
    )


def _recovered(incident: Incident) -> Stall:
    return Stall(
        kind=incident.kind,  # type: ignore[arg-type]
        stage="recovered",
        subject_kind=incident.subject_kind,
        subject_id=incident.subject_id,
    )


def _severity(stall: Stall) -> Severity:
    if stall.kind == "loop_down":
        return "critical" if stall.subject_id in _VITAL_LOOPS else "danger"
    first = _FIRST[stall.kind]
    return _WORST.get(stall.kind, first) if stall.stage == "hung" else first


def _is_news(known: Incident | None, kind: StallKind, stage: str) -> bool:
    if known is None or known.status != "open":
        return True
    return stage == "hung" and known.severity == "warning" and kind in _WORST


def _key(of: Incident | Stall) -> str:
    return incident_key(of.kind, of.subject_kind, of.subject_id)


def _loop_well_us(state: State, loop_name: str) -> int | None:
    """Return when a loop that was down counts as well, None while it has not been started again."""
    standing = state.daemon.loops.get(loop_name)
    if standing is None:
        return 0
    if standing.restarted_us < standing.crashed_us:
        return None
    return standing.restarted_us + _LOOP_WELL_AFTER_US
