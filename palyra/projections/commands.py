"""Command keys: what a repeated command did the first time. Kept for 24 h of recorded time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from palyra.events import daemon
from palyra.events.base import Recorded
from palyra.limits import COMMAND_KEY_TTL_US
from palyra.projections.base import Chapter

if TYPE_CHECKING:
    from palyra.projections.state import State


class CommandMark(msgspec.Struct, frozen=True, kw_only=True):
    """Where a command's first event stands."""

    position: int
    recorded_at_us: int
    stream: str


class CommandsState(msgspec.Struct, kw_only=True):
    """Marks by key, oldest first."""

    by_key: dict[str, CommandMark] = {}


CHAPTER = Chapter()


def remember(state: State, recorded: Recorded) -> None:
    """Let go of keys that are too old, and keep the key of a command's first event."""
    marks = state.commands.by_key
    while marks:
        oldest = next(iter(marks))
        if marks[oldest].recorded_at_us >= recorded.recorded_at_us - COMMAND_KEY_TTL_US:
            break
        del marks[oldest]
    if recorded.command_key not in marks:
        marks[recorded.command_key] = CommandMark(
            position=recorded.position, recorded_at_us=recorded.recorded_at_us, stream=recorded.stream
        )


@CHAPTER.on(daemon.DaemonClockStepped)
def _clock_stepped(state: State, recorded: Recorded, body: daemon.DaemonClockStepped) -> None:
    """A clock that is set forward a day must not make a repeat look new, and spend twice."""
    if body.cause == "step":
        marks = state.commands.by_key
        for key, mark in marks.items():
            marks[key] = msgspec.structs.replace(mark, recorded_at_us=mark.recorded_at_us + body.step_us)
