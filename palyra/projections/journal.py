"""Journal status: whose journal it is, and how many events of each name it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from palyra.events import journal
from palyra.events.base import Recorded
from palyra.projections.base import Chapter

if TYPE_CHECKING:
    from palyra.projections.state import State


class JournalState(msgspec.Struct, kw_only=True):
    """Identity and upgrades."""

    journal_id: str = ""
    created_us: int = 0
    release: str = ""
    #: (position, before, after) of each schema upgrade.
    upgrades: list[tuple[int, int, int]] = []


CHAPTER = Chapter()


@CHAPTER.on(journal.JournalCreated)
def _created(state: State, recorded: Recorded, body: journal.JournalCreated) -> None:
    state.journal.journal_id, state.journal.release = body.journal_id, body.release
    state.journal.created_us = recorded.recorded_at_us


@CHAPTER.on(journal.JournalUpgraded)
def _upgraded(state: State, recorded: Recorded, body: journal.JournalUpgraded) -> None:
    state.journal.upgrades = [*state.journal.upgrades, (recorded.position, body.before, body.after)]
