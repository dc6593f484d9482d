"""Windows: which stretch of time a rule counts, in the zone in which its days begin.

The zone table is asked here and nowhere else, and what it says is recorded with each hold, so that another table
changes no replay. Days of 23 and 25 hours are days; a midnight that does not exist is the first instant after it,
one that comes twice is the first of them.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import NamedTuple
from zoneinfo import ZoneInfo

from palyra.events.budgets import UsageBudgetPolicyRecord
from palyra.projections.budgets import CELL_US, PER_RUN_END_US, ROLLING_END_US

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR_US = 3_600 * 1_000_000
_QUARTER = timedelta(minutes=15)
_DAY = timedelta(days=1)
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


class Window(NamedTuple):
    """Half open: the end belongs to the next window."""

    start_us: int
    end_us: int


def window_of(record: UsageBudgetPolicyRecord, at_us: int) -> Window:
    """Return the calendar window of a rule that holds an instant."""
    return window_in(record, at_us, ZoneInfo(record.timezone))


def window_in(record: UsageBudgetPolicyRecord, at_us: int, zone: tzinfo) -> Window:
    """Return the same in another zone than the rule's own."""
    first = _first_day(record, (_EPOCH + timedelta(microseconds=at_us)).astimezone(zone).date())
    while True:
        start_us, following = _start_us(first, zone), _next_day(record, first)
        end_us = _start_us(following, zone)
        if at_us < start_us:
            first = _first_day(record, first - _DAY)
        elif at_us >= end_us:
            # An hour that comes twice around midnight: its second half is the next day's already.
            first = following
        else:
            return Window(start_us, end_us)


def counted_window(record: UsageBudgetPolicyRecord, at_us: int) -> Window:
    """Return the window by which a rule's counter is known: a rolling one has a single counter that moves on."""
    if record.interval_kind == "rolling":
        return Window(0, ROLLING_END_US)
    if record.interval_kind == "per_run":
        return Window(0, PER_RUN_END_US)
    return window_of(record, at_us)


def rolling_start_us(record: UsageBudgetPolicyRecord, at_us: int) -> int:
    """Return where a rolling window begins: on a quarter of an hour, so up to that much earlier and never later."""
    start_us = at_us - (record.rolling_hours or 0) * _HOUR_US
    return start_us - start_us % CELL_US


def _first_day(record: UsageBudgetPolicyRecord, day: date) -> date:
    """Return the first day of the window that holds a day."""
    if record.interval_kind == "weekly":
        return day - timedelta(days=(day.weekday() - _WEEKDAYS.index(record.week_start)) % 7)
    if record.interval_kind == "monthly":
        if day.day < record.month_day:
            day = day.replace(day=1) - _DAY
        return day.replace(day=record.month_day)
    return day


def _next_day(record: UsageBudgetPolicyRecord, first: date) -> date:
    """Return the first day of the window that follows."""
    if record.interval_kind == "weekly":
        return first + timedelta(days=7)
    if record.interval_kind == "monthly":
        return (first.replace(day=28) + timedelta(days=4)).replace(day=record.month_day)
    return first + _DAY


def _start_us(day: date, zone: tzinfo) -> int:
    """Return the first instant of a local day, as far as quarters of an hour tell."""
    start = datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
    while (start - _QUARTER).astimezone(zone).date() >= day:
        # A gap that begins before midnight: the day has begun already.
        start -= _QUARTER
    return (start - _EPOCH) // timedelta(microseconds=1)
