"""The providers' port: one call outward, whoever answers it.

A provider moves bytes. It imports neither events nor the journal; what the bytes mean is read in `wire/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import msgspec

from palyra.redaction import Secret


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt on the wire. Durations `_ms`; every one of them is a deadline of its own (gateway 6.1)."""

    #: GET asks for a list, which costs nothing.
    method: Literal["GET", "POST"] = "POST"
    #: Below the provider's base URL: `/chat/completions`.
    path: str
    headers: Mapping[str, str] = {}
    body: bytes = b""
    #: A stream has first-byte and idle deadlines; a unary answer only the total.
    stream: bool = False
    connect_timeout_ms: int
    first_byte_timeout_ms: int
    idle_timeout_ms: int
    #: Of the whole attempt, connecting included.
    total_timeout_ms: int


class Answer(Protocol):
    """A provider's answer whose head has arrived. Closing twice is fine; leaving it open is a leak."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case."""
        ...

    async def chunk(self) -> bytes:
        """Return the next bytes as they arrived, b"" at the clean end; raises `TransportFailed`."""
        ...

    async def flow(self, take: Callable[[bytes], bool]) -> None:
        """Hand bytes to `take` the moment they arrive, until it wants no more of them or none are to be had so.

        It is never given the end: that, and whatever else comes next, is told by `chunk`. An answer that hands
        nothing over returns at once. What `take` raises is raised here.
        """
        ...

    async def body(self, max_bytes: int) -> bytes:
        """Return all the rest; raises `TransportFailed("response_too_large", "body", ...)` past `max_bytes`."""
        ...

    async def close(self) -> None:
        """Let go of the connection: back to the pool after a clean end, else closed."""
        ...


class Provider(Protocol):
    """One configured provider."""

    async def send(self, call: Call, secret: Secret | None) -> Answer:
        """Connect, write, and return when the head of the answer has arrived.

        Every failure is a `TransportFailed` with class and phase. Phase connect: `timeout_connect dns_failed
        tls_failed network_unavailable netguard_blocked`. Phase headers: `timeout_first_byte timeout_total
        redirect_refused response_too_large stream_truncated network_unavailable malformed_response`. Phase body:
        `timeout_idle timeout_total stream_truncated malformed_response response_too_large`. Cancellation closes
        the socket.
        """
        ...

    async def close(self) -> None: ...
