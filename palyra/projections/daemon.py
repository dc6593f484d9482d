"""The daemon's timeline: boots, how they ended, and loops that crashed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from palyra.events import daemon, loops
from palyra.events.base import Recorded
from palyra.projections.base import Chapter
from palyra.units import US_PER_S

if TYPE_CHECKING:
    from palyra.projections.state import State

BOOTS_COUNT = 50
#: A clock that is set by more than this is worth a look by a person.
CLOCK_STEP_MIN_US = 60 * US_PER_S


class Boot(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One process that wrote the journal; `ended` is "", clean or crashed."""

    boot_id: str
    release: str
    pid: int
    started_us: int
    position: int
    ready_us: int | None = None
    draining_us: int | None = None
    stopped_us: int | None = None
    ended: str = ""
    recovered: dict[str, int] = {}
    forced_count: int = 0


class LoopStanding(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What happened to one supervised loop in this boot."""

    crashes_count: int = 0
    restarts_count: int = 0
    last_error: str = ""
    slow_lane: bool = False
    crashed_us: int = 0
    restarted_us: int = 0


class ClockStep(msgspec.Struct, frozen=True, kw_only=True):
    """The last time that somebody set the clock by much; `at_us` moves with later steps."""

    at_us: int
    step_us: int
    position: int


class DaemonState(msgspec.Struct, kw_only=True):
    """Newest boots, oldest first; loops of the current one."""

    boots: list[Boot] = []
    loops: dict[str, LoopStanding] = {}
    clock_step: ClockStep | None = None


CHAPTER = Chapter()


def current_boot(state: State) -> Boot | None:
    """Return the newest boot, or None in a journal that no daemon wrote."""
    return state.daemon.boots[-1] if state.daemon.boots else None


@CHAPTER.on(daemon.DaemonStarted)
def _started(state: State, recorded: Recorded, body: daemon.DaemonStarted) -> None:
    boots = state.daemon.boots
    if boots and not boots[-1].ended:
        boots[-1].ended = "crashed"
    boot = Boot(
        boot_id=body.boot_id,
        release=body.release,
        pid=body.pid,
        started_us=recorded.recorded_at_us,
        position=recorded.position,
    )
    state.daemon.boots = [*boots[-(BOOTS_COUNT - 1) :], boot]
    state.daemon.loops = {}


@CHAPTER.on(daemon.DaemonReady)
def _ready(state: State, recorded: Recorded, body: daemon.DaemonReady) -> None:
    boot = current_boot(state)
    if boot is not None:
        boot.ready_us, boot.recovered = recorded.recorded_at_us, body.recovered


@CHAPTER.on(daemon.DaemonDraining)
def _draining(state: State, recorded: Recorded, body: daemon.DaemonDraining) -> None:
    boot = current_boot(state)
    if boot is not None:
        boot.draining_us = recorded.recorded_at_us


@CHAPTER.on(daemon.DaemonStopped)
def _stopped(state: State, recorded: Recorded, body: daemon.DaemonStopped) -> None:
    boot = current_boot(state)
    if boot is not None:
        boot.stopped_us, boot.ended, boot.forced_count = recorded.recorded_at_us, "clean", body.forced_count


@CHAPTER.on(loops.LoopCrashed)
def _loop_crashed(state: State, recorded: Recorded, body: loops.LoopCrashed) -> None:
    standing = state.daemon.loops.setdefault(body.loop_name, LoopStanding())
    standing.crashes_count, standing.slow_lane = body.crashes_count, body.slow_lane
    standing.last_error, standing.crashed_us = body.error_code, recorded.recorded_at_us


@CHAPTER.on(loops.LoopRestarted)
def _loop_restarted(state: State, recorded: Recorded, body: loops.LoopRestarted) -> None:
    standing = state.daemon.loops.setdefault(body.loop_name, LoopStanding())
    standing.restarts_count += 1
    standing.restarted_us = recorded.recorded_at_us


@CHAPTER.on(daemon.DaemonClockStepped)
def _clock_stepped(state: State, recorded: Recorded, body: daemon.DaemonClockStepped) -> None:
    if body.cause != "step":
        return
    own = state.daemon
    for standing in own.loops.values():
        standing.crashed_us += body.step_us if standing.crashed_us else 0
        standing.restarted_us += body.step_us if standing.restarted_us else 0
    if abs(body.step_us) > CLOCK_STEP_MIN_US:
        own.clock_step = ClockStep(at_us=body.wall_after_us, step_us=body.step_us, position=recorded.position)
    elif own.clock_step is not None:
        own.clock_step = msgspec.structs.replace(own.clock_step, at_us=own.clock_step.at_us + body.step_us)
