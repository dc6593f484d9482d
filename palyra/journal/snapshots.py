"""`snapshots.db`: states folded up to some position, so that a start need not fold from the first event.

A cache beside the journal and nothing else: it may be deleted at any time, a damaged one is deleted and made again,
and what it holds is believed only where its link is the log's own link at that position and its bytes have the
checksum they were stored with. Loading writes nothing, so offline commands may use it beside a live daemon.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

from palyra.errors import JournalUnwritable
from palyra.journal.failures import cause_of, is_damage
from palyra.journal.port import Snapshot
from palyra.journal.reader import open_readonly

SNAPSHOTS_FILE = "snapshots.db"

#: The newest ones that are always kept.
_NEWEST_COUNT = 3
#: States above this size are compressed.
_COMPRESSED_FROM_BYTES = 64 * 1024

_TABLE = """
CREATE TABLE IF NOT EXISTS snapshot (
    position   INTEGER PRIMARY KEY,
    link       BLOB    NOT NULL,  -- of the log at this position
    digest     TEXT    NOT NULL,  -- names the shape of the state
    size       INTEGER NOT NULL,  -- bytes of the state, uncompressed
    checksum   BLOB    NOT NULL,  -- SHA-256 of the state, uncompressed
    is_zlib    INTEGER NOT NULL,
    state      BLOB    NOT NULL
) STRICT
"""


def positions_to_keep(positions: Iterable[int]) -> set[int]:
    """Return the newest three and one for each power of two of distance from the newest.

    In each power the oldest is kept: it moves on to the next power as the log grows, and the next one takes its
    place. So n snapshots become about log2 n, and for every past position there is one not much further back.
    """
    ordered = sorted(positions, reverse=True)
    oldest_by_power = {(ordered[0] - position).bit_length(): position for position in ordered}
    return {*ordered[:_NEWEST_COUNT], *oldest_by_power.values()}


class SnapshotFile:
    """The snapshots of one journal. Synchronous; each call opens the file and closes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, snapshot: Snapshot) -> None:
        """Store a snapshot and thin the older ones; drop those of another shape or of another history.

        Raises `JournalUnwritable` when the disk refuses.
        """
        try:
            try:
                self._save(snapshot)
            except sqlite3.DatabaseError as exc:
                if not _is_unusable(exc):
                    raise
                self.delete()
                self._save(snapshot)
        except (sqlite3.Error, OSError) as exc:
            raise JournalUnwritable(f"The snapshots {self.path} cannot be written: {cause_of(exc)}.") from exc

    def load(self, digest: str, upto: int, link_at: Callable[[int], bytes | None]) -> Snapshot | None:
        """Return the newest valid snapshot at or before `upto`; None also when the file is missing or damaged."""
        if not self.path.exists():
            return None
        try:
            with contextlib.closing(open_readonly(self.path, immutable=False)) as connection:
                candidates = connection.execute(
                    "SELECT position, link FROM snapshot WHERE digest = ? AND position <= ? ORDER BY position DESC",
                    (digest, upto),
                ).fetchall()
                for position, link in candidates:
                    if link_at(position) == link and (state := _read_state(connection, position)) is not None:
                        return Snapshot(position, link, digest, state)
        except sqlite3.Error:
            return None
        return None

    def positions(self) -> list[int]:
        """Return the positions that have a snapshot, valid or not, in order."""
        if not self.path.exists():
            return []
        try:
            with contextlib.closing(open_readonly(self.path, immutable=False)) as connection:
                rows = connection.execute("SELECT position FROM snapshot ORDER BY position").fetchall()
        except sqlite3.Error:
            return []
        return [position for (position,) in rows]

    def delete(self) -> None:
        """Remove the file and its rollback journal."""
        for path in (self.path, Path(f"{self.path}-journal")):
            path.unlink(missing_ok=True)

    def _save(self, snapshot: Snapshot) -> None:
        state = snapshot.state
        is_zlib = len(state) > _COMPRESSED_FROM_BYTES
        row = (
            snapshot.position,
            snapshot.link,
            snapshot.digest,
            len(state),
            sha256(state).digest(),
            is_zlib,
            zlib.compress(state, 1) if is_zlib else state,
        )
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_TABLE)
            connection.execute(
                "DELETE FROM snapshot WHERE digest <> ? OR position >= ?", (snapshot.digest, snapshot.position)
            )
            connection.execute("INSERT INTO snapshot VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            positions = {position for (position,) in connection.execute("SELECT position FROM snapshot")}
            for position in positions - positions_to_keep(positions):
                connection.execute("DELETE FROM snapshot WHERE position = ?", (position,))
            connection.execute("COMMIT")


def _is_unusable(exc: sqlite3.Error) -> bool:
    """Whether the file is damaged or has another layout than ours."""
    return is_damage(exc) or getattr(exc, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR


def _read_state(connection: sqlite3.Connection, position: int) -> bytes | None:
    sql = "SELECT checksum, is_zlib, state FROM snapshot WHERE position = ?"
    checksum, is_zlib, stored = connection.execute(sql, (position,)).fetchone()
    try:
        state: bytes = zlib.decompress(stored) if is_zlib else stored
    except zlib.error:
        return None
    return state if sha256(state).digest() == checksum else None
