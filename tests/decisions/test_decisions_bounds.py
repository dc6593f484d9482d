"""Bounds of the house on what rules may be and hold: past one a request is refused by name, with the way out.

How many rules there may be is told in `test_decisions_policies.py`, how many prices in
`test_decisions_overrides.py` and `test_engine_prices.py`.
"""

from __future__ import annotations

from typing import Any

import pytest
from budget_kit import put, rule
from registries import THREE, model, provider, registry
from story import admit, complete, given, go_on, like, start, succeed

from palyra.decisions.alerts import evaluate_alerts
from palyra.decisions.budgets import plan_start
from palyra.decisions.findings import Finding
from palyra.events.routing import RoutingDecided
from palyra.events.runs import RunFailed, RunRefused
from palyra.projections.budgets import Where

ONE = registry(provider("a"), model("gpt", "a"))


def _many(count: int) -> list[Any]:
    """Return steps that put so many rules in force, none of which stops anybody."""
    return [put(rule(f"p{number:02}", scope_kind="global", hard_limit=10**9)) for number in range(count)]


def test_no_more_rules_apply_to_a_request_than_may() -> None:
    """Thirty-two speak; with one more every request is refused by name and told the way out, until one goes."""
    world = given(THREE, *_many(32))
    assert len(world.when(admit("r1")).outcome.facts) == 2
    world = given(THREE, *_many(33))
    told = world.when(admit("r1", agent_id="a"))
    refusal = told.refused("limit_applicable_policies")
    assert (refusal.http_status, refusal.retry_after_ms) == (402, None)
    assert "33 rules about usage apply to this request, of 32 at most; retire some" in refusal.message
    told.then(
        like(RoutingDecided, action="blocked"),
        like(RunRefused, code="limit_applicable_policies", http_status=402),
    )
    [decided] = world.facts(RoutingDecided)
    assert [one.excluded_by for one in decided.excluded] == ["limit_applicable_policies"] * 3
    narrowed = put(rule("p00", scope_kind="global", hard_limit=10**9, match={"agent_id": "b"}))
    assert world.do(narrowed).when(admit("r2", agent_id="a")).outcome.refusal is None


def test_a_rule_too_many_stops_a_run_before_it_starts_and_asks_nobody() -> None:
    """It came while the run waited: nothing is held, nothing is sent, and no approval would help."""
    world = given(THREE, *_many(32), admit("r1"))
    world.do(put(rule("last", on_hard="approval_required", hard_limit=1)))
    begun = plan_start(world.state, world.run("r1"), Where("a", "gpt"), "gpt-a", world.now_us)
    assert begun.judgement.stops
    world.when(go_on("r1", "budget_excluded", after=2)).then(like(RunFailed, code="limit_applicable_policies"))
    told = world.when(admit("r2"))
    told.refused("limit_applicable_policies")
    told.then(like(RoutingDecided, action="blocked"), like(RunRefused, code="limit_applicable_policies"))


def test_a_rule_too_many_moves_nobody_to_a_cheaper_model() -> None:
    """Every other model would be past the same bound, whatever rules leave to it."""
    spares = {"on_hard": "downgrade", "downgrade_to": ["gpt"], "hard_limit": 1}
    world = given(THREE, *(put(rule(f"p{number:02}", scope_kind="global", **spares)) for number in range(33)))
    world.when(admit("r1")).refused("limit_applicable_policies")


def test_no_more_attempts_are_held_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is told to come again soon; where no rule applies nothing is held, and nobody waits."""
    monkeypatch.setattr("palyra.decisions.budgets.OPEN_HOLDS_MAX_COUNT", 1)
    world = given(
        ONE, put(rule(scope_id="key:tester")), admit("r1"), start("r1"), admit("r2", principal_id="key:x")
    )
    refusal = world.when(admit("r3")).refused("limit_open_holds")
    assert (refusal.http_status, refusal.retry_after_ms) == (503, 1_000)
    assert "and no more; try again later" in refusal.message
    assert world.when(admit("r4", principal_id="key:x")).outcome.refusal is None
    assert world.do(succeed("r1"), complete("r1")).when(admit("r5")).outcome.refusal is None


def test_an_alert_gives_so_many_figures() -> None:
    """What would say more is a mistake of ours, and is found before it is written."""
    told = {
        "kind": "cost_spike",
        "key": "global",
        "severity": "warning",
        "subject_kind": "global",
        "action": "look",
    }
    world = given(ONE)
    full = Finding(**told, facts={f"f{number}": number for number in range(16)})
    assert len(evaluate_alerts(world.state, world.now_us, [full])) == 1
    beyond = Finding(**told, facts={f"f{number}": number for number in range(17)})
    with pytest.raises(AssertionError, match="says too much"):
        evaluate_alerts(world.state, world.now_us, [beyond])
