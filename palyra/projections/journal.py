"""Whose journal it is, how its file grew, and where its history was forked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from palyra.events import journal
from palyra.events.base import Recorded
from palyra.projections.base import Chapter

if TYPE_CHECKING:
    from palyra.projections.state import State


class Fork(msgspec.Struct, frozen=True, kw_only=True):
    """Where the journal left another history: that one ended at `before`, both are the same up to `after`."""

    position: int
    kind: str
    before: int
    after: int
    reason: str


class Restore(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that took the state's place."""

    #: Of the fact itself.
    position: int
    backup_ref: str
    backup_position: int


class Checked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A check that found the journal sound."""

    #: Of the fact itself.
    position: int
    at_us: int
    first: int
    last: int
    quick: bool = False
    replayed: bool = False


class Damage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A check that found it damaged."""

    #: Of the fact itself.
    position: int
    at_us: int
    code: str
    found_position: int | None = None
    findings_count: int


#: Newest damages that are kept in mind; the journal itself has all.
DAMAGES_COUNT = 20


class JournalState(msgspec.Struct, kw_only=True):
    """Identity, upgrades, checks, and where history did not simply go on."""

    journal_id: str = ""
    created_us: int = 0
    release: str = ""
    #: (position, before, after) of each schema upgrade.
    upgrades: list[tuple[int, int, int]] = []
    #: The newest sound check that was recorded.
    checked: Checked | None = None
    #: In order of position, the newest ones.
    damages: list[Damage] = []
    #: In order of position.
    forks: list[Fork] = []
    restores: list[Restore] = []


CHAPTER = Chapter()


@CHAPTER.on(journal.JournalCreated)
def _created(state: State, recorded: Recorded, body: journal.JournalCreated) -> None:
    state.journal.journal_id, state.journal.release = body.journal_id, body.release
    state.journal.created_us = recorded.recorded_at_us


@CHAPTER.on(journal.JournalUpgraded)
def _upgraded(state: State, recorded: Recorded, body: journal.JournalUpgraded) -> None:
    state.journal.upgrades = [*state.journal.upgrades, (recorded.position, body.before, body.after)]


@CHAPTER.on(journal.JournalVerified)
def _verified(state: State, recorded: Recorded, body: journal.JournalVerified) -> None:
    state.journal.checked = Checked(
        position=recorded.position,
        at_us=recorded.recorded_at_us,
        first=body.first,
        last=body.last,
        quick=body.quick,
        replayed=body.replayed,
    )


@CHAPTER.on(journal.JournalDamageFound)
def _damage_found(state: State, recorded: Recorded, body: journal.JournalDamageFound) -> None:
    damage = Damage(
        position=recorded.position,
        at_us=recorded.recorded_at_us,
        code=body.code,
        found_position=body.found_position,
        findings_count=body.findings_count,
    )
    state.journal.damages = [*state.journal.damages[-(DAMAGES_COUNT - 1) :], damage]


@CHAPTER.on(journal.JournalHistoryForked)
def _forked(state: State, recorded: Recorded, body: journal.JournalHistoryForked) -> None:
    fork = Fork(
        position=recorded.position, kind=body.kind, before=body.before, after=body.after, reason=body.reason
    )
    state.journal.forks = [*state.journal.forks, fork]


@CHAPTER.on(journal.BackupRestored)
def _restored(state: State, recorded: Recorded, body: journal.BackupRestored) -> None:
    restore = Restore(position=recorded.position, backup_ref=body.backup_ref, backup_position=body.position)
    state.journal.restores = [*state.journal.restores, restore]
