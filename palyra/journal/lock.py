"""`journal.lock`: the kernel lock that makes this process the journal's one writer.

Who holds the lock is alive, who does not is not: neither the file's age nor a pid in it ever decides. The text in
the file is for people, and is read to name the holder. The file is never removed or replaced, because a lock on a
file that lost its name locks nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from palyra.errors import JournalLocked
from palyra.units import US_PER_S

LOCK_FILE = "journal.lock"

_BOOT_ID_PATH = Path("/proc/sys/kernel/random/boot_id")
#: `read_lock` holds a shared lock for an instant, so one refusal does not yet mean a writer.
_TRIES_COUNT = 5
_TRY_AGAIN_MS = 10


class Holder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who holds the lock, in words for people."""

    pid: int
    #: Tells the boots of a machine apart, where the system has such an id.
    boot_id: str = ""
    host: str = ""
    release: str
    started_at_us: int
    #: URL and address of the listeners, known after they are bound.
    http: str = ""
    grpc: str = ""
    socket: str = ""


class LockState(NamedTuple):
    """What `read_lock` saw; `holder` is None when the text is missing or half written."""

    is_locked: bool
    holder: Holder | None


def this_process(*, release: str, started_at_us: int) -> Holder:
    """Describe this process."""
    boot_id = ""
    with contextlib.suppress(OSError):
        boot_id = _BOOT_ID_PATH.read_text(encoding="ascii").strip()
    return Holder(
        pid=os.getpid(),
        boot_id=boot_id,
        host=socket.gethostname(),
        release=release,
        started_at_us=started_at_us,
    )


class JournalLock:
    """The lock, held from `acquire` to `release`, or to the end of the process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, path: Path, holder: Holder, *, timeout_ms: int = 0) -> Self:
        """Take the lock and write who we are; raises `JournalLocked` naming the process that keeps it so long."""
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            most = max(_TRIES_COUNT, timeout_ms // _TRY_AGAIN_MS)
            for tries_count in range(1, most + 1):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if tries_count == most:
                        raise _locked(_read_text(descriptor)) from None
                    time.sleep(_TRY_AGAIN_MS / 1_000)
            lock = cls(path, descriptor)
            lock.describe(holder)
        except BaseException:
            os.close(descriptor)
            raise
        return lock

    def describe(self, holder: Holder) -> None:
        """Write who we are, again once the addresses are known."""
        if self._descriptor is None:
            raise ValueError("The lock was released.")
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, msgspec.json.encode(holder) + b"\n", 0)

    def release(self) -> None:
        """Empty the file and let go of it; idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.ftruncate(descriptor, 0)
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def read_lock(path: Path) -> LockState:
    """Say whether a process holds the lock, and which; changes nothing and hinders nobody."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return LockState(False, None)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return LockState(True, _read_text(descriptor))
    else:
        return LockState(False, _read_text(descriptor))
    finally:
        os.close(descriptor)


def _read_text(descriptor: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(descriptor, 64 * 1024, 0), type=Holder)
    except msgspec.DecodeError:
        return None


def _locked(holder: Holder | None) -> JournalLocked:
    who = "Another process"
    if holder is not None:
        since = datetime.fromtimestamp(holder.started_at_us / US_PER_S, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        where = f", {holder.http}" if holder.http else ""
        who = f"Process {holder.pid} on {holder.host} (palyra {holder.release}, since {since}{where})"
    return JournalLocked(
        f"{who} writes this journal.", hint="Stop that process, or use a state directory of your own."
    )
