"""The line of the log that each request leaves, as JSON, by a straight way of its own.

There is one for every request, and it holds words and numbers of ours alone; so it is rendered without the chain
that other lines pass, which looks for secrets and for marks of control in whatever they say.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from palyra.engine.clock import SystemClock
from palyra.units import US_PER_S

#: Other methods are words that a client has made up.
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class RequestLine(NamedTuple):
    """What the log says of one request: nothing that its client wrote."""

    method: str
    #: Template of the route.
    route: str
    status: int
    duration_ms: int
    #: Of the answer's body.
    sent_bytes: int
    run_id: str

    @property
    def is_ours(self) -> bool:
        """Return whether no word of it can come from a client."""
        return self.method in _METHODS


class _Rendered(msgspec.Struct, frozen=True, gc=False):
    ts: str
    level: str
    event: str
    boot_id: str | msgspec.UnsetType
    method: str
    route: str
    status: int
    duration_ms: int
    sent_bytes: int
    run_id: str


class RequestLines:
    """Renders lines and hands them over to whoever writes."""

    def __init__(self, write: Callable[[str], None]) -> None:
        #: In each line once it is known.
        self.boot_id: str | msgspec.UnsetType = msgspec.UNSET
        self._write = write
        self._clock = SystemClock()
        self._encode = msgspec.json.Encoder().encode
        self._second = 0
        self._until_second = ""

    def add(self, line: RequestLine) -> None:
        """Render a line that is ours; its date is worked out once a second."""
        second, us = divmod(self._clock.now_us(), US_PER_S)
        if second != self._second:
            self._second, self._until_second = second, f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"
        ts = f"{self._until_second}.{us:06d}Z"
        self._write(self._encode(_Rendered(ts, "info", "request", self.boot_id, *line)).decode())
