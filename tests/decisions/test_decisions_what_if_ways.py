"""What-if, along the ways that runs would have gone: other breakers, plans and grants, and what the proof finds."""

from __future__ import annotations

from typing import Any

import msgspec
from budget_kit import price, put, rule
from registries import model, provider, registry
from story import (
    World,
    admission,
    admit,
    cancel,
    complete,
    fail,
    given,
    go_on,
    record,
    serve,
    start,
    succeed,
    wait,
)
from test_decisions_what_if import of, same, what_if

from palyra.decisions.approvals import Verdict, hold, override, resume
from palyra.decisions.estimates import estimate_of
from palyra.decisions.recovery import recover_run
from palyra.decisions.runs import admit as decide
from palyra.decisions.usage import Metered
from palyra.errors import Refusal
from palyra.events.attempts import AttemptStarted, AttemptSucceeded
from palyra.events.budgets import BudgetReserved
from palyra.events.circuits import CircuitForced, CircuitOpened
from palyra.events.daemon import DaemonClockStepped
from palyra.events.registry import Registry
from palyra.events.routing import Exclusion, RoutingFailedOver
from palyra.events.runs import RunRefused
from palyra.projections.catalog import model_entry
from palyra.usage import TokenUsage

#: `gpt` at a, then at b; a token costs 1,000 everywhere.
TOKEN = 1_000


def both(**breaker: Any) -> Registry:
    return registry(
        provider("a", max_retries=0, **breaker), provider("b", max_retries=0), model("gpt", "a"), model("gpt", "b")
    )


def lost(metered: Metered | None = None) -> Any:
    """Return the end of a call that came to nothing after it had begun to answer; it has a row."""
    seen = metered or Metered(reported=TokenUsage(input_tokens=90))
    return {"phase": "body", "status": 200, "metered": seen, "may_retry": False}


def failed_over(run_id: str) -> list[Any]:
    """Fail at a for the price of the input, and be served by b."""
    return [
        *(admit(run_id), start(run_id), fail(run_id, "stream_truncated", **lost())),
        *(go_on(run_id, "stream_truncated", phase="body"), start(run_id, candidate=1)),
        *(succeed(run_id), complete(run_id, candidate=1)),
    ]


# -- breakers


def test_a_breaker_that_opens_sooner_spares_the_calls_behind_it() -> None:
    """After two failures nobody asks a any more; what those calls cost is saved, the answers are the same."""
    world = given(both(circuit_breaker_failure_threshold=5), price())
    for number in range(4):
        world.do(*failed_over(f"r{number}"), wait(ms=1_000))
    assert same(what_if(world, registry=world.state.catalog.registry))
    report = what_if(world, registry=both(circuit_breaker_failure_threshold=2))
    assert of(report) == {"same": 2, "rerouted": 2}
    assert {(one.before, one.after) for one in report.differing} == {("a/gpt", "b/gpt")}
    assert report.delta_nanousd == -2 * 90 * TOKEN
    assert report.unfaithful_count == 0


def test_a_breaker_that_waits_longer_keeps_them_away_longer() -> None:
    """The trial that was made after a second is not made yet, and comes to pass when its time is over."""

    def alone(cooldown_ms: int) -> Registry:
        breaker = {"circuit_breaker_failure_threshold": 1, "circuit_breaker_cooldown_ms": cooldown_ms}
        return registry(provider("a", max_retries=0, **breaker), model("gpt", "a"))

    world = given(alone(1_000), price(), admit("r1"), start("r1"), fail("r1", may_retry=False), go_on("r1"))
    world.do(wait(ms=2_000), serve("r2"), wait(ms=60_000), serve("r3"))
    report = what_if(world, registry=alone(30_000))
    assert of(report) == {"same": 2, "newly_blocked": 1}
    assert [(one.run_id, one.after) for one in report.differing] == [("r2", "all_circuits_open")]
    assert report.delta_nanousd == -110 * TOKEN
    # One that never opens asks a at once; a call that was not made is taken to have gone well.
    world = given(both(circuit_breaker_failure_threshold=1, circuit_breaker_cooldown_ms=60_000), price())
    world.do(*failed_over("r1"), admit("r2"), start("r2"), succeed("r2"), complete("r2"))
    report = what_if(world, registry=both(circuit_breaker_failure_threshold=99))
    assert [(one.run_id, one.before, one.after) for one in report.differing] == [("r2", "b/gpt", "a/gpt")]


