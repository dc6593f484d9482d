"""The daemon as a process: signals, logs and an exit status around `palyra.app.Daemon`."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path

from palyra.app import Daemon
from palyra.config.load import LoadedConfig
from palyra.daemon.logs import Log


def serve(loaded: LoadedConfig, announce: Callable[[Daemon], None]) -> int:
    """Run a daemon until a signal ends it; returns the exit status.

    The first SIGTERM or SIGINT drains, the second cancels and settles what is still open, the third ends at once.
    `announce` is told when the daemon is ready.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(loaded, announce))


async def _serve(loaded: LoadedConfig, announce: Callable[[Daemon], None]) -> int:
    settings = loaded.config.observability
    log = Log(
        level=settings.log_level,
        log_format=settings.log_format,
        file=Path(settings.log_file) if settings.log_file else None,
    )
    daemon = Daemon(loaded, log=log)
    signals = _Signals(log)
    try:
        await daemon.start()
        announce(daemon)
        # What start-up made lives as long as the process; the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        asked = asyncio.ensure_future(signals.stop.wait())
        await asyncio.wait([asked, daemon.finished], return_when=asyncio.FIRST_COMPLETED)
        is_fault = not signals.stop.is_set()
        if is_fault:
            log.error("supervision_died")
        asked.cancel()
        await daemon.stop("fault" if is_fault else "signal", hurry=signals.hurry)
        return 1 if is_fault else 0
    finally:
        signals.remove()
        log.close()


class _Signals:
    """What the process is asked by signals. Installed before trio's guest starts."""

    def __init__(self, log: Log) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._stopping = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        for number in self._stopping:
            self._loop.add_signal_handler(number, self._on_stop)
        self._loop.add_signal_handler(signal.SIGUSR1, self._on_stacks)

    def _on_stop(self) -> None:
        if self.hurry.is_set():
            os._exit(130)
        (self.hurry if self.stop.is_set() else self.stop).set()

    def _on_stacks(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            stack = io.StringIO()
            task.print_stack(file=stack)
            self._log.info("task_stack", task=task.get_name(), stack=stack.getvalue())

    def remove(self) -> None:
        for number in (*self._stopping, signal.SIGUSR1):
            self._loop.remove_signal_handler(number)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's, where it is installed (extra `speed`)."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
