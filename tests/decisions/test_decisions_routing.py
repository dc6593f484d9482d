"""The plan of a run: the chain of candidates, who is left out by which rule, and the order of the rest."""

from __future__ import annotations

from typing import Any

import pytest
from registries import THREE, model, provider, registry
from story import (
    T0_US,
    World,
    admit,
    break_down,
    complete,
    fail,
    given,
    record,
    start,
    succeed,
    wait,
)

from palyra.decisions.routing import Wanted, exclude, unready
from palyra.decisions.usage import Metered
from palyra.events.circuits import CircuitHalfOpened, CircuitOpened
from palyra.events.models import ModelExcluded
from palyra.events.registry import Capabilities, ModelEntry, ProviderEntry, Registry
from palyra.events.routing import Exclusion, RoutingDecided
from palyra.units import US_PER_MS
from palyra.usage import TokenUsage


def decided(world: World, model_name: str = "gpt", **changes: Any) -> RoutingDecided:
    """Return the plan that a request gets; the run may be refused."""
    world.do(admit("r1", model_name, **changes))
    return world.facts(RoutingDecided)[-1]


def chain(config: Registry, model_name: str = "gpt", **changes: Any) -> list[str]:
    plan = decided(given(config), model_name, **changes).plan
    return [f"{step.via}:{step.provider_id}/{step.model_id}" for step in plan]


def wide(*entries: ProviderEntry | ModelEntry, **changes: Any) -> Registry:
    """Providers a, b, c, these models and room for eight candidates."""
    return registry(
        provider("a"), provider("b"), provider("c"), *entries, **{"failover_max_candidates": 8, **changes}
    )


SPREAD = [
    model("gpt", "a", priority=2),
    model("gpt", "b", priority=1),
    model("large", "c", cost_tier="premium"),
    model("small", "c", cost_tier="low", latency_tier="high"),
    model("tiny", "c", cost_tier="low", latency_tier="low"),
    model("own", "a", cost_tier="low"),
    model("embed", "c", role="embeddings"),
]


def test_without_fallbacks_compatible_models_of_other_providers_follow() -> None:
    """fallbacks unset, scope compatible: the model by priority, then others' chat models by cost and latency."""
    assert chain(wide(*SPREAD)) == [
        "requested:b/gpt",
        "requested:a/gpt",
        "compatible:c/tiny",
        "compatible:c/small",
        "compatible:c/large",
    ]


def test_equal_tiers_go_by_model_and_then_provider() -> None:
    """Where cost and latency are equal the order is that of the names, so that every machine plans alike."""
    config = wide(model("gpt", "a"), model("y", "b"), model("x", "c"), model("x", "b"))
    assert chain(config)[1:] == ["compatible:b/x", "compatible:c/x", "compatible:b/y"]


def test_an_empty_list_of_fallbacks_means_none() -> None:
    """fallbacks = []: nothing but the model itself."""
    assert chain(wide(model("gpt", "a", fallbacks=[]), model("x", "b"))) == ["requested:a/gpt"]


def test_listed_fallbacks_are_expanded_in_order_and_not_further() -> None:
    """Each fallback at all its providers, aliases too; a fallback's own fallbacks are not followed."""
    config = wide(
        model("gpt", "a", fallbacks=["nick", "y"]),
        model("x", "c", priority=1, aliases=["nick"], fallbacks=["z"]),
        model("x", "b", priority=2, aliases=["nick"]),
        model("y", "b"),
        model("z", "b"),
    )
    assert chain(config) == ["requested:a/gpt", "fallback:c/x", "fallback:b/x", "fallback:b/y"]


def test_a_candidate_stands_once_in_the_chain() -> None:
    """A fallback that is the model itself, or named twice, adds nothing."""
    config = wide(model("gpt", "a", fallbacks=["gpt", "x", "x"]), model("x", "b"))
    assert chain(config) == ["requested:a/gpt", "fallback:b/x"]


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("compatible", ["requested:a/gpt", "compatible:b/x"]),
        ("declared", ["requested:a/gpt"]),
        ("same_model", ["requested:a/gpt"]),
    ],
)
def test_the_scope_bounds_a_chain_without_fallbacks(scope: str, expected: list[str]) -> None:
    """Only scope compatible looks beyond what is named."""
    assert chain(wide(model("gpt", "a"), model("x", "b"), failover_scope=scope)) == expected


def test_the_scope_same_model_ignores_fallbacks() -> None:
    """same_model: the model at its providers; declared: its fallbacks as well."""
    entries = [model("gpt", "a", fallbacks=["x"]), model("gpt", "b"), model("x", "c")]
    same = chain(wide(*entries, failover_scope="same_model"))
    assert same == ["requested:a/gpt", "requested:b/gpt"]
    assert chain(wide(*entries, failover_scope="declared")) == [*same, "fallback:c/x"]


