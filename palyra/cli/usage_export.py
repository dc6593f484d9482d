"""`palyra usage export`: a dataset as a file, made here or by a daemon that may run anywhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call
from palyra.cli.usage_report import FILTERS, put, say_written

if TYPE_CHECKING:
    from palyra.engine.console.exports import ExportParams


def export_dataset(call: Call, **options: Any) -> int:
    """Write the file that the options ask for; returns the exit status."""
    from palyra.cli.usage_window import window_params
    from palyra.engine.console.exports import ExportParams

    form, out = options["form"] or ("json" if call.as_json else "csv"), options["out"]
    if form == "parquet" and out is None and sys.stdout.isatty():
        message = "parquet is nothing for a terminal; name a file with --out"
        raise click.UsageError(message, click.get_current_context())
    window = window_params({name: options[name] for name in ("from_", "to", "timezone", *FILTERS)})
    given: dict[str, Any] = {
        **window,
        "dataset": options["dataset"],
        "format": form,
        "group_by": [name for part in options["group_by"] for name in part.split(",") if name],
        "bucket": options["bucket"],
        "top": options["top"] or 0,
    }
    put(out, _chunks(call, ExportParams(**given)))
    say_written(out, form)
    return 0


def _chunks(call: Call, params: ExportParams) -> Iterator[bytes]:
    from palyra.cli.asking import zone_name
    from palyra.cli.door import find_door
    from palyra.cli.progress import Progress
    from palyra.cli.reading import file_of_journal
    from palyra.engine.clock import SystemClock
    from palyra.engine.console.changes import DaemonNotRunning
    from palyra.engine.console.exports import export
    from palyra.engine.console.file import sight_of_file
    from palyra.engine.console.frame import JournalFiles
    from palyra.engine.console.table import USAGE_EXPORT
    from palyra.journal.lock import LockState, read_lock

    lock, zone = LockState(False, None) if call.url else read_lock(call.paths.lock), zone_name(call)
    if call.source == "online" or call.url:
        door = find_door(call, lock)
        if door is None:
            raise DaemonNotRunning
        frame = {"zone": zone} | ({"at": call.as_of} if call.as_of is not None else {})
        yield from door.fetch(USAGE_EXPORT.path, params, frame)
        return
    files = JournalFiles(file_of_journal(call.paths), call.paths.vault_key)
    now_us = SystemClock().now_us()
    with (
        Progress() as progress,
        sight_of_file(
            files=files,
            lock=lock,
            at=call.as_of,
            zone=zone,
            now_us=now_us,
            progress=progress,
        ) as sight,
    ):
        written = export(sight, params)
        yield from written.chunks
