"""The shelf: what is kept in memory goes by time, then by number and bytes, oldest use first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from palyra.engine.shelf import Shelf


def test_a_value_is_there_until_its_time() -> None:
    """Not at it; then its bytes are free."""
    shelf: Shelf[str] = Shelf()
    shelf.put("k", "v", 5, until_us=10)
    assert shelf.get("k", 9) == "v"
    assert shelf.get("k", 10) is None
    assert (len(shelf), shelf.held_bytes) == (0, 0)


def test_what_was_asked_for_last_stays_longest() -> None:
    """A look counts as a use."""
    shelf: Shelf[str] = Shelf()
    for key in "abc":
        shelf.put(key, key, 1, until_us=10)
    assert shelf.get("a", 0) == "a"
    shelf.trim(max_count=2, max_bytes=100)
    assert [shelf.get(key, 0) for key in "abc"] == ["a", None, "c"]


def test_a_value_that_is_too_large_alone_does_not_stay() -> None:
    """Nor does it take others with it that were used after it."""
    shelf: Shelf[str] = Shelf()
    shelf.put("large", "v", 11, until_us=10)
    shelf.put("small", "v", 1, until_us=10)
    shelf.trim(max_count=9, max_bytes=10)
    assert (shelf.get("large", 0), shelf.get("small", 0)) == (None, "v")


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 20), st.integers(1, 5))))
def test_the_bytes_are_those_of_what_is_there(puts: list[tuple[str, int, int]]) -> None:
    """However values replace each other, and however the shelf is trimmed or emptied."""
    shelf: Shelf[int] = Shelf()
    for key, size, until_us in puts:
        shelf.put(key, size, size, until_us)
        shelf.trim(max_count=3, max_bytes=40)
        shelf.get(key, 2)
        there = [size for one in "abcd" if (size := shelf.get(one, -1)) is not None]
        assert (sum(there), len(there)) == (shelf.held_bytes, len(shelf))
        assert shelf.held_bytes <= 40
    assert shelf.clear() <= 3
    assert (len(shelf), shelf.held_bytes) == (0, 0)
