"""Where a daemon's journal and keys live: in a state directory, or in memory.

A home knows how both are made ready, looked after and let go of. It must never know what they are used for; and one
in memory leaves nothing on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn, Protocol

import msgspec

import palyra
from palyra.auth.keyfiles import read_key_file, witness_key
from palyra.auth.vault import Vault
from palyra.config.state import StatePaths, find_socket, find_state_dir, named_key_file, prepare_state_dir
from palyra.config.tree import Config, JournalConfig
from palyra.engine.access import Access
from palyra.engine.clock import Clock
from palyra.engine.console.frame import JournalFiles
from palyra.engine.console.past import ChildPast, ThreadPast
from palyra.engine.core import SYSTEM, Core, load_state
from palyra.engine.ids import Ids
from palyra.engine.machine import Room, free_bytes
from palyra.engine.snapshotting import keep_snapshot_aside
from palyra.engine.upgrade import Upgraded, refuse_due, schema_of, upgrade_held
from palyra.engine.upkeep import CheckpointChore, SnapshotChore, WitnessChore
from palyra.engine.vault import open_vault
from palyra.engine.verdicts import note_damage
from palyra.errors import JournalDamaged, StateError
from palyra.journal.failures import refused
from palyra.journal.findings import Finding
from palyra.journal.lock import JournalLock, LockState, this_process
from palyra.journal.memory import MemoryJournal, MemoryReader
from palyra.journal.port import Journal, Reader
from palyra.journal.reader import JournalReader
from palyra.journal.sqlite import SqliteJournal
from palyra.journal.verify import verify
from palyra.journal.witness import read_witness, was_begun
from palyra.journal.writer import JournalOptions
from palyra.projections.state import State
from palyra.redaction import Secret

WAY_OUT = (
    "Put a backup in its place: palyra journal restore BACKUP --replace; keep what is sound up to a position:"
    " palyra journal accept-fork --at POSITION --reason TEXT; go on with it as it is:"
    " palyra serve --set 'journal.verify_at_start=\"off\"'; or only look: palyra serve --read-only"
)


class Home(Protocol):
    """What the daemon asks of the place it lives in."""

    @property
    def is_new(self) -> bool:
        """Whether the journal was made by this start; known once it is open."""
        ...

    @property
    def upgraded(self) -> Upgraded | None:
        """What this start did to a journal of an older release, once it is open; None where nothing was due."""
        ...

    @property
    def paths(self) -> StatePaths:
        """Where the files are; raises `ValueError` where there are none."""
        ...

    @property
    def vault(self) -> Vault:
        """The vault, in whatever state it is; open once the journal is."""
        ...

    async def open(self, stack: contextlib.AsyncExitStack, started_us: int) -> Journal:
        """Return the journal, checked and ours alone; `stack` takes what lets go of it."""
        ...

    async def obey(self, settings: JournalConfig) -> None:
        """Look after the journal as these settings say, from now on."""
        ...

    def snapshots(self, core: Core) -> SnapshotChore | None:
        """Return what keeps states for a quick start."""
        ...

    def witness(self, core: Core) -> WitnessChore | None:
        """Return what notes the journal's head outside the journal."""
        ...

    def checkpoints(self, core: Core) -> CheckpointChore | None:
        """Return what empties the write-ahead log."""
        ...

    def room(self, core: Core) -> Room | None:
        """Return what watches the disk that the journal is on."""
        ...

    @property
    def files(self) -> JournalFiles | None:
        """Where the journal's files are; None where there are none."""
        ...

    @property
    def lock_state(self) -> LockState:
        """Who writes the journal, as anybody else would read it: this process."""
        ...

    def open_rows(self, upto: int) -> contextlib.AbstractContextManager[Reader]:
        """Open the journal for reading, as if it ended at a position; another thread may."""
        ...

    def past(self) -> ChildPast | ThreadPast:
        """Return what folds the journal away from the loop."""
        ...

    @property
    def content(self) -> Path | None:
        """Where content is kept that somebody wants kept; None for memory."""
        ...

    @property
    def key_files(self) -> Mapping[str, Path]:
        """Where keys are kept for the programs of this machine, by the keys' names."""
        ...

    async def client_key(self, access: Access) -> Secret:
        """See to it that local programs have a key, and return it."""
        ...

    def socket_path(self, environ: Mapping[str, str]) -> Path | None:
        """Return where commands may reach the daemon; None where there is no place."""
        ...

    def announce(self, url: str, socket_path: Path | None) -> None:
        """Tell the programs of this machine where the daemon listens."""
        ...


