"""Command keys: remembered for 24 hours of recorded time, oldest first, through a snapshot too."""

from __future__ import annotations

from palyra.events.base import Recorded
from palyra.events.runs import RequestServed, RunAdmitted, TokenEstimate
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


def test_the_newest_generation_of_a_name_counts() -> None:
    """Each is a command of its own; an older one that comes late moves nothing."""
    state = State()
    for at_us, key in enumerate(["k#0", "other", "k#2", "k#1", "k#x", "#7", "k#1234567890"]):
        tell(state, key, at_us)
    marks = state.commands.by_key
    assert list(marks) == ["other", "k", "k#x", "#7", "k#1234567890"]
    assert (marks["k"].generation, marks["k"].position) == (2, 3)


def test_a_request_whose_key_is_another_ones_is_not_its_first() -> None:
    """No decision makes such a history; whatever it holds, it folds."""
    admitted = RunAdmitted(
        principal_id="p",
        endpoint="chat",
        config_generation=1,
        body_digest="d",
        body_bytes=1,
        deadline_us=1,
        tokens=TokenEstimate(raw=1, upper=1),
    )
    state = State()
    for position, run in enumerate(["run-a", "run-b"], 1):
        evolve(state, Recorded(position, run, 1, 5, "x", "", 0, "k#0", admitted))
    assert state.commands.open == {"a": "k"}
    assert state.commands.by_key["k"].fingerprint == "d"
