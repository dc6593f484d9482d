"""Work that would keep the loop from its turns: done in a thread, or, where it is large, by a process of its own.

A thread does for what is made of many small steps. One step over a large body is another thing: while it is read or
written in one call, no other thread has a turn, the loop's neither. So what is made of a body over `APART_BYTES` is
made by a child process. It is started when it is first needed, asked one thing at a time, and ended when it has had
nothing to do for a while, so that its memory goes with it. It knows only what it is given, and keeps nothing of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import palyra
from palyra.errors import PalyraError
from palyra.limits import APART_BYTES, OFF_LOOP_BYTES

T = TypeVar("T")

#: How long a child may rest, and how long it may work at one thing.
_REST_S, _WORK_S = 30.0, 60.0
#: Sizes of what is asked, and of the body that goes with it; and of what is answered.
ASKED, ANSWERED = struct.Struct(">QQ"), struct.Struct(">Q")


async def aside(work: Callable[..., T], *arguments: Any, on_cancel: Callable[[], None] = lambda: None) -> T:
    """Do work in a thread; whoever is cancelled meanwhile waits for its end, so that it never goes on unseen.

    `on_cancel` may make that end come soon.
    """
    doing = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        on_cancel()
        await asyncio.wait([doing])
        doing.exception()
        raise


class Apart:
    """See above. Work that may ask the child is handed to `do` with the size of its body."""

    def __init__(self, *, rest_s: float = _REST_S, work_s: float = _WORK_S) -> None:
        self._rest_s = rest_s
        self._work_s = work_s
        self._turn = asyncio.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._rest: asyncio.TimerHandle | None = None
        #: Nobody waits any more for what the child is at, or it has taken too long over it.
        self._is_given_up = self._is_late = False

    @property
    def pid(self) -> int | None:
        """The child's, while there is one."""
        return None if self._child is None else self._child.pid

    async def do(self, size_bytes: int, work: Callable[..., T], *arguments: Any) -> T:
        """Do work over a body of this size where it keeps nobody waiting; returns what it returns."""
        if size_bytes <= OFF_LOOP_BYTES:
            return work(*arguments)
        if size_bytes <= APART_BYTES:
            return await aside(work, *arguments)
        async with self._turn:
            if self._rest is not None:
                self._rest.cancel()
            self._is_given_up = False
            try:
                return await aside(work, *arguments, on_cancel=self._give_up)
            finally:
                self._rest = asyncio.get_running_loop().call_later(self._rest_s, self.close)

    def ask(self, work: Callable[..., T], body: bytes, *arguments: Any) -> T:
        """Have the child call a function of a module with a body; called by work that `do` does, in its thread.

        Raises what the function raises. A child that dies over it is started again, and asked once more; one that
        takes too long is not, for the next one would.
        """
        asked = pickle.dumps((work, arguments))
        for _ in range(2):
            with contextlib.suppress(EOFError, BrokenPipeError):
                answered = self._exchange(asked, body)
                break
            self.close()
            if self._is_given_up:
                raise PalyraError("Nobody waits for this large body any more.")
            if self._is_late:
                raise PalyraError(f"This large body was not read within {self._work_s:g} s.")
        else:
            raise PalyraError("The process that reads large bodies has died twice over this one.")
        value, error = pickle.loads(answered)
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    def _exchange(self, asked: bytes, body: bytes) -> bytes:
        child = self._child = self._child or start_child()
        assert child.stdin is not None
        assert child.stdout is not None
        self._is_late = False
        alarm = threading.Timer(self._work_s, self._be_late)
        alarm.start()
        try:
            for part in (ASKED.pack(len(asked), len(body)), asked, body):
                child.stdin.write(part)
            child.stdin.flush()
            (size_bytes,) = ANSWERED.unpack(_read(child.stdout.read(ANSWERED.size), ANSWERED.size))
            return _read(child.stdout.read(size_bytes), size_bytes)
        finally:
            alarm.cancel()

    def _be_late(self) -> None:
        self._is_late = True
        if self._child is not None:
            self._child.kill()

    def _give_up(self) -> None:
        self._is_given_up = True
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        """End the child; what is asked next starts another one."""
        child, self._child = self._child, None
        if self._rest is not None:
            self._rest.cancel()
        if child is not None:
            child.kill()  # it keeps nothing
            with contextlib.suppress(BrokenPipeError):
                child.communicate()


def _read(data: bytes, size_bytes: int) -> bytes:
    if len(data) < size_bytes:
        raise EOFError
    return data


def start_child() -> subprocess.Popen[bytes]:
    """Start a process that does what `palyra.engine.apart_child` says."""
    places = [str(Path(palyra.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", "palyra.engine.apart_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        start_new_session=True,  # Ctrl-C in a terminal is for the daemon, which drains
    )
