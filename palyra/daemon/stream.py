"""The way out of an answer: bytes straight to the connection of a client that may be slow, or gone.

aiohttp reads requests and keeps connections; what is answered is written here, past its own writer, in as few
pieces as it comes in. It must never write to a connection that is closing, nor a head that could have been split.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Mapping
from email.utils import formatdate
from types import MappingProxyType

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from palyra.daemon.answers import EVENT_STREAM
from palyra.engine.clock import SystemClock
from palyra.engine.exchange import ClientGone
from palyra.units import US_PER_S, ms_to_s

#: As long as no more than this waits in a transport (its low-water mark), nobody has to wait for it.
_UNWATCHED_MAX_BYTES = 16 * 1024
#: Of a stream; each byte is copied on its way out, and one long copy would keep the loop from its turns.
_WRITTEN_AT_ONCE_BYTES = 256 * 1024
#: Larger bodies are not copied to go out in one piece with their head.
_JOINED_MAX_BYTES = 64 * 1024
#: What would end a line of the head, or the head itself.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_LAST_CHUNK = b"0\r\n\r\n"


class Written(web.StreamResponse):
    """An answer that is written already: what aiohttp is handed to go on with the connection."""

    def __init__(self, status: int, *, closes: bool) -> None:
        super().__init__(status=status)
        self._closes = closes

    @property
    def keep_alive(self) -> bool:
        """Whether the connection takes another request."""
        return not self._closes

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send no head; it has left."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Send no end; it has left."""


async def write_answer(
    request: web.BaseRequest,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    stall_ms: int,
    closes: bool = False,
) -> Written:
    """Write an answer that is there as a whole; raises `ClientGone` when its client takes nothing for so long."""
    answer = Written(status, closes=closes or not request.keep_alive)
    has_body = status >= 200 and status not in (204, 304)
    head = _head(request, answer, headers, f"Content-Length: {len(body)}" if has_body else "")
    if request.method == "HEAD" or not has_body:
        body = b""
    for piece in (head + body,) if len(body) <= _JOINED_MAX_BYTES else (head, body):
        if not _write(request, piece):
            await _until_taken(request, stall_ms)
    return answer


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
        self.response: Written | None = None
        #: The head, until it leaves with the first bytes, which always are right behind it.
        self._head = b""
        #: An older client takes the end of the connection for that of the answer.
        self._is_chunked = request.version >= HttpVersion11
        self._is_closed = False
        #: It has taken the answer to its end.
        self.has_all = False
        self.sent_bytes = 0

    async def begin(self, headers: Mapping[str, str]) -> None:
        """See `palyra.engine.exchange.Client.begin`."""
        request = self._request
        if request.transport is None or request.transport.is_closing():
            raise ClientGone
        self.response = Written(200, closes=not (self._is_chunked and request.keep_alive))
        framing = "Transfer-Encoding: chunked" if self._is_chunked else ""
        self._head = _head(request, self.response, {**EVENT_STREAM, **headers, **self._headers}, framing)

    async def send(self, data: bytes) -> None:
        """See `palyra.engine.exchange.Client.send`."""
        for start in range(0, len(data), _WRITTEN_AT_ONCE_BYTES):
            piece = data if len(data) <= _WRITTEN_AT_ONCE_BYTES else data[start : start + _WRITTEN_AT_ONCE_BYTES]
            if not _write(self._request, self._framed(piece, b"")):
                await _until_taken(self._request, self._stall_ms)

    def offer(self, data: bytes) -> bool:
        """See `palyra.engine.exchange.Client.offer`."""
        transport = self._request.transport
        if transport is None or transport.is_closing() or len(data) > _WRITTEN_AT_ONCE_BYTES:
            return False
        if transport.get_write_buffer_size() > _UNWATCHED_MAX_BYTES:
            return False
        transport.write(self._framed(data, b""))
        return True

    async def close(self, data: bytes) -> None:
        """See `palyra.engine.exchange.Client.close`: the last bytes and the end of the answer leave together."""
        if len(data) > _WRITTEN_AT_ONCE_BYTES:
            await self.send(data)
            data = b""
        is_taken = _write(self._request, self._framed(data, _LAST_CHUNK))
        self._is_closed = True
        if not is_taken:
            await _until_taken(self._request, self._stall_ms)
        self.has_all = True

    async def end(self) -> Written:
        """Close the stream, unless it is, and return its answer."""
        assert self.response is not None
        if not self._is_closed:
            await self.close(b"")
        return self.response

    def _framed(self, data: bytes, end: bytes) -> bytes:
        """Return bytes as they leave: behind the head if that has not left, as a chunk where there are chunks."""
        head, self._head = self._head, b""
        self.sent_bytes += len(data)
        if not self._is_chunked:
            return head + data
        return b"%b%x\r\n%b\r\n%b" % (head, len(data), data, end) if data else head + end

    def abort(self) -> None:
        """Break the connection, so that nobody takes a part for the whole."""
        if self._request.transport is not None:
            self._request.transport.abort()


def _head(request: web.BaseRequest, answer: Written, headers: Mapping[str, str], framing: str) -> bytes:
    """Return the head of an answer; raises `ValueError` for a header that would end its line."""
    version = request.version
    lines = [
        f"HTTP/{version.major}.{version.minor} {answer.status} {answer.reason}",
        *(f"{name}: {value}" for name, value in headers.items()),
        f"Date: {_date(SystemClock().now_us() // US_PER_S)}",
    ]
    if framing:
        lines.append(framing)
    if not answer.keep_alive:
        lines.append("Connection: close")
    elif version < HttpVersion11:
        lines.append("Connection: keep-alive")
    if _CONTROL.search("".join(lines)):
        raise ValueError("a header of the answer holds a control character")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@functools.lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _write(request: web.BaseRequest, data: bytes) -> bool:
    """Write, and return whether the client is so far that nobody has to wait for it; raises `ClientGone`."""
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ClientGone
    transport.write(data)
    return transport.get_write_buffer_size() <= _UNWATCHED_MAX_BYTES


async def _until_taken(request: web.BaseRequest, stall_ms: int) -> None:
    """Wait as long as the client takes something of what was written now and then; raises `ClientGone`."""
    transport = request.transport
    if transport is None:
        raise ClientGone
    # Never cancelled: aiohttp shares one future among all who wait for a transport.
    draining = asyncio.create_task(request.writer.drain())
    draining.add_done_callback(_retrieve)
    try:
        while True:
            waiting_bytes = transport.get_write_buffer_size()
            if (await asyncio.wait([draining], timeout=ms_to_s(stall_ms)))[0]:
                draining.result()
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
