"""Lines of a provider's account, and the cells that they are read from: exact, or refused at their place."""

from __future__ import annotations

from datetime import tzinfo
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

import msgspec

from palyra.engine.moments import instant_of
from palyra.redaction import clean_message
from palyra.units import NANOUSD_PER_USD, US_PER_S, ceil_div
from palyra.usage import TokenUsage

#: Seconds since 1970 have no more digits than this until the year 5138; three more are milliseconds, and so on.
_SECONDS_DIGITS, _PER_S = 11, (1, 1_000, 1_000_000, 1_000_000_000)
#: More tokens or money than any account has.
_COUNT_MAX, _USD_MAX = 1 << 53, 10**9


class Theirs(msgspec.Struct, kw_only=True, frozen=True):
    """One line of a provider's account: of one request, or of all requests of a model in a bucket."""

    start_us: int
    end_us: int
    model: str
    request_id: str = ""
    #: How many requests it is about; None where that is not said.
    requests: int | None = None
    #: None where only money is told.
    usage: TokenUsage | None = None
    #: None where only tokens are told.
    cost_nanousd: int | None = None


class Misread(Exception):
    """Something in an export that cannot be read, and where it stands."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(f"{place}: {message}" if place else message)


def read_instant(text: str, zone: tzinfo | None, place: str) -> int:
    """Return an instant. A whole number counts from 1970: seconds or smaller, by how many digits it has."""
    try:
        if not (text.isascii() and text.isdigit()):
            return instant_of(text, zone)
        smaller = ceil_div(max(0, len(text.lstrip("0")) - _SECONDS_DIGITS), 3)
        if smaller < len(_PER_S):
            return int(text) * US_PER_S // _PER_S[smaller]
        raise ValueError
    except (ValueError, OverflowError):
        message = f"'{_shown(text)}' is no instant; 2026-11-20, 2026-11-20T10:00:00Z or seconds since 1970 are"
        raise Misread(place, message) from None


def read_count(value: Any, place: str) -> int:
    try:
        number = int(value or 0)
    except (ValueError, TypeError):
        number = -1
    if not 0 <= number <= _COUNT_MAX:
        raise Misread(place, f"'{_shown(value)}' is no count")
    return number


def read_amount(text: str, place: str, divisor: int = 1) -> int:
    try:
        exact = Decimal(text) / divisor
        if exact.is_finite() and abs(exact) < _USD_MAX:
            return nanousd_of(exact)
    except InvalidOperation:
        pass
    raise Misread(place, f"'{_shown(text)}' is no amount; write 1234.5678, with a point")


def _shown(value: Any) -> str:
    return clean_message(str(value))[:40]


def nanousd_of(amount: Any) -> int:
    """Return an amount in USD in nano-USD, half up."""
    exact = Decimal(str(amount)) * NANOUSD_PER_USD
    return int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))
