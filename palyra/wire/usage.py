"""Usage as providers report it, brought into the one normal form (governance specification 2.1).

Nothing is estimated here: what a provider left out or garbled is absent and named by an anomaly code.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

import msgspec

from palyra.units import NANOUSD_PER_USD
from palyra.usage import TokenUsage
from palyra.wire.decoding import read_or_none

#: More tokens than this in one answer is no count.
_COUNT_MAX = 1_000_000_000
_COST_MAX_USD = 1_000_000
_DURATION_MAX_S = 1_000_000

#: Where a figure stands: its name, or the names of a details object and of the figure in it.
_Place = tuple[str, str]


def _at_top(*fields: str) -> tuple[_Place, ...]:
    return tuple((field, "") for field in fields)


#: Places of each figure, first found wins.
_INPUT = _at_top("prompt_tokens", "input_tokens", "prompt_eval_count")
_TOTAL = _at_top("total_tokens")
_OUTPUT = _at_top("completion_tokens", "output_tokens", "eval_count")
_INPUT_DETAILS = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
_OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details", "output_token_details")


def _within(details: tuple[str, ...], field: str) -> tuple[_Place, ...]:
    return tuple((name, field) for name in details)


_CACHED = (*_within(_INPUT_DETAILS, "cached_tokens"), *_at_top("prompt_cache_hit_tokens"))
_CACHE_WRITE = _within(_INPUT_DETAILS, "cache_write_tokens")
_INPUT_AUDIO = _within(_INPUT_DETAILS, "audio_tokens")
_INPUT_IMAGE = _within(_INPUT_DETAILS, "image_tokens")
_REASONING = _within(_OUTPUT_DETAILS, "reasoning_tokens")
_OUTPUT_AUDIO = _within(_OUTPUT_DETAILS, "audio_tokens")
_DURATION_S = ("duration", "seconds")


def _exact(text: str) -> Decimal | None:
    """A number with a fraction keeps its digits; what no Decimal can hold is absent."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


_USAGE = msgspec.json.Decoder(dict[str, Any], float_hook=_exact)


def decode_usage(raw: bytes | msgspec.Raw) -> dict[str, Any]:
    """Return a usage object as plain data with exact decimals; {} when it is none."""
    return read_or_none(_USAGE, raw) or {}


