"""Signs of life of runs that last: beats for the stall watch, comments for clients of a silent stream.

One timer looks at all open runs from time to time, so that a run which ends between two looks costs nothing. It
must never end a run; that is for whoever reads the beats.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from palyra.decisions.incidents import stalls_after_ms
from palyra.engine.core import Core
from palyra.engine.exchange import ClientGone
from palyra.events.base import Draft
from palyra.events.heartbeats import HeartbeatCleared, HeartbeatRecorded
from palyra.projections.heartbeats import beat_key, beat_stream
from palyra.projections.state import State
from palyra.units import ms_to_s, ms_to_us

if TYPE_CHECKING:
    from palyra.engine.run import RunTask

#: Looks in the shortest time that is watched for.
_LOOKS_COUNT = 8


class _Mark:
    """What was seen of one run; its time begins with the first look at it."""

    __slots__ = ("beat_sends_count", "beat_us", "beats_count", "sends_count", "sign", "silent_since_us")

    def __init__(self, now_us: int) -> None:
        self.sends_count = 0
        self.silent_since_us = now_us
        self.beats_count = 0
        self.beat_us = now_us
        self.beat_sends_count = -1
        self.sign: asyncio.Task[None] | None = None


class Watch:
    """Looks at the open runs while there are any."""

    def __init__(
        self, core: Core, open_runs: Mapping[str, RunTask], *, keepalive_ms: int, beat_every_ms: int
    ) -> None:
        self._core = core
        self._open_runs = open_runs
        self._beat_every_ms = beat_every_ms
        self._beat_every_us = ms_to_us(beat_every_ms)
        self.set_keepalive(keepalive_ms)
        self._marks: dict[str, _Mark] = {}
        self._timer: asyncio.TimerHandle | None = None

    def set_keepalive(self, keepalive_ms: int) -> None:
        """Give a sign after so much silence, from the next look on."""
        self._keepalive_us = ms_to_us(keepalive_ms)
        self._pause_s = ms_to_s(min(keepalive_ms, self._beat_every_ms)) / _LOOKS_COUNT

    def wake(self) -> None:
        """Begin to look; a run has been opened."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._pause_s, self._look)

    def forget(self, run_id: str) -> None:
        """Let go of a run that has ended."""
        mark = self._marks.pop(run_id, None)
        if mark is not None and mark.sign is not None:
            mark.sign.cancel()

    def _look(self) -> None:
        self._timer = None
        now_us = self._core.clock.monotonic_us()
        for run_id, run in self._open_runs.items():
            mark = self._marks.get(run_id)
            if mark is None:
                mark = self._marks[run_id] = _Mark(now_us)
            self._look_at(run, mark, now_us)
        if self._open_runs:
            self.wake()

    def _look_at(self, run: RunTask, mark: _Mark, now_us: int) -> None:
        sends_count = run.client.sends_count
        if sends_count != mark.sends_count:
            mark.sends_count, mark.silent_since_us = sends_count, now_us
        elif now_us - mark.silent_since_us >= self._keepalive_us:
            mark.silent_since_us = now_us
            # Nothing is told of a request that may still be refused.
            if run.client.is_waiting and not run.is_held and (mark.sign is None or mark.sign.done()):
                mark.sign = asyncio.get_running_loop().create_task(_give_sign(run))
        if now_us - mark.beat_us >= self._beat_every_us and sends_count != mark.beat_sends_count:
            mark.beats_count, mark.beat_us, mark.beat_sends_count = mark.beats_count + 1, now_us, sends_count
            self._record_beat(run.run_id, mark)

    def _record_beat(self, run_id: str, mark: _Mark) -> None:
        """Say that a run which lasts is there, and later that it advances; nobody waits for it."""
        run = self._core.state.runs.open.get(run_id)
        if run is None or not self._core.is_writable:
            return
        fact = HeartbeatRecorded(
            work_kind="run",
            work_id=run_id,
            beat_no=mark.beats_count,
            stage_code="streaming" if mark.sends_count else "waiting",
            progress_count=mark.sends_count,
            stalls_after_ms=stalls_after_ms(run),
        )
        with self._core.batch(lazy=True) as batch:
            batch.add([Draft(beat_stream("run", run_id), fact, f"run-{run_id}")])


async def _give_sign(run: RunTask) -> None:
    try:
        await run.client.give_sign()
    except ClientGone:
        run.leave()


def clear_beat(state: State, run_id: str) -> list[Draft]:
    """Return the end of a run's beats, if it had any."""
    if beat_key("run", run_id) not in state.heartbeats.board:
        return []
    cleared = HeartbeatCleared(work_kind="run", work_id=run_id, because="ended")
    return [Draft(beat_stream("run", run_id), cleared, f"run-{run_id}")]
