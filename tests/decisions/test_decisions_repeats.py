"""Requests with an idempotency key: what a key has done, and what a request with the same key is told."""

from __future__ import annotations

import pytest
from story import World, admit, cancel, complete, fail, given, go_on, start, succeed, wait

from palyra.decisions.repeats import Repeat, command_name, find_repeat, next_key, refuse_repeat
from palyra.decisions.usage import Metered
from palyra.errors import Refusal
from palyra.limits import COMMAND_KEY_TTL_US, COMMAND_KEYS_MAX_COUNT
from palyra.projections.commands import CommandMark
from palyra.units import US_PER_MS
from palyra.usage import TokenUsage

BODY, OTHER_BODY = "0" * 64, "1" * 64


def find(world: World, name: str = "name", body: str = BODY) -> Repeat | Refusal | None:
    """Ask what a request with this name repeats."""
    return find_repeat(world.state, name, body, world.now_us)


def repeat_of(world: World) -> Repeat:
    found = find(world)
    assert isinstance(found, Repeat)
    return found


def test_a_key_is_known_by_caller_and_route() -> None:
    """The same word of another caller, or for another route, is another key; the word itself is not in it."""
    names = {command_name(*parts) for parts in [("a", "r", "k"), ("b", "r", "k"), ("a", "s", "k"), ("ar", "", "k")]}
    assert len(names) == 4
    assert all(len(name) == 64 and "k" not in name for name in names)


def test_a_key_that_nobody_used_is_new() -> None:
    """Its first command is generation 0."""
    world = given()
    assert find(world) is None
    assert next_key(world.state, "name") == "name#0"


def test_a_request_in_flight_is_not_made_twice() -> None:
    """Whoever repeats it is told to wait, and for which run."""
    world = given(None, admit("r1", command_name="name"), start("r1"))
    repeat = repeat_of(world)
    assert repeat == Repeat(run_id="r1", is_open=True)
    refusal = refuse_repeat(repeat)
    assert (refusal.code, refusal.retry_after_ms) == ("idempotency_in_progress", 1_000)


def test_an_answered_request_is_found_with_its_usage() -> None:
    """Where its answer is gone, the repeat is told run and usage."""
    world = given(None, admit("r1", command_name="name"), start("r1"), succeed("r1"), complete("r1"))
    repeat = repeat_of(world)
    assert repeat == Repeat(run_id="r1", is_open=False, input_tokens=90, output_tokens=20)
    refusal = refuse_repeat(repeat)
    assert refusal.code == "idempotency_result_gone"
    assert refusal.details == {"of_run_id": "r1", "usage": {"input_tokens": 90, "output_tokens": 20}}


def test_another_body_is_refused_in_flight_and_afterwards() -> None:
    """A key stands for one request."""
    world = given(None, admit("r1", command_name="name"), start("r1"))
    for step in (wait(ms=1), succeed("r1"), complete("r1")):
        world.do(step)
        refusal = find(world, body=OTHER_BODY)
        assert isinstance(refusal, Refusal)
        assert refusal.code == "idempotency_key_reused"


@pytest.mark.parametrize(
    "steps",
    [
        (go_on("r1", "invalid_request"),),
        (start("r1"), fail("r1", "network_unavailable", phase="connect"), go_on("r1", "invalid_request")),
        (start("r1"), fail("r1", "invalid_request", status=400), go_on("r1", "invalid_request")),
        (cancel("r1"),),
    ],
    ids=["never sent", "not reached", "refused upstream", "cancelled while it waited"],
)
def test_what_cannot_have_cost_anything_frees_its_key(steps: tuple[object, ...]) -> None:
    """The next request with the key is made, with any body, and is a command of its own."""
    world = given(None, admit("r1", command_name="name"), *steps)  # type: ignore[arg-type]
    assert find(world) is None
    assert find(world, body=OTHER_BODY) is None
    assert next_key(world.state, "name") == "name#1"
    world.do(admit("r2", command_name="name"))
    assert repeat_of(world).run_id == "r2"
    assert len(world.state.commands.by_key) == 1


@pytest.mark.parametrize(
    "steps",
    [
        (start("r1"), fail("r1", "timeout_first_byte"), go_on("r1", "invalid_request")),
        (start("r1"), fail("r1", "timeout_idle", phase="content", status=200), go_on("r1", "invalid_request")),
        (
            start("r1"),
            fail("r1", "cancelled", phase="body", metered=Metered(reported=TokenUsage(input_tokens=7))),
            cancel("r1"),
        ),
    ],
    ids=["may have been billed", "broke off in its content", "cancelled with usage"],
)
def test_what_may_have_cost_something_keeps_its_key(steps: tuple[object, ...]) -> None:
    """A repeat of it is not made."""
    world = given(None, admit("r1", command_name="name"), *steps)  # type: ignore[arg-type]
    assert not repeat_of(world).is_open


def test_content_keeps_the_key_even_without_usage() -> None:
    """The client has seen a part of the answer."""
    world = given(None, admit("r1", command_name="name"), start("r1"))
    zero = Metered(reported=TokenUsage())
    world.do(
        fail("r1", "stream_truncated", phase="content", status=500, metered=zero), go_on("r1", "invalid_request")
    )
    assert not repeat_of(world).is_open


def test_a_key_holds_for_a_day() -> None:
    """A microsecond later it is new again, also while its mark is still there."""
    world = given(None, admit("r1", command_name="name"), start("r1"), succeed("r1"), complete("r1"))
    world.do(wait(ms=COMMAND_KEY_TTL_US // US_PER_MS))
    assert repeat_of(world).run_id == "r1"
    world.now_us += 1
    assert find(world) is None
    assert next_key(world.state, "name") == "name#1"


def test_no_key_is_forgotten_for_another() -> None:
    """Where no more can be remembered, a request with a new key is not taken; known ones are answered."""
    world = given(None, admit("r1", command_name="name"), start("r1"))
    for number in range(COMMAND_KEYS_MAX_COUNT):
        mark = CommandMark(position=1, recorded_at_us=world.now_us, stream="x")
        world.state.commands.by_key[f"other-{number}"] = mark
    refusal = find(world, "new")
    assert isinstance(refusal, Refusal)
    assert refusal.code == "gateway_busy"
    assert repeat_of(world).run_id == "r1"


def test_runs_without_a_key_leave_no_mark() -> None:
    """Nor does one of them end another's."""
    world = given(None, admit("r1", command_name="name"), admit("r2"), start("r2"), succeed("r2"), complete("r2"))
    assert list(world.state.commands.open) == ["r1"]
    assert repeat_of(world).is_open
