"""When a provider says that it may be asked again: in one of two headers, or by when its limits begin anew.

Nonsense is as good as nothing, and nobody is waited for longer than an hour (gateway specification 6.3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

_MAX_MS = 3_600_000
#: Headers that count what is left of a limit, and those that say when it begins anew.
_LIMITS = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("x-ratelimit-remaining", "x-ratelimit-reset"),
    *(
        (f"anthropic-ratelimit-{what}-remaining", f"anthropic-ratelimit-{what}-reset")
        for what in ("requests", "tokens", "input-tokens", "output-tokens")
    ),
)
#: `6m0s`, `1.5s`, `120ms`.
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)", re.ASCII)
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
#: Numbers from here on are instants, in seconds since 1970.
_EPOCH_MIN_S = 1_000_000_000


def read_retry_after_ms(headers: Mapping[str, str], now_us: int) -> int | None:
    """Return the pause that an answer asks for: `retry-after-ms`, else `Retry-After` in seconds or as a date."""
    exact_ms = _number(headers.get("retry-after-ms", ""))
    if exact_ms is not None:
        return _clamped(exact_ms)
    value = headers.get("retry-after", "")
    in_seconds = _number(value)
    if in_seconds is not None:
        return _clamped(in_seconds * 1_000)
    try:
        return _until(parsedate_to_datetime(value), now_us)
    except (ValueError, OverflowError):
        return None


def read_limit_reset_ms(headers: Mapping[str, str], now_us: int) -> int | None:
    """Return after how long the last of the limits that are used up begins anew; None where nobody says so."""
    spent = [headers.get(reset, "") for left, reset in _LIMITS if _number(headers.get(left, "")) == 0]
    waits_ms = [wait_ms for text in spent if (wait_ms := _reset_ms(text.strip(), now_us)) is not None]
    return max(waits_ms, default=None)


def _reset_ms(text: str, now_us: int) -> int | None:
    """Return a pause that is written as a duration, a number of seconds, or an instant."""
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return _clamped(sum(float(number) * _UNITS_MS[unit] for number, unit in parts))
    number = _number(text)
    if number is not None:
        return _clamped(number * 1_000 - (now_us // 1_000 if number >= _EPOCH_MIN_S else 0))
    try:
        return _until(datetime.fromisoformat(text), now_us)
    except (ValueError, OverflowError):
        return None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value >= 0 else None  # NaN is neither


def _until(instant: datetime, now_us: int) -> int:
    return _clamped((round(instant.timestamp() * 1_000_000) - now_us) // 1_000)


def _clamped(wait_ms: float) -> int:
    return int(min(max(0, wait_ms), _MAX_MS))
