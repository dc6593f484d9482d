"""What a program sees of its daemon: where it is, what it has recorded, and whether it lives."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from palyra.api import LiveJournal
from palyra.config.state import StatePaths
from palyra.daemon.server import Server
from palyra.engine.core import Core
from palyra.engine.upgrade import Upgraded
from palyra.home import Home
from palyra.projections.state import State
from palyra.supervisor.bridge import TrioGuest


class Face:
    """The part of a daemon that is only looked at; `palyra.app.Daemon` has the rest.

    Before the start there is no URL, no key and no journal, and whoever asks for one gets a `RuntimeError`.
    """

    _home: Home
    core: Core
    server: Server
    guest: TrioGuest

    @property
    def paths(self) -> StatePaths:
        """Where the files are. Raises `ValueError` in memory, and before a temporary directory has been made."""
        return self._home.paths

    @property
    def url(self) -> str:
        """Where the API is served, without a path: `http://127.0.0.1:54321`."""
        self._need_start()
        return self.server.url

    @property
    def base_url(self) -> str:
        """What OpenAI's clients take as `base_url`."""
        return f"{self.url}/v1"

    @property
    def journal(self) -> LiveJournal:
        """The journal, for reading: `async for recorded in daemon.journal`."""
        self._need_start()
        return LiveJournal(self.core.journal)

    async def state_at(self, position: int | None = None) -> State:
        """Return everything that was true after a position of the journal, by default after its last event.

        Raises `JournalError` (`position_not_found`).
        """
        return await self.journal.state_at(position)

    @property
    def upgraded(self) -> Upgraded | None:
        """What the start did to a journal of an older release; None where it was as new as the program."""
        return self._home.upgraded

    @property
    def finished(self) -> asyncio.Future[Any]:
        """Done when the supervision tree has died, which must end the daemon."""
        return self.guest.finished

    def _need_start(self) -> None:
        if not hasattr(self, "server"):
            raise RuntimeError("this daemon has not started: enter it with 'async with', or await its start()")

    def loop_stacks(self) -> Iterator[tuple[str, str]]:
        """Yield name and stack of each supervised loop; none before they have started."""
        return self.guest.stacks() if hasattr(self, "guest") else iter(())
