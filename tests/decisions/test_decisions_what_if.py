"""What-if: the recorded rules change nothing, other rules change what an oracle says they change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from budget_kit import price, put, retire, rule
from registries import model, provider, registry
from routing_kit import TOKEN_NANOUSD, routed, three_grades
from story import (
    World,
    admit,
    adopt,
    break_down,
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

from palyra.decisions.pricing import with_id
from palyra.decisions.what_if import OtherRules, WhatIf, WhatIfReport
from palyra.events.budgets import BudgetReleased, BudgetReserved
from palyra.events.cache import CacheHit
from palyra.events.discovery import DiscoveryCompleted
from palyra.events.routing import RoutingDecided
from palyra.events.runs import RunAdmitted, RunCompleted, RunRefused
from palyra.events.smart_routing import SmartRouting
from palyra.events.usage import UsageRecorded
from palyra.projections.pricing import entries_in_force


def what_if(world: World, *, from_us: int = 0, **other: Any) -> WhatIfReport:
    """Return the report of a world's history under other rules."""
    folding = WhatIf(OtherRules(**other), from_us=from_us)
    for one in world.history:
        folding.add(one)
    return folding.report()


def of(report: WhatIfReport) -> dict[str, int]:
    """Return the verdicts that occurred."""
    return {name: number for name, number in report.counts.items() if number}


def same(report: WhatIfReport) -> bool:
    return set(of(report)) <= {"same"} and report.delta_nanousd == 0 and not report.unfaithful_count


def test_a_rule_that_is_added_takes_the_place_of_one_of_its_name() -> None:
    """However often that one was set, changed, and taken back."""
    world = given(None, put(rule("day", hard_limit=10**6)), serve("s1"), put(rule("day", hard_limit=10**7)))
    world.do(serve("s2"), retire("day"), serve("s3"), put(rule("day", hard_limit=10**8)), serve("s4"))
    assert of(what_if(world, added=[rule("day", hard_limit=110 + 180)])) == {"same": 2, "newly_blocked": 2}


def a_busy_day(**routing: Any) -> World:
    """Chat and embeddings; served, failed over, refused, cancelled; two rules; three grades of models."""
    config = three_grades(model("vec", "a", role="embeddings"), default_embeddings_model_id="vec")
    world = routed(
        put(rule("day", hard_limit=2_000)),
        put(rule("soft", soft_limit=100, hard_limit=None)),
        config=config,
        **routing,
    )
    for number in range(9):
        world.do(serve(f"s{number}"), wait(ms=1_000))
    world.do(
        admit("f1", "palyra/best"),
        start("f1"),
        fail("f1", may_retry=False),
        go_on("f1"),
        start("f1", candidate=1),
        succeed("f1"),
        complete("f1", candidate=1),
        admit("e1", "vec", endpoint="embeddings", output_max_tokens=None),
        start("e1"),
        succeed("e1"),
        complete("e1"),
        break_down("b1"),
        admit("n1", "nobody"),
        admit("x1", raw_tokens=900_000),
        admit("c1"),
        cancel("c1"),
        wait(ms=60_000),
        *(serve(f"t{number}") for number in range(3)),
    )
    return world


@pytest.mark.parametrize("mode", ["suggest", "dry_run", "enforced"])
def test_the_recorded_rules_change_nothing(mode: str) -> None:
    """Every recorded decision is decided again the same, and costs the same."""
    world = a_busy_day(mode=mode)
    report = what_if(world)
    assert same(report), report
    assert report.cost_before_nanousd == sum(row.cost_nanousd or 0 for row in world.facts(UsageRecorded)) > 0
    explicit = what_if(
        world,
        registry=world.state.catalog.registry,
        routing=world.state.config.routing,
        accounting=world.state.config.accounting,
        prices=list(entries_in_force(world.state)),
        policies=[one.record for one in world.state.budgets.policies.values()],
    )
    assert same(explicit), explicit


def test_who_was_fast_is_the_worlds_under_any_rules() -> None:
    """Requests for the fastest model go where they went, by how long answers took then and not later."""
    world = routed(mode="enforced")
    for number in range(12):
        run_id = f"r{number}"
        world.do(admit(run_id, "palyra/fast"), start(run_id), succeed(run_id, duration_us=number * 900_000))
        world.do(complete(run_id))
    assert len({fact.recommended for fact in world.facts(RoutingDecided)}) > 1
    assert same(what_if(world, routing=world.state.config.routing)), "decided again the same"


def oracle(world: World, limit: int) -> list[str]:
    """Return the runs that a limit of tokens a day for everybody together would have refused, one after another.

    Runs here do not overlap: each asks for its bound, and what it used counts for the next.
    """
    used, refused = 0, []
    rows = {one.stream[4:]: one.body for one in world.history if isinstance(one.body, UsageRecorded)}
    for one in world.history:
        if isinstance(one.body, RunAdmitted):
            run_id = one.stream[4:]
            if used + one.body.tokens.upper + 50 > limit:
                refused.append(run_id)
            elif run_id in rows:
                used += rows[run_id].usage.total_tokens
    return refused