def test_embeddings_stay_with_their_model() -> None:
    """Vectors of two models cannot be compared: only the same model at other providers."""
    config = wide(
        model("e", "a", role="embeddings", fallbacks=["f"]),
        model("e", "b", role="embeddings"),
        model("f", "c", role="embeddings"),
    )
    world = given(config)
    assert decided(world, "e", endpoint="embeddings").failover == "same_model"
    assert chain(config, "e", endpoint="embeddings") == ["requested:a/e", "requested:b/e"]


@pytest.mark.parametrize(
    ("settings", "request_", "failover"),
    [
        ({}, {"model_name": "b/gpt"}, "pinned"),
        ({}, {"failover": False}, "off"),
        ({"failover_enabled": False}, {}, "off"),
    ],
)
def test_one_candidate_where_failover_is_off(
    settings: dict[str, Any], request_: dict[str, Any], failover: str
) -> None:
    """A pinned name, a client that wants no failover, and failover switched off: one candidate, and why."""
    routing = decided(given(wide(model("gpt", "a"), model("gpt", "b"), **settings)), **request_)
    assert (len(routing.plan), routing.failover) == (1, failover)


@pytest.mark.parametrize(
    ("lost", "code", "param"),
    [
        ("logit_bias", "unsupported_parameter", "logit_bias"),
        ("tool_arguments_not_json", "tool_arguments_not_json", "messages"),
        ("image_url", "image_url_unsupported", "messages"),
    ],
)
def test_a_request_that_no_dialect_can_say_is_refused_by_name(lost: str, code: str, param: str) -> None:
    """The first thing that is lost is what the client is told."""
    config = registry(provider("a"), model("gpt", "a", upstream_apis=["messages"]))
    world = given(config).when(admit("r1", dialect="chat", losses={"messages": [lost]}))
    assert world.refused(code).param == param


def test_a_plan_is_cut_to_its_maximum() -> None:
    """failover_max_candidates counts the first one too."""
    assert len(chain(wide(*SPREAD, failover_max_candidates=2))) == 2


@pytest.mark.parametrize(
    ("change", "request_", "excluded_by", "figures"),
    [
        ({"enabled": False}, {}, "disabled", {}),
        ({"provider_id": "off"}, {}, "disabled", {}),
        (
            {"capabilities": Capabilities(tools=True)},
            {"needs": ["tools", "vision"]},
            "capability_missing:vision",
            {},
        ),
        (
            {"upstream_apis": ["messages"]},
            {"dialect": "chat", "losses": {"messages": ["n"], "responses": ["stop"]}},
            "dialect_loss:n",
            {},
        ),
        ({}, {"needs": ["telepathy"]}, "capability_missing:telepathy", {}),
        (
            {"max_tokens_per_event": 99},
            {},
            "event_limit",
            {"estimated_tokens": 100, "limit_tokens": 99},
        ),
        (
            {"max_context_tokens": 149},
            {},
            "context_too_small",
            {"needed_tokens": 150, "window_tokens": 149},
        ),
        (
            {"max_context_tokens": 611},
            {"output_max_tokens": None},
            "context_too_small",
            {"needed_tokens": 612, "window_tokens": 611},
        ),
    ],
)
def test_each_rule_that_leaves_a_candidate_out_says_its_figures(
    change: dict[str, Any], request_: dict[str, Any], excluded_by: str, figures: dict[str, int]
) -> None:
    """Switched off, cannot do it, above the event limit, window too small: the rule and its figures."""
    entry = model("x", **{"provider_id": "b", "cost_tier": "low", **change})
    config = wide(provider("off", enabled=False), model("gpt", "a"), entry)
    if "telepathy" in request_.get("needs", ()):
        config = wide(entry, default_chat_model_id="x")
        request_ = {**request_, "model_name": "x"}
    excluded = decided(given(config), **request_).excluded
    assert excluded == [
        Exclusion(provider_id=entry.provider_id, model_id="x", excluded_by=excluded_by, figures=figures)
    ]


def test_a_model_of_a_provider_that_is_gone_counts_as_disabled() -> None:
    """A registry that names no such provider excludes its models instead of failing."""
    wanted = Wanted(role="chat", needs=[], raw_tokens=1, output_max_tokens=None)
    exclusion = exclude(given().state, model("gpt", "gone"), wanted, T0_US)
    assert exclusion == Exclusion(provider_id="gone", model_id="gpt", excluded_by="disabled")


@pytest.mark.parametrize(
    "change",
    [{"max_tokens_per_event": 100}, {"max_context_tokens": 150}, {"max_context_tokens": None}],
)
def test_exactly_as_much_as_there_is_room_for_fits(change: dict[str, Any]) -> None:
    """The limits are inclusive, and an unknown window fits everything."""
    assert chain(wide(model("gpt", "a", **change))) == ["requested:a/gpt"]


def test_embeddings_need_no_room_for_an_answer() -> None:
    """The input alone has to fit into an embeddings model."""
    config = wide(model("e", "a", role="embeddings", max_context_tokens=100))
    assert chain(config, "e", endpoint="embeddings") == ["requested:a/e"]