def test_what_somebody_did_to_a_circuit_by_hand_was_done_there_too() -> None:
    """And a clock that was set moves its cooldown as it did here."""
    world = given(both(circuit_breaker_failure_threshold=5), price())
    until_us = world.now_us + 5_000_000
    world.do(record("provider-a", CircuitForced(after="open", until_us=until_us)), serve("r1"))
    now_us = world.now_us
    stepped = DaemonClockStepped(
        cause="step", wall_before_us=now_us, wall_after_us=now_us + 3_000_000, monotonic_elapsed_us=0
    )
    world.do(record("daemon", stepped), wait(ms=6_000), serve("r2"))
    report = what_if(world, registry=both(circuit_breaker_failure_threshold=2))
    assert of(report) == {"same": 2}, report.differing


def test_an_abandoned_or_cancelled_trial_opens_the_circuit_again() -> None:
    """Nobody knows what it would have come to."""
    made = both(circuit_breaker_failure_threshold=1, circuit_breaker_cooldown_ms=1_000)
    world = given(made, price(), *failed_over("r1"), wait(ms=2_000), admit("r2"), start("r2"))
    world.record(recover_run(world.state, world.run("r2"), boot_id="b", now_us=world.now_us))
    world.do(serve("r3"))
    other = both(circuit_breaker_failure_threshold=1, circuit_breaker_cooldown_ms=1_500)
    assert of(what_if(world, registry=other)) == {"same": 3}


def test_an_answer_to_nothing_moves_no_circuit() -> None:
    """A journal may hold anything; an end without a start is nobody's."""
    stray = record("run-r1", AttemptSucceeded(attempt=1, stop="stop", duration_us=1))
    world = given(both(circuit_breaker_failure_threshold=5), price(), admit("r1"), stray, cancel("r1"))
    assert same(what_if(world, registry=both(circuit_breaker_failure_threshold=2)))


# -- plans


def test_a_call_that_would_not_have_been_made_is_not_paid_for() -> None:
    """With b in the first place a is not asked at all; the tokens of b's answer are b's still."""
    world = given(both(), price(), *failed_over("r1"))
    swapped = registry(
        provider("a", max_retries=0),
        provider("b", max_retries=0),
        model("gpt", "a", priority=2),
        model("gpt", "b", priority=1),
    )
    report = what_if(world, registry=swapped)
    assert [(one.before, one.after) for one in report.differing] == [("a/gpt", "b/gpt")]
    assert (report.cost_before_nanousd, report.cost_after_nanousd) == (200 * TOKEN, 110 * TOKEN)


def test_a_failure_there_leads_to_the_candidate_that_follows_there() -> None:
    """Both ask a first, which fails as it did; c was never asked, so the answer's tokens stand for it."""
    world = given(both(), price(), *failed_over("r1"))
    other = registry(
        provider("a", max_retries=0),
        provider("c"),
        model("gpt", "a"),
        model("gpt", "c"),
        failover_scope="same_model",
    )
    dear = [msgspec.structs.replace(one, price_id="") for one in world.state.pricing.by_id.values()][:1]
    prices = [
        msgspec.structs.replace(
            dear[0], provider_id=name, price_id=name, input_nanousd_per_mtok=rate, output_nanousd_per_mtok=rate
        )
        for name, rate in (("a", 1_000_000_000), ("c", 3_000_000_000))
    ]
    report = what_if(world, registry=other, prices=prices)
    assert of(report) == {"same": 1}
    assert report.cost_after_nanousd == (90 + 3 * 110) * TOKEN
    assert set(report.by_model) == {"a/gpt", "b/gpt", "c/gpt"}


def test_a_run_that_failed_and_has_somebody_left_there_costs_what_is_expected() -> None:
    """Nobody knows the answer that was never given; so it is a span."""
    alone = registry(provider("a", max_retries=0), model("gpt", "a"))
    world = given(alone, price(), admit("r1"), start("r1"))
    world.do(fail("r1", "stream_truncated", **lost()), go_on("r1", "stream_truncated", phase="body"))
    assert "r1" not in world.state.runs.open
    assert same(what_if(world))
    prices = list(world.state.pricing.by_id.values())
    more = [*prices, msgspec.structs.replace(prices[0], provider_id="b", price_id="b")]
    report = what_if(world, registry=both(), prices=more)
    probe = given(both(), price(), admit("r1"))
    entry = model_entry(probe.state, "chat", "b", "gpt")
    assert entry is not None
    expected = estimate_of(probe.state, probe.run("r1"), entry, probe.now_us).expected_nanousd
    assert expected is not None
    assert report.delta_nanousd == expected
    assert report.delta_lower_nanousd < report.delta_nanousd < report.delta_upper_nanousd
    # Where a rule stops that candidate, the run fails there as it did here.
    stopped = what_if(
        world,
        registry=both(),
        prices=more,
        added=[rule("b", scope_kind="provider", scope_id="b", hard_limit=1, shrink_output=False)],
    )
    assert stopped.delta_nanousd == 0


