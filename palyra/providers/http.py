"""Kind `openai_compatible`: one provider reached over HTTP/1.1 with aiohttp.

It moves bytes and names what went wrong; what the bytes mean is read in `wire/`. It must never follow a redirect,
use a proxy of the environment, send a secret anywhere but below its own base URL, repeat a request that may have
been read (a repeat can cost twice; the engine decides), or show aiohttp's own errors: they carry the headers of
the request.
"""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Literal

import aiohttp
import msgspec
from aiohttp.http_exceptions import LineTooLong
from yarl import URL

from palyra.errors import TransportFailed
from palyra.limits import UPSTREAM_HEADERS_MAX_BYTES
from palyra.providers.guard import AddressBlocked, Guard, GuardedConnector
from palyra.providers.port import Answer, Call
from palyra.providers.reading import read_whole
from palyra.redaction import Secret, clean_message
from palyra.units import ms_to_s
from palyra.wire.netguard import BaseUrl

#: aiohttp warns about larger bodies given as bytes and would write them in one piece.
_ONE_PIECE_MAX_BYTES = 1 << 20
#: What aiohttp, TLS and uvloop raise while a call runs; cancellation is none of them.
_ACCIDENTS = (aiohttp.ClientError, OSError, ValueError, RuntimeError)


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider needs to know of its configuration. Equal settings may share one provider."""

    base: BaseUrl
    allow_private: bool = False
    auth_scheme: Literal["bearer", "none"] = "bearer"
    #: Sent with every call; none of them secret, none of them `Authorization`.
    headers: dict[str, str] = {}
    #: Path of an extra trust root, "" for none.
    ca_file: str = ""
    user_agent: str = "palyra"
    #: At least the provider's slots, so that calls never wait in the pool; 0 for no bound.
    max_connections: int = 0


ConnectorFactory = Callable[[HttpSettings, ssl.SSLContext | None], GuardedConnector]


def make_connector(settings: HttpSettings, tls: ssl.SSLContext | None) -> GuardedConnector:
    """Return the connector of a provider: it reaches what the provider's settings allow, and nothing else."""
    guard = Guard(scheme=settings.base.scheme, allow_private=settings.allow_private)
    return GuardedConnector(guard, tls=tls, max_connections=settings.max_connections)


