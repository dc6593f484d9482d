"""The kernel lock: one writer, named to whoever comes second, alive exactly as long as it holds the lock."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import palyra
from palyra.errors import JournalLocked
from palyra.journal.lock import Holder, JournalLock, LockState, read_lock, this_process

CHECKOUT = Path(palyra.__file__).parents[1]
STARTED_AT_US = 1_795_000_000_000_000

CHILD = """
import sys
from pathlib import Path
import msgspec
from palyra.journal.lock import JournalLock, this_process

holder = this_process(release="9.9.9", started_at_us=1_795_000_000_000_000)
with JournalLock.acquire(Path(sys.argv[1]), holder) as lock:
    lock.describe(msgspec.structs.replace(holder, http="http://127.0.0.1:7142"))
    print(holder.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A lock file that does not exist yet."""
    return tmp_path / "journal.lock"


@pytest.fixture
def other(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, path],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert int(process.stdout.readline()) == process.pid
    yield process
    process.kill()
    process.communicate()


def me() -> Holder:
    """Describe the test's process."""
    return this_process(release="0.1.0", started_at_us=STARTED_AT_US)


def test_second_process_is_refused_and_told_who_is_first(path: Path, other: subprocess.Popen[str]) -> None:
    """The error names pid, since when, and the URL of the holder, whose text stays as it was."""
    before = path.read_bytes()
    with pytest.raises(JournalLocked) as caught:
        JournalLock.acquire(path, me())
    message = str(caught.value)
    assert f"Process {other.pid}" in message
    assert "2026-11-18 11:06:40 UTC" in message
    assert "http://127.0.0.1:7142" in message
    assert caught.value.hint
    assert caught.value.exit_code == 7
    assert path.read_bytes() == before


def test_looking_does_not_disturb(path: Path, other: subprocess.Popen[str]) -> None:
    """`read_lock` says who holds it, any number of times, and the holder keeps it."""
    for _ in range(3):
        state = read_lock(path)
        assert state.is_locked
        assert state.holder is not None
        assert (state.holder.pid, state.holder.release) == (other.pid, "9.9.9")
    with pytest.raises(JournalLocked):
        JournalLock.acquire(path, me())


def test_killed_process_holds_nothing(path: Path, other: subprocess.Popen[str]) -> None:
    """After kill -9 the text is stale and the lock is free: liveness is the lock, not the text."""
    other.kill()
    other.communicate()
    state = read_lock(path)
    assert not state.is_locked
    assert state.holder is not None
    assert state.holder.pid == other.pid
    with JournalLock.acquire(path, me()) as lock:
        assert read_lock(path) == LockState(True, me())
        lock.release()
    assert read_lock(path) == LockState(False, None)


def test_process_that_ends_lets_go(path: Path, other: subprocess.Popen[str]) -> None:
    """A release leaves an empty file, never none."""
    other.communicate("")
    assert read_lock(path) == LockState(False, None)
    assert path.read_bytes() == b""


def test_same_process_is_refused_too(path: Path) -> None:
    """Two daemons in one program cannot share a journal."""
    with JournalLock.acquire(path, me()):
        with pytest.raises(JournalLocked, match=f"Process {os.getpid()}"):
            JournalLock.acquire(path, me())
    JournalLock.acquire(path, me()).release()


def test_text_is_for_people(path: Path) -> None:
    """The file is private JSON with the holder's words; it can be written again, but not after the release."""
    lock = JournalLock.acquire(path, me())
    long, short = me(), Holder(pid=1, release="x", started_at_us=2)
    assert msgspec.json.decode(path.read_bytes(), type=Holder) == long
    lock.describe(short)
    assert msgspec.json.decode(path.read_bytes()) == {"pid": 1, "release": "x", "started_at_us": 2}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lock.release()
    lock.release()
    with pytest.raises(ValueError, match="released"):
        lock.describe(long)


def test_holder_without_words_is_still_a_holder(path: Path) -> None:
    """A text that is missing or half written never makes a lock free."""
    with JournalLock.acquire(path, me()):
        path.write_bytes(b'{"pid":1')
        assert read_lock(path) == LockState(True, None)
        with pytest.raises(JournalLocked, match="Another process"):
            JournalLock.acquire(path, me())


def test_no_file_is_no_lock(path: Path) -> None:
    """Looking at a journal that never ran makes no file."""
    assert read_lock(path) == LockState(False, None)
    assert not path.exists()
