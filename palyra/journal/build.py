"""Make a journal file of rows that exist already: for import, branches and accepted forks.

Every link is computed again on the way and the finished file is verified as it lies on the disk, so what comes out
is a sound journal or an error that names the row. It is made where nobody looks yet (`staging`), and is durable
only when `finish` has returned.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from palyra.errors import JournalDamaged, JournalUnwritable
from palyra.journal.chain import genesis_link, stored_link
from palyra.journal.disk import create_private
from palyra.journal.failures import cause_of
from palyra.journal.migrations import refuse_newer, released_migrations, upgrade
from palyra.journal.port import Head
from palyra.journal.reader import JournalReader, StoredRow
from palyra.journal.verify import verify

#: Told how many rows are done, of how many.
Progress = Callable[[int, int], None]

_INSERT = f"INSERT INTO event VALUES ({', '.join('?' * len(StoredRow._fields))})"


class RowRefused(JournalDamaged):
    """A row does not continue the chain."""

    def __init__(self, position: int, why: str) -> None:
        super().__init__(f"Position {position} {why}.")
        self.position = position
        self.why = why


class JournalBuilder:
    """A journal file in the making. Use as a context manager; without `finish` nothing is left of it."""

    def __init__(self, path: Path, journal_id: str) -> None:
        self.path = path
        self.journal_id = journal_id
        self._position, self._link, self._recorded_at_us = 0, genesis_link(journal_id), 0
        self._is_finished = False
        if not create_private(path):
            raise JournalUnwritable(f"{path} exists already.")
        self._connection = sqlite3.connect(path, isolation_level=None)

    def __enter__(self) -> Self:
        # Nobody sees the file before it is whole: a crash loses it, so nothing needs to be kept on the way.
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -16384"):
            self._connection.execute(f"PRAGMA {pragma}")
        upgrade(self._connection, released_migrations())
        self._connection.execute("BEGIN")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        if not self._is_finished:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    @property
    def head(self) -> Head:
        """The last row that was added."""
        return Head(self._position, self._link, self._recorded_at_us)

    def add(self, rows: Sequence[StoredRow]) -> None:
        """Add the next rows; raises `RowRefused` for the first that does not continue the chain."""
        try:
            self._connection.executemany(_INSERT, map(self._linked, rows))
        except sqlite3.IntegrityError as exc:
            raise RowRefused(self._position, f"contradicts a row before it ({exc})") from exc
        except sqlite3.Error as exc:
            raise JournalUnwritable(f"{self.path} cannot be written: {cause_of(exc)}.") from exc

    def _linked(self, row: StoredRow) -> tuple[object, ...]:
        if row.position != self._position + 1:
            raise RowRefused(self._position + 1, f"is missing; the next one is {row.position}")
        try:
            link = stored_link(self._link, *row[:-1])
            values: list[Any] = [value.decode() if isinstance(value, bytes) else value for value in row[:-1]]
        except (struct.error, TypeError, UnicodeDecodeError) as exc:
            raise RowRefused(row.position, "holds values that no row can have") from exc
        if link != row.link:
            raise RowRefused(row.position, "has another link than its content and the row before it give")
        self._position, self._link, self._recorded_at_us = row.position, link, row.recorded_at_us
        # What is empty is stored as NULL: correlation, causation, command_key.
        values[7:10] = [value or None for value in values[7:10]]
        return (*values, link)

    def finish(self, created_at_us: int) -> Head:
        """Give the journal its identity, make it durable, and verify it as it lies on the disk."""
        try:
            self._connection.execute("INSERT INTO journal VALUES (1, ?, ?)", (self.journal_id, created_at_us))
            self._connection.execute("COMMIT")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.close()
            with self.path.open("r+b") as file:
                os.fsync(file.fileno())
        except (sqlite3.Error, OSError) as exc:
            raise JournalUnwritable(f"{self.path} cannot be finished: {cause_of(exc)}.") from exc
        refuse_unsound(self.path)
        self._is_finished = True
        return self.head


def refuse_unsound(path: Path) -> None:
    """Raise `RowRefused` or `JournalDamaged` for the first thing that a check of a file without a witness finds."""
    for finding in verify(path).findings:
        if finding.severity != "info" and finding.code != "witness_missing":
            if finding.position is not None:
                raise RowRefused(finding.position, f"fails its check ({finding.code})")
            raise JournalDamaged(f"{path} fails its check: {finding.code}. {finding.meaning}")


def copy_rows(reader: JournalReader, upto: int, path: Path, progress: Progress | None = None) -> Head:
    """Make a journal of the rows up to a position; the source is only read.

    Raises `RowRefused` when the source is damaged up to there, `JournalNewer` when a newer release made it.
    """
    refuse_newer(reader.schema, released_migrations())
    with JournalBuilder(path, reader.journal_id) as builder:
        try:
            for batch in reader.stored_rows(0, upto):
                builder.add(batch)
                if progress is not None:
                    progress(builder.head.position, upto)
        except RowRefused:
            raise
        except JournalDamaged as exc:
            raise RowRefused(builder.head.position + 1, "or one of the next cannot be read") from exc
        if builder.head.position != upto:
            raise RowRefused(builder.head.position + 1, "is missing")
        return builder.finish(reader.created_at_us)
