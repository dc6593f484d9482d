"""The composition root: a daemon is put together here, started in order, drained and stopped in order.

`Daemon` is the whole of it and can be embedded in any asyncio program; `serve` is the same with signals, a banner
and an exit status. asyncio hosts, trio is its guest; everything else gets what it needs as an argument.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

import palyra
from palyra.auth.keyfiles import witness_key
from palyra.auth.references import ReferenceSource
from palyra.config.effective import recordable_registry, recordable_tree
from palyra.config.load import LoadedConfig
from palyra.config.state import StatePaths, find_state_dir, prepare_state_dir
from palyra.config.tree import Config
from palyra.daemon.gateway import Gateway, GatewayLimits
from palyra.daemon.logs import Log
from palyra.daemon.server import Server
from palyra.engine.access import Access
from palyra.engine.boot import Adoptable, boot
from palyra.engine.clock import SystemClock
from palyra.engine.core import Core, load_state
from palyra.engine.ids import SystemIds
from palyra.engine.run import RunSettings
from palyra.engine.runs import Runs
from palyra.engine.upkeep import CheckpointChore, SnapshotChore, WitnessChore
from palyra.errors import JournalDamaged
from palyra.events.base import Draft
from palyra.events.daemon import DaemonDraining, DaemonReady, DaemonStopped
from palyra.journal.lock import Holder, JournalLock, this_process
from palyra.journal.reader import JournalReader
from palyra.journal.sqlite import SqliteJournal
from palyra.journal.verify import verify
from palyra.journal.witness import check_witness
from palyra.journal.writer import JournalOptions
from palyra.providers.port import Provider
from palyra.providers.registry import ProviderSet
from palyra.redaction import Secret
from palyra.supervisor.adapters import CrossingChore, EngineLoopLog, EngineStallWatch
from palyra.supervisor.bridge import TrioGuest
from palyra.supervisor.loops import Ports, loop_table
from palyra.supervisor.tree import Tree
from palyra.units import ms_to_us

_SETTLE_S = 4.0


class Outside:
    """Providers and secrets, as runs ask for them."""

    def __init__(self, providers: ProviderSet, references: ReferenceSource) -> None:
        self._providers = providers
        self._references = references

    def provider(self, provider_id: str) -> Provider:
        return self._providers.get(provider_id)

    def secret(self, credential_ref: str) -> Secret | None:
        return self._references.get(credential_ref) if credential_ref else None


class Daemon:
    """One gateway over one state directory. `async with Daemon(loaded) as daemon:` or `start` and `stop`."""

    def __init__(
        self,
        loaded: LoadedConfig,
        *,
        paths: StatePaths | None = None,
        environ: Mapping[str, str] | None = None,
        log: Log | None = None,
        started_us: int | None = None,
    ) -> None:
        self.environ = os.environ if environ is None else environ
        self.loaded = loaded
        self.paths = paths or find_state_dir(loaded.config.daemon.state_dir, self.environ)
        #: What boot recovery closed, and how the journal was found: new, clean or recovered.
        self.recovered: dict[str, int] = {}
        self.found = "clean"
        self.is_draining = False
        self._clock = SystemClock()
        self._ids = SystemIds()
        self._started_us = started_us or self._clock.now_us()
        self._log = log
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def config(self) -> Config:
        return self.loaded.config

    @property
    def url(self) -> str:
        """Where the API is served, without a path."""
        return self.server.url

    @property
    def finished(self) -> asyncio.Future[object]:
        """Done when the supervision tree has died, which must end the daemon."""
        return self.guest.finished  # type: ignore[return-value]

    # -- start

    async def start(self) -> None:
        """Come up in order; what was started is taken down again when a step fails."""
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def _start(self) -> None:
        prepare_state_dir(self.paths)
        holder = this_process(release=palyra.__version__, started_at_us=self._started_us)
        self._lock = self._stack.enter_context(JournalLock.acquire(self.paths.lock, holder))
        self.boot_id = self._ids.ulid(self._clock.now_us())
        await self._open_journal()
        self.recovered = await boot(self.core, self.boot_id, _adoptable(self.loaded))
        if self.recovered:
            self.found = "recovered"
        await self._compose()
        await self._start_tree()
        await self.server.start()
        self._stack.push_async_callback(self.server.stop)
        self._lock.describe(_with_url(holder, self.url))
        took_ms = (self._clock.now_us() - self._started_us) // 1_000
        ready = DaemonReady(boot_id=self.boot_id, recovered=self.recovered, took_ms=took_ms)
        await self.core.record([Draft("daemon", ready)])

    async def _open_journal(self) -> None:
        settings = self.config.journal
        is_new = not self.paths.journal.exists()
        self._witness_key = witness_key(self.paths.vault_key, create=is_new)
        journal = await SqliteJournal.open(
            self.paths.journal,
            options=JournalOptions(
                durability=settings.durability,
                commit_max_count=settings.commit_max_count,
                lazy_append_ms=settings.lazy_append_ms,
                wal_checkpoint_bytes=settings.wal_checkpoint_bytes,
            ),
            new_journal_id=self._ids.ulid(self._clock.now_us()),
            now_us=self._clock.now_us(),
        )
        self._stack.push_async_callback(journal.close)
        self.found = "new" if is_new else "clean"
        if not is_new:
            await asyncio.to_thread(self._check_journal, settings.verify_at_start)
        state = await load_state(journal)
        self.core = Core(journal, state, clock=self._clock, ids=self._ids)
        self._journal = journal
        self._witness = WitnessChore(
            self.core,
            self.paths.head,
            key=self._witness_key,
            every_ms=settings.witness_every_ms,
            copies=[Path(copy) for copy in settings.witness_copies],
        )
        if is_new:
            await self._witness.do()

    def _check_journal(self, how: str) -> None:
        """Refuse a journal that contradicts itself or its witness."""
        with JournalReader(self.paths.journal) as reader:
            findings = check_witness(self.paths.head, reader, self._witness_key)
        if how == "full":
            report = verify(
                self.paths.journal, witness_key=self._witness_key, witness_path=self.paths.head
            )
            findings = list(report.findings)
        bad = [finding for finding in findings if finding.severity != "info"]
        if bad:
            where = f" at position {bad[0].position}" if bad[0].position is not None else ""
            raise JournalDamaged(
                f"the journal fails its check: {bad[0].code}{where}. {bad[0].meaning}",
                hint=f"{bad[0].next_step} `palyra journal verify` shows all of it.",
            )

    async def _compose(self) -> None:
        config = self.config
        registry = config.model_provider.registry
        providers = ProviderSet.of(registry)
        self._stack.push_async_callback(providers.close)
        outside = Outside(providers, ReferenceSource(self.environ))
        self.runs = Runs(
            self.core,
            outside,
            settings=RunSettings(sse_keepalive_ms=config.model_provider.sse_keepalive_ms),
        )
        self.access = Access(self.core, anonymous=config.auth.anonymous_client)
        await self.access.ensure_keys(self.paths)
        self.gateway = Gateway(core=self.core, runs=self.runs, access=self.access, limits=GatewayLimits())
        self.server = Server(self.gateway, host=config.daemon.host, port=config.daemon.port)

    async def _start_tree(self) -> None:
        self.guest = await self._stack.enter_async_context(TrioGuest())
        settings = self.config.journal
        self._snapshots = SnapshotChore(
            self.core, every_count=settings.snapshot_every_count, every_ms=settings.snapshot_every_ms
        )
        stalls = self.config.self_healing.stalls_after_ms
        log = EngineLoopLog(self.guest, self.core, self.boot_id)
        ports = Ports(
            clock=self._clock,
            log=log,
            stalls=EngineStallWatch(self.guest, self.core, {"run": stalls.run, "loop": stalls.loop}),
            snapshots=CrossingChore(self.guest, self._snapshots),
            witness=CrossingChore(self.guest, self._witness),
            checkpoints=CrossingChore(self.guest, CheckpointChore(self.core, self._journal)),
        )
        self.tree = Tree(loop_table(ports), self._clock, log)
        self.guest.start_soon(self.tree.run)
        self.core.on_commit = self._ring

    def _ring(self) -> None:
        self.tree.ring("journal")
        self.tree.ring("beats")

    # -- end

    async def drain(self, reason: str = "operator", *, hurry: asyncio.Event | None = None) -> int:
        """Refuse new runs, let open ones finish in time, cancel and settle the rest; returns how many those were."""
        self.is_draining = True
        self.gateway.is_draining = True
        timeout_ms = self.config.daemon.drain_timeout_ms
        deadline_us = self._clock.now_us() + ms_to_us(timeout_ms)
        draining = DaemonDraining(boot_id=self.boot_id, reason=reason, deadline_us=deadline_us)
        if self.core.is_writable:
            await self.core.record([Draft("daemon", draining)])
        idle = asyncio.ensure_future(self.runs.wait_until_idle())
        hurried = asyncio.ensure_future(hurry.wait()) if hurry is not None else None
        waits = [idle] if hurried is None else [idle, hurried]
        await asyncio.wait(waits, timeout=timeout_ms / 1_000, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        return await self.runs.cancel_all("shutdown")

    async def stop(self, reason: str = "operator", *, hurry: asyncio.Event | None = None) -> None:
        """Drain, take the tree down, write the last facts, the snapshot and the witness, and close."""
        forced_count = await self.drain(reason, hurry=hurry)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S):
                await self.guest.run_trio(self.tree.drain)
        if self.core.is_writable:
            stopped = DaemonStopped(boot_id=self.boot_id, forced_count=forced_count)
            await self.access.flush()
            await self.core.record([Draft("daemon", stopped)])
            await self._snapshots.do()
            await self._witness.do()
        await self.core.stop()
        await self._stack.aclose()


def _adoptable(loaded: LoadedConfig) -> Adoptable:
    return Adoptable(
        digest=loaded.digest,
        effective=recordable_tree(loaded.config),
        registry=recordable_registry(loaded.config.model_provider.registry),
        sources=loaded.sources,
    )


def _with_url(holder: Holder, url: str) -> Holder:
    return msgspec.structs.replace(holder, http=url)


def serve(loaded: LoadedConfig, announce: Callable[[Daemon], None]) -> int:
    """Run a daemon until a signal ends it; returns the exit status.

    The first SIGTERM or SIGINT drains, the second cancels and settles what is still open, the third ends at once.
    `announce` is told when the daemon is ready.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(loaded, announce))


