"""Virtual time: an event loop whose clock jumps to the next timer as soon as nothing else is left to do.

No sockets, no threads, no waiting: the same seed gives the same order of steps on every machine. With `order` the
callbacks that are ready at the same moment run in an order of the seed's choice, as they might on a busy machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")

#: Wall time at which every simulation begins.
T0_US = 1_800_000_000_000_000


class Stuck(Exception):
    """Nothing is ready, no timer is set, and what was waited for has not come; or the loop turns without end."""


class VirtualLoop(asyncio.AbstractEventLoop):
    """The part of an event loop that a program without sockets needs."""

    def __init__(self, order: random.Random | None = None, *, turns_max_count: int = 1_000_000) -> None:
        self.now_us = 0
        self.turns_count = 0
        #: Every task ever made, in order: sets of tasks have an order that depends on addresses.
        self.tasks: list[asyncio.Task[Any]] = []
        #: Told after each turn; what it raises ends `run_until_complete`.
        self.after_turn: Callable[[], None] = lambda: None
        #: What asyncio had to say of exceptions that nobody took.
        self.problems: list[str] = []
        self._order = order
        self._turns_max_count = turns_max_count
        self._ready: list[asyncio.Handle] = []
        self._timers: list[tuple[int, int, asyncio.TimerHandle]] = []
        self._timers_count = 0
        self._is_running = False

    def run_until_complete(self, future: Coroutine[Any, Any, T]) -> T:  # type: ignore[override]
        """Run a coroutine to its end in no time at all."""
        asyncio.events._set_running_loop(self)
        self._is_running = True
        try:
            task = self.create_task(future)
            while not task.done():
                self._turn()
            return task.result()
        except BaseException:
            self._abandon()
            raise
        finally:
            self._is_running = False
            asyncio.events._set_running_loop(None)

    def _turn(self) -> None:
        self.turns_count += 1
        if self.turns_count > self._turns_max_count:
            raise Stuck(f"{self.turns_count} turns of the loop, and no end")
        self._come_to_timers()
        ready, self._ready = self._ready, []
        if self._order is not None and len(ready) > 1:
            self._order.shuffle(ready)
        for handle in ready:
            if not handle.cancelled():
                handle._run()
        self.after_turn()

    def _abandon(self) -> None:
        """Let go of what is unfinished, quietly: why it is has been said already."""
        for task in self.tasks:
            coroutine = task.get_coro()
            if not task.done() and isinstance(coroutine, Coroutine):
                with contextlib.suppress(RuntimeError):
                    coroutine.close()

    def _come_to_timers(self) -> None:
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not self._ready:
            if not timers:
                waiting = [task.get_name() for task in self.tasks if not task.done()]
                raise Stuck(f"nothing will ever happen again; these wait: {', '.join(waiting)}")
            self.now_us = max(self.now_us, timers[0][0])
        while timers and timers[0][0] <= self.now_us:
            self._ready.append(heapq.heappop(timers)[2])

    # -- what asyncio asks of a loop

    def time(self) -> float:
        return self.now_us / 1_000_000

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self._call_at_us(self.now_us + round(delay * 1_000_000), callback, args, context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self._call_at_us(round(when * 1_000_000), callback, args, context)

    def _call_at_us(
        self, when_us: int, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when_us / 1_000_000, callback, args, self, context)
        self._timers_count += 1
        heapq.heappush(self._timers, (when_us, self._timers_count, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer is dropped when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        name = name or f"{coro.__qualname__} {len(self.tasks)}"
        task: asyncio.Task[T] = asyncio.Task(coro, loop=self, name=name, context=context)
        self.tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Run it here and now: a thread would make the order depend on the machine."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.problems.append(f"{context.get('message')}: {context.get('exception')!r}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._is_running

    def is_closed(self) -> bool:
        return False


class VirtualClock:
    """`palyra.engine.clock.Clock` over a virtual loop; its wall time can be set, as an operator or NTP does."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._offset_us = T0_US
        self._asleep_us = 0

    def now_us(self) -> int:
        return self._loop.now_us + self._offset_us

    def monotonic_us(self) -> int:
        return self._loop.now_us

    def asleep_us(self) -> int:
        return self._asleep_us

    def step(self, by_ms: int) -> None:
        """Set the wall clock forward or back."""
        self._offset_us += by_ms * 1_000

    def suspend(self, for_ms: int) -> None:
        """Put the machine to sleep: the wall clock goes on, monotonic time stands still."""
        self._offset_us += for_ms * 1_000
        self._asleep_us += for_ms * 1_000