def test_a_plan_that_ends_sooner_fails_sooner() -> None:
    """Who stood in for a here is not there; what a cost is all that it costs."""
    world = given(both(), price(), put(rule("day", hard_limit=100_000)), *failed_over("r1"))
    report = what_if(world, registry=registry(provider("a", max_retries=0), model("gpt", "a")))
    assert of(report) == {"same": 1}
    assert (report.cost_before_nanousd, report.cost_after_nanousd) == (200 * TOKEN, 90 * TOKEN)


def test_a_failure_that_costs_nothing_lets_go_of_what_was_held() -> None:
    """An error has no row; the next candidate is held for anew."""
    world = given(both(), price(), put(rule("day", hard_limit=400)), admit("r1"), start("r1"))
    world.do(fail("r1", status=503, may_retry=False), go_on("r1"), start("r1", candidate=1))
    world.do(succeed("r1"), complete("r1", candidate=1), serve("r2"))
    assert same(what_if(world))
    report = what_if(world, added=[rule("all", scope_kind="global", hard_limit=290)])
    assert of(report) == {"same": 2}, "110 were used, 180 are asked for, and nothing is held any more"


def test_a_rule_may_stop_the_candidate_that_would_have_followed() -> None:
    """It was in the plan, and somebody else used what was left before it came to it."""
    recorded = registry(
        provider("a", max_retries=0),
        provider("b"),
        model("gpt", "a", fallbacks=[]),
        model("other", "b", fallbacks=[]),
    )
    there = registry(
        provider("a", max_retries=0),
        provider("b"),
        model("gpt", "a", fallbacks=None),
        model("gpt", "b", priority=200),
        model("other", "b", fallbacks=[]),
        failover_scope="same_model",
    )
    world = given(recorded, price(), admit("r1"), start("r1"), serve("r2", model_name="other"))
    world.do(fail("r1", "stream_truncated", **lost()), go_on("r1", "stream_truncated", phase="body"))
    assert "r1" not in world.state.runs.open
    limit = rule("b", scope_kind="provider", scope_id="b", hard_limit=250, shrink_output=False)
    report = what_if(world, registry=there, added=[limit])
    assert report.delta_nanousd == 0
    assert what_if(world, registry=there).unpriced_after == 1


def test_what_is_not_compared_goes_along_with_what_it_holds() -> None:
    """Before the span runs are served, fail and are given up as they were, under the rules that are there."""
    day = put(rule("day", hard_limit=100_000))
    world = given(both(), price(), day, *failed_over("r1"), admit("r2"), start("r2"))
    world.do(fail("r2", status=503, may_retry=False), cancel("r2"), wait(ms=1_000), serve("r3"))
    assert "r2" not in world.state.runs.open
    report = what_if(world, from_us=world.now_us, added=[rule("all", scope_kind="global", hard_limit=480)])
    assert of(report) == {"same": 1}, "200 were used before it, and 180 are asked for"
    report = what_if(world, from_us=world.now_us, added=[rule("all", scope_kind="global", hard_limit=370)])
    assert of(report) == {"newly_blocked": 1}


def test_what_is_let_in_there_is_held_by_the_rules_that_are_left() -> None:
    """One rule is gone, another counts what it lets in."""
    world = given(both(), price(), put(rule("hard", hard_limit=1)), admit("r1"), admit("r2"))
    report = what_if(world, policies=[rule("soft", scope_kind="global", hard_limit=300)])
    assert of(report) == {"newly_admitted": 1, "same": 1}


def test_a_run_that_failed_elsewhere_is_taken_to_be_answered_there() -> None:
    """All that was asked here failed, and it is asked elsewhere there."""
    cut = fail("r1", "stream_truncated", **{**lost(), "phase": "content"})
    world = given(both(), price(), admit("r1"), start("r1"), cut)
    world.do(go_on("r1", "stream_truncated", phase="content"))
    assert "r1" not in world.state.runs.open
    only_b = registry(provider("b"), model("gpt", "b"))
    report = what_if(world, registry=only_b)
    assert report.counts["rerouted"] == 1
    assert report.cost_before_nanousd == 90 * TOKEN
    assert report.by_model["b/gpt"].after_nanousd == report.cost_after_nanousd > 0


