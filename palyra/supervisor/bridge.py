"""The bridge between the two loops: trio runs as a guest on asyncio's thread, calls cross in both directions.

This is the only file besides `app.py` that knows both libraries, and it knows nothing else: no journal, no engine,
no loop of the supervisor. It must never hold up asyncio, and never leave a task, a future or a guest behind.

What a call that crosses may rely on:

- A function and its arguments cross, never a coroutine: nothing leaks when the caller is already cancelled.
- Cancelling the caller cancels the callee and *waits for its clean-up*. asyncio cancels once, trio by level: an
  asyncio callee that swallows its cancellation keeps its trio caller waiting, so effects have own timeouts.
- A result that is ready wins over a deadline of trio; an exception that the callee raises while it is cancelled
  wins over the cancellation.
- `CancelledError` never reaches trio code and `trio.Cancelled` never asyncio code. A callee that was cancelled by
  somebody else, or shut down together with its side, is `CrossingClosed`.
- Exceptions keep their type and both sides' frames; context variables cross.

A thread can have one trio run (trio's rule), so the guests of a loop share theirs, each in a scope of its own: what
one of them dies of is its own death. No signal handler is installed; interrupts are the host's business.

Synchronous trio calls (`Event.set`, `CancelScope.cancel`) are legal from asyncio code and cost no crossing.
"""

from __future__ import annotations

import asyncio
import math
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Self, TypeVar, TypeVarTuple
from weakref import WeakValueDictionary

import msgspec
import outcome
import structlog
import trio

from palyra.errors import PalyraError
from palyra.units import ms_to_s

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: `run_aio` calls under way at once; supervision needs few, and a burst must not flood the request path.
IN_FLIGHT_MAX_COUNT = 64
#: Calls that may wait for one of those places.
WAITING_MAX_COUNT = 256
#: A cancelled `run_aio` call that takes longer than this for its clean-up is counted and logged.
ORPHAN_AFTER_MS = 5_000
#: Durations kept for the percentile.
DURATIONS_KEPT_COUNT = 1_024

logger = structlog.get_logger(__name__)


class CrossingClosed(PalyraError):
    """The other loop is shut down, or the call was cancelled there by somebody else."""

    code = "bridge_closed"


class BridgeFull(PalyraError):
    """Too many calls wait to cross to the other loop."""

    code = "bridge_full"


class BridgeTimeout(PalyraError):
    """The call to the other loop took too long and was cancelled."""

    code = "bridge_timeout"


class BridgeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The bridge in figures, both directions together, since its start."""

    #: Calls under way right now, and the most at any instant.
    in_flight: int
    in_flight_max: int
    #: Calls that ended, in whatever way.
    crossings: int
    #: Calls that ended by cancellation, timeouts included.
    cancelled: int
    timeouts: int
    #: Cancelled calls whose clean-up took longer than `ORPHAN_AFTER_MS`.
    orphaned: int
    #: 99th percentile of the last calls' durations, what they called included; None before the first.
    p99_us: int | None


class _SharedRun:
    """The trio run of a thread. Guests come and go; it ends with the last of them."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.finished: asyncio.Future[outcome.Outcome[None]] = loop.create_future()
        self._guests_count = 0
        self._has_none_left = trio.Event()
        on_interrupt = signal.getsignal(signal.SIGINT)
        trio.lowlevel.start_guest_run(
            self._has_none_left.wait,
            done_callback=self._end,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=loop.call_soon,
            host_uses_signal_set_wakeup_fd=True,
        )
        if signal.getsignal(signal.SIGINT) is not on_interrupt:  # trio has put its own in place of Python's
            signal.signal(signal.SIGINT, on_interrupt)

    @staticmethod
    async def join(guest: Callable[[], Awaitable[object]]) -> _SharedRun:
        """Start a guest in this thread's run, which is begun if there is none."""
        thread_id = threading.get_ident()
        while (run := _runs.get(thread_id)) is not None and run.is_ending:
            await asyncio.wait([run.finished])
        if run is None:
            run = _runs[thread_id] = _SharedRun()
        run._guests_count += 1
        trio.lowlevel.spawn_system_task(guest)
        return run

    def leave(self) -> None:
        """Count a guest out. Called in trio."""
        self._guests_count -= 1
        if not self._guests_count:
            self._has_none_left.set()

    def _end(self, result: outcome.Outcome[None]) -> None:
        _runs.pop(threading.get_ident(), None)
        self.finished.set_result(result)

    @property
    def is_ending(self) -> bool:
        return self._has_none_left.is_set()


#: By the thread's id. Something global, because trio's own run is.
_runs: WeakValueDictionary[int, _SharedRun] = WeakValueDictionary()


