"""Alerts of a window, each with how it began and how it stands: one row from the facts about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from palyra.engine.questions import AlertAnswer, alert_answer
from palyra.engine.reports.fold import Progress, recorded_since
from palyra.engine.reports.scope import Scope
from palyra.events.alerts import AlertAcknowledged, AlertCleared, AlertRaised
from palyra.events.base import Recorded
from palyra.journal.port import Reader
from palyra.projections.alerts import Alert

_NAMES = ("alert.raised", "alert.acknowledged", "alert.cleared")


def alerts_in(rows: Reader, scope: Scope, now_us: int, progress: Progress | None = None) -> list[AlertAnswer]:
    """Return the alerts that began in a window, the oldest first; a filter must name what one is about."""
    found: dict[str, Alert] = {}
    for recorded in recorded_since(rows, scope.from_us, _NAMES, progress):
        _take(found, recorded)
    wanted = [value for _, value in scope.filters.wanted()]
    return [
        alert_answer(one, now_us)
        for one in found.values()
        if scope.from_us <= one.raised_us < scope.to_us and all(is_about(one.raised, value) for value in wanted)
    ]


def is_about(raised: AlertRaised, name: str) -> bool:
    """Return whether an alert is about somebody or something of this name."""
    return name in (raised.subject_id, raised.facts.get("subject"))


def _take(found: dict[str, Alert], recorded: Recorded) -> None:
    alert_id, body = recorded.stream.removeprefix("alert-"), recorded.body
    if isinstance(body, AlertRaised):
        known = found.setdefault(alert_id, Alert(alert_id=alert_id, raised=body, raised_us=recorded.recorded_at_us))
        known.raised, known.acknowledged_by, known.acknowledged_us = body, "", None
    elif alert_id in found and isinstance(body, AlertAcknowledged):
        found[alert_id].acknowledged_by = recorded.actor
        found[alert_id].acknowledged_us = recorded.recorded_at_us
    elif alert_id in found and isinstance(body, AlertCleared):
        found[alert_id].cleared_us, found[alert_id].because = recorded.recorded_at_us, body.reason_code


def alert_cells(found: list[AlertAnswer]) -> Iterator[dict[str, Any]]:
    """Yield alerts as rows of plain cells; what is told about each is one text."""
    for one in found:
        cells = {name: getattr(one, name) for name in one.__struct_fields__}
        cells["counted_subject"] = one.facts.get("subject", "")
        cells["facts"] = json.dumps(one.facts, sort_keys=True)
        cells["because_positions"] = " ".join(map(str, one.because_positions))
        yield cells
