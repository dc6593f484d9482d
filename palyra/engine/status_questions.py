"""The answer of `palyra status`: the daemon, its configuration, and everything at a glance."""

from __future__ import annotations

import msgspec

from palyra.decisions.config import leaf_of
from palyra.engine.model_questions import ProviderAnswer, provider_answers
from palyra.engine.questions import (
    AlertAnswer,
    Answer,
    RunAnswer,
    UsageAnswer,
    alert_answer,
    open_run_answers,
    usage_since,
    usage_total,
)
from palyra.journal.lock import LockState
from palyra.projections.alerts import open_alerts
from palyra.projections.budgets import reserved_tokens
from palyra.projections.daemon import Boot, current_boot
from palyra.projections.incidents import open_incidents
from palyra.projections.runs import totals_of
from palyra.projections.state import State


class DaemonAnswer(Answer, frozen=True, kw_only=True):
    """The process that writes the journal, or the last one that did."""

    is_running: bool
    #: never, starting, ready, draining, stopped (cleanly) or crashed.
    phase: str
    pid: int | None = None
    #: Where it listens, while it runs.
    http: str | None = None
    release: str | None = None
    boot_id: str | None = None
    started_us: int | None = None
    #: When it ended cleanly; the end of a crash is not known.
    stopped_us: int | None = None


class IncidentAnswer(Answer, frozen=True, kw_only=True):
    """One unresolved incident."""

    incident_id: str
    kind: str
    severity: str
    subject_kind: str
    subject_id: str
    opened_us: int
    reopened_count: int


class ProblemOfConfigAnswer(Answer, frozen=True, kw_only=True):
    """One thing that is wrong in a configuration."""

    code: str
    key: str
    place: str
    message: str


class RejectedAnswer(Answer, frozen=True, kw_only=True):
    """A configuration that was not adopted."""

    at_us: int
    problems: list[ProblemOfConfigAnswer]
    omitted_count: int


class ConfigAnswer(Answer, frozen=True, kw_only=True):
    """The configuration in force."""

    generation: int
    digest: str
    adopted_us: int | None
    #: Keys whose new value waits for the next start.
    pending_restart_keys: list[str]
    #: The last one that was not adopted, until one is.
    rejected: RejectedAnswer | None


class StatusAnswer(Answer, frozen=True, kw_only=True):
    """Everything at a glance."""

    daemon: DaemonAnswer
    position: int
    last_event_us: int
    config: ConfigAnswer
    providers: list[ProviderAnswer]
    open_runs: list[RunAnswer]
    #: Held for open attempts.
    reserved_tokens: int
    #: Runs since the journal began, by outcome; refused ones also by code.
    totals: dict[str, int]
    refusals: dict[str, int]
    incidents: list[IncidentAnswer]
    #: Open ones.
    alerts: list[AlertAnswer]
    usage_today: UsageAnswer
    usage_total: UsageAnswer
    #: Prompts and answers are kept in content.db.
    captures_content: bool = False


def daemon_answer(state: State, lock: LockState) -> DaemonAnswer:
    """Return who writes the journal. The lock says whether anybody does, the journal what became of the last."""
    boot = current_boot(state)
    holder = lock.holder if lock.is_locked else None
    if boot is None or (holder is not None and holder.pid != boot.pid):
        return DaemonAnswer(
            is_running=lock.is_locked,
            phase="starting" if lock.is_locked else "never",
            pid=holder.pid if holder is not None else None,
            release=holder.release if holder is not None else None,
        )
    return DaemonAnswer(
        is_running=lock.is_locked,
        phase=_phase(boot, is_running=lock.is_locked),
        pid=boot.pid,
        http=(holder.http or None) if holder is not None else None,
        release=boot.release,
        boot_id=boot.boot_id,
        started_us=boot.started_us,
        stopped_us=boot.stopped_us,
    )


def _phase(boot: Boot, *, is_running: bool) -> str:
    if boot.ended == "clean":
        return "stopped"
    if not is_running:
        return "crashed"
    if boot.draining_us is not None:
        return "draining"
    return "starting" if boot.ready_us is None else "ready"


def status_answer(state: State, lock: LockState, *, now_us: int, today_us: int) -> StatusAnswer:
    """Return the status at `now_us`; `today_us` is when the day began whose usage is summed."""
    return StatusAnswer(
        daemon=daemon_answer(state, lock),
        position=state.position,
        last_event_us=state.recorded_at_us,
        config=ConfigAnswer(
            generation=state.config.generation,
            digest=state.config.digest,
            adopted_us=state.catalog.adopted_us or None,
            pending_restart_keys=state.config.pending,
            rejected=msgspec.convert(state.config.rejected, RejectedAnswer | None, from_attributes=True),
        ),
        providers=provider_answers(state, now_us),
        open_runs=open_run_answers(state, now_us),
        reserved_tokens=reserved_tokens(state),
        totals=totals_of(state),
        refusals=dict(state.runs.refusals),
        incidents=msgspec.convert(open_incidents(state), list[IncidentAnswer], from_attributes=True),
        alerts=[alert_answer(one, now_us) for one in open_alerts(state, now_us)],
        usage_today=usage_since(state, today_us),
        usage_total=usage_total(state),
        captures_content=leaf_of(state.config.effective, "privacy.capture_content") == "on",
    )
