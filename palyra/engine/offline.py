"""Work on a state whose daemon is stopped: facts for its journal, and another state in its place.

Facts go the same way as everything else, through the core: a journal that this release cannot fold is not written
past. The journal is opened under its lock, and its new head is witnessed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec

import palyra
from palyra.auth.keyfiles import witness_key
from palyra.config.state import StatePaths
from palyra.engine.clock import SystemClock
from palyra.engine.core import Core, load_state
from palyra.engine.ids import SystemIds
from palyra.errors import PalyraError
from palyra.events.base import Draft
from palyra.journal.backup import JOURNAL_FILE
from palyra.journal.lock import LOCK_FILE, JournalLock, this_process
from palyra.journal.port import Head
from palyra.journal.reader import JournalReader
from palyra.journal.snapshots import SNAPSHOTS_FILE
from palyra.journal.sqlite import SqliteJournal
from palyra.journal.staging import beside, copy_private, exchange, plain_files
from palyra.journal.witness import WITNESS_FILE, make_witness, read_witness, write_witness

#: What a state has of a journal; everything else in it is carried over when only the journal is replaced.
_JOURNAL_FAMILY = {
    *(f"{name}{suffix}" for name in (JOURNAL_FILE, SNAPSHOTS_FILE) for suffix in ("", "-wal", "-shm", "-journal")),
    *(WITNESS_FILE, LOCK_FILE),
}
#: Told what is being done, how much of it is done, and of how much.
Progress = Callable[[str, int, int], None]
#: Who acts when a person runs a command without a daemon.
OPERATOR = "operator:local"


def labelled(progress: Progress | None, label: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(label, done, total)


def new_id() -> str:
    return SystemIds().ulid(SystemClock().now_us())


def take_lock(paths: StatePaths, *, timeout_ms: int = 0) -> JournalLock:
    """Become the one writer of a state's journal; raises `JournalLocked` while somebody else is, for so long."""
    holder = this_process(release=palyra.__version__, started_at_us=SystemClock().now_us())
    return JournalLock.acquire(paths.lock, holder, timeout_ms=timeout_ms)


def record_offline(paths: StatePaths, drafts: Sequence[Draft]) -> Head:
    """Append facts to a journal that exists and that nobody writes; return its head, which is witnessed.

    The witness is signed where the state has its key. Not for use inside a running loop.
    """
    with take_lock(paths):
        return asyncio.run(record_held(paths, drafts))


async def record_held(paths: StatePaths, drafts: Sequence[Draft], actor: str = OPERATOR) -> Head:
    """Append facts to a journal whose lock the caller holds; return its head, which is witnessed."""
    async with held_core(paths) as core:
        await core.record(drafts, actor)
        return core.journal.head


@contextlib.asynccontextmanager
async def held_core(paths: StatePaths) -> AsyncIterator[Core]:
    """Give the engine over a journal whose lock the caller holds; its new head is witnessed at the end."""
    clock, ids = SystemClock(), SystemIds()
    now_us = clock.now_us()
    journal = await SqliteJournal.open(paths.journal, new_journal_id=ids.ulid(now_us), now_us=now_us)
    try:
        yield Core(journal, await load_state(journal), clock=clock, ids=ids)
        head = journal.head
    finally:
        await journal.close()
    _write_witness(paths, journal.journal_id, head, clock.now_us())


def witness_offline(paths: StatePaths) -> Head:
    """Witness the head of a journal that nobody writes, without adding to it; return it."""
    with JournalReader(paths.journal) as reader:
        head, journal_id = reader.head(), reader.journal_id
    _write_witness(paths, journal_id, head, SystemClock().now_us())
    return head


def _write_witness(paths: StatePaths, journal_id: str, head: Head, now_us: int) -> None:
    key = witness_key(paths.vault_key, create=False)
    write_witness(paths.head, make_witness(journal_id, head, now_us, key))


class Replaced(msgspec.Struct, frozen=True, kw_only=True):
    """A state whose journal was replaced."""

    journal_id: str
    #: Last position that was kept, and the head after the facts about it.
    position: int
    head_position: int
    #: Last position of the journal that was there; null where there was none that could be read.
    replaced_position: int | None
    #: What is not in the new journal; null where it cannot be counted.
    lost_events_count: int | None
    lost_runs_count: int | None
    #: Where the state that was there is now; null where there was none.
    replaced_directory: str | None


def witnessed_position(paths: StatePaths) -> int:
    """Return the position that the witness names, 0 where there is none that can be read."""
    try:
        witness = read_witness(paths.head)
    except msgspec.DecodeError:
        witness = None
    return 0 if witness is None else witness.position


def carry(source: Path, staged: Path) -> None:
    """Copy what a state has beside its journal, unless the staged one has it already."""
    for path in plain_files(source):
        if path.name not in _JOURNAL_FAMILY and not (staged / path.name).exists():
            copy_private(path, staged / path.name)


def refuse_mount(paths: StatePaths) -> None:
    """Raise `bad_path` for a state directory that cannot be renamed."""
    if paths.directory.is_mount():
        raise PalyraError(
            f"{paths.directory} is a mount point, so nothing can be put in its place.",
            hint="--state-dir names a directory below it",
            code="bad_path",
        )


def take_place(staged: Path, paths: StatePaths) -> Path:
    """Put a staged state in the place of the present one; return where that one is now.

    Directories (backups, logs) hold nothing of the journal and move on with the state.
    """
    replaced = beside(paths.directory, f"replaced-{new_id()}")
    exchange(staged, paths.directory, replaced)
    for entry in sorted(replaced.iterdir()):
        if entry.is_dir() and not entry.is_symlink() and not (paths.directory / entry.name).exists():
            os.rename(entry, paths.directory / entry.name)
    return replaced
