"""Windows: days as clocks on the wall have them, also on the days on which somebody turns those clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest

from palyra.decisions.windows import window_in, window_of
from palyra.events.budgets import UsageBudgetPolicyRecord


def us(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def rule(zone: str, **changes: Any) -> UsageBudgetPolicyRecord:
    fields: dict[str, Any] = {"interval_kind": "daily", "timezone": zone, **changes}
    return UsageBudgetPolicyRecord(policy_id="p", scope_kind="global", metric_kind="tokens", **fields)


@pytest.mark.parametrize(
    ("zone", "at", "start", "end"),
    [
        # A day of 23 hours, and one of 25.
        ("Europe/Prague", "2026-03-29T12:00", "2026-03-28T23:00", "2026-03-29T22:00"),
        ("Europe/Prague", "2026-10-25T12:00", "2026-10-24T22:00", "2026-10-25T23:00"),
        # No midnight: the day begins at one.
        ("America/Sao_Paulo", "2018-11-04T12:00", "2018-11-04T03:00", "2018-11-05T02:00"),
        # Clocks go from half past eleven at night to half past twelve: the next day has begun by that.
        ("America/Toronto", "1919-03-31T12:00", "1919-03-31T04:30", "1919-04-01T04:00"),
        # Midnight comes twice: the day begins with the first.
        ("America/Havana", "2026-11-01T12:00", "2026-11-01T04:00", "2026-11-02T05:00"),
    ],
)
def test_days_are_those_of_the_wall(zone: str, at: str, start: str, end: str) -> None:
    """A day of another length is one day, and the next begins where it ends."""
    assert window_of(rule(zone), us(at)) == (us(start), us(end))
    assert window_of(rule(zone), us(end) - 1) == (us(start), us(end))
    assert window_of(rule(zone), us(end)).start_us == us(end)
    assert window_of(rule(zone), us(start) - 1).end_us == us(start)


@pytest.mark.parametrize("at", ["2018-02-18T01:30", "2018-02-18T02:30"])
def test_an_hour_that_comes_twice_is_of_one_day(at: str) -> None:
    """Clocks go back from midnight to eleven: that hour's second half is the same day, of 25 hours."""
    assert window_of(rule("America/Sao_Paulo"), us(at)) == (us("2018-02-17T02:00"), us("2018-02-18T03:00"))


def test_a_day_that_has_begun_is_not_taken_back() -> None:
    """Clocks go back from one past midnight to one past eleven: what follows is the new day's already."""
    zone = rule("America/St_Johns")
    assert window_of(zone, us("2010-11-07T02:45")) == (us("2010-11-07T02:30"), us("2010-11-08T03:30"))
    assert window_of(zone, us("2010-11-07T02:29")).end_us == us("2010-11-07T02:30")


class Odd(tzinfo):
    """Its clocks went from ten to midnight to twenty past it, at a quarter of an hour of no world clock."""

    TURNED = datetime(2026, 3, 1, 23, 50)

    def utcoffset(self, at: datetime | None) -> timedelta:
        assert at is not None
        is_before = at.replace(tzinfo=None) < self.TURNED + timedelta(minutes=30)
        return timedelta() if is_before else timedelta(minutes=30)

    def dst(self, at: datetime | None) -> None:
        return None

    def fromutc(self, at: datetime) -> datetime:
        return at + timedelta(minutes=30 if at.replace(tzinfo=None) >= self.TURNED else 0)


def test_days_begin_on_quarters_whatever_the_clocks_do() -> None:
    """The minutes up to the quarter are the old day's, so that no instant is without a window."""
    one, two = us("2026-03-01T00:00"), us("2026-03-02T00:00")
    assert window_in(rule("UTC"), us("2026-03-01T23:55"), Odd()) == (one, two)
    assert window_in(rule("UTC"), two, Odd()).start_us == two


@pytest.mark.parametrize(
    ("changes", "start", "end"),
    [
        ({"interval_kind": "weekly"}, "2026-11-23T00:00", "2026-11-30T00:00"),
        ({"interval_kind": "weekly", "week_start": "sunday"}, "2026-11-22T00:00", "2026-11-29T00:00"),
        ({"interval_kind": "monthly"}, "2026-11-01T00:00", "2026-12-01T00:00"),
        ({"interval_kind": "monthly", "month_day": 28}, "2026-11-28T00:00", "2026-12-28T00:00"),
        ({"interval_kind": "monthly", "month_day": 1}, "2026-11-01T00:00", "2026-12-01T00:00"),
    ],
)
def test_weeks_and_months_begin_where_the_rule_says(changes: dict[str, Any], start: str, end: str) -> None:
    """A Saturday in November is in the week and month that hold it."""
    assert window_of(rule("UTC", **changes), us("2026-11-28T12:00")) == (us(start), us(end))
