"""Read a journal file synchronously, beside a live daemon or without one; it writes nothing and takes no lock.

Rows are fetched in batches, each by a statement of its own: between two batches no read transaction is open, so a
reader never keeps the writer from checkpointing. Rows are never changed, so batches of different instants fit.

While a `-wal` file exists the journal is opened `mode=ro`. A journal that was closed cleanly has none, and a plain
read-only connection would leave `-wal` and `-shm` files behind (or fail where the directory cannot be written), so
it is opened `immutable`, which looks for no other file. A writer may start meanwhile; therefore each answer counts
only if the file is still the one that was opened, else it is asked again over a new connection.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec

from palyra.errors import JournalDamaged, JournalUnreadable
from palyra.journal.chain import genesis_link
from palyra.journal.failures import reading_failed
from palyra.journal.migrations import schema_number
from palyra.journal.port import Head, NameSize, Row

#: Rows in a batch: long enough to forget the cost of a statement, short enough to hold no checkpoint up.
BATCH_COUNT = 1_000
#: Rows that are counted in one statement.
_COUNTED_COUNT = 50_000
#: The largest number of SQLite, so beyond every position.
_NO_END = (1 << 63) - 1

_ROW_COLUMNS = (
    "position, stream, version, name, schema, recorded_at_us, actor, coalesce(correlation, ''),"
    " coalesce(causation, 0), coalesce(command_key, ''), CAST(body AS BLOB)"
)
#: For each value that is fetched SQLite takes its lock three times, which is a good part of what a fold costs; so
#: the columns in which nearly all rows are alike come as one, or with another.
_PACKED_COLUMNS = (
    "position, stream, version, iif(schema = 1, name, name || '/' || schema), recorded_at_us, actor,"
    " iif(coalesce(correlation, causation, command_key) IS NULL, NULL,"
    " json_array(coalesce(correlation, ''), coalesce(causation, 0), coalesce(command_key, ''))), CAST(body AS BLOB)"
)
_STORED_COLUMNS = (
    "position, CAST(stream AS BLOB), version, CAST(name AS BLOB), schema, recorded_at_us, CAST(actor AS BLOB),"
    " CAST(coalesce(correlation, '') AS BLOB), coalesce(causation, 0), CAST(coalesce(command_key, '') AS BLOB),"
    " CAST(body AS BLOB), CAST(link AS BLOB)"
)

#: A row for a fold: position, stream, version, kind (the name, and `/` and the schema number where that is not 1),
#: recorded_at_us, actor, JSON of correlation, causation and command key (None where there is none of them), body.
PackedRow = tuple[int, str, int, str, int, str, str | None, bytes]

#: What `_make` does, without a Python call a row: replay is bound by it.
_as_tuple = tuple.__new__


class StoredRow(NamedTuple):
    """A row as bytes, valid text or not, with its link; the order of fields is that of `Row`."""

    position: int
    stream: bytes
    version: int
    name: bytes
    schema: int
    recorded_at_us: int
    actor: bytes
    correlation: bytes
    causation: int
    command_key: bytes
    body: bytes
    link: bytes


def open_readonly(path: Path, *, immutable: bool) -> sqlite3.Connection:
    """Open a SQLite file that is never written through this connection."""
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


class JournalReader:
    """The rows of one journal file. Raises `JournalUnreadable` and `JournalDamaged`.

    With `upto` it reads as if the journal ended there, which is how it was when that row was the last one.
    One thread at a time; any thread.
    """

    def __init__(self, path: Path, *, upto: int | None = None) -> None:
        self.path = path
        self._end = _NO_END if upto is None else upto
        self._wal_path = Path(f"{path}-wal")
        self._connection: sqlite3.Connection | None = None
        try:
            identity = self.query("SELECT journal_id, created_at_us FROM journal")
        except JournalUnreadable:
            self.close()
            if path.exists():
                raise
            raise JournalUnreadable(f"There is no journal at {path}.") from None
        except BaseException:
            self.close()
            raise
        if not identity:
            self.close()
            raise JournalUnreadable(f"The journal {path} was never finished being made; it has no id.")
        self.journal_id: str = identity[0][0]
        self.created_at_us: int = identity[0][1]
        if not isinstance(self.journal_id, str) or not isinstance(self.created_at_us, int):
            self.close()
            raise JournalDamaged(f"The journal {path} has an id that is none.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def schema(self) -> int:
        """Number of the last migration that ran on the file."""
        number: int = self.query("PRAGMA user_version")[0][0]
        return number

    def head(self) -> Head:
        """Return the last row's position, link and instant."""
        # A damaged page can hold values of any type; whoever looks at the head must be able to say so.
        sql = (
            "SELECT position, coalesce(CAST(link AS BLOB), x''), coalesce(CAST(recorded_at_us AS INTEGER), 0)"
            " FROM event WHERE position <= ? ORDER BY position DESC LIMIT 1"
        )
        rows = self.query(sql, (self._end,))
        return Head(*rows[0]) if rows else Head(0, genesis_link(self.journal_id), self.created_at_us)

    def rows(
        self, after: int = 0, upto: int | None = None, names: Collection[str] | None = None
    ) -> Iterator[list[Row]]:
        """Yield rows with after < position <= upto (default: the head) in batches, only these `names` if given."""
        if names is None:
            for found in self._batches(_ROW_COLUMNS, after, upto):
                yield [_as_tuple(Row, row) for row in found]
            return
        wanted = sorted(names)
        sql = (
            f"SELECT {_ROW_COLUMNS} FROM event WHERE position > ? AND position <= ?"
            f" AND name IN ({', '.join('?' * len(wanted))}) ORDER BY position"
        )
        for low, high in self._windows(after, upto, BATCH_COUNT):
            if found := self.query(sql, (low, high, *wanted)):
                yield [_as_tuple(Row, row) for row in found]

    def packed_rows(self, after: int = 0, upto: int | None = None) -> Iterator[list[PackedRow]]:
        """Like `rows`, for a fold, which takes all of them."""
        return self._batches(_PACKED_COLUMNS, after, upto)

    def stored_rows(self, after: int = 0, upto: int | None = None) -> Iterator[list[StoredRow]]:
        """Like `rows`, as stored bytes with links: for whoever checks or copies a journal."""
        for found in self._batches(_STORED_COLUMNS, after, upto):
            yield [_as_tuple(StoredRow, row) for row in found]

    def _batches(self, columns: str, after: int, upto: int | None) -> Iterator[list[Any]]:
        end = self.head().position if upto is None else upto
        sql = (
            f"SELECT {columns} FROM event WHERE position > ? AND position <= ?"
            f" ORDER BY position LIMIT {BATCH_COUNT}"
        )
        while found := self.query(sql, (after, end)):
            yield found
            after = self._advanced(after, found[-1][0])

    def stream(self, stream_glob: str, after: int = 0, upto: int | None = None) -> Iterator[list[Row]]:
        """Yield rows of the streams that match a GLOB pattern (`run-01J...`, `run-*`) in order of position.

        The pattern's literal beginning is looked up in the index; the positions found are held in memory (8 bytes
        each), the rows are not.
        """
        # GLOB, because LIKE is case-insensitive and could not use the index.
        found = self.query(
            "SELECT position FROM event WHERE stream GLOB ? AND position > ? AND position <= ?",
            (stream_glob, after, self.head().position if upto is None else upto),
        )
        positions = array("q", sorted(position for (position,) in found))
        for start in range(0, len(positions), BATCH_COUNT):
            chunk = positions[start : start + BATCH_COUNT]
            sql = (
                f"SELECT {_ROW_COLUMNS} FROM event WHERE position IN ({', '.join('?' * len(chunk))})"
                " ORDER BY position"
            )
            yield [_as_tuple(Row, row) for row in self.query(sql, tuple(chunk))]

    def row(self, position: int) -> Row | None:
        """Return the row at a position."""
        sql = f"SELECT {_ROW_COLUMNS} FROM event WHERE position = ? AND position <= ?"
        rows = self.query(sql, (position, self._end))
        return Row._make(rows[0]) if rows else None

    def link(self, position: int) -> bytes | None:
        """Return the link at a position, that of 0 being the genesis link; None where there is no row."""
        if position == 0:
            return genesis_link(self.journal_id)
        sql = "SELECT CAST(link AS BLOB) FROM event WHERE position = ? AND position <= ?"
        rows = self.query(sql, (position, self._end))
        return rows[0][0] if rows else None

    def position_of(self, stream: bytes, version: int) -> int | None:
        """Return where a version of a stream stands; the name of the stream is given as stored bytes."""
        sql = "SELECT position FROM event WHERE stream = CAST(? AS TEXT) AND version = ? AND position <= ?"
        rows = self.query(sql, (stream, version, self._end))
        return rows[0][0] if rows else None

    def position_at(self, instant_us: int) -> int:
        """Return the last position that was recorded at or before an instant, 0 if there is none.

        Found by bisection. Where the clock was set back the instants are not in order, and of the positions at
        which the log crosses the instant one is returned.
        """
        sql = "SELECT recorded_at_us FROM event WHERE position <= ? ORDER BY position DESC LIMIT 1"
        low, high = 0, self.head().position
        while low < high:
            middle = (low + high + 1) // 2
            rows = self.query(sql, (middle,))
            if not rows or rows[0][0] <= instant_us:
                low = middle
            else:
                high = middle - 1
        return low

    def sizes_by_name(self) -> dict[str, NameSize]:
        """Return count and bytes of bodies for each name, sorted by name; reads every row."""
        sizes: dict[str, NameSize] = {}
        sql = (
            "SELECT name, count(*), sum(length(CAST(body AS BLOB))) FROM event"
            " WHERE position > ? AND position <= ? GROUP BY name"
        )
        for window in self._windows(0, None, _COUNTED_COUNT):
            for name, count, body_bytes in self.query(sql, window):
                known = sizes.get(name, NameSize(0, 0))
                sizes[name] = NameSize(known.events_count + count, known.body_bytes + body_bytes)
        return dict(sorted(sizes.items()))

    def _windows(self, after: int, upto: int | None, count: int) -> Iterator[tuple[int, int]]:
        """Cut a range into pieces of at most `count` rows, whatever gaps a damaged journal has."""
        end = self.head().position if upto is None else upto
        sql = (
            "SELECT max(position) FROM (SELECT position FROM event"
            " WHERE position > ? AND position <= ? ORDER BY position LIMIT ?)"
        )
        while (high := self.query(sql, (after, end, count))[0][0]) is not None:
            yield after, high
            after = self._advanced(after, high)

    def _advanced(self, after: int, position: int) -> int:
        """Return how far it was read; in a damaged file a search can lead back, and would so for ever."""
        if position <= after:
            raise JournalDamaged(f"The journal {self.path} is out of order after position {after}.")
        return position

    def query(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a statement, read from a file that nobody replaced under an immutable connection."""
        while True:
            try:
                rows = self._open().execute(sql, parameters).fetchall()
            except (sqlite3.Error, UnicodeDecodeError) as exc:
                if self._is_current():
                    raise reading_failed(self.path, exc) from exc
            else:
                if self._is_current():
                    return rows
            self.close()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._stamp = self._file_stamp()
            self._is_immutable = not self._wal_path.exists()
            self._connection = open_readonly(self.path, immutable=self._is_immutable)
        return self._connection

    def _is_current(self) -> bool:
        return not self._is_immutable or (self._file_stamp() == self._stamp and not self._wal_path.exists())

    def _file_stamp(self) -> tuple[int, ...] | None:
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns


def unpacked(row: PackedRow) -> Row:
    """Return the row of a packed one; raises `msgspec.DecodeError` where a damaged page made it."""
    position, stream, version, kind, recorded_at_us, actor, aside, body = row
    name, _, schema = kind.partition("/")
    correlation, causation, key = _decode_aside(aside) if aside is not None else ("", 0, "")
    return Row(
        position,
        stream,
        version,
        name,
        int(schema or 1),
        recorded_at_us,
        actor,
        correlation,
        causation,
        key,
        body,
    )


_decode_aside = msgspec.json.Decoder(tuple[str, int, str]).decode


def read_making(path: Path) -> tuple[int, bool]:
    """Return the number of the last migration that ran on a file and whether it has its id, changing no byte."""
    connection = open_readonly(path, immutable=not Path(f"{path}-wal").exists())
    try:
        number = schema_number(connection)
        has_id = number > 0 and connection.execute("SELECT count(*) FROM journal").fetchone()[0] == 1
        return number, has_id
    except sqlite3.Error as exc:
        raise reading_failed(path, exc) from exc
    finally:
        connection.close()
