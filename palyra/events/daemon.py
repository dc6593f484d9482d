"""The daemon's life: boots, readiness, drains, ends. Stream `daemon`."""

from __future__ import annotations

from palyra.events.base import Fact


class DaemonStarted(Fact, tag="daemon.started", frozen=True, kw_only=True):
    """A process took the journal; everything open of an older boot is closed before anything listens."""

    boot_id: str
    release: str
    python: str
    sqlite: str
    config_generation: int
    pid: int


class DaemonReady(Fact, tag="daemon.ready", frozen=True, kw_only=True):
    """The daemon listens."""

    boot_id: str
    #: What boot recovery closed, by kind: runs, attempts, heartbeats, incidents.
    recovered: dict[str, int] = {}
    #: From process start to here.
    took_ms: int = 0


class DaemonDraining(Fact, tag="daemon.draining", frozen=True, kw_only=True):
    """New runs are refused; open ones may finish until the deadline."""

    boot_id: str
    reason: str
    deadline_us: int


class DaemonStopped(Fact, tag="daemon.stopped", frozen=True, kw_only=True):
    """A clean end; a boot without it ended in a crash."""

    boot_id: str
    #: Runs that did not end by themselves.
    forced_count: int = 0
