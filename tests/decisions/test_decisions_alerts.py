"""Alerts: one for each onset, worse only when it is worse, gone with its cause."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from budget_kit import price, put, retire, rule
from registries import THREE, model, provider, registry
from story import Outcome, Step, World, admit, complete, given, record, start, succeed, wait

from palyra.decisions.alerts import acknowledge, evaluate_alerts
from palyra.decisions.approvals import Verdict, override
from palyra.decisions.findings import Finding
from palyra.decisions.usage import Metered
from palyra.errors import Refusal
from palyra.events.alerts import AlertAcknowledged, AlertCleared, AlertRaised
from palyra.events.circuits import CircuitClosed, CircuitOpened
from palyra.events.health import HealthChanged, ProbeCompleted
from palyra.events.pricing import PriceMissing
from palyra.projections.alerts import Alert, is_open, open_alerts
from palyra.usage import TokenUsage

HOUR_MS = 3_600_000
WHO = "key:tester"


def look(*standing: Finding) -> Step:
    """Evaluate alerts, as the chore does."""

    def step(world: World) -> Outcome:
        return Outcome(recorded=world.record(evaluate_alerts(world.state, world.now_us, standing)))

    return step


def kinds(world: World) -> list[tuple[str, str]]:
    """Return what is open, kind and severity."""
    return [(one.raised.kind, one.raised.severity) for one in open_alerts(world.state, world.now_us)]


def newest(world: World) -> Alert:
    return list(world.state.alerts.by_id.values())[-1]


def run(number: int, tokens: tuple[int, int] = (90, 20), **changes: Any) -> Step:
    """Serve a run from its admission to its end."""
    metered = Metered(reported=TokenUsage(input_tokens=tokens[0], output_tokens=tokens[1]), **changes)

    def step(world: World) -> Outcome:
        name = f"run{number}"
        world.do(admit(name), start(name), succeed(name, metered), complete(name))
        return Outcome()

    return step


def test_a_limit_that_is_passed_is_told_once() -> None:
    """The first stop of a window raises one alert; looking again, and more stops, raise none."""
    world = given(None, put(rule("day", hard_limit=200)), run(1), admit("r2"), look())
    assert kinds(world) == [("budget_hard", "danger")]
    raised = newest(world).raised
    assert (raised.subject_id, raised.facts["subject"], raised.facts["limit"]) == ("day", WHO, 200)
    assert raised.because_positions
    world.do(admit("r3"), look(), wait(ms=60_000), look())
    assert len(world.facts(AlertRaised)) == 1
    # It lapses with the window; no fact is needed for that.
    world.do(wait(ms=24 * HOUR_MS), look())
    assert kinds(world) == []
    assert world.facts(AlertCleared) == []
    assert world.replayed(7) == world.state


def test_a_soft_limit_warns_and_a_trial_informs() -> None:
    """Severity says how bad it is: a warning, and for a rule that is tried out no more than a word."""
    world = given(None, put(rule("day", soft_limit=100, hard_limit=None)), run(1), look())
    assert kinds(world) == [("budget_soft", "warning")]
    world = given(None, put(rule("day", hard_limit=100, mode="dry_run")), run(1), look())
    assert kinds(world) == [("budget_hard", "info")]
    assert newest(world).raised.dry_run


def test_another_rule_or_a_grant_clears_it() -> None:
    """What was told of a rule's old wording is over, and so is a stop that somebody has opened."""
    policy = rule("day", hard_limit=200)
    world = given(None, put(policy), run(1), admit("r2"), look())
    world.do(put(msgspec.structs.replace(policy, hard_limit=900)), look())
    assert kinds(world) == []
    assert world.facts(AlertCleared) == [AlertCleared(reason_code="ended")]
    world = given(None, put(policy), run(1), admit("r2"), look())
    wanted = Verdict(is_granted=True, amount_max=500)
    made = override(world.state, world.state.budgets.policies["day"], WHO, wanted, now_us=world.now_us)
    assert not isinstance(made, Refusal)
    world.record(made)
    assert kinds(world.do(look())) == []
    assert kinds(given(None, put(policy), run(1), admit("r2"), look(), retire("day"), look())) == []


def test_a_rule_for_each_request_is_one_matter_for_a_day() -> None:
    """Every large request would be its own window; they raise one alert together."""
    world = given(None, put(rule("big", interval_kind="per_run", hard_limit=10)), admit("r1"), look())
    world.do(admit("r2"), look())
    assert len(world.facts(AlertRaised)) == 1
    world.do(wait(ms=24 * HOUR_MS))
    assert not is_open(newest(world), world.now_us)


def test_a_missing_price_is_told_until_there_is_one() -> None:
    """It is raised once, and a price that is adopted clears it."""
    missing = PriceMissing(provider_id="a", model_id="gpt", day=1, first_run_id="r1")
    world = given(None, record("pricing", missing), look())
    assert kinds(world) == [("price_missing", "warning")]
    world.do(look())
    assert len(world.facts(AlertRaised)) == 1
    world.do(price(), look())
    assert kinds(world) == []
    # A model that is configured no more is nobody's matter.
    assert kinds(given(None, record("pricing", msgspec.structs.replace(missing, model_id="gone")), look())) == []


