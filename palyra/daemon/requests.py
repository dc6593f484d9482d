"""A request on its way in: where it goes, and whether it may come in at all.

The order of the checks is fixed: what costs least and tells a stranger least comes first, and no byte of a body is
read before all of them are passed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec
from aiohttp import web

from palyra.daemon.stream import StreamClient
from palyra.decisions.arrivals import (
    Attribution,
    Peer,
    host_refusal,
    origin_refusal,
    peer_of,
    read_attribution,
)
from palyra.decisions.keys import Caller, authorize
from palyra.engine.access import Access
from palyra.engine.core import Core
from palyra.engine.throttle import Passage
from palyra.errors import Refusal, Refused
from palyra.limits import BODY_READ_MS, CLIENT_STALL_MS, HEADERS_MAX_BYTES

#: When a client may come back.
_DRAINING_RETRY_MS, _BUSY_RETRY_MS = 5_000, 1_000
#: Accepted Host headers that are remembered, so that they are read once.
_HOSTS_MAX_COUNT = 64


class GatewayLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of requests, as configured."""

    max_request_bytes: int
    max_inflight_bytes: int
    max_audio_bytes: int = 0
    #: More names that a Host header may hold.
    extra_hosts: Collection[str] = ()
    #: Origins of the web pages that may call.
    cors_origins: Collection[str] = ()
    #: Addresses and networks whose X-Forwarded headers are believed.
    trusted_proxies: Sequence[str] = ()
    #: The listener itself speaks TLS.
    is_tls: bool = False
    #: Browsers are told to come back over TLS only.
    is_strict: bool = False
    body_read_ms: int = BODY_READ_MS
    client_stall_ms: int = CLIENT_STALL_MS


class Visit:
    """One request and what is known of it so far."""

    __slots__ = (
        "attribution",
        "caller",
        "client",
        "headers",
        "is_recorded",
        "more",
        "passage",
        "peer",
        "request",
        "route",
        "run_id",
        "sent_bytes",
    )

    def __init__(self, request: web.BaseRequest, run_id: str) -> None:
        self.request = request
        self.run_id = run_id
        self.route = NOWHERE
        #: Names in lower case; the values of a repeated header are joined by a comma.
        self.headers: Mapping[str, str] = {}
        #: Where it comes from, and what it may use of a limited key; known once it was looked at.
        self.peer = Peer(request.remote or "", is_secure=False)
        self.passage: Passage | None = None
        #: What goes with its answer beside what goes with each.
        self.more: Mapping[str, str] = {}
        self.caller: Caller | None = None
        self.attribution = Attribution()
        #: It has left its trace in the journal: a run, a refusal, or a served request.
        self.is_recorded = False
        self.client: StreamClient | None = None
        self.sent_bytes = 0


Handler = Callable[[Visit], Awaitable[web.StreamResponse]]


class Route(NamedTuple):
    """A place below the root."""

    #: For the log: `/v1/models/{id}`, never what the client wrote.
    template: str
    surface: str
    #: What a caller's key must allow; "" for a place that is open to all.
    scope: str
    methods: Mapping[str, Handler]


NOWHERE = Route("other", "other", "", {})


class Entrance:
    """The checks that a request passes before its body is read."""

    def __init__(self, core: Core, access: Access, limits: GatewayLimits) -> None:
        self._core = core
        self._access = access
        self._hosts: set[str] = set()
        self.adopt(limits)

    def adopt(self, limits: GatewayLimits) -> None:
        """Let these limits hold for requests that come from now on."""
        self._extra_hosts = frozenset(limits.extra_hosts)
        self._cors_origins = frozenset(limits.cors_origins)
        self._trusted_proxies = tuple(limits.trusted_proxies)
        self._is_tls = limits.is_tls
        self._hosts.clear()

    def check_state(self, *, is_draining: bool, is_surplus: bool) -> None:
        """Refuse everything while nothing could be done about it."""
        if is_draining:
            raise _refused("draining", "Palyra is shutting down.", retry_after_ms=_DRAINING_RETRY_MS)
        if not self._core.is_writable:
            message = "The journal cannot be written; nothing is done that could not be recorded."
            raise _refused("journal_unwritable", message, retry_after_ms=_BUSY_RETRY_MS)
        if self._core.is_busy:
            raise _refused("gateway_busy", "Too much waits for the disk.", retry_after_ms=_BUSY_RETRY_MS)
        if is_surplus:
            raise _refused("too_many_connections", "Too many connections are open.", retry_after_ms=_BUSY_RETRY_MS)

    def check_host(self, visit: Visit) -> None:
        """Read the headers, and refuse a request that was meant for somebody else."""
        request = visit.request
        visit.headers = _read_headers(request)
        if self._trusted_proxies or self._is_tls:
            visit.peer = peer_of(visit.peer.address, visit.headers, self._trusted_proxies, is_tls=self._is_tls)
        host = visit.headers.get("host")
        if host in self._hosts:
            return
        _raise_if(host_refusal(host, self._extra_hosts))
        if host is not None and len(self._hosts) < _HOSTS_MAX_COUNT:
            self._hosts.add(host)

    def check_origin(self, visit: Visit) -> None:
        """Refuse a request that a web page sent, unless that page is named in the configuration."""
        origin = visit.headers.get("origin")
        if origin is None:
            return
        _raise_if(origin_refusal(visit.headers, self._cors_origins))
        visit.more = {
            **visit.more,
            "Access-Control-Allow-Origin": origin,
            "Vary": "Origin",
            "Access-Control-Expose-Headers": "*",
        }

    def let_in(self, visit: Visit, scope: str) -> None:
        """Refuse a request whose sender may not do this."""
        headers, peer_address = visit.headers, visit.peer.address
        caller = self._access.identify(headers, peer_address)
        if isinstance(caller, Refusal):
            raise Refused(caller)
        visit.caller = caller
        _raise_if(authorize(caller, scope, peer_address))
        attribution = read_attribution(headers, caller)
        if isinstance(attribution, Refusal):
            raise Refused(attribution)
        visit.attribution = attribution
        passage = self._access.pass_through(caller)
        if isinstance(passage, Refusal):
            raise Refused(passage)
        visit.passage = passage


def _read_headers(request: web.BaseRequest) -> dict[str, str]:
    headers: dict[str, str] = {}
    size_bytes = 0
    for name, value in request.headers.items():
        size_bytes += len(name) + len(value)
        if not value.isascii() and not value.isprintable():
            raise _refused("invalid_header", f"The header {name} is not text.")
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    if size_bytes > HEADERS_MAX_BYTES:
        raise _refused("invalid_header", f"The headers are larger than {HEADERS_MAX_BYTES} bytes.")
    return headers


def _raise_if(refusal: Refusal | None) -> None:
    if refusal is not None:
        raise Refused(refusal)


def _refused(code: str, message: str, *, retry_after_ms: int | None = None) -> Refused:
    return Refused(Refusal(code=code, message=message, retry_after_ms=retry_after_ms))
