"""Rules about usage: who is judged by them, where the line is, what is held, and what is told."""

from __future__ import annotations

import random
from datetime import datetime
from typing import Any

import pytest
from budget_kit import TOKEN_NANOUSD, consumed, counted_by_hand, price, put, retire, rule
from registries import THREE, model, provider, registry
from story import (
    T0_US,
    Step,
    World,
    admit,
    cancel,
    complete,
    fail,
    given,
    go_on,
    like,
    record,
    serve,
    start,
    succeed,
    wait,
)

from palyra.decisions.budget_refusals import warnings_of
from palyra.decisions.budgets import plan_start, sweep
from palyra.decisions.sizing import worst_nanousd
from palyra.decisions.usage import Metered
from palyra.events.base import Draft
from palyra.events.budgets import (
    BudgetHardLimitReached,
    BudgetPolicyCounted,
    BudgetPolicySet,
    BudgetReleased,
    BudgetReserved,
    BudgetSoftLimitCrossed,
    Overshoot,
)
from palyra.events.pricing import PriceEntry
from palyra.events.routing import RoutingDecided, RoutingFailedOver
from palyra.events.runs import RunFailed, RunRefused
from palyra.events.usage import UsageCorrected, UsageRecorded
from palyra.projections.budgets import Where, counter_of
from palyra.projections.state import encode_state
from palyra.usage import TokenUsage

ONE = registry(provider("a"), model("gpt", "a"))
DAY_MS = 86_400_000
#: What `admit` asks for: 130 tokens in at the bound and 50 out.
ASKED = 180
#: What `succeed` uses: 90 in and 20 out.
USED = 110


def counter(world: World, policy_id: str = "day", subject: str = "key:tester") -> Any:
    found = [
        one for one in world.state.budgets.counters.values() if (one.policy_id, one.subject) == (policy_id, subject)
    ]
    assert len(found) <= 1
    return found[0] if found else None


# -- the line


@pytest.mark.parametrize(("limit", "fits"), [(ASKED, True), (ASKED - 1, False)])
def test_what_is_equal_to_the_limit_is_inside_it(limit: int, fits: bool) -> None:
    """Projected is settled, held and asked together; one token more is refused."""
    world = given(ONE, put(rule(hard_limit=limit)))
    told = world.when(admit("r1"))
    assert (told.outcome.refusal is None) == fits


def test_settled_and_held_count_against_the_limit() -> None:
    """110 used and 180 held leave no room for 180 more under 469, and just enough under 470."""
    for limit, code in ((469, "budget_blocked"), (470, "")):
        world = given(ONE, put(rule(hard_limit=limit)), serve("r1"), admit("r2"), start("r2"))
        told = world.when(admit("r3"))
        assert (told.outcome.refusal.code if told.outcome.refusal else "") == code


def test_a_limit_of_zero_stops_everything_that_counts() -> None:
    """Nothing that uses tokens fits under it."""
    refusal = given(ONE, put(rule(hard_limit=0))).when(admit("r1")).refused("budget_request_too_large")
    assert refusal.http_status == 402


def test_a_refusal_has_all_figures_and_the_way_out() -> None:
    """Which rule, whose, until when, how much of it is used, held and asked; on record with the plan."""
    world = given(ONE, put(rule(hard_limit=300, timezone="Europe/Prague")), serve("r1"), admit("r2"), start("r2"))
    told = world.when(admit("r3"))
    refusal = told.refused("budget_blocked")
    budget = refusal.details["budget"]
    assert {name: budget[name] for name in ("policy_id", "scope_kind", "subject", "metric", "interval")} == {
        "policy_id": "day",
        "scope_kind": "principal",
        "subject": "key:tester",
        "metric": "tokens",
        "interval": "daily",
    }
    figures = {name: budget[name] for name in ("limit", "consumed", "reserved", "requested", "allowance")}
    assert figures == {"limit": 300, "consumed": USED, "reserved": ASKED, "requested": ASKED, "allowance": 10}
    assert (budget["blocked_by"], refusal.retry_after_ms) == ("reserved", 2_000)
    assert budget["window_end_us"] - budget["window_start_us"] == DAY_MS * 1_000
    assert "300 tokens a day" in refusal.message
    told.then(
        like(RoutingDecided, plan=[]),
        like(BudgetHardLimitReached, verdict="blocked", consumed=USED, reserved=ASKED, requested=ASKED, limit=300),
        like(RunRefused, code="budget_blocked", http_status=429),
    )


