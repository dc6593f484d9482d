"""What a journal file is like and whether it is sound: `palyra journal status` and `verify` as plain data.

Synchronous and read-only, beside a live daemon or without one. The journal checks its rows and its witness; that
names are known and folds agree is checked here, because the journal does not know what a fact means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from palyra.engine.questions import Answer
from palyra.engine.replay import LiveChapter, verify_replay
from palyra.errors import PalyraError
from palyra.events.vocabulary import VOCABULARY
from palyra.journal.findings import Finding
from palyra.journal.port import Reader
from palyra.journal.reader import JournalReader
from palyra.journal.snapshots import SNAPSHOTS_FILE, SnapshotFile
from palyra.journal.verify import verify
from palyra.journal.witness import WITNESS_FILE, Witness, check_witness, read_witness
from palyra.units import US_PER_S

_SOUND, _DAMAGED = "journal.verified", "journal.damage_found"
_DAY_US = 24 * 3_600 * US_PER_S

#: Told what is being done, how many events are done, and of how many.
Progress = Callable[[str, int, int], None]


class NameAnswer(Answer, frozen=True, kw_only=True):
    """How often a name occurs, what its bodies weigh, and whether this release knows it."""

    name: str
    events_count: int
    body_bytes: int
    is_known: bool


class WitnessAnswer(Answer, frozen=True, kw_only=True):
    """The note of the head outside the journal."""

    position: int | None
    at_us: int | None
    #: Codes of what a comparison with the journal found; none means that the note vouches for it.
    findings: list[str]


class FiguresAnswer(Answer, frozen=True, kw_only=True):
    """The journal as a file. Of an earlier moment are its log's figures; those of the files are of now."""

    journal_id: str
    #: Null for a journal in memory, which has no witness either.
    file: str | None
    #: Number of the last migration that ran on it.
    schema: int
    created_us: int
    position: int
    #: Hexadecimal link of the head.
    link: str
    last_event_us: int
    file_bytes: int
    wal_bytes: int
    snapshots_count: int
    newest_snapshot_position: int | None
    snapshots_bytes: int
    witness: WitnessAnswer | None
    #: The newest check whose verdict was recorded, and whether it found the journal sound.
    checked_us: int | None
    checked_sound: bool | None
    events_last_day_count: int
    #: Most frequent first.
    names: list[NameAnswer]


class ReplayAnswer(Answer, frozen=True, kw_only=True):
    """What folding the journal again has shown."""

    events_count: int
    #: Stored states that the fold was compared with.
    snapshots_count: int
    #: Chapters of a running daemon's memory that it was compared with.
    live_count: int
    #: First position after which two folds differ, and the chapters of the state in which they do.
    diverged_position: int | None
    diverged_chapters: list[str]


class CheckAnswer(Answer, frozen=True, kw_only=True):
    """What a check of the journal saw."""

    journal_id: str
    #: The range that was checked; both ends belong to it.
    first_position: int
    last_position: int
    rows_count: int
    head_position: int
    head_us: int
    is_quick: bool
    is_sound: bool
    findings: list[Finding]
    #: Findings beyond those that are listed.
    omitted_count: int
    replay: ReplayAnswer | None
    #: Where the verdict stands in the journal; None where nobody asked for that, or it must not be written to.
    recorded_position: int | None = None


def journal_figures(reader: Reader, *, path: Path | None, witness_key: bytes | None, now_us: int) -> FiguresAnswer:
    """Return the figures of a journal, and of its file where it has one; counts every row."""
    head = reader.head()
    snapshots = None if path is None else SnapshotFile(path.with_name(SNAPSHOTS_FILE))
    positions = [] if snapshots is None else snapshots.positions()
    sizes = reader.sizes_by_name().items()
    verdicts = [row for rows in reader.stream("journal") for row in rows if row.name in (_SOUND, _DAMAGED)]
    verdict = verdicts[-1] if verdicts else None
    return FiguresAnswer(
        journal_id=reader.journal_id,
        file=None if path is None else str(path),
        schema=reader.schema,
        created_us=reader.created_at_us,
        position=head.position,
        link=head.link.hex(),
        last_event_us=head.recorded_at_us,
        file_bytes=0 if path is None else file_bytes(path),
        wal_bytes=0 if path is None else file_bytes(Path(f"{path}-wal")),
        snapshots_count=len(positions),
        newest_snapshot_position=positions[-1] if positions else None,
        snapshots_bytes=0 if snapshots is None else file_bytes(snapshots.path),
        witness=None if path is None else _witness_answer(path, witness_key),
        checked_us=verdict.recorded_at_us if verdict is not None else None,
        checked_sound=verdict.name == _SOUND if verdict is not None else None,
        events_last_day_count=head.position - reader.position_at(now_us - _DAY_US),
        names=[
            NameAnswer(
                name=name,
                events_count=size.events_count,
                body_bytes=size.body_bytes,
                is_known=name in VOCABULARY.entries,
            )
            for name, size in sorted(sizes, key=lambda item: (-item[1].events_count, item[0]))
        ],
    )


