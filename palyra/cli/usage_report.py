"""`palyra usage report`: a journal file read once, in the form that is wanted.

The file may belong to a daemon that runs, to one that is stopped, or be a copy somewhere; nothing is locked or
written but the report itself, which appears whole or not at all.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call
from palyra.cli.output import output
from palyra.cli.page import Page, Styled
from palyra.cli.render import clean, size

if TYPE_CHECKING:
    from palyra.engine.moments import Moment
    from palyra.engine.reports.scope import Scope
    from palyra.engine.reports.tables import Asked, Table
    from palyra.journal.reader import JournalReader
    from palyra.projections.state import State

FORMATS = ("table", "csv", "json", "parquet", "html")
#: What a terminal cannot show.
_FILES_ONLY = ("parquet", "html")
FILTERS = ("principal", "key", "session", "agent", "provider", "model", "endpoint", "origin")
#: As `tables.GROUPED`, which `--help` must not import.
_GROUPED = ("summary", "timeline")


def make_report(call: Call, **options: Any) -> int:
    """Write the report that the options ask for; returns the exit status."""
    from palyra.engine.clock import SystemClock
    from palyra.engine.moments import Moment, parse_as_of, resolve_as_of
    from palyra.engine.zones import find_zone
    from palyra.journal.reader import JournalReader

    form, out = options["form"], options["out"]
    if form in _FILES_ONLY and out is None and sys.stdout.isatty():
        raise click.UsageError(
            f"{form} is nothing for a terminal; name a file with --out", click.get_current_context()
        )
    path, zone = _file_and_zone(call, options["journal"])
    if options["timezone"]:
        zone = _known_zone(options["timezone"], find_zone)
    with JournalReader(path) as whole:
        if call.as_of is not None:
            moment = resolve_as_of(whole, parse_as_of(call.as_of, zone), SystemClock().now_us())
        else:
            head = whole.head().position
            row = whole.row(head)
            last_us = whole.created_at_us if row is None else row.recorded_at_us
            is_copy = options["journal"] is not None
            # A copy is seen as of its last event.
            moment = Moment(position=head, as_of_us=last_us if is_copy else SystemClock().now_us())
    asked = _asked(options, zone, moment)
    with JournalReader(path, upto=moment.position) as rows:
        _write(call, rows, asked, moment, options)
    say_written(out, form)
    return 0


def say_written(out: str | None, form: str) -> None:
    """Tell of a file that was written."""
    if out is not None:
        print(f"{clean(out)}: {size(Path(out).stat().st_size)} of {form}")


def _file_and_zone(call: Call, journal: str | None) -> tuple[Path, tzinfo | None]:
    """Return the file, and the zone of the configuration; a file that was named needs no configuration."""
    from palyra.cli.reading import file_of_journal
    from palyra.engine.zones import find_zone

    if journal is not None:
        return Path(journal), None
    return file_of_journal(call.paths), find_zone(call.loaded.config.cli.timezone)


def _known_zone(name: str, find: Any) -> tzinfo | None:
    from palyra.errors import PalyraError

    try:
        zone: tzinfo | None = find(name)
    except ValueError as exc:
        raise PalyraError(str(exc), hint="--timezone Europe/Prague, or local", code="usage_error") from exc
    return zone


def _asked(options: dict[str, Any], zone: tzinfo | None, moment: Moment) -> Asked:
    from palyra.engine.reports.scope import Filters, groups_of, scope_of
    from palyra.engine.reports.tables import Asked

    dataset, form = options["dataset"], options["form"]
    given = [name for part in options["group_by"] for name in part.split(",") if name]
    if form == "html" and (given or dataset != "summary" or options["top"] is not None):
        message = "an html report tells it all; --dataset, --group-by and --top are for the other forms"
        raise click.UsageError(message, click.get_current_context())
    if given and dataset not in _GROUPED:
        raise click.UsageError(f"--group-by is for {' and '.join(_GROUPED)}", click.get_current_context())
    if options["bucket"] != "auto" and dataset != "timeline" and form != "html":
        raise click.UsageError("--bucket is for the dataset timeline", click.get_current_context())
    if options["top"] is not None and dataset not in _GROUPED:
        raise click.UsageError(f"--top is for {' and '.join(_GROUPED)}", click.get_current_context())
    scope = scope_of(
        from_=options["from_"] or "",
        to=options["to"] or "",
        timezone="",
        zone=zone,
        now_us=moment.as_of_us,
        filters=Filters(*(options[name] or "" for name in FILTERS)),
    )
    return Asked(dataset, scope, groups_of(given), options["bucket"], options["top"])


def _write(call: Call, rows: JournalReader, asked: Asked, moment: Moment, options: dict[str, Any]) -> None:
    from palyra.cli.progress import Progress
    from palyra.engine.replay import fold_file
    from palyra.engine.reports import writing
    from palyra.engine.reports.tables import table_of

    form, scope = options["form"], asked.scope
    head = writing.Head(
        asked.dataset, rows.journal_id, moment.position, scope.from_us, scope.to_us, str(scope.zone)
    )
    with Progress() as progress:

        def reading(done: int, total: int) -> None:
            progress("reading", done, total)

        def state() -> State:
            return fold_file(rows.path, upto=moment.position, progress=lambda *at: progress("folding", *at)).state

        if form == "html":
            from palyra.engine.reports.html import html_of, story_of

            story = story_of(rows, asked, state, moment.as_of_us, reading)
            put(options["out"], [html_of(story, head).encode()])
            return
        table = table_of(rows, asked, state, moment.as_of_us, reading)
        if form == "csv":
            put(options["out"], writing.csv_of(table))
        elif form == "json":
            put(options["out"], writing.json_of(table, head))
        elif form == "parquet":
            writing.needs_polars()
            put(options["out"], [writing.parquet_of(table)])
        else:
            _put_table(call, options["out"], table, asked, moment)


def put(out: str | None, chunks: Iterable[bytes]) -> None:
    with output(out) as target:
        for chunk in chunks:
            target.write(chunk)


def _put_table(call: Call, out: str | None, table: Table, asked: Asked, moment: Moment) -> None:
    if out is None:
        _show(call.page(), table, asked, moment)
        return
    with output(out) as target:
        stream = io.TextIOWrapper(target, encoding="utf-8", write_through=True)
        _show(Page(stream, color="never"), table, asked, moment)
        stream.detach()


def _show(page: Page, table: Table, asked: Asked, moment: Moment) -> None:
    from palyra.cli.render import clock, count
    from palyra.cli.usage_tables import show_groups, show_rows, show_totals

    scope, names = asked.scope, [column.name for column in table.columns]
    window = window_text(scope)
    if asked.dataset not in _GROUPED:
        page.fields([("window", window)])
        page.line()
        show_rows(page, asked.dataset, table.columns, table.rows, scope.zone)
    else:
        rows = [dict(zip(names, row, strict=True)) for row in table.rows]
        keys = table.columns[: names.index("runs")]
        if keys:
            page.fields([("window", window)])
            page.line()
            if rows:
                show_groups(page, keys, rows, scope.zone)
            else:
                page.line(Styled("Nobody asked for anything in this window.", "dim"))
        else:
            show_totals(page, rows[0], window)
    page.line()
    seen = clock(moment.as_of_us, scope.zone)
    page.line(Styled(f"position {count(moment.position)} · {seen} · journal file", "dim"))


def window_text(scope: Scope) -> str:
    """Return a window as people read it."""
    from palyra.cli.render import instant

    start, end = (instant(us, scope.zone) for us in (scope.from_us, scope.to_us))
    named = str(scope.zone)
    return f"{start} to {end}" if named == "local" else f"{start} to {end} ({named})"
