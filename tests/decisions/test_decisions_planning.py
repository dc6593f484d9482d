"""Smart routing: modes, classes, strategies, filters, guardrail, pressure, and what the fact says about it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from budget_kit import put, rule
from registries import model, provider, registry
from routing_kit import GRADES, TOKEN_NANOUSD, decided, prices, routed, rules, served, three_grades, with_models
from story import World, admission, admit, complete, given, record, start, succeed, wait

from palyra.decisions.planning import RoutingPlan, class_of, plan_usage_routing
from palyra.decisions.pricing import adopt_prices, with_id
from palyra.decisions.ranking import Changed
from palyra.decisions.usage import Metered
from palyra.events.budgets import BudgetHardLimitReached
from palyra.events.circuits import CircuitOpened
from palyra.events.pricing import PriceEntry
from palyra.events.registry import Capabilities
from palyra.events.routing import Features, RoutingDecided
from palyra.events.runs import RunRefused
from palyra.events.smart_routing import SmartRouting
from palyra.usage import TokenUsage

#: Worth the best model by its features alone.
DEMANDING = {"raw_tokens": 16_000, "features": Features(keywords=5)}
SEES_NOTHING = Capabilities()


def decided_plan(world: World) -> RoutingPlan:
    return plan_usage_routing(world.state, admission("r1"), world.now_us, world.state.config.routing)


def test_suggest_serves_what_was_asked_for_and_names_what_it_would_choose() -> None:
    """A simple request of 100 tokens: the cheapest model is recommended, the default one serves."""
    fact = decided(routed())
    assert (served(fact), fact.recommended, fact.action) == ("gpt", "a/small", "proceed")
    assert (fact.mode, fact.strategy, fact.complexity_bp, fact.would) == ("suggest", "cheapest", 125, None)
    assert "mode_suggest_only" in fact.reason_codes


def test_one_model_for_chat_is_no_choice() -> None:
    """Nothing is compared, nor scored, where only models for something else stand beside it."""
    for more, is_compared in (([], False), ([model("other", "b")], True)):
        config = with_models(model("gpt", "a"), model("vec", "a", role="embeddings"), *more)
        plan = decided_plan(given(config, rules(mode="suggest")))
        assert (plan.board is not None) is is_compared


def test_dry_run_serves_what_was_asked_for_and_records_what_enforced_would_have_done() -> None:
    """Nothing changes for the client; the journal has the other model, its cost and what it is beside the first."""
    fact = decided(routed(mode="dry_run"))
    assert (served(fact), fact.action) == ("gpt", "proceed")
    assert fact.would is not None
    assert (fact.would.model_id, fact.would.action) == ("small", "degrade")
    assert fact.would.expected_nanousd == (100 + 50) * TOKEN_NANOUSD["small"]


def test_enforced_serves_the_recommended_model() -> None:
    """The one difference that the client sees: another model; the fact says that the name was overridden."""
    fact = decided(routed(mode="enforced"))
    assert (served(fact), fact.recommended, fact.action) == ("small", "a/small", "degrade")
    assert "requested_overridden" in fact.reason_codes
    assert [step.model_id for step in fact.plan[1:]] == ["gpt", "large"], "the failover chain goes on from there"


@pytest.mark.parametrize(
    ("score_bp", "strategy", "chosen"),
    [
        (3_500, "cheapest", "small"),
        (3_501, "balanced", "gpt"),
        (7_499, "balanced", "gpt"),
        (7_500, "best", "large"),
    ],
)
def test_both_edges_of_the_middle_band_belong_to_the_outer_ones(score_bp: int, strategy: str, chosen: str) -> None:
    """simple_at and premium_at are inclusive."""
    world = routed(mode="enforced")
    plan = plan_usage_routing(
        world.state, admission("r1"), world.now_us, world.state.config.routing, changed=Changed(score_bp=score_bp)
    )
    assert plan.decided is not None
    assert plan.first is not None
    assert (plan.decided.strategy, plan.first.model_id) == (strategy, chosen)


def test_a_demanding_request_gets_the_best_model() -> None:
    """Long text with five keywords reaches 7,500 by itself."""
    fact = decided(routed(mode="enforced"), **DEMANDING)
    assert (fact.complexity_bp, fact.strategy, served(fact), fact.action) == (7_500, "best", "large", "upgrade")


@pytest.mark.parametrize(
    ("name", "chosen"), [("palyra/cheap", "small"), ("palyra/fast", "small"), ("palyra/best", "large")]
)
@pytest.mark.parametrize("mode", ["suggest", "dry_run", "enforced"])
def test_a_name_that_is_a_strategy_is_followed_in_every_mode(mode: str, name: str, chosen: str) -> None:
    """The caller itself asked for it; nothing is overridden."""
    fact = decided(routed(mode=mode), model_name=name)
    assert served(fact) == chosen
    assert "requested_overridden" not in fact.reason_codes
    assert fact.would is None


def test_names_that_leave_it_open_are_routed_where_plain_names_are_not() -> None:
    """override_requested = virtual_only: `palyra/auto` moves, `gpt` stays."""
    config = {"mode": "enforced", "override_requested": "virtual_only"}
    assert served(decided(routed(**config), model_name="palyra/auto")) == "small"
    assert served(decided(routed(**config), model_name="")) == "small"
    assert served(decided(routed(**config), model_name="gpt")) == "gpt"


def test_a_pin_needs_its_scope_to_hold() -> None:
    """`b/gpt` gives way like any name, unless the key may pin; then nothing else is even tried."""
    assert served(decided(routed(mode="enforced"), model_name="b/gpt")) == "small"
    fact = decided(routed(mode="enforced"), model_name="b/gpt", may_pin=True)
    assert [step.model_id for step in fact.plan] == ["gpt"]
    assert fact.may_pin
    assert "pinned" in fact.reason_codes


def test_a_scoped_pin_refuses_rather_than_moving() -> None:
    """A rule stops the pinned model: the request is refused, though others would fit."""
    world = routed(put(rule(scope_kind="model", scope_id="gpt", hard_limit=10)), mode="enforced")
    fact = decided(world, model_name="b/gpt", may_pin=True)
    assert (fact.plan, fact.action) == ([], "blocked")
    assert world.facts(RunRefused)[-1].code == "budget_request_too_large"
    assert served(decided(world, "r2", model_name="b/gpt")) == "small", "without the scope it moves"


def test_the_mode_of_a_request_wins_over_its_agents_which_wins_over_the_configured_one() -> None:
    """Request, agent, configuration."""
    world = routed(mode="suggest", agents={"coder": "enforced"})
    assert decided(world).mode == "suggest"
    assert decided(world, "r2", agent_id="coder").mode == "enforced"
    fact = decided(world, "r3", agent_id="coder", routing_mode="dry_run")
    assert (fact.mode, fact.mode_requested) == ("dry_run", "dry_run")


def test_disabled_is_no_recommendation_at_all() -> None:
    """Capabilities, health and budgets still act; nothing is compared."""
    fact = decided(routed(enabled=False, mode="enforced"))
    assert (served(fact), fact.recommended, fact.strategy, fact.candidates) == ("gpt", "", "", [])
    assert fact.mode == "suggest"


def test_one_model_is_nothing_to_choose_from() -> None:
    """The common case costs nothing: no score, no table."""
    fact = decided(given())
    assert (fact.complexity_bp, fact.strategy, fact.candidates, fact.reason_codes) == (None, "", [], [])


@pytest.mark.parametrize(
    ("origin", "asked", "task_class"),
    [
        ("http", "", "interactive"),
        ("cli", "background", "background"),
        ("http", "auxiliary", "auxiliary"),
        ("cron", "interactive", "background"),
        ("task", "", "background"),
        ("probe", "auxiliary", "auxiliary"),
        ("memory", "interactive", "auxiliary"),
    ],
)
def test_nobody_waits_for_a_job(origin: str, asked: str, task_class: str) -> None:
    """A client may name any class; a job never becomes interactive."""
    assert class_of(origin, asked) == task_class


def test_work_that_nobody_waits_for_is_cheap_and_never_dearer_than_the_default() -> None:
    """Background: cheapest, and what costs more than the default is left out of plan and chain."""
    fact = decided(routed(mode="enforced"), task_class="background", **DEMANDING)
    assert [step.model_id for step in fact.plan] == ["small", "gpt"]
    assert fact.excluded_counts == {"guardrail_cost": 1}
    assert {"guardrail_cost", "task_class_background", "strategy_cheapest"} <= set(fact.reason_codes)


def test_the_guard_gives_way_where_nothing_else_is_left() -> None:
    """The default is out and the rest is dearer: better a dear answer than none."""
    world = routed(
        record("provider-a", CircuitOpened(reason="threshold", until_us=1 << 61)),
        record("provider-b", CircuitOpened(reason="threshold", until_us=1 << 61)),
        mode="enforced",
    )
    fact = decided(world, task_class="background")
    assert (served(fact), fact.action) == ("large", "failover")
    assert "guardrail_relaxed" in fact.reason_codes


def test_auxiliary_work_can_be_left_alone() -> None:
    """auxiliary_enabled = false: the default model, whatever the mode."""
    fact = decided(routed(mode="enforced", auxiliary_enabled=False), task_class="auxiliary")
    assert (served(fact), fact.strategy) == ("gpt", "")


def test_what_is_below_the_wanted_quality_goes_last() -> None:
    """min_quality of a class: small would be cheaper, and still comes behind."""
    world = routed(mode="enforced", min_quality={"background": 50})
    assert served(decided(world, task_class="background")) == "gpt"


@pytest.mark.parametrize("mode", ["suggest", "dry_run", "enforced"])
@pytest.mark.parametrize("name", ["gpt", "palyra/best", "palyra/cheap", ""])
def test_an_image_never_reaches_a_model_without_eyes(mode: str, name: str) -> None:
    """Not as the default, not in the chain, not as the choice; the same holds for a window that is too small."""
    blind = [
        model(one, at, capabilities=SEES_NOTHING, **GRADES[one]) for one, at in (("small", "a"), ("large", "c"))
    ]
    world = routed(config=with_models(model("gpt", "b"), *blind), mode=mode)
    fact = decided(world, model_name=name, needs=["vision"])
    assert [step.model_id for step in fact.plan] == ["gpt"]
    if mode != "suggest" or name.startswith("palyra/"):
        assert fact.excluded_counts == {"capability_missing:vision": 2}
    assert "capability_filter_applied" in fact.reason_codes


def test_a_window_that_is_too_small_is_never_chosen() -> None:
    """Context is a filter like any other."""
    small = model("small", "a", max_context_tokens=1_000, **GRADES["small"])
    fact = decided(routed(config=with_models(small, model("gpt", "b")), mode="enforced"), raw_tokens=2_000)
    assert served(fact) == "gpt"
    assert "context_filter_applied" in fact.reason_codes


def test_the_fastest_model_is_the_one_that_was_fast_lately() -> None:
    """How long a model took says more than its tier; the figures stand in the fact."""
    world = routed(mode="enforced")
    assert served(decided(world, "r1", "palyra/fast")) == "small"
    world.do(start("r1"), succeed("r1", duration_us=2_100_000), complete("r1"))
    fact = decided(world, "r2", "palyra/fast")
    assert served(fact) == "gpt"
    assert {one.model_id: one.latency_ms for one in fact.candidates} == {
        "gpt": 2_000,
        "small": 2_250,
        "large": 6_000,
    }


def test_a_failed_provider_ranks_last_and_serves_alone() -> None:
    """Its circuit is shut again, its health is not: the cheapest model waits behind healthy ones."""
    opened = record("provider-a", CircuitOpened(reason="threshold", until_us=0))
    fact = decided(routed(opened, mode="enforced"))
    assert served(fact) == "gpt"
    assert (fact.candidates[-1].model_id, fact.candidates[-1].readiness) == ("small", 2)
    assert "healthy_preferred" in fact.reason_codes
    alone = with_models(model("small", "a"))
    assert served(decided(routed(opened, config=alone, mode="enforced"), model_name="small")) == "small"


@pytest.mark.parametrize(("used", "chosen"), [(7_999, "large"), (8_000, "gpt")])
def test_near_a_limit_choices_are_one_step_cheaper(used: int, chosen: str) -> None:
    """From budget_pressure_bp on the best becomes the balanced one; one token less and nothing changes."""
    world = routed(put(rule(hard_limit=1_000_000)), mode="enforced")
    spent = Metered(reported=TokenUsage(input_tokens=used * 100, output_tokens=0))
    world.do(admit("r0", "b/gpt", may_pin=True, raw_tokens=10), start("r0"), succeed("r0", spent), complete("r0"))
    fact = decided(world, "r1", **DEMANDING)
    assert served(fact) == chosen
    assert ("budget_pressure" in fact.reason_codes) == (used == 8_000)


def test_suggest_looks_at_no_budgets() -> None:
    """What is recommended there is recommended by what models can do and cost; the rules act on what is served."""
    world = routed(put(rule(scope_kind="model", scope_id="small", hard_limit=1)))
    fact = decided(world)
    assert (fact.recommended, served(fact)) == ("a/small", "gpt")


def test_enforced_chooses_what_the_rules_leave_over() -> None:
    """The cheapest one is stopped by a rule, so that the next cheapest serves."""
    world = routed(put(rule(scope_kind="model", scope_id="small", hard_limit=1)), mode="enforced")
    fact = decided(world)
    assert served(fact) == "gpt"
    assert fact.excluded_counts == {"budget_excluded:day": 1}


def test_dry_run_tells_that_nobody_would_have_served() -> None:
    """A rule that stops everybody: refused now, and blocked in the trial as well."""
    fact = decided(routed(put(rule(hard_limit=1)), mode="dry_run"))
    assert fact.would is not None
    assert (fact.would.action, fact.would.verdict, fact.would.model_id) == ("blocked", "blocked", "")
    assert fact.budget_outcome == "blocked"


def test_dry_run_leaves_alone_what_enforced_leaves_alone() -> None:
    """A scoped pin would not have moved."""
    fact = decided(routed(mode="dry_run"), model_name="b/gpt", may_pin=True)
    assert fact.would is not None
    assert fact.would.action == "proceed"


def test_an_unknown_price_goes_last_and_its_tier_counts() -> None:
    """Without any prices the tiers order the models; one known price goes before them."""
    world = given(three_grades(), rules(mode="enforced"))
    assert served(decided(world)) == "small"
    world = given(three_grades(), prices(small=None, gpt=None), rules(mode="enforced"))
    fact = decided(world)
    assert (served(fact), fact.action) == ("large", "switch")
    assert fact.estimate is not None
    assert fact.estimate.state == "priced"


def test_the_estimate_is_in_order() -> None:
    """lower <= expected <= upper <= worst."""
    estimate = decided(routed(mode="dry_run")).estimate
    assert estimate is not None
    four = (estimate.lower_nanousd, estimate.expected_nanousd, estimate.upper_nanousd, estimate.worst_nanousd)
    assert list(four) == sorted(four)  # type: ignore[type-var]
    assert estimate.expected_nanousd == 150 * TOKEN_NANOUSD["gpt"]


def test_a_key_that_may_use_only_some_models_is_routed_among_them() -> None:
    """palyra/best means the best that the key may use."""
    fact = decided(routed(), model_name="palyra/best", models=["gpt", "small"])
    assert served(fact) == "gpt"
    assert fact.excluded_counts == {"model_not_permitted": 1}


def test_at_most_a_dozen_models_are_listed_and_all_are_counted() -> None:
    """The digest stands for the whole table."""
    more = [model(f"m{number:02}", "a", quality=10) for number in range(20)]
    fact = decided(routed(config=three_grades(*more), mode="dry_run"))
    assert len(fact.candidates) == 12
    assert len(fact.candidates_digest) == 16


_SHUFFLED = """
import random, sys
sys.path[:0] = [{tests!r}, {root!r}]
import msgspec
from registries import model, provider, registry
from routing_kit import prices, rules
from story import admission, given
from palyra.decisions.planning import plan_usage_routing
entries = [model(f"m{{n:02}}", f"p{{n % 4}}", cost_tier="low") for n in range(20)]
random.Random(int(sys.argv[1])).shuffle(entries)
config = registry(*(provider(f"p{{n}}") for n in range(4)), model("gpt", "p0"), *entries)
world = given(config, rules(mode="enforced"))
plan = plan_usage_routing(world.state, admission("r1"), world.now_us, world.state.config.routing)
sys.stdout.write(msgspec.json.encode(plan.decided).decode())
"""


def test_equal_candidates_are_ordered_by_name_whatever_the_order_and_the_hashes() -> None:
    """Twenty equal models, shuffled, under several hash randomisations: the same bytes."""
    tests, root = str(Path(__file__).parents[1]), str(Path(__file__).parents[2])
    program = _SHUFFLED.format(tests=tests, root=root)
    told = {
        subprocess.run(
            [sys.executable, "-c", program, str(seed)],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in range(4)
    }
    assert len(told) == 1
    assert b'"recommended":"p0/m00"' in told.pop()


def test_what_was_asked_for_goes_first_among_equals() -> None:
    """Nothing is gained by another one, least of all where nobody knows a price."""
    config = registry(provider("a"), model("a-first", "a"), model("gpt", "a"))
    plan = plan_usage_routing(given(config).state, admission("r1"), 0, SmartRouting(mode="enforced"))
    assert plan.decided is not None
    assert (plan.decided.recommended, plan.decided.action) == ("a/gpt", "proceed")


def test_a_wait_changes_nothing() -> None:
    """The same state, request and instant give the same fact."""
    world = routed(wait(ms=5), mode="enforced")
    first, second = decided(world, "r1"), decided(world, "r2")
    assert first == second
    assert isinstance(first, RoutingDecided)


def test_a_model_that_the_key_may_not_use_is_refused_as_such() -> None:
    """Before anything is compared; another model is no way out of it."""
    plan = plan_usage_routing(routed().state, admission("r1", models=["small"]), 0, SmartRouting(mode="enforced"))
    assert plan.decided is None
    assert plan.refusal is not None
    assert plan.refusal.code == "model_not_permitted"


def test_a_model_without_a_credential_is_left_out() -> None:
    """The cheapest one cannot be asked, so that the next one is chosen."""
    config = registry(
        provider("a", auth_scheme="bearer"),
        provider("b"),
        model("small", "a", **GRADES["small"]),
        model("gpt", "b"),
    )
    fact = decided(routed(config=config, mode="enforced"))
    assert (served(fact), fact.excluded_counts) == ("gpt", {"no_credential": 1})


def test_half_a_price_is_no_estimate() -> None:
    """A meter without a rate makes the cost unknown, and the entry is named."""
    world = routed(mode="enforced")
    half = with_id(PriceEntry(price_id="", provider_id="a", model_id="small", input_nanousd_per_mtok=1))
    world.record(adopt_prices(world.state, [half], catalogue_name="", catalogue_version=""))
    estimate = decided(world, model_name="palyra/cheap").estimate
    assert estimate is not None
    assert (estimate.state, estimate.price_id, estimate.expected_nanousd) == ("unknown", half.price_id, None)


def spent(world: World, tokens: int) -> None:
    """Have somebody use so many tokens."""
    row = Metered(reported=TokenUsage(input_tokens=tokens, output_tokens=0))
    world.do(admit("spent", "palyra/cheap", raw_tokens=1), start("spent"), succeed("spent", row), complete("spent"))


@pytest.mark.parametrize("mode", ["suggest", "dry_run", "enforced"])
def test_past_its_limit_a_rule_may_leave_the_cheap_models(mode: str) -> None:
    """In every mode: what was asked for is stopped, and the listed model serves; the limit is told once."""
    world = routed(put(rule(hard_limit=500, on_hard="downgrade", downgrade_to=["a/small"])), mode=mode)
    assert served(decided(world, "r0")) == ("small" if mode == "enforced" else "gpt")
    world.do(start("r0"), succeed("r0"), complete("r0"))
    spent(world, 500)
    fact = decided(world, "r1", **DEMANDING)
    assert [step.model_id for step in fact.plan] == ["small"], "no other one in the chain either"
    assert (fact.action, fact.budget_outcome) == ("degrade", "downgraded")
    assert "budget_downgrade" in fact.reason_codes
    world.do(start("r1"))
    assert world.facts(BudgetHardLimitReached)[-1].verdict == "downgraded"


def test_the_ceiling_stops_the_cheap_models_too() -> None:
    """One token below it fits, one above does not; without anybody left the request is refused."""
    limits = {"hard_limit": 100, "on_hard": "downgrade", "downgrade_to": ["small", "nothing-like-it"]}
    for ceiling, expected in ((180, "small"), (179, "")):
        world = routed(put(rule(**limits, ceiling_limit=ceiling)))
        assert served(decided(world)) == expected
    assert world.facts(RunRefused)[-1].code == "budget_request_too_large"


def test_free_stands_for_whatever_costs_nothing() -> None:
    """A price that was declared to be nothing; an unknown one is not that."""
    limit = rule(hard_limit=1, on_hard="downgrade", downgrade_to=["free"])
    free = PriceEntry(price_id="", provider_id="c", model_id="large", state="free")
    world = routed(put(limit))
    world.record(adopt_prices(world.state, [with_id(free)], catalogue_name="", catalogue_version=""))
    assert served(decided(world)) == "large"


def test_a_scoped_pin_and_vectors_are_not_downgraded() -> None:
    """Who may pin is refused instead; vectors of another model would mean something else."""
    config = three_grades(model("vec", "a", role="embeddings"), default_embeddings_model_id="vec")
    world = routed(put(rule(hard_limit=1, on_hard="downgrade", downgrade_to=["small"])), config=config)
    assert served(decided(world, "r1", "b/gpt", may_pin=True)) == ""
    assert served(decided(world, "r2", "vec", endpoint="embeddings", output_max_tokens=None)) == ""
    assert served(decided(world, "r3", "b/gpt")) == "small"


@pytest.mark.parametrize(("mode", "status"), [("dry_run", "would_downgrade"), ("suggest", "hard_limit")])
def test_a_downgrade_that_is_tried_out_moves_nobody(mode: str, status: str) -> None:
    """The rule's own mode softens it."""
    fact = decided(routed(put(rule(hard_limit=1, on_hard="downgrade", downgrade_to=["gpt"], mode=mode))))
    assert (served(fact), fact.budget_outcome) == ("gpt", status)


def test_a_rule_that_blocks_makes_downgrades_moot() -> None:
    """Two rules past their limits, one of them stops everybody."""
    blocks = rule("b", hard_limit=1)
    world = routed(put(blocks), put(rule("d", hard_limit=1, on_hard="downgrade", downgrade_to=["small"])))
    assert served(decided(world)) == ""
