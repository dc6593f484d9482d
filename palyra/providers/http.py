"""Kinds `openai_compatible` and `anthropic`: one provider reached over HTTP/1.1.

It moves bytes and names what went wrong; what the bytes mean is read in `wire/`. A call takes a connection from
the pool or dials one under the guard, writes its request once, and hands out the answer when its head has
arrived. It must never follow a redirect, use a proxy of the environment, send a secret anywhere but below its own
base URL, or repeat a request of which anything may have been written (a repeat can cost twice; the engine
decides). It is not aiohttp's client because that costs about four times as much a call.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal

import msgspec

from palyra.errors import TransportFailed
from palyra.providers.answer_reader import AnswerReader
from palyra.providers.connection import Connection
from palyra.providers.dial import Dialler
from palyra.providers.guard import Guard, Lookup, look_up
from palyra.providers.pool import Pool
from palyra.providers.port import Answer, Call
from palyra.providers.reading import read_whole
from palyra.redaction import Secret
from palyra.units import ms_to_s
from palyra.wire.netguard import BaseUrl

#: What would end a line of the head, or the head itself.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
#: Headers that only the transport sets.
_FRAMING = ("host", "content-length", "transfer-encoding", "connection")


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider needs to know of its configuration. Equal settings may share one provider."""

    base: BaseUrl
    allow_private: bool = False
    auth_scheme: Literal["bearer", "x-api-key", "none"] = "bearer"
    #: Sent with every call; none of them secret, none of them `Authorization`.
    headers: dict[str, str] = {}
    #: Path of an extra trust root, "" for none.
    ca_file: str = ""
    user_agent: str = "palyra"
    #: Connections kept open for later calls, at best the provider's slots; 0 for no bound.
    max_connections: int = 0


class HttpProvider:
    """A provider behind a base URL. It opens nothing before its first call, so building one needs no loop."""

    def __init__(self, settings: HttpSettings, *, lookup: Lookup = look_up) -> None:
        self._settings = settings
        guard = Guard(scheme=settings.base.scheme, allow_private=settings.allow_private)
        self._dialler = Dialler(settings.base, guard, lookup=lookup, ca_file=settings.ca_file)
        self._pool = Pool(resting_max_count=settings.max_connections)
        self._is_closed = False
        self._common = {
            "host": f"Host: {settings.base.url.split('/')[2]}",
            **_lines({"User-Agent": settings.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}),
            **_lines({"Content-Type": "application/json", **settings.headers}),
        }

    async def send(self, call: Call, secret: Secret | None) -> Answer:
        """See `palyra.providers.port.Provider.send`."""
        total_s = ms_to_s(call.total_timeout_ms)
        total_at = asyncio.get_running_loop().time() + total_s
        head = self._head(call, secret)
        connection = self._pool.take()
        if connection is None:
            connection = await self._dial(min(ms_to_s(call.connect_timeout_ms), total_s))
        reader = connection.ask(head, call, total_at)
        while not reader.status and not reader.is_over:
            await connection.wait_progress(reader)
        refusal = _refusal_of_head(reader) if reader.status else reader.failure
        if refusal is not None:
            connection.leave(reader)
            raise TransportFailed(*refusal)
        return HttpAnswer(connection, reader)

    async def _dial(self, timeout_s: float) -> Connection:
        if self._is_closed:
            raise TransportFailed("network_unavailable", "connect", "the provider has been closed")
        connection = await self._dialler.dial(lambda: Connection(self._pool), timeout_s)
        if self._is_closed:
            connection.abort()
        if not connection.is_open:
            raise TransportFailed("network_unavailable", "connect", "the connection was closed at once")
        self._pool.add(connection)
        return connection

    def _head(self, call: Call, secret: Secret | None) -> bytes:
        """Return the head of a request; a call's headers win over the settings'."""
        common = {**self._common, **_lines(call.headers)} if call.headers else self._common
        lines = [
            f"{call.method} {self._settings.base.path}{call.path} HTTP/1.1",
            *common.values(),
        ]
        if call.method == "POST":
            lines.append(f"Content-Length: {len(call.body)}")
        if secret is not None and self._settings.auth_scheme != "none":
            is_bearer = self._settings.auth_scheme == "bearer"
            lines.append(f"{'Authorization: Bearer' if is_bearer else 'x-api-key:'} {secret.reveal()}")
        if _CONTROL.search("".join(lines)):
            message = "a header of the request cannot be sent: it holds a control character"
            raise TransportFailed("network_unavailable", "connect", message)
        # What a server has decoded with surrogates becomes the same bytes again.
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")

    async def close(self) -> None:
        """Close every connection, those in use too."""
        self._is_closed = True
        await self._pool.close()


class HttpAnswer:
    """An answer whose head has arrived."""

    def __init__(self, connection: Connection, reader: AnswerReader) -> None:
        self._connection = connection
        self._reader = reader

    @property
    def status(self) -> int:
        return self._reader.status

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case; a repeated header's values are joined by a comma."""
        return self._reader.headers

    def chunk(self) -> Coroutine[Any, Any, bytes]:
        """See `palyra.providers.port.Answer.chunk`."""
        return self._connection.read(self._reader)

    def flow(self, take: Callable[[bytes], bool]) -> Coroutine[Any, Any, None]:
        """See `palyra.providers.port.Answer.flow`."""
        return self._connection.flow(self._reader, take)

    async def body(self, max_bytes: int) -> bytes:
        """See `palyra.providers.port.Answer.body`."""
        if self._reader.is_complete and self._reader.waiting_bytes <= max_bytes:
            return self._reader.take()  # it came with the head, as short ones do
        announced_bytes = int(self._reader.headers.get("content-length", 0))
        try:
            return await read_whole(self.chunk, max_bytes, announced_bytes=announced_bytes)
        except TransportFailed:
            await self.close()
            raise

    async def close(self) -> None:
        """Let go of the connection; one whose answer has not arrived whole cannot be used again."""
        self._connection.leave(self._reader)


def _lines(headers: Mapping[str, str]) -> dict[str, str]:
    """Return lines of a head by their names in lower case."""
    return {name.lower(): f"{name}: {value}" for name, value in headers.items() if name.lower() not in _FRAMING}


def _refusal_of_head(reader: AnswerReader) -> tuple[str, str, str] | None:
    """Return why the head of an answer makes it unusable, if it does."""
    if 300 <= reader.status < 400:
        return "redirect_refused", "headers", f"answered {reader.status}; redirects are never followed"
    if reader.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        return "malformed_response", "headers", "answered in an encoding it was not asked for"
    return None
