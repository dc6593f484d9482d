"""Group commit: rows wait together, become durable together, are acknowledged together.

`GroupCommit` is the journal but for the place where rows are kept, its `Store`. One coroutine, the writer, is the
only one that ever calls a store's `write`, `reopen` and `close`; whatever else needs the store to itself is an
order that the writer runs between two commits. The commit in flight is the batching window: there is no linger.

A commit that fails makes the journal *failed*: every waiter and every later `append` gets `JournalUnwritable`,
because the engine's memory is ahead of a disk whose state is not known. `recover` reads what the disk has and goes
on from there; the disk may hold the batch although an error came back.

Cancelling a caller changes nothing. Cancelling the writer (a loop that is torn down) closes the store.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from palyra.errors import JournalDamaged, JournalUnwritable
from palyra.journal.chain import row_link
from palyra.journal.failures import cause_of
from palyra.journal.port import Head, Row
from palyra.limits import COMMIT_MAX_COUNT
from palyra.units import ms_to_s

#: Rows of one `append`; it goes in one statement, and older builds of SQLite take 32,766 values in it, which are
#: this many rows of 12 by the eight.
CALL_MAX_COUNT = 32_766 // (12 * 8) * 8
#: Newest rows kept in memory, so that whoever follows at the head needs no disk.
RECENT_COUNT = 1_024

_CLOSED = "The journal is closed."

T = TypeVar("T")


class JournalOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`[journal]` as far as the journal itself acts on it."""

    #: full: a commit survives a power cut (synchronous FULL); relaxed: it survives a crash of the process (NORMAL).
    durability: Literal["full", "relaxed"] = "full"
    #: Rows in one commit; one call is never split, so a longer one makes a longer commit.
    commit_max_count: int = COMMIT_MAX_COUNT
    #: Longest time that a lazy row waits for company.
    lazy_append_ms: int = 250
    #: The write-ahead log is checkpointed when it has this size ...
    wal_checkpoint_bytes: int = 4 << 20
    #: ... and its file is cut to this size when readers had made it longer.
    wal_max_bytes: int = 64 << 20


class Store(Protocol):
    """The place where rows are kept."""

    async def write(self, rows: list[Row], links: list[bytes]) -> None:
        """Make all rows durable, or none of them; raise if that is not certain."""
        ...

    async def fetch(self, after: int, upto: int) -> list[Row]:
        """Return the first durable rows with after < position <= upto; called by any coroutine."""
        ...

    async def reopen(self) -> Head:
        """Forget what was believed and return the head that the store really has."""
        ...

    async def close(self) -> None:
        """Let go of the store."""
        ...


class _Call(NamedTuple):
    rows: tuple[Row, ...]
    durable: asyncio.Future[None]