async def _serve(loaded: LoadedConfig, announce: Callable[[Daemon], None]) -> int:
    settings = loaded.config.observability
    log = Log(
        level=settings.log_level,
        log_format=settings.log_format,
        file=Path(settings.log_file) if settings.log_file else None,
    )
    daemon = Daemon(loaded, log=log)
    signals = _Signals(log)
    try:
        await daemon.start()
        announce(daemon)
        # What start-up made lives as long as the process; the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        asked = asyncio.ensure_future(signals.stop.wait())
        await asyncio.wait([asked, daemon.finished], return_when=asyncio.FIRST_COMPLETED)
        is_fault = not signals.stop.is_set()
        if is_fault:
            log.error("supervision_died")
        asked.cancel()
        await daemon.stop("fault" if is_fault else "signal", hurry=signals.hurry)
        return 1 if is_fault else 0
    finally:
        signals.remove()
        log.close()


class _Signals:
    """What the process is asked by signals. Installed before trio's guest starts."""

    def __init__(self, log: Log) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._stopping = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        for number in self._stopping:
            self._loop.add_signal_handler(number, self._on_stop)
        self._loop.add_signal_handler(signal.SIGUSR1, self._on_stacks)

    def _on_stop(self) -> None:
        if self.hurry.is_set():
            os._exit(130)
        (self.hurry if self.stop.is_set() else self.stop).set()

    def _on_stacks(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            stack = io.StringIO()
            task.print_stack(file=stack)
            self._log.info("task_stack", task=task.get_name(), stack=stack.getvalue())

    def remove(self) -> None:
        for number in (*self._stopping, signal.SIGUSR1):
            self._loop.remove_signal_handler(number)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's, where it is installed (extra `speed`)."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
