"""A journal file that holds a history of the pure world (`story`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from story import T0_US

from palyra.engine.codec import to_row
from palyra.events.base import Recorded
from palyra.journal.port import Row
from palyra.journal.sqlite import SqliteJournal

JOURNAL_ID = "01STORY"


async def write_journal(path: Path, history: Sequence[Recorded], *more: Row) -> None:
    """Append a history, and rows of any kind after it, to the journal at `path`."""
    journal = await SqliteJournal.open(path, new_journal_id=JOURNAL_ID, now_us=T0_US)
    await journal.append([*map(to_row, history), *more])
    await journal.close()
