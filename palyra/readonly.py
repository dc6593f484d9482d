"""`palyra serve --read-only`: the web server of a daemon that must not write, for its disk or its journal is ill.

It starts nothing that writes and takes no lock. It says that it is alive, and refuses everything that would have to
be recorded; the commands that read work on the file beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from palyra.config.load import LoadedConfig
from palyra.config.state import check_state_dir, find_state_dir
from palyra.daemon.gateway import Gateway, RequestLine
from palyra.daemon.logs import Log
from palyra.daemon.requests import GatewayLimits
from palyra.daemon.server import Server
from palyra.daemon.tls import hosts_of, tls_of
from palyra.engine.access import Access
from palyra.engine.core import Core
from palyra.engine.runs import Runs
from palyra.errors import JournalError, JournalUnwritable
from palyra.journal.memory import MemoryJournal
from palyra.journal.reader import JournalReader
from palyra.projections.state import State
from palyra.redaction import Secret


class ReadOnlyDaemon:
    """The server over a journal that is only looked at."""

    def __init__(
        self, loaded: LoadedConfig, *, environ: Mapping[str, str] | None = None, log: Log | None = None
    ) -> None:
        self.loaded = loaded
        self.paths = find_state_dir(loaded.config.daemon.state_dir, os.environ if environ is None else environ)
        #: What was found: "" and 0 where it could not be read, which `trouble` says in a sentence.
        self.journal_id = ""
        self.position = 0
        self.trouble = ""
        self._log = log
        self._stack = contextlib.AsyncExitStack()

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
        check_state_dir(self.paths)
        await asyncio.to_thread(self._look)
        self._finished = asyncio.get_running_loop().create_future()
        config = self.loaded.config
        tls = tls_of(config.daemon, self._on_tls_trouble)
        # The journal of an engine that never writes one.
        core = Core(MemoryJournal(journal_id=self.journal_id, now_us=0), State(), is_read_only=True)
        self._stack.push_async_callback(core.stop)
        self.server = Server(
            Gateway(
                core=core,
                runs=Runs(core, _Nowhere()),
                access=Access(core),
                limits=GatewayLimits(
                    max_request_bytes=config.model_provider.max_request_bytes,
                    max_inflight_bytes=config.model_provider.max_inflight_bytes,
                    max_audio_bytes=config.model_provider.max_audio_bytes,
                    extra_hosts=hosts_of(config),
                    cors_origins=config.daemon.cors_origins,
                    trusted_proxies=config.daemon.trusted_proxies,
                    is_tls=tls is not None,
                    is_strict=tls is not None and bool(config.daemon.public_url),
                ),
                log=self._log_request,
                on_bug=self._on_bug,
            ),
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

    async def stop(self, reason: str = "operator", *, hurry: asyncio.Event | None = None) -> None:
        """Stop listening; there is nothing to drain and nobody to hurry."""
        await self._stack.aclose()

    def _look(self) -> None:
        try:
            with JournalReader(self.paths.journal) as reader:
                self.journal_id = reader.journal_id
                self.position = reader.head().position
        except JournalError as error:
            self.trouble = str(error)

    def _log_request(self, line: RequestLine) -> None:
        if self._log is not None and self.loaded.config.observability.log_requests != "off":
            self._log.info("request", **line._asdict())

    def _on_tls_trouble(self, message: str) -> None:
        if self._log is not None:
            self._log.error("tls_unusable", reason=message)

    def _on_bug(self, run_id: str) -> None:
        if self._log is not None:
            self._log.error("internal_error", run_id=run_id, exc_info=True)


class _Nowhere:
    """The outside of an engine that sends nothing."""

    def provider(self, provider_id: str) -> NoReturn:
        raise JournalUnwritable

    @property
    def absent(self) -> tuple[str, ...]:
        return ()

    def secret(self, provider_id: str, credential_ref: str, revision: int) -> Secret | None:
        raise JournalUnwritable
