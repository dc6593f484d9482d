"""The composition root: a daemon is put together here, started in order, drained and stopped in order.

`Daemon` is the whole of it and can be embedded in any asyncio program; `palyra.service` runs it as a process.
asyncio hosts, trio is its guest; everything else gets what it needs as an argument.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from palyra.adoption import Adoption, content_rules_of, limits_of, load_embedded, stall_bases_of
from palyra.auth.references import ReferenceSource
from palyra.config.load import LoadedConfig
from palyra.config.tree import Config
from palyra.daemon.callbacks import CallbackListeners
from palyra.daemon.console import Console
from palyra.daemon.doorkeeper import Doorkeeper
from palyra.daemon.feeds import Feed
from palyra.daemon.gateway import Gateway
from palyra.daemon.login_pages import LoginPages
from palyra.daemon.logs import Log
from palyra.daemon.operators import LOCAL_OPERATOR
from palyra.daemon.server import Server
from palyra.daemon.tls import tls_of
from palyra.engine.access import Access
from palyra.engine.adoptable import adoptable_of
from palyra.engine.alerts import AlertChore
from palyra.engine.boot import boot
from palyra.engine.clock import SystemClock
from palyra.engine.console.changes import Changer, Desk, Order
from palyra.engine.console.config import ReloadAnswer
from palyra.engine.console.live import LiveSights
from palyra.engine.content import Contents
from palyra.engine.core import Core
from palyra.engine.default_models import write_default
from palyra.engine.ids import SystemIds
from palyra.engine.listing import ModelLists
from palyra.engine.logins import Logins
from palyra.engine.machine import MachineChore
from palyra.engine.oauth import OAuthDesk
from palyra.engine.rechecks import RecheckChore
from palyra.engine.run import RunSettings
from palyra.engine.runs import Runs
from palyra.engine.sweeps import SweepChore
from palyra.engine.tokens import TokenKeeper
from palyra.engine.vault import VaultKeeper
from palyra.engine.watching import DiscoveryChore, HealthChore, Watchers, watched
from palyra.engine.webhook import AlertWebhook
from palyra.errors import PalyraError, StateError
from palyra.events.base import Draft
from palyra.events.daemon import DaemonDraining, DaemonReady, DaemonStopped
from palyra.face import Face
from palyra.home import find_home, readable_state
from palyra.outside import Outside
from palyra.redaction import KnownSecrets, hide_also
from palyra.supervisor.adapters import CrossingChore, EngineLoopLog, EngineStallWatch
from palyra.supervisor.bridge import CrossingClosed, TrioGuest
from palyra.supervisor.loops import Ports, loop_table
from palyra.supervisor.tree import Tree
from palyra.telling import Telling, standing_findings
from palyra.through import see_through
from palyra.units import ms_to_us, us_to_ms
from palyra.watching import ConfigWatch

_SETTLE_S = 4.0


class Daemon(Face):
    """A gateway inside the running asyncio program: `async with Daemon(config) as daemon:`, or `start` and `stop`.

    `config` is what to serve with:

    - None: the defaults, where a built-in deterministic provider answers without key and network;
    - a mapping, shaped and checked as the configuration file is: `{"daemon": {"port": 8080}}`;
    - the path of such a file;
    - a `LoadedConfig`, taken as it stands, as `palyra serve` does: its port, and the user's state directory.

    To the first three the program's environment adds nothing. They get any free port of the loopback address where
    they write none, and a temporary state directory, removed at the end, where neither they nor `state_dir` name
    one. `journal=":memory:"` keeps everything in memory and writes no file at all. `environ` (the process's by
    default) is where credentials are looked up that the configuration refers to.

    `reload` reads the configuration again where it was read: the mapping as it then is, or the file. A
    `LoadedConfig` stands for itself unless `load` says how it was made.

    A journal of an older release is backed up and upgraded, or refused with `upgrade=False`.

    No signal handler is installed. Several may run in one process and in one loop, each over a state of its own. A
    program that is cancelled while the daemon starts or stops is cancelled when the daemon is down, with its open
    runs cancelled and settled.

    Making one raises `ConfigProblems` (of `palyra.config.problems`) with all problems at once, or its parent
    `ConfigInvalid` for a file that is not there. Starting it raises `StateError` (a directory that others can read,
    a port that is taken, a journal that another process writes) or `JournalError`.
    """

    def __init__(
        self,
        config: LoadedConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        *,
        state_dir: str | os.PathLike[str] | None = None,
        journal: Literal[":memory:"] | None = None,
        environ: Mapping[str, str] | None = None,
        log: Log | None = None,
        started_us: int | None = None,
        upgrade: bool = True,
        load: Callable[[], LoadedConfig] | None = None,
    ) -> None:
        self.environ = os.environ if environ is None else environ
        if isinstance(config, LoadedConfig):
            self.loaded, self._reads = config, load
        else:
            self._reads = functools.partial(load_embedded, config, self.environ)
            self.loaded = self._reads()
        #: What is in force, once it has been adopted.
        self._adoption: Adoption | None = None
        #: What boot recovery closed, and how the journal was found: new, clean or recovered.
        self.recovered: dict[str, int] = {}
        self.found = "clean"
        #: From being made to being ready.
        self.took_ms = 0
        self._clock = SystemClock()
        self._ids = SystemIds()
        self._started_us = started_us or self._clock.now_us()
        self._tells = Telling(log, lambda: self.config, self._clock)
        #: The secrets that are in use; no fact and no line of the log holds one.
        self.known = KnownSecrets()
        self._tells.keep_from(self.known)
        self._home = find_home(
            self.config,
            state_dir,
            journal,
            self.environ,
            is_embedded=self.loaded is not config,
            is_upgrading=upgrade,
            clock=self._clock,
            ids=self._ids,
        )
        self._has_started = self._is_up = False
        self._hurry = asyncio.Event()
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, asyncio.CancelledError):
            self._hurry.set()
        await self.stop()

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.loaded.config if self._adoption is None else self._adoption.config

    @property
    def client_key(self) -> str:
        """What they take as `api_key`."""
        self._need_start()
        return self._client_key.reveal()

    # -- start

    async def start(self) -> None:
        """Come up in order; what was started is taken down again when a step fails. A daemon starts once."""
        if self._has_started:
            raise RuntimeError("this daemon was started before; make another one")
        self._has_started = True
        try:
            await see_through(self._start_or_fall())
        except asyncio.CancelledError:
            self._hurry.set()
            await self.stop()
            raise

    async def _start_or_fall(self) -> None:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        self._is_up = True

    async def _start(self) -> None:
        self.boot_id = self._ids.ulid(self._clock.now_us())
        self._tells.of_boot(self.boot_id)
        hide_also(self.config.privacy.extra_patterns)
        self._tls = tls_of(self.config.daemon, self._tells.of_tls)
        self._tells.of_expiry(self._tls)
        await self._open_journal()
        self.vault = VaultKeeper(self.core, self._home.vault)
        self.recovered = await boot(self.core, self.boot_id, adoptable_of(self.config, self.loaded.sources))
        if self.recovered:
            self.found = "recovered"
        await self.vault.reconcile()
        await self._compose()
        await self._machine.do()
        await self._start_tree()
        try:
            await self.server.start()
        except StateError:
            await self._close_books(forced_count=0)  # a port that is taken is not a crash
            raise
        self._stack.push_async_callback(self.server.stop)
        await self.oauth.listen()
        self._home.announce(self.url, self.server.socket_path)
        self.took_ms = us_to_ms(self._clock.now_us() - self._started_us)
        ready = DaemonReady(boot_id=self.boot_id, recovered=self.recovered, took_ms=self.took_ms)
        await self.core.record([Draft("daemon", ready)])

    async def _open_journal(self) -> None:
        journal = await self._home.open(self._stack, self._started_us)
        self.found = "new" if self._home.is_new else "clean"
        self.core = Core(journal, await readable_state(journal), clock=self._clock, ids=self._ids, known=self.known)
        self.core.on_leak = functools.partial(self._tells.of_leak, self.core)
        self._stack.push_async_callback(self.core.stop)
        self.core.on_trouble = self._tells.of_journal
        room = self._home.room(self.core)
        if room is not None:
            room.on_short = self._tells.of_shortage
        self._machine = MachineChore(self.core, room)
        self._witness = self._home.witness(self.core)
        if self._home.is_new and self._witness is not None:
            await self._witness.do()

    async def _compose(self) -> None:
        config = self.config
        entries = config.model_provider.registry.providers
        outside = Outside(entries, ReferenceSource(self.environ), self.vault, self.core)
        self._stack.push_async_callback(outside.close)
        self.tokens = TokenKeeper(self.core, self.vault)
        self._stack.push_async_callback(self.tokens.settle)
        lists, ground = ModelLists(outside, lambda: self.core.state, self._clock), watched(self.core)
        self.health = HealthChore(ground, lambda provider: lists.ask(provider, pages_count=1))
        self.discovery = DiscoveryChore(ground, lists.ask, self._renew_prices)
        self.runs = Runs(
            self.core,
            outside,
            settings=RunSettings(
                sse_keepalive_ms=config.model_provider.sse_keepalive_ms,
                error_text_bytes=config.privacy.error_text_bytes,
            ),
            tokens=self.tokens,
            on_bug=self._tells.of_bug,
        )
        self._stack.callback(self.runs.apart.close)
        self._contents = Contents(
            self._home.content,
            self._clock,
            content_rules_of(config),
            on_trouble=self._tells.of_content,
            apart=self.runs.apart,
        )
        self._stack.push_async_callback(self._contents.close)
        self.runs.contents = self._contents
        self._hook = AlertWebhook(self.core, self.vault, lambda: self.config.alerts, self._tells.of_untold)
        self._stack.push_async_callback(self._hook.close)
        self._adoption = Adoption(
            self.loaded,
            self._reads,
            outside=outside,
            runs=self.runs,
            obey=self._obey,
            obey_below=lambda config: self._home.obey(config.journal),
        )
        self._stack.push_async_callback(self._adoption.close)
        self._stack.push_async_callback(self.runs.cancel_all, "shutdown")
        self.access = Access(self.core, anonymous=config.auth.anonymous_client)
        self._client_key = await self._home.client_key(self.access)
        self.gateway = Gateway(
            core=self.core,
            runs=self.runs,
            access=self.access,
            limits=limits_of(config, is_tls=self._tls is not None),
            log=self._tells.of_request,
            on_bug=self._tells.of_bug,
        )
        self.gateway.console = self._console()
        self.server = Server(
            self.gateway,
            host=config.daemon.host,
            port=config.daemon.port,
            idle_timeout_ms=config.daemon.idle_timeout_ms,
            max_connections_count=config.daemon.max_connections_count,
            tls=self._tls,
            socket_path=self._home.socket_path(self.environ) if config.daemon.control_socket else None,
        )

    def _obey(self, config: Config) -> None:
        """Let what the daemon itself reads of a configuration hold from now on."""
        self.gateway.adopt(limits_of(config, is_tls=self._tls is not None))
        self.access.anonymous = config.auth.anonymous_client
        self._contents.obey(content_rules_of(config))
        self._sights.zone = config.cli.timezone
        self._feed.max_count = config.console.event_clients_max_count
        self.runs.error_text_bytes = config.privacy.error_text_bytes
        hide_also(config.privacy.extra_patterns)
        self._tells.obey(config)
        self.runs.watch.set_keepalive(config.model_provider.sse_keepalive_ms)
        self.server.set_idle_timeout(config.daemon.idle_timeout_ms)
        self._stalls.bases_ms = stall_bases_of(config)

    async def reload(self) -> ReloadAnswer:
        """Read the configuration again and adopt what of it can act at once; the rest waits for the next start.

        Raises `ConfigProblems` when it has problems, and goes on with the one in force; `PalyraError` for a daemon
        that was given a `LoadedConfig`, which stands for itself.
        """
        order = Order(self._desk, LOCAL_OPERATOR)
        order.core.check_writable()
        assert self._adoption is not None
        return await self._adoption.reload(order)

    async def _renew_prices(self) -> None:
        assert self._adoption is not None
        await self._adoption.renew_prices(self.core)

    async def reload_and_tell(self) -> None:
        """Do so, and let the log say what came of it."""
        try:
            answer = await self.reload()
        except PalyraError as error:
            self._tells.of_refusal(error)
        else:
            self._tells.of_reload(answer)

    def _default_writer(self) -> Callable[[str, str], object] | None:
        """Return what writes a default model into the file that was read, None where none was."""
        file = next((one.name for one in self.loaded.sources if one.kind == "file"), None)
        if file is None or self._reads is None:
            return None
        return lambda role, model: write_default(Path(file), role, model, self.environ)

    def _console(self) -> Console:
        past = self._home.past()
        self._stack.push_async_callback(past.close)
        self._callbacks = CallbackListeners(lambda: self.url)
        self._stack.push_async_callback(self._callbacks.close)
        self.oauth = OAuthDesk(
            self.core,
            self.vault,
            self.tokens,
            lambda: self.config.auth.oauth.openai,
            public_url=lambda: self.config.daemon.public_url,
            callbacks=self._callbacks,
        )
        self._callbacks.pages = pages = LoginPages(self.oauth, self._clock.now_us)
        self._stack.push_async_callback(self.oauth.settle)
        self._sights = LiveSights(
            self.core,
            past,
            open_rows=self._home.open_rows,
            files=self._home.files,
            lock=lambda: self._home.lock_state,
            zone=self.config.cli.timezone,
        )
        assert self._adoption is not None
        self._desk = Desk(
            self.core,
            self.vault,
            runs=self.runs,
            reload=self._adoption.reload,
            key_files=self._home.key_files,
            watchers=Watchers(self.health, self.discovery),
            oauth=self.oauth,
            tokens=self.tokens,
            contents=self._contents,
            write_default=self._default_writer(),
        )
        changer = Changer(self._desk)
        self._stack.push_async_callback(changer.settle)
        logins = Logins(self.core)
        self._feed = Feed(self.core.journal, max_count=self.config.console.event_clients_max_count)
        return Console(
            sights=self._sights,
            changer=changer,
            access=self.access,
            logins=logins,
            doorkeeper=Doorkeeper(self.core, logins, lambda: self.config.daemon.public_url or self.url),
            entrance=self.gateway.entrance,
            feed=self._feed,
            login_pages=pages,
            is_draining=lambda: self.gateway.is_draining,
            on_bug=self._tells.of_bug,
        )

    async def _start_tree(self) -> None:
        self.guest = await self._stack.enter_async_context(TrioGuest())
        self._stalls = EngineStallWatch(self.guest, self.core, stall_bases_of(self.config))
        log = EngineLoopLog(self.guest, self.core, self.boot_id)
        snapshots, checkpoints = self._home.snapshots(self.core), self._home.checkpoints(self.core)
        ports = Ports(
            clock=self._clock,
            log=log,
            stalls=self._stalls,
            snapshots=snapshots and CrossingChore(self.guest, snapshots),
            witness=self._witness and CrossingChore(self.guest, self._witness),
            checkpoints=checkpoints and CrossingChore(self.guest, checkpoints),
            machine=CrossingChore(self.guest, self._machine),
            health=CrossingChore(self.guest, self.health),
            discovery=CrossingChore(self.guest, self.discovery),
            credentials=CrossingChore(self.guest, RecheckChore(self.core, self.runs.outward)),
            tokens=CrossingChore(self.guest, self.tokens),
            sweeps=CrossingChore(self.guest, SweepChore(self.core, self.runs.open, self.boot_id)),
            contents=CrossingChore(self.guest, self._contents),
            config_files=CrossingChore(self.guest, self._config_watch()),
            alerts=CrossingChore(
                self.guest,
                AlertChore(
                    self.core,
                    standing=lambda: standing_findings(
                        self.config.daemon, self._tls, self.core, self.runs.outward.absent
                    ),
                    on_raised=self._tells.of_alert,
                    on_change=self._hook.tell,
                ),
            ),
        )
        self.tree = Tree(loop_table(ports), self._clock, log)
        self.guest.start_soon(self.tree.run)
        self.core.on_commit = self._ring
        self.core.on_clock_step = lambda: self.tree.ring("clock")

    def _config_watch(self) -> ConfigWatch:
        adoption = self._adoption
        assert adoption is not None
        return ConfigWatch(
            self._clock, lambda: self.config.daemon.watch_config, lambda: adoption.files, self.reload_and_tell
        )

    def _ring(self) -> None:
        self.tree.ring("journal")
        self.tree.ring("beats")

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
        """Drain, take the tree down, write the last facts, the snapshot and the witness, and close.

        Setting `hurry` ends the wait for open runs; being cancelled does too. Does nothing where nothing runs.
        """
        if self._is_up:
            self._is_up = False
            self._hurry = hurry or self._hurry
            await see_through(self._stop(reason), self._hurry.set)

    async def _stop(self, reason: str) -> None:
        try:
            forced_count = await self.drain(reason, hurry=self._hurry)
            with contextlib.suppress(TimeoutError, CrossingClosed):  # closed: the tree has died before
                async with asyncio.timeout(_SETTLE_S):
                    await self.guest.run_trio(self.tree.drain)
            await self._close_books(forced_count)
        finally:
            self._stack.push_async_callback(self.core.stop)  # first of all: the last fact stays the last
            await self._stack.aclose()

    async def _close_books(self, forced_count: int) -> None:
        """Write the last facts, then what makes the next start quick and sure; without those it is only slower."""
        if not self.core.is_writable:
            return
        await self.access.flush()
        await self.core.record([Draft("daemon", DaemonStopped(boot_id=self.boot_id, forced_count=forced_count))])
        for chore in () if self._witness is None else (self.core.snapshot, self._witness.do):
            try:
                await chore()
            except Exception:
                self._tells.of_last_chore(chore.__qualname__)
