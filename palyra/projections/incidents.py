"""The incident board: what is broken, what was, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from palyra.events import incidents
from palyra.events.base import Recorded
from palyra.projections.base import Chapter

if TYPE_CHECKING:
    from palyra.projections.state import State

RESOLVED_COUNT = 200


class Incident(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One incident; `status` open or resolved."""

    incident_id: str
    kind: str
    severity: incidents.Severity
    status: str = "open"
    subject_kind: str
    subject_id: str
    opened_us: int
    resolved_us: int | None = None
    because: str = ""
    reopened_count: int = 0
    because_positions: list[int] = []
    facts: dict[str, int | str] = {}


class IncidentsState(msgspec.Struct, kw_only=True):
    """Incidents by id, oldest first, resolved ones bounded; the newest of each kind and subject by key."""

    by_id: dict[str, Incident] = {}
    by_key: dict[str, str] = {}


CHAPTER = Chapter()


def incident_key(kind: str, subject_kind: str, subject_id: str) -> str:
    """Return the key under which at most one incident is unresolved."""
    return f"{kind}:{subject_kind}:{subject_id}"


def newest_incident(state: State, key: str) -> Incident | None:
    """Return the newest incident of a key, open or resolved, or None."""
    return state.incidents.by_id.get(state.incidents.by_key.get(key, ""))


def open_incidents(state: State) -> list[Incident]:
    """Return unresolved incidents, oldest first."""
    return [incident for incident in state.incidents.by_id.values() if incident.status == "open"]


def _of(state: State, recorded: Recorded) -> Incident | None:
    return state.incidents.by_id.get(recorded.stream[9:])


@CHAPTER.on(incidents.IncidentOpened)
def _opened(state: State, recorded: Recorded, body: incidents.IncidentOpened) -> None:
    incident_id = recorded.stream[9:]
    board = state.incidents
    board.by_id[incident_id] = Incident(
        incident_id=incident_id,
        kind=body.kind,
        severity=body.severity,
        subject_kind=body.subject_kind,
        subject_id=body.subject_id,
        opened_us=recorded.recorded_at_us,
        because_positions=body.because_positions,
        facts=body.facts,
    )
    board.by_key[incident_key(body.kind, body.subject_kind, body.subject_id)] = incident_id


@CHAPTER.on(incidents.IncidentSeverityChanged)
def _severity_changed(state: State, recorded: Recorded, body: incidents.IncidentSeverityChanged) -> None:
    incident = _of(state, recorded)
    if incident is not None:
        incident.severity = body.after


@CHAPTER.on(incidents.IncidentResolved)
def _resolved(state: State, recorded: Recorded, body: incidents.IncidentResolved) -> None:
    incident = _of(state, recorded)
    if incident is None:
        return
    incident.status, incident.resolved_us, incident.because = "resolved", recorded.recorded_at_us, body.because
    resolved = [one for one in state.incidents.by_id.values() if one.status == "resolved"]
    for old in resolved[:-RESOLVED_COUNT]:
        del state.incidents.by_id[old.incident_id]
        state.streams.pop(f"incident-{old.incident_id}", None)
        key = incident_key(old.kind, old.subject_kind, old.subject_id)
        if state.incidents.by_key.get(key) == old.incident_id:
            del state.incidents.by_key[key]


@CHAPTER.on(incidents.IncidentReopened)
def _reopened(state: State, recorded: Recorded, body: incidents.IncidentReopened) -> None:
    incident = _of(state, recorded)
    if incident is not None:
        incident.status, incident.resolved_us, incident.because = "open", None, ""
        incident.reopened_count = body.reopened_count
        incident.because_positions = [*incident.because_positions, *body.because_positions][-16:]
