"""The chore that raises alerts: soon where there is news, else each minute, and at rest where nothing happens."""

from __future__ import annotations

from budget_kit import rule
from engine_fakes import ManualClock, ScriptedProvider
from engine_world import World, one

from palyra.decisions.findings import Finding
from palyra.engine.alerts import AlertChore
from palyra.engine.budgets import adopt_file_policies
from palyra.events.alerts import AlertCleared, AlertRaised

MINUTE_MS = 60_000


async def test_news_is_looked_at_at_once_and_quiet_comes_to_rest() -> None:
    """A limit that is passed makes it due now; with nothing open and nothing new it is due no more."""
    clock, told = ManualClock(), []
    world = await World.make(one(), extra={"a": ScriptedProvider()}, clock=clock)
    chore = AlertChore(world.core, on_raised=told.append)
    await chore.do()
    assert chore.due_at_us() is None
    await adopt_file_policies(world.core, [rule("day", hard_limit=0, managed_by="file")])
    assert chore.due_at_us() == clock.now_us() + MINUTE_MS * 1_000
    await world.chat()
    assert chore.due_at_us() == clock.now_us()
    await chore.do()
    assert [raised.kind for raised in told] == ["budget_hard"]
    # While something is open it is looked at each minute, and raised no second time.
    assert chore.due_at_us() == clock.now_us() + MINUTE_MS * 1_000
    clock.pass_ms(MINUTE_MS)
    await chore.do()
    await adopt_file_policies(world.core, [])
    clock.pass_ms(MINUTE_MS)
    await chore.do()
    assert len(world.facts(AlertRaised)) == len(world.facts(AlertCleared)) == 1
    await chore.do()
    assert chore.due_at_us() is None
    await world.close()


async def test_what_only_the_daemon_knows_is_found_beside_the_state() -> None:
    """A certificate that ends stands in no fact; it is raised and cleared like everything else."""
    world = await World.make(one(), extra={"a": ScriptedProvider()}, clock=ManualClock())
    soon = [Finding(kind="tls_expires", key="c", severity="warning", subject_kind="certificate", subject_id="c")]
    chore = AlertChore(world.core, standing=lambda: list(soon))
    await chore.do()
    soon.clear()
    await chore.do()
    assert [one.kind for one in world.facts(AlertRaised)] == ["tls_expires"]
    assert len(world.facts(AlertCleared)) == 1
    await world.close()
