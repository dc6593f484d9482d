"""The line of the log that each request leaves, as JSON, by a straight way of its own.

There is one for every request, and it holds words and numbers of ours alone; so it is rendered without the chain
that other lines pass, which looks for secrets and for marks of control in whatever they say.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from palyra.engine.clock import SystemClock
from palyra.units import US_PER_S

#: Other methods are words that a client has made up.
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class RequestLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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


class RequestLines:
    """Renders lines and hands them over to whoever writes."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._clock = SystemClock()
        self._encode = msgspec.json.Encoder().encode
        self._second = 0
        self._until_second = ""
        self.name_boot("")

    def name_boot(self, boot_id: str) -> None:
        """Say in each line from now on which process it is of, where that is known."""
        told = {"level": "info", "event": "request", **({"boot_id": boot_id} if boot_id else {})}
        #: Of each line, what stands between its date and what it says of its request.
        self._between = f'Z",{self._encode(told).decode()[1:-1]},'

    def add(self, line: RequestLine) -> None:
        """Render a line that is ours; its date is worked out once a second."""
        second, us = divmod(self._clock.now_us(), US_PER_S)
        if second != self._second:
            self._second, self._until_second = second, f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"
        rest = self._encode(line).decode()[1:]
        self._write(f'{{"ts":"{self._until_second}.{us:06d}{self._between}{rest}')
