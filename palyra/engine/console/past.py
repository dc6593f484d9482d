"""Who folds for the daemon: one child process over the journal's file, or a thread over a journal in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import palyra
from palyra.engine.codec import to_known
from palyra.engine.console.child import Answered, Asked
from palyra.engine.console.file import zone_of
from palyra.engine.console.frame import Download, JournalFiles, Params, Question, Sight, Told, Written, ask
from palyra.engine.moments import lock_then, parse_as_of, resolve_as_of
from palyra.errors import PalyraError, Refusal, Refused
from palyra.journal.lock import LockState
from palyra.journal.memory import MemoryJournal
from palyra.projections.state import State, evolve
from palyra.redaction import hidden_also

#: Questions that may wait for the child, and how long an answer may take once it is at work.
_WAITING_MAX_COUNT = 32
_ANSWER_S = 30.0
#: One line about an answer; the answer itself is read by its size.
_LINE_MAX_BYTES = 1 << 20
#: Downloads at once, each with a process of its own; and what is read of one at a time.
_DOWNLOADS_MAX_COUNT = 4
_PIECE_BYTES = 1 << 16


class Arriving(NamedTuple):
    """A file on its way: what it is, what it is called, and its bytes; reading them raises `PalyraError`."""

    content_type: str
    file_name: str
    chunks: AsyncIterator[bytes]


class ChildPast:
    """Has one child process fold, one question at a time. It is started when it is first needed.

    One that dies is started again, and its question asked once more; one that takes too long is ended.
    """

    def __init__(self, files: JournalFiles, *, answer_s: float = _ANSWER_S) -> None:
        self._files = files
        self._answer_s = answer_s
        self._turn = asyncio.Lock()
        self._waiting_count = 0
        self._process: asyncio.subprocess.Process | None = None
        self._downloads_count = 0

    @property
    def pid(self) -> int | None:
        """The child's, while there is one."""
        return None if self._process is None else self._process.pid

    async def ask(
        self,
        question: Question[Any, Any],
        params: Params,
        *,
        at: str | None,
        zone: str,
        now_us: int,
        lock: LockState,
    ) -> Told:
        """Return what a question is answered at a moment; raises `PalyraError`."""
        line = _line(question.path, params, at, zone, now_us, lock)
        if self._waiting_count >= _WAITING_MAX_COUNT:
            raise _refused("gateway_busy", "Too many questions about the past are waiting.", retry_after_ms=1_000)
        self._waiting_count += 1
        try:
            async with self._turn:
                return await self._in_time(line)
        finally:
            self._waiting_count -= 1

    @contextlib.asynccontextmanager
    async def download(
        self,
        download: Download[Any],
        params: Params,
        *,
        at: str | None,
        zone: str,
        now_us: int,
        lock: LockState,
    ) -> AsyncIterator[Arriving]:
        """Give a file as it is made, by a process that ends with it; raises `PalyraError`."""
        if self._downloads_count >= _DOWNLOADS_MAX_COUNT:
            raise _refused("gateway_busy", "Too many files are being made.", retry_after_ms=5_000)
        self._downloads_count += 1
        process = None
        try:
            process = await self._spawn()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(_line(download.path, params, at, zone, now_us, lock))
            process.stdin.close()
            try:
                line = await process.stdout.readuntil(b"\n")
            except asyncio.IncompleteReadError:
                raise PalyraError("The process that makes the file has died.") from None
            answered = msgspec.json.decode(line, type=Answered)
            if answered.at is None:
                raise _error_in(answered)
            yield Arriving(answered.content_type, answered.file_name, _pieces(process))
        finally:
            self._downloads_count -= 1
            if process is not None:
                await _end(process)

    async def _in_time(self, line: bytes) -> Told:
        try:
            async with asyncio.timeout(self._answer_s):
                for _ in range(2):
                    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                        answered, data = await self._exchange(line)
                        break
                    await self.close()
                else:
                    raise PalyraError("The process that folds the journal has died twice over this question.")
        except TimeoutError:
            await self.close()
            message = f"The journal was not folded within {self._answer_s:g} s."
            raise _refused("fold_timeout", message) from None
        except BaseException:
            await self.close()  # half an answer may be on its way, which the next question must not get
            raise
        if answered.at is not None:
            return Told(answered.at, data)
        raise _error_in(answered)

    async def _exchange(self, line: bytes) -> tuple[Answered, bytes]:
        process = self._process = self._process or await self._spawn()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line)
        await process.stdin.drain()
        answered = msgspec.json.decode(await process.stdout.readuntil(b"\n"), type=Answered)
        return answered, await process.stdout.readexactly(answered.size_bytes)

    async def _spawn(self) -> asyncio.subprocess.Process:
        places = [str(Path(palyra.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "palyra.engine.console.child"),
            *(str(self._files.path), str(self._files.key_path)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
            limit=_LINE_MAX_BYTES,
            start_new_session=True,  # Ctrl-C in a terminal is for the daemon, which drains
        )

    async def close(self) -> None:
        """End the child; the next question starts another one."""
        process, self._process = self._process, None
        if process is not None:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()  # it only reads
    await process.wait()


async def _pieces(process: asyncio.subprocess.Process) -> AsyncIterator[bytes]:
    assert process.stdout is not None
    while piece := await process.stdout.read(_PIECE_BYTES):
        yield piece
    if await process.wait():
        raise PalyraError("The process that makes the file has died before its end.")


def _line(path: str, params: Params, at: str | None, zone: str, now_us: int, lock: LockState) -> bytes:
    asked = Asked(
        path=path,
        params=msgspec.Raw(msgspec.json.encode(params)),
        at=at,
        zone=zone,
        now_us=now_us,
        is_locked=lock.is_locked,
        holder=lock.holder,
        hidden=hidden_also(),
    )
    return msgspec.json.encode(asked) + b"\n"


def _error_in(answered: Answered) -> PalyraError:
    refusal = answered.refusal or Refusal(code="internal", message="The child gave no answer.")
    if answered.hint is None:
        return Refused(refusal)
    return PalyraError(refusal.message, hint=answered.hint, code=refusal.code)


class ThreadPast:
    """Folds a journal in memory in a thread; it has no file that another process could read.

    The journal is what a test or an embedding program holds in memory, so a fold is short.
    """

    def __init__(self, journal: MemoryJournal) -> None:
        self._journal = journal

    async def ask(
        self,
        question: Question[Any, Any],
        params: Params,
        *,
        at: str | None,
        zone: str,
        now_us: int,
        lock: LockState,
    ) -> Told:
        """Return what a question is answered at a moment; raises `PalyraError`."""
        head = self._journal.head.position
        return await asyncio.to_thread(lambda: ask(question, self._sight(head, at, zone, now_us, lock), params))

    @contextlib.asynccontextmanager
    async def download(
        self,
        download: Download[Any],
        params: Params,
        *,
        at: str | None,
        zone: str,
        now_us: int,
        lock: LockState,
    ) -> AsyncIterator[Arriving]:
        """Give a file, which is made before its first byte goes out; raises `PalyraError`."""
        head = self._journal.head.position

        def write() -> tuple[Written, list[bytes]]:
            written = download.write(self._sight(head, at, zone, now_us, lock), params)
            return written, list(written.chunks)

        written, data = await asyncio.to_thread(write)

        async def chunks() -> AsyncIterator[bytes]:
            for piece in data:
                yield piece

        yield Arriving(written.content_type, written.file_name, chunks())

    def _sight(self, head: int, at: str | None, zone: str, now_us: int, lock: LockState) -> Sight:
        where, journal = zone_of(zone), self._journal
        position, seen_us = head, now_us
        if at is not None:
            moment = resolve_as_of(journal.reader(head), parse_as_of(at, where), now_us)
            position, seen_us = moment.position, moment.as_of_us
        return Sight(
            journal_id=journal.journal_id,
            position=position,
            now_us=seen_us,
            zone=where,
            lock=lock if at is None else lock_then,
            rows=journal.reader(position),
            fold=self._fold,
        )

    def _fold(self, upto: int) -> State:
        state = State()
        for rows in self._journal.reader(upto).rows():
            for row in rows:
                evolve(state, to_known(row))
        return state

    async def close(self) -> None:
        """There is nothing to let go of."""


def _refused(code: str, message: str, *, retry_after_ms: int | None = None) -> Refused:
    return Refused(Refusal(code=code, message=message, retry_after_ms=retry_after_ms))