@pytest.mark.parametrize("limit", [0, 179, 180, 500, 1_000, 1_100, 5_000])
def test_a_limit_blocks_exactly_whom_the_oracle_says(limit: int) -> None:
    """Consumption is closed-loop: who is refused uses nothing, and leaves room for the next."""
    world = given(None, price())
    for number in range(12):
        world.do(serve(f"r{number}", raw_tokens=100), wait(ms=10))
    report = what_if(world, added=[rule("all", scope_kind="global", hard_limit=limit)])
    refused = oracle(world, limit)
    assert [one.run_id for one in report.differing] == refused
    assert {one.verdict for one in report.differing} <= {"newly_blocked"}
    assert report.counts["newly_blocked"] == len(refused)
    assert report.delta_nanousd == -110 * 1_000 * len(refused)
    assert (report.by_policy["all"].before_nanousd if refused else 0) == 110 * 1_000 * len(refused)
    assert [one.kind for one in report.limits] == (["hard"] if refused else [])


def test_what_was_refused_and_fits_now_costs_what_is_expected() -> None:
    """Without the rule everybody is admitted; nobody knows what they would have used, so it is a span."""
    world = given(None, price(), put(rule(hard_limit=180)))
    world.do(serve("r1"), admit("r2"), admit("r3"))
    report = what_if(world, policies=[])
    assert of(report) == {"same": 1, "newly_admitted": 2}
    assert report.delta_nanousd == 2 * 150 * 1_000
    assert report.delta_lower_nanousd < report.delta_nanousd < report.delta_upper_nanousd


def test_enforcing_reroutes_and_tells_what_it_saves() -> None:
    """Suggest was in force; enforced would have served the small model, with the same tokens."""
    world = routed()
    world.do(serve("r1"), serve("r2"))
    report = what_if(world, routing=SmartRouting(mode="enforced"))
    assert of(report) == {"rerouted": 2}
    assert report.delta_nanousd == 2 * 110 * (TOKEN_NANOUSD["small"] - TOKEN_NANOUSD["gpt"])
    first = report.differing[0]
    assert (first.before, first.after) == ("b/gpt", "a/small")
    assert "requested_overridden" in first.reasons_after
    assert (report.by_model["b/gpt"].before_nanousd, report.by_model["b/gpt"].after_nanousd) == (2_200_000, 0)


def test_other_prices_are_paid_for_the_same_tokens() -> None:
    """Nobody goes another way; the sum is another."""
    world = given(None, price())
    world.do(serve("r1"))
    dearer = [
        with_id(msgspec.structs.replace(one, price_id="", input_nanousd_per_mtok=2_000_000_000))
        for one in entries_in_force(world.state)
    ]
    report = what_if(world, prices=dearer)
    assert of(report) == {"same": 1}
    assert report.delta_nanousd == 90 * 1_000


def test_unknown_prices_are_counted_and_in_no_sum() -> None:
    """None is not zero."""
    world = given(None, price())
    world.do(serve("r1"))
    report = what_if(world, prices=[])
    assert (report.unpriced_before, report.unpriced_after, report.cost_after_nanousd) == (0, 1, 0)


def test_another_registry_moves_who_asked_for_what_is_gone() -> None:
    """A model that is there no more refuses; a name that led nowhere cannot be told."""
    world = given(None, price())
    world.do(serve("r1"), admit("r2", "new"))
    other = registry(provider("a"), model("new", "a"), default_chat_model_id="new")
    report = what_if(world, registry=other)
    assert of(report) == {"newly_blocked": 1, "undecidable": 1}
    assert [(one.before, one.after) for one in report.differing] == [
        ("a/gpt", "model_not_found"),
        ("model_not_found", "a/new"),
    ]


def test_only_a_span_is_compared_and_all_before_it_counts() -> None:
    """Older requests fill the window, and are stopped by nothing."""
    world = given(None, price())
    world.do(serve("r1"), serve("r2"), wait(ms=1_000))
    from_us = world.now_us
    world.do(serve("r3"), serve("r4"))
    report = what_if(world, from_us=from_us, added=[rule("all", scope_kind="global", hard_limit=420)])
    assert report.runs == 2
    assert [one.run_id for one in report.differing] == ["r4"]


def test_rules_of_a_file_give_way_to_those_of_another_and_others_stay() -> None:
    """What somebody set by hand is in neither file."""
    file_rule = rule("file", hard_limit=1, managed_by="file", effective_from_us=1 << 61)
    hand = rule("hand", hard_limit=180, managed_by="journal")
    world = given(None, price(), put(file_rule), put(hand))
    world.do(serve("r1"), admit("r2"))
    assert of(what_if(world, file_policies=[])) == {"same": 2}
    assert of(what_if(world, file_policies=[rule("file", hard_limit=1)])) == {"same": 1, "newly_blocked": 1}
    assert of(what_if(world, policies=[])) == {"same": 1, "newly_admitted": 1}


