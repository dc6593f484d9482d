"""The connections of one provider between its calls: kept for a while, handed out again, closed in the end.

The last one that came back goes out first, so that the others can grow old. Nobody waits here: without a connection
at rest the caller opens one. How many calls run at once is bounded by the provider's slots.
"""

from __future__ import annotations

import asyncio

from palyra.providers.alarm import Alarm
from palyra.providers.connection import Connection
from palyra.providers.guard import CONNECTION_AGE_MAX_S, KEEPALIVE_S


class Pool:
    """Connections of one provider. Building a pool needs no loop."""

    def __init__(self, *, resting_max_count: int) -> None:
        """`resting_max_count` 0 stands for no bound."""
        self._resting_max_count = resting_max_count
        self._open: set[Connection] = set()
        #: With the instant since when; the last one is the youngest.
        self._resting: dict[Connection, float] = {}
        self._alarm = Alarm(self._close_rested)

    def take(self) -> Connection | None:
        """Return an open connection that is not past its age: an address must not outlive its name for long."""
        while self._resting:
            connection, _ = self._resting.popitem()
            if connection.is_open:
                if asyncio.get_running_loop().time() - connection.opened_s <= CONNECTION_AGE_MAX_S:
                    return connection
                connection.abort()
        return None

    def add(self, connection: Connection) -> None:
        """Hold a connection from now on, to close it in the end."""
        self._open.add(connection)

    async def close(self) -> None:
        """Close every connection, those in use too."""
        self._alarm.cancel()
        if self._open:
            lost = [connection.lost for connection in self._open]
            for connection in list(self._open):
                connection.abort()
            await asyncio.wait(lost)

    # what connections say

    def rests(self, connection: Connection) -> None:
        """Keep a connection for another call, if there is room for it."""
        if self._resting_max_count and len(self._resting) >= self._resting_max_count:
            connection.abort()
            return
        now = asyncio.get_running_loop().time()
        if not self._resting:
            self._alarm.set(now + KEEPALIVE_S)
        self._resting[connection] = now

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._open.discard(connection)
        self._resting.pop(connection, None)

    def _close_rested(self) -> None:
        """Close what has rested for too long, and look again when the next one may have."""
        too_old = asyncio.get_running_loop().time() - KEEPALIVE_S
        while self._resting:
            connection, since = next(iter(self._resting.items()))
            if since > too_old:
                self._alarm.set(since + KEEPALIVE_S)
                return
            del self._resting[connection]
            connection.abort()
