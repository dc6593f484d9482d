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
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import tzinfo
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any, Literal

import msgspec

from palyra.engine.moments import instant_of
from palyra.engine.reports.calendar import DAY_US
from palyra.errors import PalyraError
from palyra.redaction import clean_message
from palyra.units import NANOUSD_PER_USD, US_PER_S
from palyra.usage import TokenUsage

Format = Literal["auto", "openai", "anthropic", "csv"]

_DELIMITERS = (",", ";", "\t")
#: `1,234,567.89`; of `0,15` nobody can tell what it means.
_THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")
#: More tokens or money than any account has.
_COUNT_MAX, _USD_MAX = 1 << 53, 10**9

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
    "cost_usd": ("cost", "amount", "amount_value", "amount_usd"),
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


class Misread(Exception):
    """Something in an export that cannot be read, and where it stands."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(f"{place}: {message}" if place else message)


def read_export(data: bytes, form: Format, *, columns: Mapping[str, str], zone: tzinfo | None) -> list[Theirs]:
    """Return the lines of an export, those about the same bucket and model together.

    Raises `PalyraError` (`invalid_export`), which names line and column, or the place in the JSON.
    """
    if form == "auto":
        form = _form_of(data)
    try:
        lines = _csv_lines(data, columns, zone) if form == "csv" else _json_lines(data, form)
        found = _together(lines)
    except Misread as exc:
        hint = "--map their_column=field,.. says what columns are" if form == "csv" else ""
        hint = hint or "give the pages as the API answers them, or a csv"
        raise PalyraError(f"The export cannot be read as {form}: {exc}.", hint=hint, code="invalid_export") from exc
    if not found:
        raise PalyraError("The export has no lines.", hint="export the days again", code="invalid_export")
    return found


def _form_of(data: bytes) -> Format:
    if not data.lstrip().startswith((b"{", b"[")):
        return "csv"
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
        return _count(self._fields.get(name), f"{self._place}{name}")

    def instant(self, name: str) -> int:
        value, place = self._fields.get(name), f"{self._place}{name}"
        if value is None:
            raise Misread(place, "it is missing")
        return _instant(str(value), None, place)

    def nanousd(self, name: str, divisor: int = 1) -> int:
        value = self._fields.get(name)
        return _amount(str(value), f"{self._place}{name}", divisor)


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


# -- csv


def _csv_lines(data: bytes, columns: Mapping[str, str], zone: tzinfo | None) -> Iterator[Theirs]:
    text = _text_of(data)
    first = text.partition("\n")[0]
    # What stands between the names of columns stands between cells.
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        titles = [title.strip() for title in next(reader, [])]
        known = _columns(titles, columns)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield _csv_line(_Row(reader.line_num, titles, cells, known), zone)
    except csv.Error as exc:
        raise Misread(f"line {reader.line_num}", f"no csv ({exc})") from None


def _columns(titles: list[str], named: Mapping[str, str]) -> dict[str, int]:
    """Return the places of columns by what they mean."""
    has = ", ".join(titles) or "none"
    for field, column in named.items():
        if column not in titles:
            raise Misread("line 1", f"--map says that '{column}' is {field}, but the columns are: {has}")
    found: dict[str, int] = {}
    for field, others in FIELDS.items():
        names = [named[field]] if field in named else [field, *others]
        place = next((place for place, title in enumerate(titles) if title in names), None)
        if place is not None:
            found[field] = place
    if "start" not in found:
        raise Misread("line 1", f"no column says when; name it with --map date=start (the columns are: {has})")
    if not {"input_tokens", "output_tokens", "cost_usd"} & set(found):
        message = f"no column says what was used or what it cost; --map usd=cost_usd names one (there are: {has})"
        raise Misread("line 1", message)
    return found


class _Row:
    """One line of a csv: its cells by what they mean."""

    def __init__(self, line: int, titles: list[str], cells: list[str], known: dict[str, int]) -> None:
        if len(cells) != len(titles):
            raise Misread(f"line {line}", f"it has {len(cells)} cells under {len(titles)} columns")
        self._line = line
        self._titles = titles
        self._cells = cells
        self._known = known

    def text(self, field: str) -> str:
        return self._cells[self._known[field]].strip() if field in self._known else ""

    def place(self, field: str) -> str:
        return f"line {self._line}, column '{self._titles[self._known[field]]}'"

    def count(self, field: str) -> int:
        text = self.text(field)
        return _count(_without_thousands(text), self.place(field)) if text else 0


def _csv_line(row: _Row, zone: tzinfo | None) -> Theirs:
    start_us = _instant(row.text("start"), zone, row.place("start"))
    end_us = _instant(row.text("end"), zone, row.place("end")) if row.text("end") else start_us + DAY_US
    has_tokens = bool(row.text("input_tokens") or row.text("output_tokens"))
    used = TokenUsage(
        input_tokens=row.count("input_tokens"),
        output_tokens=row.count("output_tokens"),
        cached_input_tokens=row.count("cached_input_tokens"),
    )
    cost = row.text("cost_usd")
    return Theirs(
        start_us=start_us,
        end_us=end_us,
        model=row.text("model"),
        request_id=row.text("request_id"),
        requests=row.count("requests") if row.text("requests") else None,
        usage=used if has_tokens else None,
        cost_nanousd=_amount(_without_thousands(cost.removeprefix("$")), row.place("cost_usd")) if cost else None,
    )


def _without_thousands(text: str) -> str:
    """Return a number without the commas between its thousands; any other comma stays, and is refused."""
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text


# -- cells


def _instant(text: str, zone: tzinfo | None, place: str) -> int:
    try:
        return int(text) * US_PER_S if text.isascii() and text.isdigit() else instant_of(text, zone)
    except (ValueError, OverflowError):
        message = f"'{_shown(text)}' is no instant; 2026-11-20, 2026-11-20T10:00:00Z or seconds since 1970 are"
        raise Misread(place, message) from None


def _count(value: Any, place: str) -> int:
    try:
        number = int(value or 0)
    except (ValueError, TypeError):
        number = -1
    if not 0 <= number <= _COUNT_MAX:
        raise Misread(place, f"'{_shown(value)}' is no count")
    return number


def _amount(text: str, place: str, divisor: int = 1) -> int:
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
