"""One connection to a provider: writes a request, feeds the answer's reader, watches the deadlines.

It carries one call at a time and is back with its keeper the moment an answer has come to its clean end, whether or
not somebody has taken the bytes. In every other case it is aborted: half an answer must never be read by the next
call. It must never write a request twice.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Protocol, cast

from palyra.errors import TransportFailed
from palyra.providers.alarm import Alarm
from palyra.providers.answer_reader import AnswerReader
from palyra.providers.port import Call
from palyra.units import ms_to_s

#: Body that may wait to be taken before the socket is left unread; one more read can come on top.
WAITING_MAX_BYTES = 256 * 1024
#: What is written at once: a small request whole, a large body piece by piece as the socket takes it.
_PIECE_BYTES = 64 * 1024
#: An empty view of no body; that of a body would keep it alive.
_NOTHING = memoryview(b"")


class Keeper(Protocol):
    """Whoever holds connections between calls."""

    def rests(self, connection: Connection) -> None:
        """Take a connection that is ready for another call."""
        ...

    def closed(self, connection: Connection) -> None:
        """Forget a connection, known or not."""
        ...


class Connection(asyncio.Protocol):
    """A connection. Whoever calls `ask` reads to the end or calls `leave`."""

    _transport: asyncio.Transport

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        #: When it was opened, by the loop's clock.
        self.opened_s = self._loop.time()
        #: Done when the socket is closed.
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._reader: AnswerReader | None = None
        self._waiter: asyncio.Future[None] | None = None
        #: Whom a body is handed to as it arrives; None while it waits to be taken.
        self._take: Callable[[bytes], bool] | None = None
        self._alarm = Alarm(self._deadline_passed)
        self._total_at = self._silence_at = math.inf
        self._first_byte_s = self._idle_s = math.inf
        self._unwritten = _NOTHING
        self._is_writing_paused = False
        self._is_held = False

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def ask(self, head: bytes, call: Call, total_at: float) -> AnswerReader:
        """Write a request; return the reader that its answer goes to. `total_at` is by the loop's clock."""
        reader = self._reader = AnswerReader()
        self._total_at = total_at
        if call.stream:
            self._first_byte_s = ms_to_s(call.first_byte_timeout_ms)
            self._idle_s = ms_to_s(call.idle_timeout_ms)
        else:
            self._first_byte_s = self._idle_s = math.inf
        self._transport.write(head + call.body[:_PIECE_BYTES])
        if len(call.body) > _PIECE_BYTES:
            self._unwritten = memoryview(call.body)[_PIECE_BYTES:]
        self._write_on()
        return reader

    async def wait_progress(self, reader: AnswerReader) -> None:
        """Wait until more of an answer that is not over has arrived; cancelling this gives the answer up."""
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        except asyncio.CancelledError:
            self.leave(reader)
            raise

    async def read(self, reader: AnswerReader) -> bytes:
        """Return what of the body has arrived since, b"" at its clean end; raises `TransportFailed`."""
        while not reader.waiting_bytes and not reader.is_over:
            await self.wait_progress(reader)
        if reader.waiting_bytes:
            return self._taken_from(reader)
        if reader.failure is not None:
            raise TransportFailed(*reader.failure)
        return b""

    async def flow(self, reader: AnswerReader, take: Callable[[bytes], bool]) -> None:
        """Hand over what arrives the moment it does, until `take` has enough or the answer is over.

        No task has a turn in between, and nothing waits here meanwhile.
        """
        if (reader.waiting_bytes and not take(self._taken_from(reader))) or reader.is_over:
            return
        self._take = take
        try:
            await self.wait_progress(reader)
        finally:
            self._take = None

    def _taken_from(self, reader: AnswerReader) -> bytes:
        if self._is_held and self._reader is reader and self.is_open:
            self._hold(False)
        return reader.take()

    def leave(self, reader: AnswerReader) -> None:
        """Give an answer up if it has not come to its end; the connection is closed then."""
        if self._reader is reader:
            self.abort()

    def abort(self) -> None:
        """Close at once, whatever is going on."""
        self._give_up(is_clean=False)
        self._transport.abort()

    # what the loop says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # Be told when all is sent, not when most of it is. (From a high mark of 0 asyncio's TLS would pause anew.)
        self._transport.set_write_buffer_limits(high=1, low=0)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if reader is None:
            self.abort()  # nobody has asked for anything
            return
        reader.feed(data)
        flows = self._take is not None and self._hand_over(reader, self._take)
        if reader.is_over:
            self._finish(reader)
        elif reader.waiting_bytes > WAITING_MAX_BYTES:
            self._hold(True)
        elif reader.status:
            self._expect_within(self._idle_s)
        if not flows or reader.is_over:
            self._wake()

    def eof_received(self) -> None:
        self._give_up(is_clean=True)
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._give_up(is_clean=False)
        self._keeper.closed(self)
        self.lost.set_result(None)

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        self._write_on()

    # what becomes of a call

    def _write_on(self) -> None:
        """Write while the socket takes it. The first byte of the answer is due once all is written."""
        while self._unwritten and not self._is_writing_paused and self.is_open:
            piece = self._unwritten[:_PIECE_BYTES]
            self._unwritten = self._unwritten[_PIECE_BYTES:] or _NOTHING
            self._transport.write(piece)
        if self._reader is not None and not self._reader.status:
            self._expect_within(math.inf if self._is_writing_paused else self._first_byte_s)

    def _finish(self, reader: AnswerReader) -> None:
        """Let go of an answer that is over."""
        self._reader = None
        is_idle = not self._unwritten and not self._is_writing_paused and not self._is_held
        if reader.is_complete and reader.can_be_followed and is_idle and self.is_open:
            self._alarm.clear()
            self._keeper.rests(self)
        else:
            self.abort()

    def _give_up(self, *, is_clean: bool) -> None:
        """End the call in flight, if there is one, as its connection ends."""
        reader, self._reader = self._reader, None
        self._unwritten = _NOTHING
        self._alarm.cancel()
        if reader is not None:
            reader.end(is_clean=is_clean)
            self._wake()

    def _hand_over(self, reader: AnswerReader, take: Callable[[bytes], bool]) -> bool:
        """Hand over what has arrived; return whether more is wanted."""
        try:
            if not reader.waiting_bytes or take(reader.take()):
                return True
        except Exception as error:
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(error)
        self._take = None
        return False

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _hold(self, should_hold: bool) -> None:
        """Leave the socket unread while nobody takes what was read; the idle deadline stands still meanwhile."""
        self._is_held = should_hold
        if should_hold:
            self._transport.pause_reading()
            self._expect_within(math.inf)
        else:
            self._transport.resume_reading()
            self._expect_within(self._idle_s)

    def _expect_within(self, silence_s: float) -> None:
        self._silence_at = self._loop.time() + silence_s
        self._alarm.set(min(self._total_at, self._silence_at))

    def _deadline_passed(self) -> None:
        reader = self._reader
        assert reader is not None, "without a call there is no deadline"
        if self._total_at <= self._silence_at:
            reader.fail("timeout_total", "the answer took longer than the attempt may")
        elif reader.status:
            reader.fail("timeout_idle", "the stream stood still for too long")
        else:
            reader.fail("timeout_first_byte", "no first byte of an answer in time")
        self._finish(reader)
        self._wake()
