"""Server-sent events: a push parser that leaves the bytes alone, and a writer (WHATWG HTML, section 9.2).

A stream is cut into blocks, each an event with its closing blank line exactly as it came, so that relaying costs
nothing but the search for blank lines. It is never iterated line by line: only blocks that matter are looked into.
The cut depends on the bytes alone, not on how they arrived; but of blank lines that nothing stands between, those
that arrive together may be one block, so that a flood of them costs little.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

from palyra.limits import SSE_LINE_MAX_BYTES
from palyra.wire.errors import Malformed

_BOM = b"\xef\xbb\xbf"
#: Two line ends. A CR at the end of what has arrived is undecided: an LF may follow and belong to it.
_BLANK_LINE = re.compile(rb"(?>\r\n|\r(?!\Z)|\n)(?>\r\n|\r(?!\Z)|\n)")
#: The longest part of a blank line that can be cut off: CR LF CR.
_OVERLAP_BYTES = 3
#: Of a whole stream.
_CUT_AT_ONCE_BYTES = 256 * 1024
#: So many blocks hardly ever arrive together.
_MANY_COUNT = 64


class SseSplitter:
    """Cuts a byte stream into event blocks; what is not complete yet waits in `tail`."""

    __slots__ = ("_has_cr", "_searched_bytes", "_waiting")

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._searched_bytes = 0
        self._has_cr = False

    @property
    def is_empty(self) -> bool:
        """Return whether nothing waits: what arrives next begins a block."""
        return not self._waiting

    @property
    def tail(self) -> bytes:
        """What has arrived after the last complete block."""
        return bytes(self._waiting)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the blocks that are complete now; raises `Malformed` when one grows past its bound."""
        waiting = self._waiting
        if not (waiting or self._has_cr) and _is_one_block(chunk):
            return [chunk]
        waiting += chunk
        arrived_bytes = len(waiting)
        search = max(0, self._searched_bytes - _OVERLAP_BYTES)
        self._has_cr = self._has_cr or chunk.find(b"\r") >= 0
        blocks: list[bytes] = []
        if self._has_cr:
            ends = [found.end() for found in _BLANK_LINE.finditer(waiting, search)]
            starts = [0, *ends]
            blocks = [bytes(waiting[start:end]) for start, end in zip(starts, ends, strict=False)]
            del waiting[: starts[-1]]
        elif waiting.find(b"\n\n", search) >= 0:
            *whole, tail = bytes(waiting).split(b"\n\n")
            blocks = [block + b"\n\n" for block in whole]
            waiting[:] = tail
        self._searched_bytes = len(waiting)
        if arrived_bytes > SSE_LINE_MAX_BYTES:
            _check_sizes(waiting, *blocks)
        return blocks if len(blocks) <= _MANY_COUNT else _blanks_joined(blocks)


def blocks_of(stream: bytes) -> Iterator[bytes]:
    """Yield the blocks of a whole stream, which is cut a piece at a time: nobody waits for one long step."""
    splitter = SseSplitter()
    for start in range(0, len(stream), _CUT_AT_ONCE_BYTES):
        yield from splitter.feed(stream[start : start + _CUT_AT_ONCE_BYTES])


def _is_one_block(chunk: bytes) -> bool:
    """Return whether bytes are one block and nothing else, as nearly all are that arrive one by one."""
    at = chunk.find(b"\n\n")
    return 0 <= at == len(chunk) - 2 and chunk.find(b"\r") < 0 and len(chunk) <= SSE_LINE_MAX_BYTES


def _blanks_joined(blocks: Iterable[bytes]) -> list[bytes]:
    """Return the blocks, neighbours that hold nothing made one."""
    joined: list[bytes] = []
    for says_something, run in groupby(blocks, lambda block: bool(block.strip(b"\r\n"))):
        together = list(run)
        joined += together if says_something else [b"".join(together)]
    return joined


def _check_sizes(*blocks: bytes | bytearray) -> None:
    if max(map(len, blocks)) > SSE_LINE_MAX_BYTES:
        raise Malformed(f"An event is longer than {SSE_LINE_MAX_BYTES} bytes.", code="response_too_large")


def event_data(block: bytes) -> bytes:
    """Return the data of a block, its lines joined by LF; b"" when it has none."""
    if block.startswith(b"data: ") and block.find(b"\n") == len(block) - 2 and block.find(b"\r") < 0:
        return block[6:-2]  # one line of data and nothing else, as nearly all are
    if block.find(b"data") < 0:
        return b""  # blank lines, or a comment
    return b"\n".join(_values(block, b"data"))


def event_name(block: bytes) -> str:
    """Return the event type of a block, "" when it names none."""
    if block.find(b"event") < 0:
        return ""
    names = _values(block, b"event")
    return names[-1].decode("utf-8", "replace") if names else ""


def _values(block: bytes, field: bytes) -> list[bytes]:
    prefix = field + b":"
    size = len(prefix)
    return [
        line[size:].removeprefix(b" ") for line in block.removeprefix(_BOM).splitlines() if line.startswith(prefix)
    ]


def encode_event(data: bytes, name: str | None = None) -> bytes:
    """Return one event; data of several lines becomes several data lines."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    if data.find(b"\n") < 0:
        return b"".join((head, b"data: ", data, b"\n\n"))
    return head + b"".join(b"data: " + line + b"\n" for line in data.split(b"\n")) + b"\n"


def comment(text: str) -> bytes:
    """Return a comment, which a client skips: it keeps a silent connection open."""
    return b": " + text.encode() + b"\n\n"
