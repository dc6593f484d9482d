"""How long answers were: buckets, quantiles, and what they forget."""

from __future__ import annotations

import random

import pytest
from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st
from registries import THREE
from story import T0_US, World, given, record

from palyra.events.usage import UsageRecorded
from palyra.projections.outputs import (
    KEEP_COUNT,
    Outputs,
    Quantiles,
    bucket_of,
    quantiles_of,
    upper_edge,
)
from palyra.projections.state import encode_state
from palyra.usage import TokenUsage


def row(output: int, *, model_id: str = "gpt", agent_id: str = "", source: str = "provider") -> UsageRecorded:
    return UsageRecorded(
        attempt=1,
        provider_id="a",
        model_id=model_id,
        upstream_model=model_id,
        principal_id="key:tester",
        agent_id=agent_id,
        endpoint="chat",
        effective_at_us=T0_US,
        usage=TokenUsage(input_tokens=10, output_tokens=output),
        source=source,  # type: ignore[arg-type]
        raw_input_tokens=10,
    )


def taught(*rows: UsageRecorded) -> World:
    return given(THREE, record("run-x", *rows))


@pytest.mark.parametrize(
    ("tokens", "bucket", "edge"),
    [
        (0, 0, 0),
        (15, 15, 15),
        (16, 16, 17),
        (17, 16, 17),
        (18, 17, 19),
        (31, 23, 31),
        (32, 24, 35),
        (1_000, 63, 1_023),
    ],
)
def test_buckets_are_an_eighth_of_a_power_of_two_wide(tokens: int, bucket: int, edge: int) -> None:
    """Short answers are counted exactly, long ones to an eighth."""
    assert (bucket_of(tokens), upper_edge(bucket)) == (bucket, edge)


@generated(st.integers(0, 1 << 62))
def test_a_length_is_in_its_bucket(tokens: int) -> None:
    """The edge is the last length of the bucket, and no more than an eighth above any other of it."""
    edge = upper_edge(bucket_of(tokens))
    assert bucket_of(edge) == bucket_of(tokens) == bucket_of(edge + 1) - 1
    assert tokens <= edge <= tokens + tokens // 8


def test_quantiles_are_upper_edges_at_their_ranks() -> None:
    """Of 1 to 20 the second, the tenth and the nineteenth."""
    world = taught(*(row(tokens) for tokens in range(1, 21)))
    assert quantiles_of(world.state, "", "a", "gpt") == Quantiles(2, 10, 19, "model", 20)


def test_nineteen_samples_say_nothing() -> None:
    """Neither of the model nor of the agent, nor of a model that nobody has asked."""
    world = taught(*(row(5, agent_id="butler") for _ in range(19)))
    assert quantiles_of(world.state, "butler", "a", "gpt") is None
    assert quantiles_of(world.state, "", "a", "other") is None


def test_the_agent_comes_before_the_model() -> None:
    """An agent with few samples, and one that has no name, is taken for everybody."""
    world = taught(
        *(row(2, agent_id="butler") for _ in range(20)),
        *(row(9) for _ in range(30)),
        *(row(9, agent_id="gardener") for _ in range(19)),
    )
    assert quantiles_of(world.state, "butler", "a", "gpt") == Quantiles(2, 2, 2, "agent", 20)
    everybody = Quantiles(2, 9, 9, "model", 69)
    assert [quantiles_of(world.state, name, "a", "gpt") for name in ("gardener", "", "other")] == [everybody] * 3


@pytest.mark.parametrize("source", ["partial", "estimated"])
def test_only_providers_teach(source: str) -> None:
    """A length that was estimated is no sample."""
    assert taught(row(5, source=source)).state.outputs.by_model == {}


def test_a_length_below_nothing_is_nothing() -> None:
    """No row says so; a fold takes whatever a journal holds."""
    assert taught(row(-5)).state.outputs.by_model == taught(row(0)).state.outputs.by_model


def test_counts_are_halved_at_2_048() -> None:
    """What was seen once is forgotten, the rest weighs half."""
    world = taught(row(3), *(row(7) for _ in range(2_046)))
    assert world.state.outputs.by_model["a/gpt"] == Outputs(
        samples_count=2_047, counts=[0, 0, 0, 1, 0, 0, 0, 2_046]
    )
    world.do(record("run-x", row(7)))
    assert world.state.outputs.by_model["a/gpt"] == Outputs(samples_count=1_023, counts=[0] * 7 + [1_023])


def test_who_names_many_agents_pushes_out_agents_and_no_model() -> None:
    """The agent that was taught longest ago goes first."""
    world = taught(row(1, model_id="other"), row(1, agent_id="butler"), row(1, agent_id="gardener"))
    for number in range(KEEP_COUNT - 1):
        world.do(record("run-x", row(1, agent_id=f"m{number}"), row(1, agent_id="butler")))
    agents = world.state.outputs.by_agent
    assert len(agents) == KEEP_COUNT
    assert ("butler|a/gpt" in agents, "gardener|a/gpt" in agents) == (True, False)
    assert list(world.state.outputs.by_model) == ["a/other", "a/gpt"]


def test_models_are_bounded_too() -> None:
    """A registry that is replaced every day does not grow the state."""
    world = taught(*(row(1, model_id=f"m{number}") for number in range(KEEP_COUNT + 1)))
    assert len(world.state.outputs.by_model) == KEEP_COUNT
    assert "a/m0" not in world.state.outputs.by_model


def test_a_replay_through_a_snapshot_is_the_same() -> None:
    """Order is part of the state: what goes first is the same after a snapshot."""
    chance = random.Random(20_261_128)
    world = taught(
        *(
            row(chance.randrange(1, 9_000), agent_id=chance.choice(["", "b", "c"]), model_id=chance.choice("xyz"))
            for _ in range(300)
        )
    )
    assert encode_state(world.replayed(snapshot_at=150)) == encode_state(world.state)


@settings(max_examples=60)
@generated(st.lists(st.integers(0, 100_000), min_size=20, max_size=200))
def test_quantiles_lie_at_or_just_above_those_of_the_samples(lengths: list[int]) -> None:
    """By the rule done by hand: the rank's own length, rounded up within its bucket; and they are in order."""
    found = quantiles_of(taught(*(row(tokens) for tokens in lengths)).state, "", "a", "gpt")
    assert found is not None
    ranked = sorted(lengths)
    for share, tokens in ((10, found.p10_tokens), (50, found.p50_tokens), (95, found.p95_tokens)):
        assert tokens == upper_edge(bucket_of(ranked[-(-len(ranked) * share // 100) - 1]))
    assert found.p10_tokens <= found.p50_tokens <= found.p95_tokens
