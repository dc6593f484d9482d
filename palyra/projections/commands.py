"""Command keys: what a repeated command did the first time. Kept for 24 h of recorded time.

The key of a request that its client may send again ends in `#` and its generation: a request that came to nothing
frees its key, and the next one with it is another command. A mark is kept by the name before the `#`, so that the
newest generation is found at once, however old the first one is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from palyra.events import attempts, daemon, runs
from palyra.events.base import Recorded
from palyra.limits import COMMAND_KEY_TTL_US
from palyra.projections.base import Chapter
from palyra.projections.runs import Run

if TYPE_CHECKING:
    from palyra.projections.state import State

_NUMBER_MAX_CHARS = 9


class CommandMark(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """Where a command's first event stands, and what became of it if it was a request."""

    position: int
    recorded_at_us: int
    stream: str
    generation: int = 0
    #: SHA-256 of the request's body, hex.
    fingerprint: str = ""
    #: free: nothing of it can have cost anything, so that the request may be made anew.
    outcome: Literal["", "done", "free"] = ""
    #: The answer had begun to reach its client.
    reached_content: bool = False
    input_tokens: int = 0
    output_tokens: int = 0


class CommandsState(msgspec.Struct, kw_only=True):
    """Marks by name, oldest first; names of the commands of open runs by run."""

    by_key: dict[str, CommandMark] = {}
    open: dict[str, str] = {}


CHAPTER = Chapter()


def mark_of(state: State, name: str, now_us: int) -> CommandMark | None:
    """Return the newest mark of a name that still answers a repeat; not to be changed by the caller."""
    mark = state.commands.by_key.get(name)
    return None if mark is None or mark.recorded_at_us < now_us - COMMAND_KEY_TTL_US else mark


def _name_of(command_key: str) -> tuple[str, int]:
    name, _, number = command_key.rpartition("#")
    is_generation = name and number.isascii() and number.isdigit() and len(number) <= _NUMBER_MAX_CHARS
    return (name, int(number)) if is_generation else (command_key, 0)


def remember(state: State, recorded: Recorded) -> None:
    """Let go of keys that are too old, and keep the key of a command's first event, which the envelope holds."""
    marks = state.commands.by_key
    while marks:
        oldest = next(iter(marks))
        if marks[oldest].recorded_at_us >= recorded.recorded_at_us - COMMAND_KEY_TTL_US:
            break
        del marks[oldest]
    name, generation = _name_of(recorded.command_key)
    known = marks.get(name)
    if known is None or known.generation < generation:
        marks.pop(name, None)
        mark = marks[name] = CommandMark(
            position=recorded.position,
            recorded_at_us=recorded.recorded_at_us,
            stream=recorded.stream,
            generation=generation,
        )
        if isinstance(recorded.body, runs.RunAdmitted):
            mark.fingerprint = recorded.body.body_digest
            state.commands.open[recorded.stream[4:]] = name


@CHAPTER.of_run(attempts.AttemptFailed)
def _failed(state: State, recorded: Recorded, body: attempts.AttemptFailed, run: Run) -> None:
    if body.phase == "content":
        mark = _open_mark(state, run)
        if mark is not None:
            mark.reached_content = True


@CHAPTER.of_run(runs.RunCompleted)
def _completed(state: State, recorded: Recorded, body: runs.RunCompleted, run: Run) -> None:
    if state.commands.open:
        _end(state, recorded, run, has_answer=True)


@CHAPTER.of_run(runs.RunFailed, runs.RunCancelled, runs.RunRefused)
def _ended(
    state: State, recorded: Recorded, body: runs.RunFailed | runs.RunCancelled | runs.RunRefused, run: Run
) -> None:
    if state.commands.open:
        _end(state, recorded, run, has_answer=False)


def _open_mark(state: State, run: Run) -> CommandMark | None:
    name = state.commands.open.get(run.run_id)
    return None if name is None else state.commands.by_key.get(name)


def _end(state: State, recorded: Recorded, run: Run, *, has_answer: bool) -> None:
    """Note what became of a request."""
    mark = _open_mark(state, run)
    state.commands.open.pop(run.run_id, None)
    if mark is None or mark.stream != recorded.stream:
        return
    mark.input_tokens, mark.output_tokens = run.input_tokens, run.output_tokens
    has_cost = mark.reached_content or mark.input_tokens or mark.output_tokens
    mark.outcome = "done" if has_answer or has_cost else "free"


@CHAPTER.on(daemon.DaemonClockStepped)
def _clock_stepped(state: State, recorded: Recorded, body: daemon.DaemonClockStepped) -> None:
    """A clock that is set forward a day must not make a repeat look new, and spend twice."""
    if body.cause == "step":
        for mark in state.commands.by_key.values():
            mark.recorded_at_us += body.step_us
