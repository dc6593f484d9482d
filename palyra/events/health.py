"""Provider health, written on transitions only. Stream `provider-<provider_id>`."""

from __future__ import annotations

from palyra.events.base import Fact


class HealthChanged(Fact, tag="health.changed", frozen=True, kw_only=True):
    """A provider's health is another than before."""

    before: str
    after: str
    #: Class of the failure, or `success`.
    reason: str
