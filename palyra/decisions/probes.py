"""Probes of providers: when one is due, and which of their outcomes are worth a fact.

A probe asks for the list of models and never spends money. It is due only where no request has told within the time
that health holds; a provider that is unavailable is asked more and more rarely. Source: gateway spec, 10.1.
"""

from __future__ import annotations

import msgspec

from palyra.events.base import Draft
from palyra.events.health import ProbeCompleted
from palyra.events.registry import ProviderEntry
from palyra.projections.health import evidence_of, health_of
from palyra.projections.state import State
from palyra.units import US_PER_MS

#: An outcome that does not change is told again after this long.
REPEATED_AFTER_US = 15 * 60 * 1_000_000
#: Failures in a row beyond this many are one outcome.
FAILURES_COUNTED = 3
_BACKOFF_MAX_MS = 10 * 60 * 1_000
_JITTER_SHARE = 5


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """The newest probe of a provider, recorded or not."""

    at_us: int
    failures_in_row: int = 0
    #: A random share stamped at the edge, which keeps the next probes of several providers apart.
    jitter_bp: int = 5_000


def is_probed(provider: ProviderEntry) -> bool:
    """Return whether a provider is asked at all."""
    return provider.enabled and provider.health_probe and provider.kind != "deterministic"


def due_us(state: State, provider: ProviderEntry, last: Probed | None, now_us: int) -> int | None:
    """Return when a provider is to be probed, None for never; `last` is None before the first probe."""
    ttl_ms = state.catalog.registry.health_ttl_ms
    if not ttl_ms or not is_probed(provider):
        return None
    told_us = evidence_of(state, provider.provider_id).attempted_us
    if last is None:
        return told_us + ttl_ms * US_PER_MS if told_us and told_us <= now_us else now_us
    wait_ms = ttl_ms
    if health_of(state, provider, now_us) == "unavailable":
        doublings = min(max(0, last.failures_in_row - FAILURES_COUNTED), 16)
        wait_ms = max(ttl_ms, min(ttl_ms << doublings, _BACKOFF_MAX_MS))
    # Within a fifth of the time, earlier or later.
    shift_ms = wait_ms * (2 * last.jitter_bp - 10_000) // (10_000 * _JITTER_SHARE)
    return max(last.at_us + (wait_ms + shift_ms) * US_PER_MS, told_us + ttl_ms * US_PER_MS if told_us else 0)


def record_probe(state: State, provider_id: str, probe: ProbeCompleted, now_us: int) -> list[Draft]:
    """Return the fact of a probe whose outcome is another than the last one told, or that was told long ago."""
    evidence = evidence_of(state, provider_id)
    told = (evidence.probe_result, evidence.probe_class, evidence.probe_failures)
    failures_in_row = min(probe.failures_in_row, FAILURES_COUNTED)
    is_new = told != (probe.result, probe.failure_class, failures_in_row)
    if not is_new and now_us - evidence.probed_us < REPEATED_AFTER_US:
        return []
    fact = msgspec.structs.replace(probe, failures_in_row=failures_in_row)
    return [Draft(f"provider-{provider_id}", fact)]
