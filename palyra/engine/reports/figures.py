"""Figures of a group: sums that can be added up in any order, and `Totals`, which is how they are told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from palyra.engine.questions import Answer
from palyra.events.usage import UsageCorrected, UsageRecorded
from palyra.units import BP_PER_UNIT, US_PER_MS, ceil_div

#: Below it each value has a bucket of its own; from there on a power of two has eight.
_EXACT_MAX = 16
_STEPS_PER_DOUBLING = 8


class Unpriced(msgspec.Struct, frozen=True, kw_only=True):
    """Attempts whose cost is not known, and their tokens."""

    attempts: int
    tokens: int


class CacheFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that were answered without a provider, and what the same had used before."""

    hits: int
    saved_tokens: int
    saved_nanousd: int


class LatencyFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How long complete answers took: exact to an eighth of a doubling, the longest exactly; null without any."""

    p50: int | None
    p95: int | None
    max: int | None


class Totals(Answer, frozen=True, kw_only=True):
    """What a group of requests was and used."""

    runs: int
    runs_ok: int
    runs_failed: int
    runs_cancelled: int
    runs_refused: int
    runs_open: int
    attempts: int
    sessions: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_tokens: int
    audio_ms: int
    image_count: int
    #: Sum of what is known.
    cost_nanousd: int
    #: Whether that is all.
    cost_complete: bool
    unpriced: Unpriced
    #: Of all tokens, those that no provider counted.
    estimated_share_bp: int
    #: Cost of attempts that came to nothing.
    absorbed_nanousd: int
    cache: CacheFigures
    latency_ms: LatencyFigures


def flat_totals(totals: Totals) -> dict[str, Any]:
    """Return totals as a row of plain cells."""
    row: dict[str, Any] = {}
    for name in totals.__struct_fields__:
        value = getattr(totals, name)
        if isinstance(value, msgspec.Struct):
            head = name.removesuffix("_ms")
            tail = "_ms" if name.endswith("_ms") else ""
            row |= {f"{head}_{part}{tail}": getattr(value, part) for part in value.__struct_fields__}
        else:
            row[name] = value
    return row


class Histogram:
    """Counts of values by size; quantiles are the upper edge of the bucket that holds them."""

    __slots__ = ("counts", "largest")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.largest: int | None = None

    def add(self, value: int) -> None:
        bucket = _bucket_of(value)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        if self.largest is None or value > self.largest:
            self.largest = value

    def merge(self, other: Histogram) -> None:
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        if other.largest is not None:
            self.largest = other.largest if self.largest is None else max(self.largest, other.largest)

    def quantile(self, share_bp: int) -> int | None:
        """Return the value below or at which so many of all lie; None of none."""
        count = sum(self.counts.values())
        rank, seen = ceil_div(count * share_bp, BP_PER_UNIT), 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                assert self.largest is not None
                return min(_upper_edge(bucket), self.largest)
        return None


def _bucket_of(value: int) -> int:
    if value < _EXACT_MAX:
        return max(value, 0)
    doubling = value.bit_length() - 1
    return _STEPS_PER_DOUBLING * doubling + (value >> (doubling - 3)) - _STEPS_PER_DOUBLING


def _upper_edge(bucket: int) -> int:
    if bucket < _EXACT_MAX:
        return bucket
    doubling, step = divmod(bucket, _STEPS_PER_DOUBLING)
    return ((_STEPS_PER_DOUBLING + step + 1) << (doubling - 3)) - 1


class Sums:
    """Figures while they are added up."""

    __slots__ = (
        "absorbed_nanousd", "attempts", "audio_ms", "cache_hits", "cache_saved_nanousd", "cache_saved_tokens",
        "cache_write_1h_tokens", "cache_write_5m_tokens", "cached_input_tokens", "cost_nanousd", "estimated_tokens",
        "first_us", "image_count", "input_tokens", "last_us", "latency", "output_tokens", "reasoning_tokens",
        "runs_cancelled", "runs_failed", "runs_ok", "runs_open", "runs_refused", "sessions", "unpriced_attempts",
        "unpriced_tokens",
    )  # fmt: skip

    def __init__(self) -> None:
        self.runs_ok = self.runs_failed = self.runs_cancelled = self.runs_refused = self.runs_open = 0
        self.attempts = self.input_tokens = self.output_tokens = self.reasoning_tokens = 0
        self.cached_input_tokens = self.cache_write_5m_tokens = self.cache_write_1h_tokens = 0
        self.audio_ms = self.image_count = self.cost_nanousd = self.absorbed_nanousd = 0
        self.unpriced_attempts = self.unpriced_tokens = self.estimated_tokens = 0
        self.cache_hits = self.cache_saved_tokens = self.cache_saved_nanousd = 0
        self.first_us: int | None = None
        self.last_us: int | None = None
        self.sessions: set[str] = set()
        self.latency = Histogram()

    def see(self, at_us: int, session_id: str) -> None:
        """Note when something was seen, and of which session."""
        if self.first_us is None or at_us < self.first_us:
            self.first_us = at_us
        if self.last_us is None or at_us > self.last_us:
            self.last_us = at_us
        if session_id:
            self.sessions.add(session_id)

    def add_usage(self, row: UsageRecorded, *, is_absorbed: bool) -> None:
        """Count a row of usage."""
        usage = row.usage
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.cached_input_tokens += usage.cached_input_tokens
        self.cache_write_5m_tokens += usage.cache_write_5m_tokens
        self.cache_write_1h_tokens += usage.cache_write_1h_tokens
        self.reasoning_tokens += usage.reasoning_tokens
        self.audio_ms += usage.audio_ms
        self.image_count += usage.image_count
        cost = row.known_nanousd if row.cost_nanousd is None else row.cost_nanousd
        self.cost_nanousd += cost
        if row.cost_nanousd is None:
            self.unpriced_attempts += 1
            self.unpriced_tokens += usage.total_tokens
        if row.source != "provider":
            self.estimated_tokens += usage.total_tokens
        if is_absorbed:
            self.absorbed_nanousd += cost

    def add_correction(self, row: UsageCorrected) -> None:
        """Count what a row was found to be instead."""
        deltas = row.deltas
        self.input_tokens += deltas.input_tokens
        self.output_tokens += deltas.output_tokens
        self.cached_input_tokens += deltas.cached_input_tokens
        self.cache_write_5m_tokens += deltas.cache_write_5m_tokens
        self.cache_write_1h_tokens += deltas.cache_write_1h_tokens
        self.reasoning_tokens += deltas.reasoning_tokens
        self.audio_ms += deltas.audio_ms
        self.image_count += deltas.image_count
        self.cost_nanousd += row.change_nanousd
        self.unpriced_attempts += row.is_unpriced_after - row.is_unpriced_before
        tokens_after = row.tokens_before + deltas.total_tokens
        self.unpriced_tokens += row.is_unpriced_after * tokens_after - row.is_unpriced_before * row.tokens_before

    def merge(self, other: Sums) -> None:
        """Add another group to this one."""
        for name in _ADDED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.sessions |= other.sessions
        self.latency.merge(other.latency)
        for at_us in (other.first_us, other.last_us):
            if at_us is not None:
                self.see(at_us, "")

    @property
    def runs(self) -> int:
        return self.runs_ok + self.runs_failed + self.runs_cancelled + self.runs_refused + self.runs_open

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def totals(self) -> Totals:
        return Totals(
            runs=self.runs,
            runs_ok=self.runs_ok,
            runs_failed=self.runs_failed,
            runs_cancelled=self.runs_cancelled,
            runs_refused=self.runs_refused,
            runs_open=self.runs_open,
            attempts=self.attempts,
            sessions=len(self.sessions),
            input_tokens=self.input_tokens,
            cached_input_tokens=self.cached_input_tokens,
            cache_write_5m_tokens=self.cache_write_5m_tokens,
            cache_write_1h_tokens=self.cache_write_1h_tokens,
            output_tokens=self.output_tokens,
            reasoning_tokens=self.reasoning_tokens,
            total_tokens=self.total_tokens,
            audio_ms=self.audio_ms,
            image_count=self.image_count,
            cost_nanousd=self.cost_nanousd,
            cost_complete=self.unpriced_attempts == 0,
            unpriced=Unpriced(attempts=self.unpriced_attempts, tokens=self.unpriced_tokens),
            estimated_share_bp=self.estimated_tokens * BP_PER_UNIT // max(1, self.total_tokens),
            absorbed_nanousd=self.absorbed_nanousd,
            cache=CacheFigures(
                hits=self.cache_hits,
                saved_tokens=self.cache_saved_tokens,
                saved_nanousd=self.cache_saved_nanousd,
            ),
            latency_ms=LatencyFigures(
                p50=self.latency.quantile(5_000), p95=self.latency.quantile(9_500), max=self.latency.largest
            ),
        )


#: What merging only has to add.
_ADDED = [name for name in Sums.__slots__ if name not in ("first_us", "last_us", "sessions", "latency")]


def merged(groups: Iterable[Sums]) -> Sums:
    """Return the sum of groups."""
    whole = Sums()
    for group in groups:
        whole.merge(group)
    return whole


def ms_of(duration_us: int) -> int:
    """Return a duration as it is counted here."""
    return duration_us // US_PER_MS