def file_bytes(path: Path) -> int:
    """Return the size of a file, 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _witness_answer(journal: Path, key: bytes | None) -> WitnessAnswer:
    path = journal.with_name(WITNESS_FILE)
    note = _note(path)
    with JournalReader(journal) as whole:
        findings = check_witness(path, whole, key)
    return WitnessAnswer(
        position=note.position if note is not None else None,
        at_us=note.at_us if note is not None else None,
        findings=[finding.code for finding in findings],
    )


def _note(path: Path) -> Witness | None:
    try:
        return read_witness(path)
    except msgspec.DecodeError:
        return None


def check_journal(
    path: Path,
    *,
    witness_key: bytes | None,
    first: int | None = None,
    last: int | None = None,
    is_quick: bool = False,
    is_replayed: bool = False,
    live: Sequence[LiveChapter] = (),
    progress: Progress | None = None,
) -> CheckAnswer:
    """Check rows `first` to `last` (default: all; quick: those since the witness), the file and the witness.

    With `is_replayed` the journal is also folded anew and compared with every stored state, and with what a daemon
    says it holds in memory (`live`).
    """
    note = _note(path.with_name(WITNESS_FILE)) if is_quick else None
    after = first - 1 if first is not None else note.position if note is not None else 0
    report = verify(
        path,
        after=after,
        upto=last,
        is_structure_checked=not is_quick,
        witness_key=witness_key,
        progress=_labelled(progress, "checking"),
    )
    if first is not None and first > report.head.position:
        raise PalyraError(f"The journal ends at position {report.head.position}.", code="position_not_found")
    findings = [*report.findings, *([] if is_quick else _unknown_names(path))]
    replay = _replayed(path, live, progress) if is_replayed else None
    if replay is not None and replay.diverged_position is not None:
        findings.append(_divergence(replay.diverged_position, replay.diverged_chapters))
    return CheckAnswer(
        journal_id=report.journal_id,
        first_position=after + 1,
        last_position=report.upto,
        rows_count=report.rows_count,
        head_position=report.head.position,
        head_us=report.head.recorded_at_us,
        is_quick=is_quick,
        is_sound=not report.omitted_count and all(finding.severity == "info" for finding in findings),
        findings=findings,
        omitted_count=report.omitted_count,
        replay=replay,
    )


def _labelled(progress: Progress | None, label: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(label, done, total)


def _replayed(path: Path, live: Sequence[LiveChapter], progress: Progress | None) -> ReplayAnswer:
    report = verify_replay(path, _labelled(progress, "folding"), live)
    divergence = report.divergence
    return ReplayAnswer(
        events_count=report.events_count,
        snapshots_count=report.snapshots_count,
        live_count=report.live_count,
        diverged_position=divergence.position if divergence is not None else None,
        diverged_chapters=divergence.chapters if divergence is not None else [],
    )


def _divergence(position: int, chapters: list[str]) -> Finding:
    return Finding(
        code="fold_divergence",
        severity="critical",
        position=position,
        expected="the state that a fold from the first event gives",
        found=f"another one in {', '.join(chapters)}",
        meaning="A stored state, or what a daemon holds in memory, is not what the events say.",
        next_step="Restart the daemon without snapshots.db, which is only a cache, and report both.",
    )


def _unknown_names(path: Path) -> list[Finding]:
    with JournalReader(path) as reader:
        unknown = [name for name in reader.sizes_by_name() if name not in VOCABULARY.entries]
    return [
        Finding(
            code="unknown_name",
            severity="info",
            found=name,
            meaning="Written by a newer release: the rows are checked, what they mean is not known here.",
            next_step="Use the release that wrote them.",
        )
        for name in unknown
    ]
