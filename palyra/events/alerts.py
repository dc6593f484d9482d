"""Alerts: what a person should know, raised once, until its cause has gone. Stream `alert-<id>`."""

from __future__ import annotations

from typing import Literal

from palyra.events.base import Fact

AlertSeverity = Literal["info", "warning", "danger", "critical"]


class AlertRaised(Fact, tag="alert.raised", frozen=True, kw_only=True):
    """Something has begun that somebody should know; of an open alert: it has become worse."""

    #: Kind and subject, `budget_hard:day:key:a:0`: at most one alert of a key is open.
    dedupe_key: str
    kind: str
    severity: AlertSeverity
    subject_kind: str
    subject_id: str = ""
    #: How often it was raised before, each time after it had gone.
    recurrence: int = 0
    #: Figures and codes.
    facts: dict[str, int | str] = {}
    because_positions: list[int] = []
    #: Code of what can be done about it.
    recommended_action: str = ""
    #: It lapses by itself then; None while only its cause ends it.
    valid_until_us: int | None = None
    #: A rule that is tried out would have stopped somebody.
    dry_run: bool = False


class AlertAcknowledged(Fact, tag="alert.acknowledged", frozen=True, kw_only=True):
    """Somebody has seen it; it stays on the list until its cause has gone."""


class AlertCleared(Fact, tag="alert.cleared", frozen=True, kw_only=True):
    """Its cause has gone."""

    reason_code: str