class HttpProvider:
    """A provider behind a base URL. Its pool opens at the first call, so building one needs no loop."""

    def __init__(self, settings: HttpSettings, *, connector_factory: ConnectorFactory = make_connector) -> None:
        self._settings = settings
        self._connector_factory = connector_factory
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False

    async def send(self, call: Call, secret: Secret | None) -> Answer:
        """See `palyra.providers.port.Provider.send`."""
        session = self._open_session()
        timeout = aiohttp.ClientTimeout(
            total=ms_to_s(call.total_timeout_ms),
            connect=ms_to_s(call.connect_timeout_ms),
            # Armed by aiohttp when the request is written; a unary answer has only its total.
            sock_read=ms_to_s(call.first_byte_timeout_ms) if call.stream else None,
        )
        try:
            response = await session.post(
                URL(self._settings.base.url + call.path, encoded=True),
                data=call.body if len(call.body) <= _ONE_PIECE_MAX_BYTES else io.BytesIO(call.body),
                headers=self._headers(call, secret),
                allow_redirects=False,
                timeout=timeout,
            )
        except _ACCIDENTS as exc:
            failure = _failure_before_answer(exc, self._settings.base)
        else:
            refusal = _refusal_of_head(response)
            if refusal is None:
                if call.stream:
                    _expect_bytes_every(response, ms_to_s(call.idle_timeout_ms))
                return HttpAnswer(response)
            response.close()
            failure = refusal
        raise failure  # outside the handler: the cause holds the request's headers

    def _headers(self, call: Call, secret: Secret | None) -> dict[str, str]:
        headers = dict(call.headers)
        if secret is not None and self._settings.auth_scheme == "bearer":
            headers["Authorization"] = f"Bearer {secret.reveal()}"
        return headers

    def _open_session(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise TransportFailed("network_unavailable", "connect", "the provider has been closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=self._connector_factory(self._settings, self._trust()),
                headers={
                    "User-Agent": self._settings.user_agent,
                    "Accept": "*/*",
                    "Accept-Encoding": "identity",
                    "Content-Type": "application/json",
                    **self._settings.headers,
                },
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                max_line_size=UPSTREAM_HEADERS_MAX_BYTES,
                max_field_size=UPSTREAM_HEADERS_MAX_BYTES,
            )
        return self._session

    def _trust(self) -> ssl.SSLContext | None:
        """Return the trust roots with `ca_file` among them; None stands for the system's."""
        if not self._settings.ca_file:
            return None
        try:
            context = ssl.create_default_context()
            context.load_verify_locations(self._settings.ca_file)
        except OSError as exc:
            message = clean_message(f"ca_file {self._settings.ca_file} cannot be used: {exc.strerror}")
            raise TransportFailed("tls_failed", "connect", message) from exc
        return context

    async def close(self) -> None:
        """Close every connection, those in use too."""
        self._is_closed = True
        if self._session is not None:
            await self._session.close()


class HttpAnswer:
    """An answer whose head has arrived."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case; a repeated header's values are joined by a comma."""
        found: dict[str, str] = {}
        for name, value in self._response.headers.items():
            key = name.lower()
            found[key] = f"{found[key]}, {value}" if key in found else value
        return found

    async def chunk(self) -> bytes:
        """See `palyra.providers.port.Answer.chunk`."""
        try:
            return await self._response.content.readany()
        except asyncio.CancelledError:
            self._response.close()
            raise
        except _ACCIDENTS as exc:
            failure = _failure_in_body(exc)
        self._response.close()
        raise failure

    async def body(self, max_bytes: int) -> bytes:
        """See `palyra.providers.port.Answer.body`."""
        announced_bytes = self._response.content_length or 0
        try:
            return await read_whole(self.chunk, max_bytes, announced_bytes=announced_bytes)
        except TransportFailed:
            self._response.close()
            raise

    async def close(self) -> None:
        """Let go of the connection; one whose answer was not read to its end cannot be used again."""
        self._response.release()


def _expect_bytes_every(response: aiohttp.ClientResponse, idle_s: float) -> None:
    """Replace the first-byte deadline of a response by its idle deadline."""
    connection = response.connection
    if connection is not None and connection.protocol is not None:
        connection.protocol.read_timeout = idle_s
        connection.protocol.start_timeout()


def _refusal_of_head(response: aiohttp.ClientResponse) -> TransportFailed | None:
    """Return why the head of an answer makes it unusable, if it does."""
    if 300 <= response.status < 400:
        return TransportFailed(
            "redirect_refused", "headers", f"answered {response.status}; redirects are never followed"
        )
    if sum(len(name) + len(value) for name, value in response.raw_headers) > UPSTREAM_HEADERS_MAX_BYTES:
        return _too_large_head()
    if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        return TransportFailed("malformed_response", "headers", "answered in an encoding it was not asked for")
    return None


def _too_large_head() -> TransportFailed:
    return TransportFailed(
        "response_too_large", "headers", f"the headers are larger than {UPSTREAM_HEADERS_MAX_BYTES} bytes"
    )


def _failure_before_answer(exc: BaseException, base: BaseUrl) -> TransportFailed:
    """Return what a call that got no head of an answer failed of. The order goes from special to general."""
    place = f"{base.host}:{base.port}"
    if isinstance(exc, aiohttp.ConnectionTimeoutError):
        return TransportFailed("timeout_connect", "connect", f"no connection to {place} in time")
    if isinstance(exc, aiohttp.SocketTimeoutError):
        return TransportFailed("timeout_first_byte", "headers", "no first byte of an answer in time")
    if isinstance(exc, TimeoutError):
        return TransportFailed("timeout_total", "headers", "no answer within the attempt's time")
    if isinstance(exc, aiohttp.ClientConnectorError):
        return _failure_to_connect(exc, place)
    if isinstance(exc, aiohttp.ClientResponseError):
        if any(isinstance(cause, LineTooLong) for cause in _causes(exc)):
            return _too_large_head()
        return TransportFailed("malformed_response", "headers", "the answer is not HTTP")
    return TransportFailed("network_unavailable", "headers", f"{place} closed the connection without an answer")


def _failure_to_connect(exc: aiohttp.ClientConnectorError, place: str) -> TransportFailed:
    error = exc.os_error
    if isinstance(error, AddressBlocked):
        return TransportFailed("netguard_blocked", "connect", str(error.strerror))
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return TransportFailed("dns_failed", "connect", clean_message(str(error.strerror)))
    if isinstance(exc, aiohttp.ClientSSLError):
        reason = getattr(error, "verify_message", "") or getattr(error, "reason", "") or "handshake failed"
        return TransportFailed("tls_failed", "connect", clean_message(f"TLS with {place}: {reason}"))
    reason = error.strerror or "refused"
    return TransportFailed("network_unavailable", "connect", clean_message(f"cannot reach {place}: {reason}"))


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__


def _failure_in_body(exc: BaseException) -> TransportFailed:
    """Return what the reading of a body failed of."""
    if isinstance(exc, aiohttp.SocketTimeoutError):
        return TransportFailed("timeout_idle", "body", "the stream stood still for too long")
    if isinstance(exc, TimeoutError):
        return TransportFailed("timeout_total", "body", "the answer took longer than the attempt may")
    return TransportFailed("stream_truncated", "body", "the connection ended before the answer did")
