"""What providers say was used: their exports, read into one form.

OpenAI and Anthropic as their organisation APIs give it (pages of buckets, usage or cost), and any csv whose columns
are named. Amounts are decimals, never floats. Sources: OpenAI, `GET /v1/organization/usage/completions` and
`/v1/organization/costs`; Anthropic, `GET /v1/organizations/usage_report/messages` and
`/v1/organizations/cost_report`, whose amounts are in cents.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import tzinfo
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any, Literal

import msgspec

from palyra.engine.moments import instant_of
from palyra.engine.reports.calendar import DAY_US
from palyra.errors import PalyraError
from palyra.units import NANOUSD_PER_USD, US_PER_S
from palyra.usage import TokenUsage

Format = Literal["auto", "openai", "anthropic", "csv"]

#: Columns of a csv, and other names under which they are known without `--map`.
FIELDS = {
    "start": ("start_time", "date", "timestamp", "time", "starting_at"),
    "end": ("end_time", "ending_at"),
    "model": ("model_id", "snapshot_id"),
    "request_id": ("id", "upstream_request_id"),
    "requests": ("num_model_requests", "n_requests"),
    "input_tokens": ("prompt_tokens", "n_context_tokens_total"),
    "cached_input_tokens": ("input_cached_tokens", "cache_read_input_tokens"),
    "output_tokens": ("completion_tokens", "n_generated_tokens_total"),
    "cost_usd": ("cost", "amount", "amount_usd"),
}


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


def read_export(data: bytes, form: Format, *, columns: Mapping[str, str], zone: tzinfo | None) -> list[Theirs]:
    """Return the lines of an export, those about the same bucket and model together; raises `PalyraError`."""
    try:
        if form == "auto":
            form = _form_of(data)
        if form == "csv":
            return _together(_csv_lines(data, columns, zone))
        read = _openai_line if form == "openai" else _anthropic_line
        return _together(line for bucket, result in _results(data) if (line := read(bucket, result)) is not None)
    except (ValueError, TypeError, KeyError, AttributeError, InvalidOperation) as exc:
        message = f"The export cannot be read as {form}: {exc}"
        raise PalyraError(
            message, hint="--format openai, anthropic, or csv with --map", code="invalid_export"
        ) from exc


def _form_of(data: bytes) -> Format:
    if not data.lstrip().startswith((b"{", b"[")):
        return "csv"
    return "anthropic" if b'"starting_at"' in data else "openai"


def _results(data: bytes) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield every result with its bucket, of one page, of pages in a list, or of a page a line."""
    try:
        pages = json.loads(data, parse_float=Decimal)
    except ValueError:
        pages = [json.loads(line, parse_float=Decimal) for line in data.splitlines() if line.strip()]
    for page in pages if isinstance(pages, list) else [pages]:
        for bucket in page["data"]:
            for result in bucket["results"]:
                yield bucket, result


def _openai_line(bucket: dict[str, Any], result: dict[str, Any]) -> Theirs | None:
    start_us, end_us = bucket["start_time"] * US_PER_S, bucket["end_time"] * US_PER_S
    amount = result.get("amount")
    cost = None if amount is None else nanousd_of(amount["value"])
    if "input_tokens" not in result:
        model = str(result.get("line_item") or "").partition(",")[0]
        return Theirs(start_us=start_us, end_us=end_us, model=model, cost_nanousd=cost)
    used = TokenUsage(
        input_tokens=_count(result["input_tokens"]),
        output_tokens=_count(result.get("output_tokens")),
        cached_input_tokens=_count(result.get("input_cached_tokens")),
    )
    return Theirs(
        start_us=start_us,
        end_us=end_us,
        model=str(result.get("model") or ""),
        requests=result.get("num_model_requests"),
        usage=used,
        cost_nanousd=cost,
    )


def _anthropic_line(bucket: dict[str, Any], result: dict[str, Any]) -> Theirs | None:
    start_us, end_us = (instant_of(bucket[name], None) for name in ("starting_at", "ending_at"))
    model = str(result.get("model") or "")
    if "uncached_input_tokens" not in result:
        # Cents, written as a decimal.
        cost = nanousd_of(Decimal(str(result["amount"])) / 100)
        return Theirs(start_us=start_us, end_us=end_us, model=model, cost_nanousd=cost)
    written = result.get("cache_creation") or {}
    short, long = (_count(written.get(f"ephemeral_{name}_input_tokens")) for name in ("5m", "1h"))
    cached = _count(result.get("cache_read_input_tokens"))
    used = TokenUsage(
        input_tokens=_count(result["uncached_input_tokens"]) + cached + short + long,
        output_tokens=_count(result.get("output_tokens")),
        cached_input_tokens=cached,
        cache_write_5m_tokens=short,
        cache_write_1h_tokens=long,
        search_count=_count((result.get("server_tool_use") or {}).get("web_search_requests")),
    )
    return Theirs(start_us=start_us, end_us=end_us, model=model, usage=used)


def _csv_lines(data: bytes, columns: Mapping[str, str], zone: tzinfo | None) -> Iterator[Theirs]:
    reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
    known = {name: columns.get(name) or _column(name, reader.fieldnames or []) for name in FIELDS}
    if known["start"] is None:
        raise ValueError("no column says when; name it with --map date=start")
    for row in reader:

        def cell(name: str, row: dict[str, str] = row) -> str:
            column = known[name]
            return "" if column is None else row[column].strip()

        start_us = _instant(cell("start"), zone)
        end_us = _instant(cell("end"), zone) if cell("end") else start_us + DAY_US
        has_tokens = bool(cell("input_tokens") or cell("output_tokens"))
        used = TokenUsage(
            input_tokens=_count(cell("input_tokens") or 0),
            output_tokens=_count(cell("output_tokens") or 0),
            cached_input_tokens=_count(cell("cached_input_tokens") or 0),
        )
        yield Theirs(
            start_us=start_us,
            end_us=end_us,
            model=cell("model"),
            request_id=cell("request_id"),
            requests=_count(cell("requests")) if cell("requests") else None,
            usage=used if has_tokens else None,
            cost_nanousd=nanousd_of(cell("cost_usd").lstrip("$").replace(",", "")) if cell("cost_usd") else None,
        )


def _column(name: str, columns: Iterable[str]) -> str | None:
    return next((column for column in columns if column == name or column in FIELDS[name]), None)


def _instant(text: str, zone: tzinfo | None) -> int:
    return int(text) * US_PER_S if text.isdigit() else instant_of(text, zone)


def _count(value: Any) -> int:
    number = int(value or 0)
    if number < 0:
        raise ValueError(f"{value} is no count")
    return number


def nanousd_of(amount: Any) -> int:
    """Return an amount in USD in nano-USD, half up."""
    exact = Decimal(str(amount)) * NANOUSD_PER_USD
    return int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))


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
