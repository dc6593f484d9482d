"""Answers about the state as plain data: what `palyra status`, `models` and `runs` show.

Pure over a state and an instant, so that the same question gives the same answer from the journal file and from a
daemon's memory. Every field is there in every answer; words and units are the business of whoever prints.
"""

from __future__ import annotations

import msgspec

from palyra.decisions.config import leaf_of
from palyra.decisions.credentials import Chosen, absent_profiles, choose, needs_credential
from palyra.decisions.health import health_with_credentials
from palyra.decisions.naming import resolve
from palyra.errors import Refusal
from palyra.events.registry import ModelEntry, ProviderEntry
from palyra.journal.lock import LockState
from palyra.projections.alerts import Alert, is_open, open_alerts
from palyra.projections.budgets import reserved_tokens
from palyra.projections.catalog import excluded_until_us, list_of, standing_of
from palyra.projections.circuits import circuit_of
from palyra.projections.daemon import Boot, current_boot
from palyra.projections.health import evidence_of
from palyra.projections.incidents import open_incidents
from palyra.projections.runs import NOTHING, Run, RunSummary
from palyra.projections.state import State
from palyra.projections.usage import UsageCell


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Part of an answer; what is not known is null and not left out."""


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


class ProviderAnswer(Answer, frozen=True, kw_only=True):
    """One configured provider."""

    provider_id: str
    display_name: str
    kind: str
    enabled: bool
    health: str
    #: closed, open or half_open.
    circuit: str
    #: When an open circuit lets its one trial call pass.
    circuit_until_us: int | None
    #: Counted failures since the last success, and how many open the circuit.
    failures_count: int
    failures_threshold_count: int
    last_success_us: int | None
    last_failure_us: int | None
    last_error: str
    #: The newest recorded probe: ok, failed or unsupported; "" before the first.
    probe_result: str
    probed_us: int | None
    probe_latency_ms: int | None
    #: off, list or serve; how many models the newest list has, since when, and why there was none since.
    discovery_mode: str
    listed_count: int
    listed_us: int | None
    list_error: str
    attempts_count: int
    succeeded_count: int
    #: What it is asked with: ready, not_needed, cooling_down, none (nothing is connected), or why the first of its
    #: credentials cannot be used. Variables and files are not looked at.
    credential: str
    #: End of the pause that keeps all of them from being used.
    credential_until_us: int | None


class ModelAnswer(Answer, frozen=True, kw_only=True):
    """One configured model at one provider."""

    model_id: str
    provider_id: str
    role: str
    #: It and its provider are enabled.
    enabled: bool
    is_default: bool
    upstream_model: str
    aliases: list[str]
    priority: int
    max_context_tokens: int | None
    max_output_tokens: int | None
    dimensions: int | None
    capabilities: list[str]
    metadata_source: str
    #: Left out until then, and the class of the failure that caused it.
    excluded_until_us: int | None
    excluded_reason: str


class ListedAnswer(Answer, frozen=True, kw_only=True):
    """A model that its provider lists, and that is neither configured nor served."""

    provider_id: str
    upstream_model: str
    role: str
    max_context_tokens: int | None


class ProblemAnswer(Answer, frozen=True, kw_only=True):
    """Something that keeps requests from being served."""

    code: str
    subject: str
    message: str


class ModelsAnswer(Answer, frozen=True, kw_only=True):
    """What requests can choose from, and how it does."""

    default_chat_model_id: str
    default_embeddings_model_id: str
    default_audio_transcription_model_id: str = ""
    failover: str
    providers: list[ProviderAnswer]
    models: list[ModelAnswer]
    listed: list[ListedAnswer]
    problems: list[ProblemAnswer]


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
        open_runs=[_open_run(state, run, now_us) for run in state.runs.open.values()],
        reserved_tokens=reserved_tokens(state),
        totals=dict(state.runs.totals),
        refusals=dict(state.runs.refusals),
        incidents=msgspec.convert(open_incidents(state), list[IncidentAnswer], from_attributes=True),
        alerts=[alert_answer(one, now_us) for one in open_alerts(state, now_us)],
        usage_today=usage_since(state, today_us),
        usage_total=_usage([state.usage.total], None),
        captures_content=leaf_of(state.config.effective, "privacy.capture_content") == "on",
    )


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


def _usage(cells: list[UsageCell], since_us: int | None) -> UsageAnswer:
    return UsageAnswer(
        since_us=since_us,
        rows_count=sum(cell.rows_count for cell in cells),
        input_tokens=sum(cell.input_tokens for cell in cells),
        output_tokens=sum(cell.output_tokens for cell in cells),
        cached_input_tokens=sum(cell.cached_input_tokens for cell in cells),
        reasoning_tokens=sum(cell.reasoning_tokens for cell in cells),
        estimated_count=sum(cell.estimated_count for cell in cells),
    )


def runs_answer(state: State, *, now_us: int, is_open: bool = False) -> list[RunAnswer]:
    """Return open and recent runs, newest first."""
    runs = [_open_run(state, run, now_us) for run in state.runs.open.values()]
    if not is_open:
        runs += [_ended_run(summary) for summary in state.runs.recent]
    return sorted(runs, key=lambda run: (run.admitted_us, run.run_id), reverse=True)


def _open_run(state: State, run: Run, now_us: int) -> RunAnswer:
    spent = state.runs.consumed.get(run.run_id, NOTHING)
    return RunAnswer(
        run_id=run.run_id,
        state="cancelling" if run.cancel_requested else "open",
        endpoint=run.endpoint,
        stream=run.stream,
        principal_id=run.principal_id,
        session_id=run.session_id,
        model_requested=run.model_requested,
        provider_id=run.attempt.provider_id if run.attempt is not None else "",
        model_id=run.attempt.model_id if run.attempt is not None else "",
        code="",
        attempts_count=run.attempts_count,
        input_tokens=spent.input_tokens,
        output_tokens=spent.output_tokens,
        admitted_us=run.admitted_us,
        duration_us=max(0, now_us - run.admitted_us),
    )


def _ended_run(summary: RunSummary) -> RunAnswer:
    fields = {name: getattr(summary, name) for name in RunSummary.__struct_fields__ if name != "outcome"}
    return RunAnswer(state=summary.outcome, **fields)


def models_answer(state: State, now_us: int) -> ModelsAnswer:
    """Return the registry in force and the standing of everything in it."""
    registry = state.catalog.registry
    answer = ModelsAnswer(
        default_chat_model_id=_default_of(state, "chat"),
        default_embeddings_model_id=_default_of(state, "embeddings"),
        default_audio_transcription_model_id=_default_of(state, "audio_transcription"),
        failover=registry.failover_scope if registry.failover_enabled else "off",
        providers=provider_answers(state, now_us),
        models=[_model(state, entry, now_us) for entry in registry.models],
        listed=_listed(state),
        problems=[],
    )
    return msgspec.structs.replace(answer, problems=_problems(state, answer))


def _default_of(state: State, role: str) -> str:
    """Return the default that is configured, or the first listed model where nothing is; "" for none."""
    registry = state.catalog.registry
    configured = registry.default_of(role)
    if configured or not state.catalog.discovered:
        return configured
    found = resolve(state, role, "")
    return "" if isinstance(found, Refusal) else found.model_id


def _listed(state: State) -> list[ListedAnswer]:
    registry = state.catalog.registry
    known = {(entry.provider_id, entry.upstream_model) for entry in registry.models}
    return [
        ListedAnswer(
            provider_id=provider.provider_id,
            upstream_model=name,
            role=one.role,
            max_context_tokens=one.max_context_tokens,
        )
        for provider in registry.providers
        for name, one in list_of(state, provider.provider_id).models.items()
        if (provider.provider_id, name) not in known
    ]


def provider_answers(state: State, now_us: int) -> list[ProviderAnswer]:
    """Return the configured providers in the order of the configuration."""
    return [_provider(state, entry, now_us) for entry in state.catalog.registry.providers]


def _provider(state: State, entry: ProviderEntry, now_us: int) -> ProviderAnswer:
    circuit, evidence = circuit_of(state, entry.provider_id), evidence_of(state, entry.provider_id)
    chosen = choose(state, entry, "", absent=absent_profiles(state), now_us=now_us)
    listed = list_of(state, entry.provider_id)
    return ProviderAnswer(
        provider_id=entry.provider_id,
        display_name=entry.display_name,
        kind=entry.kind,
        enabled=entry.enabled,
        health=health_with_credentials(state, entry, now_us),
        circuit=circuit.status,
        circuit_until_us=circuit.until_us if circuit.status == "open" else None,
        failures_count=evidence.failures_count,
        failures_threshold_count=entry.circuit_breaker_failure_threshold,
        last_success_us=evidence.last_success_us or None,
        last_failure_us=evidence.last_failure_us or None,
        last_error=evidence.last_error,
        probe_result=evidence.probe_result,
        probed_us=evidence.probed_us or None,
        probe_latency_ms=evidence.probe_latency_ms if evidence.probed_us else None,
        discovery_mode=entry.discovery_mode,
        listed_count=len(listed.models),
        listed_us=listed.completed_us or None,
        list_error=listed.failure_class,
        attempts_count=evidence.attempts_count,
        succeeded_count=evidence.succeeded_count,
        credential=_credential_word(entry, chosen),
        credential_until_us=chosen.until_us,
    )


def _credential_word(entry: ProviderEntry, chosen: Chosen) -> str:
    if not needs_credential(entry):
        return "not_needed"
    if chosen.credentials:
        return "ready"
    if chosen.until_us is not None:
        return "cooling_down"
    return chosen.verdicts[0].verdict if chosen.verdicts else "none"


def _model(state: State, entry: ModelEntry, now_us: int) -> ModelAnswer:
    registry = state.catalog.registry
    index = state.catalog.providers.get(entry.provider_id)
    default = _default_of(state, entry.role)
    until_us = excluded_until_us(state, entry.provider_id, entry.model_id)
    standing = standing_of(state, entry.provider_id, entry.model_id)
    return ModelAnswer(
        model_id=entry.model_id,
        provider_id=entry.provider_id,
        role=entry.role,
        enabled=entry.enabled and index is not None and registry.providers[index].enabled,
        is_default=default in (entry.model_id, *entry.aliases, f"{entry.provider_id}/{entry.model_id}"),
        upstream_model=entry.upstream_model,
        aliases=entry.aliases,
        priority=entry.priority,
        max_context_tokens=entry.max_context_tokens,
        max_output_tokens=entry.max_output_tokens,
        dimensions=entry.dimensions,
        capabilities=[name for name in entry.capabilities.__struct_fields__ if getattr(entry.capabilities, name)],
        metadata_source=entry.metadata_source,
        excluded_until_us=until_us if until_us > now_us else None,
        excluded_reason=standing.reason if standing is not None and until_us > now_us else "",
    )


#: Health of a provider that serves nothing now.
_UNFIT = ("cooling_down", "unavailable", "disabled")


def _problems(state: State, answer: ModelsAnswer) -> list[ProblemAnswer]:
    """Return what keeps requests from being served, worst first."""
    problems = []
    unfit = {one.provider_id for one in answer.providers if one.health in _UNFIT}
    default = answer.default_chat_model_id
    serving = [one for one in answer.models if one.is_default and one.role == "chat" and one.enabled]
    if not default:
        problems.append(_problem("no_default_model", "", "No default chat model is configured."))
    elif all(one.provider_id in unfit or one.excluded_until_us for one in serving):
        problems.append(_problem("default_unservable", default, "Nobody can serve the default model right now."))
    for one in answer.providers:
        if evidence_of(state, one.provider_id).is_blocked:
            message = "Its base_url leads to an address that the rules for outward connections refuse."
            problems.append(_problem("provider_blocked", one.provider_id, message))
        elif one.circuit == "open":
            message = f"It failed {one.failures_count} times in a row and is left alone for a while."
            problems.append(_problem("circuit_open", one.provider_id, message))
        elif one.enabled and not any(model.provider_id == one.provider_id for model in answer.models):
            problems.append(_problem("provider_unused", one.provider_id, "No model names this provider."))
        if one.enabled and one.credential not in ("ready", "not_needed", "cooling_down"):
            what = f"No credential can be used ({one.credential.replace('_', ' ')})"
            message = f"{what}; palyra auth explain {one.provider_id} says why."
            problems.append(_problem("no_credential", one.provider_id, message))
    for model in answer.models:
        if model.excluded_until_us:
            subject = f"{model.provider_id}/{model.model_id}"
            message = f"It is left out for a while after {model.excluded_reason}."
            problems.append(_problem("model_excluded", subject, message))
    return problems


def _problem(code: str, subject: str, message: str) -> ProblemAnswer:
    return ProblemAnswer(code=code, subject=subject, message=message)
