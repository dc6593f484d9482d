"""Where answers about the past and the present come from: the journal file, read-only and without a lock.

It is the same file beside a live daemon and without one, so an answer says which of the two it was. An answer as of
an earlier moment is read as if the journal ended there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from palyra.cli.command import Call
from palyra.cli.frame import Answer, At, Notice
from palyra.cli.page import Page
from palyra.config.state import StatePaths
from palyra.engine.clock import SystemClock
from palyra.engine.moments import Moment, parse_as_of, resolve_as_of
from palyra.engine.zones import find_zone
from palyra.errors import JournalUnreadable, PalyraError
from palyra.journal.lock import LockState, read_lock
from palyra.journal.reader import JournalReader


def file_of_journal(paths: StatePaths) -> Path:
    """Return where the journal is; raises `JournalUnreadable` where there is none."""
    if not paths.journal.exists():
        raise JournalUnreadable(
            f"There is no journal at {paths.journal}.",
            hint="palyra serve makes one; --state-dir names another place",
        )
    return paths.journal


def origin_of(lock: LockState) -> str:
    """Return who answers, beside whom."""
    if not lock.is_locked:
        return "journal file, daemon not running"
    return "journal file, daemon running" + (f" (pid {lock.holder.pid})" if lock.holder is not None else "")


class Journal:
    """One journal file at the moment that is asked about, and who writes it."""

    def __init__(self, call: Call) -> None:
        self.paths = call.paths
        self.asked_us = self.now_us = SystemClock().now_us()
        file_of_journal(self.paths)
        self.lock: LockState = read_lock(self.paths.lock)
        #: None for the head, now.
        self.moment: Moment | None = None
        if call.as_of is not None:
            as_of = parse_as_of(call.as_of, find_zone(call.loaded.config.cli.timezone))
            with self.rows() as reader:
                self.moment = resolve_as_of(reader, as_of, self.asked_us)
            self.now_us = self.moment.as_of_us

    @contextlib.contextmanager
    def rows(self) -> Iterator[JournalReader]:
        """Give the rows up to the moment."""
        with JournalReader(self.paths.journal, upto=self._upto) as reader:
            yield reader

    @property
    def _upto(self) -> int | None:
        return None if self.moment is None else self.moment.position

    @property
    def origin(self) -> str:
        """The end of every answer's last line."""
        return origin_of(self.lock)

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
        if self.moment is not None and self.moment.position == 0:
            warnings = [*warnings, Notice(code="before_first_event", message="The journal had no event yet.")]
        is_past = self.moment is not None
        return Answer(data, show, at, self.origin, warnings, failure, is_past)
