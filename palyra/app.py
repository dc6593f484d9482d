"""The composition root: a daemon is put together here, started in order, drained and stopped in order.

`Daemon` is the whole of it and can be embedded in any asyncio program; `palyra.service` runs it as a process.
asyncio hosts, trio is its guest; everything else gets what it needs as an argument.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

import palyra
from palyra.auth.keyfiles import witness_key
from palyra.auth.references import ReferenceSource
from palyra.config.effective import recordable_registry, recordable_tree
from palyra.config.load import LoadedConfig
from palyra.config.state import StatePaths, find_state_dir, prepare_state_dir
from palyra.config.tree import Config
from palyra.daemon.gateway import Gateway, RequestLine
from palyra.daemon.logs import Log
from palyra.daemon.requests import GatewayLimits
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
from palyra.events.registry import ProviderEntry
from palyra.journal.lock import Holder, JournalLock, this_process
from palyra.journal.reader import JournalReader
from palyra.journal.sqlite import SqliteJournal
from palyra.journal.verify import verify
from palyra.journal.witness import check_witness
from palyra.journal.writer import JournalOptions
from palyra.providers.deterministic import DeterministicSettings
from palyra.providers.http import HttpSettings
from palyra.providers.port import Provider
from palyra.providers.registry import ProviderSet, ProviderSettings
from palyra.redaction import Secret
from palyra.supervisor.adapters import CrossingChore, EngineLoopLog, EngineStallWatch
from palyra.supervisor.bridge import TrioGuest
from palyra.supervisor.loops import Ports, loop_table
from palyra.supervisor.tree import Tree
from palyra.units import ms_to_us
from palyra.wire.netguard import BaseUrl, validate_base_url_network_policy
from palyra.wire.script import parse_rule

_SETTLE_S = 4.0


class Outside:
    """Providers and secrets, as runs ask for them."""

    def __init__(self, providers: ProviderSet, references: ReferenceSource) -> None:
        self._providers = providers
        self._references = references

    def provider(self, provider_id: str) -> Provider:
        return self._providers[provider_id]

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
    def finished(self) -> asyncio.Future[Any]:
        """Done when the supervision tree has died, which must end the daemon."""
        return self.guest.finished

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
            report = verify(self.paths.journal, witness_key=self._witness_key, witness_path=self.paths.head)
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
        providers = ProviderSet()
        providers.adopt(
            {entry.provider_id: provider_settings(entry) for entry in config.model_provider.registry.providers}
        )
        self._stack.push_async_callback(providers.close)
        self.runs = Runs(
            self.core,
            Outside(providers, ReferenceSource(self.environ)),
            settings=RunSettings(sse_keepalive_ms=config.model_provider.sse_keepalive_ms),
            on_bug=self._on_bug,
        )
        self.access = Access(self.core, anonymous=config.auth.anonymous_client)
        await self.access.ensure_keys(self.paths)
        self.gateway = Gateway(
            core=self.core,
            runs=self.runs,
            access=self.access,
            limits=GatewayLimits(
                max_request_bytes=config.model_provider.max_request_bytes,
                max_inflight_bytes=config.model_provider.max_inflight_bytes,
                extra_hosts=config.auth.extra_hosts,
            ),
            log=self._log_request,
            on_bug=self._on_bug,
        )
        self.server = Server(
            self.gateway,
            host=config.daemon.host,
            port=config.daemon.port,
            idle_timeout_ms=config.daemon.idle_timeout_ms,
            max_connections_count=config.daemon.max_connections_count,
        )

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

    def _log_request(self, line: RequestLine) -> None:
        which = self.config.observability.log_requests
        if self._log is None or which == "off" or (which == "errors" and line.status < 400):
            return
        self._log.info("request", **line._asdict())

    def _on_bug(self, run_id: str) -> None:
        if self._log is not None:
            self._log.error("internal_error", run_id=run_id, exc_info=True)

    # -- end

    async def drain(self, reason: str = "operator", *, hurry: asyncio.Event | None = None) -> int:
        """Refuse new runs, let open ones finish in time, cancel and settle the rest; return how many those were."""
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


def provider_settings(entry: ProviderEntry) -> ProviderSettings:
    """Return what a provider is made of."""
    if entry.kind == "deterministic":
        return DeterministicSettings(rules=tuple(parse_rule(rule) for rule in entry.rules))
    base = validate_base_url_network_policy(entry.base_url, allow_private=entry.allow_private_base_url)
    assert isinstance(base, BaseUrl), "configuration has checked the base URL"
    return HttpSettings(
        base=base,
        allow_private=entry.allow_private_base_url,
        auth_scheme=entry.auth_scheme,
        headers=entry.headers,
        ca_file=entry.ca_file,
        user_agent=f"palyra/{palyra.__version__}",
        max_connections=entry.max_concurrency,
    )


def _with_url(holder: Holder, url: str) -> Holder:
    return msgspec.structs.replace(holder, http=url)
