"""The daemon's door: the head from memory, everything else where it may take its time.

A question about the state is answered from memory in one step and goes out when that is durable; one about rows is
read in a thread. What has to be folded, and everything while memory cannot be trusted, goes to whoever folds for
the daemon (`Past`), so that the loop which serves requests never does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import tzinfo
from typing import Any, Protocol

from palyra.engine.console.file import zone_of
from palyra.engine.console.frame import Download, FoldNeeded, JournalFiles, Params, Question, Sight, Told, ask
from palyra.engine.console.past import Arriving
from palyra.engine.core import Core
from palyra.errors import JournalUnwritable, Refusal, Refused
from palyra.journal.lock import LockState
from palyra.journal.port import Reader

#: How long an answer waits for a position that is yet to come.
_AT_LEAST_S = 2.0


class Past(Protocol):
    """Folds a journal anew, away from the loop."""

    async def ask(
        self,
        question: Question[Any, Any],
        params: Params,
        *,
        at: str | None,
        zone: str,
        now_us: int,
        lock: LockState,
    ) -> Told:
        """Return what a question is answered at a moment; raises `PalyraError`."""
        ...

    def download(
        self,
        download: Download[Any],
        params: Params,
        *,
        at: str | None,
        zone: str,
        now_us: int,
        lock: LockState,
    ) -> contextlib.AbstractAsyncContextManager[Arriving]:
        """Give a file of a moment as it is made; raises `PalyraError`."""
        ...


class LiveSights:
    """Answers questions about the journal that this process writes."""

    def __init__(
        self,
        core: Core,
        past: Past,
        *,
        open_rows: Callable[[int], contextlib.AbstractContextManager[Reader]],
        files: JournalFiles | None,
        lock: Callable[[], LockState],
        zone: str,
    ) -> None:
        self._core = core
        self._past = past
        self._open_rows = open_rows
        self._files = files
        self._lock = lock
        #: Of whoever asks without saying theirs.
        self.zone = zone

    async def ask(
        self,
        question: Question[Any, Any],
        params: Params,
        *,
        at: str | None = None,
        at_least: int | None = None,
        zone: str | None = None,
    ) -> Told:
        """Return what a question is answered: at a moment (`--as-of`), or at the head, which then is no less than
        `at_least`. `zone` is the asker's. Raises `PalyraError`.
        """
        zone = zone or self.zone
        where = zone_of(zone)
        if at_least is not None:
            await self._wait_for(at_least)
        if at is None and question.source != "window" and self._core.is_writable:
            with contextlib.suppress(FoldNeeded, JournalUnwritable):
                return await self._ask_head(question, params, where)
        now_us, lock = self._core.clock.now_us(), self._lock()
        return await self._past.ask(question, params, at=at, zone=zone, now_us=now_us, lock=lock)

    @contextlib.asynccontextmanager
    async def download(
        self,
        download: Download[Any],
        params: Params,
        *,
        at: str | None = None,
        at_least: int | None = None,
        zone: str | None = None,
    ) -> AsyncIterator[Arriving]:
        """Give a file as it is made, of a moment or of the head, as `ask` has it. Raises `PalyraError`."""
        zone = zone or self.zone
        zone_of(zone)
        if at_least is not None:
            await self._wait_for(at_least)
        now_us, lock = self._core.clock.now_us(), self._lock()
        async with self._past.download(download, params, at=at, zone=zone, now_us=now_us, lock=lock) as arriving:
            yield arriving

    async def _ask_head(self, question: Question[Any, Any], params: Params, zone: tzinfo | None) -> Told:
        core = self._core
        if question.source == "state":
            told = ask(question, self._sight(core.state.position, zone, state=core.state), params)
            await core.durable()  # nobody is told what the disk has not taken
            return told
        position = core.journal.head.position

        def read() -> Told:
            with self._open_rows(position) as rows:
                return ask(question, self._sight(position, zone, rows=rows), params)

        return await asyncio.to_thread(read)

    def _sight(self, position: int, zone: tzinfo | None, **given: Any) -> Sight:
        core = self._core
        return Sight(
            journal_id=core.journal.journal_id,
            position=position,
            now_us=core.clock.now_us(),
            zone=zone,
            lock=self._lock(),
            files=self._files,
            **given,
        )

    async def _wait_for(self, position: int) -> None:
        """Wait until the journal has come as far."""
        journal = self._core.journal
        if journal.head.position >= position:
            return
        try:
            async with asyncio.timeout(_AT_LEAST_S):
                async for rows in journal.follow(journal.head.position):
                    if rows[-1].position >= position:
                        return
        except TimeoutError:
            pass
        message = f"The journal has not come to position {position}; it ends at {journal.head.position}."
        raise Refused(Refusal(code="position_not_reached", message=message, param="at_least"))
