"""The chore that ends what nobody else will, while the program runs: orphans once, what is at work never."""

from __future__ import annotations

from budget_kit import rule
from engine_fakes import ManualClock, ScriptedProvider
from engine_world import World, one

from palyra.engine.budgets import adopt_file_policies
from palyra.engine.sweeps import SweepChore
from palyra.events.attempts import AttemptStarted
from palyra.events.base import Draft
from palyra.events.budgets import BudgetReleased, BudgetReserved
from palyra.events.routing import RoutingDecided
from palyra.events.runs import RunAdmitted, RunFailed
from palyra.projections.budgets import counter_of

MINUTE_US = 60_000_000


async def made(clock: ManualClock) -> World:
    world = await World.make(one(), extra={"a": ScriptedProvider()}, clock=clock)
    await adopt_file_policies(world.core, [rule("all", scope_kind="global", managed_by="file")])
    return world


async def test_an_orphan_is_swept_once_while_the_program_runs() -> None:
    """Its run has ended and left its hold: past its time it is let go, and what it held is free."""
    clock = ManualClock()
    world = await made(clock)
    chore = SweepChore(world.core, world.runs.open, "boot-1")
    assert chore.due_at_us() is None
    await world.chat()
    [reserved] = world.facts(BudgetReserved)
    orphan = BudgetReserved(attempt=1, expires_us=clock.now_us() + 5 * MINUTE_US, shares=reserved.shares)
    await world.core.record([Draft("run-01KGONE", orphan)])
    share = reserved.shares[0]
    before = counter_of(world.core.state, "all", share.subject, share.window_start_us)
    assert before is not None
    assert before.reserved == share.amount
    due_us = chore.due_at_us()
    assert due_us is not None
    clock.us = due_us
    await chore.do()
    assert "01KGONE" in world.core.state.budgets.holds, "its time has not come"
    clock.us += 6 * MINUTE_US
    for _ in range(3):
        await chore.do()
    assert [one.because for one in world.facts(BudgetReleased)] == ["settled", "expired"]
    after = counter_of(world.core.state, "all", share.subject, share.window_start_us)
    assert after is not None
    assert after.reserved == 0
    assert chore.due_at_us() is None
    await world.close()


async def test_a_run_that_is_at_work_is_never_swept() -> None:
    """However late it is: it is cancelled by those who watch it, and settled then."""
    clock = ManualClock()
    world = await made(clock)
    await world.chat()
    [reserved] = world.facts(BudgetReserved)
    hold = BudgetReserved(attempt=1, expires_us=clock.now_us() + 1, shares=reserved.shares)
    await world.core.record([Draft("run-01KBUSY", hold)])
    chore = SweepChore(world.core, {"01KBUSY"}, "boot-1")
    clock.us += 60 * MINUTE_US
    await chore.do()
    assert list(world.core.state.budgets.holds) == ["01KBUSY"]
    assert chore.due_at_us() is not None
    await world.core.record([Draft("run-01KBUSY", BudgetReleased(attempt=1))])
    await world.close()


async def test_a_run_that_nobody_is_at_work_on_is_closed() -> None:
    """Long after its deadline its attempt is abandoned by the rule, its hold let go and the run ended."""
    clock = ManualClock()
    world = await made(clock)
    await world.chat()
    begun = [world.facts(kind)[0] for kind in (RunAdmitted, RoutingDecided, BudgetReserved, AttemptStarted)]
    await world.core.record([Draft("run-01KLOST", body) for body in begun])
    assert list(world.core.state.runs.open) == ["01KLOST"]
    chore = SweepChore(world.core, world.runs.open, "boot-1")
    await chore.do()
    assert list(world.core.state.runs.open) == ["01KLOST"]
    clock.us = world.core.state.runs.open["01KLOST"].deadline_us + 2 * MINUTE_US
    await chore.do()
    assert world.core.state.runs.open == {}
    assert [one.code for one in world.facts(RunFailed)] == ["interrupted"]
    assert world.facts(BudgetReleased)[-1].because == "abandoned"
    assert chore.due_at_us() is None
    await world.close()
