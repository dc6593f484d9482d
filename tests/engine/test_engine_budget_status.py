"""How far somebody is in a window: whom a rule stopped, what grants still let pass, and windows that are over."""

from __future__ import annotations

from pathlib import Path

import pytest
from budget_kit import price, put, rule
from journals import write_journal
from registries import THREE
from story import World, admit, given, serve, wait

from palyra.decisions.approvals import Verdict, override
from palyra.engine.budget_questions import BudgetStatus, budget_answer
from palyra.engine.reports.verify import verify_usage
from palyra.errors import Refusal
from palyra.journal.reader import JournalReader

HOUR_MS = 3_600_000


def status(world: World, policy_id: str = "day") -> BudgetStatus:
    [one] = budget_answer(world.state, world.state.budgets.policies[policy_id], world.now_us).status
    return one


@pytest.mark.parametrize("interval", [{}, {"interval_kind": "rolling", "rolling_hours": 5}])
def test_whom_a_rule_has_stopped_is_counted_in_its_window(interval: dict[str, object]) -> None:
    """Those who got through are not, nor those whom another rule stopped; a new window begins at none."""
    world = given(THREE, price(), put(rule("day", hard_limit=200, **interval)))
    assert budget_answer(world.state, world.state.budgets.policies["day"], world.now_us).status == []
    world.do(serve("r1"), admit("r2"), admit("r3"))
    assert (status(world).refused_count, status(world).consumed) == (2, 110)
    assert world.replayed(5) == world.state
    world.do(put(rule("tight", scope_kind="global", hard_limit=1)), admit("r4", raw_tokens=1, output_max_tokens=1))
    assert (status(world).refused_count, status(world, "tight").refused_count) == (2, 1)
    if not interval:
        world.do(wait(ms=24 * HOUR_MS), admit("r5", raw_tokens=1, output_max_tokens=1))
        assert [one.refused_count for one in _all(world)] in ([], [0])


def _all(world: World) -> list[BudgetStatus]:
    return budget_answer(world.state, world.state.budgets.policies["day"], world.now_us).status


def test_a_rule_for_each_run_and_a_limit_of_ones_own_are_counted_nowhere() -> None:
    """Their windows are as long as a request that never came to be."""
    world = given(THREE, price(), put(rule("run", interval_kind="per_run", hard_limit=1)), admit("r1"))
    world.do(admit("r2", max_cost_nanousd=1))
    assert all(one.refused_count == 0 for one in world.state.budgets.counters.values())


def test_what_grants_let_pass_is_told() -> None:
    """As long as they have a use left."""
    world = given(THREE, price(), put(rule("day", hard_limit=200, on_hard="approval_required")), serve("r1"))
    assert status(world).allowance == 0
    policy = world.state.budgets.policies["day"]
    verdict = Verdict(is_granted=True, uses_max=1, amount_max=500)
    made = override(world.state, policy, "key:tester", verdict, now_us=world.now_us)
    assert not isinstance(made, Refusal)
    world.record(made)
    assert status(world).allowance == 500
    world.do(serve("r2"))
    assert status(world).allowance == 0, "its use is used"


async def test_windows_that_are_over_are_summed_again_too(tmp_path: Path) -> None:
    """Each one that is still known; the first that its rows do not come to is named."""
    world = given(THREE, price(), put(rule("day", hard_limit=10_000)), serve("r1"), wait(ms=17 * HOUR_MS))
    world.do(serve("r2"), wait(ms=HOUR_MS), serve("r3"))
    await write_journal(tmp_path / "journal.db", world.history)
    with JournalReader(tmp_path / "journal.db") as rows:
        verified = verify_usage(rows, world.state, world.now_us)
        assert (verified.windows_count, verified.finding) == (2, None)
        for counter in world.state.budgets.counters.values():
            if counter.window_end_us <= world.now_us:
                counter.settled += 1
        finding = verify_usage(rows, world.state, world.now_us).finding
        assert finding is not None
        assert (finding.code, finding.expected, finding.found) == ("window_differs", 110, 111)
        world.state.budgets.counters.clear()
        lost = verify_usage(rows, world.state, world.now_us).finding
    assert lost is not None, "what nobody counts any more is missed"
    assert (lost.code, lost.expected, lost.found) == ("window_differs", 220, 0)
