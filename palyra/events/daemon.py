"""The daemon's life: boots, readiness, drains, ends, and what the machine does to it. Stream `daemon`."""

from __future__ import annotations

from typing import Literal

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


class DaemonClockStepped(Fact, tag="daemon.clock_stepped", frozen=True, kw_only=True):
    """The wall clock advanced otherwise than time passed; recorded before anything that is stamped after it."""

    #: suspend: the machine slept and the clock is right; step: somebody set the clock.
    cause: Literal["suspend", "step"]
    wall_before_us: int
    wall_after_us: int
    #: Time that passed between the two readings while the machine was awake.
    monotonic_elapsed_us: int

    @property
    def step_us(self) -> int:
        """By how much the wall clock left the time that passed; negative where it was set back."""
        return self.wall_after_us - self.wall_before_us - self.monotonic_elapsed_us


class DaemonResourceLow(Fact, tag="daemon.resource_low", frozen=True, kw_only=True):
    """Something that the daemon cannot do without is running out; no new run is taken until there is more."""

    resource: Literal["disk"]
    #: What is left and what must be left: bytes of the journal's disk.
    have_count: int
    floor_count: int
