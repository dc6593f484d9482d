"""Plays a scripted answer through the providers' port, as a socket would: pieces, waits, and ways to fail.

Time passes only where the script says so, on a clock that is handed in; the deadlines of a call end exactly the
waits that a socket's deadlines would end, with the same classes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Literal

import msgspec

from palyra.errors import TransportFailed
from palyra.providers.port import Call
from palyra.providers.reading import read_whole
from palyra.units import ms_to_s

Sleep = Callable[[float], Awaitable[None]]
Phase = Literal["connect", "headers", "body"]


class Wait(msgspec.Struct, frozen=True):
    """Nothing comes for this long; None: nothing comes any more."""

    duration_ms: int | None


class Break(msgspec.Struct, frozen=True):
    """The connection ends here, not cleanly."""


#: Bytes are never empty: that would be the end.
Step = bytes | Wait | Break


class Patience:
    """The deadlines of one call. Only its own waits move its clock."""

    def __init__(self, call: Call, sleep: Sleep) -> None:
        self._call = call
        self._sleep = sleep
        self._left_ms = call.total_timeout_ms

    async def wait(self, duration_ms: int | None, phase: Phase) -> None:
        """Wait; raises `TransportFailed` when a deadline of the phase, or the total one, comes first."""
        limits = [(self._left_ms, "timeout_total")]
        if phase == "connect":
            limits.append((self._call.connect_timeout_ms, "timeout_connect"))
        elif self._call.stream and phase == "headers":
            limits.append((self._call.first_byte_timeout_ms, "timeout_first_byte"))
        elif self._call.stream:
            limits.append((self._call.idle_timeout_ms, "timeout_idle"))
        limit_ms, failure_class = min(limits)
        if duration_ms is None or duration_ms > limit_ms:
            await self._sleep(ms_to_s(limit_ms))
            raise TransportFailed(failure_class, phase, "the script waits for longer than the call does")
        await self._sleep(ms_to_s(duration_ms))
        self._left_ms -= duration_ms


class ScriptedAnswer:
    """An answer that plays steps; satisfies `palyra.providers.port.Answer`."""

    def __init__(self, status: int, headers: Mapping[str, str], steps: Iterable[Step], patience: Patience) -> None:
        self._status = status
        self._headers = headers
        self._steps = iter(steps)
        self._patience = patience

    @property
    def status(self) -> int:
        return self._status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._headers

    async def chunk(self) -> bytes:
        """See `palyra.providers.port.Answer.chunk`."""
        for step in self._steps:
            if isinstance(step, Break):
                raise TransportFailed("stream_truncated", "body", "the script ends the connection here")
            if isinstance(step, bytes):
                return step
            await self._patience.wait(step.duration_ms, "body")
        return b""

    async def flow(self, take: Callable[[bytes], bool]) -> None:
        """Hand nothing over: steps are played when they are asked for."""

    async def body(self, max_bytes: int) -> bytes:
        """See `palyra.providers.port.Answer.body`."""
        return await read_whole(self.chunk, max_bytes)

    async def close(self) -> None:
        """Play nothing more."""
        self._steps = iter((Break(),))
