"""Accounts as csv: those that the dashboards of OpenAI and Anthropic give, and any whose columns are named.

Anthropic's has tokens beside the cache, read from it and written to it apart, and days of UTC; its bill names
models as people do ("Claude Haiku 4.5").
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, tzinfo

from palyra.engine.reports.calendar import DAY_US
from palyra.engine.reports.exports_cells import Misread, Theirs, read_amount, read_count, read_instant
from palyra.usage import TokenUsage

_DELIMITERS = (",", ";", "\t")
#: `1,234,567.89`; of `0,15` nobody can tell what it means.
_THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")
#: How the title of a column ends whose days are those of UTC, whatever zone the others are in.
_OF_UTC = "_utc"

#: Columns of a csv, and other names under which they are known without `--map`.
FIELDS = {
    "start": ("start_time", "date", "timestamp", "time", "starting_at", "usage_date_utc"),
    "end": ("end_time", "ending_at"),
    "model": ("model_id", "snapshot_id", "model_version"),
    "request_id": ("id", "upstream_request_id"),
    "requests": ("num_model_requests", "n_requests"),
    "input_tokens": ("prompt_tokens", "n_context_tokens_total"),
    "uncached_input_tokens": ("usage_input_tokens_no_cache",),
    "cached_input_tokens": ("input_cached_tokens", "cache_read_input_tokens", "usage_input_tokens_cache_read"),
    "cache_write_5m_tokens": ("usage_input_tokens_cache_write_5m", "usage_input_tokens_cache_write"),
    "cache_write_1h_tokens": ("usage_input_tokens_cache_write_1h",),
    "output_tokens": ("completion_tokens", "n_generated_tokens_total", "usage_output_tokens"),
    "search_count": ("web_search_count",),
    "cost_usd": ("cost", "amount", "amount_value", "amount_usd"),
}
#: What says how many tokens a line is about, and the parts of its input that were written to a cache.
_TOTALS = ("input_tokens", "uncached_input_tokens", "output_tokens")
_WRITTEN = ("cache_write_5m_tokens", "cache_write_1h_tokens")


def csv_lines(text: str, columns: Mapping[str, str], zone: tzinfo | None) -> Iterator[Theirs]:
    """Yield what every line says."""
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
    if not {*_TOTALS, "cost_usd"} & set(found):
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

    def instant(self, field: str, zone: tzinfo | None) -> int:
        title = self._titles[self._known[field]]
        return read_instant(self.text(field), UTC if title.endswith(_OF_UTC) else zone, self.place(field))

    def count(self, field: str) -> int:
        text = self.text(field)
        return read_count(_without_thousands(text), self.place(field)) if text else 0


def _csv_line(row: _Row, zone: tzinfo | None) -> Theirs:
    start_us = row.instant("start", zone)
    end_us = row.instant("end", zone) if row.text("end") else start_us + DAY_US
    parts = {name: row.count(name) for name in ("cached_input_tokens", *_WRITTEN)}
    whole = row.count("input_tokens")
    if row.text("uncached_input_tokens") and not row.text("input_tokens"):
        whole = row.count("uncached_input_tokens") + sum(parts.values())
    used = TokenUsage(
        input_tokens=whole,
        output_tokens=row.count("output_tokens"),
        search_count=row.count("search_count"),
        **parts,
    )
    cost = _without_thousands(row.text("cost_usd").removeprefix("$"))
    return Theirs(
        start_us=start_us,
        end_us=end_us,
        model=_model_of(row.text("model")),
        request_id=row.text("request_id"),
        requests=row.count("requests") if row.text("requests") else None,
        usage=used if any(row.text(name) for name in _TOTALS) else None,
        cost_nanousd=read_amount(cost, row.place("cost_usd")) if cost else None,
    )


def _model_of(title: str) -> str:
    """Return the id of a model that may stand there as people call it: `Claude Haiku 4.5`."""
    return title.lower().replace(" ", "-").replace(".", "-") if " " in title else title


def _without_thousands(text: str) -> str:
    """Return a number without the commas between its thousands; any other comma stays, and is refused."""
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text
