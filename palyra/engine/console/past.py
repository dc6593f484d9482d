"""Who folds for the daemon: one child process over the journal's file, or a thread over a journal in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

import palyra
from palyra.engine.codec import to_known
from palyra.engine.console.child import Answered, Asked
from palyra.engine.console.file import zone_of
from palyra.engine.console.frame import JournalFiles, Params, Question, Sight, Told, ask
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
        asked = Asked(
            path=question.path,
            params=msgspec.Raw(msgspec.json.encode(params)),
            at=at,
            zone=zone,
            now_us=now_us,
            is_locked=lock.is_locked,
            holder=lock.holder,
            hidden=hidden_also(),
        )
        if self._waiting_count >= _WAITING_MAX_COUNT:
            raise _refused("gateway_busy", "Too many questions about the past are waiting.", retry_after_ms=1_000)
        self._waiting_count += 1
        try:
            async with self._turn:
                return await self._in_time(msgspec.json.encode(asked) + b"\n")
        finally:
            self._waiting_count -= 1

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
        refusal = answered.refusal or Refusal(code="internal", message="The child gave no answer.")
        if answered.hint is None:
            raise Refused(refusal)
        raise PalyraError(refusal.message, hint=answered.hint, code=refusal.code)

    async def _exchange(self, line: bytes) -> tuple[Answered, bytes]:
        process = self._process or await self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line)
        await process.stdin.drain()
        answered = msgspec.json.decode(await process.stdout.readuntil(b"\n"), type=Answered)
        return answered, await process.stdout.readexactly(answered.size_bytes)

    async def _start(self) -> asyncio.subprocess.Process:
        places = [str(Path(palyra.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "palyra.engine.console.child"),
            *(str(self._files.path), str(self._files.key_path)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
            limit=_LINE_MAX_BYTES,
            start_new_session=True,  # Ctrl-C in a terminal is for the daemon, which drains
        )
        return self._process

    async def close(self) -> None:
        """End the child; the next question starts another one."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()  # it only reads
        await process.wait()


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
        where, journal, head = zone_of(zone), self._journal, self._journal.head.position

        def fold() -> Told:
            position, seen_us = head, now_us
            if at is not None:
                moment = resolve_as_of(journal.reader(head), parse_as_of(at, where), now_us)
                position, seen_us = moment.position, moment.as_of_us
            sight = Sight(
                journal_id=journal.journal_id,
                position=position,
                now_us=seen_us,
                zone=where,
                lock=lock if at is None else lock_then,
                rows=journal.reader(position),
                fold=self._fold,
            )
            return ask(question, sight, params)

        return await asyncio.to_thread(fold)

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
