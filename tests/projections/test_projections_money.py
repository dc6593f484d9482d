"""Folds of money and alerts at their edges: what is late, what is old, what is corrected, what has ended."""

from __future__ import annotations

from hashlib import sha256

import msgspec
from budget_kit import put, rule
from registries import model, provider, registry
from story import T0_US, World, given, record, serve, wait

from palyra.events.alerts import AlertCleared, AlertRaised
from palyra.events.usage import UsageCorrected
from palyra.projections.state import State, digest_in
from palyra.usage import TokenUsage

ONE = registry(provider("a"), model("gpt", "a"))
DAY_MS = 86_400_000


def corrected(provider_id: str, at_us: int, input_tokens: int = 10) -> UsageCorrected:
    return UsageCorrected(
        run_id="r1",
        attempt=1,
        corrects_position=1,
        provider_id=provider_id,
        model_id="gpt",
        principal_id="key:tester",
        endpoint="chat",
        effective_at_us=at_us,
        deltas=TokenUsage(input_tokens=input_tokens),
    )


def settled(world: World) -> int:
    return sum(one.settled for one in world.state.budgets.counters.values())


def test_a_correction_counts_for_the_rules_that_it_is_about() -> None:
    """What was used at another provider than a rule's is none of its business."""
    world = given(ONE, put(rule(scope_kind="provider", scope_id="a")), serve("r1"))
    before = settled(world)
    world.do(record("corrections", corrected("b", T0_US), corrected("a", T0_US)))
    assert settled(world) == before + 10


def test_late_use_is_kept_as_long_as_a_window_may_reach() -> None:
    """A rule that has no counter yet keeps what it is told of the past, and forgets what no window reaches."""
    world = given(ONE, put(rule(scope_kind="provider", scope_id="b")))
    old_us, late_us = T0_US - 50 * DAY_MS * 1_000, T0_US
    world.do(record("corrections", corrected("b", old_us)))
    assert sum(world.state.budgets.policies["day"].late["b"].values()) == 10
    world.do(record("corrections", corrected("b", late_us, 3)))
    assert sum(world.state.budgets.policies["day"].late["b"].values()) == 3


def test_a_rolling_counter_lets_go_of_what_no_window_reaches() -> None:
    """Use of two months ago is neither kept nor counted when there is new use."""
    world = given(ONE, put(rule(interval_kind="rolling", rolling_hours=1, hard_limit=1_000)), serve("r1"))
    (counter,) = world.state.budgets.counters.values()
    first = counter.settled
    late = corrected("a", world.now_us + 60 * DAY_MS * 1_000)
    world.do(record("corrections", late))
    assert first > 0
    assert (counter.settled, list(counter.cells.values())) == (10, [10])


def test_alerts_that_have_ended_leave_memory() -> None:
    """The newest of those that ended are kept, and a key whose alert has left is free."""
    world = given(None)
    for number in range(203):
        raised = AlertRaised(dedupe_key=f"k{number}", kind="overshoot", severity="info", subject_kind="model")
        world.do(record(f"alert-a{number}", raised, AlertCleared(reason_code="ended")), wait(ms=1))
    board = world.state.alerts
    assert "a0" not in board.by_id
    assert "k0" not in board.by_key
    assert "a202" in board.by_id


def test_a_chapter_has_a_digest_of_its_own() -> None:
    """SHA-256 of its canonical bytes."""
    state = State()
    assert digest_in(state, "usage") == sha256(msgspec.msgpack.encode(state.usage)).hexdigest()