def test_use_far_beyond_what_was_held_is_told() -> None:
    """A little is rounding; a lot says that a provider ignores its cap. Ten in a day are a warning."""
    world = given(None, price(), run(1, (140, 20)), look())
    assert kinds(world) == []
    world.do(run(2, (90, 2_000)), look())
    assert kinds(world) == [("overshoot", "info")]
    assert newest(world).raised.facts["tokens"] == 1_950
    world.do(*(run(number, (90, 2_000)) for number in range(3, 12)), look())
    assert kinds(world) == [("overshoot", "warning")]
    assert len(world.state.alerts.by_id) == 1
    world.do(wait(ms=24 * HOUR_MS), look())
    assert kinds(world) == []


def test_money_far_beyond_what_was_held_is_told() -> None:
    """Of a dear model few tokens are much money; it is told where a rule in USD held some."""
    policy = rule("usd", metric_kind="usd_cost", hard_limit=10**12)
    dear = {"output_nanousd_per_mtok": 10**12}
    world = given(None, price(**dear), put(policy), run(1, (90, 100)), look())
    assert kinds(world) == [("overshoot", "info")]
    assert newest(world).raised.facts["nanousd"] > 10**7


def test_a_provider_that_is_down_is_told_until_it_is_well() -> None:
    """An open circuit is danger where nobody else can stand in; half open and degraded keep it; closed ends it."""
    alone = registry(provider("a"), model("gpt", "a"))
    world = given(alone, record("provider-a", CircuitOpened(until_us=10**18, reason="threshold")), look())
    assert kinds(world) == [("provider_health", "danger")]
    world.do(record("provider-a", CircuitClosed()), look())
    assert kinds(world) == []
    world = given(THREE, record("provider-a", CircuitOpened(until_us=10**18, reason="threshold")), look())
    assert [severity for _, severity in kinds(world)] in ([], ["warning"])


def test_a_provider_that_has_just_gone_is_given_a_minute() -> None:
    """Probes that fail make it unavailable; it is told once that has lasted."""
    alone = registry(provider("a"), provider("off", enabled=False), model("gpt", "a"))
    failed = ProbeCompleted(result="failed", failure_class="connect", failures_in_row=3)
    world = given(
        alone, record("provider-a", failed, HealthChanged(before="unknown", after="unavailable", reason="x"))
    )
    world.do(look())
    assert kinds(world) == []
    world.do(wait(ms=60_000), look())
    assert kinds(world) == [("provider_health", "danger")]
    world.do(record("provider-a", ProbeCompleted(result="ok")), look())
    assert kinds(world) == []


def test_output_that_nobody_counted_for_us_is_told_with_hysteresis() -> None:
    """A twentieth of a day's output raises it, a fiftieth clears it; few runs say nothing."""
    world = given(None, price(), *(run(number, (90, 100)) for number in range(18)))
    world.do(run(50, (90, 900)), look())
    assert kinds(world) == []

    def estimated(number: int, tokens: int) -> Step:
        def step(world: World) -> Outcome:
            name = f"est{number}"
            world.do(
                admit(name), start(name), succeed(name, Metered(output_estimate_tokens=tokens)), complete(name)
            )
            return Outcome()

        return step

    world.do(estimated(1, 300), estimated(2, 1), look())
    assert [kind for kind, _ in kinds(world)] == ["usage_estimated"]
    # Between the two thresholds it stays, below both it goes.
    world.do(*(run(number, (90, 1_000)) for number in range(60, 65)), look())
    assert "usage_estimated" in [kind for kind, _ in kinds(world)]
    world.do(*(run(number, (90, 1_000)) for number in range(70, 90)), look())
    assert "usage_estimated" not in [kind for kind, _ in kinds(world)]
    world.do(*(run(number, (90, 0)) for number in range(100, 101)), wait(ms=25 * HOUR_MS), look())


def test_what_the_state_cannot_know_stands_beside_it() -> None:
    """A certificate that ends is found outside; it becomes worse, and is seen anew then."""
    soon = Finding(kind="tls_expires", key="c", severity="warning", subject_kind="certificate", subject_id="c")
    world = given(None, look(soon))
    assert kinds(world) == [("tls_expires", "warning")]
    seen = acknowledge(newest(world), world.now_us)
    assert not isinstance(seen, Refusal)
    world.record(seen, actor="operator")
    assert newest(world).acknowledged_by == "operator"
    assert acknowledge(newest(world), world.now_us) == []
    world.do(look(msgspec.structs.replace(soon, severity="danger")))
    assert kinds(world) == [("tls_expires", "danger")]
    assert newest(world).acknowledged_us is None
    world.do(look())
    refused = acknowledge(newest(world), world.now_us)
    assert isinstance(refused, Refusal)
    assert refused.code == "alert_cleared"
    # A new onset is a new alert that knows of the one before.
    world.do(wait(ms=1), look(soon))
    assert (len(world.state.alerts.by_id), newest(world).raised.recurrence) == (2, 1)


def test_the_board_is_bounded_and_takes_any_order() -> None:
    """Ended alerts go, oldest first; facts about what is not there change nothing."""
    world = given(None, record("alert-x", AlertAcknowledged(), AlertCleared(reason_code="ended")))
    assert world.state.alerts.by_id == {}
    soon = Finding(kind="k", key="c", severity="info", subject_kind="s")
    for _ in range(205):
        world.do(look(soon), look(), wait(ms=1))
    assert len(world.state.alerts.by_id) <= 202
    assert world.replayed(50) == world.state


def test_what_passed_limits_is_remembered_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are let go of."""
    monkeypatch.setattr("palyra.projections.alerts._LIMITS_COUNT", 1)
    world = given(None, put(rule("a", hard_limit=0)), put(rule("b", hard_limit=0)), admit("r1"))
    assert [one.policy_id for one in world.state.alerts.limits.values()] == ["b"]
