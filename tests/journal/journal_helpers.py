"""What the journal's tests share: rows, journals made from them, connections that fail."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from palyra.journal.port import Row
from palyra.journal.sqlite import SqliteJournal
from palyra.journal.writer import JournalOptions

JOURNAL_ID = "01JTESTJOURNAL000000000000"
NOW_US = 1_795_000_000_000_000
#: Lazy rows stay lazy for as long as any test runs.
PATIENT = JournalOptions(lazy_append_ms=5_000_000)


def row(position: int, stream: str = "run-a", version: int | None = None, **fields: Any) -> Row:
    """Return a row; by default the whole journal is one stream."""
    values: dict[str, Any] = {
        "name": "attempt.failed",
        "schema": 1,
        "recorded_at_us": NOW_US + position,
        "actor": "key:test",
        "correlation": "",
        "causation": position - 1,
        "command_key": "",
        "body": b'{"n":%d}' % position,
    }
    return Row(position=position, stream=stream, version=version or position, **{**values, **fields})


def rows(first: int, last: int) -> list[Row]:
    """Return rows first..last of one stream."""
    return [row(position) for position in range(first, last + 1)]


async def open_sqlite(path: Path, **arguments: Any) -> SqliteJournal:
    """Open a journal file with this suite's identity."""
    arguments.setdefault("new_journal_id", JOURNAL_ID)
    arguments.setdefault("now_us", NOW_US)
    return await SqliteJournal.open(path, **arguments)


async def write_journal(path: Path, all_rows: Sequence[Row]) -> Path:
    """Make a journal file of these rows and close it."""
    journal = await open_sqlite(path)
    for start in range(0, len(all_rows), 1_000):
        await journal.append(all_rows[start : start + 1_000])
    await journal.close()
    return path


@contextlib.contextmanager
def tampering(path: Path) -> Iterator[sqlite3.Connection]:
    """Give a connection that may do what the guards forbid; they are put back afterwards."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        guards = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in guards:
            connection.execute(f"DROP TRIGGER {name}")
        yield connection
        for _, sql in guards:
            connection.execute(sql)


class FailurePlan:
    """Which statement of a connection fails, before or after it did its work."""

    def __init__(self, nth: int, *, is_done_before: bool = False) -> None:
        self.nth = nth
        self.is_done_before = is_done_before
        self.count = 0

    def connection_factory(self) -> type[sqlite3.Connection]:
        """Return the class of connections that follow this plan."""
        plan = self

        class FailingConnection(sqlite3.Connection):
            def execute(self, *arguments: Any) -> sqlite3.Cursor:
                plan.count += 1
                is_failing = plan.count == plan.nth
                if is_failing and not plan.is_done_before:
                    raise sqlite3.OperationalError("disk I/O error")
                cursor = super().execute(*arguments)
                if is_failing:
                    cursor.close()
                    raise sqlite3.OperationalError("disk I/O error")
                return cursor

        return FailingConnection
