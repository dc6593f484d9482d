"""Health of providers with what they are asked with, and its transitions.

A transition is written when health is another than the one that was written last. Source: gateway spec, 10.1.
"""

from __future__ import annotations

from palyra.decisions.credentials import common_verdict
from palyra.events.base import Draft
from palyra.events.health import HealthChanged
from palyra.events.registry import ProviderEntry
from palyra.projections.catalog import provider_entry
from palyra.projections.health import HealthState, evidence_of, health_of
from palyra.projections.state import State


def health_with_credentials(state: State, provider: ProviderEntry, now_us: int) -> HealthState:
    """Return a provider's health: what calls tell of it, and whether there is anything to call it with.

    A run's plan does not ask this: a candidate whose credentials cannot be used is no candidate, by its own agent's
    view of them.
    """
    told = health_of(state, provider, now_us)
    if told in ("disabled", "static", "unavailable"):
        return told
    verdict = common_verdict(state, provider, now_us)
    return told if verdict == "usable" else verdict


def transition(state: State, provider_id: str, *, reason: str, now_us: int, correlation: str = "") -> list[Draft]:
    """Return the fact of a change that the events just folded have brought about, or nothing."""
    provider = provider_entry(state, provider_id)
    if provider is None:
        return []
    before, after = evidence_of(state, provider_id).recorded or "unknown", _told_by(state, provider, reason, now_us)
    if after in (before, "static", "disabled"):
        return []
    changed = HealthChanged(before=before, after=after, reason=reason)
    return [Draft(f"provider-{provider_id}", changed, correlation)]


def _told_by(state: State, provider: ProviderEntry, reason: str, now_us: int) -> HealthState:
    """Return the health now; whoever has answered was asked with a credential that can be used."""
    find = health_of if reason == "success" else health_with_credentials
    return find(state, provider, now_us)
