"""Incidents: something broken that may need a person. Stream `incident-<ULID>`."""

from __future__ import annotations

from typing import Literal

from palyra.events.base import Fact

Severity = Literal["info", "warning", "danger", "critical"]


class IncidentOpened(Fact, tag="incident.opened", frozen=True, kw_only=True):
    """A detector found something broken; at most one unresolved incident a dedupe key."""

    kind: str
    severity: Severity
    subject_kind: str
    subject_id: str
    #: Positions that show it.
    because_positions: list[int] = []
    facts: dict[str, int | str] = {}


class IncidentSeverityChanged(Fact, tag="incident.severity_changed", frozen=True, kw_only=True):
    """It got worse; severity only rises while an incident is open."""

    before: Severity
    after: Severity
    reason_code: str


class IncidentResolved(Fact, tag="incident.resolved", frozen=True, kw_only=True):
    """The condition is gone."""

    because: Literal["recovered", "subject_gone", "boot"]
    open_for_ms: int = 0


class IncidentReopened(Fact, tag="incident.reopened", frozen=True, kw_only=True):
    """The same trouble came back within half an hour."""

    because_positions: list[int] = []
    reopened_count: int
