"""`palyra serve --read-only`: the web server of a daemon that must not write, for its disk or its journal is ill.

It starts nothing that writes and takes no lock. It says that it is alive, answers the console's questions from the
file to whoever has a key that the journal knows, and refuses everything that would have to be recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from palyra.adoption import limits_of
from palyra.config.load import LoadedConfig
from palyra.config.state import check_state_dir, find_state_dir
from palyra.daemon.console import Console
from palyra.daemon.doorkeeper import Doorkeeper
from palyra.daemon.gateway import Gateway
from palyra.daemon.logs import Log
from palyra.daemon.server import Server
from palyra.daemon.tls import tls_of
from palyra.engine.access import Access
from palyra.engine.clock import SystemClock
from palyra.engine.console.frame import JournalFiles
from palyra.engine.console.live import LiveSights
from palyra.engine.console.past import ChildPast
from palyra.engine.core import Core
from palyra.engine.logins import Logins
from palyra.engine.replay import fold_file
from palyra.engine.runs import Runs
from palyra.errors import JournalUnwritable, PalyraError
from palyra.journal.lock import read_lock
from palyra.journal.memory import MemoryJournal
from palyra.journal.reader import JournalReader
from palyra.projections.state import State
from palyra.redaction import Secret, hide_also
from palyra.telling import Telling


class ReadOnlyDaemon:
    """The server over a journal that is only looked at."""

    def __init__(
        self, loaded: LoadedConfig, *, environ: Mapping[str, str] | None = None, log: Log | None = None
    ) -> None:
        self.loaded = loaded
        config, environ = loaded.config, os.environ if environ is None else environ
        self.paths = find_state_dir(config.daemon.state_dir, environ, config.vault.key_file)
        #: What was found: "" and 0 where it could not be read, which `trouble` says in a sentence.
        self.journal_id = ""
        self.position = 0
        self.trouble = ""
        self._tells = Telling(log, lambda: config, SystemClock())
        self._stack = contextlib.AsyncExitStack()
        #: What the journal says, as far as it can be folded: it knows who may ask.
        self._state = State()

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def finished(self) -> asyncio.Future[Any]:
        """Never done: nothing runs that could die."""
        return self._finished

    def loop_stacks(self) -> Iterator[tuple[str, str]]:
        return iter(())

    async def start(self) -> None:
        """Look at the journal and listen. Raises `StateError`."""
        hide_also(self.loaded.config.privacy.extra_patterns)
        check_state_dir(self.paths)
        await asyncio.to_thread(self._look)
        self._finished = asyncio.get_running_loop().create_future()
        config = self.loaded.config
        tls = tls_of(config.daemon, self._tells.of_tls)
        # The journal of an engine that never writes one.
        core = Core(MemoryJournal(journal_id=self.journal_id, now_us=0), self._state, is_read_only=True)
        self._stack.push_async_callback(core.stop)
        access = Access(core)
        gateway = Gateway(
            core=core,
            runs=Runs(core, _Nowhere()),
            access=access,
            limits=limits_of(config, is_tls=tls is not None),
            log=self._tells.of_request,
            on_bug=self._tells.of_bug,
        )
        gateway.console = self._console(core, access, gateway)
        self.server = Server(
            gateway,
            host=config.daemon.host,
            port=config.daemon.port,
            idle_timeout_ms=config.daemon.idle_timeout_ms,
            max_connections_count=config.daemon.max_connections_count,
            tls=tls,
        )
        try:
            await self.server.start()
        except BaseException:
            await self._stack.aclose()
            raise
        self._stack.push_async_callback(self.server.stop)

    def _console(self, core: Core, access: Access, gateway: Gateway) -> Console:
        """Return the console that only answers; a process of its own folds for it."""
        files = JournalFiles(self.paths.journal, self.paths.vault_key)
        past = ChildPast(files)
        self._stack.push_async_callback(past.close)
        logins = Logins(core)
        return Console(
            sights=LiveSights(
                core,
                past,
                open_rows=lambda upto: JournalReader(self.paths.journal, upto=upto),
                files=files,
                lock=lambda: read_lock(self.paths.lock),
                zone=self.loaded.config.cli.timezone,
            ),
            changer=None,
            access=access,
            logins=logins,
            doorkeeper=Doorkeeper(core, logins, lambda: self.loaded.config.daemon.public_url or self.url),
            entrance=gateway.entrance,
            feed=None,
            login_pages=None,
            is_draining=lambda: False,
            on_bug=self._tells.of_bug,
        )

    async def stop(self, reason: str = "operator", *, hurry: asyncio.Event | None = None) -> None:
        """Stop listening; there is nothing to drain and nobody to hurry."""
        await self._stack.aclose()

    def _look(self) -> None:
        try:
            with JournalReader(self.paths.journal) as reader:
                self.journal_id = reader.journal_id
                self.position = reader.head().position
            self._state = fold_file(self.paths.journal).state
        except PalyraError as error:
            self.trouble = str(error)


class _Nowhere:
    """The outside of an engine that sends nothing."""

    def provider(self, provider_id: str) -> NoReturn:
        raise JournalUnwritable

    @property
    def absent(self) -> tuple[str, ...]:
        return ()

    def secret(self, provider_id: str, credential_ref: str, revision: int) -> Secret | None:
        raise JournalUnwritable
