"""The journal's own life. Stream `journal`."""

from __future__ import annotations

from typing import Literal

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


class JournalHistoryForked(Fact, tag="journal.history_forked", frozen=True, kw_only=True):
    """From here on the journal tells another history than one with the same beginning, which was left."""

    #: restore: a backup took its place; branch: a copy goes its own way; accepted: a person cut a damaged one.
    kind: Literal["restore", "branch", "accepted"]
    #: Last position of the history that was left.
    before: int
    #: Last position that both have; what follows is this journal's own.
    after: int
    #: Why, in the words of the person who accepted it.
    reason: str = ""


class BackupRestored(Fact, tag="backup.restored", frozen=True, kw_only=True):
    """A backup was put in the place of the state."""

    #: The `backup_id` of its manifest.
    backup_ref: str
    #: Its last position.
    position: int
    #: Last position of the journal that it replaced; None where there was none, or none that could be read.
    replaced_position: int | None = None
