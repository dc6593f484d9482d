"""A journal in memory, for embedding and for tests: the same group commit, links and snapshots, without a disk.

It passes the contract suite that `SqliteJournal` passes. A commit takes no time but a turn of the loop, and tests
may make commits fail.
"""

from __future__ import annotations

from palyra.journal.chain import genesis_link
from palyra.journal.port import Head, Row, Snapshot
from palyra.journal.reader import BATCH_COUNT
from palyra.journal.snapshots import positions_to_keep
from palyra.journal.writer import GroupCommit, JournalOptions


class MemoryStore:
    """Rows in a list."""

    def __init__(self, journal_id: str, now_us: int) -> None:
        self.rows: list[Row] = []
        self.links: list[bytes] = []
        self.failures_count = 0
        self.is_kept_on_failure = False
        self._genesis = Head(0, genesis_link(journal_id), now_us)
        self._versions: set[tuple[str, int]] = set()

    async def write(self, rows: list[Row], links: list[bytes]) -> None:
        """Keep all rows, or none of them."""
        is_failing = self.failures_count > 0
        if is_failing:
            self.failures_count -= 1
        if not is_failing or self.is_kept_on_failure:
            versions = [(row.stream, row.version) for row in rows]
            if len(set(versions)) < len(versions) or not self._versions.isdisjoint(versions):
                raise ValueError("a row contradicts the ones before it")
            for row in rows:
                row.body.decode()
            self.rows += rows
            self.links += links
            self._versions.update(versions)
        if is_failing:
            raise OSError("a commit was made to fail")

    async def fetch(self, after: int, upto: int) -> list[Row]:
        """Return the next batch."""
        return self.rows[after : min(upto, after + BATCH_COUNT)]

    async def reopen(self) -> Head:
        """Return the head."""
        if not self.rows:
            return self._genesis
        return Head(self.rows[-1].position, self.links[-1], self.rows[-1].recorded_at_us)

    async def close(self) -> None:
        """Keep the rows; there is nothing to let go of."""


class MemoryJournal(GroupCommit):
    """A journal that ends with the process. Made inside a running loop."""

    def __init__(self, *, journal_id: str, now_us: int, options: JournalOptions | None = None) -> None:
        self._memory = MemoryStore(journal_id, now_us)
        super().__init__(
            journal_id, self._memory, Head(0, genesis_link(journal_id), now_us), options or JournalOptions()
        )
        self._snapshots: dict[int, Snapshot] = {}

    @property
    def rows(self) -> list[Row]:
        """The durable rows, for tests."""
        return self._memory.rows

    @property
    def links(self) -> list[bytes]:
        """Their links."""
        return self._memory.links

    def fail_next_commits(self, count: int, *, is_kept: bool = False) -> None:
        """Make the next `count` commits fail; `is_kept` keeps their rows all the same, as a disk may do."""
        self._memory.failures_count = count
        self._memory.is_kept_on_failure = is_kept

    async def save_snapshot(self, position: int, digest: str, state: bytes) -> None:
        """Keep a state; see the port."""
        if not 1 <= position <= self.head.position:
            raise ValueError(f"Position {position} is not durable; the head is {self.head.position}.")
        kept = {
            snapshot.position: snapshot
            for snapshot in self._snapshots.values()
            if snapshot.digest == digest and snapshot.position < position
        }
        kept[position] = Snapshot(position, self.links[position - 1], digest, state)
        self._snapshots = {each: kept[each] for each in sorted(positions_to_keep(kept))}

    async def load_snapshot(self, digest: str, at: int | None = None) -> Snapshot | None:
        """Return the newest snapshot that fits; see the port."""
        upto = self.head.position if at is None else at
        fitting = [s for s in self._snapshots.values() if s.digest == digest and s.position <= upto]
        return max(fitting, key=lambda snapshot: snapshot.position, default=None)
