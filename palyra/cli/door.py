"""The daemon's door: how a command reaches a daemon that runs, over its control socket or a URL.

Plain HTTP of the standard library; a command that asks once needs no loop.
"""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from palyra.cli.command import Call
from palyra.engine.console.frame import At, Params, Told, write_query
from palyra.errors import CODES, PalyraError, Refusal, Refused
from palyra.journal.lock import LockState

PREFIX = "/console/v1/"
#: How long a daemon may take for an answer that the file can give as well, and for any other.
SHORT_S, LONG_S = 0.3, 30.0
#: What is read of a file at once.
_PIECE_BYTES = 1 << 16


class DoorClosed(PalyraError):
    """The daemon cannot be reached."""

    code = "daemon_not_running"


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over the control socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Door:
    """One way to a daemon: a socket's path, or a URL with a token."""

    def __init__(self, *, path: str = "", url: str = "", token: str = "", origin: str) -> None:
        self.origin = origin
        self._path = path
        self._url = urlsplit(url)
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    def ask(
        self, path: str, params: Params, frame: Mapping[str, str], timeout_s: float, method: str = "GET"
    ) -> Told:
        """Return what a question is answered. Raises `PalyraError`, `DoorClosed` where nobody answers in time."""
        texts, pairs = write_query(params)
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        if method == "POST":
            body = {name: value for name, value in msgspec.to_builtins(params).items() if name not in names}
            target = _fill(path, texts) + (f"?{urlencode(frame)}" if frame else "")
            return self._exchange(method, target, msgspec.json.encode(body), timeout_s)
        query = [pair for pair in pairs if pair[0] not in names] + list(frame.items())
        target = _fill(path, texts) + (f"?{urlencode(query)}" if query else "")
        return self._exchange("GET", target, None, timeout_s)

    def change(self, method: str, path: str, params: Params) -> Told:
        """Have something changed; raises `PalyraError`."""
        texts, _ = write_query(params)
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        body = {name: value for name, value in msgspec.to_builtins(params).items() if name not in names}
        return self._exchange(method, _fill(path, texts), msgspec.json.encode(body), LONG_S)

    def send(self, method: str, target: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """Send a request to a place that is no question and no change; return its answer, empty for none."""
        data = self._send(method, target, None if body is None else msgspec.json.encode(body), LONG_S)
        return msgspec.json.decode(data, type=dict[str, Any]) if data else {}

    def _exchange(self, method: str, target: str, body: bytes | None, timeout_s: float) -> Told:
        data = self._send(method, target, body, timeout_s)
        try:
            return Told(msgspec.json.decode(data, type=_Placed).at, data)
        except msgspec.DecodeError as exc:
            raise PalyraError(f"What answers is no daemon ({self.origin}).", code="daemon_not_running") from exc

    def _send(self, method: str, target: str, body: bytes | None, timeout_s: float) -> bytes:
        connection = self.connect(timeout_s)
        headers = self._headers | ({} if body is None else {"content-type": "application/json"})
        try:
            connection.request(method, PREFIX + target, body=body, headers=headers)
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as exc:
            why = "it did not answer in time" if isinstance(exc, TimeoutError) else str(exc) or type(exc).__name__
            raise DoorClosed(f"The daemon cannot be reached ({self.origin}): {why}.", hint="palyra status") from exc
        finally:
            connection.close()
        if response.status not in (200, 201, 204):
            raise error_in(data, response.status)
        return data

    def fetch(self, path: str, params: Params, frame: Mapping[str, str]) -> Iterator[bytes]:
        """Yield a file as it arrives; raises `PalyraError`, also where it ends too early."""
        query = [*write_query(params)[1], *frame.items()]
        connection = self.connect(LONG_S)
        try:
            connection.request("GET", f"{PREFIX}{path}?{urlencode(query)}", headers=self._headers)
            response = connection.getresponse()
            if response.status != 200:
                raise error_in(response.read(), response.status)
            while piece := response.read(_PIECE_BYTES):
                yield piece
        except (OSError, http.client.HTTPException) as exc:
            why = str(exc) or type(exc).__name__
            raise DoorClosed(
                f"The file did not arrive whole ({self.origin}): {why}.", hint="palyra status"
            ) from exc
        finally:
            connection.close()

    def connect(self, timeout_s: float) -> http.client.HTTPConnection:
        """Return a connection that is not open yet."""
        if self._path:
            return _SocketConnection(self._path, timeout_s)
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        return kind(self._url.hostname or "", self._url.port, timeout=timeout_s)

    def open(
        self, connection: http.client.HTTPConnection, path: str, query: Sequence[tuple[str, str]]
    ) -> http.client.HTTPResponse:
        """Ask over a connection and return the answer, whose body has not been read."""
        connection.request("GET", f"{path}?{urlencode(query)}", headers=self._headers)
        return connection.getresponse()


class _Placed(msgspec.Struct):
    at: At


class _Error(msgspec.Struct):
    code: str
    message: str
    field: str | None = None
    hint: str | None = None
    retry_after_ms: int | None = None


class _Envelope(msgspec.Struct):
    error: _Error


def find_door(call: Call, lock: LockState, environ: Mapping[str, str] = os.environ) -> Door | None:
    """Return the way to the daemon that is meant: that of `--url`, else of the state directory, if one runs."""
    if call.url:
        token = environ.get("PALYRA_TOKEN", "")
        if not token:
            raise PalyraError(
                "No token for that daemon.", hint="set PALYRA_TOKEN to its admin token", code="missing_client_key"
            )
        if urlsplit(call.url).scheme not in ("http", "https") or not urlsplit(call.url).hostname:
            raise PalyraError(f"'{call.url}' is no URL of a daemon.", hint="http://HOST:PORT", code="usage_error")
        return Door(url=call.url, token=token, origin=f"daemon at {call.url}")
    if not lock.is_locked:
        return None
    holder = lock.holder
    path = (holder.socket if holder is not None else "") or str(call.paths.socket)
    if not os.path.exists(path):
        return None
    return Door(path=path, origin="daemon" + (f" (pid {holder.pid})" if holder is not None else ""))


def _fill(path: str, texts: Mapping[str, str]) -> str:
    parts = [quote(texts[part[1:-1]], safe="") if part.startswith("{") else part for part in path.split("/")]
    return "/".join(parts)


def error_in(data: bytes, status: int) -> PalyraError:
    """Return the error in an answer; one that is not ours is named by its status."""
    try:
        error = msgspec.json.decode(data, type=_Envelope).error
    except msgspec.DecodeError:
        return PalyraError(f"The answer is HTTP {status} and not one of a daemon.", code="daemon_not_running")
    if error.code not in CODES:
        return PalyraError(f"{error.message} [{error.code}]", hint=error.hint)
    if error.hint is not None:
        return PalyraError(error.message, hint=error.hint, code=error.code)
    details: dict[str, Any] = {"param": error.field, "retry_after_ms": error.retry_after_ms}
    return Refused(Refusal(code=error.code, message=error.message, **details))
