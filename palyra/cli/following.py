"""Events as they come: from the daemon that is named, or from the journal file, which grows beside a daemon."""

from __future__ import annotations

import http.client
import math
import time
from collections.abc import Iterator, Sequence

import msgspec

from palyra.cli.command import Call
from palyra.cli.door import PREFIX, Door, DoorClosed, error_in, find_door
from palyra.cli.reading import Journal
from palyra.engine.console.changes import DaemonNotRunning
from palyra.engine.history import EventAnswer, Wanted, events_after
from palyra.journal.lock import LockState, read_lock

_POLL_S = 0.2
#: A daemon says something at least every 15 s.
_SILENCE_S = 60.0


def follow(
    call: Call, after: int, wanted: Wanted, *, within_s: float = math.inf
) -> Iterator[Sequence[EventAnswer]]:
    """Yield what comes after a position, for ever or as long as is said; raises `PalyraError`."""
    until_s = time.monotonic() + within_s
    if call.source == "online" or call.url:
        lock = LockState(False, None) if call.url else read_lock(call.paths.lock)
        door = find_door(call, lock)
        if door is None:
            raise DaemonNotRunning
        yield from _follow_daemon(door, after, wanted, until_s)
    else:
        yield from _follow_file(Journal(call), after, wanted, until_s)


def _follow_file(source: Journal, after: int, wanted: Wanted, until_s: float) -> Iterator[Sequence[EventAnswer]]:
    with source.rows() as reader:
        while time.monotonic() < until_s:
            for position, fresh in events_after(reader, after, wanted):
                after = position
                yield fresh
            time.sleep(_POLL_S)


def _follow_daemon(door: Door, after: int, wanted: Wanted, until_s: float) -> Iterator[Sequence[EventAnswer]]:
    connection = door.connect(_SILENCE_S)
    query = [("after", str(after)), *(("names", name) for name in wanted.names or ("*",))]
    query += [("stream", stream) for stream in wanted.streams]
    try:
        connection.connect()
        sock = connection.sock
        response = door.open(connection, f"{PREFIX}events", query)
        if response.status != 200:
            raise error_in(response.read(), response.status)
        while (left_s := until_s - time.monotonic()) > 0:
            sock.settimeout(min(left_s, _SILENCE_S))
            line = response.readline()
            if line.startswith(b"data: ") and line != b"data: {}\n":
                yield [msgspec.json.decode(line[6:], type=EventAnswer)]
            elif not line:
                raise DoorClosed(f"The daemon has ended the stream ({door.origin}).", hint="palyra status")
    except (OSError, http.client.HTTPException) as exc:
        if isinstance(exc, TimeoutError) and time.monotonic() >= until_s:
            return
        raise DoorClosed(f"The daemon cannot be reached ({door.origin}): {exc}.", hint="palyra status") from exc
    finally:
        connection.close()
