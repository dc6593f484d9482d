"""Days and time zones: whose midnight a day begins at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def find_zone(name: str) -> tzinfo | None:
    """Return the zone of `cli.timezone`; None is the machine's own. Raises `ValueError` for an unknown one."""
    if name == "local":
        return None
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError) as exc:
        raise ValueError(f"There is no time zone '{name}'.") from exc


def midnight_us(now_us: int, zone: tzinfo | None) -> int:
    """Return the beginning of the day that `now_us` is in."""
    start = (_EPOCH + timedelta(microseconds=now_us)).astimezone(zone)
    start = start.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    # The offset at midnight may be another one than now.
    start = start.replace(tzinfo=zone) if zone is not None else start.replace(tzinfo=None).astimezone()
    return (start - _EPOCH) // timedelta(microseconds=1)
