"""The door without a daemon: a question is answered from the journal file, read-only and without a lock."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import tzinfo
from functools import partial

from palyra.engine.console.frame import AnswerT, JournalFiles, ParamsT, Question, Sight, Told, ask
from palyra.engine.moments import lock_then, parse_as_of, resolve_as_of
from palyra.engine.replay import fold_file
from palyra.engine.zones import find_zone
from palyra.errors import Refusal, Refused
from palyra.journal.lock import LockState
from palyra.journal.reader import JournalReader
from palyra.projections.state import State


def ask_file(
    question: Question[ParamsT, AnswerT],
    params: ParamsT,
    *,
    files: JournalFiles,
    lock: LockState,
    at: str | None,
    zone: str,
    now_us: int,
    progress: Callable[[str, int, int], None] | None = None,
    see: Callable[[State], None] | None = None,
) -> Told:
    """Return what a question is answered at a moment (`--as-of`; None: the head, now).

    `lock` says who writes the journal now; `see` puts into the state what shows by now and nobody has recorded.
    Raises `PalyraError`.
    """
    looking = sight_of_file(files=files, lock=lock, at=at, zone=zone, now_us=now_us, progress=progress, see=see)
    with looking as sight:
        return ask(question, sight, params)


@contextlib.contextmanager
def sight_of_file(
    *,
    files: JournalFiles,
    lock: LockState,
    at: str | None,
    zone: str,
    now_us: int,
    progress: Callable[[str, int, int], None] | None = None,
    see: Callable[[State], None] | None = None,
) -> Iterator[Sight]:
    """Give a journal file as it was at a moment, open as long as it is looked at; raises `PalyraError`.

    `progress` is told what is done, how much of it, and of how much.
    """
    where = zone_of(zone)
    with JournalReader(files.path) as whole:
        if at is None:
            position, seen_us = whole.head().position, now_us
        else:
            moment = resolve_as_of(whole, parse_as_of(at, where), now_us)
            position, seen_us = moment.position, moment.as_of_us

    folding, reading = (progress and partial(progress, label) for label in ("folding", "reading"))

    def fold(upto: int) -> State:
        state = fold_file(files.path, upto=upto, progress=folding).state
        if see is not None and upto == position:
            see(state)
        return state

    with JournalReader(files.path, upto=position) as rows:
        yield Sight(
            journal_id=rows.journal_id,
            position=position,
            now_us=seen_us,
            zone=where,
            lock=lock if at is None else lock_then,
            rows=rows,
            fold=fold,
            files=files,
            reading=reading,
        )


def zone_of(name: str) -> tzinfo | None:
    """Return the zone of a name; raises `Refused` (`invalid_query`)."""
    try:
        return find_zone(name)
    except ValueError as exc:
        raise Refused(Refusal(code="invalid_query", message=str(exc), param="zone")) from None