def merge_usage(before: dict[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return `before` with the values of `after` that are not null: counts are cumulative, the last one wins."""
    merged = dict(before)
    for name, value in after.items():
        if isinstance(value, dict):
            kept = merged.get(name)
            merged[name] = merge_usage(kept if isinstance(kept, dict) else {}, value)
        elif value is not None:
            merged[name] = value
    return merged


class Counts:
    """Reads counts from plain data and notes what was no count."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = raw
        #: What is there, by its place.
        self._found: dict[_Place, Any] = {(name, ""): value for name, value in raw.items() if value is not None}
        for name, details in raw.items():
            if isinstance(details, dict):
                self._found |= {(name, field): value for field, value in details.items() if value is not None}
        self.anomalies: list[str] = []

    def find(self, places: tuple[_Place, ...]) -> int | None:
        if self._found.keys().isdisjoint(places):
            return None
        for place in places:
            value = self._found.get(place)
            if value is None:
                continue
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _COUNT_MAX:
                return value
            self.note("usage_invalid_value")
        return None

    def duration_ms(self) -> int:
        for name in _DURATION_S:
            seconds = _number(self._raw.get(name))
            if seconds is not None and 0 <= seconds <= _DURATION_MAX_S:
                return int(seconds * 1000)
        return 0

    def note(self, anomaly: str) -> None:
        if anomaly not in self.anomalies:
            self.anomalies.append(anomaly)


def _number(value: Any) -> Decimal | None:
    return Decimal(value) if isinstance(value, (int, Decimal)) and not isinstance(value, bool) else None


def read_openai_usage(
    raw: Mapping[str, Any], *, output_seen: bool = False, expects_output: bool = True
) -> tuple[TokenUsage | None, tuple[str, ...]]:
    """Return the usage in its normal form and the codes of what was wrong with it; None when it holds no count.

    `output_seen`: the answer had content, so a reported 0 is worth a note. `expects_output`: false for embeddings.
    """
    counts = Counts(raw)
    reasoning = counts.find(_REASONING) or 0
    input_tokens, output_tokens = _totals(counts, reasoning)
    audio_ms = counts.duration_ms()
    if input_tokens is None and output_tokens is None and not audio_ms:
        return None, tuple(counts.anomalies)
    if input_tokens is None:
        counts.note("usage_input_missing")
    if output_tokens is None and expects_output:
        counts.note("usage_output_missing")
    if output_seen and output_tokens == 0:
        counts.note("usage_zero_reported")
    input_parts = [counts.find(places) or 0 for places in (_INPUT_IMAGE, _INPUT_AUDIO, _CACHE_WRITE, _CACHED)]
    image, audio, write_5m, cached = cut_parts(counts, input_tokens or 0, input_parts)
    output_audio, reasoning = cut_parts(counts, output_tokens or 0, [counts.find(_OUTPUT_AUDIO) or 0, reasoning])
    usage = TokenUsage(
        input_tokens=input_tokens or 0,
        output_tokens=output_tokens or 0,
        cached_input_tokens=cached,
        cache_write_5m_tokens=write_5m,
        input_audio_tokens=audio,
        input_image_tokens=image,
        reasoning_tokens=reasoning,
        output_audio_tokens=output_audio,
        audio_ms=audio_ms,
    )
    return usage, tuple(counts.anomalies)


def _totals(counts: Counts, reasoning: int) -> tuple[int | None, int | None]:
    """Return input and output; a total supplies a missing one and tells whether reasoning was left out."""
    given, produced, total = counts.find(_INPUT), counts.find(_OUTPUT), counts.find(_TOTAL)
    if total is None:
        return given, produced
    if given is None:
        return (None if produced is None else _difference(total, produced)), produced
    if produced is None:
        return given, _difference(total, given)
    return given, produced + reasoning if total == given + produced + reasoning else produced


def _difference(total: int, part: int) -> int | None:
    return total - part if total >= part else None


def cut_parts(counts: Counts, total: int, parts: list[int]) -> list[int]:
    """Return parts that fit into their total; what is too much comes off the first ones."""
    excess = sum(parts) - total
    if excess <= 0:
        return parts
    counts.note("usage_inconsistent")
    kept = []
    for part in parts:
        cut = min(part, excess)
        excess -= cut
        kept.append(part - cut)
    return kept


_READ = _at_top("cache_read_input_tokens")
_WRITTEN = _at_top("cache_creation_input_tokens")
_WRITTEN_5M = _within(("cache_creation",), "ephemeral_5m_input_tokens")
_WRITTEN_1H = _within(("cache_creation",), "ephemeral_1h_input_tokens")
_THOUGHT = _within(("output_tokens_details",), "thinking_tokens")
_SEARCHES = _within(("server_tool_use",), "web_search_requests")


def read_messages_usage(
    raw: Mapping[str, Any], *, output_seen: bool = False
) -> tuple[TokenUsage | None, tuple[str, ...]]:
    """Return usage as Anthropic reports it, whose input leaves out what was read from a cache or written to one."""
    counts = Counts(raw)
    fresh, output_tokens = counts.find(_at_top("input_tokens")), counts.find(_at_top("output_tokens"))
    if fresh is None and output_tokens is None:
        return None, tuple(counts.anomalies)
    if fresh is None:
        counts.note("usage_input_missing")
    if output_tokens is None:
        counts.note("usage_output_missing")
    if output_seen and output_tokens == 0:
        counts.note("usage_zero_reported")
    cached, written = counts.find(_READ) or 0, counts.find(_WRITTEN)
    written_5m, written_1h = counts.find(_WRITTEN_5M) or 0, counts.find(_WRITTEN_1H) or 0
    if written is not None:
        # What is not told apart was kept for five minutes.
        written_5m += max(0, written - written_5m - written_1h)
    (thought,) = cut_parts(counts, output_tokens or 0, [counts.find(_THOUGHT) or 0])
    usage = TokenUsage(
        input_tokens=(fresh or 0) + cached + written_5m + written_1h,
        output_tokens=output_tokens or 0,
        reasoning_tokens=thought,
        cached_input_tokens=cached,
        cache_write_5m_tokens=written_5m,
        cache_write_1h_tokens=written_1h,
        search_count=counts.find(_SEARCHES) or 0,
    )
    return usage, tuple(counts.anomalies)


def read_cost_nanousd(raw: Mapping[str, Any]) -> int | None:
    """Return the cost in USD that some providers report beside the counts, rounded half up to nano-USD."""
    cost = raw.get("cost")
    amount = _number(_exact(cost) if isinstance(cost, str) else cost)
    if amount is None or not 0 <= amount <= _COST_MAX_USD:
        return None
    return int((amount * NANOUSD_PER_USD).to_integral_value(ROUND_HALF_UP))
