"""Verdicts about a journal that nobody writes: a check that is recorded, and damage that a start has found.

What may be recorded is decided in `palyra.decisions.verdicts`. A journal with a row that was changed may not be
folded, so the fact about it is appended without a state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from palyra.auth.keyfiles import witness_key
from palyra.config.state import StatePaths
from palyra.decisions.verdicts import Bad, Check, record_check, record_damage
from palyra.engine.clock import SystemClock
from palyra.engine.codec import to_row
from palyra.engine.core import SYSTEM
from palyra.engine.inspection import CheckAnswer, check_journal
from palyra.engine.offline import OPERATOR, Progress, new_id, record_held, take_lock
from palyra.errors import JournalError
from palyra.events.base import Draft, Recorded
from palyra.events.journal import JournalDamageFound
from palyra.journal.findings import Finding
from palyra.journal.reader import JournalReader
from palyra.journal.sqlite import SqliteJournal


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
    with take_lock(paths):
        report = check_journal(
            paths.journal,
            witness_key=witness_key(paths.vault_key, create=False),
            first=first,
            last=last,
            is_quick=is_quick,
            is_replayed=is_replayed,
            progress=progress,
        )
        drafts = record_check(check_of(report))
        if report.is_sound:
            position: int | None = asyncio.run(record_held(paths, drafts)).position
        else:
            position = asyncio.run(_append(paths, drafts, OPERATOR))
        return msgspec.structs.replace(report, recorded_position=position)


def check_of(report: CheckAnswer) -> Check:
    """Return what a report comes to."""
    bad = _bad(report.findings)
    return Check(
        first=report.first_position,
        last=report.last_position,
        quick=report.is_quick,
        replayed=report.replay is not None,
        bad=bad,
        bad_count=len(bad) + report.omitted_count,
    )


async def note_damage(paths: StatePaths, findings: Sequence[Finding]) -> None:
    """Record what a start has found, where that can do no harm; the caller holds the journal's lock."""
    bad = _bad(findings)
    await _append(paths, record_damage(bad, len(bad)), SYSTEM)


def _bad(findings: Sequence[Finding]) -> list[Bad]:
    return [Bad(code=each.code, position=each.position) for each in findings if each.severity != "info"]


async def _append(paths: StatePaths, drafts: Sequence[Draft], actor: str) -> int | None:
    """Append a fact without a fold; return its position, None where there is none or the disk refuses.

    A head that tells of damage already gets no second such fact: a start that is tried again and again leaves one.
    """
    for draft in drafts:
        try:
            with JournalReader(paths.journal) as reader:
                head = reader.head()
                last = reader.row(head.position)
                sql = "SELECT coalesce(max(version), 0) FROM event WHERE stream = ?"
                version = reader.query(sql, (draft.stream,))[0][0] + 1
            if last is not None and last.name == JournalDamageFound.__struct_config__.tag:
                return last.position
            now_us = SystemClock().now_us()
            fact = Recorded(head.position + 1, draft.stream, version, now_us, actor, "", 0, "", draft.body)
            journal = await SqliteJournal.open(paths.journal, new_journal_id=new_id(), now_us=now_us)
            try:
                await journal.append([to_row(fact)])
            finally:
                await journal.close()
        except JournalError:
            return None
        return fact.position
    return None
