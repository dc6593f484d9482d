"""Bring a journal file to the schema of this release, one transaction a migration.

`migrations/NNNN_name.sql` are plain SQL without BEGIN and COMMIT, numbered from 1 without a gap; the file's
`user_version` is the number of the last one that ran. A migration that fails leaves the number before it in force
and the file usable by the release that wrote it. Event rows are never rewritten, and a file of a newer release is
refused before a byte of it changes.
"""

from __future__ import annotations

import importlib.resources
import re
import sqlite3
from collections.abc import Sequence
from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

from palyra.errors import JournalNewer, JournalUnreadable

_FILE_NAME = re.compile(r"(\d{4})_\w+\.sql")


class Migration(NamedTuple):
    """One step from `number - 1` to `number`."""

    number: int
    name: str
    sql: str


def migrations_folder() -> Traversable:
    """Return the folder of the SQL files: inside the package when installed, beside it in a checkout."""
    installed = importlib.resources.files("palyra") / "migrations"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "migrations"


def read_migrations(folder: Traversable) -> tuple[Migration, ...]:
    """Return the migrations of a folder in order; `ValueError` when their numbers leave a gap."""
    found = sorted(
        Migration(int(match[1]), entry.name, entry.read_text(encoding="utf-8"))
        for entry in folder.iterdir()
        if (match := _FILE_NAME.fullmatch(entry.name))
    )
    if [migration.number for migration in found] != list(range(1, len(found) + 1)) or not found:
        raise ValueError(f"Migrations are not numbered 1, 2, 3, ...: {[entry.name for entry in found]}")
    return tuple(found)


@cache
def released_migrations() -> tuple[Migration, ...]:
    """Return the migrations of this release."""
    return read_migrations(migrations_folder())


def schema_number(connection: sqlite3.Connection) -> int:
    """Return the number of the last migration that ran on this file."""
    number: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return number


def refuse_newer(number: int, migrations: Sequence[Migration]) -> None:
    """Raise `JournalNewer` when a file's number is beyond the last migration that we know."""
    if number > len(migrations):
        raise JournalNewer(
            f"The journal has schema {number}; this release knows {len(migrations)}.",
            hint="Start the release that wrote it, or a later one.",
        )


def upgrade(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> tuple[int, int]:
    """Run the migrations that a file lacks; return its number before and after.

    `connection` is in autocommit mode. Raises `JournalNewer` and `JournalUnreadable` (somebody else's database)
    before anything is written, `sqlite3.Error` when a migration fails, after rolling that one back.
    """
    before = schema_number(connection)
    refuse_newer(before, migrations)
    if before == 0 and connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise JournalUnreadable("The file is a SQLite database, but not a journal.")
    for migration in migrations[before:]:
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{migration.sql}\nPRAGMA user_version = {migration.number};\nCOMMIT;"
            )
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return before, len(migrations)
