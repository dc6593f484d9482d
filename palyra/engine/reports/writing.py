"""Tables written out: csv for spreadsheets, json for programs, parquet for frames.

csv and json are written row by row. A cell that a spreadsheet would obey is told to be text; a number is never.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from palyra.engine.reports.tables import Column, Table
from palyra.errors import PalyraError
from palyra.units import usd_of

if TYPE_CHECKING:
    import polars

SCHEMA = 1
#: First characters of a formula (OWASP, CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
#: Rows that are written at once.
_CHUNK_COUNT = 1_000
#: Rows of one frame.
_FRAME_COUNT = 10_000


class Head(NamedTuple):
    """What stands over the rows of a document."""

    dataset: str
    journal_id: str
    position: int
    from_us: int
    to_us: int
    timezone: str


def csv_of(table: Table) -> Iterator[bytes]:
    """Yield a table as RFC 4180 has it: a header, CRLF, UTF-8; nothing for a missing value."""
    text = io.StringIO()
    writer = csv.writer(text)
    table = _with_usd(table)
    writer.writerow([column.name for column in table.columns])
    for number, row in enumerate(table.rows):
        writer.writerow([_cell(value) for value in row])
        if number % _CHUNK_COUNT == 0:
            yield _taken(text)
    yield _taken(text)


class _Usd(str):
    """An amount of USD as a decimal: exact, and a number for whoever reads one."""


def _with_usd(table: Table) -> Table:
    """Return a table that has each amount in nano-USD, which programs add up, in USD too, which people read."""
    places = [place for place, column in enumerate(table.columns) if column.name.endswith("_nanousd")]
    columns = list(table.columns)
    for place in reversed(places):
        columns.insert(place + 1, Column(columns[place].name.removesuffix("nanousd") + "usd", "text"))

    def widened() -> Iterator[tuple[Any, ...]]:
        for row in table.rows:
            cells = list(row)
            for place in reversed(places):
                cells.insert(place + 1, None if row[place] is None else _Usd(usd_of(row[place])))
            yield tuple(cells)

    return Table(columns, widened())


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(_FORMULA) and not isinstance(value, _Usd):
        return f"'{value}"
    return value


def _taken(text: io.StringIO) -> bytes:
    data = text.getvalue().encode()
    text.seek(0)
    text.truncate()
    return data


def json_of(table: Table, head: Head) -> Iterator[bytes]:
    """Yield a table as one document, keys sorted: `schema`, where it is from, and its rows."""
    window = {"from_us": head.from_us, "to_us": head.to_us, "timezone": head.timezone}
    about = {"dataset": head.dataset, "journal_id": head.journal_id, "position": head.position}
    # `rows` sorts between `position` and `schema`.
    yield json.dumps(about, sort_keys=True)[:-1].encode() + b', "rows": ['
    table = _with_usd(table)
    names = [column.name for column in table.columns]
    for number, row in enumerate(table.rows):
        line = json.dumps(dict(zip(names, row, strict=True)), sort_keys=True)
        yield (f",\n{line}" if number else f"\n{line}").encode()
    yield f'\n], "schema": {SCHEMA}, "window": {json.dumps(window, sort_keys=True)}}}\n'.encode()


def parquet_of(table: Table) -> bytes:
    """Return a table as a parquet file: int64, text, bool, instants as UTC timestamps in microseconds.

    Raises `PalyraError` (`extra_missing`) without polars.
    """
    frame_kind = needs_polars()
    import polars

    # A frame needs an eighth of what its cells do as objects.
    frames: list[polars.DataFrame] = []
    rows = iter(table.rows)
    while part := list(itertools.islice(rows, _FRAME_COUNT)) or ([] if frames else [()]):
        columns = [list(cells) for cells in zip(*part, strict=True)] or [[] for _ in table.columns]
        frames.append(frame_kind([_series(*one) for one in zip(table.columns, columns, strict=True)]))
    out = io.BytesIO()
    polars.concat(frames, rechunk=False).write_parquet(out)
    return out.getvalue()


def needs_polars() -> type[polars.DataFrame]:
    """Return the kind of frame that writes parquet; raises `PalyraError` where polars is missing."""
    try:
        import polars
    except ImportError as exc:
        message = "Parquet is written with polars, which is not installed."
        raise PalyraError(message, hint="pip install 'palyra[reports]'", code="extra_missing") from exc
    return polars.DataFrame


def _series(column: Column, cells: list[Any]) -> polars.Series:
    import polars

    kinds = {"int": polars.Int64, "text": polars.String, "bool": polars.Boolean, "instant": polars.Int64}
    series = polars.Series(column.name, cells, dtype=kinds[column.kind])
    return series.cast(polars.Datetime("us", "UTC")) if column.kind == "instant" else series
