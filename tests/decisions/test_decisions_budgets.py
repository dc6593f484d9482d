"""Reservations: what an attempt may consume is held before it starts and let go when it ends."""

from __future__ import annotations

from typing import Any

import pytest
from registries import model, provider, registry
from story import World, admit, complete, fail, given, like, start, succeed

from palyra.decisions.budgets import release
from palyra.decisions.sizing import output_bound_tokens
from palyra.decisions.usage import Metered
from palyra.events.budgets import BudgetReleased, BudgetReserved
from palyra.events.usage import UsageRecorded
from palyra.projections.budgets import Hold, reserved_tokens
from palyra.usage import TokenUsage


def reserved(request: dict[str, Any], **limits: Any) -> BudgetReserved:
    config = registry(
        provider("a"),
        model("gpt", "a", **limits),
        model("e", "a", role="embeddings", **limits),
        default_embeddings_model_id="e",
    )
    world = given(config, admit("r1", **{"output_max_tokens": None, **request}), start("r1"))
    return world.facts(BudgetReserved)[0]


@pytest.mark.parametrize(
    ("request_", "limits", "output_tokens"),
    [
        ({"output_max_tokens": 50}, {}, 50),
        ({"output_max_tokens": 50}, {"max_output_tokens": 40}, 40),
        ({"output_max_tokens": 500}, {"max_tokens_per_event": 300}, 300),
        ({}, {"max_output_tokens": 40}, 40),
        ({}, {}, 8_192),
        ({}, {"max_tokens_per_event": 300}, 300),
        ({"output_max_tokens": 50, "choices_count": 3}, {}, 150),
        ({"endpoint": "embeddings", "model": "e"}, {}, 0),
    ],
)
def test_output_is_held_at_the_most_that_can_come(
    request_: dict[str, Any], limits: dict[str, Any], output_tokens: int
) -> None:
    """The smallest of the client's maximum, the model's and the event limit, for each choice; embeddings: none."""
    assert reserved(request_, **limits).output_tokens == output_tokens


def test_input_is_held_at_its_upper_bound() -> None:
    """An uncalibrated estimate of 100 tokens holds 130, until a minute after the run's deadline."""
    fact = reserved({"timeout_ms": 5_000})
    assert fact.input_tokens == 130
    assert fact.expires_us == given().now_us + 65_000_000


def test_a_model_that_left_the_registry_is_held_by_the_request_alone() -> None:
    """Without the model's limits the client's maximum counts, else the default."""
    run = given(None, admit("r1", output_max_tokens=70)).run("r1")
    assert output_bound_tokens(run, None, 8_192) == 70


def like_row(usage: TokenUsage) -> UsageRecorded:
    """Return a row of this usage."""
    return UsageRecorded(
        attempt=3,
        provider_id="a",
        model_id="gpt",
        upstream_model="gpt-a",
        principal_id="key:tester",
        endpoint="chat",
        effective_at_us=1,
        usage=usage,
        raw_input_tokens=100,
    )


HOLD = Hold(attempt=3, input_tokens=100, output_tokens=50, reserved_us=1, expires_us=2)


@pytest.mark.parametrize(
    ("usage", "overshoot_tokens"),
    [
        (None, 0),
        (TokenUsage(input_tokens=100, output_tokens=50), 0),
        (TokenUsage(input_tokens=101, output_tokens=50), 1),
        (TokenUsage(input_tokens=1, output_tokens=57), 7),
        (TokenUsage(input_tokens=110, output_tokens=57), 17),
    ],
)
def test_what_passed_the_hold_is_said(usage: TokenUsage | None, overshoot_tokens: int) -> None:
    """Input and output are compared each for itself: less of one does not make up for more of the other."""
    row = None if usage is None else like_row(usage)
    assert release(HOLD, row, "settled") == BudgetReleased(attempt=3, overshoot_tokens=overshoot_tokens)


@pytest.mark.parametrize(
    ("failure_class", "because"),
    [("cancelled", "cancelled"), ("client_disconnected", "cancelled"), ("overloaded", "settled")],
)
def test_a_hold_says_why_it_was_let_go(failure_class: str, because: Any) -> None:
    """Given up, or come to an end."""
    world = given(None, admit("r1"), start("r1"))
    assert world.when(fail("r1", failure_class)).outcome.facts[-1] == BudgetReleased(attempt=1, because=because)


def held(world: World) -> int:
    return reserved_tokens(world.state)


def test_reserved_is_the_sum_of_open_holds() -> None:
    """Two attempts on their way hold both; an ended one holds nothing; each retry holds anew."""
    world = given(None, admit("r1"), admit("r2"))
    assert held(world) == 0
    world.do(start("r1"))
    assert held(world) == 180
    world.do(start("r2"))
    assert held(world) == 360
    world.do(fail("r1"))
    assert held(world) == 180
    world.do(start("r1", retry=1), succeed("r1"), complete("r1"), succeed("r2"), complete("r2"))
    assert held(world) == 0


def test_overshoot_adds_up_in_the_state() -> None:
    """An input that passed its bound by 70 tokens is recorded as such and counted."""
    world = given(None, admit("r1"), start("r1"))
    billed = Metered(reported=TokenUsage(input_tokens=200, output_tokens=20))
    assert world.when(succeed("r1", billed)).outcome.facts[-1] == like(BudgetReleased, overshoot_tokens=70)
    assert world.state.budgets.overshoot_tokens == 70
