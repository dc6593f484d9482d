"""Chores that keep a journal fit: snapshots for a quick start, the witness note, checkpoints of the WAL.

Each says when it is due and does its work once; when that happens is the supervisor's to decide. None of them
records anything, so an idle daemon comes to rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from palyra.engine.clock import due_us
from palyra.engine.core import Core
from palyra.errors import JournalUnwritable
from palyra.journal.failures import cause_of
from palyra.journal.sqlite import SqliteJournal
from palyra.journal.witness import make_witness, write_witness
from palyra.units import ms_to_us

#: The WAL is emptied when the journal has been quiet for this long.
_QUIET_MS = 60_000
#: One part of the time is spent on snapshots, this many are not.
_SNAPSHOT_SHARE = 20


class SnapshotChore:
    """A snapshot every so many events or so much time, whichever comes first, but none while nothing happens.

    `keep` makes one and returns its position. It works beside the requests, so it gets a twentieth of the time at
    most: a busy journal is snapshot less often, and never all the time.
    """

    def __init__(self, core: Core, keep: Callable[[], Awaitable[int]], *, every_count: int, every_ms: int) -> None:
        self._core = core
        self._keep = keep
        self.set_pace(every_count=every_count, every_ms=every_ms)
        self._position = core.state.position
        self._done_us = core.clock.now_us()
        self._took_us = 0

    def set_pace(self, *, every_count: int, every_ms: int) -> None:
        """Make one that often from now on."""
        self._every_count = every_count
        self._every_us = ms_to_us(every_ms)

    def due_at_us(self) -> int | None:
        new_count = self._core.state.position - self._position
        if new_count <= 0:
            return None
        wait_us = self._took_us * _SNAPSHOT_SHARE if new_count >= self._every_count else self._every_us
        return due_us(self._done_us, min(wait_us, self._every_us), self._core.clock.now_us())

    async def do(self) -> None:
        await self._core.durable()  # it is made of what is on the disk
        began_us = self._core.clock.monotonic_us()
        self._position = await self._keep()
        self._took_us = self._core.clock.monotonic_us() - began_us
        self._done_us = self._core.clock.now_us()


class WitnessChore:
    """The note of the head, outside the database, and its copies."""

    def __init__(
        self, core: Core, path: Path, *, key: bytes | None, every_ms: int, copies: Sequence[Path] = ()
    ) -> None:
        self._core = core
        self._path = path
        self._key = key
        self.set_pace(every_ms=every_ms, copies=copies)
        self._position = -1
        self._done_us = 0

    def set_pace(self, *, every_ms: int, copies: Sequence[Path]) -> None:
        """Note it that often from now on, and in these places too."""
        self._every_us = ms_to_us(every_ms)
        self._paths = [self._path, *copies]

    def due_at_us(self) -> int | None:
        if self._core.journal.head.position == self._position:
            return None
        return due_us(self._done_us, self._every_us, self._core.clock.now_us())

    async def do(self) -> None:
        head, now_us = self._core.journal.head, self._core.clock.now_us()
        witness = make_witness(self._core.journal.journal_id, head, now_us, self._key)
        for path in self._paths:
            try:
                await asyncio.to_thread(write_witness, path, witness)
            except OSError as exc:
                raise JournalUnwritable(f"The note {path} cannot be written: {cause_of(exc)}.") from exc
        self._position, self._done_us = head.position, now_us


class CheckpointChore:
    """The WAL is emptied once the journal is quiet; while it is busy the journal checkpoints by itself."""

    def __init__(self, core: Core, journal: SqliteJournal) -> None:
        self._core = core
        self._journal = journal
        self._position = journal.head.position

    def due_at_us(self) -> int | None:
        head = self._journal.head
        if head.position == self._position:
            return None
        return due_us(head.recorded_at_us, ms_to_us(_QUIET_MS), self._core.clock.now_us())

    async def do(self) -> None:
        position = self._journal.head.position
        await self._journal.checkpoint("TRUNCATE")
        self._position = position