@pytest.mark.parametrize(
    ("kind", "dimensions", "asked", "figures"),
    [
        ("openai_compatible", 256, 257, {"asked": 257, "has": 256}),
        ("openai_compatible", None, 70_000, {"asked": 70_000, "has": 65_536}),
        ("openai_compatible", 256, 256, None),
        ("openai_compatible", 256, None, None),
        ("deterministic", 256, 257, None),
    ],
)
def test_more_dimensions_than_a_model_has_exclude_it(
    kind: str, dimensions: int | None, asked: int | None, figures: dict[str, int] | None
) -> None:
    """Vectors can be cut, not stretched; the deterministic provider makes any size."""
    config = registry(provider("a", kind=kind), model("e", "a", role="embeddings", dimensions=dimensions))
    excluded = decided(given(config), "e", endpoint="embeddings", dimensions=asked).excluded
    assert [one.figures for one in excluded] == ([] if figures is None else [figures])


def test_an_open_circuit_and_an_excluded_model_are_left_out_until_their_time() -> None:
    """Both say until when; the instant itself is late enough."""
    until_us = T0_US + 5_000 * US_PER_MS
    world = given(
        THREE,
        record("provider-a", CircuitOpened(until_us=until_us, reason="threshold")),
        record("provider-b", ModelExcluded(model_id="gpt", until_us=until_us, reason="overloaded")),
        wait(ms=4_999),
    )
    routing = decided(world)
    assert [step.provider_id for step in routing.plan] == ["c"]
    assert [(one.provider_id, one.excluded_by, one.figures) for one in routing.excluded] == [
        ("a", "circuit_open", {"until_us": until_us}),
        ("b", "model_excluded", {"until_us": until_us}),
    ]
    world.do(wait(ms=1), admit("r2"))
    assert len(world.facts(RoutingDecided)[-1].plan) == 3


def test_a_half_open_circuit_is_open_for_everybody_else() -> None:
    """While the trial is out, no plan goes through that circuit, however late it is."""
    world = given(THREE, record("provider-a", CircuitHalfOpened(run_id="r0", attempt=1)), wait(ms=10**9))
    assert [step.provider_id for step in decided(world).plan] == ["b", "c"]


def test_a_failed_provider_goes_last_and_a_slow_one_does_not() -> None:
    """Order by readiness, stable: unavailable behind the rest, degraded in its place."""
    world = given(
        THREE,
        break_down("r0", "netguard_blocked"),
        admit("r-b", "b/gpt"),
        start("r-b"),
        fail("r-b", "overloaded"),
    )
    assert [(step.provider_id, step.readiness, step.health) for step in decided(world).plan] == [
        ("b", 0, "degraded"),
        ("c", 0, "unknown"),
        ("a", 2, "unavailable"),
    ]


def test_the_estimate_that_is_judged_is_the_calibrated_one() -> None:
    """After eight answers that billed twice the estimate, half as much fits."""

    world = given(registry(provider("a"), model("gpt", "a", max_tokens_per_event=150)))
    billed = Metered(reported=TokenUsage(input_tokens=400, output_tokens=1))
    for number in range(8):
        run_id = f"r-{number}"
        world.do(admit(run_id), start(run_id), succeed(run_id, billed), complete(run_id))
    world.when(admit("r1")).refused("max_model_tokens_per_event_exceeded")


def test_a_caller_may_be_held_to_some_models() -> None:
    """What its globs do not name is left out of the chain, and the globs are on record for a later decision."""
    made = decided(given(wide(*SPREAD)), models=["b/gpt", "tiny"])
    assert [f"{step.provider_id}/{step.model_id}" for step in made.plan] == ["b/gpt", "c/tiny"]
    assert {one.excluded_by for one in made.excluded} == {"model_not_permitted"}
    assert made.models_permitted == ["b/gpt", "tiny"]


def test_a_model_that_a_caller_may_not_use_is_refused() -> None:
    """Also under another name, and where a permitted one could stand in."""
    config = wide(model("gpt", "a", aliases=["fast"], fallbacks=["tiny"]), model("tiny", "c"))
    for name in ("gpt", "fast", "a/gpt", ""):
        outcome = given(config).when(admit("r1", name, models=["tiny"]))
        assert outcome.refused("model_not_permitted").param == "model"


@pytest.mark.parametrize(
    ("provider_id", "model_id", "is_offered"),
    [("a", "gpt", True), ("a", "none", False), ("a", "off", False), ("b", "gpt", False), ("c", "gpt", False)],
)
def test_who_was_taken_out_of_the_configuration_gets_nothing_more(
    provider_id: str, model_id: str, is_offered: bool
) -> None:
    """A plan may be older than the configuration: before each attempt provider and model must still be offered."""
    offer = registry(
        provider("a"), provider("b", enabled=False), model("gpt", "a"), model("off", "a", enabled=False)
    )
    found = unready(given(offer).state, provider_id, model_id, T0_US)
    assert (found is None) is is_offered
    if found is not None:
        assert (found.excluded_by, found.figures) == ("model_unavailable", {"until_us": 0})
