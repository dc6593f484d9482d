"""States that are made of a journal: import, branch, accepted forks.

Each is built whole in a directory of its own and then put in its place by one rename. A journal whose history is
not simply the one before, gone on, says so itself (`journal.history_forked`).
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import msgspec

from palyra.auth.keyfiles import witness_key
from palyra.config.state import StatePaths, check_state_dir
from palyra.engine.clock import SystemClock
from palyra.engine.offline import (
    Progress,
    Replaced,
    carry,
    labelled,
    new_id,
    record_offline,
    refuse_mount,
    take_lock,
    take_place,
    witness_offline,
    witnessed_position,
)
from palyra.errors import JournalDamaged, PalyraError
from palyra.events.base import Draft
from palyra.events.journal import JournalHistoryForked
from palyra.journal.build import RowRefused, copy_rows
from palyra.journal.export import import_rows
from palyra.journal.port import Head
from palyra.journal.reader import JournalReader
from palyra.journal.staging import (
    put_in_place,
    refuse_unless_empty,
    refuse_without_space,
    staging,
)
from palyra.journal.verify import verify
from palyra.redaction import redact_text

BRANCH_CONFIG = """\
# A branch of another journal. Without providers of its own it has the built-in one, which plays scripts: what
# is tried here reaches nobody and costs nothing.
version = 1

[daemon]
state_dir = {state_dir}
port = 0
"""


def import_journal(
    file: BinaryIO, directory: Path, progress: Progress | None = None, *, key_file: Path | None = None
) -> Head:
    """Make a state of an export in a new or empty directory; its head has the link that was exported.

    The state gets a vault key of its own, unless `key_file` says where the key is, and a witness under it.
    """
    refuse_unless_empty(directory)
    with staging(directory, new_id()) as staged:
        paths = StatePaths(staged, key_file)
        head = import_rows(
            file, paths.journal, now_us=SystemClock().now_us(), progress=labelled(progress, "importing")
        )
        witness_key(paths.vault_key, create=True)
        witness_offline(paths)
        put_in_place(staged, directory)
    return head


class Branched(msgspec.Struct, frozen=True, kw_only=True):
    """A branch that was made."""

    directory: str
    journal_id: str
    #: Last position that both have, and how far the source had come.
    position: int
    source_position: int
    head_position: int
    #: The configuration to serve it with.
    config_file: str


def branch(journal: Path, at: int, directory: Path, progress: Progress | None = None) -> Branched:
    """Make a state of the journal's rows up to a position in a new or empty directory; the journal is only read.

    It holds no secret of the source, a vault key of its own, and a configuration that reaches nobody.
    """
    refuse_unless_empty(directory)
    with JournalReader(journal) as reader, staging(directory, new_id()) as staged:
        paths, source_position = StatePaths(staged), reader.head().position
        _copy(reader, at, paths, progress)
        witness_key(paths.vault_key, create=True)
        fact = JournalHistoryForked(kind="branch", before=source_position, after=at)
        head = record_offline(paths, [Draft("journal", fact)])
        quoted = msgspec.json.encode(str(directory)).decode()
        config_file = staged / "palyra.toml"
        config_file.write_text(BRANCH_CONFIG.format(state_dir=quoted), encoding="utf-8")
        config_file.chmod(0o600)
        put_in_place(staged, directory)
        return Branched(
            directory=str(directory),
            journal_id=reader.journal_id,
            position=at,
            source_position=source_position,
            head_position=head.position,
            config_file=str(directory / config_file.name),
        )


def _copy(reader: JournalReader, at: int, paths: StatePaths, progress: Progress | None) -> None:
    """Copy the rows up to a position; a refusal says which position would do."""
    head = reader.head().position
    if at > head:
        raise PalyraError(f"The journal ends at position {head}.", code="position_not_found")
    refuse_without_space(paths.directory, reader.path.stat().st_size)
    try:
        copy_rows(reader, at, paths.journal, labelled(progress, "copying"))
    except RowRefused as exc:
        raise JournalDamaged(
            f"The journal is damaged up to position {at}: position {exc.position} {exc.why}.",
            hint=f"--at {exc.position - 1} keeps what is sound",
        ) from exc


def accept_fork(paths: StatePaths, at: int, reason: str, progress: Progress | None = None) -> Replaced:
    """Go on from a position of a journal that does not pass its check; the state as it was is kept beside it.

    Refused for a sound journal: `branch` goes on from an earlier position without giving anything up.
    """
    check_state_dir(paths)
    refuse_mount(paths)
    with take_lock(paths):
        report = verify(
            paths.journal,
            witness_key=witness_key(paths.vault_key, create=False),
            progress=labelled(progress, "checking"),
        )
        if report.is_sound:
            raise PalyraError(
                "The journal is sound, so there is no fork to accept.",
                hint=f"palyra journal branch --at {at} DIR goes on from there beside it",
                code="conflict",
            )
        known = max(report.head.position, witnessed_position(paths))
        with staging(paths.directory, new_id()) as staged:
            fresh = paths.staged_in(staged)
            with JournalReader(paths.journal) as reader:
                _copy(reader, at, fresh, progress)
            carry(paths.directory, staged)
            fact = JournalHistoryForked(kind="accepted", before=known, after=at, reason=redact_text(reason))
            head = record_offline(fresh, [Draft("journal", fact)])
            replaced = take_place(staged, paths)
        return Replaced(
            journal_id=report.journal_id,
            position=at,
            head_position=head.position,
            replaced_position=report.head.position,
            lost_events_count=known - at,
            lost_runs_count=None,
            replaced_directory=str(replaced),
        )
