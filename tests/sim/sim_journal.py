"""The disk of a simulation: a journal in memory that is slow, fails, and loses what was on its way in a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from palyra.journal.memory import MemoryJournal, MemoryStore
from palyra.journal.port import Head, Row, Snapshot
from palyra.journal.writer import GroupCommit, JournalOptions

JOURNAL_ID = "01SIMULATION"


class SimStore(MemoryStore):
    """Rows of one life of the program; `survivor` is what the next life finds."""

    def __init__(self) -> None:
        super().__init__(JOURNAL_ID, 1)
        self.snapshots: dict[int, Snapshot] = {}
        #: How long a commit takes; 0 is a turn of the loop.
        self.commit_ms = 0
        self.reopen_failures_count = 0
        #: Told after each commit, whether it was acknowledged or not.
        self.on_kept: Callable[[], None] = lambda: None
        self._in_flight: tuple[list[Row], list[bytes]] = ([], [])

    async def write(self, rows: list[Row], links: list[bytes]) -> None:
        self._in_flight = (rows, links)
        await asyncio.sleep(self.commit_ms / 1_000)
        self._in_flight = ([], [])
        try:
            await super().write(rows, links)
        finally:
            self.on_kept()

    async def reopen(self) -> Head:
        if self.reopen_failures_count > 0:
            self.reopen_failures_count -= 1
            raise OSError("the store was made to stay closed")
        return await super().reopen()

    def survivor(self, *, with_in_flight: bool, with_snapshots: bool) -> SimStore:
        """Return the store as a crash at this instant leaves it; this one keeps nothing any more."""
        heir = SimStore()
        more_rows, more_links = self._in_flight if with_in_flight else ([], [])
        heir.rows, heir.links = [*self.rows, *more_rows], [*self.links, *more_links]
        heir._versions = {(row.stream, row.version) for row in heir.rows}
        heir.snapshots = dict(self.snapshots) if with_snapshots else {}
        heir.on_kept = self.on_kept
        self.on_kept = lambda: None
        self.failures_count, self.is_kept_on_failure = 1 << 30, False
        return heir


class SimJournal(MemoryJournal):
    """A journal opened over what a store holds already."""

    def __init__(self, store: SimStore, *, lazy_append_ms: int) -> None:
        self._memory = store
        self._snapshots = store.snapshots
        head = Head(0, store._genesis.link, 1)
        if store.rows:
            head = Head(store.rows[-1].position, store.links[-1], store.rows[-1].recorded_at_us)
        options = JournalOptions(lazy_append_ms=lazy_append_ms)
        GroupCommit.__init__(self, JOURNAL_ID, store, head, options)

    async def save_snapshot(self, position: int, digest: str, state: bytes) -> None:
        await super().save_snapshot(position, digest, state)
        self._memory.snapshots = self._snapshots  # type: ignore[attr-defined]
