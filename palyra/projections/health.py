"""Provider health: what the journal's evidence says about each provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from palyra.events import attempts, config, daemon, health
from palyra.events.base import Recorded
from palyra.events.registry import ProviderEntry
from palyra.projections.base import Chapter
from palyra.projections.circuits import circuit_of, provider_of
from palyra.projections.runs import Run
from palyra.units import US_PER_MS

if TYPE_CHECKING:
    from palyra.projections.state import State

HealthState = Literal["unknown", "static", "disabled", "healthy", "degraded", "cooling_down", "unavailable"]
#: Evidence counts for three health TTLs, and for half an hour at least.
_EVIDENCE_MIN_US = 30 * 60 * 1_000_000
#: Probes that fail in a row make a provider unavailable.
PROBES_UNAVAILABLE = 3
#: Failures that only another configuration, or a success, can heal.
_BLOCKING = ("netguard_blocked", "redirect_refused")
#: Order in which candidates are tried; a failed provider goes last, a slow one does not.
READINESS: dict[str, int] = {"unavailable": 2}


class ProviderHealth(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """Evidence about one provider."""

    last_success_us: int = 0
    last_failure_us: int = 0
    #: Counted failures since the last success.
    failures_count: int = 0
    #: Class and time of the last failure; cleared by a success.
    last_error: str = ""
    #: The address guard refused it since the last success and the last change of configuration.
    is_blocked: bool = False
    #: What `health.changed` said last, "" before it said anything. No word of ours is the default: one that is left
    #: out of the bytes where it is the default itself would not be where it was read from a journal.
    recorded: str = ""
    changed_us: int = 0
    #: When a request told last how the provider does.
    attempted_us: int = 0
    #: The newest recorded probe: ok, failed, unsupported, or "" before the first.
    probe_result: str = ""
    probe_class: str = ""
    probe_failures: int = 0
    probe_latency_ms: int = 0
    probed_us: int = 0
    attempts_count: int = 0
    succeeded_count: int = 0


class HealthStates(msgspec.Struct, kw_only=True):
    """Evidence by provider_id."""

    by_provider: dict[str, ProviderHealth] = {}


CHAPTER = Chapter()
_NO_EVIDENCE = ProviderHealth()


def evidence_of(state: State, provider_id: str) -> ProviderHealth:
    """Return what is known about a provider; not to be changed by the caller."""
    return state.health.by_provider.get(provider_id, _NO_EVIDENCE)


def health_of(state: State, provider: ProviderEntry, now_us: int) -> HealthState:
    """Return what calls and probes tell of a provider at `now_us`; its credentials are another matter.

    Never `cooling_down`: see `palyra.decisions.health.health_with_credentials` for the whole of it.
    """
    if not provider.enabled:
        return "disabled"
    if provider.kind == "deterministic":
        return "static"
    evidence = evidence_of(state, provider.provider_id)
    is_silent = evidence.probe_failures >= PROBES_UNAVAILABLE
    if evidence.is_blocked or is_silent or circuit_of(state, provider.provider_id).status == "open":
        return "unavailable"
    newest_us = max(evidence.last_success_us, evidence.last_failure_us)
    counts_for_us = max(3 * state.catalog.registry.health_ttl_ms * US_PER_MS, _EVIDENCE_MIN_US)
    if newest_us == 0 or now_us - newest_us > counts_for_us:
        return "unknown"
    return "degraded" if evidence.failures_count > 0 else "healthy"


def _own(state: State, provider_id: str) -> ProviderHealth:
    evidence = state.health.by_provider.get(provider_id)
    if evidence is None:
        evidence = state.health.by_provider[provider_id] = ProviderHealth()
    return evidence


def _succeed(evidence: ProviderHealth, recorded: Recorded) -> None:
    evidence.last_success_us = recorded.recorded_at_us
    if evidence.failures_count or evidence.last_error or evidence.is_blocked or evidence.probe_failures:
        evidence.failures_count, evidence.last_error, evidence.is_blocked = 0, "", False
        evidence.probe_failures = 0


@CHAPTER.of_run(attempts.AttemptSucceeded)
def _succeeded(state: State, recorded: Recorded, body: attempts.AttemptSucceeded, run: Run) -> None:
    if run.attempt is None:
        return
    evidence = _own(state, run.attempt.provider_id)
    _succeed(evidence, recorded)
    evidence.attempted_us = recorded.recorded_at_us
    evidence.attempts_count += 1
    evidence.succeeded_count += 1


@CHAPTER.of_run(attempts.AttemptFailed)
def _failed(state: State, recorded: Recorded, body: attempts.AttemptFailed, run: Run) -> None:
    if run.attempt is None:
        return
    evidence = _own(state, run.attempt.provider_id)
    evidence.attempts_count += 1
    evidence.attempted_us = recorded.recorded_at_us
    if body.failure_class in _BLOCKING:
        evidence.is_blocked = True
    elif not body.counted:
        return
    else:
        evidence.failures_count += 1
    evidence.last_failure_us = recorded.recorded_at_us
    evidence.last_error = body.failure_class


@CHAPTER.on(health.ProbeCompleted)
def _probed(state: State, recorded: Recorded, body: health.ProbeCompleted) -> None:
    evidence = _own(state, provider_of(recorded.stream))
    evidence.probe_result, evidence.probe_class = body.result, body.failure_class
    evidence.probed_us, evidence.probe_latency_ms = recorded.recorded_at_us, body.latency_ms
    if body.result == "ok":
        _succeed(evidence, recorded)
    elif body.result == "failed":
        evidence.probe_failures = body.failures_in_row
        evidence.is_blocked = evidence.is_blocked or body.failure_class in _BLOCKING
        evidence.failures_count += 1
        evidence.last_failure_us, evidence.last_error = recorded.recorded_at_us, body.failure_class


@CHAPTER.on(config.ConfigAdopted)
def _adopted(state: State, recorded: Recorded, body: config.ConfigAdopted) -> None:
    for evidence in state.health.by_provider.values():
        evidence.is_blocked, evidence.probe_failures = False, 0


@CHAPTER.on(health.HealthChanged)
def _changed(state: State, recorded: Recorded, body: health.HealthChanged) -> None:
    evidence = _own(state, provider_of(recorded.stream))
    evidence.recorded, evidence.changed_us = body.after, recorded.recorded_at_us


@CHAPTER.on(daemon.DaemonClockStepped)
def _clock_stepped(state: State, recorded: Recorded, body: daemon.DaemonClockStepped) -> None:
    """Evidence is as old as it is, whatever the clock says now."""
    if body.cause == "step":
        for evidence in state.health.by_provider.values():
            evidence.last_success_us += body.step_us if evidence.last_success_us else 0
            evidence.last_failure_us += body.step_us if evidence.last_failure_us else 0
            evidence.attempted_us += body.step_us if evidence.attempted_us else 0
            evidence.probed_us += body.step_us if evidence.probed_us else 0
