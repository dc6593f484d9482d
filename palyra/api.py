"""What a program may do with a journal: read it, from its file or from a daemon of its own.

`open_journal` reads a file, beside a live daemon or without one, and needs no loop; `LiveJournal` is the same for
the daemon that a program embeds. Nothing here ever writes, locks, or acts on what it reads.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from palyra.engine.codec import to_recorded
from palyra.engine.core import load_state
from palyra.engine.replay import fold_file
from palyra.engine.reports.scope import Filters, groups_of, scope_of
from palyra.engine.reports.tables import Asked, Dataset, table_of
from palyra.errors import JournalError
from palyra.events.base import Recorded
from palyra.journal.port import Head, Journal
from palyra.journal.reader import JournalReader
from palyra.projections.run_view import RunView, view_of_run
from palyra.projections.state import State


def open_journal(path: str | os.PathLike[str]) -> OpenedJournal:
    """Open a journal for reading: its file, or the state directory that holds it.

    Takes no lock and writes nothing, so it works beside a live daemon. Raises `JournalUnreadable` where there is no
    journal, and `JournalDamaged` for a file that is none.
    """
    file = Path(path).expanduser()
    return OpenedJournal(file / "journal.db" if file.is_dir() else file)


class OpenedJournal:
    """A journal's events, in order: `with open_journal(path) as journal: for recorded in journal: ...`.

    Positions are 1, 2, 3, ... without a gap, and instants microseconds since 1970 UTC. What a daemon appends
    meanwhile is there for the next question. Every method raises `JournalUnreadable` or `JournalDamaged` when the
    file fails it, `JournalNewer` when it needs to understand what only a newer release knows, and `ValueError`
    after `close`. Belongs to one thread at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open_reader: JournalReader | None = JournalReader(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; idempotent."""
        if self._open_reader is not None:
            self._open_reader.close()
            self._open_reader = None

    @property
    def _reader(self) -> JournalReader:
        if self._open_reader is None:
            raise ValueError("the journal is closed")
        return self._open_reader

    @property
    def journal_id(self) -> str:
        """ULID of the journal, made with it."""
        return self._reader.journal_id

    @property
    def head(self) -> Head:
        """Position, link and instant of the last event; position 0 where there is none yet."""
        return self._reader.head()

    def __len__(self) -> int:
        """How many events there are: the head's position."""
        return self.head.position

    def __iter__(self) -> Iterator[Recorded]:
        """Yield every event from the first to what is the head now, read in batches as it goes on.

        `recorded.name` says what happened (`attempt.failed`), `recorded.body` is the typed fact, or `UnknownEvent`
        for a name of a newer release.
        """
        for rows in self._reader.rows():
            for row in rows:
                yield to_recorded(row)

    def __getitem__(self, position: int) -> Recorded:
        """Return the event at a position from 1 on; raises `JournalError` (`position_not_found`) for any other."""
        row = self._reader.row(position)
        if row is None:
            raise _no_position(position, self.head)
        return to_recorded(row)

    def state_at(self, position: int | None = None) -> State:
        """Return everything that was true after a position: by default the head, 0 for the empty state.

        A fold from the nearest snapshot; the state is yours. Raises `JournalError` (`position_not_found`) for a
        position past the head.
        """
        head = self.head
        _check_position(position, head)
        return fold_file(self.path, upto=head.position if position is None else position).state

    def run(self, run_id: str) -> RunView:
        """Return one run as its own events tell it: admission, routing, attempts with usage, and its end.

        Raises `JournalError` (`run_not_found`).
        """
        stream = f"run-{run_id}" if run_id.isalnum() else ""
        return _view(run_id, [to_recorded(row) for rows in self._reader.stream(stream) for row in rows])

    def report(
        self,
        dataset: Dataset = "summary",
        *,
        group_by: Sequence[str] = (),
        from_: str = "",
        to: str = "",
        timezone: str = "UTC",
        bucket: str = "auto",
        **only: str,
    ) -> Iterator[dict[str, Any]]:
        """Return the rows of `palyra usage report` by the names of their columns: `report(group_by=["model"])`.

        Amounts are nano-USD, instants microseconds. A window is written as there (`2026-11-01`, `-7d`); by default
        it is the 30 days before the last event. `only` narrows it: `principal_id`, `key_id`, `session_id`,
        `agent_id`, `provider_id`, `model_id`, `endpoint`, `origin`.

        Raises `Refused` for what cannot be asked for, and `TypeError` for another name.
        """
        now_us = self.head.recorded_at_us
        filters = Filters(**only)
        scope = scope_of(from_=from_, to=to, timezone=timezone, zone=UTC, now_us=now_us, filters=filters)
        asked = Asked(dataset, scope, groups_of(group_by), bucket)
        table = table_of(self._reader, asked, self.state_at, now_us)
        names = [column.name for column in table.columns]
        return (dict(zip(names, row, strict=True)) for row in table.rows)


class LiveJournal:
    """The journal of a running daemon, for the program around it: what is durable, and nothing before that.

    Reading holds the daemon up for a batch of events at most. Raises what `OpenedJournal` raises.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @property
    def journal_id(self) -> str:
        """ULID of the journal, made with it."""
        return self._journal.journal_id

    @property
    def head(self) -> Head:
        """Position, link and instant of the last durable event."""
        return self._journal.head

    def __len__(self) -> int:
        """How many durable events there are: the head's position."""
        return self.head.position

    async def __aiter__(self) -> AsyncIterator[Recorded]:
        """Yield every event from the first to what is the head now."""
        async for rows in self._journal.read():
            for row in rows:
                yield to_recorded(row)

    async def follow(self, after: int = 0) -> AsyncIterator[Recorded]:
        """Yield every event after a position, then each one as it becomes durable, until the daemon stops."""
        async for rows in self._journal.follow(after):
            for row in rows:
                yield to_recorded(row)

    async def at(self, position: int) -> Recorded:
        """Return the event at a position from 1 on; raises `JournalError` (`position_not_found`) for any other."""
        if 1 <= position <= self.head.position:
            async for rows in self._journal.read(position - 1, position):
                return to_recorded(rows[0])
        raise _no_position(position, self.head)

    async def run(self, run_id: str) -> RunView:
        """Return one run as its own events tell it; reads the journal through. Raises `JournalError`."""
        stream = f"run-{run_id}"
        history = [row async for rows in self._journal.read() for row in rows if row.stream == stream]
        return _view(run_id, [to_recorded(row) for row in history])

    async def state_at(self, position: int | None = None) -> State:
        """Return everything that was true after a position: by default the head, 0 for the empty state.

        The state is a fold of its own, which the daemon does not touch again. Raises `JournalError`
        (`position_not_found`) for a position past the head.
        """
        head = self.head
        _check_position(position, head)
        return await load_state(self._journal, head.position if position is None else position)


def _view(run_id: str, history: list[Recorded]) -> RunView:
    view = view_of_run(history)
    if view is None:
        raise JournalError(f"There is no run '{run_id}'.", code="run_not_found")
    return view


def _check_position(position: int | None, head: Head) -> None:
    if position is not None and not 0 <= position <= head.position:
        raise _no_position(position, head)


def _no_position(position: int, head: Head) -> JournalError:
    return JournalError(
        f"There is no position {position}; the journal ends at {head.position}.", code="position_not_found"
    )
