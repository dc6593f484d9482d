"""The events of a stream that differ in nothing but their text: most of all that are relayed.

Such an event is not decoded. Where the bytes around its text are those of one that was, its text and what its
client gets of it are known without; those that arrive together are read together.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from palyra.wire.sse import SseSplitter
from palyra.wire.tokens import TokenTally

#: Of a stream whose events differ in more than their text, so many are looked at in vain.
_LEARNT_MAX_COUNT = 8


class Blocks:
    """Cuts a stream into blocks and has each taken, runs of events that are alike at once."""

    def __init__(self, take: Callable[[bytes], bytes], tally: TokenTally) -> None:
        """`take` reads one block and returns what is relayed of it; `tally` counts the text of the others."""
        self.alike = Alike()
        #: Nothing that follows is read or relayed.
        self.is_over = False
        self._splitter = SseSplitter()
        self._take = take
        self._tally = tally

    @property
    def tail(self) -> bytes:
        """What has arrived after the last complete block."""
        return self._splitter.tail

    def feed(self, chunk: bytes) -> bytes:
        """Return what may be relayed now; raises `Malformed` for an endless event."""
        if not self.is_over and self._splitter.is_empty and (relayed := self._take_alike(chunk)):
            return relayed
        out: list[bytes] = []
        run: list[bytes] = []
        for block in self._splitter.feed(chunk):
            if self.alike.may_read(block):
                run.append(block)
                continue
            out += self._take_run(run)
            run = []
            if not self.is_over:
                out.append(self._take(block))
        return b"".join([*out, *self._take_run(run)])

    def _take_run(self, blocks: list[bytes]) -> list[bytes]:
        """Take events that seem to be alike: together, or one by one where some are not."""
        if not blocks or self.is_over:
            return []
        if relayed := self._take_alike(b"".join(blocks)):
            return [relayed]
        return [b"" if self.is_over else self._take_alike(block) or self._take(block) for block in blocks]

    def _take_alike(self, blocks: bytes) -> bytes:
        """Return what is relayed of events that are all like one before, b"" for any others."""
        said = self.alike.read(blocks)
        if said is None:
            return b""
        self._tally.extend(said.texts)
        return said.relayed


class _Said(msgspec.Struct, frozen=True, gc=False):
    """The texts of events, and the events as their client gets them."""

    texts: list[str]
    relayed: bytes


class Alike:
    """Reads the events of a stream that differ from one before in nothing but their piece of text.

    Nearly all do. Where the bytes before and behind the text are those of an event that was read, and the text ends
    no string and escapes nothing, a decoder would find the same event with another text; so it is not asked. Events
    that arrive together are read together: what stands between two texts is the end of one event and the beginning
    of the next, and any other event between them holds quotes.
    """

    def __init__(self) -> None:
        self._before = self._behind = b""
        self._text_at = self._behind_bytes = 0
        #: The end of one event and the beginning of the next.
        self._between = ""
        #: The same as the client gets it, and whether that is the same.
        self._relayed_before = self._relayed_behind = self._relayed_between = ""
        self._is_untouched = True
        #: Events that were learnt from since one was read.
        self._learnt_count = 0

    @property
    def is_promising(self) -> bool:
        """Return whether it is worth learning: the events of some streams differ in more than their text."""
        return self._learnt_count < _LEARNT_MAX_COUNT

    def learn(self, block: bytes, relayed: bytes, text: str) -> None:
        """Take an event that was read, as it came and as it went; `text` is what it brought."""
        self._learnt_count += 1
        quoted = b'"' + text.encode() + b'"'
        if b"\\" in block or block.count(quoted) != 1 or relayed.count(quoted) != 1:
            return  # it cannot be told where the text stands
        (before, behind), told = _around(block, quoted), _around(relayed, quoted)
        try:
            between = (behind + before).decode()
            self._relayed_before, self._relayed_behind = (part.decode() for part in told)
        except UnicodeDecodeError:
            return  # some bytes beside the text are none
        self._before, self._behind, self._between = before, behind, between
        self._text_at, self._behind_bytes = len(before), len(behind)
        self._relayed_between = self._relayed_behind + self._relayed_before
        self._is_untouched = relayed == block

    def forget(self) -> None:
        """Know no event any more: what was read since may have changed what the next one means."""
        self._before = self._behind = b""
        self._text_at = 0

    def may_read(self, block: bytes) -> bool:
        """Return whether an event begins and ends like the one that was learnt from."""
        is_learnt = self._text_at > 0
        return is_learnt and block.startswith(self._before) and block.endswith(self._behind)

    def read(self, blocks: bytes) -> _Said | None:
        """Return what whole events bring, None for those that have to be decoded."""
        if not self.may_read(blocks):
            return None
        try:
            texts = blocks[self._text_at : -self._behind_bytes].decode().split(self._between)
        except UnicodeDecodeError:
            return None
        said = texts[0] if len(texts) == 1 else "".join(texts)
        if '"' in said or "\\" in said or not said.isprintable() or "" in texts:
            return None
        self._learnt_count = 0
        if self._is_untouched:
            return _Said(texts, blocks)
        relayed = self._relayed_before + self._relayed_between.join(texts) + self._relayed_behind
        return _Said(texts, relayed.encode())


def _around(block: bytes, quoted: bytes) -> tuple[bytes, bytes]:
    """Return what stands before and behind a text, its quotes included."""
    before, _, behind = block.partition(quoted)
    return before + b'"', b'"' + behind