class GroupCommit:
    """The journal over a store: `append`, `read`, `follow`, `recover` and `close` of the port.

    Made inside a running loop and bound to it.
    """

    def __init__(self, journal_id: str, store: Store, head: Head, options: JournalOptions) -> None:
        self._journal_id = journal_id
        self._store = store
        self._head = head
        self._options = options
        self._next_position = head.position + 1
        self._pending_count = 0
        self._recent: deque[Row] = deque(maxlen=RECENT_COUNT)
        #: Half a sentence saying why nothing is taken, None while all is well.
        self._failure: str | None = None
        self._is_closing = False
        self._waiting: deque[_Call] = deque()
        #: Everything up to here is to be written now; lazy rows beyond wait for company.
        self._due_position = head.position
        self._orders: deque[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = deque()
        self._lazy_timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._advanced = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._writer = self._loop.create_task(self._write_until_closed(), name="journal writer")

    # ---- what callers see

    @property
    def journal_id(self) -> str:
        """ULID of this journal."""
        return self._journal_id

    @property
    def head(self) -> Head:
        """The last durable row."""
        return self._head

    @property
    def pending_count(self) -> int:
        """Rows that were appended and are not durable yet."""
        return self._pending_count

    @property
    def failure(self) -> str | None:
        """Why the journal takes no rows until `recover`, as half a sentence; None while it takes them."""
        return self._failure

    def append(self, rows: Sequence[Row], *, lazy: bool = False) -> asyncio.Future[None]:
        """Take rows in order, all in one commit; see the port. No rows at all are durable at once."""
        if self._is_closing:
            raise JournalUnwritable(_CLOSED)
        if self._failure is not None:
            raise self._unwritable()
        position = self._next_position
        for row in rows:
            if row.position != position:
                raise ValueError(f"Position {row.position} does not continue the journal; {position} is next.")
            position += 1
        if len(rows) > CALL_MAX_COUNT:
            raise ValueError(f"{len(rows)} rows in one call; at most {CALL_MAX_COUNT} go in one commit.")
        durable = self._loop.create_future()
        if not rows:
            durable.set_result(None)
            return durable
        self._next_position = position
        self._pending_count += len(rows)
        self._waiting.append(_Call(tuple(rows), durable))
        if not lazy:
            self._make_due()
        elif self._lazy_timer is None:
            self._lazy_timer = self._loop.call_later(ms_to_s(self._options.lazy_append_ms), self._make_due)
        return durable

    async def read(self, after: int = 0, upto: int | None = None) -> AsyncIterator[list[Row]]:
        """Yield durable rows with after < position <= upto in order, in batches; `upto` defaults to the head."""
        end = self._head.position if upto is None else min(upto, self._head.position)
        while after < end:
            batch = self._recent_rows(after, end) or await self._store.fetch(after, end)
            if not batch:
                raise JournalDamaged(f"The journal has no row at position {after + 1}.")
            yield batch
            after = batch[-1].position

    async def follow(self, after: int = 0) -> AsyncIterator[list[Row]]:
        """Like `read`, then go on with each commit, until the journal is closed."""
        while await self._wait_past(after):
            async for batch in self.read(after):
                yield batch
                after = batch[-1].position

    async def recover(self) -> Head:
        """Look at the store again and take rows from its head; does nothing while the journal is not failed."""
        return await self._order(self._reopen)

    async def set_options(self, options: JournalOptions) -> None:
        """Act on other options from the next commit on."""
        self._options = options

    async def close(self) -> None:
        """Make everything durable and close the store; idempotent.

        Raises `JournalUnwritable`, with the store closed, if rows that were waiting could not be made durable.
        """
        has_pending = self._pending_count > 0
        self._is_closing = True
        self._make_due()
        await asyncio.wait([self._writer])
        if not self._writer.cancelled():
            self._writer.result()
        if has_pending and (self._failure is not None or self._writer.cancelled()):
            raise self._unwritable()

    # ---- the writer

    def _make_due(self) -> None:
        self._due_position = self._next_position - 1
        self._wake.set()

    def _is_due(self) -> bool:
        return bool(self._waiting) and self._waiting[0].rows[0].position <= self._due_position

    async def _order(self, order: Callable[[], Awaitable[T]]) -> T:
        """Have the writer run `order` between two commits."""
        if self._is_closing:
            raise JournalUnwritable(_CLOSED)
        done: asyncio.Future[T] = self._loop.create_future()
        self._orders.append((order, done))
        self._wake.set()
        return await done

    async def _write_until_closed(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._is_due() or self._orders:
                    if self._is_due():
                        await self._commit()
                    if self._orders:
                        await self._obey(*self._orders.popleft())
                if self._is_closing:
                    return
        finally:
            self._is_closing = True
            while self._orders:
                _reject(self._orders.popleft()[1], JournalUnwritable(_CLOSED))
            self._reject_waiting(())
            try:
                await self._store.close()
            finally:
                self._signal_advance()

    async def _commit(self) -> None:
        """Make the longest run of whole calls durable that fits into a commit."""
        calls, rows = self._take()
        try:
            links = self._links(rows)
            await self._store.write(rows, links)
        except BaseException as exc:
            # Also a bug (a version that is there already, a text that is no UTF-8): memory and disk differ now.
            self._failure = cause_of(exc) if isinstance(exc, Exception) else "its writer was stopped"
            self._reject_waiting(calls)
            if not isinstance(exc, Exception):
                raise
            return
        self._head = Head(rows[-1].position, links[-1], rows[-1].recorded_at_us)
        self._pending_count -= len(rows)
        self._recent.extend(rows)
        for call in calls:
            if not call.durable.done():
                call.durable.set_result(None)
        self._signal_advance()

    def _take(self) -> tuple[list[_Call], list[Row]]:
        waiting, most = self._waiting, self._options.commit_max_count
        calls = [waiting.popleft()]
        rows = list(calls[0].rows)
        while waiting and len(rows) + len(waiting[0].rows) <= most:
            calls.append(waiting.popleft())
            rows.extend(calls[-1].rows)
        if not waiting:
            self._stop_lazy_timer()
        return calls, rows

    def _links(self, rows: list[Row]) -> list[bytes]:
        links, link = [], self._head.link
        for row in rows:
            link = row_link(link, row)
            links.append(link)
        return links

    async def _obey(self, order: Callable[[], Awaitable[Any]], done: asyncio.Future[Any]) -> None:
        try:
            result = await order()
        except Exception as exc:
            _reject(done, exc)
        except BaseException:
            done.cancel()
            raise
        else:
            if not done.done():
                done.set_result(result)

    async def _reopen(self) -> Head:
        if self._failure is None:
            return self._head
        try:
            head = await self._store.reopen()
        except (sqlite3.Error, OSError) as exc:
            self._failure = cause_of(exc)
            raise self._unwritable() from exc
        if head.position < self._head.position or (
            head.position == self._head.position and head.link != self._head.link
        ):
            raise JournalDamaged(
                f"Position {self._head.position} was acknowledged, but the journal's head is {head.position} now."
            )
        self._head, self._next_position, self._failure = head, head.position + 1, None
        self._recent.clear()
        self._signal_advance()
        return head

    def _reject_waiting(self, calls: Sequence[_Call]) -> None:
        for call in (*calls, *self._waiting):
            _reject(call.durable, self._unwritable())
        self._waiting.clear()
        self._pending_count = 0
        self._stop_lazy_timer()

    def _stop_lazy_timer(self) -> None:
        if self._lazy_timer is not None:
            self._lazy_timer.cancel()
            self._lazy_timer = None

    def _unwritable(self) -> JournalUnwritable:
        # One exception a waiter: a shared one would collect the tracebacks of all of them.
        if self._failure is None:
            return JournalUnwritable(_CLOSED)
        return JournalUnwritable(
            f"The journal cannot be written: {self._failure}.", hint="Nothing is done that cannot be recorded."
        )

    # ---- followers

    def _signal_advance(self) -> None:
        self._advanced.set()
        self._advanced.clear()

    async def _wait_past(self, position: int) -> bool:
        """Wait until the head is past a position; False when the journal closes before."""
        while self._head.position <= position:
            if self._writer.done():
                return False
            await self._advanced.wait()
        return True

    def _recent_rows(self, after: int, end: int) -> list[Row]:
        """Return rows from memory if the one at `after + 1` is there, else none."""
        recent = self._recent
        if not recent or after + 1 < recent[0].position:
            return []
        first = recent[0].position
        return list(islice(recent, after + 1 - first, end + 1 - first))


def _reject(future: asyncio.Future[Any], exc: Exception) -> None:
    """Fail a future, without a warning if nobody ever looks at it."""
    if not future.done():
        future.set_exception(exc)
        future.exception()
