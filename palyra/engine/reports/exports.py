"""What providers say was used: their exports, read into one form.

OpenAI and Anthropic as their organisation APIs give it (pages of buckets, usage or cost), and any csv. Amounts are
decimals, never floats. Sources: OpenAI, `GET /v1/organization/usage/completions` and `/v1/organization/costs`;
Anthropic, `GET /v1/organizations/usage_report/messages` and `/v1/organizations/cost_report`, whose amounts are in
cents.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import tzinfo
from decimal import Decimal
from typing import Any, Literal

import msgspec

from palyra.engine.reports.exports_cells import Misread, Theirs, read_amount, read_count, read_instant
from palyra.engine.reports.exports_csv import csv_lines
from palyra.errors import PalyraError
from palyra.usage import TokenUsage

Format = Literal["auto", "openai", "anthropic", "csv"]


def read_export(data: bytes, form: Format, *, columns: Mapping[str, str], zone: tzinfo | None) -> list[Theirs]:
    """Return the lines of an export, those about the same bucket and model together.

    Raises `PalyraError` (`invalid_export`), which names line and column, or the place in the JSON.
    """
    form = _form_of(data, form)
    try:
        lines = csv_lines(_text_of(data), columns, zone) if form == "csv" else _json_lines(data, form)
        found = _together(lines)
    except Misread as exc:
        hint = "--map their_column=field,.. says what columns are" if form == "csv" else ""
        hint = hint or "give the pages as the API answers them, or a csv"
        raise PalyraError(f"The export cannot be read as {form}: {exc}.", hint=hint, code="invalid_export") from exc
    if not found:
        raise PalyraError("The export has no lines.", hint="export the days again", code="invalid_export")
    return found


def _form_of(data: bytes, wanted: Format) -> Format:
    """Return how a file is written; a provider's may be its API's answer or its dashboard's csv."""
    if wanted == "csv" or not data.lstrip().startswith((b"{", b"[")):
        return "csv"
    if wanted != "auto":
        return wanted
    return "anthropic" if b'"starting_at"' in data else "openai"


