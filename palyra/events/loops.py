"""Supervised loops that died and were started again. Stream `daemon`."""

from __future__ import annotations

from typing import Literal

from palyra.events.base import Fact


class LoopCrashed(Fact, tag="loop.crashed", frozen=True, kw_only=True):
    """A loop ended although it should not."""

    boot_id: str
    loop_name: str
    #: Type of the exception, or `returned`.
    error_code: str
    #: `module:line` of its innermost frame.
    error_place: str = ""
    crashes_count: int
    backoff_ms: int
    #: Past the intensity limit: one start per ten minutes.
    slow_lane: bool = False


class LoopRestarted(Fact, tag="loop.restarted", frozen=True, kw_only=True):
    """The keeper started it again."""

    boot_id: str
    loop_name: str
    by: Literal["keeper", "operator"] = "keeper"