def test_time_heals_what_was_used_and_nothing_else() -> None:
    """Settled: until the window ends. Only open holds in the way: soon. Larger than the limit: never."""
    world = given(ONE, put(rule(hard_limit=280)), serve("r1"))
    refusal = world.when(admit("r2")).refused("budget_blocked")
    start_us = T0_US - T0_US % (DAY_MS * 1_000)
    assert refusal.retry_after_ms == -(-(start_us + DAY_MS * 1_000 - T0_US) // 1_000_000) * 1_000
    assert world.do(wait(ms=DAY_MS)).when(admit("r3")).outcome.refusal is None
    world = given(ONE, put(rule(hard_limit=100)))
    assert world.when(admit("r1")).refused("budget_request_too_large").retry_after_ms is None


def test_a_rolling_window_has_room_when_enough_has_moved_out() -> None:
    """Seconds to fit: the quarter of an hour in which the use that is too much leaves the window."""
    world = given(ONE, put(rule(interval_kind="rolling", rolling_hours=1, hard_limit=390)), serve("r1"))
    world.do(wait(ms=30 * 60_000), serve("r2"))
    refusal = world.when(admit("r3")).refused("budget_blocked")
    assert refusal.retry_after_ms == 45 * 60_000
    assert world.do(wait(ms=45 * 60_000 - 1)).when(admit("r4")).outcome.refusal is not None
    assert world.do(wait(ms=1)).when(admit("r5")).outcome.refusal is None


def test_use_that_has_left_the_window_makes_no_room() -> None:
    """The older of two uses is out already, so the newer one says how long it takes."""
    world = given(ONE, put(rule(interval_kind="rolling", rolling_hours=2, hard_limit=200)), serve("r1"))
    world.do(wait(ms=150 * 60_000), serve("r2"))
    told = world.when(admit("r3")).refused("budget_blocked")
    assert told.retry_after_ms == 135 * 60_000


def test_two_uses_have_to_leave_a_rolling_window() -> None:
    """The first that leaves is not enough, so the second says how long it takes."""
    world = given(ONE, put(rule(interval_kind="rolling", rolling_hours=2, hard_limit=400)), serve("r1"))
    world.do(wait(ms=30 * 60_000), serve("r2"))
    told = world.when(admit("r3", raw_tokens=200)).refused("budget_blocked")
    assert told.retry_after_ms == 135 * 60_000


def test_a_rolling_rule_that_came_late_waits_for_its_whole_window() -> None:
    """Of use that was only told about later no counter knows when it leaves the window."""
    world = given(ONE, put(rule(interval_kind="rolling", rolling_hours=1, hard_limit=200)))
    told = UsageCorrected(
        run_id="r0",
        attempt=1,
        corrects_position=1,
        provider_id="a",
        model_id="gpt",
        principal_id="key:tester",
        endpoint="chat",
        effective_at_us=world.now_us,
        deltas=TokenUsage(input_tokens=USED),
    )
    world.do(record("corrections", told))
    assert world.when(admit("r2")).refused("budget_blocked").retry_after_ms == 60 * 60_000


def test_an_answer_is_kept_short_for_a_limit_of_the_request() -> None:
    """Nobody named a maximum, so the longest one is sent that the request's own limit allows."""
    world = given(ONE, price(), admit("r1", output_max_tokens=None, max_cost_nanousd=500_000))
    planned = plan_start(world.state, world.run("r1"), Where("a", "gpt"), "gpt-a", world.now_us)
    assert (planned.is_shrunk, planned.judgement.stops) == (True, False)
    assert planned.size.output_tokens < 500


# -- who and what


@pytest.mark.parametrize(
    ("scope", "subject"),
    [
        ({"scope_kind": "global"}, ""),
        ({"scope_kind": "principal"}, "key:tester"),
        ({"scope_kind": "principal", "scope_id": "key:tester"}, "key:tester"),
        ({"scope_kind": "session"}, "none:key:tester"),
        ({"scope_kind": "agent"}, "none:key:tester"),
        ({"scope_kind": "provider"}, "a"),
        ({"scope_kind": "model"}, "a/gpt"),
        ({"scope_kind": "model", "scope_id": "gpt"}, "gpt"),
        ({"scope_kind": "model", "scope_id": "a/gpt"}, "a/gpt"),
    ],
)
def test_every_scope_counts_and_stops(scope: dict[str, str], subject: str) -> None:
    """Leaving a session out escapes nothing: it counts for whoever asks."""
    world = given(ONE, put(rule(hard_limit=280, **scope)), serve("r1"))
    assert counter(world, subject=subject).settled == USED
    refusal = world.when(admit("r2")).refused("budget_blocked")
    is_own = scope["scope_kind"] in ("principal", "session", "agent")
    # Of what others use nobody is told the figures.
    assert ("consumed" in refusal.details["budget"]) == is_own


@pytest.mark.parametrize(
    "scope",
    [
        {"scope_kind": "principal", "scope_id": "key:other"},
        {"scope_kind": "provider", "scope_id": "b"},
        {"scope_kind": "model", "scope_id": "other"},
        {"scope_kind": "global", "match": {"endpoint": "embeddings"}},
        {"scope_kind": "global", "match": {"model_id": "other"}},
        {"scope_kind": "global", "enabled": False},
        {"scope_kind": "global", "effective_from_us": T0_US + 1},
    ],
)
def test_a_rule_about_others_says_nothing(scope: dict[str, Any]) -> None:
    """Another scope, a match that does not hold, a rule that is off or not yet in effect."""
    world = given(ONE, put(rule(hard_limit=0, **scope)), serve("r1"))
    assert world.facts(BudgetReserved) == []


def test_each_session_has_its_own_counter() -> None:
    """`*` is one counter for each id."""
    world = given(ONE, put(rule(scope_kind="session", hard_limit=200)), serve("r1", session_id="s1"))
    assert world.when(admit("r2", session_id="s1")).outcome.refusal is not None
    assert world.when(admit("r3", session_id="s2")).outcome.refusal is None


@pytest.mark.parametrize(
    ("count", "settled", "asked"), [("all", 110, 180), ("uncached", 80, 180), ("output", 20, 50)]
)
def test_tokens_are_counted_as_the_rule_says(count: str, settled: int, asked: int) -> None:
    """All of them, those that were not cached, or the answer alone."""
    billed = Metered(reported=TokenUsage(input_tokens=90, output_tokens=20, cached_input_tokens=30))
    world = given(ONE, put(rule(token_count=count)), admit("r1"), start("r1"))
    assert counter(world).reserved == asked
    world.do(succeed("r1", billed), complete("r1"))
    assert (counter(world).settled, counter(world).reserved) == (settled, 0)


def test_money_is_held_at_the_dearest_way_and_settled_exactly() -> None:
    """1,000 nano-USD a token: 180,000 held, 110,000 paid."""
    limit = ASKED * TOKEN_NANOUSD
    world = given(ONE, price(), put(rule(metric_kind="usd_cost", hard_limit=limit)), admit("r1"), start("r1"))
    assert world.when(admit("r2")).outcome.refusal is not None
    world = given(ONE, price(), put(rule(metric_kind="usd_cost", hard_limit=10**9)), admit("r1"), start("r1"))
    assert counter(world).reserved == ASKED * TOKEN_NANOUSD
    world.do(succeed("r1"), complete("r1"))
    assert counter(world).settled == USED * TOKEN_NANOUSD


def test_the_dearest_way_is_a_bound() -> None:
    """Input that a cache takes for an hour, output that is all thought: no mix costs more."""
    dear = PriceEntry(
        price_id="x",
        provider_id="a",
        model_id="gpt",
        input_nanousd_per_mtok=10,
        cache_write_5m_nanousd_per_mtok=20,
        cache_write_1h_nanousd_per_mtok=40,
        output_nanousd_per_mtok=50,
        reasoning_nanousd_per_mtok=70,
    )
    assert worst_nanousd(dear, 1_000_000, 1_000_000) == 110
    assert worst_nanousd(None, 1, 1) is None
    no_output = PriceEntry(price_id="x", provider_id="a", model_id="gpt", input_nanousd_per_mtok=10)
    assert worst_nanousd(no_output, 1, 1) is None


def test_strict_sizing_takes_a_token_for_each_byte() -> None:
    """400 bytes of body beside the estimate's bound."""
    world = given(ONE, put(rule(sizing="strict", hard_limit=10_000)), admit("r1"), start("r1"))
    assert counter(world).reserved == 130 + 400 + 50


def test_strict_sizing_is_that_of_the_admission_too() -> None:
    """What would not fit at the start is not let in: 130 tokens at the bound, 400 bytes and 50 of output."""
    for limit, code in ((579, "budget_request_too_large"), (580, None)):
        outcome = given(ONE, put(rule(sizing="strict", hard_limit=limit))).when(admit("r1")).outcome
        assert (outcome.refusal.code if outcome.refusal is not None else None) == code


# -- unknown prices


def test_what_has_no_price_is_stopped_where_money_is_limited() -> None:
    """Nobody knows what it would cost; a rule may allow it all the same, and then counts it apart."""
    world = given(ONE, put(rule(metric_kind="usd_cost")))
    refusal = world.when(admit("r1")).refused("budget_unpriced")
    assert (refusal.http_status, refusal.retry_after_ms) == (402, None)
    world = given(ONE, put(rule(metric_kind="usd_cost", on_unpriced="allow")), serve("r1"))
    assert (counter(world).settled, counter(world).unpriced_runs) == (0, 1)


def test_declared_free_costs_nothing() -> None:
    """It fits under a limit of 0."""
    free = price(state="free", input_nanousd_per_mtok=None, output_nanousd_per_mtok=None)
    world = given(ONE, free, put(rule(metric_kind="usd_cost", hard_limit=0)), serve("r1"))
    assert (counter(world).settled, counter(world).unpriced_runs) == (0, 0)


# -- several rules


def test_all_rules_are_asked_and_the_strictest_wins() -> None:
    """A request that can never fit goes before one that must wait; the others are named."""
    world = given(
        ONE,
        put(rule("b-day", hard_limit=280)),
        put(rule("a-day", hard_limit=280)),
        put(rule("tiny", interval_kind="per_run", hard_limit=500)),
        serve("r1"),
    )
    refusal = world.when(admit("r2")).refused("budget_blocked")
    assert refusal.details["budget"]["policy_id"] == "a-day"
    assert refusal.details["budget"]["other_policies"] == ["b-day"]
    world.do(put(rule("tiny", interval_kind="per_run", hard_limit=10)))
    refusal = world.when(admit("r3")).refused("budget_request_too_large")
    assert refusal.details["budget"]["policy_id"] == "tiny"
    assert refusal.details["budget"]["other_policies"] == ["a-day", "b-day"]


def test_per_run_counts_all_attempts_of_one_run() -> None:
    """What the first attempt used is not there for the second; the counter goes with the run."""
    world = given(THREE, put(rule("each", interval_kind="per_run", hard_limit=350)), admit("r1"), start("r1"))
    seen = Metered(output_estimate_tokens=90)
    world.do(fail("r1", "stream_truncated", phase="body", status=200, metered=seen, may_retry=False))
    assert counter(world, "each", "r1").settled == 190
    start_plan = plan_start(world.state, world.run("r1"), Where("b", "gpt"), "gpt-b", world.now_us)
    assert start_plan.judgement.stops
    world.do(cancel("r1"))
    assert counter(world, "each", "r1") is None


def test_a_dearer_fallback_is_judged_anew() -> None:
    """The failed attempt's hold is gone, what it used is counted, and the next candidate is asked for by itself."""
    world = given(THREE, put(rule(hard_limit=300)), admit("r1"), start("r1"))
    seen = Metered(output_estimate_tokens=90)
    world.do(fail("r1", "stream_truncated", phase="body", status=200, metered=seen, may_retry=False))
    world.when(go_on("r1", "budget_excluded", after=0)).then(like(RoutingFailedOver, trigger="budget_excluded"))
    world.when(go_on("r1", "budget_excluded", after=2)).then(
        like(RunFailed, code="budget_blocked", failure_class="budget_excluded", http_status=429)
    )


def test_a_budget_swaps_no_model() -> None:
    """The same model at another provider may serve; another model may not."""
    config = registry(provider("a"), provider("b"), model("gpt", "a", fallbacks=["other"]), model("other", "b"))
    stopped = given(config, put(rule("a", scope_kind="provider", scope_id="a", hard_limit=0)))
    assert stopped.when(admit("r1")).outcome.refusal is not None
    moved = given(THREE, put(rule("a", scope_kind="provider", scope_id="a", hard_limit=0)), admit("r1"))
    assert [step.provider_id for step in moved.run("r1").plan] == ["b", "c"]
    assert moved.facts(RoutingDecided)[0].excluded[0].excluded_by == "budget_excluded:a"


# -- what is told


def test_a_limit_is_told_once_a_window() -> None:
    """The first run that passes it; the same for each new revision."""
    world = given(ONE, put(rule(soft_limit=100, hard_limit=None)), serve("r1"), serve("r2"))
    [told] = world.facts(BudgetSoftLimitCrossed)
    assert (told.run_id, told.consumed, told.requested, told.limit) == ("r1", 0, ASKED, 100)
    world.do(put(rule(soft_limit=150, hard_limit=None)), serve("r3"), wait(ms=DAY_MS), serve("r4"))
    assert [one.run_id for one in world.facts(BudgetSoftLimitCrossed)] == ["r1", "r3", "r4"]


def test_a_rolling_limit_that_nothing_was_used_of_is_told_once() -> None:
    """What is known of its window is that it was told; others come and go, and weeks later it has left memory."""
    rolling = rule(scope_kind="session", interval_kind="rolling", rolling_hours=1, hard_limit=100)
    world = given(ONE, put(rolling))
    for number, session_id in enumerate(("mine", "s1", "s2", "mine", "s3", "mine")):
        world.do(admit(f"r{number}", session_id=session_id))
    assert [one.subject for one in world.facts(BudgetHardLimitReached)] == ["mine", "s1", "s2", "s3"]
    world.do(wait(ms=41 * DAY_MS), admit("r6", session_id="s4"), admit("r7", session_id="s5"))
    assert counter(world, subject="mine") is None


@pytest.mark.parametrize(
    ("mode", "status", "told_count"), [("dry_run", "would_block", 1), ("suggest", "hard_limit", 0)]
)
def test_a_rule_that_is_tried_out_stops_nobody(mode: str, status: str, told_count: int) -> None:
    """dry_run writes what it would have done, suggest only tells the client; both count like any other."""
    world = given(ONE, put(rule(hard_limit=10, mode=mode)), serve("r1"))
    assert counter(world).settled == USED
    assert [one.verdict for one in world.facts(BudgetHardLimitReached)] == ["would_block"] * told_count
    judged = plan_start(world.do(admit("r2")).state, world.run("r2"), Where("a", "gpt"), "gpt-a", world.now_us)
    assert [one.status for one in judged.judgement.evaluations] == [status]
    warned = [f"budget_hard_limit;policy=day;used_bp={(USED + ASKED) * 1_000}"]
    assert warnings_of(judged.judgement) == (warned if mode == "suggest" else [])


def test_a_soft_limit_warns_with_its_share() -> None:
    """Used, held and asked against the limit, in basis points."""
    world = given(ONE, put(rule(soft_limit=100, hard_limit=1_000)), admit("r1"))
    judged = plan_start(world.state, world.run("r1"), Where("a", "gpt"), "gpt-a", world.now_us)
    assert warnings_of(judged.judgement) == ["budget_soft_limit;policy=day;used_bp=18000"]


# -- output


def test_a_maximum_is_sent_wherever_a_hard_limit_holds() -> None:
    """Without one of the client's, the whole bound that was held."""
    world = given(ONE, put(rule(hard_limit=20_000)), admit("r1", output_max_tokens=None))
    begun = plan_start(world.state, world.run("r1"), Where("a", "gpt"), "gpt-a", world.now_us)
    assert (begun.cap_tokens, begun.is_shrunk) == (8_192, False)
    soft = given(ONE, put(rule(soft_limit=1, hard_limit=None)), admit("r1", output_max_tokens=None))
    assert plan_start(soft.state, soft.run("r1"), Where("a", "gpt"), "gpt-a", soft.now_us).cap_tokens is None


@pytest.mark.parametrize(
    ("changes", "asked", "cap"),
    [
        ({"hard_limit": 1_130}, None, 1_000),
        ({"hard_limit": 386}, None, 256),
        ({"hard_limit": 385}, None, None),
        ({"hard_limit": 1_130, "shrink_output": False}, None, None),
        ({"hard_limit": 1_130}, 5_000, None),
    ],
)
def test_an_answer_is_kept_short_where_that_makes_it_fit(
    changes: dict[str, Any], asked: int | None, cap: int | None
) -> None:
    """The largest maximum that fits, 256 at least, and never against one that the client named."""
    world = given(ONE, put(rule(**changes)))
    told = world.when(admit("r1", output_max_tokens=asked))
    if cap is None:
        assert told.outcome.refusal is not None
        return
    begun = plan_start(world.state, world.run("r1"), Where("a", "gpt"), "gpt-a", world.now_us)
    assert (begun.cap_tokens, begun.is_shrunk) == (cap, True)
    world.do(start("r1"))
    assert counter(world).reserved == 130 + cap


def test_the_limit_of_a_request_acts_like_a_rule_of_its_own() -> None:
    """Above and below what it may cost, with an unknown price, and over all its attempts."""
    cost = ASKED * TOKEN_NANOUSD
    assert given(ONE, price()).when(admit("r1", max_cost_nanousd=cost)).outcome.refusal is None
    refusal = given(ONE, price()).when(admit("r1", max_cost_nanousd=cost - 1)).refused("budget_request_too_large")
    assert refusal.details["budget"]["policy_id"] == "request.max_cost"
    assert refusal.details["budget"]["requested"] == cost
    given(ONE).when(admit("r1", max_cost_nanousd=cost)).refused("budget_unpriced")
    world = given(THREE, price(), admit("r1", max_cost_nanousd=cost), start("r1"))
    seen = Metered(output_estimate_tokens=1)
    world.do(fail("r1", "stream_truncated", phase="body", status=200, metered=seen, may_retry=False))
    world.when(go_on("r1", "budget_excluded", after=2)).then(like(RunFailed, code="budget_request_too_large"))
    assert world.state.budgets.counters == {}


# -- the life of a hold


def test_a_run_belongs_to_the_day_of_its_admission() -> None:
    """Admitted in the last microsecond, settled the next day: it counts yesterday, and today begins at 0."""
    to_midnight_us = DAY_MS * 1_000 - T0_US % (DAY_MS * 1_000)
    world = given(ONE, put(rule()))
    world.now_us += to_midnight_us - 1
    yesterday_us = world.now_us
    world.do(admit("r1"), start("r1"), wait(ms=5_000), succeed("r1"), complete("r1"))
    assert consumed(world, "day", "key:tester", yesterday_us) == USED
    assert consumed(world, "day", "key:tester", world.now_us) == 0
    assert counter_of(world.state, "day", "key:tester", yesterday_us + 1) is None


def test_overshoot_is_on_record() -> None:
    """A provider that bills past the bound is counted as it billed, and what passed is said."""
    billed = Metered(reported=TokenUsage(input_tokens=200, output_tokens=60))
    world = given(ONE, put(rule()), admit("r1"), start("r1"))
    row, told = world.when(succeed("r1", billed)).outcome.facts[-2:]
    assert row == like(UsageRecorded, overshoot_tokens=80)
    assert told == BudgetReleased(
        attempt=1, overshoots=[Overshoot(policy_id="day", subject="key:tester", amount=80)]
    )
    assert counter(world).settled == 260


def test_an_orphan_is_swept_once_and_a_live_hold_never() -> None:
    """A hold without a run that nobody will release, after its time."""
    world = given(ONE, put(rule()), admit("r1"), start("r1"))
    orphan = world.facts(BudgetReserved)[0]
    world.record([Draft("run-gone", orphan)])
    assert sweep(world.state, [], world.now_us) == []
    world.do(wait(ms=2_000_000))
    drafts = sweep(world.state, [], world.now_us)
    assert [draft.stream for draft in drafts] == ["run-gone"]
    assert sweep(world.state, ["gone"], world.now_us) == []
    world.record(drafts)
    assert counter(world).reserved == ASKED
    assert sweep(world.state, [], world.now_us) == []


# -- rules that come, change and go


def test_a_rule_counts_what_was_before_it() -> None:
    """A new rule folds history once; `effective_from` says from when."""
    world = given(ONE, serve("r1"), serve("r2"), put(rule()))
    assert consumed(world, "day", "key:tester", world.now_us) == 2 * USED
    assert len(world.facts(BudgetPolicyCounted)) == 1
    world.do(wait(ms=1), put(rule("later", effective_from_us=world.now_us + 1)))
    assert consumed(world, "later", "key:tester", world.now_us) == 0


def test_a_change_never_resets_what_was_used() -> None:
    """Another limit counts on; another way of counting folds history anew; so does a rule that comes back."""
    world = given(ONE, put(rule()), serve("r1"), put(rule(hard_limit=2_000)))
    assert [one.revision for one in world.facts(BudgetPolicySet)] == [1, 2]
    assert len(world.facts(BudgetPolicyCounted)) == 0
    assert consumed(world, "day", "key:tester", world.now_us) == USED
    world.do(put(rule(token_count="output")))
    assert consumed(world, "day", "key:tester", world.now_us) == 20
    world.do(retire("day"), serve("r2"), put(rule()))
    assert consumed(world, "day", "key:tester", world.now_us) == 2 * USED
    assert [one.revision for one in world.facts(BudgetPolicySet)] == [1, 2, 3, 5]
    before = len(world.history)
    world.do(put(rule()), retire("nobody"))
    assert len(world.history) == before


def test_a_rule_that_is_switched_off_counts_on() -> None:
    """It stops nobody meanwhile; what begins while it is off is counted, whenever it ends."""
    world = given(ONE, put(rule()), admit("r1"), start("r1"), put(rule(enabled=False, hard_limit=1)))
    world.do(serve("r2"), admit("r3"), start("r3"), succeed("r1"), complete("r1"), put(rule()))
    assert consumed(world, "day", "key:tester", world.now_us) == 2 * USED
    world.do(succeed("r3"), complete("r3"), serve("r4"))
    assert consumed(world, "day", "key:tester", world.now_us) == 4 * USED
    world.do(put(rule(enabled=False)), retire("day"), serve("r5"))
    assert world.state.budgets.off == []


def test_what_was_under_way_when_a_rule_came_is_counted() -> None:
    """Its attempt holds nothing of the rule, its row counts all the same: once."""
    world = given(ONE, price(), admit("r1"), start("r1"), put(rule()), succeed("r1"), complete("r1"))
    assert consumed(world, "day", "key:tester", world.now_us) == USED
    world.do(serve("r2"))
    assert consumed(world, "day", "key:tester", world.now_us) == 2 * USED
    world.do(admit("r3"), start("r3"), put(rule(token_count="output")), succeed("r3"), complete("r3"))
    assert consumed(world, "day", "key:tester", world.now_us) == 60
    assert counter(world).unpriced_runs == 0


@pytest.mark.parametrize(
    ("before", "limit", "by"),
    [([], 170, "request"), ([serve("r0")], 200, "settled"), ([admit("r0"), start("r0")], 200, "reserved")],
)
def test_what_was_in_the_way_is_told(before: list[Step], limit: int, by: str) -> None:
    """The request alone, what was used, or what others hold: who waits for the last of them may get in."""
    world = given(ONE, put(rule(hard_limit=limit)), *before, admit("r1"))
    (told,) = world.facts(RoutingDecided)[-1].evaluations
    assert (told.status, told.blocked_by) == ("blocked", by)


def test_another_zone_table_changes_no_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds of a window are in the facts; whoever folds them asks no calendar, and need not have one."""
    rules = (
        rule("there", timezone="Africa/Cairo"),
        rule("week", interval_kind="weekly", timezone="America/New_York"),
    )
    world = given(ONE, *map(put, rules), serve("r1"), wait(ms=DAY_MS), serve("r2"), admit("r3"), start("r3"))

    def gone(name: str) -> None:
        raise LookupError(name)

    monkeypatch.setattr("palyra.decisions.windows.ZoneInfo", gone)
    assert encode_state(world.replayed()) == encode_state(world.state)
    assert encode_state(world.replayed(snapshot_at=9)) == encode_state(world.state)


def test_windows_that_are_over_leave_memory() -> None:
    """Sessions that never come back do not pile up."""
    world = given(ONE, put(rule(scope_kind="session")))
    for number in range(40):
        world.do(serve(f"r{number}", session_id=f"s{number}"), wait(ms=DAY_MS))
    assert len(world.state.budgets.counters) <= 3


def test_a_window_in_which_something_is_held_stays() -> None:
    """What is held in it comes off it when the attempt ends, however long that takes."""
    world = given(ONE, put(rule(scope_kind="session")), admit("r0", session_id="s"), start("r0"))
    for number in range(40):
        world.do(serve(f"r{number + 1}", session_id=f"s{number}"), wait(ms=DAY_MS))
    own = counter(world, subject="s")
    assert (own.reserved, own.shares_count, own.settled) == (180, 1, 0)
    world.do(succeed("r0"))
    assert (own.reserved, own.shares_count, own.settled) == (0, 0, USED)


# -- by brute force


@pytest.mark.parametrize("seed", range(12))
def test_counters_are_the_sum_of_the_rows(seed: int) -> None:
    """Random rules, zones, histories and corrections, rules that come late: each sum is that of the rows."""
    chance = random.Random(seed)
    world = given(THREE, price())
    zones = ["UTC", "Europe/Prague", "America/New_York", "Asia/Kathmandu", "Africa/Cairo"]
    # Days before the nights in which clocks go on and back, in Prague, in New York and in Cairo.
    edges = ["2026-03-28", "2026-10-24", "2026-03-07", "2026-10-31", "2026-04-23", "2026-10-29"]
    noon_us = int(datetime.fromisoformat(f"{edges[seed % len(edges)]}T12:00+00:00").timestamp()) * 1_000_000
    world.now_us = noon_us + chance.randrange(36_000) * 1_000_000
    for serial in range(120):
        what = chance.randrange(10)
        who = {"principal_id": chance.choice(["key:x", "key:y"]), "session_id": chance.choice(["", "s1"])}
        if what == 0:
            kind = chance.choice(["daily", "weekly", "monthly", "rolling"])
            record = rule(
                chance.choice(["p1", "p2", "p3"]),
                scope_kind=chance.choice(["global", "principal", "session", "agent", "provider", "model"]),
                metric_kind=chance.choice(["tokens", "usd_cost"]),
                interval_kind=kind,
                rolling_hours=chance.choice([1, 5, 30]) if kind == "rolling" else None,
                timezone=chance.choice(zones),
                month_day=chance.choice([1, 28]),
                week_start=chance.choice(["monday", "sunday"]),
                hard_limit=chance.choice([900_000, 10**9]),
                effective_from_us=chance.choice([0, world.now_us - 3_600_000_000]),
                enabled=chance.random() < 0.8,
            )
            world.do(put(record))
        elif what == 1:
            world.do(retire(chance.choice(["p1", "p2", "p3"])))
        elif what == 2:
            world.do(_correct(chance))
        elif what == 3:
            world.do(wait(ms=chance.choice([60_000, 900_000, 7_200_000, 86_400_000])))
        elif what == 4 and world.state.runs.open:
            run_id = next(iter(world.state.runs.open))
            world.do(succeed(run_id), complete(run_id))
        else:
            told = world.when(admit(f"r{serial}", **who)).outcome
            if (
                told.refusal is None
                and plan_start(
                    world.state, world.run(f"r{serial}"), Where("a", "gpt"), "gpt-a", world.now_us
                ).judgement.stops
                is False
            ):
                world.do(start(f"r{serial}"))
                if what < 8:
                    world.do(succeed(f"r{serial}"), complete(f"r{serial}"))
            elif told.refusal is None:
                world.do(cancel(f"r{serial}"))
        _compare(world)


def _correct(chance: random.Random) -> Any:
    def step(world: World) -> Any:
        from story import Outcome

        rows = [one for one in world.history if one.name == "usage.recorded"]
        if not rows:
            return Outcome()
        row: Any = chance.choice(rows)
        corrected = UsageCorrected(
            run_id=row.stream[4:],
            attempt=row.body.attempt,
            corrects_position=row.position,
            cost_before_nanousd=row.body.cost_nanousd,
            cost_after_nanousd=(row.body.cost_nanousd or 0) + chance.randrange(-50, 50),
            **{
                name: getattr(row.body, name)
                for name in (
                    "provider_id",
                    "model_id",
                    "principal_id",
                    "key_id",
                    "session_id",
                    "agent_id",
                    "endpoint",
                    "origin",
                    "effective_at_us",
                )
            },
        )
        return Outcome(recorded=world.record([Draft("corrections", corrected)]))

    return step


def _compare(world: World) -> None:
    for policy_id, policy in world.state.budgets.policies.items():
        subjects = {"", "key:x", "key:y", "s1", "none:key:x", "none:key:y", "a", "b", "c", "a/gpt", "b/gpt"}
        for subject in sorted(subjects):
            expected = counted_by_hand(world, policy.record, subject, world.now_us)
            assert consumed(world, policy_id, subject, world.now_us) == expected, (policy.record, subject)
    held = {}
    for hold in world.state.budgets.holds.values():
        for share in hold.shares:
            held[share.policy_id, share.subject] = held.get((share.policy_id, share.subject), 0) + share.amount
    for counted in world.state.budgets.counters.values():
        assert counted.reserved <= held.get((counted.policy_id, counted.subject), 0)


def test_a_rule_that_went_while_a_run_was_stopped_by_it_has_stopped_it() -> None:
    """The last candidate was left for a rule that is no more; the run ends as it was told."""
    world = given(ONE, admit("r1"))
    world.when(go_on("r1", "budget_excluded", after=0)).then(
        like(RunFailed, code="budget_blocked", failure_class="budget_excluded")
    )
