"""What is remembered between runs for the sake of a dialect, and for how long."""

from __future__ import annotations

from palyra.engine.clock import Clock
from palyra.engine.wire_memory import WireMemory
from palyra.wire.neutral import Reasoning

HOUR_US = 3_600 * 1_000_000


class Hands(Clock):
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.at_us = 0

    def now_us(self) -> int:
        return self.at_us

    def monotonic_us(self) -> int:
        return self.at_us


def block(size: int = 1) -> tuple[Reasoning, ...]:
    return (Reasoning(vendor="v", raw=b"x" * size),)


def test_thoughts_are_kept_for_an_hour_by_principal_and_call() -> None:
    """Nobody is given what another one thought, and nothing is kept for ever."""
    clock = Hands()
    memory = WireMemory(clock)
    memory.keep_reasoning("ada", "call_1", block())
    assert memory.reasoning("ada", "call_1") == block()
    assert memory.reasoning("bob", "call_1") == ()
    assert memory.reasoning("ada", "call_2") == ()
    clock.at_us = HOUR_US - 1
    assert memory.reasoning("ada", "call_1") == block()
    clock.at_us = HOUR_US
    assert memory.reasoning("ada", "call_1") == ()


def test_thoughts_are_bounded_in_bytes() -> None:
    """The oldest go first; a call that is kept again counts once; what is too large for all room is not kept."""
    clock = Hands()
    memory = WireMemory(clock, reasoning_max_bytes=100)
    memory.keep_reasoning("ada", "a", block(60))
    memory.keep_reasoning("ada", "a", block(50))
    memory.keep_reasoning("ada", "b", block(50))
    assert memory.reasoning("ada", "a") == block(50)
    memory.keep_reasoning("ada", "c", block(10))
    assert [bool(memory.reasoning("ada", name)) for name in "abc"] == [False, True, True]
    memory.keep_reasoning("ada", "d", block(101))
    assert [bool(memory.reasoning("ada", name)) for name in "abcd"] == [False] * 4


def test_what_is_stale_makes_room() -> None:
    """Old entries leave when a new one comes, without anybody asking for them."""
    clock = Hands()
    memory = WireMemory(clock, responses_max_count=2)
    memory.keep_response("ada", "r1", "up")
    clock.at_us = HOUR_US
    for number in (2, 3):
        memory.keep_response("ada", f"r{number}", "up")
    assert [memory.provider_of("ada", f"r{number}") for number in (1, 2, 3)] == [None, "up", "up"]
    memory.keep_response("ada", "r4", "other")
    assert [memory.provider_of("ada", f"r{number}") for number in (2, 3, 4)] == [None, "up", "other"]
