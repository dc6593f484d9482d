"""The journal in a SQLite file: `SqliteJournal`, and the store under it.

One connection does all writes and all checkpoints (SQLite before 3.51.3 can damage a write-ahead log that two
connections write and checkpoint at the same instant); it lives in aiosqlite's thread and belongs to the writer. A
batch is one INSERT with many VALUES in autocommit mode: one hop to the thread and one step in SQLite, because
sqlite3 gives the GIL back at every step and a busy loop may keep it for 5 ms. Reading never touches that
connection: each batch is fetched in a worker thread over a read-only connection of its own.

Checkpoints are SQLite's own passive ones after `wal_checkpoint_bytes`, made by the commit that passes them;
`checkpoint` orders others, and closing truncates the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, Self, TypeVar

import aiosqlite

from palyra.errors import JournalDamaged, JournalUnreadable, JournalUnwritable
from palyra.journal.chain import genesis_link
from palyra.journal.disk import create_private
from palyra.journal.failures import cause_of, refused
from palyra.journal.migrations import Migration, refuse_newer, released_migrations, upgrade
from palyra.journal.port import Head, Row, Snapshot
from palyra.journal.reader import BATCH_COUNT, JournalReader, read_making
from palyra.journal.snapshots import SNAPSHOTS_FILE, SnapshotFile
from palyra.journal.writer import GroupCommit, JournalOptions

_PAGE_BYTES = 4_096
_CACHE_KIB = 4_096
#: Prepared INSERTs that are kept, one a number of rows; the longest holds about 400 KiB.
_STATEMENTS_COUNT = 32
#: So that these are enough, a statement takes a multiple of so many rows; those without a position are left out.
_ROWS_STEP_COUNT = 8

_COLUMNS = (*Row._fields, "link")
#: What stands for nothing is made NULL by SQLite, and a link goes in as a bytearray: for None and for bytes sqlite3
#: first looks for an adapter, at the price of an exception that it drops.
_NOTHING = {"correlation": "''", "causation": "0", "command_key": "''"}
_STORED = ", ".join(
    f"nullif(column{number}, {_NOTHING[name]})" if name in _NOTHING else f"column{number}"
    for number, name in enumerate(_COLUMNS, 1)
)
_ONE_ROW = f"({', '.join('?' * len(_COLUMNS))})"
_NO_ROW = (None,) * len(_COLUMNS)


T = TypeVar("T")
CheckpointMode = Literal["PASSIVE", "FULL", "RESTART", "TRUNCATE"]


class CheckpointResult(NamedTuple):
    """What `PRAGMA wal_checkpoint` answers."""

    #: A reader or writer kept it from finishing.
    is_busy: bool
    wal_pages_count: int
    checkpointed_pages_count: int


@lru_cache(maxsize=_STATEMENTS_COUNT)
def _insert_sql(count: int) -> str:
    rows = ", ".join([_ONE_ROW] * count)
    return f"INSERT INTO event ({', '.join(_COLUMNS)}) SELECT {_STORED} FROM (VALUES {rows}) WHERE column1 NOTNULL"


def prepare_file(
    path: Path, *, new_journal_id: str, now_us: int, migrations: Sequence[Migration] | None = None
) -> tuple[int, int]:
    """Make the journal file if there is none, upgrade it if it is older; return its schema before and after.

    Synchronous, over a connection of its own that is closed again. Raises `JournalNewer` with no byte changed,
    `JournalUnreadable`, `JournalDamaged`, and `JournalUnwritable` when the disk refuses.
    """
    known = released_migrations() if migrations is None else tuple(migrations)
    try:
        create_private(path)
        if path.stat().st_size:
            number, has_id = read_making(path)
            refuse_newer(number, known)
            if number == len(known) and has_id:
                return number, number
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            before, after = upgrade(connection, known)
            if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                raise JournalUnreadable(f"The file system of {path} cannot hold a write-ahead log.")
            connection.execute(
                "INSERT INTO journal (only_row, journal_id, created_at_us) SELECT 1, ?, ?"
                " WHERE NOT EXISTS (SELECT 1 FROM journal) AND NOT EXISTS (SELECT 1 FROM event)",
                (new_journal_id, now_us),
            )
    except (sqlite3.Error, OSError) as exc:
        raise refused(f"The journal {path} cannot be made ready", exc) from exc
    return before, after


class SqliteStore:
    """Rows in a file. `write`, `reopen`, `configure`, `checkpoint` and `close` belong to one coroutine."""

    def __init__(self, path: Path, options: JournalOptions, connection_factory: type[sqlite3.Connection]) -> None:
        self.path = path
        self.journal_id = ""
        self._options = options
        self._connection_factory = connection_factory
        self._connection: aiosqlite.Connection | None = None

    @property
    def connection(self) -> aiosqlite.Connection:
        if self._connection is None:
            raise OSError("the file is not open")
        return self._connection

    async def open(self) -> Head:
        """Open the file and return its head."""
        connection = aiosqlite.connect(
            self.path,
            isolation_level=None,
            cached_statements=_STATEMENTS_COUNT,
            factory=self._connection_factory,
        )
        # A loop that is torn down without `close` must not leave a thread that keeps the process alive.
        connection._thread.daemon = True
        self._connection = await connection
        await self.configure(self._options)
        # Ask for the write lock, so that a read-only file is refused here and not at the first append.
        await connection.execute_fetchall("BEGIN IMMEDIATE")
        await connection.execute_fetchall("COMMIT")
        identity = list(await connection.execute_fetchall("SELECT journal_id, created_at_us FROM journal"))
        if not identity:
            raise JournalDamaged(f"The journal {self.path} has no id.")
        self.journal_id, created_at_us = identity[0]
        last = list(
            await connection.execute_fetchall(
                "SELECT position, link, recorded_at_us FROM event ORDER BY position DESC LIMIT 1"
            )
        )
        return Head(*last[0]) if last else Head(0, genesis_link(self.journal_id), created_at_us)

    async def configure(self, options: JournalOptions) -> None:
        """Bring the connection to these options."""
        self._options = options
        synchronous = "FULL" if options.durability == "full" else "NORMAL"
        for pragma in (
            f"synchronous = {synchronous}",
            f"wal_autocheckpoint = {max(1, options.wal_checkpoint_bytes // _PAGE_BYTES)}",
            f"journal_size_limit = {options.wal_max_bytes}",
            f"cache_size = {-_CACHE_KIB}",
            "temp_store = MEMORY",
        ):
            await self.connection.execute_fetchall(f"PRAGMA {pragma}")

    async def write(self, rows: list[Row], links: list[bytes]) -> None:
        """Insert all rows in one statement that is a transaction of its own."""
        parameters: list[str | int | bytearray | None] = []
        for row, link in zip(rows, links, strict=True):
            parameters += (*row[:-1], row.body.decode(), bytearray(link))
        missing_count = -len(rows) % _ROWS_STEP_COUNT
        parameters += _NO_ROW * missing_count
        await self.connection.execute_fetchall(_insert_sql(len(rows) + missing_count), parameters)

    async def fetch(self, after: int, upto: int) -> list[Row]:
        """Read the next batch in a worker thread."""
        return await asyncio.to_thread(self._fetch, after, upto)

    def _fetch(self, after: int, upto: int) -> list[Row]:
        with JournalReader(self.path) as reader:
            return next(reader.rows(after, min(upto, after + BATCH_COUNT)), [])

    async def reopen(self) -> Head:
        """Open the file again and return its head, written anew.

        A page whose fsync failed may be in the kernel's cache and not on the disk, and later fsyncs do not say so;
        the checkpoint writes whatever we are about to believe to the database file and syncs that.
        """
        await self._disconnect()
        head = await self.open()
        await self.checkpoint("TRUNCATE")
        return head

    async def checkpoint(self, mode: CheckpointMode) -> CheckpointResult:
        """Move the write-ahead log into the database file."""
        rows = list(await self.connection.execute_fetchall(f"PRAGMA wal_checkpoint({mode})"))
        busy, wal_pages_count, checkpointed_pages_count = rows[0]
        return CheckpointResult(bool(busy), wal_pages_count, checkpointed_pages_count)

    async def close(self) -> None:
        """Truncate the write-ahead log if the disk allows it, and close."""
        if self._connection is not None:
            # What the checkpoint cannot move stays in the log, where the next start finds it.
            with contextlib.suppress(sqlite3.Error):
                await self.checkpoint("TRUNCATE")
        await self._disconnect()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                await connection.close()


class SqliteJournal(GroupCommit):
    """The journal in a file, with `snapshots.db` beside it."""

    def __init__(self, store: SqliteStore, head: Head, options: JournalOptions) -> None:
        super().__init__(store.journal_id, store, head, options)
        self._file = store
        self._snapshots = SnapshotFile(store.path.with_name(SNAPSHOTS_FILE))

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        options: JournalOptions | None = None,
        new_journal_id: str,
        now_us: int,
        migrations: Sequence[Migration] | None = None,
        connection_factory: type[sqlite3.Connection] = sqlite3.Connection,
    ) -> Self:
        """Open the journal at `path`, made with `new_journal_id` if there is none, upgraded if it is older.

        The caller holds the journal's lock. `connection_factory` is for tests that make the disk fail. Raises as
        `prepare_file` does.
        """
        options = options or JournalOptions()
        await asyncio.to_thread(
            prepare_file, path, new_journal_id=new_journal_id, now_us=now_us, migrations=migrations
        )
        store = SqliteStore(path, options, connection_factory)
        try:
            head = await store.open()
        except (sqlite3.Error, OSError) as exc:
            await store.close()
            raise refused(f"The journal {path} cannot be opened", exc) from exc
        except BaseException:
            await store.close()
            raise
        return cls(store, head, options)

    @property
    def path(self) -> Path:
        """The journal's file."""
        return self._file.path

    async def set_options(self, options: JournalOptions) -> None:
        """See `GroupCommit.set_options`."""
        await self._file_order(lambda: self._file.configure(options))
        await super().set_options(options)

    async def checkpoint(self, mode: CheckpointMode = "PASSIVE") -> CheckpointResult:
        """Checkpoint between two commits; all modes but PASSIVE wait for readers, up to five seconds.

        Raises `JournalUnwritable` when the disk refuses; the journal itself is not failed by that.
        """
        return await self._file_order(lambda: self._file.checkpoint(mode))

    async def _file_order(self, order: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self._order(order)
        except (sqlite3.Error, OSError) as exc:
            raise JournalUnwritable(f"The journal {self.path} refuses: {cause_of(exc)}.") from exc

    async def save_snapshot(self, position: int, digest: str, state: bytes) -> None:
        """Keep a state in `snapshots.db`; see the port."""
        if not 1 <= position <= self.head.position:
            raise ValueError(f"Position {position} is not durable; the head is {self.head.position}.")
        await asyncio.to_thread(self._save_snapshot, position, digest, state)

    async def load_snapshot(self, digest: str, at: int | None = None) -> Snapshot | None:
        """Return the newest snapshot that fits; see the port."""
        upto = self.head.position if at is None else min(at, self.head.position)
        return await asyncio.to_thread(self._load_snapshot, digest, upto)

    def _save_snapshot(self, position: int, digest: str, state: bytes) -> None:
        with JournalReader(self.path) as reader:
            link = reader.link(position)
        if link is None:
            raise JournalDamaged(f"The journal has no row at position {position}.")
        self._snapshots.save(Snapshot(position, link, digest, state))

    def _load_snapshot(self, digest: str, upto: int) -> Snapshot | None:
        with JournalReader(self.path) as reader:
            return self._snapshots.load(digest, upto, reader.link)
