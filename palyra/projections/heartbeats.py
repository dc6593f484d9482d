"""The heartbeat board: work that is watched, and when it last showed life."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from palyra.events import daemon, heartbeats
from palyra.events.base import Recorded
from palyra.projections.base import Chapter

if TYPE_CHECKING:
    from palyra.projections.state import State


class Beat(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The newest beat of one piece of work."""

    work_kind: heartbeats.WorkKind
    work_id: str
    stage_code: str = ""
    started_us: int
    last_life_us: int
    progress_count: int = 0
    beats_count: int = 0
    stalls_after_ms: int
    position: int = 0


class HeartbeatsState(msgspec.Struct, kw_only=True):
    """Beats by `kind:id`."""

    board: dict[str, Beat] = {}


CHAPTER = Chapter()


def beat_key(work_kind: str, work_id: str) -> str:
    """Return the key of a piece of work on the board."""
    return f"{work_kind}:{work_id}"


def beat_stream(work_kind: str, work_id: str) -> str:
    """Return the stream of a piece of work's beats."""
    return f"beat-{work_kind}-{work_id}"


@CHAPTER.on(heartbeats.HeartbeatRecorded)
def _recorded(state: State, recorded: Recorded, body: heartbeats.HeartbeatRecorded) -> None:
    board = state.heartbeats.board
    key = beat_key(body.work_kind, body.work_id)
    beat = board.get(key)
    if beat is None:
        beat = board[key] = Beat(
            work_kind=body.work_kind,
            work_id=body.work_id,
            started_us=recorded.recorded_at_us,
            last_life_us=recorded.recorded_at_us,
            stalls_after_ms=body.stalls_after_ms,
        )
    beat.stage_code, beat.progress_count = body.stage_code, body.progress_count
    beat.last_life_us, beat.stalls_after_ms = recorded.recorded_at_us, body.stalls_after_ms
    beat.beats_count += 1
    beat.position = recorded.position


@CHAPTER.on(heartbeats.HeartbeatCleared)
def _cleared(state: State, recorded: Recorded, body: heartbeats.HeartbeatCleared) -> None:
    state.heartbeats.board.pop(beat_key(body.work_kind, body.work_id), None)
    if body.work_kind == "run":  # a loop beats again, in the same stream
        state.streams.pop(recorded.stream, None)


@CHAPTER.on(daemon.DaemonClockStepped)
def _clock_stepped(state: State, recorded: Recorded, body: daemon.DaemonClockStepped) -> None:
    for beat in state.heartbeats.board.values():
        beat.last_life_us += body.step_us
