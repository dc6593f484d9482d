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


class JournalVerified(Fact, tag="journal.verified", frozen=True, kw_only=True):
    """Somebody had the journal checked and nothing but information was found."""

    #: The rows that were checked; both ends belong to it.
    first: int
    last: int
    #: Whether SQLite's own check of the whole file was left out.
    quick: bool = False
    #: Whether folds were compared as well.
    replayed: bool = False


class JournalDamageFound(Fact, tag="journal.damage_found", frozen=True, kw_only=True):
    """A check found the journal damaged, in a way that lets it still be written to."""

    #: Of the first finding.
    code: str
    found_position: int | None = None
    #: All of them.
    findings_count: int


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
