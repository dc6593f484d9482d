"""Opens connections to one provider, and to nothing else.

Every address is judged by the guard twice: when its name was looked up, and when its socket is made. Must never
use a proxy, and never connect where the guard has not looked.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

from aiohappyeyeballs import start_connection

from palyra.errors import TransportFailed, reason_of
from palyra.providers.guard import (
    LOOKUP_CACHE_S,
    AddressBlocked,
    AddrInfo,
    Guard,
    Lookup,
    NameUnresolved,
    look_up,
    vet,
)
from palyra.redaction import clean_message
from palyra.wire.netguard import BaseUrl, classify_address

#: One address of several gets this long before the next one is tried beside it (RFC 8305).
_NEXT_ADDRESS_S = 0.25

P = TypeVar("P", bound=asyncio.Protocol)


class Dialler:
    """Dials the host of a base URL. Building one needs no loop."""

    def __init__(self, base: BaseUrl, guard: Guard, *, lookup: Lookup = look_up, ca_file: str = "") -> None:
        self._base = base
        self._guard = guard
        self._lookup = lookup
        self._ca_file = ca_file
        self._tls: ssl.SSLContext | None = None
        self._addresses: list[str] = []
        self._addresses_until = -math.inf
        self._looking_up = asyncio.Lock()

    async def dial(self, make: Callable[[], P], timeout_s: float) -> P:
        """Return a connected protocol; every failure is a `TransportFailed` in phase connect."""
        place = f"{self._base.host}:{self._base.port}"
        try:
            async with asyncio.timeout(timeout_s):
                return await self._dial(make)
        except AddressBlocked as exc:
            raise _failed("netguard_blocked", str(exc.strerror)) from exc
        except NameUnresolved as exc:
            raise _failed("dns_failed", str(exc.strerror)) from exc
        except ssl.SSLError as exc:
            reason = getattr(exc, "verify_message", "") or exc.reason or "handshake failed"
            raise _failed("tls_failed", f"TLS with {place}: {reason}") from exc
        except TimeoutError as exc:
            raise _failed("timeout_connect", f"no connection to {place} in time") from exc
        except (OSError, RuntimeError) as exc:  # uvloop raises both
            reason = reason_of(exc) if isinstance(exc, OSError) else "refused"
            raise _failed("network_unavailable", f"cannot reach {place}: {reason}") from exc

    async def _dial(self, make: Callable[[], P]) -> P:
        tls = self._trust() if self._base.scheme == "https" else None
        connected = await self._connect(await self._vetted())
        _, protocol = await asyncio.get_running_loop().create_connection(
            make, sock=connected, ssl=tls, server_hostname=self._base.host if tls else None
        )
        return protocol

    async def _connect(self, addresses: list[str]) -> socket.socket:
        """Return a socket to one of these addresses."""
        connected = await start_connection(
            [_addr_info(address, self._base.port) for address in addresses],
            happy_eyeballs_delay=_NEXT_ADDRESS_S,
            socket_factory=self._guard.make_socket,
        )
        peer = connected.getpeername()[0]
        if ipaddress.ip_address(peer) not in map(ipaddress.ip_address, addresses):
            connected.close()
            raise AddressBlocked(self._base.host, peer, classify_address(peer))
        return connected

    async def _vetted(self) -> list[str]:
        """Return the addresses of the host; calls that need them at the same time ask once."""
        loop = asyncio.get_running_loop()
        async with self._looking_up:
            if self._addresses_until <= loop.time():
                self._addresses = await vet(self._guard, self._base.host, self._lookup)
                self._addresses_until = loop.time() + LOOKUP_CACHE_S
            return self._addresses

    def _trust(self) -> ssl.SSLContext:
        """Return the system's trust roots with `ca_file` among them."""
        if self._tls is None:
            context = ssl.create_default_context()
            context.set_alpn_protocols(["http/1.1"])
            if self._ca_file:
                try:
                    context.load_verify_locations(self._ca_file)
                except OSError as exc:
                    message = f"ca_file {self._ca_file} cannot be used: {exc.strerror}"
                    raise _failed("tls_failed", message) from exc
            self._tls = context
        return self._tls


def _failed(failure_class: str, message: str) -> TransportFailed:
    return TransportFailed(failure_class, "connect", clean_message(message))


def _addr_info(address: str, port: int) -> AddrInfo:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
