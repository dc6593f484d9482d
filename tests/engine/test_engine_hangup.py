"""A child process whose daemon is gone."""

from __future__ import annotations

import signal
import subprocess
import sys

WORK = """
import re, sys
from palyra.engine.hangup import ending_with, watch
watch(sys.stdin.buffer)
asked = sys.stdin.buffer.readline()
with ending_with(sys.stdin.buffer):
    print("begun", flush=True)
    {work}
print("ended", flush=True)
sys.stdin.buffer.readline()
"""
#: One call that takes longer than anybody lives, and gives no thread a turn.
ENDLESS = 're.fullmatch(rb"(a+)+b", b"a" * 64)'


def child(work: str) -> subprocess.Popen[bytes]:
    made = subprocess.Popen(
        [sys.executable, "-c", WORK.format(work=work)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert made.stdin is not None
    made.stdin.write(b"work\n")
    made.stdin.flush()
    return made


def test_work_ends_with_the_input() -> None:
    """A child that cannot look is ended by the kernel."""
    with child(ENDLESS) as working:
        assert working.stdin is not None
        assert working.stdout is not None
        assert working.stdout.readline() == b"begun\n"
        working.stdin.close()
        assert working.wait(timeout=30) == -signal.SIGIO


def test_work_does_not_begin_without_an_input() -> None:
    """What ended before nobody would have signalled again."""
    with child(ENDLESS) as working:
        assert working.stdin is not None
        working.stdin.close()
        assert working.wait(timeout=30) in (0, -signal.SIGIO)


def test_a_child_that_waits_is_not_disturbed() -> None:
    """What comes between two pieces of work is the next question, and at last the end."""
    with child("pass") as waiting:
        assert waiting.stdin is not None
        assert waiting.stdout is not None
        assert (waiting.stdout.readline(), waiting.stdout.readline()) == (b"begun\n", b"ended\n")
        waiting.stdin.write(b"more\n")
        waiting.stdin.close()
        assert waiting.wait(timeout=30) == 0
