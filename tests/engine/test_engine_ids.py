"""Ids and clocks: the one place that asks the time and rolls dice."""

from __future__ import annotations

import pytest

from palyra.engine.clock import SystemClock
from palyra.engine.ids import Ids, SeededIds, SystemIds, encode_ulid

NOW_US = 1_700_000_000_123_456


@pytest.mark.parametrize("ids", [SystemIds(), SeededIds(1)])
def test_ulids_sort_as_they_were_made(ids: Ids) -> None:
    """Also within one millisecond, and across a clock that goes back."""
    made = [ids.ulid(NOW_US + step) for step in (0, 1, 999, 1_000, 2_000)]
    made += [ids.ulid(NOW_US + 2_000) for _ in range(500)]
    assert made == sorted(set(made))
    assert all(len(one) == 26 for one in made)


def test_ulid_begins_with_its_time() -> None:
    """The first ten characters are the milliseconds, as the specification of ULIDs writes them."""
    assert encode_ulid(1_469_918_176_385 << 80)[:10] == "01ARYZ6S41"
    assert encode_ulid((1 << 128) - 1) == "7" + "Z" * 25
    assert encode_ulid(0) == "0" * 26


def test_seeded_ids_can_be_foretold() -> None:
    """The same seed gives the same ids and the same dice."""
    one, other = SeededIds(7), SeededIds(7)
    assert [one.ulid(NOW_US), one.jitter_bp()] == [other.ulid(NOW_US), other.jitter_bp()]


@pytest.mark.parametrize("ids", [SystemIds(), SeededIds(1)])
def test_dice_stay_below_one(ids: Ids) -> None:
    """A share is in [0, 10,000)."""
    assert all(0 <= ids.jitter_bp() < 10_000 for _ in range(1_000))


def test_clocks_go_on() -> None:
    """Wall time is the time since 1970, monotonic time never goes back."""
    clock = SystemClock()
    assert clock.now_us() > NOW_US
    assert clock.monotonic_us() <= clock.monotonic_us()