class DiskHome:
    """A state directory; without paths a temporary one, which is removed at the end."""

    vault: Vault

    def __init__(
        self,
        paths: StatePaths | None,
        config: Config,
        clock: Clock,
        ids: Ids,
        *,
        is_upgrading: bool = True,
    ) -> None:
        self.is_new = False
        self.upgraded: Upgraded | None = None
        self._is_upgrading = is_upgrading
        self._paths = paths
        self._is_temporary = paths is None
        self._settings = config.journal
        self._room: Room | None = None
        self._vault_settings = config.vault
        self._clock = clock
        self._ids = ids

    @property
    def paths(self) -> StatePaths:
        if self._paths is None:
            raise ValueError("The temporary state directory is made when the daemon starts.")
        return self._paths

    async def open(self, stack: contextlib.AsyncExitStack, started_us: int) -> Journal:
        if self._paths is None:
            directory = tempfile.mkdtemp(prefix="palyra-")
            stack.push_async_callback(asyncio.to_thread, shutil.rmtree, directory)
            self._paths = StatePaths(Path(directory), named_key_file(self._vault_settings.key_file))
        try:
            return await self._open(stack, started_us)
        except OSError as exc:
            raise refused(f"The state directory {self.paths.directory} cannot be used", exc) from exc
        except JournalDamaged as exc:
            exc.hint = exc.hint or WAY_OUT
            raise

    async def _open(self, stack: contextlib.AsyncExitStack, started_us: int) -> Journal:
        prepare_state_dir(self.paths)
        self._holder = this_process(release=palyra.__version__, started_at_us=started_us)
        self._lock = stack.enter_context(JournalLock.acquire(self.paths.lock, self._holder))
        self._witness_key = witness_key(self.paths.vault_key, create=not self.paths.journal.exists())
        self.vault = await asyncio.to_thread(open_vault, self.paths, self._vault_settings)
        stack.callback(self.vault.close)
        # Before anything else writes to it: what is damaged stays as it was found.
        bad = await asyncio.to_thread(self._check_journal)
        if bad:
            await self._refuse_damaged(bad)
        await self._bring_up_to_date()
        self._journal = await SqliteJournal.open(
            self.paths.journal,
            options=_options(self._settings),
            new_journal_id=self._ids.ulid(self._clock.now_us()),
            now_us=self._clock.now_us(),
        )
        stack.push_async_callback(self._journal.close)
        self.is_new = self._journal.head.position == 0 and not self.paths.head.exists()
        return self._journal

    def _check_journal(self) -> list[Finding]:
        """Return where the journal contradicts itself or its witness: all of it, or what the note has not seen."""
        how = self._settings.verify_at_start
        if how == "off" or not was_begun(self.paths.journal, self.paths.head):
            return []
        after = 0
        with contextlib.suppress(msgspec.DecodeError):
            witness = read_witness(self.paths.head) if how == "quick" else None
            after = witness.position if witness is not None else 0
        was_unclean = self.paths.journal.with_name(f"{self.paths.journal.name}-wal").exists()
        report = verify(
            self.paths.journal,
            after=after,
            is_structure_checked=how == "full" or was_unclean,
            witness_key=self._witness_key,
            witness_path=self.paths.head,
        )
        return [finding for finding in report.findings if finding.severity != "info"]

    async def _refuse_damaged(self, bad: list[Finding]) -> NoReturn:
        await note_damage(self.paths, bad)
        where = f" at position {bad[0].position}" if bad[0].position is not None else ""
        raise JournalDamaged(
            f"the journal fails its check: {bad[0].code}{where}. {bad[0].meaning}",
            hint=f"`palyra journal verify` shows all of it. {WAY_OUT}",
        )

    async def _bring_up_to_date(self) -> None:
        """Upgrade a journal of an older release, with a backup, unless that is not wanted."""
        if not await asyncio.to_thread(was_begun, self.paths.journal, self.paths.head):
            return
        if not self._is_upgrading:
            refuse_due(await asyncio.to_thread(schema_of, self.paths.journal))
        self.upgraded = await upgrade_held(self.paths, actor=SYSTEM)

    async def obey(self, settings: JournalConfig) -> None:
        self._settings = settings
        self._snapshots.set_pace(every_count=settings.snapshot_every_count, every_ms=settings.snapshot_every_ms)
        self._witness.set_pace(every_ms=settings.witness_every_ms, copies=_copies(settings))
        if self._room is not None:
            self._room.min_free_bytes = settings.min_free_bytes
        await self._journal.set_options(_options(settings))

    def snapshots(self, core: Core) -> SnapshotChore:
        self._snapshots = SnapshotChore(
            core,
            functools.partial(keep_snapshot_aside, self.paths.journal),
            every_count=self._settings.snapshot_every_count,
            every_ms=self._settings.snapshot_every_ms,
        )
        return self._snapshots

    def witness(self, core: Core) -> WitnessChore:
        self._witness = WitnessChore(
            core,
            self.paths.head,
            key=self._witness_key,
            every_ms=self._settings.witness_every_ms,
            copies=_copies(self._settings),
        )
        return self._witness

    def checkpoints(self, core: Core) -> CheckpointChore:
        return CheckpointChore(core, self._journal)

    def room(self, core: Core) -> Room | None:
        if self._is_temporary:  # what is removed at the end needs no space kept for it
            return None
        self._room = Room(
            core,
            self.paths.ballast,
            functools.partial(free_bytes, self.paths.directory),
            min_free_bytes=self._settings.min_free_bytes,
            ballast_bytes=self._settings.ballast_bytes,
        )
        return self._room

    @property
    def files(self) -> JournalFiles:
        return JournalFiles(self.paths.journal, self.paths.vault_key)

    @property
    def lock_state(self) -> LockState:
        return LockState(True, self._holder)

    def open_rows(self, upto: int) -> JournalReader:
        return JournalReader(self.paths.journal, upto=upto)

    def past(self) -> ChildPast:
        return ChildPast(self.files)

    @property
    def content(self) -> Path:
        """See `Home.content`."""
        return self.paths.content

    @property
    def key_files(self) -> Mapping[str, Path]:
        return {path.name: path for path in (self.paths.admin_token, self.paths.client_key)}

    async def client_key(self, access: Access) -> Secret:
        await access.ensure_keys(self.paths)
        key = read_key_file(self.paths.client_key)
        if key is None:
            raise StateError(f"{self.paths.client_key} is gone again", hint="start once more")
        return key

    def socket_path(self, environ: Mapping[str, str]) -> Path | None:
        return find_socket(self.paths, environ)

    def announce(self, url: str, socket_path: Path | None) -> None:
        self._holder = msgspec.structs.replace(self._holder, http=url, socket=str(socket_path or ""))
        self._lock.describe(self._holder)


