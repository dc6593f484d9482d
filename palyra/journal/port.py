"""The journal's port: what the engine asks of a log, whoever keeps it.

Two journals implement it: `SqliteJournal` (the file) and `MemoryJournal` (a verified fake); one contract suite runs
over both. A journal stores rows and knows nothing of what a fact means.

Order of things: the engine allots `position` and `version` (it folds an event into memory before the disk has it);
the journal checks that both go on without a gap, links the rows and makes them durable in that order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from typing import NamedTuple, Protocol


class Row(NamedTuple):
    """One event as it is stored."""

    #: 1, 2, 3, ... without a gap over the whole journal.
    position: int
    #: What the event is about: `run-01J...`, `provider-openai`, `daemon`.
    stream: str
    #: 1, 2, 3, ... without a gap within the stream.
    version: int
    #: `attempt.failed`; together with `schema` it names the shape of the body.
    name: str
    schema: int
    recorded_at_us: int
    #: Who caused it: `key:...`, `system:daemon`, `operator:local`.
    actor: str
    #: The work it belongs to where that is not the stream itself, else "".
    correlation: str
    #: Position of the event that led to it, else 0.
    causation: int
    #: Idempotency key of the command, on its first event, else "".
    command_key: str
    #: msgspec JSON, the bytes that the chain covers.
    body: bytes


class Head(NamedTuple):
    """The last durable position, its link and its instant; position 0 has the genesis link."""

    position: int
    link: bytes
    recorded_at_us: int


class Snapshot(NamedTuple):
    """A state folded up to `position`; `digest` names the shape of the state, `link` ties it to this very log."""

    position: int
    link: bytes
    digest: str
    state: bytes


class NameSize(NamedTuple):
    """How often a name occurs and what its bodies weigh."""

    events_count: int
    body_bytes: int


class Reader(Protocol):
    """The rows of a journal up to some position, read synchronously: `JournalReader`, `MemoryReader`."""

    journal_id: str
    created_at_us: int

    @property
    def schema(self) -> int:
        """Number of the last migration that ran on it; 0 where there is no file."""
        ...

    def head(self) -> Head:
        """The last row."""
        ...

    def rows(
        self, after: int = 0, upto: int | None = None, names: Collection[str] | None = None
    ) -> Iterator[list[Row]]:
        """Yield rows with after < position <= upto in batches, only these `names` if given."""
        ...

    def stream(self, stream_glob: str, after: int = 0, upto: int | None = None) -> Iterator[list[Row]]:
        """Yield the rows of the streams that match a GLOB pattern, in order of position."""
        ...

    def row(self, position: int) -> Row | None:
        """Return the row at a position."""
        ...

    def link(self, position: int) -> bytes | None:
        """Return the link at a position, that of 0 being the genesis link; None where there is no row."""
        ...

    def position_at(self, instant_us: int) -> int:
        """Return the last position that was recorded at or before an instant, 0 if there is none."""
        ...

    def sizes_by_name(self) -> dict[str, NameSize]:
        """Return count and bytes of bodies for each name, sorted by name; reads every row."""
        ...


class Journal(Protocol):
    """An append-only log with one writer."""

    @property
    def journal_id(self) -> str:
        """ULID of this journal, made with it; the genesis link is derived from it."""
        ...

    @property
    def head(self) -> Head:
        """The last *durable* row."""
        ...

    @property
    def pending_count(self) -> int:
        """Rows that were appended and are not durable yet."""
        ...

    def append(self, rows: Sequence[Row], *, lazy: bool = False) -> asyncio.Future[None]:
        """Take rows in order, all in one commit; the future resolves when they are durable.

        Never waits, and is atomic: rows of one call are never split over commits. `lazy` rows wait for company, at
        most `lazy_append_ms`. A caller that is cancelled, or never awaits the future, changes nothing. Raises
        `JournalUnwritable` at once while the journal is failed (and the future fails with it when the commit does);
        `ValueError` when position or version does not continue: a bug of the caller.
        """
        ...

    def read(self, after: int = 0, upto: int | None = None) -> AsyncIterator[list[Row]]:
        """Yield durable rows with after < position <= upto in order, in batches; `upto` defaults to the head."""
        ...

    def follow(self, after: int = 0) -> AsyncIterator[list[Row]]:
        """Like `read`, then go on with each commit for ever; a slow reader is read from disk, misses nothing."""
        ...

    async def save_snapshot(self, position: int, digest: str, state: bytes) -> None:
        """Keep a state; older snapshots are thinned to log-spaced ones. `position` must be durable."""
        ...

    async def load_snapshot(self, digest: str, at: int | None = None) -> Snapshot | None:
        """Return the newest snapshot with this digest at or before `at` whose link is the log's, else None."""
        ...

    async def recover(self) -> Head:
        """After a failed commit: look at the disk again and return its head; appends work again, or it raises."""
        ...

    async def close(self) -> None:
        """Make everything that was appended durable, checkpoint, close; idempotent."""
        ...
