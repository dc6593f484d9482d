"""How a child process notices that its daemon is gone, however it went, in the midst of a long piece of work.

A child reads what it is asked, so the end of its input is the end of the daemon; but it reads only between two
pieces of work, and one call that decodes a large body gives no other thread a turn to look. So the kernel looks: it
signals whatever happens to the input, and while a child works, when nobody writes to it, that can only be its end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
from collections.abc import Iterator
from typing import BinaryIO


def watch(source: BinaryIO) -> None:
    """Have the kernel tell of everything that happens to a child's input; nothing comes of it until work begins."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    fcntl.fcntl(source, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(source, fcntl.F_SETFL, fcntl.fcntl(source, fcntl.F_GETFL) | os.O_ASYNC)


@contextlib.contextmanager
def ending_with(source: BinaryIO) -> Iterator[None]:
    """Do work that ends, and the process with it, as soon as a watched input has ended."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # which is to end
    try:
        if _has_ended(source):  # a moment ago, when nobody listened
            raise SystemExit
        yield
    finally:
        signal.signal(signal.SIGIO, signal.SIG_IGN)


def _has_ended(source: BinaryIO) -> bool:
    poll = select.poll()
    poll.register(source, 0)
    return bool(poll.poll(0))
