"""Buckets of time: quarters, hours, days, weeks and months of a zone's own calendar.

Buckets are half open and leave no gap: a day of 23 or 25 hours is one day, and where a clock is set by half an hour
the hour in which that happens is a short one.
"""

from __future__ import annotations

import bisect
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal, get_args
from zoneinfo import ZoneInfo

from palyra.decisions.windows import Window, window_in
from palyra.events.budgets import UsageBudgetPolicyRecord
from palyra.units import US_PER_S

Bucket = Literal["15m", "hour", "day", "week", "month"]
BUCKETS: tuple[Bucket, ...] = get_args(Bucket)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_QUARTER_US = 900 * US_PER_S
_HOUR_US = 3_600 * US_PER_S
DAY_US = 24 * _HOUR_US
#: Up to this length a window is told hour by hour.
_HOURLY_MAX_US = 72 * _HOUR_US
_RULES = {
    "day": UsageBudgetPolicyRecord(
        policy_id="day", scope_kind="global", metric_kind="tokens", interval_kind="daily"
    ),
    "week": UsageBudgetPolicyRecord(
        policy_id="week", scope_kind="global", metric_kind="tokens", interval_kind="weekly"
    ),
    "month": UsageBudgetPolicyRecord(
        policy_id="month", scope_kind="global", metric_kind="tokens", interval_kind="monthly"
    ),
}


def local_zone(zone: tzinfo | None) -> tzinfo:
    """Return a zone that knows its own changes; None is the machine's."""
    if zone is not None:
        return zone
    try:
        with open("/etc/localtime", "rb") as file:
            return ZoneInfo.from_file(file, key="local")
    except (OSError, ValueError):
        return UTC


def auto_bucket(length_us: int) -> Bucket:
    """Return the bucket in which a window of this length is told."""
    return "hour" if length_us <= _HOURLY_MAX_US else "day"


class Calendar:
    """The buckets of one kind in one zone."""

    def __init__(self, bucket: Bucket, zone: tzinfo) -> None:
        self.bucket = bucket
        self._zone = zone
        self._last = Window(0, 0)
        self._starts: list[int] = []
        self._windows: list[Window] = []

    def window(self, at_us: int) -> Window:
        """Return the bucket that holds an instant."""
        last = self._last
        if last.start_us <= at_us < last.end_us:
            return last
        place = bisect.bisect_right(self._starts, at_us)
        if place and at_us < self._windows[place - 1].end_us:
            found = self._windows[place - 1]
        else:
            found = self._made(at_us)
            self._starts.insert(place, found.start_us)
            self._windows.insert(place, found)
        self._last = found
        return found

    def between(self, from_us: int, to_us: int, most_count: int) -> list[Window]:
        """Return all buckets that touch a stretch of time, at most one more than so many."""
        found: list[Window] = []
        at_us = from_us
        while at_us < to_us and len(found) <= most_count:
            found.append(self.window(at_us))
            at_us = found[-1].end_us
        return found

    def _made(self, at_us: int) -> Window:
        if self.bucket == "15m":
            start_us = at_us - at_us % _QUARTER_US
            return Window(start_us, start_us + _QUARTER_US)
        if self.bucket == "hour":
            return self._hour(at_us)
        return window_in(_RULES[self.bucket], at_us, self._zone)

    def _hour(self, at_us: int) -> Window:
        offset_us = self._offset_us(at_us)
        start_us = at_us - (at_us + offset_us) % _HOUR_US
        end_us = start_us + _HOUR_US
        quarters = range(start_us, end_us, _QUARTER_US)
        here = [quarter for quarter in quarters if self._offset_us(quarter) == offset_us]
        return Window(here[0], here[-1] + _QUARTER_US) if here else Window(start_us, end_us)

    def _offset_us(self, at_us: int) -> int:
        offset = (_EPOCH + timedelta(microseconds=at_us)).astimezone(self._zone).utcoffset()
        return 0 if offset is None else offset // timedelta(microseconds=1)
