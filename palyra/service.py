"""The daemon as a process: signals, logs and an exit status around `palyra.app.Daemon`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import signal
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from palyra.app import Daemon
from palyra.config.load import LoadedConfig
from palyra.daemon.logs import Log
from palyra.readonly import ReadOnlyDaemon
from palyra.telling import log_file_of

AnyDaemon = TypeVar("AnyDaemon", Daemon, ReadOnlyDaemon)


def serve(load: Callable[[], LoadedConfig], announce: Callable[[Daemon], None], *, upgrade: bool = True) -> int:
    """Run a daemon until a signal ends it; returns the exit status. `upgrade=False` refuses an older journal.

    The first SIGTERM or SIGINT drains, the second cancels and settles what is still open, the third ends at once.
    SIGHUP has the configuration read again, by `load`. `announce` is told when the daemon is ready.
    """
    return _run(load(), functools.partial(Daemon, upgrade=upgrade, load=load), announce)


def serve_read_only(loaded: LoadedConfig, announce: Callable[[ReadOnlyDaemon], None]) -> int:
    """Run a daemon that writes nothing until a signal ends it; returns the exit status."""
    return _run(loaded, ReadOnlyDaemon, announce)


def _run(loaded: LoadedConfig, make: Callable[..., AnyDaemon], announce: Callable[[AnyDaemon], None]) -> int:
    _fill_standard_descriptors()
    _dump_no_core()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(loaded, make, announce))


def _fill_standard_descriptors() -> None:
    """Open what is closed of input, output and error: uvloop aborts when it closes a socket of such a number."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)


def _dump_no_core() -> None:
    """Let a crash write no picture of the memory, where the system can: the secrets in use are in it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, highest = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, highest))


async def _serve(
    loaded: LoadedConfig, make: Callable[..., AnyDaemon], announce: Callable[[AnyDaemon], None]
) -> int:
    settings = loaded.config.observability
    log = Log(
        level=settings.log_level,
        log_format=settings.log_format,
        file=log_file_of(settings),
    )
    log.become_default()
    daemon = make(loaded, log=log)
    signals = _Signals(daemon, log)
    try:
        await daemon.start()
        return await _serve_until_stopped(daemon, signals, log, announce)
    finally:
        signals.remove()
        log.close()


async def _serve_until_stopped(
    daemon: AnyDaemon, signals: _Signals, log: Log, announce: Callable[[AnyDaemon], None]
) -> int:
    """Serve until a signal or a fault; the daemon is stopped in either case."""
    asked = asyncio.ensure_future(signals.stop.wait())
    try:
        announce(daemon)
        # What start-up made lives as long as the process; the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        await asyncio.wait([asked, daemon.finished], return_when=asyncio.FIRST_COMPLETED)
    finally:
        asked.cancel()
        is_fault = not signals.stop.is_set()
        if isinstance(daemon, Daemon):
            log.info("stopping", open_runs=len(daemon.runs.open))
        try:
            await daemon.stop("fault" if is_fault else "signal", hurry=signals.hurry)
        except Exception as error:
            is_fault = True
            log.error("daemon_failed", exc_info=error)
        else:
            log.info("stopped")
    return 1 if is_fault else 0


class _Signals:
    """What the process is asked by signals. Installed before trio's guest starts."""

    def __init__(self, daemon: Daemon | ReadOnlyDaemon, log: Log) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        self._daemon = daemon
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._stopping = (signal.SIGTERM, signal.SIGINT)
        self._reloading: asyncio.Task[None] | None = None
        for number in self._stopping:
            self._loop.add_signal_handler(number, self._on_stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        self._loop.add_signal_handler(signal.SIGUSR1, self._on_stacks)

    def _on_stop(self) -> None:
        if self.hurry.is_set():
            os._exit(130)
        (self.hurry if self.stop.is_set() else self.stop).set()

    def _on_reload(self) -> None:
        if isinstance(self._daemon, Daemon) and (self._reloading is None or self._reloading.done()):
            self._reloading = self._loop.create_task(self._daemon.reload_and_tell(), name="reload")

    def _on_stacks(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            self._log.info("task_stack", loop="asyncio", task=task.get_name(), stack=_stack_of(task))
        for name, text in self._daemon.loop_stacks():
            self._log.info("task_stack", loop="trio", task=name, stack=text)

    def remove(self) -> None:
        for number in (*self._stopping, signal.SIGHUP, signal.SIGUSR1):
            self._loop.remove_signal_handler(number)


def _stack_of(task: asyncio.Task[Any]) -> str:
    """Return where a task stands, down to what it waits for; asyncio itself tells the outermost frame alone."""
    frames: list[tuple[FrameType, int]] = []
    awaited: Any = task.get_coro()
    while frame := getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None):
        frames.append((frame, frame.f_lineno))
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return "".join(traceback.StackSummary.extract(iter(frames)).format())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's, where it is installed (extra `speed`)."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