def test_a_failure_in_the_middle_of_an_answer_ends_the_run_there_too() -> None:
    """The client has part of it already, so nobody else may go on."""
    cut = fail("r1", "stream_truncated", **{**lost(), "phase": "content"})
    world = given(both(), price(), admit("r1"), start("r1"), cut)
    world.do(go_on("r1", "stream_truncated", phase="content"))
    assert same(what_if(world))


def test_a_candidate_that_was_left_without_a_call_is_left_there_as_well() -> None:
    """Its queue was full: that is how the world was."""
    world = given(both(), price(), admit("r1"), go_on("r1", "provider_queue_full", phase="connect"))
    world.do(start("r1", candidate=1), succeed("r1"), complete("r1", candidate=1))
    assert same(what_if(world)), what_if(world)


def test_a_rule_that_stopped_a_start_here_may_let_it_pass_there() -> None:
    """a was passed over because of its rule; without the rule a is asked, for b's tokens."""
    limited = put(rule("a", scope_kind="provider", scope_id="a", hard_limit=250))
    world = given(both(), price(), limited, admit("r1"), admit("r2"), start("r1"))
    assert world.run("r2").plan[0].provider_id == "a"
    world.do(go_on("r2", "budget_excluded", phase="connect"), start("r2", candidate=1))
    world.do(succeed("r2"), complete("r2", candidate=1), succeed("r1"), complete("r1"))
    assert same(what_if(world)), what_if(world)
    report = what_if(world, policies=[])
    assert report.delta_nanousd == 0
    assert report.by_model["a/gpt"].after_nanousd == 2 * 110 * TOKEN
    # And the other way round: a rule there passes over who was asked here.
    world = given(both(), price(), admit("r1"), admit("r2"), start("r1"), start("r2"))
    world.do(succeed("r1"), complete("r1"), succeed("r2"), complete("r2"))
    report = what_if(world, added=[rule("a", scope_kind="provider", scope_id="a", hard_limit=250)])
    assert report.by_model["b/gpt"].after_nanousd == 110 * TOKEN
    assert of(report) == {"same": 2}


def test_parts_of_a_request_are_each_answered_elsewhere() -> None:
    """A long list is embedded in several calls; every one of them moves."""
    vectors = registry(
        provider("a"), provider("b"), model("vec", "a", role="embeddings"), default_embeddings_model_id="vec"
    )
    world = given(vectors, price(), admit("r1", "vec", endpoint="embeddings", output_max_tokens=None))
    world.do(start("r1"), succeed("r1"), start("r1"), succeed("r1"), complete("r1"))
    other = registry(provider("b"), model("vec", "b", role="embeddings"), default_embeddings_model_id="vec")
    report = what_if(world, registry=other)
    assert report.counts["rerouted"] == 1
    assert (report.by_model["a/vec"].before_nanousd, report.unpriced_after) == (220 * TOKEN, 2)


def test_a_run_that_was_given_up_is_given_up_there() -> None:
    """Whoever waited has gone, wherever it was asked."""
    world = given(
        both(), price(), admit("r1"), start("r1"), fail("r1", "client_disconnected", **lost()), cancel("r1")
    )
    report = what_if(world, registry=registry(provider("b"), model("gpt", "b")))
    assert (report.counts["rerouted"], report.cost_after_nanousd) == (1, 0)
    world = given(both(), price(), *failed_over("r1"), admit("r2"), cancel("r2"))
    assert same(what_if(world))


# -- grants


def asking(**changes: Any) -> Any:
    return rule("ask", hard_limit=200, on_hard="approval_required", shrink_output=False, **changes)


def granted(*, uses: int = 5) -> World:
    """Return a world in which a rule was passed with a grant, and then asked for once more."""
    world = given(both(), price(), put(asking()), serve("r1"), admit("r2"))
    policy = world.state.budgets.policies["ask"]
    verdict = Verdict(is_granted=True, uses_max=uses, amount_max=1_000)
    made = override(world.state, policy, "key:tester", verdict, now_us=world.now_us)
    assert not isinstance(made, Refusal)
    world.record(made)
    world.do(serve("r3"), serve("r4"))
    return world


def test_what_was_granted_holds_there_too() -> None:
    """The recorded rules change nothing, whoever was let past them by whom."""
    world = granted()
    assert {one.code for one in world.facts(RunRefused)} == {"budget_approval_required"}
    report = what_if(world)
    assert same(report), report
    assert report.runs == 4
    assert same(what_if(world, accounting=world.state.config.accounting))


