"""Alerts about spending: leaps and not growth, another mix and not another size, money for nothing, shut doors."""

from __future__ import annotations

from typing import Any

import pytest
from budget_kit import price
from registries import THREE
from story import Step, World, admit, complete, fail, given, go_on, record, start, succeed, wait

from palyra.decisions.alerts import evaluate_alerts
from palyra.decisions.spend_alerts import spend_due_us
from palyra.decisions.usage import Metered
from palyra.events.alerts import AlertCleared, AlertRaised
from palyra.events.usage import UsageCorrected, UsageRecorded
from palyra.projections.alerts import open_alerts
from palyra.projections.spend import HOUR_US, KEEP_HOURS_COUNT
from palyra.usage import TokenUsage

HOUR_MS, QUARTER_MS = 3_600_000, 900_000
USD = 1_000_000_000


def spend(nanousd: int, *, of: str = "gpt", who: str = "key:a", tokens: int = 100, count: int = 1) -> Step:
    """Let somebody spend."""

    def step(world: World) -> Any:
        rows = [
            UsageRecorded(
                attempt=1,
                provider_id="a",
                model_id=of,
                upstream_model=of,
                principal_id=who,
                endpoint="chat",
                effective_at_us=world.now_us,
                usage=TokenUsage(input_tokens=tokens),
                raw_input_tokens=0,
                cost_state="priced",
                cost_nanousd=nanousd // count,
            )
            for _ in range(count)
        ]
        return record("run-past", *rows)(world)

    return step


def look(world: World) -> World:
    world.record(evaluate_alerts(world.state, world.now_us))
    return world


def about(world: World, kind: str) -> list[tuple[str, str]]:
    """Return key and severity of what is open of a kind."""
    found = [one.raised for one in open_alerts(world.state, world.now_us) if one.raised.kind == kind]
    return [(one.dedupe_key, one.severity) for one in found]


def usual(*, hours: int = 24, each: int = USD, **spending: Any) -> list[Step]:
    """Spend as much each hour."""
    return [step for _ in range(hours) for step in (spend(each, **spending), wait(ms=HOUR_MS))]


# -- a leap of the cost


def test_a_leap_of_the_cost_is_told_once_and_ends_when_it_is_over_twice() -> None:
    """Three times a usual hour is a leap, ten times a bad one; it ends after two quarters without."""
    world = given(THREE, *usual(), spend(4 * USD))
    assert about(look(world), "cost_spike") == [], "the quarter is not over"
    look(world.do(wait(ms=QUARTER_MS)))
    told = [("cost_spike:global", "warning"), ("cost_spike:key:a", "warning")]
    assert about(world, "cost_spike") == told
    raised = world.facts(AlertRaised)[-1]
    assert (raised.facts["spent_nanousd"], raised.facts["median_nanousd"]) == (4 * USD, USD)
    look(world)
    assert len(world.facts(AlertRaised)) == 2
    look(world.do(spend(8 * USD), wait(ms=QUARTER_MS)))
    assert {severity for _, severity in about(world, "cost_spike")} == {"danger"}
    for _ in range(4):
        assert about(look(world.do(wait(ms=QUARTER_MS))), "cost_spike"), "one quarter of it is still in the hour"
    look(world.do(wait(ms=QUARTER_MS)))
    assert about(world, "cost_spike") == []
    assert len(world.facts(AlertCleared)) == 2
    assert world.replayed(40) == world.state


