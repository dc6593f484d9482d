"""The way out of a stream: bytes to a client that may be slow, or gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from types import MappingProxyType
from typing import Any

from aiohttp import web

from palyra.daemon.answers import EVENT_STREAM
from palyra.engine.exchange import ClientGone
from palyra.units import ms_to_s

#: As long as no more than this waits in a transport (its low-water mark), a write cannot have to wait.
_UNWATCHED_MAX_BYTES = 16 * 1024


class _Stream(web.StreamResponse):
    """An answer whose head leaves with its first bytes, which always are right behind it."""

    _send_headers_immediately = False


class StreamClient:
    """A client that takes an event stream: `palyra.engine.exchange.Client` over an HTTP answer."""

    def __init__(
        self, request: web.BaseRequest, *, stall_ms: int, headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """`headers` go with every answer to this request."""
        self._request = request
        self._headers = headers
        self._stall_ms = stall_ms
        #: None until the stream has begun.
        self.response: web.StreamResponse | None = None
        self._is_closed = False
        self.sent_bytes = 0

    async def begin(self, headers: Mapping[str, str]) -> None:
        """See `palyra.engine.exchange.Client.begin`."""
        response = _Stream(status=200, headers={**EVENT_STREAM, **headers, **self._headers})
        try:
            await response.prepare(self._request)
        except ConnectionError:
            raise ClientGone from None
        self.response = response

    async def send(self, data: bytes) -> None:
        """See `palyra.engine.exchange.Client.send`."""
        assert self.response is not None
        self.sent_bytes += len(data)
        await write_watched(self._request, self.response.write(data), len(data), self._stall_ms)

    async def close(self, data: bytes) -> None:
        """See `palyra.engine.exchange.Client.close`: the last bytes and the end of the answer leave together."""
        assert self.response is not None
        self.sent_bytes += len(data)
        await write_watched(self._request, self.response.write_eof(data), len(data), self._stall_ms)
        self._is_closed = True

    async def end(self) -> web.StreamResponse:
        """Close the stream, unless it is, and return its answer."""
        assert self.response is not None
        if self._is_closed:
            return self.response
        await write_watched(self._request, self.response.write_eof(), 0, self._stall_ms)
        return self.response

    def abort(self) -> None:
        """Break the connection, so that nobody takes a part for the whole."""
        if self._request.transport is not None:
            self._request.transport.abort()


async def write_watched(
    request: web.BaseRequest, writing: Coroutine[Any, Any, None], size_bytes: int, stall_ms: int
) -> None:
    """Run a write to its end; raises `ClientGone` when the client takes nothing of it for `stall_ms`."""
    transport = request.transport
    if transport is None or transport.is_closing():
        writing.close()
        raise ClientGone
    try:
        if transport.get_write_buffer_size() + size_bytes <= _UNWATCHED_MAX_BYTES:
            await writing
            return
        # Never cancelled: aiohttp shares one future among all who wait for a transport.
        task = asyncio.create_task(writing)
        task.add_done_callback(_retrieve)
        await asyncio.sleep(0)
        while True:
            waiting_bytes = transport.get_write_buffer_size()
            if (await asyncio.wait([task], timeout=ms_to_s(stall_ms)))[0]:
                task.result()
                return
            if transport.get_write_buffer_size() >= waiting_bytes:
                transport.abort()
                raise ClientGone
    except ConnectionError:
        raise ClientGone from None


def _retrieve(task: asyncio.Task[None]) -> None:
    """Say that a failed write is known; whoever waited for it may be gone."""
    if not task.cancelled():
        task.exception()