def test_a_journal_that_was_decided_otherwise_is_not_faithful() -> None:
    """A fact that the recorded rules do not give again is named by its position."""
    world = given(None, price())
    world.do(serve("r1"))
    history = [
        msgspec.structs.replace(one, body=msgspec.structs.replace(one.body, config_generation=9))
        if isinstance(one.body, RunAdmitted)
        else one
        for one in world.history
    ]
    folding = WhatIf(OtherRules())
    for one in history:
        folding.add(one)
    report = folding.report()
    positions: Sequence[int] = [one.position for one in history if isinstance(one.body, RunAdmitted)]
    assert (report.unfaithful_count, report.unfaithful_positions) == (1, list(positions))


def test_an_open_run_at_the_end_is_no_trouble() -> None:
    """A journal may end anywhere."""
    world = given(None, price(), put(rule(hard_limit=400)))
    world.do(admit("r1"), start("r1"), admit("r2"), adopt(world.state.catalog.registry))
    assert same(what_if(world))
    assert of(what_if(world, added=[rule("all", scope_kind="global", hard_limit=200)])) == {
        "same": 1,
        "newly_blocked": 1,
    }


def test_what_cannot_be_compared_goes_along() -> None:
    """A hit of the cache, a rule set and retired by hand, a list of models: none of it is decided here."""
    world = given(None, price(), put(rule("hand", hard_limit=100_000)))
    world.do(
        serve("r1"), put(rule("hand", hard_limit=200_000)), retire("hand"), put(rule("hand", hard_limit=300_000))
    )
    told = world.facts(RunAdmitted)[0]
    hit = CacheHit(key_digest="d", of_run_id="r1", age_ms=1, saved_input_tokens=1, saved_output_tokens=1)
    completed = RunCompleted(stop="stop", provider_id="a", model_id="gpt", attempts_count=0, duration_us=0)
    world.do(record("run-r2", told, hit, completed), serve("r3"))
    world.do(record("provider-a", DiscoveryCompleted(digest="d", models_count=0)))
    world.do(record("run-r4", RunRefused(code="body_too_large", http_status=413)))
    report = what_if(world)
    assert same(report), report
    assert report.runs == 2
    assert same(what_if(world, file_policies=[]))
    assert same(what_if(world, policies=[]))


def test_a_start_that_does_not_fit_any_more_is_blocked_there() -> None:
    """Both were admitted while nothing was held; the second start finds the first one's hold."""
    world = given(None, price())
    world.do(
        admit("r1"),
        admit("r2"),
        start("r1"),
        start("r2"),
        succeed("r1"),
        succeed("r2"),
        complete("r1"),
        complete("r2"),
    )
    report = what_if(world, added=[rule("all", scope_kind="global", hard_limit=300)])
    assert of(report) == {"same": 1, "newly_blocked": 1}
    assert [(one.run_id, one.after, one.policy_id) for one in report.differing] == [("r2", "budget_blocked", "all")]
    assert report.delta_nanousd == -110 * 1_000


def test_long_lists_are_cut_and_counted() -> None:
    """All are in the sums."""
    world = given(None, price())
    for number in range(4):
        world.do(serve(f"r{number}"))
    soft = rule("soft", scope_kind="principal", hard_limit=0)
    folding = WhatIf(OtherRules(added=[soft, rule("b", hard_limit=0)]), listed_max_count=1)
    for one in world.history:
        folding.add(one)
    report = folding.report()
    assert (report.counts["newly_blocked"], len(report.differing), report.omitted_count) == (4, 1, 3)
    assert len(report.limits) == 1


def test_what_is_admitted_now_and_has_no_price_is_in_no_sum() -> None:
    """Its cost is not known, neither more nor less."""
    world = given(None, put(rule(hard_limit=1)))
    world.do(admit("r1"))
    report = what_if(world, policies=[])
    assert (report.counts["newly_admitted"], report.unpriced_after, report.delta_upper_nanousd) == (1, 1, 0)


def test_odd_facts_stop_nothing() -> None:
    """A run without a plan, a hold that is released twice: counted as what they are."""
    world = given(None, price(), put(rule()))
    twice = (BudgetReleased(attempt=1), BudgetReleased(attempt=1))
    world.do(admit("r1"), start("r1"), record("run-r1", *twice), succeed("r1"), complete("r1"))
    assert same(what_if(world))
    reserved = world.facts(BudgetReserved)[0]
    world.do(admit("r3"), record("run-r3", reserved, BudgetReleased(attempt=1)), cancel("r3"))
    assert same(what_if(world))
    world.do(record("run-r2", world.facts(RunAdmitted)[0]))
    assert what_if(world).unfaithful_count == 1
