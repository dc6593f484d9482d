"""Boot recovery: what a crash left open is closed by stated rules before anything listens.

An open attempt is abandoned and settled with all that it could have used, because nobody knows what it cost. A run
that had started nothing bills nothing. Deciding twice changes nothing: what is closed is not open any more.
"""

from __future__ import annotations

from collections.abc import Collection

from palyra.decisions import budgets, circuits, oauth, usage
from palyra.errors import CODES
from palyra.events.attempts import AttemptAbandoned
from palyra.events.base import Draft
from palyra.events.heartbeats import HeartbeatCleared
from palyra.events.incidents import IncidentResolved
from palyra.events.runs import RunCancelled, RunFailed, RunRefused
from palyra.projections.circuits import circuit_of
from palyra.projections.heartbeats import beat_stream
from palyra.projections.incidents import open_incidents
from palyra.projections.runs import Run
from palyra.projections.state import State
from palyra.projections.usage import calibrate
from palyra.units import us_to_ms

#: Kinds of incidents about the process that has gone.
_OF_THE_OLD_BOOT = ("loop_stalled", "loop_down", "run_stalled")


def recover_run(state: State, run: Run, *, boot_id: str, now_us: int) -> list[Draft]:
    """Close one run of an older boot: its attempt by the rule for abandoned ones, then the run itself."""
    stream = f"run-{run.run_id}"
    drafts = _abandon(state, run, boot_id=boot_id, now_us=now_us)
    if run.cancel_requested:
        end: RunCancelled | RunFailed = RunCancelled(reason="restart", attempts_count=run.attempts_count)
    else:
        end = RunFailed(code="interrupted", attempts_count=run.attempts_count)
    return [*drafts, Draft(stream, end, command_key="" if drafts else f"recover|{boot_id}|{stream}")]


def orphans(state: State, live_run_ids: Collection[str], now_us: int) -> list[Run]:
    """Return open runs that are past their time although nobody is at work on them any more."""
    return [
        run
        for run in state.runs.open.values()
        if run.deadline_us + budgets.GRACE_US < now_us and run.run_id not in live_run_ids
    ]


def refuse_held(state: State) -> list[Draft]:
    """End the requests that an older boot held: they were no runs yet, and billed nothing."""
    refused = RunRefused(code="interrupted", http_status=CODES["interrupted"].http_status)
    return [Draft(f"run-{run_id}", refused) for run_id in state.approvals.held]


def _abandon(state: State, run: Run, *, boot_id: str, now_us: int) -> list[Draft]:
    attempt = run.attempt
    if attempt is None:
        return []
    stream = f"run-{run.run_id}"
    key = f"recover|{run.run_id}|{attempt.attempt}"
    drafts = [Draft(stream, AttemptAbandoned(attempt=attempt.attempt, boot_id=boot_id), command_key=key)]
    _, estimated, _ = calibrate(state, attempt.provider_id, attempt.upstream_model, run.admitted.tokens.raw)
    row = usage.row_of_abandoned(state, run, attempt, estimated_input_tokens=estimated)
    if row is not None:
        drafts.append(Draft(stream, row))
    hold = state.budgets.holds.get(run.run_id)
    if hold is not None:
        drafts.append(Draft(stream, budgets.release(hold, row, "abandoned")))
    opened = circuits.at_failure(
        circuit_of(state, attempt.provider_id),
        run_id=run.run_id,
        attempt=attempt.attempt,
        counted=False,
        threshold=1,
        cooldown_ms=0,
        now_us=now_us,
    )
    if opened is not None:
        drafts.append(Draft(f"provider-{attempt.provider_id}", opened, stream))
    return drafts


def clear_old_boot(state: State, now_us: int) -> list[Draft]:
    """Take the old process's work off the board, end its logins, resolve the incidents that were about it."""
    drafts = [
        Draft(
            beat_stream(beat.work_kind, beat.work_id),
            HeartbeatCleared(work_kind=beat.work_kind, work_id=beat.work_id, because="boot"),
        )
        for beat in state.heartbeats.board.values()
    ]
    drafts += oauth.interrupt(state)
    drafts += refuse_held(state)
    for incident in open_incidents(state):
        if incident.kind in _OF_THE_OLD_BOOT:
            open_for_ms = us_to_ms(max(0, now_us - incident.opened_us))
            resolved = IncidentResolved(because="boot", open_for_ms=open_for_ms)
            drafts.append(Draft(f"incident-{incident.incident_id}", resolved))
    return drafts
