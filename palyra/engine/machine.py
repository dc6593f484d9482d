"""What the machine does to the daemon: its clock is set or sleeps, its disk fills.

Both are looked at every few seconds and recorded when they change. Below its mark the journal's disk takes no new
run, so that open ones can be settled; a disk that is full all the same gets the ballast back, a file that holds
space for the facts which close everything. Service returns by itself when there is room again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from palyra.decisions.incidents import Stall, report, resolve
from palyra.engine.clock import due_us
from palyra.engine.core import Core
from palyra.errors import Refusal
from palyra.events.base import Draft
from palyra.events.daemon import DaemonResourceLow
from palyra.projections.incidents import open_incidents
from palyra.units import ms_to_us

LOOK_MS = 15_000
#: Room counts as being there again at 1.2 times the mark, after this long.
ROOM_AGAIN_MS = 60_000
_CHUNK_BYTES = 1 << 20


def free_bytes(directory: Path) -> int:
    """Return what we may still write on a directory's disk; nothing on one that cannot be asked."""
    try:
        status = os.statvfs(directory)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize


class Room:
    """The room on the journal's disk, and the ballast that is kept on it. `free` says what is left, in bytes."""

    def __init__(
        self, core: Core, ballast: Path, free: Callable[[], int], *, min_free_bytes: int, ballast_bytes: int
    ) -> None:
        self._core = core
        self._ballast = ballast
        self._free = free
        #: The mark: below it no run is taken.
        self.min_free_bytes = min_free_bytes
        self._ballast_bytes = ballast_bytes
        self._enough_since_us: int | None = None
        #: Told how much is left, in bytes, when the mark is crossed.
        self.on_short: Callable[[int], None] = lambda left_bytes: None
        core.make_room = self.make_room

    async def look(self) -> None:
        """Compare what is left with the mark; record where it was crossed. Raises `JournalUnwritable`."""
        left_bytes = self._free()
        if left_bytes < self.min_free_bytes:
            await self._run_short(left_bytes)
        elif 10 * left_bytes < 12 * self.min_free_bytes:
            self._enough_since_us = None
        elif await self._has_room_again():
            await asyncio.to_thread(self._hold_ballast)

    async def make_room(self) -> None:
        """Let the ballast go if the disk is why the journal has failed."""
        if self._free() < self.min_free_bytes:
            self._core.shortage = self._shortage()
            with contextlib.suppress(OSError):
                self._ballast.unlink(missing_ok=True)

    async def _run_short(self, left_bytes: int) -> None:
        self._core.shortage, self._enough_since_us = self._shortage(), None
        if not self._core.is_writable:
            return
        with self._core.batch() as batch:
            incident_id = self._core.ids.ulid(batch.now_us)
            incident = report(self._core.state, _LOW, incident_id=incident_id, now_us=batch.now_us)
            if incident:
                low = DaemonResourceLow(resource="disk", have_count=left_bytes, floor_count=self.min_free_bytes)
                batch.add([Draft("daemon", low), *incident])
                self.on_short(left_bytes)
        await batch.durable()

    async def _has_room_again(self) -> bool:
        """Take runs again once there has been room for a while; return whether runs are taken."""
        now_us = self._core.clock.monotonic_us()
        if self._enough_since_us is None:
            self._enough_since_us = now_us
        is_low = any(incident.kind == _LOW.kind for incident in open_incidents(self._core.state))
        if self._core.shortage is None and not is_low:
            return True
        if now_us - self._enough_since_us < ms_to_us(ROOM_AGAIN_MS) or not self._core.is_writable:
            return False
        with self._core.batch() as batch:
            batch.add(resolve(self._core.state, _LOW, now_us=batch.now_us))
        await batch.durable()
        self._core.shortage = None
        return True

    def _shortage(self) -> Refusal:
        message = (
            f"The journal's disk has less than {self.min_free_bytes >> 20} MiB left, and no new request is taken"
            " that could not be recorded. Free some space; that is noticed by itself."
        )
        return Refusal(code="journal_unwritable", message=message, retry_after_ms=ROOM_AGAIN_MS)

    def _hold_ballast(self) -> None:
        """Make the ballast as large as it should be; one that does not fit is left out until the next look."""
        with contextlib.suppress(OSError):
            if not self._ballast_bytes:
                self._ballast.unlink(missing_ok=True)
            elif not self._ballast.exists() or self._ballast.stat().st_size < self._ballast_bytes:
                _fill(self._ballast, self._ballast_bytes)


_LOW = Stall(kind="disk_low", stage="suspect", subject_kind="disk", subject_id="journal")


def _fill(path: Path, size_bytes: int) -> None:
    """Make a file that really takes up its size, whole or not at all."""
    unfinished = path.with_name(f"{path.name}.new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size_bytes)
            else:  # macOS; noise, which no file system can store smaller
                for _ in range(0, size_bytes, _CHUNK_BYTES):
                    file.write(os.urandom(min(_CHUNK_BYTES, size_bytes)))
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


class MachineChore:
    """The look at clock and disk; without `room` the journal is not on a disk."""

    def __init__(self, core: Core, room: Room | None) -> None:
        self._core = core
        self._room = room
        self._done_us = 0

    def due_at_us(self) -> int:
        return due_us(self._done_us, ms_to_us(LOOK_MS), self._core.clock.now_us())

    async def do(self) -> None:
        self._core.watch_clock()
        if self._room is not None:
            await self._room.look()
        self._done_us = self._core.clock.now_us()
