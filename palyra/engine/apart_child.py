"""The other end of `palyra.engine.apart`: a process that calls functions over large bodies, one after the other.

It reads what is asked from its standard input and writes what comes of it to its standard output, nothing else, and
ends when its input does, which is when the daemon ends, however that ends; in the midst of work, too.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any, BinaryIO

from palyra.engine.apart import ANSWERED, ASKED
from palyra.engine.hangup import ending_with, watch
from palyra.wire.errors import WireError


def main(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer until there is nothing more to read."""
    watch(source)
    while head := source.read(ASKED.size):
        asked_bytes, body_bytes = ASKED.unpack(head)
        work, arguments = pickle.loads(source.read(asked_bytes))
        body = source.read(body_bytes)
        with ending_with(source):
            answered = pickle.dumps(_called(work, body, arguments))
        sink.write(ANSWERED.pack(len(answered)))
        sink.write(answered)
        sink.flush()


def _called(work: Any, body: bytes, arguments: tuple[Any, ...]) -> tuple[Any, WireError | None]:
    try:
        return work(body, *arguments), None
    except WireError as error:
        return None, error


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
