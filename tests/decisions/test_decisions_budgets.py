"""Reservations: what an attempt may consume is held before it starts and let go when it ends."""

from __future__ import annotations

from typing import Any

import pytest
from budget_kit import put, rule
from registries import model, provider, registry
from story import World, admit, complete, fail, given, like, start, succeed

from palyra.decisions.sizing import output_bound_tokens
from palyra.decisions.usage import Metered
from palyra.events.attempts import AttemptStarted
from palyra.events.budgets import BudgetReleased, BudgetReserved
from palyra.events.usage import UsageRecorded
from palyra.projections.budgets import reserved_tokens
from palyra.usage import TokenUsage


def started(request: dict[str, Any], **limits: Any) -> World:
    config = registry(
        provider("a"),
        model("gpt", "a", **limits),
        model("e", "a", role="embeddings", **limits),
        default_embeddings_model_id="e",
    )
    all_of_it = put(rule(scope_kind="global", hard_limit=None, soft_limit=1_000_000))
    return given(config, all_of_it, admit("r1", **{"output_max_tokens": None, **request}), start("r1"))


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
        ({"output_max_tokens": None}, {"max_context_tokens": 4_096}, 4_096 - 130),
        ({"output_max_tokens": None}, {"max_context_tokens": 620}, 512),
        ({"output_max_tokens": 500}, {"max_context_tokens": 620}, 500),
        ({"endpoint": "embeddings", "model": "e"}, {}, 0),
    ],
)
def test_output_is_held_at_the_most_that_can_come(
    request_: dict[str, Any], limits: dict[str, Any], output_tokens: int
) -> None:
    """The smallest of the client's maximum, the model's and the event limit, for each choice; embeddings: none.

    Where nobody asked for a length, the window leaves room for the input: providers refuse what does not fit.
    """
    [start_] = started(request_, **limits).facts(AttemptStarted)
    assert start_.output_max_tokens == output_tokens


def test_input_is_held_at_its_upper_bound() -> None:
    """An uncalibrated estimate of 100 tokens holds 130, until a minute after the run's deadline."""
    world = started({"timeout_ms": 5_000})
    assert world.facts(AttemptStarted)[0].input_max_tokens == 130
    assert world.facts(BudgetReserved)[0].expires_us == given().now_us + 65_000_000


def test_a_model_that_left_the_registry_is_held_by_the_request_alone() -> None:
    """Without the model's limits the client's maximum counts, else the default."""
    run = given(None, admit("r1", output_max_tokens=70)).run("r1")
    assert output_bound_tokens(run, None, 130, 8_192) == 70


@pytest.mark.parametrize(
    ("usage", "overshoot_tokens"),
    [
        (TokenUsage(input_tokens=130, output_tokens=50), 0),
        (TokenUsage(input_tokens=131, output_tokens=50), 1),
        (TokenUsage(input_tokens=1, output_tokens=57), 7),
        (TokenUsage(input_tokens=140, output_tokens=57), 17),
    ],
)
def test_what_passed_the_bound_is_said(usage: TokenUsage, overshoot_tokens: int) -> None:
    """Input and output are compared each for itself: less of one does not make up for more of the other."""
    world = given(None, admit("r1"), start("r1"), succeed("r1", Metered(reported=usage)))
    assert world.facts(UsageRecorded)[0].overshoot_tokens == overshoot_tokens


@pytest.mark.parametrize(
    ("failure_class", "because"),
    [("cancelled", "cancelled"), ("client_disconnected", "cancelled"), ("overloaded", "settled")],
)
def test_a_hold_says_why_it_was_let_go(failure_class: str, because: Any) -> None:
    """Given up, or come to an end."""
    world = given(None, put(rule()), admit("r1"), start("r1"))
    assert world.when(fail("r1", failure_class)).outcome.facts[-1] == BudgetReleased(attempt=1, because=because)


def held(world: World) -> int:
    return reserved_tokens(world.state)


def test_reserved_is_what_open_attempts_may_still_use() -> None:
    """Two attempts on their way count both; an ended one counts nothing; each retry counts anew."""
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
    assert world.when(succeed("r1", billed)).outcome.facts[-1] == like(UsageRecorded, overshoot_tokens=70)
    assert world.state.budgets.overshoot_tokens == 70
