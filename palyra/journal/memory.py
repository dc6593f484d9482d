"""A journal in memory, for embedding and for tests: the same group commit, links and snapshots, without a disk.

It passes the contract suite that `SqliteJournal` passes. A commit takes no time but a turn of the loop, and tests
may make commits fail.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase

from palyra.journal.chain import genesis_link
from palyra.journal.port import Head, NameSize, Row, Snapshot
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
        self.created_at_us = now_us
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

    def reader(self, upto: int | None = None) -> MemoryReader:
        """Return the durable rows as they are read synchronously, as if the journal ended at `upto`."""
        return MemoryReader(self, len(self.rows) if upto is None else upto)


class MemoryReader:
    """What `JournalReader` is for a file. Rows never change, so another thread may read them."""

    schema = 0

    def __init__(self, journal: MemoryJournal, upto: int) -> None:
        self.journal_id = journal.journal_id
        self.created_at_us = journal.created_at_us
        self._links = journal.links
        self._rows = journal.rows
        self._end = upto

    def head(self) -> Head:
        """Return the last row's position, link and instant."""
        row = self.row(self._end)
        if row is None:
            return Head(0, genesis_link(self.journal_id), self.created_at_us)
        return Head(row.position, self._links[row.position - 1], row.recorded_at_us)

    def rows(
        self, after: int = 0, upto: int | None = None, names: Collection[str] | None = None
    ) -> Iterator[list[Row]]:
        """Yield rows with after < position <= upto in batches, only these `names` if given."""
        end = self._end if upto is None else min(upto, self._end)
        for start in range(after, end, BATCH_COUNT):
            batch = self._rows[start : min(end, start + BATCH_COUNT)]
            found = batch if names is None else [row for row in batch if row.name in names]
            if found:
                yield found

    def stream(self, stream_glob: str, after: int = 0, upto: int | None = None) -> Iterator[list[Row]]:
        """Yield the rows of the streams that match a GLOB pattern, in order of position."""
        for rows in self.rows(after, upto):
            if found := [row for row in rows if fnmatchcase(row.stream, stream_glob)]:
                yield found

    def row(self, position: int) -> Row | None:
        """Return the row at a position."""
        return self._rows[position - 1] if 1 <= position <= self._end else None

    def link(self, position: int) -> bytes | None:
        """Return the link at a position, that of 0 being the genesis link; None where there is no row."""
        if position == 0:
            return genesis_link(self.journal_id)
        return self._links[position - 1] if 1 <= position <= self._end else None

    def position_at(self, instant_us: int) -> int:
        """Return the last position that was recorded at or before an instant, 0 if there is none."""
        low, high = 0, self._end
        while low < high:
            middle = (low + high + 1) // 2
            if self._rows[middle - 1].recorded_at_us <= instant_us:
                low = middle
            else:
                high = middle - 1
        return low

    def sizes_by_name(self) -> dict[str, NameSize]:
        """Return count and bytes of bodies for each name, sorted by name; reads every row."""
        sizes: dict[str, NameSize] = {}
        for row in self._rows[: self._end]:
            known = sizes.get(row.name, NameSize(0, 0))
            sizes[row.name] = NameSize(known.events_count + 1, known.body_bytes + len(row.body))
        return dict(sorted(sizes.items()))
