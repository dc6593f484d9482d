"""Provider health, written on transitions only. Stream `provider-<provider_id>`."""

from __future__ import annotations

from typing import Literal

from palyra.events.base import Fact


class HealthChanged(Fact, tag="health.changed", frozen=True, kw_only=True):
    """A provider's health is another than before."""

    before: str
    after: str
    #: Class of the failure, or `success`.
    reason: str


class ProbeCompleted(Fact, tag="probe.completed", frozen=True, kw_only=True):
    """A provider was asked for its list of models, which costs nothing; written on change, or after a while."""

    #: unsupported: it has no such list, so that requests alone tell how it does.
    result: Literal["ok", "failed", "unsupported"]
    failure_class: str = ""
    #: This one included; more than three are three.
    failures_in_row: int = 0
    latency_ms: int = 0
