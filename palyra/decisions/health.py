"""Health transitions: written when a provider's health is another than the one that was written last."""

from __future__ import annotations

from palyra.events.base import Draft
from palyra.events.health import HealthChanged
from palyra.projections.catalog import provider_entry
from palyra.projections.health import evidence_of, health_of
from palyra.projections.state import State


def transition(state: State, provider_id: str, *, reason: str, now_us: int, correlation: str = "") -> list[Draft]:
    """Return the fact of a change that the events just folded have brought about, or nothing."""
    provider = provider_entry(state, provider_id)
    if provider is None:
        return []
    before, after = evidence_of(state, provider_id).recorded or "unknown", health_of(state, provider, now_us)
    if after in (before, "static", "disabled"):
        return []
    changed = HealthChanged(before=before, after=after, reason=reason)
    return [Draft(f"provider-{provider_id}", changed, correlation)]
