"""The arithmetic of loops that fail: back-off, window, slow lane, patience."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra.decisions.loops import CRASH_WINDOW_US, Restart, next_start, recent_count, retry_ms
from palyra.units import US_PER_S

NOW_US = 1_800_000_000 * US_PER_S
instants = st.lists(st.integers(NOW_US - 2 * CRASH_WINDOW_US, NOW_US), max_size=12).map(sorted)


@pytest.mark.parametrize(
    ("crashes_count", "backoff_ms"), [(0, 0), (1, 1_000), (2, 2_000), (3, 4_000), (4, 8_000), (5, 16_000)]
)
def test_backoff_doubles_with_each_recent_crash(crashes_count: int, backoff_ms: int) -> None:
    """Up to the fifth crash in the window the wait is 1 s doubled; without a recent crash there is none."""
    restart = next_start([NOW_US] * crashes_count, NOW_US)
    assert restart == Restart(crashes_count=crashes_count, backoff_ms=backoff_ms, slow_lane=False)


def test_the_sixth_crash_sends_a_loop_to_the_slow_lane() -> None:
    """Six crashes within 600 s: one start in 600 s from then on."""
    crashes_us = [NOW_US - n * US_PER_S for n in reversed(range(6))]
    assert next_start(crashes_us, NOW_US) == Restart(crashes_count=6, backoff_ms=600_000, slow_lane=True)


def test_a_crash_is_forgotten_after_exactly_the_window() -> None:
    """600 s without a crash empty the count, one microsecond less does not."""
    assert recent_count([NOW_US], NOW_US + CRASH_WINDOW_US - 1) == 1
    assert recent_count([NOW_US], NOW_US + CRASH_WINDOW_US) == 0


@settings(max_examples=100)
@given(crashes_us=instants)
def test_one_more_crash_never_shortens_the_wait(crashes_us: list[int]) -> None:
    """The wait grows with the crashes, and only the slow lane waits longer than a minute."""
    before, after = next_start(crashes_us, NOW_US), next_start([*crashes_us, NOW_US], NOW_US)
    assert after.crashes_count == before.crashes_count + 1
    assert after.backoff_ms >= before.backoff_ms
    assert after.slow_lane == (after.backoff_ms > 60_000) == (after.crashes_count >= 6)


def test_patience_with_refusals_doubles_up_to_half_a_minute() -> None:
    """1, 2, 4, 8, 16 and then 30 s for ever, however long the refusals go on."""
    assert [retry_ms(n) for n in range(8)] == [0, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]
    assert retry_ms(100_000) == 30_000