def _text_of(data: bytes) -> str:
    """Return the text of a file: UTF-8, or UTF-16 where its first bytes say so."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            raise Misread("", "it begins as UTF-16 and goes on as something else") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        column = exc.start - (data.rfind(b"\n", 0, exc.start) + 1) + 1
        message = f"byte {data[exc.start]:#04x} is no UTF-8; save the file as UTF-8"
        raise Misread(f"line {line}, byte {column}", message) from None


# -- JSON


def _json_lines(data: bytes, form: Format) -> Iterator[Theirs]:
    """Yield what every result says, of one page, of pages in a list, or of a page a line."""
    read = _openai_line if form == "openai" else _anthropic_line
    for place, page in _pages(_text_of(data)):
        for name, bucket in _each(page, place, "data"):
            for where, result in _each(bucket, name, "results"):
                yield read(_Node(bucket, name), _Node(result, where))


def _pages(text: str) -> Iterator[tuple[str, Any]]:
    try:
        whole = json.loads(text, parse_float=Decimal)
    except ValueError as first:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        for number, line in lines:
            try:
                page = json.loads(line, parse_float=Decimal)
            except json.JSONDecodeError as exc:
                # A page a line begins with a whole one; anything else is one document that is broken.
                broken = exc if number != lines[0][0] else first
                row = number if broken is exc else getattr(first, "lineno", 1)
                where = f"line {row}, column {getattr(broken, 'colno', 1)}"
                raise Misread(where, f"no JSON ({getattr(broken, 'msg', broken)})") from None
            yield f"line {number}: ", page
        return
    for number, page in enumerate(whole) if isinstance(whole, list) else [(-1, whole)]:
        yield ("" if number < 0 else f"[{number}]."), page


def _each(node: Any, place: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    found = node.get(name) if isinstance(node, dict) else None
    if not isinstance(found, list):
        raise Misread(f"{place}{name}", "there is no such list")
    for number, one in enumerate(found):
        where = f"{place}{name}[{number}]"
        if not isinstance(one, dict):
            raise Misread(where, "this is no object")
        yield f"{where}.", one


class _Node:
    """One object of an export, and where it stands."""

    def __init__(self, fields: dict[str, Any], place: str) -> None:
        self._fields = fields
        self._place = place

    def has(self, name: str) -> bool:
        return self._fields.get(name) is not None

    def inside(self, name: str) -> _Node:
        found = self._fields.get(name) or {}
        if not isinstance(found, dict):
            raise Misread(f"{self._place}{name}", "this is no object")
        return _Node(found, f"{self._place}{name}.")

    def text(self, name: str) -> str:
        return str(self._fields.get(name) or "")

    def count(self, name: str) -> int:
        return read_count(self._fields.get(name), f"{self._place}{name}")

    def instant(self, name: str) -> int:
        value, place = self._fields.get(name), f"{self._place}{name}"
        if value is None:
            raise Misread(place, "it is missing")
        return read_instant(str(value), None, place)

    def nanousd(self, name: str, divisor: int = 1) -> int:
        value = self._fields.get(name)
        return read_amount(str(value), f"{self._place}{name}", divisor)


def _openai_line(bucket: _Node, result: _Node) -> Theirs:
    start_us, end_us = bucket.instant("start_time"), bucket.instant("end_time")
    cost = result.inside("amount").nanousd("value") if result.has("amount") else None
    if not result.has("input_tokens"):
        if cost is None:
            result.nanousd("amount")
        model = result.text("line_item").partition(",")[0]
        return Theirs(start_us=start_us, end_us=end_us, model=model, cost_nanousd=cost)
    used = TokenUsage(
        input_tokens=result.count("input_tokens"),
        output_tokens=result.count("output_tokens"),
        cached_input_tokens=result.count("input_cached_tokens"),
    )
    return Theirs(
        start_us=start_us,
        end_us=end_us,
        model=result.text("model"),
        requests=result.count("num_model_requests") if result.has("num_model_requests") else None,
        usage=used,
        cost_nanousd=cost,
    )


def _anthropic_line(bucket: _Node, result: _Node) -> Theirs:
    start_us, end_us = bucket.instant("starting_at"), bucket.instant("ending_at")
    model = result.text("model")
    if not result.has("uncached_input_tokens"):
        # Cents, written as a decimal.
        cost = result.nanousd("amount", 100)
        return Theirs(start_us=start_us, end_us=end_us, model=model, cost_nanousd=cost)
    written = result.inside("cache_creation")
    short, long = (written.count(f"ephemeral_{name}_input_tokens") for name in ("5m", "1h"))
    cached = result.count("cache_read_input_tokens")
    used = TokenUsage(
        input_tokens=result.count("uncached_input_tokens") + cached + short + long,
        output_tokens=result.count("output_tokens"),
        cached_input_tokens=cached,
        cache_write_5m_tokens=short,
        cache_write_1h_tokens=long,
        search_count=result.inside("server_tool_use").count("web_search_requests"),
    )
    return Theirs(start_us=start_us, end_us=end_us, model=model, usage=used)


def _together(lines: Iterable[Theirs]) -> list[Theirs]:
    """Return lines with what is said about the same thing in one: tokens in one result, money in another."""
    found: dict[tuple[int, int, str, str], Theirs] = {}
    for line in lines:
        key = (line.start_us, line.end_us, line.model, line.request_id)
        known = found.get(key)
        found[key] = line if known is None else _both(known, line)
    return sorted(found.values(), key=lambda one: (one.start_us, one.model, one.request_id))


def _both(one: Theirs, other: Theirs) -> Theirs:
    usage = one.usage or other.usage
    if one.usage is not None and other.usage is not None:
        names = TokenUsage.__struct_fields__
        usage = TokenUsage(**{name: getattr(one.usage, name) + getattr(other.usage, name) for name in names})
    return msgspec.structs.replace(
        one,
        usage=usage,
        requests=_sum(one.requests, other.requests),
        cost_nanousd=_sum(one.cost_nanousd, other.cost_nanousd),
    )


def _sum(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else one + other
