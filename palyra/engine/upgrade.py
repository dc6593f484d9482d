"""Bring a state's journal to the schema of this release: a backup first, then the migrations, then the fact.

Event rows are never rewritten. A migration that fails leaves the number before it in force, so that the release
that wrote the journal can still start; the way back from an upgrade that succeeded is the backup.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

import palyra
from palyra.auth.keyfiles import witness_key
from palyra.config.state import StatePaths
from palyra.engine.clock import SystemClock
from palyra.engine.offline import OPERATOR, Progress, new_id, record_held, take_lock
from palyra.errors import JournalError, PalyraError
from palyra.events.base import Draft
from palyra.events.journal import JournalUpgraded
from palyra.journal.backup import back_up, refuse_unsound
from palyra.journal.migrations import refuse_newer, released_migrations
from palyra.journal.reader import JournalReader
from palyra.journal.sqlite import prepare_file


class SchemaAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How a journal's schema stands to this release."""

    journal_id: str
    position: int
    #: Number of the last migration that ran on the file, and of the last one there is.
    schema: int
    newest: int

    @property
    def is_due(self) -> bool:
        return self.schema < self.newest


class Upgraded(msgspec.Struct, frozen=True, kw_only=True):
    """An upgrade that was made."""

    before: int
    after: int
    #: The state as it was.
    backup_directory: str
    #: The journal's head, which tells of the upgrade.
    head_position: int


def schema_of(journal: Path) -> SchemaAnswer:
    """Return how the schema of a journal stands; raises `JournalNewer` where this release is the older one."""
    newest = len(released_migrations())
    with JournalReader(journal) as reader:
        refuse_newer(reader.schema, released_migrations())
        head = reader.head()
        return SchemaAnswer(
            journal_id=reader.journal_id, position=head.position, schema=reader.schema, newest=newest
        )


def refuse_due(schema: SchemaAnswer) -> None:
    """Raise `upgrade_due` for a journal that this release would have to upgrade."""
    if schema.is_due:
        raise upgrade_due(schema)


def upgrade_due(schema: SchemaAnswer) -> PalyraError:
    """Return the refusal of a journal that is older than this release."""
    return PalyraError(
        f"The journal has schema {schema.schema}; this release needs {schema.newest}.",
        hint="palyra journal upgrade, or palyra serve without --no-upgrade: either makes a backup first",
        code="upgrade_due",
    )


def upgrade_offline(paths: StatePaths, progress: Progress | None = None) -> Upgraded | None:
    """Upgrade the journal of a state whose daemon is stopped; None where nothing is due.

    Not for use inside a running loop. Raises `JournalLocked`, `JournalDamaged` for a journal that is not sound,
    `upgrade_needs_space`, and what a failing migration raises.
    """
    with take_lock(paths):
        if not schema_of(paths.journal).is_due:
            return None
        refuse_unsound(paths.journal, witness_key(paths.vault_key, create=False), progress)
        return asyncio.run(upgrade_held(paths, progress=progress))


async def upgrade_held(
    paths: StatePaths, *, actor: str = OPERATOR, progress: Progress | None = None
) -> Upgraded | None:
    """Upgrade a journal that was checked and whose lock the caller holds; None where nothing is due."""
    schema = await asyncio.to_thread(schema_of, paths.journal)
    if not schema.is_due:
        return None
    directory = await asyncio.to_thread(_back_up_and_migrate, paths, progress)
    fact = JournalUpgraded(before=schema.schema, after=schema.newest, release=palyra.__version__)
    head = await record_held(paths, [Draft("journal", fact)], actor)
    return Upgraded(
        before=schema.schema,
        after=schema.newest,
        backup_directory=str(directory),
        head_position=head.position,
    )


def _back_up_and_migrate(paths: StatePaths, progress: Progress | None) -> Path:
    now_us, backup_id = SystemClock().now_us(), new_id()
    directory = paths.directory / "backups" / f"before-upgrade-{backup_id}"
    try:
        back_up(
            paths.journal,
            directory,
            backup_id=backup_id,
            release=palyra.__version__,
            now_us=now_us,
            witness_key=witness_key(paths.vault_key, create=False),
            progress=progress,
        )
    except PalyraError as exc:
        if exc.code != "needs_space":
            raise
        raise PalyraError(
            f"No backup can be made, so the journal is not upgraded: {exc}",
            hint="free some space; until then the release that wrote the journal can start",
            code="upgrade_needs_space",
        ) from exc
    try:
        prepare_file(paths.journal, new_journal_id=backup_id, now_us=now_us)
    except JournalError as exc:
        exc.hint = f"the release that wrote the journal can still start; a backup is in {directory}"
        raise
    return directory
