"""Figures as people read them: counts, sizes, durations, instants; and text of others made harmless.

Pure functions from values to text. Whoever prints decides on colour and width (`page`).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from datetime import UTC, datetime, timedelta, tzinfo

from palyra.units import NANOUSD_PER_USD, US_PER_MS, US_PER_S

_MINUTE_US = 60 * US_PER_S
_HOUR_US = 60 * _MINUTE_US
_DAY_US = 24 * _HOUR_US
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: Controls, the marks that turn the direction of text, line separators, halves of pairs: shown, never obeyed.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def clean(text: str) -> str:
    """Return text as it may stand on a terminal: whatever would be obeyed there is written out (`\\x1b`)."""
    return _CONTROLS.sub(_written_out, text)


def _written_out(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


@functools.lru_cache(maxsize=4_096)
def width_of(text: str) -> int:
    """Return how many columns a clean text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def cut(text: str, columns: int) -> str:
    """Return a clean text that takes at most so many columns; what is lost shows as an ellipsis."""
    if width_of(text) <= columns:
        return text
    kept, used = [], 0
    for char in text:
        used += width_of(char)
        if used > columns - 1:
            break
        kept.append(char)
    return "".join(kept) + "…"


def count(number: int) -> str:
    """Return `12,345`."""
    return f"{number:,}"


def counted(number: int, one: str, many: str = "") -> str:
    """Return `1 run`, `12,345 runs`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def usd(nanousd: int) -> str:
    """Return an amount of money, as many digits as it needs and cents at least: `$0.0213`."""
    sign, amount = ("-", -nanousd) if nanousd < 0 else ("", nanousd)
    whole, rest = divmod(amount, NANOUSD_PER_USD)
    digits = f"{rest:09}".rstrip("0").ljust(2, "0")
    return f"{sign}${whole:,}.{digits}"


def usd_about(nanousd: int) -> str:
    """Return an amount at a glance: to a hundredth of a cent, and small ones to three digits."""
    step = 100_000
    while step > 1 and abs(nanousd) < 100 * step:
        step //= 10
    return usd((nanousd + step // 2) // step * step)


def size(number_bytes: int) -> str:
    """Return `812 B`, `1.5 KiB`, `24 MiB`."""
    if number_bytes < 1_024:
        return f"{number_bytes} B"
    amount, unit = number_bytes / 1_024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if amount < 1_024:
            break
        amount, unit = amount / 1_024, larger
    return f"{_short(amount)} {unit}"


def share(part: int, whole: int) -> str:
    """Return `98 %`, or nothing of nothing; only all is 100 %, only none is 0 %."""
    if whole <= 0:
        return ""
    percent = round(100 * part / whole)
    if 0 < part < whole:
        percent = min(max(percent, 1), 99)
    return f"{percent} %"


def duration(us: int) -> str:
    """Return `0.8 ms`, `340 ms`, `1.2 s`, `3 min 5 s`, `2 h 14 min`, `5 d 3 h`."""
    if us < 10 * US_PER_MS:
        return f"{us / US_PER_MS:.1f} ms"
    if us < US_PER_S:
        return f"{us // US_PER_MS} ms"
    if us < _MINUTE_US:
        return f"{_short(us / US_PER_S, 10)} s"
    for unit_us, unit, part_us, part in (
        (_MINUTE_US, "min", US_PER_S, "s"),
        (_HOUR_US, "h", _MINUTE_US, "min"),
        (_DAY_US, "d", _HOUR_US, "h"),
    ):
        if us < _LIMITS_US[unit]:
            whole, rest = us // unit_us, us % unit_us // part_us
            return f"{whole} {unit} {rest} {part}" if rest else f"{whole} {unit}"
    return f"{us // _DAY_US:,} d"


_LIMITS_US = {"min": _HOUR_US, "h": _DAY_US, "d": 30 * _DAY_US}


def _short(amount: float, whole_from: int = 100) -> str:
    """Return an amount with one decimal where it is small, without a decimal that says nothing."""
    return f"{amount:.0f}" if amount >= whole_from else f"{amount:.1f}".removesuffix(".0")


def ago(then_us: int, now_us: int) -> str:
    """Return `just now`, `12 s ago`, `3 min ago`, `5 d ago`, and `in 12 s` for what is to come."""
    distance_us = abs(now_us - then_us)
    if distance_us < US_PER_S:
        return "just now"
    for unit_us, unit in ((_DAY_US, "d"), (_HOUR_US, "h"), (_MINUTE_US, "min"), (US_PER_S, "s")):
        if distance_us >= unit_us:
            text = f"{distance_us // unit_us:,} {unit}"
            break
    return f"in {text}" if then_us > now_us else f"{text} ago"


def _at(us: int, zone: tzinfo | None) -> datetime:
    return (_EPOCH + timedelta(microseconds=us)).astimezone(zone)


def _moment(us: int, zone: tzinfo | None, pattern: str) -> str:
    """Return an instant with its offset; an instant that no calendar has (a damaged row) as its number."""
    try:
        moment = _at(us, zone)
    except (OverflowError, ValueError):
        return f"{us} us"
    offset = moment.strftime("%z")
    where = "Z" if offset == "+0000" else f"{offset[:3]}:{offset[3:5]}"
    return moment.strftime(pattern) + where


def clock(us: int, zone: tzinfo | None) -> str:
    """Return `10:00:03Z`, or with the zone's offset: `11:00:03+01:00`."""
    return _moment(us, zone, "%H:%M:%S")


def clock_ms(us: int, zone: tzinfo | None) -> str:
    """Return `10:00:03.120Z`, or with the zone's offset."""
    return _moment(us, zone, f"%H:%M:%S.{us // US_PER_MS % 1_000:03d}")


def instant(us: int, zone: tzinfo | None) -> str:
    """Return `2026-11-20 10:00:03Z`, or with the zone's offset."""
    return _moment(us, zone, "%Y-%m-%d %H:%M:%S")


def instant_ms(us: int, zone: tzinfo | None) -> str:
    """Return `2026-11-20 10:00:03.120Z`: for lists in which order within a second matters."""
    return _moment(us, zone, f"%Y-%m-%d %H:%M:%S.{us // US_PER_MS % 1_000:03d}")


def ms_text(ms: int) -> str:
    """Return a duration that is known in milliseconds: `150 ms`, `2.5 s`."""
    return f"{ms} ms" if ms < 1_000 else duration(ms * US_PER_MS)


def rfc3339(us: int) -> str:
    """Return an instant as every machine understands it, whatever its zone: `2026-11-20T10:00:00.000001Z`."""
    return (_EPOCH + timedelta(microseconds=us)).isoformat().replace("+00:00", "Z")
