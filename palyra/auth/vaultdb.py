"""`vault.db`: one row a sealed revision, and the highest revision that a reference ever had.

Plain columns are what a list shows; whoever opens a row compares them with what was sealed. SQLite overwrites what
it deletes, and a write is one transaction that is on the disk when it returns.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

FORMAT = 1
SecretKind = Literal["text", "credential_set"]

_SCHEMA = """
CREATE TABLE vault (
    vault_id TEXT NOT NULL, key_source TEXT NOT NULL, key_check TEXT NOT NULL, created_us INTEGER NOT NULL
) STRICT;
CREATE TABLE secret (
    scope TEXT NOT NULL, key TEXT NOT NULL, last_revision INTEGER NOT NULL, PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE revision (
    scope TEXT NOT NULL, key TEXT NOT NULL, revision INTEGER NOT NULL, kind TEXT NOT NULL, purpose TEXT NOT NULL,
    audience TEXT NOT NULL, profile_id TEXT NOT NULL, created_us INTEGER NOT NULL, value_bytes INTEGER NOT NULL,
    sealed BLOB NOT NULL, PRIMARY KEY (scope, key, revision)
) STRICT, WITHOUT ROWID;
"""
_PLAIN_COLUMNS = "scope, key, revision, kind, purpose, audience, profile_id, created_us, value_bytes"
_COLUMNS = f"{_PLAIN_COLUMNS}, sealed"


class VaultUnreadable(Exception):
    """The file is no vault of a format that this release knows; its text says why."""


class Meta(NamedTuple):
    """What a vault says of itself."""

    vault_id: str
    key_source: str
    #: `SealingKey.check` of the key that seals it.
    key_check: str
    created_us: int


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One sealed revision."""

    scope: str
    key: str
    revision: int
    kind: SecretKind
    #: Why it was stored: put, connect, rotate, refresh, attempt.
    purpose: str
    #: Origin that it may be sent to; "" = whichever names it.
    audience: str
    profile_id: str
    created_us: int
    value_bytes: int
    sealed: bytes


class VaultDb:
    """An open file, or a vault in memory. Used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path | None) -> VaultDb:
        """Open a file that exists, or a vault in memory for None; raises `VaultUnreadable`."""
        target = ":memory:" if path is None else f"{path.absolute().as_uri()}?mode=rw"
        try:
            connection = sqlite3.connect(target, uri=True, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as exc:
            raise VaultUnreadable(f"it cannot be opened ({exc})") from exc
        try:
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA synchronous = EXTRA")
        except sqlite3.Error as exc:
            connection.close()
            raise VaultUnreadable(f"it is no vault, or damaged ({exc})") from exc
        return cls(connection)

    @classmethod
    def open_to_read(cls, path: Path) -> VaultDb:
        """Open a file that exists and change no byte of it; raises `VaultUnreadable`."""
        try:
            return cls(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True))
        except sqlite3.Error as exc:
            raise VaultUnreadable(f"it cannot be opened ({exc})") from exc

    @classmethod
    def make(cls, path: Path | None) -> VaultDb:
        """Open a file that may be missing, for its owner alone."""
        if path is not None:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        return cls.open(path)

    def close(self) -> None:
        self._connection.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """All or nothing; on the disk at the end."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def meta(self) -> Meta | None:
        """Return what the vault says of itself, None for an empty file; raises `VaultUnreadable`."""
        try:
            number = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if number > FORMAT:
                raise VaultUnreadable(f"a newer release wrote it (format {number})")
            if not number:
                if self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                    raise VaultUnreadable("it is a database of something else")
                return None
            row = self._connection.execute(
                "SELECT vault_id, key_source, key_check, created_us FROM vault"
            ).fetchone()
        except sqlite3.Error as exc:
            raise VaultUnreadable(f"it is damaged ({exc})") from exc
        if row is None:
            raise VaultUnreadable("it does not say which vault it is")
        return Meta(*row)

    def begin(self, meta: Meta) -> None:
        """Make an empty file a vault."""
        with self.writing():
            for statement in _SCHEMA.split(";"):
                self._connection.execute(statement)
            self._connection.execute("INSERT INTO vault VALUES (?, ?, ?, ?)", meta)
            self._connection.execute(f"PRAGMA user_version = {FORMAT}")

    def replace_key(self, key_source: str, key_check: str, rows: Sequence[Row]) -> None:
        """Put rows that were sealed anew in the place of the old ones."""
        with self.writing():
            self._connection.execute("UPDATE vault SET key_source = ?, key_check = ?", (key_source, key_check))
            self._connection.executemany(
                "UPDATE revision SET sealed = ? WHERE scope = ? AND key = ? AND revision = ?",
                [(row.sealed, row.scope, row.key, row.revision) for row in rows],
            )

    def rows(self) -> list[Row]:
        """Return every revision, by reference and revision."""
        return self._rows(_COLUMNS)

    def index(self) -> list[Row]:
        """Return every revision without what is sealed in it."""
        return self._rows(f"{_PLAIN_COLUMNS}, x''")

    def _rows(self, columns: str) -> list[Row]:
        found = self._connection.execute(f"SELECT {columns} FROM revision ORDER BY scope, key, revision")
        return [_row(each) for each in found]

    def row(self, scope: str, key: str, revision: int) -> Row | None:
        found = self._connection.execute(
            f"SELECT {_COLUMNS} FROM revision WHERE scope = ? AND key = ? AND revision = ?", (scope, key, revision)
        ).fetchone()
        return None if found is None else _row(found)

    def live_revision(self, scope: str, key: str) -> int:
        """Return the newest revision that is there, 0 for none."""
        found = self._connection.execute(
            "SELECT max(revision) FROM revision WHERE scope = ? AND key = ?", (scope, key)
        ).fetchone()[0]
        return found or 0

    def last_revision(self, scope: str, key: str) -> int:
        """Return the highest revision that ever was, 0 for none."""
        found = self._connection.execute(
            "SELECT last_revision FROM secret WHERE scope = ? AND key = ?", (scope, key)
        ).fetchone()
        return 0 if found is None else found[0]

    def references_count(self) -> int:
        found: int = self._connection.execute(
            "SELECT count(DISTINCT scope || '/' || key) FROM revision"
        ).fetchone()[0]
        return found

    def insert(self, row: Row) -> None:
        """Add a revision; inside `writing`."""
        values = msgspec.structs.astuple(row)
        self._connection.execute(f"INSERT INTO revision ({_COLUMNS}) VALUES ({','.join('?' * 10)})", values)
        self._connection.execute(
            "INSERT INTO secret VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET last_revision = excluded.last_revision",
            (row.scope, row.key, row.revision),
        )

    def delete(self, scope: str, key: str, below: int | None) -> list[int]:
        """Delete the revisions below one, or all; return which; inside `writing`."""
        found = self._connection.execute(
            "DELETE FROM revision WHERE scope = ? AND key = ? AND (? IS NULL OR revision < ?) RETURNING revision",
            (scope, key, below, below),
        )
        return sorted(each[0] for each in found.fetchall())

    def delete_one(self, scope: str, key: str, revision: int) -> bool:
        """Delete one revision; inside `writing`."""
        found = self._connection.execute(
            "DELETE FROM revision WHERE scope = ? AND key = ? AND revision = ?", (scope, key, revision)
        )
        return found.rowcount > 0


def _row(values: tuple[object, ...]) -> Row:
    return Row(**dict(zip(Row.__struct_fields__, values, strict=True)))  # type: ignore[arg-type]
