"""`usage/export`: any dataset of the report as a file, in the words and columns of `palyra usage report`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import msgspec

from palyra.engine.console.frame import Sight, Written
from palyra.engine.console.usage import WindowParams, scope_in
from palyra.engine.reports import writing
from palyra.engine.reports.scope import groups_of
from palyra.engine.reports.tables import GROUPED, Asked, Dataset, table_of
from palyra.errors import Refusal, Refused

_CONTENT_TYPES = {
    "csv": "text/csv; charset=utf-8; header=present",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
}


class ExportParams(WindowParams, frozen=True, kw_only=True):
    """Which rows of what, and in which form."""

    dataset: Dataset = "summary"
    format: Literal["csv", "json", "parquet"] = "csv"
    #: Of a summary or a timeline.
    group_by: list[str] = []
    #: Of a timeline.
    bucket: str = "auto"
    #: Groups that are told one by one, the rest together; 0 for all.
    top: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0


def export(sight: Sight, params: ExportParams) -> Written:
    """Return a dataset as a file; raises `PalyraError`."""
    scope = scope_in(sight, params)
    for name, is_given in (("group_by", bool(params.group_by)), ("top", params.top > 0)):
        if is_given and params.dataset not in GROUPED:
            raise _refused(name, f"'{name}' is for the datasets {' and '.join(GROUPED)}.")
    if params.bucket != "auto" and params.dataset != "timeline":
        raise _refused("bucket", "'bucket' is for the dataset timeline.")
    asked = Asked(params.dataset, scope, groups_of(params.group_by), params.bucket, params.top or None)
    if params.format == "parquet":
        writing.needs_polars()
    table = table_of(sight.rows, asked, lambda: sight.state, sight.now_us, sight.reading)
    head = writing.Head(
        params.dataset, sight.journal_id, sight.position, scope.from_us, scope.to_us, str(scope.zone)
    )
    forms: dict[str, Callable[[], Iterator[bytes]]] = {
        "csv": lambda: writing.csv_of(table),
        "json": lambda: writing.json_of(table, head),
        "parquet": lambda: iter([writing.parquet_of(table)]),
    }
    name = f"palyra-{params.dataset}-{sight.position}.{params.format}"
    return Written(sight.at, _CONTENT_TYPES[params.format], name, forms[params.format]())


def _refused(param: str, message: str) -> Refused:
    return Refused(Refusal(code="invalid_query", message=message, param=param))