class MemoryHome:
    """Nothing but memory; it ends with the daemon, so there is nothing to check and nothing to look after."""

    is_new = True
    upgraded = None
    content = None

    def __init__(self, settings: JournalConfig, clock: Clock, ids: Ids) -> None:
        self.vault = Vault()
        self._settings = settings
        self._clock = clock
        self._ids = ids

    @property
    def paths(self) -> StatePaths:
        raise ValueError("A daemon in memory has no files.")

    async def open(self, stack: contextlib.AsyncExitStack, started_us: int) -> Journal:
        now_us = self._clock.now_us()
        self._holder = this_process(release=palyra.__version__, started_at_us=started_us)
        self._journal = journal = MemoryJournal(
            journal_id=self._ids.ulid(now_us), now_us=now_us, options=_options(self._settings)
        )
        stack.push_async_callback(journal.close)
        return journal

    async def obey(self, settings: JournalConfig) -> None:
        self._settings = settings
        await self._journal.set_options(_options(settings))

    def snapshots(self, core: Core) -> None:
        return None

    def witness(self, core: Core) -> None:
        return None

    def checkpoints(self, core: Core) -> None:
        return None

    def room(self, core: Core) -> None:
        return None

    @property
    def files(self) -> None:
        return None

    @property
    def lock_state(self) -> LockState:
        return LockState(True, self._holder)

    def open_rows(self, upto: int) -> contextlib.AbstractContextManager[MemoryReader]:
        return contextlib.nullcontext(self._journal.reader(upto))

    def past(self) -> ThreadPast:
        return ThreadPast(self._journal)

    @property
    def key_files(self) -> Mapping[str, Path]:
        return {}

    async def client_key(self, access: Access) -> Secret:
        return await access.issue("client", "client.key")

    def socket_path(self, environ: Mapping[str, str]) -> None:
        return None

    def announce(self, url: str, socket_path: Path | None) -> None:
        self._holder = msgspec.structs.replace(self._holder, http=url)


def _copies(settings: JournalConfig) -> list[Path]:
    return [Path(copy) for copy in settings.witness_copies]


def _options(settings: JournalConfig) -> JournalOptions:
    return JournalOptions(
        durability=settings.durability,
        commit_max_count=settings.commit_max_count,
        lazy_append_ms=settings.lazy_append_ms,
        wal_checkpoint_bytes=settings.wal_checkpoint_bytes,
    )


def find_home(
    config: Config,
    state_dir: str | os.PathLike[str] | None,
    journal: str | None,
    environ: Mapping[str, str],
    *,
    is_embedded: bool,
    is_upgrading: bool,
    clock: Clock,
    ids: Ids,
) -> Home:
    """Return where a daemon lives: in memory, where it was told or configured to, or where its user's state is.

    One that is embedded and told nothing gets a temporary directory.
    """
    if journal not in (None, ":memory:") or (journal and state_dir is not None):
        raise ValueError("journal is ':memory:', which takes no state_dir, or left out")
    if journal:
        return MemoryHome(config.journal, clock, ids)
    paths: StatePaths | None = None
    if state_dir is not None:
        key_file = named_key_file(config.vault.key_file)
        paths = StatePaths(Path(state_dir).expanduser().absolute(), key_file)
    elif config.daemon.state_dir or not is_embedded:
        paths = find_state_dir(config.daemon.state_dir, environ, config.vault.key_file)
    return DiskHome(paths, config, clock, ids, is_upgrading=is_upgrading)


async def readable_state(journal: Journal) -> State:
    """Fold a journal, or raise `JournalDamaged` with what can be done about it."""
    try:
        return await load_state(journal)
    except JournalDamaged as exc:
        raise JournalDamaged(
            str(exc), hint=exc.hint or f"`palyra journal verify` shows all of it. {WAY_OUT}"
        ) from exc
