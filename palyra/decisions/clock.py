"""The clock watch: what two readings of the machine's clocks say about the time between them."""

from __future__ import annotations

from typing import NamedTuple

from palyra.events.daemon import DaemonClockStepped
from palyra.units import US_PER_S

#: Clocks that are slewed leave each other by less than this between two looks.
STEP_MIN_US = 2 * US_PER_S


class Reading(NamedTuple):
    """The clocks at one instant."""

    wall_us: int
    #: Stands still while the machine is suspended.
    monotonic_us: int
    #: How long the machine has been suspended in all.
    asleep_us: int


def step_between(before: Reading, after: Reading) -> DaemonClockStepped | None:
    """Return the fact of a wall clock that advanced otherwise than time passed; a sleep may explain it."""
    stepped = DaemonClockStepped(
        cause="step",
        wall_before_us=before.wall_us,
        wall_after_us=after.wall_us,
        monotonic_elapsed_us=after.monotonic_us - before.monotonic_us,
    )
    if abs(stepped.step_us) <= STEP_MIN_US:
        return None
    unexplained_us = stepped.step_us - (after.asleep_us - before.asleep_us)
    if abs(unexplained_us) > STEP_MIN_US:
        return stepped
    return DaemonClockStepped(
        cause="suspend",
        wall_before_us=stepped.wall_before_us,
        wall_after_us=stepped.wall_after_us,
        monotonic_elapsed_us=stepped.monotonic_elapsed_us,
    )


def step_while_away(recorded_at_us: int, now_us: int) -> DaemonClockStepped | None:
    """Return the fact of a clock that stands before the newest event: it was set back while nobody looked."""
    if recorded_at_us - now_us <= STEP_MIN_US:
        return None
    return DaemonClockStepped(
        cause="step", wall_before_us=recorded_at_us, wall_after_us=now_us, monotonic_elapsed_us=0
    )
