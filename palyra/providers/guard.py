"""The guard: what every socket that leaves the machine has to pass.

The judge sits where sockets are made and sees every address right before it is dialled: literals, answers of
the resolver, each of several addresses. No lookup lies between the judgement and the connect, so a name that
changes its answer (DNS rebinding) gains nothing. `vet` judges too, because one refused address refuses the whole
name. Everything that speaks HTTP (providers, OAuth, alerts) is dialled under it by `dial`. Nobody may make a bare
socket, follow a redirect or use a proxy, which would dial in the guard's place.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from palyra.wire.netguard import (
    AddressClass,
    classify_address,
    is_address_allowed,
    is_literal,
    is_local_name,
    is_metadata_name,
)

#: Looks a name up and returns its addresses; raises `OSError` when there is no answer.
Lookup = Callable[[str], Awaitable[Sequence[str]]]
AddrInfo = tuple[Any, Any, int, str, tuple[Any, ...]]

LOOKUP_TIMEOUT_S = 3.0
LOOKUP_CACHE_S = 30
DIALLED_ADDRESSES_MAX_COUNT = 4
CONNECTION_AGE_MAX_S = 300.0
#: Shorter than what common servers grant an idle connection, so that few are found closed when reused.
KEEPALIVE_S = 15.0


class AddressBlocked(OSError):
    """An address may not be dialled. Raised before a socket exists."""

    def __init__(self, host: str, address: str, address_class: AddressClass) -> None:
        kind = address_class.replace("_", "-")
        super().__init__(errno.EACCES, f"{host} leads to {address}, a {kind} address that may not be dialled")
        self.host = host
        self.address = address
        self.address_class = address_class


class NameUnresolved(OSError):
    """A name has no address."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(errno.EHOSTUNREACH, f"{host} cannot be resolved: {reason}")


class Guard:
    """The policy of one connector: what its addresses may be."""

    def __init__(self, *, scheme: Literal["http", "https"], allow_private: bool) -> None:
        self.scheme = scheme
        self._allow_private = allow_private

    def judge(self, host: str, address: str) -> None:
        """Raise `AddressBlocked` unless `address`, to which `host` leads, may be dialled."""
        address_class = classify_address(address)
        in_the_clear = self.scheme == "http" and address_class == "public"
        if in_the_clear or not is_address_allowed(address_class, allow_private=self._allow_private):
            raise AddressBlocked(host, address, address_class)

    def make_socket(self, addr_info: AddrInfo) -> socket.socket:
        """Return a socket for an address about to be dialled, if it may be."""
        family, kind, protocol, _, sockaddr = addr_info
        if family not in (socket.AF_INET, socket.AF_INET6):
            raise AddressBlocked(str(sockaddr), str(sockaddr), "special")
        self.judge(sockaddr[0], sockaddr[0])
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made


async def look_up(host: str) -> list[str]:
    """Ask the system's resolver for the addresses of a name."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
    )
    return [str(sockaddr[0]) for _, _, _, _, sockaddr in found]


async def vet(guard: Guard, host: str, lookup: Lookup) -> list[str]:
    """Return at most four addresses of a host, every one judged; one refused address refuses the name.

    Local names are known without asking, metadata names are never asked for. Raises `NameUnresolved`.
    """
    addresses = await _addresses(host, lookup)
    for address in addresses:
        guard.judge(host, address)
    return addresses[:DIALLED_ADDRESSES_MAX_COUNT]


async def _addresses(host: str, lookup: Lookup) -> list[str]:
    if is_literal(host):
        return [host]
    if is_metadata_name(host):
        raise AddressBlocked(host, host, "metadata")
    if is_local_name(host):
        return ["127.0.0.1", "::1"]
    try:
        async with asyncio.timeout(LOOKUP_TIMEOUT_S):
            addresses = await lookup(host)
    except TimeoutError:
        raise NameUnresolved(host, f"no answer within {LOOKUP_TIMEOUT_S:g} s") from None
    except OSError as exc:
        raise NameUnresolved(host, exc.strerror or "no answer") from exc
    if not addresses:
        raise NameUnresolved(host, "it has no address")
    return list(dict.fromkeys(addresses))
