"""Events as they come: from the daemon that is named, or from the journal file, which grows beside a daemon."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from palyra.cli.command import Call
from palyra.cli.door import PREFIX, Door, DoorClosed, error_in, find_door
from palyra.cli.reading import Journal
from palyra.engine.clock import SystemClock
from palyra.engine.console.changes import DaemonNotRunning
from palyra.engine.history import EventAnswer, Wanted, events_after
from palyra.journal.lock import LockState, read_lock
from palyra.units import US_PER_S

#: Longer than anybody follows.
FOR_EVER_US = 1 << 62
_POLL_S = 0.2
#: A daemon says something at least every 15 s.
_SILENCE_S = 60.0


def follow(
    call: Call, after: int, wanted: Wanted, *, within_us: int = FOR_EVER_US
) -> Iterator[Sequence[EventAnswer]]:
    """Yield what comes after a position, for ever or as long as is said; raises `PalyraError`."""
    clock = SystemClock()
    until_us = clock.monotonic_us() + within_us

    def left_us() -> int:
        return until_us - clock.monotonic_us()

    if call.source == "online" or call.url:
        lock = LockState(False, None) if call.url else read_lock(call.paths.lock)
        door = find_door(call, lock)
        if door is None:
            raise DaemonNotRunning
        yield from _follow_daemon(door, after, wanted, left_us)
    else:
        yield from _follow_file(Journal(call), after, wanted, left_us)


def _follow_file(
    source: Journal, after: int, wanted: Wanted, left_us: Callable[[], int]
) -> Iterator[Sequence[EventAnswer]]:
    with source.rows() as reader:
        while left_us() > 0:
            for position, fresh in events_after(reader, after, wanted):
                after = position
                yield fresh
            time.sleep(_POLL_S)


def _follow_daemon(
    door: Door, after: int, wanted: Wanted, left_us: Callable[[], int]
) -> Iterator[Sequence[EventAnswer]]:
    connection = door.connect(_SILENCE_S)
    query = [("after", str(after)), *(("names", name) for name in wanted.names or ("*",))]
    query += [("stream", stream) for stream in wanted.streams]
    try:
        connection.connect()
        sock = connection.sock
        response = door.open(connection, f"{PREFIX}events", query)
        if response.status != 200:
            raise error_in(response.read(), response.status)
        while (left := left_us()) > 0:
            sock.settimeout(min(left / US_PER_S, _SILENCE_S))
            line = response.readline()
            if line.startswith(b"data: ") and line != b"data: {}\n":
                yield [msgspec.json.decode(line[6:], type=EventAnswer)]
            elif not line:
                raise DoorClosed(f"The daemon has ended the stream ({door.origin}).", hint="palyra status")
    except (OSError, http.client.HTTPException) as exc:
        if isinstance(exc, TimeoutError) and left_us() <= 0:
            return
        raise DoorClosed(f"The daemon cannot be reached ({door.origin}): {exc}.", hint="palyra status") from exc
    finally:
        connection.close()
