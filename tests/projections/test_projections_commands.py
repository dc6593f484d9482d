"""Command keys: remembered for 24 hours of recorded time, oldest first, through a snapshot too."""

from __future__ import annotations

from palyra.events.base import Recorded
from palyra.events.runs import RequestServed
from palyra.limits import COMMAND_KEY_TTL_US
from palyra.projections.commands import CommandMark
from palyra.projections.state import State, decode_state, encode_state, evolve

SERVED = RequestServed(endpoint="models", principal_id="x", http_status=200)


def tell(state: State, key: str, at_us: int) -> None:
    position = state.position + 1
    evolve(state, Recorded(position, "requests", position, at_us, "x", "", 0, key, SERVED))


def test_a_key_leads_to_the_first_event_of_its_command() -> None:
    """A repeat does not move it."""
    state = State()
    tell(state, "k1", 5)
    tell(state, "k1", 9)
    assert state.commands.by_key == {"k1": CommandMark(position=1, recorded_at_us=5, stream="requests")}


def test_events_without_a_key_leave_no_mark() -> None:
    """Only first events of keyed commands do."""
    state = State()
    tell(state, "", 5)
    assert state.commands.by_key == {}


def test_a_key_is_forgotten_after_a_day() -> None:
    """Exactly 24 h later it still answers; a microsecond more and it is gone."""
    state = State()
    tell(state, "old", 0)
    tell(state, "new", COMMAND_KEY_TTL_US)
    assert list(state.commands.by_key) == ["old", "new"]
    tell(state, "newer", COMMAND_KEY_TTL_US + 1)
    assert list(state.commands.by_key) == ["new", "newer"]


def test_a_key_that_is_used_again_after_a_day_is_a_new_command() -> None:
    """Its mark is the new command's, not the forgotten one's."""
    state = State()
    tell(state, "k1", 0)
    tell(state, "k1", COMMAND_KEY_TTL_US + 1)
    assert [mark.position for mark in state.commands.by_key.values()] == [2]


def test_the_oldest_key_goes_first_after_a_snapshot_too() -> None:
    """Age decides, not the alphabet: a state that went through bytes forgets the same key."""
    live = State()
    tell(live, "zebra", 0)
    tell(live, "ant", 10)
    restored = decode_state(encode_state(live))
    for state in (live, restored):
        tell(state, "next", COMMAND_KEY_TTL_US + 5)
    assert list(restored.commands.by_key) == list(live.commands.by_key) == ["ant", "next"]


def test_a_clock_that_steps_back_forgets_nothing() -> None:
    """Times are compared, never used for order."""
    state = State()
    tell(state, "first", COMMAND_KEY_TTL_US * 3)
    tell(state, "second", 0)
    assert list(state.commands.by_key) == ["first", "second"]
