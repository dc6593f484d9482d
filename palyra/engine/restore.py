"""A backup in the place of a state: checked first, refused where it would lose events unless a person accepts that.

The state that was there is kept beside the new one and never deleted. The journal says what happened to it:
`backup.restored`, and `journal.history_forked` where events were left behind.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from palyra.auth.keyfiles import read_key_file, witness_key, write_key_file
from palyra.config.state import StatePaths, prepare_state_dir
from palyra.engine.offline import (
    Progress,
    Replaced,
    carry,
    new_id,
    record_offline,
    refuse_mount,
    take_lock,
    take_place,
    witnessed_position,
)
from palyra.errors import JournalDamaged, JournalError, PalyraError
from palyra.events.base import Draft
from palyra.events.journal import BackupRestored, JournalHistoryForked
from palyra.journal.backup import CONFIG_FILE, JOURNAL_FILE, Manifest, check_backup_journal, read_backup
from palyra.journal.reader import JournalReader
from palyra.journal.staging import beside, copy_private, refuse_without_space, staging

#: How a backup calls the vault's key, wherever a state keeps it.
KEY_FILE = "vault.key"


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """What a state has that a backup has not."""

    #: How far the present journal, or its witness, has come; None: there is no journal.
    known_position: int | None = None
    #: Last position that both have.
    common_position: int = 0
    #: None where it cannot be counted.
    events_count: int | None = 0
    runs_count: int | None = 0

    @property
    def is_any(self) -> bool:
        return self.events_count != 0


def restore(
    paths: StatePaths, source: Path, *, is_replacing: bool, is_loss_accepted: bool, progress: Progress | None = None
) -> Replaced:
    """Put a backup in the place of the state, which is kept beside it.

    The backup is checked first. Raises `conflict` where there is a journal and not `is_replacing`, and where that
    knows events that the backup lacks and not `is_loss_accepted`; the message says how many.
    """
    manifest = read_backup(source)
    prepare_state_dir(paths)
    refuse_mount(paths)
    with take_lock(paths):
        is_same = _journal_id(paths) in (None, manifest.journal_id)
        key_files = (source / KEY_FILE, *([paths.vault_key] if is_same else []))
        key_file = next((path for path in key_files if path.exists()), source / KEY_FILE)
        check_backup_journal(source, manifest, witness_key(key_file, create=False), progress)
        loss = _loss(paths, source, manifest)
        _refuse_loss(paths, loss, is_replacing=is_replacing, is_loss_accepted=is_loss_accepted)
        with staging(paths.directory, new_id()) as staged:
            refuse_without_space(staged, sum(file.size_bytes for file in manifest.files))
            _unpack(source, manifest, staged)
            if is_same:
                carry(paths.directory, staged)
            brings_key = any(file.name == KEY_FILE for file in manifest.files)
            signed = StatePaths(staged) if brings_key else paths.staged_in(staged)
            head = record_offline(signed, _facts(manifest, loss))
            is_empty = all(path.name == paths.lock.name for path in paths.directory.iterdir())
            replaced = take_place(staged, paths)
            if brings_key and paths.key_file is not None:
                _bring_out(paths.directory / KEY_FILE, paths.key_file)
        if is_empty:
            # Nothing but the lock that was taken above.
            (replaced / paths.lock.name).unlink()
            replaced.rmdir()
    return Replaced(
        journal_id=manifest.journal_id,
        position=manifest.position,
        head_position=head.position,
        replaced_position=loss.known_position,
        lost_events_count=loss.events_count,
        lost_runs_count=loss.runs_count,
        replaced_directory=None if is_empty else str(replaced),
    )


def _journal_id(paths: StatePaths) -> str | None:
    """Return whose journal the state has, None where there is none or it does not say."""
    try:
        with JournalReader(paths.journal) as reader:
            return reader.journal_id
    except JournalError:
        return None


def _loss(paths: StatePaths, source: Path, manifest: Manifest) -> Loss:
    if not paths.journal.exists():
        return Loss()
    witnessed = witnessed_position(paths)
    try:
        with JournalReader(paths.journal) as present, JournalReader(source / JOURNAL_FILE) as backup:
            head = present.head().position
            common = _common_position(present, backup)
            runs = sum(len(rows) for rows in present.rows(common, names=["run.admitted"]))
    except JournalError:
        # How far a journal had come that cannot be read is known to its witness alone.
        known = witnessed or None
        return Loss(known_position=known, common_position=manifest.position, events_count=None, runs_count=None)
    known = max(head, witnessed)
    return Loss(known_position=known, common_position=common, events_count=known - common, runs_count=runs)


def _common_position(one: JournalReader, other: JournalReader) -> int:
    """Return the last position at which two journals are the same, by bisection: links differ from there on."""
    low, high = 0, min(one.head().position, other.head().position)
    if one.journal_id != other.journal_id:
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        if one.link(middle) == other.link(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _refuse_loss(paths: StatePaths, loss: Loss, *, is_replacing: bool, is_loss_accepted: bool) -> None:
    if not is_replacing and paths.journal.exists():
        raise PalyraError(
            f"{paths.directory} has a journal already.",
            hint="--replace puts the backup in its place; what is there is kept beside it",
            code="conflict",
        )
    if loss.is_any and not is_loss_accepted:
        raise PalyraError(
            _loss_sentence(loss.events_count, loss.runs_count),
            hint="--accept-loss goes on all the same; the journal that is there is kept beside the new one",
            code="conflict",
        )


def _loss_sentence(events_count: int | None, runs_count: int | None) -> str:
    """Return what a restore would leave behind, for a person."""
    if events_count is None:
        return "The present journal cannot be read, so what it knows and the backup does not is not known."
    runs = "" if runs_count is None else f", {runs_count:,} of them requests that were let in"
    return f"The present journal has {events_count:,} events that the backup does not have{runs}."


def _unpack(source: Path, manifest: Manifest, staged: Path) -> None:
    """Copy what belongs into a state; the configuration has its own place and stays in the backup."""
    for file in manifest.files:
        if file.name != CONFIG_FILE and copy_private(source / file.name, staged / file.name).sha256 != file.sha256:
            raise JournalDamaged(f"The backup's file {file.name} changed while it was read.")


def _bring_out(brought: Path, key_file: Path) -> None:
    """Put the backup's key where configuration says that it is; another one that is there is kept beside it."""
    line = read_key_file(brought)
    if key_file.exists() and read_key_file(key_file) != line:
        key_file.rename(beside(key_file, f"replaced-{new_id()}"))
    if line is not None:
        write_key_file(key_file, line)
        brought.unlink()


def _facts(manifest: Manifest, loss: Loss) -> list[Draft]:
    facts: list[JournalHistoryForked | BackupRestored] = []
    if loss.is_any and loss.known_position is not None:
        facts.append(JournalHistoryForked(kind="restore", before=loss.known_position, after=loss.common_position))
    restored = BackupRestored(
        backup_ref=manifest.backup_id, position=manifest.position, replaced_position=loss.known_position
    )
    return [Draft("journal", fact) for fact in [*facts, restored]]
