"""`status`: everything at a glance."""

from __future__ import annotations

from palyra.engine.console.frame import Params, Sight
from palyra.engine.status_questions import StatusAnswer, status_answer
from palyra.engine.zones import midnight_us


class StatusParams(Params, frozen=True, kw_only=True):
    """Nothing is chosen."""


def status(sight: Sight, params: StatusParams) -> StatusAnswer:
    """Return the status; today is the day of the asker's zone."""
    today_us = midnight_us(sight.now_us, sight.zone)
    return status_answer(sight.state, sight.lock, now_us=sight.now_us, today_us=today_us)