def test_a_rule_that_asks_is_told_apart_from_one_that_refuses() -> None:
    """Whether it is met at the admission or at the start."""
    world = given(both(), price(), serve("r1"), serve("r2"))
    report = what_if(world, added=[asking()])
    assert of(report) == {"same": 1, "newly_approval": 1}
    assert [(one.after, one.policy_id) for one in report.differing] == [("budget_approval_required", "ask")]
    world = given(both(), price(), admit("r1"), admit("r2"), start("r1"), start("r2"))
    world.do(succeed("r1"), succeed("r2"), complete("r1"), complete("r2"))
    assert of(what_if(world, added=[asking()])) == {"same": 1, "newly_approval": 1}


def test_a_run_that_was_held_is_compared_as_it_was_let_in() -> None:
    """It was decided anew when it was resumed."""
    world = given(both(), price(), put(asking(soft_limit=1)), serve("r1"))
    command, asked_us = admission("r2"), world.now_us
    held = hold(world.state, "r2", decide(world.state, command, asked_us), asked_us, asked_us + 60_000_000)
    assert held is not None
    world.record(held)
    world.do(wait(ms=1_000), put(asking(soft_limit=2)), put(rule("ask", hard_limit=2_000)))
    world.record(resume("r2", decide(world.state, command, world.now_us), 1_000_000))
    world.do(start("r2"), succeed("r2"), complete("r2"))
    assert same(what_if(world)), what_if(world)


# -- downgrades


def test_who_is_downgraded_is_counted() -> None:
    """A rule leaves the cheap model to those who are past its limit."""
    small = registry(provider("a"), model("gpt", "a", quality=60), model("small", "a", quality=30))
    world = given(small, price(), serve("r1"), serve("r2"))
    report = what_if(world, added=[rule("cheap", hard_limit=200, on_hard="downgrade", downgrade_to=["small"])])
    assert (report.counts["rerouted"], report.downgraded, report.degraded) == (1, 1, 1)
    assert [(one.after, one.action) for one in report.differing] == [("a/small", "degrade")]


# -- the proof


def tampered(world: World, kind: type, **changes: Any) -> int:
    """Return how often the proof fails where facts of a kind are others than the recorded rules give."""
    from palyra.decisions.what_if import OtherRules, WhatIf

    folding = WhatIf(OtherRules())
    for one in world.history:
        if isinstance(one.body, kind):
            one = msgspec.structs.replace(one, body=msgspec.structs.replace(one.body, **changes))
        folding.add(one)
    return folding.report().unfaithful_count


def test_a_hold_a_price_and_a_next_candidate_that_are_no_such_are_found() -> None:
    """Not only admissions are decided again."""
    world = given(both(), price(), put(rule("day", hard_limit=100_000)), *failed_over("r1"))
    assert tampered(world, AttemptStarted) == 0
    share = world.facts(BudgetReserved)[0].shares[0]
    assert tampered(world, BudgetReserved, shares=[msgspec.structs.replace(share, amount=1)]) == 2
    assert tampered(world, AttemptStarted, price_id="other") == 2
    skipped = [Exclusion(provider_id="x", model_id="y", excluded_by="duplicate")]
    assert tampered(world, RoutingFailedOver, skipped=skipped) == 1
    assert tampered(world, RoutingFailedOver, provider_id="c") == 1
    assert tampered(world, RoutingFailedOver, trigger="nothing_known") == 1


def test_a_start_without_the_hold_that_rules_want_is_found() -> None:
    """A start that nobody kept anything for passed the gate."""
    world = given(both(), price(), put(rule("day", hard_limit=100_000)), serve("r1"))
    from palyra.decisions.what_if import OtherRules, WhatIf

    folding = WhatIf(OtherRules())
    for one in world.history:
        if not isinstance(one.body, BudgetReserved):
            folding.add(one)
    assert folding.report().unfaithful_count == 1


def test_a_failover_to_nobody_is_found() -> None:
    """There is no such candidate in its plan."""
    world = given(registry(provider("a"), model("gpt", "a")), price(), admit("r1"), start("r1"))
    world.do(fail("r1", may_retry=False))
    moved = RoutingFailedOver(from_attempt=1, trigger="overloaded", provider_id="b", model_id="gpt")
    world.do(record("run-r1", moved))
    assert what_if(world).unfaithful_count == 1


def test_a_circuit_that_opened_by_itself_is_the_worlds() -> None:
    """Breakers that are set as they were are taken as they were recorded."""
    world = given(both(), price())
    opened = CircuitOpened(reason="threshold", until_us=world.now_us + 60_000_000)
    world.do(record("provider-a", opened), serve("r1"))
    assert same(what_if(world, registry=world.state.catalog.registry))
