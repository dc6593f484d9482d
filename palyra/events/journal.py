"""The journal's own life. Stream `journal`."""

from __future__ import annotations

from palyra.events.base import Fact


class JournalCreated(Fact, tag="journal.created", frozen=True, kw_only=True):
    """Position 1 of every journal."""

    journal_id: str
    release: str


class JournalUpgraded(Fact, tag="journal.upgraded", frozen=True, kw_only=True):
    """The file's schema was brought up to date; event rows are never rewritten."""

    before: int
    after: int
    release: str