def test_what_is_no_leap() -> None:
    """Falling spend, small sums, a beginning, and half as much again."""
    for steps in (
        [*usual(each=5 * USD), spend(USD)],
        [*usual(each=USD // 100), spend(USD // 4)],
        [*usual(hours=7), spend(50 * USD)],
        [*usual(), spend(3 * USD // 2)],
    ):
        assert about(look(given(THREE, *steps, wait(ms=QUARTER_MS))), "cost_spike") == []


def test_a_leap_of_one_is_not_one_of_all() -> None:
    """Whoever leaps is named; where others spend enough, all together do not leap."""
    both = [step for _ in range(9) for step in (spend(USD), spend(30 * USD, who="key:b"), wait(ms=HOUR_MS))]
    world = given(THREE, *both, spend(9 * USD), spend(30 * USD, who="key:b"), wait(ms=QUARTER_MS))
    assert about(look(world), "cost_spike") == [("cost_spike:key:a", "warning")]
    # The median of an even number lies between the two in the middle.
    world = given(THREE, *usual(hours=4), *usual(hours=5, each=3 * USD), spend(6 * USD), wait(ms=QUARTER_MS))
    assert look(world).facts(AlertRaised)[0].facts["median_nanousd"] == 2 * USD


def test_a_leap_that_is_open_stays_between_the_thresholds() -> None:
    """Less than three times as much and more than half of that: not raised, not cleared either."""
    world = look(given(THREE, *usual(), spend(4 * USD), wait(ms=QUARTER_MS)))
    world.do(wait(ms=3 * QUARTER_MS), spend(2 * USD), wait(ms=QUARTER_MS))
    assert about(look(world), "cost_spike")
    look(world.do(wait(ms=2 * QUARTER_MS)))
    assert about(world, "cost_spike")
    assert len(world.facts(AlertRaised)) == 2


def test_the_last_quarter_is_looked_at_when_it_is_over() -> None:
    """Nobody has to spend anything more for that."""
    world = given(THREE)
    assert spend_due_us(world.state, world.now_us) is None
    world.do(spend(USD))
    due_us = spend_due_us(world.state, world.now_us)
    assert due_us is not None
    assert 0 < due_us - world.now_us <= QUARTER_MS * 1_000
    assert spend_due_us(world.state, due_us) is None


# -- another mix


def test_another_mix_of_models_is_told() -> None:
    """Nearly everything went elsewhere than in the week before; it ends when that has become usual."""
    world = given(THREE, *usual(hours=60, each=1, tokens=1_000))
    world.do(*usual(hours=24, each=60, of="small", tokens=1_000, count=3))
    look(world)
    assert about(world, "model_mix") == [("model_mix:global", "warning")]
    facts = world.facts(AlertRaised)[-1].facts
    assert facts["model"] == "a/small"
    assert int(facts["shift_bp"]) > 9_000
    world.do(*usual(hours=6 * 24, each=60, of="small", tokens=1_000, count=3))
    assert about(look(world), "model_mix") == []
    assert len(world.facts(AlertCleared)) == 1


@pytest.mark.parametrize("now", [{"of": "gpt"}, {"of": "small", "count": 1}, {"of": "small", "tokens": 0}])
def test_more_of_the_same_is_no_other_mix(now: dict[str, Any]) -> None:
    """One model, however much; too few runs to tell; nothing that has tokens."""
    usual_hours = usual(hours=60, each=1, tokens=1_000)
    world = given(THREE, *usual_hours, *usual(hours=25, each=90, **{"tokens": 9_000, "count": 3, **now}))
    assert about(look(world), "model_mix") == []


def test_fifty_requests_are_enough_to_tell_a_mix() -> None:
    """On each of both sides; one less may be chance."""
    world = given(THREE, *usual(hours=60, each=1, tokens=1_000), wait(ms=25 * HOUR_MS))
    world.do(spend(1, of="small", tokens=9_000, count=49))
    assert about(look(world), "model_mix") == []
    assert about(look(world.do(spend(1, of="small", tokens=9_000))), "model_mix")


def test_a_mix_that_is_told_stays_until_it_is_clearly_as_usual() -> None:
    """A third elsewhere is too little to raise and too much to clear."""
    world = given(THREE, *usual(hours=60, each=1, tokens=1_000))
    third = [spend(2, tokens=1_000, count=2), spend(1, of="small", tokens=1_000), wait(ms=HOUR_MS)]
    world.do(*third * 24)
    assert about(look(world), "model_mix") == []
    most = [spend(1, of="small", tokens=9_000), wait(ms=HOUR_MS)]
    world.do(*most * 4)
    assert about(look(world), "model_mix")
    world.do(*third * 8)
    assert about(look(world), "model_mix")
    assert len(world.facts(AlertRaised)) == 1


# -- money for nothing


def cut(number: int, tokens: int) -> list[Step]:
    """Fail after so much of an answer."""
    name, metered = f"r{number}", Metered(reported=TokenUsage(input_tokens=10), output_estimate_tokens=tokens)
    return [
        *(admit(name), start(name)),
        fail(name, "stream_truncated", phase="content", status=200, metered=metered, may_retry=False),
        go_on(name, "stream_truncated", phase="content"),
    ]


def test_what_failures_cost_is_told_where_it_is_much() -> None:
    """More than a tenth of a day's spend at a provider, and more than half a dollar."""
    dear = price(input_nanousd_per_mtok=0, output_nanousd_per_mtok=1_000 * USD)
    world = given(THREE, dear, spend(3 * USD), *cut(1, 400))
    assert about(look(world), "absorbed") == [], "0.40 USD is little"
    world.do(*cut(2, 400))
    assert about(look(world), "absorbed") == [("absorbed:a", "warning")]
    raised = world.facts(AlertRaised)[-1]
    assert (raised.facts["absorbed_nanousd"], raised.facts["spent_nanousd"]) == (8 * USD // 10, 38 * USD // 10)
    # Between a twentieth and a tenth it stays; below that, or a day later, it has gone.
    assert about(look(world.do(spend(6 * USD))), "absorbed")
    assert about(look(world.do(spend(20 * USD))), "absorbed") == []
    world = look(given(THREE, dear, *cut(1, 800)))
    assert about(world, "absorbed")
    assert about(look(world.do(wait(ms=25 * HOUR_MS))), "absorbed") == []
    assert world.replayed(3) == world.state


def test_what_was_corrected_counts_as_corrected() -> None:
    """The hour of a row follows its correction; one that nobody keeps any more is left alone."""
    world = given(THREE, spend(USD))
    start_us = next(iter(world.state.spend.hours))
    fields: dict[str, Any] = {
        "run_id": "past", "attempt": 1, "corrects_position": 2, "provider_id": "a", "model_id": "gpt",
        "principal_id": "key:a", "endpoint": "chat", "cost_before_nanousd": USD, "cost_after_nanousd": 3 * USD,
        "deltas": TokenUsage(input_tokens=7),
    }  # fmt: skip
    world.do(record("corrections", UsageCorrected(effective_at_us=start_us + 5, **fields)))
    world.do(record("corrections", UsageCorrected(effective_at_us=5, **fields)))
    hour = world.state.spend.hours[start_us]
    assert hour.spent_nanousd == {"": 3 * USD, "key:a": 3 * USD}
    assert (hour.models["a/gpt"].tokens, hour.providers["a"].spent_nanousd) == (107, 3 * USD)


def test_no_more_than_eight_days_are_kept() -> None:
    """The oldest hour goes when a new one is opened."""
    world = given(THREE, *usual(hours=KEEP_HOURS_COUNT + 5))
    hours = list(world.state.spend.hours)
    assert len(hours) == KEEP_HOURS_COUNT
    assert hours[-1] - hours[0] == (KEEP_HOURS_COUNT - 1) * HOUR_US


# -- shut doors


@pytest.mark.parametrize("failure_class", ["auth_invalid", "permission_denied", "quota_exceeded"])
def test_a_door_that_is_shut_is_told_although_somebody_else_served(failure_class: str) -> None:
    """Failover hides it from whoever asked; it ends when the model takes a request, or after a day."""

    def turned(number: int) -> list[Step]:
        name = f"r{number}"
        return [
            *(admit(name), start(name), fail(name, failure_class, status=401, may_retry=False)),
            *(go_on(name, failure_class), start(name, candidate=1), succeed(name), complete(name, candidate=1)),
        ]

    world = given(THREE, *turned(1), *turned(2))
    assert about(look(world), "access_refused") == [("access_refused:a:gpt", "warning")]
    raised = world.facts(AlertRaised)[-1]
    assert raised.facts == {"failure_class": failure_class, "count": 2}
    assert raised.because_positions
    fine = given(THREE, *turned(1), admit("r9"), start("r9"), succeed("r9"), complete("r9"))
    assert about(look(fine), "access_refused") == []
    assert about(look(world.do(wait(ms=25 * HOUR_MS))), "access_refused") == []
    assert world.replayed(5) == world.state


def test_other_failovers_shut_no_door() -> None:
    """A provider that is overloaded has a health, and an alert of its own."""
    world = given(
        THREE, admit("r1"), start("r1"), fail("r1", "overloaded", status=503, may_retry=False), go_on("r1")
    )
    assert world.state.spend.turned == {}
