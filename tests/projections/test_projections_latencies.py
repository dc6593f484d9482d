"""How long models took: steps, the middle one, what is forgotten, and who teaches nothing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st
from registries import model, provider, registry
from story import Step, World, admit, complete, fail, given, record, start, succeed

from palyra.events.attempts import AttemptStarted, AttemptSucceeded
from palyra.projections.latencies import KEEP_COUNT, RECENT_COUNT, recent_latency_ms
from palyra.projections.state import encode_state

TWO = registry(provider("a"), model("gpt", "a"), model("other", "a"))


def answer(run_id: str, ms: int, name: str = "gpt") -> list[Step]:
    """Let one answer of a model take so long."""
    return [admit(run_id, name), start(run_id), succeed(run_id, duration_us=ms * 1_000), complete(run_id)]


def started(name: str) -> AttemptStarted:
    return AttemptStarted(
        attempt=1,
        provider_id="a",
        model_id=name,
        upstream_model=name,
        api="openai_chat",
        deadline_ms=1_000,
        input_max_tokens=1,
        output_max_tokens=1,
    )


def answered(*each_ms: int, name: str = "gpt") -> World:
    return given(TWO, *(step for number, ms in enumerate(each_ms) for step in answer(f"r{number}", ms, name)))


def latency(world: World, name: str = "gpt") -> int | None:
    return recent_latency_ms(world.state, "a", name)


@pytest.mark.parametrize(
    ("took_ms", "step_ms"), [(0, 0), (1, 250), (250, 250), (251, 500), (1_999, 2_000), (90_000, 90_000)]
)
def test_a_latency_is_rounded_up_to_a_quarter_of_a_second(took_ms: int, step_ms: int) -> None:
    """One answer is enough; models within a step are equally fast."""
    assert latency(answered(took_ms)) == step_ms


def test_each_model_has_its_own_and_the_middle_one_counts() -> None:
    """Two hiccups among five change nothing; a model that has not answered has none."""
    world = answered(300, 60_000, 300, 60_000, 300)
    assert (latency(world), latency(world, "other")) == (500, None)


def test_a_model_that_gets_slower_is_found_out() -> None:
    """Only the newest answers count: as soon as more than half of them are slow, it is."""
    world = answered(*[100] * RECENT_COUNT, *[3_000] * (RECENT_COUNT // 2))
    assert latency(world) == 250
    world.do(*answer("slow", 3_000))
    assert latency(world) == 3_000
    assert len(world.state.latencies.by_model["a/gpt"]) == RECENT_COUNT


def test_what_fails_teaches_nothing() -> None:
    """A call that was cut off says nothing about how long an answer takes."""
    assert latency(given(TWO, admit("r1"), start("r1"), fail("r1", "timeout_total"))) is None


def test_facts_out_of_place_teach_nothing() -> None:
    """A fold takes whatever a journal holds: an answer without a run, without a start, or from before its start."""
    early = AttemptSucceeded(attempt=1, stop="stop", duration_us=-5)
    world = given(TWO, record("run-x", early), admit("r1"), record("run-r1", early))
    assert world.state.latencies.by_model == {}
    world.do(start("r1"), record("run-r1", early))
    assert latency(world) == 0


def test_models_are_bounded() -> None:
    """A registry that is replaced every day does not grow the state; who answered longest ago goes first."""
    world = answered(100)
    world.do(*answer("r1", 100, "other"), *answer("r2", 100), admit("r3"))
    for number in range(KEEP_COUNT - 1):
        world.do(record("run-r3", started(f"m{number}"), AttemptSucceeded(attempt=1, stop="stop", duration_us=5)))
    assert len(world.state.latencies.by_model) == KEEP_COUNT
    assert (latency(world), latency(world, "other")) == (250, None)


def test_a_replay_through_a_snapshot_is_the_same() -> None:
    """Order is part of the state: what goes first is the same after a snapshot."""
    chance = random.Random(20_261_128)
    steps = [answer(f"r{number}", chance.randrange(9_000), chance.choice(["gpt", "other"])) for number in range(80)]
    world = given(TWO, *(step for steps_of_one in steps for step in steps_of_one))
    assert encode_state(world.replayed(snapshot_at=150)) == encode_state(world.state)


@settings(max_examples=40)
@generated(st.lists(st.integers(0, 100_000), min_size=1, max_size=2 * RECENT_COUNT))
def test_half_of_the_newest_answers_took_no_longer(each_ms: list[int]) -> None:
    """And no fewer than half took as long, less than a step aside."""
    newest, found = each_ms[-RECENT_COUNT:], latency(answered(*each_ms))
    assert found is not None
    assert 2 * sum(ms <= found for ms in newest) >= len(newest)
    assert 2 * sum(ms > found - 250 for ms in newest) >= len(newest)
