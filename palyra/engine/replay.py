"""Answers from a journal file alone: the state at any position, one run's history, and the proof that folds agree.

Synchronous and read-only: it takes no lock, writes nothing and runs beside a live daemon. Effects never run here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from palyra.engine.codec import all_known, state_digest, to_recorded
from palyra.events.base import Recorded
from palyra.journal.migrations import refuse_newer, released_migrations
from palyra.journal.port import Head
from palyra.journal.reader import JournalReader
from palyra.journal.snapshots import SNAPSHOTS_FILE, SnapshotFile
from palyra.projections.run_view import RunView, view_of_run
from palyra.projections.state import State, decode_state, digest_in, encode_state, evolve

#: Told how many events are done, of how many.
Progress = Callable[[int, int], None]


class Folded(NamedTuple):
    """A state and where in which log it is true."""

    state: State
    head: Head
    journal_id: str


def fold_file(
    path: Path, *, upto: int | None = None, use_snapshots: bool = True, progress: Progress | None = None
) -> Folded:
    """Return the state after position `upto` (default: the head) of the journal file."""
    with JournalReader(path) as reader:
        head = reader.head()
        end = head.position if upto is None else min(upto, head.position)
        state = _from_snapshot(reader, end) if use_snapshots else State()
        first = state.position
        for recorded in recorded_in(reader, first, end):
            evolve(state, recorded)
            if progress is not None and recorded.position % 10_000 == 0:
                progress(recorded.position - first, end - first)
        return Folded(state, head, reader.journal_id)


def recorded_in(reader: JournalReader, after: int = 0, upto: int | None = None) -> Iterator[Recorded]:
    """Yield the facts with after < position <= upto in order, to be folded.

    Raises `JournalNewer` for the journal of a newer release: it can be listed and checked, not understood.
    """
    refuse_newer(reader.schema, released_migrations())
    for rows in reader.packed_rows(after, upto):
        yield from all_known(rows)


def run_history(path: Path, run_id: str) -> list[Recorded]:
    """Return all events of one run's stream, in order."""
    with JournalReader(path) as reader:
        return [to_recorded(row) for rows in reader.stream(f"run-{run_id}") for row in rows]


def run_view(path: Path, run_id: str) -> RunView | None:
    """Return a run as its own stream tells it, or None where there is none."""
    return view_of_run(run_history(path, run_id))


class Divergence(NamedTuple):
    """Where two folds of the same log differ: the first position after which they do, and the chapters."""

    position: int
    chapters: list[str]


class LiveChapter(NamedTuple):
    """What a running daemon holds in memory of one chapter of the state, after a position."""

    position: int
    chapter: str
    #: As of `palyra.projections.state.digest_in`.
    digest: str


class ReplayReport(NamedTuple):
    """What folding a journal again has shown."""

    events_count: int
    snapshots_count: int
    divergence: Divergence | None
    #: Chapters of a daemon's memory that it was compared with.
    live_count: int = 0


def verify_replay(path: Path, progress: Progress | None = None, live: Sequence[LiveChapter] = ()) -> ReplayReport:
    """Fold from the first event, and compare byte for byte with every snapshot on the way, and with `live`.

    A second fold goes on from each snapshot to the next one and to the head, so that a state which does not survive
    its own encoding is found as well.
    """
    with JournalReader(path) as reader:
        end = reader.head().position
        stored = _snapshots(path, reader, end)
        told: dict[int, list[LiveChapter]] = {}
        for each in live:
            told.setdefault(each.position, []).append(each)
        full, resumed = State(), State()
        for recorded in recorded_in(reader, 0, end):
            evolve(full, recorded)
            evolve(resumed, recorded)
            position = recorded.position
            if position in told:
                chapters = [each.chapter for each in told[position] if each.digest != digest_in(full, each.chapter)]
                if chapters:
                    return ReplayReport(position, len(stored), Divergence(position, chapters), len(live))
            if position in stored or position == end:
                here = encode_state(full)
                if here != encode_state(resumed) or here != stored.get(position, here):
                    return ReplayReport(position, len(stored), _locate(reader, stored, position))
                resumed = decode_state(here)
            if progress is not None and position % 10_000 == 0:
                progress(position, end)
        return ReplayReport(end, len(stored), None, len(live))


def _snapshots(path: Path, reader: JournalReader, end: int) -> dict[int, bytes]:
    """Return all usable states by position."""
    file = SnapshotFile(path.with_name(SNAPSHOTS_FILE))
    states: dict[int, bytes] = {}
    for position in file.positions():
        snapshot = file.load(state_digest(), position, reader.link)
        if snapshot is not None and snapshot.position == position <= end:
            states[position] = snapshot.state
    return states


def _locate(reader: JournalReader, stored: dict[int, bytes], bad: int) -> Divergence:
    """Return the first event after which a fold from the last good snapshot differs from one from the beginning."""
    good = max((position for position in stored if position < bad), default=0)
    full, resumed = State(), decode_state(stored[good]) if good else State()
    for recorded in recorded_in(reader, 0, bad):
        evolve(full, recorded)
        if recorded.position > good:
            evolve(resumed, recorded)
            if encode_state(full) != encode_state(resumed):
                return Divergence(recorded.position, _chapters_that_differ(full, resumed))
    return Divergence(bad, _chapters_that_differ(full, decode_state(stored[bad])))


def _chapters_that_differ(left: State, right: State) -> list[str]:
    encode = msgspec.msgpack.Encoder().encode
    return [name for name in State.__struct_fields__ if encode(getattr(left, name)) != encode(getattr(right, name))]


def _from_snapshot(reader: JournalReader, upto: int) -> State:
    file = SnapshotFile(reader.path.with_name(SNAPSHOTS_FILE))
    snapshot = file.load(state_digest(), upto, reader.link)
    return State() if snapshot is None else decode_state(snapshot.state)