class TrioGuest:
    """A part of trio inside the running asyncio loop, with its own end: `async with TrioGuest() as guest`.

    Leaving the block is `stop()`. Whoever owns the process waits for `finished` beside its signals: a tree that
    crashed must end the daemon, not die silently while HTTP goes on answering.
    """

    def __init__(self) -> None:
        #: Around everything in the guest; unlike the nursery it is there before the guest has run at all.
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._slots = trio.CapacityLimiter(IN_FLIGHT_MAX_COUNT)
        self._in_flight = self._in_flight_max = 0
        self._crossings = self._cancelled = self._timeouts = self._orphaned = 0
        self._durations_us: deque[int] = deque(maxlen=DURATIONS_KEPT_COUNT)

    # Life, seen from asyncio

    async def __aenter__(self) -> Self:
        self._loop = loop = asyncio.get_running_loop()
        self._outcome: asyncio.Future[outcome.Outcome[None]] = loop.create_future()
        self._started: asyncio.Future[Any] = loop.create_future()
        self._run = await _SharedRun.join(self._live)
        self._run.finished.add_done_callback(self._end_with_run)
        try:
            waits: list[asyncio.Future[Any]] = [self._started, self._outcome]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.stop()
            raise
        if self._outcome.done():
            await self.stop()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def _live(self) -> None:
        result: outcome.Outcome[None] | None = None
        try:
            await self._root()
            result = outcome.Value(None)
        except trio.Cancelled:
            raise
        except BaseException as exc:
            result = outcome.Error(exc)
        finally:
            self._run.leave()
            if result is not None:
                self._outcome.set_result(result)
            del result  # an exception's traceback holds this frame

    async def _root(self) -> None:
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                self._started.set_result(None)
                await trio.sleep_forever()

    def _end_with_run(self, finished: asyncio.Future[outcome.Outcome[None]]) -> None:
        """Say what the guest died of where trio itself broke down around it."""
        if not self._outcome.done():
            self._outcome.set_result(finished.result())

    @property
    def finished(self) -> asyncio.Future[outcome.Outcome[None]]:
        """The outcome of all that is in it. Each access gives a future of its own: cancelling it harms nobody."""
        return asyncio.shield(self._outcome)

    async def stop(self) -> None:
        """Cancel everything in the guest, wait for it, raise what it died of.

        Survives its own cancellation (which it raises at the end): leaving the loop earlier would leave the guest
        behind. Idempotent.
        """
        self._scope.cancel()
        cancelled: asyncio.CancelledError | None = None
        while waits := [future for future in self._ends() if not future.done()]:
            try:
                await asyncio.wait(waits)
            except asyncio.CancelledError as exc:
                cancelled = exc
        try:
            result = self._outcome.result()
            if isinstance(result, outcome.Error):
                raise result.error
            if cancelled is not None:
                raise cancelled
        finally:
            del cancelled  # its traceback holds this frame

    def _ends(self) -> list[asyncio.Future[outcome.Outcome[None]]]:
        """Return what has to happen until nothing of the guest is left."""
        return [self._outcome, self._run.finished] if self._run.is_ending else [self._outcome]

    def status(self) -> BridgeStatus:
        durations_us = sorted(self._durations_us)
        return BridgeStatus(
            in_flight=self._in_flight,
            in_flight_max=self._in_flight_max,
            crossings=self._crossings,
            cancelled=self._cancelled,
            timeouts=self._timeouts,
            orphaned=self._orphaned,
            p99_us=durations_us[(len(durations_us) - 1) * 99 // 100] if durations_us else None,
        )

    def stacks(self) -> Iterator[tuple[str, str]]:
        """Yield name and stack of each task of the guest, for a person who asks why nothing moves."""
        tasks = [] if self._nursery is None else list(self._nursery.child_tasks)
        while tasks:
            task = tasks.pop()
            tasks += (child for nursery in task.child_nurseries for child in nursery.child_tasks)
            yield task.name, "".join(traceback.StackSummary.extract(task.iter_await_frames()).format())

    # asyncio -> trio

    def start_soon(self, fn: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """Start a trio task that belongs to the guest itself: what it dies of, the whole run dies of."""
        self._open_nursery().start_soon(fn, *args)

    async def run_trio(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run `fn(*args)` as a trio task; return its result or raise its exception. Called in an asyncio task."""
        nursery = self._open_nursery()
        scope = trio.CancelScope()
        result: outcome.Outcome[T] | None = None
        waiter = self._loop.create_future()  # only ours: cancelling a task cancels the future that it awaits

        async def crossing() -> None:
            nonlocal result
            try:
                with scope:
                    result = outcome.Value(await fn(*args))
            except Exception as exc:
                result = outcome.Error(exc)
            finally:
                if result is None:  # cancelled, by our scope or with the whole guest
                    result = outcome.Error(CrossingClosed())
                if not waiter.done():
                    waiter.set_result(None)

        with self._counted():
            nursery.start_soon(crossing, name=fn)
            cancelled: asyncio.CancelledError | None = None
            while result is None:
                try:
                    await waiter
                except asyncio.CancelledError as exc:
                    cancelled = exc
                    scope.cancel()
                    waiter = self._loop.create_future()
            try:
                if cancelled is not None and not _failed(result):
                    raise cancelled
                return result.unwrap()
            finally:
                del cancelled, result  # their tracebacks hold this frame

    # trio -> asyncio

    async def run_aio(
        self, fn: Callable[[*Ts], Coroutine[Any, Any, T]], *args: *Ts, timeout_ms: int | None = None
    ) -> T:
        """Run `fn(*args)` as an asyncio task; return its result or raise its exception. Called in a trio task.

        At most `IN_FLIGHT_MAX_COUNT` run at once, the others wait first come, first served, `BridgeFull` past
        `WAITING_MAX_COUNT`. `timeout_ms` counts from the call on, waiting included; then it is `BridgeTimeout`.
        A callee that calls back and forth holds one place for each of its calls.
        """
        if self._outcome.done():
            raise CrossingClosed
        await trio.lowlevel.checkpoint_if_cancelled()
        self._open_nursery()
        if not self._slots.available_tokens and self._slots.statistics().tasks_waiting >= WAITING_MAX_COUNT:
            raise BridgeFull
        with trio.move_on_after(math.inf if timeout_ms is None else ms_to_s(timeout_ms)):
            async with self._slots:
                with self._counted():
                    return await _Errand(self._loop.create_task(fn(*args)), self._count_orphan).wait()
        self._timeouts += 1
        raise BridgeTimeout

    # Both directions

    def _open_nursery(self) -> trio.Nursery:
        nursery = self._nursery
        if nursery is None or nursery.cancel_scope.cancel_called or self._scope.cancel_called:
            raise CrossingClosed
        return nursery

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._in_flight += 1
        self._in_flight_max = max(self._in_flight_max, self._in_flight)
        started_ns = time.perf_counter_ns()
        try:
            yield
        except (trio.Cancelled, asyncio.CancelledError):
            self._cancelled += 1
            raise
        finally:
            self._in_flight -= 1
            self._crossings += 1
            self._durations_us.append((time.perf_counter_ns() - started_ns) // 1_000)

    def _count_orphan(self, work: str) -> None:
        self._orphaned += 1
        logger.warning("call does not end after its cancellation", work=work, after_ms=ORPHAN_AFTER_MS)


class _Errand(Generic[T]):
    """One asyncio task that one trio task waits for; no checkpoint lies between its start and the wait."""

    def __init__(self, task: asyncio.Task[T], count_orphan: Callable[[str], None]) -> None:
        self._caller = trio.lowlevel.current_task()
        self._task = task
        self._count_orphan = count_orphan
        #: Raises the caller's `Cancelled`; there once the caller was cancelled.
        self._raise_cancel: trio.lowlevel.RaiseCancelT | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self) -> T:
        self._task.add_done_callback(self._done)
        return await trio.lowlevel.wait_task_rescheduled(self._abort)  # type: ignore[no-any-return]

    def _abort(self, raise_cancel: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        self._raise_cancel = raise_cancel
        self._timer = self._task.get_loop().call_later(
            ms_to_s(ORPHAN_AFTER_MS), self._count_orphan, getattr(self._task.get_coro(), "__qualname__", "?")
        )
        self._task.cancel()
        return trio.lowlevel.Abort.FAILED  # not over yet: `_done` wakes the caller after the clean-up

    def _done(self, task: asyncio.Task[T]) -> None:
        result: outcome.Outcome[T]
        if self._timer is not None:
            self._timer.cancel()
        if not task.cancelled():
            failure = task.exception()
            result = outcome.Value(task.result()) if failure is None else outcome.Error(failure)
        elif self._raise_cancel is not None:
            result = outcome.capture(self._raise_cancel)
        else:
            result = outcome.Error(CrossingClosed())
        trio.lowlevel.reschedule(self._caller, result)
        self.__dict__.clear()  # an exception's traceback holds us, and these would hold the exception


def _failed(result: outcome.Outcome[Any]) -> bool:
    """Did the callee raise something of its own?"""
    return isinstance(result, outcome.Error) and not isinstance(result.error, CrossingClosed)
