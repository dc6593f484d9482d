"""The web server's life: bind, serve, stop. One process listens, and only where configuration says.

Draining is not stopping: while open runs finish, the socket stays and answers that nothing new is taken
(`Gateway.is_draining`).
"""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from palyra.daemon.gateway import Gateway
from palyra.daemon.peers import bind_socket, is_local, is_ours, remove_socket
from palyra.daemon.tls import TlsContext
from palyra.errors import Refusal, StateError, reason_of
from palyra.units import ms_to_s

#: Addresses that stand for every one of this machine, and the one that leads there.
_OF_ALL = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_LISTEN_HINTS = {
    errno.EADDRINUSE: "another program has it; stop that one, or choose another daemon.port",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose another daemon.host",
    errno.EACCES: "ports below 1,024 are for the system; choose another daemon.port",
}
#: How long a refused body or head is read on, so that its sender gets to see the answer, and how long after the
#: last piece of it.
_LINGER_S, _QUIET_S = 2.0, 0.1
#: Runs have ended before the server stops; answers that are still on their way get this long.
_STOP_S = 2.0


class Server:
    """Listens on one address and hands every request to the gateway."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        host: str,
        port: int,
        idle_timeout_ms: int,
        max_connections_count: int,
        socket_path: Path | None = None,
        tls: TlsContext | None = None,
    ) -> None:
        self._gateway = gateway
        self._tls = tls
        #: The control socket; None for none.
        self.socket_path = socket_path
        self._host = host
        self._port = port
        self._idle_timeout_ms = idle_timeout_ms
        self._max_connections_count = max_connections_count
        self._runner: web.ServerRunner | None = None
        self._listener: _Listener | None = None

    async def start(self) -> None:
        """Listen; port 0 takes any free one. Raises `StateError` when the address cannot be had."""
        self._listener = _Listener(
            self._gateway,
            self._max_connections_count,
            keepalive_timeout=ms_to_s(self._idle_timeout_ms),
        )
        self._runner = web.ServerRunner(self._listener, shutdown_timeout=_STOP_S)
        await self._runner.setup()
        try:
            context = None if self._tls is None else self._tls.context
            await web.TCPSite(self._runner, self._host, self._port, ssl_context=context).start()
        except OSError as exc:
            await self.stop()
            message = f"cannot listen on port {self._port} of {self._host}: {reason_of(exc)}"
            hint = _LISTEN_HINTS.get(exc.errno or 0, "choose another daemon.host or daemon.port")
            raise StateError(message, hint=hint, code="address_in_use") from exc
        self._port = int(self._runner.addresses[0][1])
        if self.socket_path is not None:
            try:
                await web.SockSite(self._runner, bind_socket(self.socket_path)).start()
            except StateError:
                await self.stop()
                raise

    def set_idle_timeout(self, idle_timeout_ms: int) -> None:
        """Close connections that are made from now on after so much idleness."""
        self._idle_timeout_ms = idle_timeout_ms
        if self._listener is not None:
            self._listener.set_idle_timeout(ms_to_s(idle_timeout_ms))

    @property
    def port(self) -> int:
        """The port in use, once started."""
        return self._port

    @property
    def url(self) -> str:
        """Where programs of this machine find it."""
        host = _OF_ALL.get(self._host, self._host)
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self._port}"

    async def stop(self) -> None:
        """Listen no more and close every connection; call it when runs have ended."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            if self.socket_path is not None:
                remove_socket(self.socket_path)
            await runner.cleanup()


class _Listener(web.Server):
    """Marks connections past the limit, and answers in our envelope what is no HTTP."""

    def __init__(self, gateway: Gateway, max_connections_count: int, **settings: Any) -> None:
        super().__init__(
            gateway.handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            lingering_time=_LINGER_S,
            **settings,
        )
        self.gateway = gateway
        self._max_connections_count = max_connections_count
        self._connections_count = 0

    def set_idle_timeout(self, idle_timeout_s: float) -> None:
        self._kwargs["keepalive_timeout"] = idle_timeout_s

    def __call__(self) -> _Connection:
        return _Connection(self, loop=asyncio.get_running_loop(), **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._connections_count += 1
        assert isinstance(handler, _Connection)
        if is_local(transport):
            # The operator gets in when nobody else does.
            handler.is_local = is_ours(transport)
            if not handler.is_local:
                transport.abort()
            return
        handler.is_surplus = self._connections_count > self._max_connections_count

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._connections_count -= 1


class _Connection(web.RequestHandler):
    """One connection."""

    __slots__ = ("_gateway", "_has_come", "is_ending", "is_local", "is_surplus")

    def __init__(self, server: _Listener, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._gateway = server.gateway
        #: More were open than may be when this one came; it gets one answer, which says so.
        self.is_surplus = False
        #: It came over the control socket, from a process of our own user.
        self.is_local = False
        #: What still comes is read and thrown away.
        self.is_ending = False
        self._has_come = False

    def data_received(self, data: bytes) -> None:
        if self.is_ending:
            self._has_come = True
        else:
            super().data_received(data)

    async def read_on(self) -> None:
        """Throw away what is still sent, for a moment: a connection that is closed on it loses the answer, too."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + _LINGER_S
        self.is_ending = self._has_come = True
        while self._has_come and loop.time() < end_s and self.transport is not None:
            self._has_come = False
            await asyncio.sleep(_QUIET_S)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what aiohttp could not read; its own message may hold a piece of a header and is not shown."""
        if status >= 500:
            refusal = Refusal(code="internal", message="Something went wrong here.")
        elif isinstance(exc, LineTooLong):
            refusal = Refusal(code="invalid_header", message="A line of the head is too long.")
        else:
            refusal = Refusal(code="invalid_request", message="This is not a request of HTTP/1.1.")
        response = self._gateway.reject(request, refusal)
        last = _LastAnswer(self, status=response.status, headers=response.headers, body=response.body)
        last.force_close()
        return last


class _LastAnswer(web.Response):
    """An answer to what could not be read: nobody knows how much of it is still to come."""

    def __init__(self, connection: _Connection, **parts: Any) -> None:
        super().__init__(**parts)
        self._connection = connection

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        await self._connection.read_on()
