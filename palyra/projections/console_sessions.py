"""Who is logged in at the console; nobody survives a start, for what proves a session is in memory only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from palyra.events import console_sessions, daemon
from palyra.events.base import Recorded
from palyra.projections.base import Chapter

if TYPE_CHECKING:
    from palyra.projections.state import State


class ConsoleSession(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One login."""

    session_id: str
    principal_id: str
    key_id: str = ""
    how: str
    peer_class: str
    opened_us: int


class ConsoleSessionsState(msgspec.Struct, kw_only=True):
    """Open sessions by id, oldest first."""

    open: dict[str, ConsoleSession] = {}


CHAPTER = Chapter()


@CHAPTER.on(console_sessions.ConsoleSessionOpened)
def _opened(state: State, recorded: Recorded, body: console_sessions.ConsoleSessionOpened) -> None:
    session_id = recorded.stream[8:]
    state.console_sessions.open[session_id] = ConsoleSession(
        session_id=session_id,
        principal_id=body.principal_id,
        key_id=body.key_id,
        how=body.how,
        peer_class=body.peer_class,
        opened_us=recorded.recorded_at_us,
    )


@CHAPTER.on(console_sessions.ConsoleSessionEnded)
def _ended(state: State, recorded: Recorded, body: console_sessions.ConsoleSessionEnded) -> None:
    state.console_sessions.open.pop(recorded.stream[8:], None)
    state.streams.pop(recorded.stream, None)


@CHAPTER.on(daemon.DaemonStarted)
def _started(state: State, recorded: Recorded, body: daemon.DaemonStarted) -> None:
    for session_id in state.console_sessions.open:
        state.streams.pop(f"session-{session_id}", None)
    state.console_sessions.open.clear()
