"""Units of measure and their conversions.

Money is integer nano-USD, instants and durations are integer microseconds, shares are basis points. Floats
exist only at the edges: in a socket's timeout and in what a person reads.
"""

from __future__ import annotations

NANOUSD_PER_USD = 1_000_000_000
BP_PER_UNIT = 10_000

US_PER_MS = 1_000
US_PER_S = 1_000_000
MS_PER_S = 1_000


def ceil_div(numerator: int, denominator: int) -> int:
    """Return numerator / denominator rounded towards plus infinity (denominator > 0)."""
    return -(-numerator // denominator)


def usd_of(nanousd: int) -> str:
    """Return an amount in USD, exactly: `0.0213`."""
    whole, rest = divmod(abs(nanousd), NANOUSD_PER_USD)
    digits = f"{rest:09}".rstrip("0").ljust(2, "0")
    return f"{'-' if nanousd < 0 else ''}{whole}.{digits}"


def ms_to_us(duration_ms: int) -> int:
    """Return a duration given in milliseconds in microseconds."""
    return duration_ms * US_PER_MS


def us_to_ms(duration_us: int) -> int:
    """Return a duration given in microseconds in whole milliseconds, rounded down."""
    return duration_us // US_PER_MS


def ms_to_s(duration_ms: int) -> float:
    """Return a duration given in milliseconds in seconds, for a timer or a socket."""
    return duration_ms / MS_PER_S
