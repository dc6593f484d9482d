"""What a check found, as a fact in the journal itself: that it is sound, or damage where writing can do no harm.

Only a row that was changed, left out or moved lets the log go on: its file is whole, and the note outside of it has
seen no more than is there. Behind a cut tail a new fact would take the position of one that was acknowledged, and
a damaged file is evidence; both stay exactly as they were found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from palyra.auth.keyfiles import witness_key
from palyra.config.state import StatePaths
from palyra.engine.clock import SystemClock
from palyra.engine.codec import to_row
from palyra.engine.core import SYSTEM
from palyra.engine.inspection import CheckAnswer, check_journal
from palyra.engine.offline import OPERATOR, Progress, new_id, record_held, take_lock
from palyra.errors import JournalError, JournalLocked
from palyra.events.base import Draft, Recorded
from palyra.events.journal import JournalDamageFound, JournalVerified
from palyra.journal.findings import Finding
from palyra.journal.reader import JournalReader
from palyra.journal.sqlite import SqliteJournal

#: Findings about rows; the file, the witness and the schema are another matter.
_ABOUT_ROWS = ("link_mismatch", "position_gap", "stream_version_gap")
_STREAM = "journal"


def check_and_record(
    paths: StatePaths,
    *,
    first: int | None = None,
    last: int | None = None,
    is_quick: bool = False,
    is_replayed: bool = False,
    progress: Progress | None = None,
) -> CheckAnswer:
    """Check the journal of a state whose daemon is stopped, as `check_journal` does, and record the verdict.

    Not for use inside a running loop. Raises `JournalLocked` while a daemon runs.
    """
    try:
        lock = take_lock(paths)
    except JournalLocked as exc:
        exc.hint = "without --record the journal is checked beside the daemon"
        raise
    with lock:
        report = check_journal(
            paths.journal,
            witness_key=witness_key(paths.vault_key, create=False),
            first=first,
            last=last,
            is_quick=is_quick,
            is_replayed=is_replayed,
            progress=progress,
        )
        return msgspec.structs.replace(report, recorded_position=asyncio.run(_record(paths, report)))


async def _record(paths: StatePaths, report: CheckAnswer) -> int | None:
    if not report.is_sound:
        return await record_damage(paths, report.findings, actor=OPERATOR)
    verified = JournalVerified(
        first=report.first_position,
        last=report.last_position,
        quick=report.is_quick,
        replayed=report.replay is not None,
    )
    return (await record_held(paths, [Draft(_STREAM, verified)])).position


async def record_damage(paths: StatePaths, findings: Sequence[Finding], *, actor: str = SYSTEM) -> int | None:
    """Append `journal.damage_found` if the log can go on; return its position, None where it must not be written.

    The caller holds the journal's lock. A head that tells of damage already gets no second such fact: a start that
    is tried again and again leaves one.
    """
    bad = [finding for finding in findings if finding.severity != "info"]
    if not bad or any(finding.code not in _ABOUT_ROWS for finding in bad):
        return None
    try:
        with JournalReader(paths.journal) as reader:
            head = reader.head()
            last = reader.row(head.position)
            versions = reader.query("SELECT coalesce(max(version), 0) FROM event WHERE stream = ?", (_STREAM,))
        fact = JournalDamageFound(code=bad[0].code, found_position=bad[0].position, findings_count=len(bad))
        if last is not None and last.name == JournalDamageFound.__struct_config__.tag:
            return last.position
        now_us = SystemClock().now_us()
        row = to_row(Recorded(head.position + 1, _STREAM, versions[0][0] + 1, now_us, actor, "", 0, "", fact))
        journal = await SqliteJournal.open(paths.journal, new_journal_id=new_id(), now_us=now_us)
        try:
            await journal.append([row])
        finally:
            await journal.close()
    except JournalError:
        return None
    return row.position
