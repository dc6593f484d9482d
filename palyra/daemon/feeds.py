"""`/console/v1/events`: what happens, as it happens, to whoever may see it.

Only what is on the disk is sent, in order and each event once; a reader that is slow gets what it missed from the
disk and skips nothing. It comes back with the position it has seen last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from palyra.daemon.requests import Visit
from palyra.daemon.stream import StreamClient
from palyra.engine.console.frame import Params, read_query
from palyra.engine.history import Wanted, event_answer
from palyra.errors import Refusal, Refused
from palyra.journal.port import Journal, Row
from palyra.limits import CLIENT_STALL_MS

_PING_S = 15.0
_PING = b": ping\n\n"
_ENDED = b"event: session_ended\ndata: {}\n\n"
#: Signs of life, sent to those alone who name them.
_PULSES = ("heartbeat.", "probe.")


class FeedParams(Params, frozen=True, kw_only=True):
    """Which events; patterns as of a shell."""

    names: tuple[str, ...] = ()
    stream: tuple[str, ...] = ()
    #: Those that follow this position; left out, those that are yet to come.
    after: int | None = None


class Feed:
    """The open event streams of one daemon."""

    #: What a reader's key must allow.
    scope = "observe"

    def __init__(self, journal: Journal, *, max_count: int, ping_s: float = _PING_S) -> None:
        self.max_count = max_count
        self.open_count = 0
        self._journal = journal
        self._ping_s = ping_s

    async def stream(self, visit: Visit, is_welcome: Callable[[], bool]) -> web.StreamResponse:
        """Send events until the reader goes, is not welcome any more, or the daemon stops.

        Raises `Refused` before the first byte, and `ClientGone`.
        """
        pairs = parse_qsl(visit.request.query_string, keep_blank_values=True)
        params = read_query(FeedParams, pairs, {})
        after = self._start_of(visit, params)
        if self.open_count >= self.max_count:
            message = f"{self.max_count} event streams are open; more are not served."
            raise Refused(Refusal(code="too_many_streams", message=message, retry_after_ms=5_000))
        self.open_count += 1
        visit.client = client = StreamClient(visit.request, stall_ms=CLIENT_STALL_MS)
        rows = self._journal.follow(after)
        try:
            await client.begin({})
            await client.send(b": open\n\n")
            await self._send_all(client, rows, _Chosen(params), is_welcome)
            return await client.end()
        finally:
            self.open_count -= 1

    def _start_of(self, visit: Visit, params: FeedParams) -> int:
        """Return the position that the reader has seen last."""
        head, seen = self._journal.head.position, visit.headers.get("last-event-id", "")
        after = int(seen) if seen.isascii() and seen.isdigit() and len(seen) <= 18 else params.after
        if after is not None and after > head:
            message = f"The journal ends at position {head}."
            raise Refused(Refusal(code="position_not_reached", message=message, param="after"))
        return head if after is None else max(0, after)

    async def _send_all(
        self,
        client: StreamClient,
        rows: AsyncIterator[list[Row]],
        chosen: _Chosen,
        is_welcome: Callable[[], bool],
    ) -> None:
        coming = asyncio.ensure_future(anext(rows, None))
        try:
            while True:
                done, _ = await asyncio.wait([coming], timeout=self._ping_s)
                if not is_welcome():
                    await client.send(_ENDED)
                    return
                if not done:
                    await client.send(_PING)
                    continue
                batch = coming.result()
                if batch is None:
                    return
                if data := b"".join(_event(row) for row in batch if chosen.takes(row)):
                    await client.send(data)
                coming = asyncio.ensure_future(anext(rows, None))
        finally:
            coming.cancel()
            await asyncio.wait([coming])


class _Chosen:
    """What one reader wants to see."""

    def __init__(self, params: FeedParams) -> None:
        self._wanted = Wanted(names=params.names, streams=params.stream)
        self._has_names = bool(params.names)

    def takes(self, row: Row) -> bool:
        if not self._has_names and row.name.startswith(_PULSES):
            return False
        return self._wanted.takes(row)


def _event(row: Row) -> bytes:
    data = msgspec.json.encode(event_answer(row))
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (row.position, row.name.encode(), data)
