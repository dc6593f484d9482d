"""Heartbeats: work that lasts says that it advances. Stream `beat-<kind>-<id>`."""

from __future__ import annotations

from typing import Literal

from palyra.events.base import Fact

WorkKind = Literal["run", "loop"]


class HeartbeatRecorded(Fact, tag="heartbeat.recorded", frozen=True, kw_only=True):
    """The work advanced; written by the component that does it, lazily, at most once in 10 s."""

    work_kind: WorkKind
    work_id: str
    beat_no: int
    stage_code: str = ""
    progress_count: int = 0
    #: Silence for longer than this is suspect, for twice as long hung.
    stalls_after_ms: int


class HeartbeatCleared(Fact, tag="heartbeat.cleared", frozen=True, kw_only=True):
    """The work is no longer watched."""

    work_kind: WorkKind
    work_id: str
    because: Literal["ended", "cancelled", "recovered", "boot"]
