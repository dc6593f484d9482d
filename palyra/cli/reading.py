"""Where answers about the past and the present come from: the journal file, read-only and without a lock.

It is the same file beside a live daemon and without one, so an answer says which of the two it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from palyra.cli.command import Call
from palyra.cli.frame import Answer, At, Notice
from palyra.cli.page import Page
from palyra.engine.clock import SystemClock
from palyra.engine.replay import Folded, fold_file
from palyra.errors import JournalUnreadable, PalyraError
from palyra.journal.lock import LockState, read_lock
from palyra.journal.reader import JournalReader


class Journal:
    """One journal file, and who writes it."""

    def __init__(self, call: Call) -> None:
        self.paths = call.paths
        self.now_us = SystemClock().now_us()
        if not self.paths.journal.exists():
            raise JournalUnreadable(
                f"There is no journal at {self.paths.journal}.",
                hint="palyra serve makes one; --state-dir names another place",
            )
        self.lock: LockState = read_lock(self.paths.lock)

    def fold(self) -> Folded:
        """Return the state at the head."""
        return fold_file(self.paths.journal)

    @contextlib.contextmanager
    def rows(self) -> Iterator[JournalReader]:
        """Give the rows."""
        with JournalReader(self.paths.journal) as reader:
            yield reader

    @property
    def origin(self) -> str:
        """The end of every answer's last line."""
        if not self.lock.is_locked:
            return "journal file, daemon not running"
        holder = self.lock.holder
        return "journal file, daemon running" + (f" (pid {holder.pid})" if holder is not None else "")

    def answer(
        self,
        journal_id: str,
        position: int,
        data: Any,
        show: Callable[[Page], None],
        *,
        warnings: Sequence[Notice] = (),
        failure: PalyraError | None = None,
    ) -> Answer:
        """Return an answer that is true of this journal at a position."""
        at = At(journal_id=journal_id, position=position, as_of_us=self.now_us, source="journal_file")
        return Answer(data, show, at, self.origin, warnings, failure)
