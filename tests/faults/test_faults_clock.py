"""A wall clock that jumps under a running daemon: it keeps serving, and says what happened."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from faults_kit import MovedClock, history, served
from upstream import Behaviour

from palyra.engine.boot import recover
from palyra.engine.clock import SystemClock, asleep_us, due_us
from palyra.engine.core import Core, load_state
from palyra.events.base import Draft
from palyra.events.circuits import CircuitOpened
from palyra.events.daemon import DaemonClockStepped
from palyra.events.incidents import IncidentOpened
from palyra.events.runs import RequestServed
from palyra.journal.memory import MemoryJournal
from palyra.projections.state import State

DAY_S = 86_400


@pytest.mark.parametrize("days", [-1, 1, -365, 365])
async def test_daemon_keeps_serving_when_the_clock_jumps(tmp_path: Path, days: int) -> None:
    """A run on the wire ends well, an open circuit is open for its cooldown and no longer, one fact says why."""
    async with served(tmp_path / "state") as house:
        core, gate = house.daemon.core, asyncio.Event()
        assert (await house.chat())[0] == 200
        house.up.reply_with(Behaviour(head=gate), Behaviour.error(500))
        running = asyncio.ensure_future(house.chat())
        await house.up.request_arrived(2)
        house.clock.step_s(days * DAY_S)
        assert (await house.chat())[0] == 502
        status, refused = await house.chat()
        assert (status, refused["error"]["code"]) == (503, "all_circuits_open")
        assert 0 < refused["palyra"]["retry_after_ms"] <= 30_000
        house.clock.step_s(-2 * days * DAY_S)
        status, refused = await house.chat()
        assert status == 503
        assert 0 < refused["palyra"]["retry_after_ms"] <= 30_000
        (run,) = core.state.runs.open.values()
        assert 0 < run.deadline_us - house.clock.now_us() <= 900_000_000
        gate.set()
        assert (await running)[0] == 200
        house.clock.pass_s(31)
        assert (await house.chat())[0] == 200
        assert core.state.runs.recent[-1].duration_us < 5_000_000
    facts = [one.body for one in history(tmp_path / "state")]
    steps = [fact for fact in facts if isinstance(fact, DaemonClockStepped)]
    assert [step.cause for step in steps[:2]] == ["step", "step"]
    assert [round(step.step_us / DAY_S / 1e6) for step in steps[:2]] == [days, -2 * days]
    assert len([fact for fact in facts if isinstance(fact, CircuitOpened)]) == 1


async def test_clock_is_watched_while_nothing_happens(tmp_path: Path) -> None:
    """The look at the machine finds a step without any request; the watchdog tells it, for an hour."""
    async with served(tmp_path / "state") as house:
        core = house.daemon.core
        await house.look()
        assert "daemon.clock_stepped" not in core.state.counts
        house.clock.step_s(DAY_S)
        await house.look()
        await house.wait_for(lambda: "incident.opened" in core.state.counts)
    opened = [one.body for one in history(tmp_path / "state") if isinstance(one.body, IncidentOpened)]
    assert [(one.kind, one.severity) for one in opened] == [("clock_step", "info")]


async def test_machine_that_slept_is_not_taken_for_one_whose_clock_was_set() -> None:
    """The boot-time clock explains the jump; nothing is said of a clock while nothing can be recorded."""
    clock = MovedClock()
    core = Core(MemoryJournal(journal_id="01TEST", now_us=1), State(), clock=clock)
    slept_us = 0
    core.asleep_us = lambda: slept_us
    core.watch_clock()
    clock.step_s(8 * 3_600)
    slept_us = 8 * 3_600 * 1_000_000
    core._failed = True
    core.watch_clock()
    core._failed = False
    with core.batch() as batch:
        batch.add([Draft("requests", RequestServed(endpoint="m", principal_id="", http_status=200))])
    await batch.durable()
    rows = core.journal.rows  # type: ignore[attr-defined]
    assert [row.name for row in rows] == ["daemon.clock_stepped", "request.served"]
    assert b'"cause":"suspend"' in rows[0].body
    assert rows[0].actor == "system:daemon"
    await core.stop()


async def test_clock_that_was_set_back_while_the_daemon_was_down_is_found_at_the_start() -> None:
    """The newest fact cannot be later than now; with it every instant in the state comes back from the future."""
    ahead, journal = MovedClock(), MemoryJournal(journal_id="01TEST", now_us=1)
    ahead.step_s(DAY_S)
    core = Core(journal, State(), clock=ahead)
    opened = CircuitOpened(until_us=ahead.now_us() + 30_000_000, reason="threshold")
    await core.record([Draft("provider-up", opened)])
    clock = SystemClock()
    again = Core(journal, await load_state(journal), clock=clock)
    await recover(again, "boot-2")
    assert [row.name for row in journal.rows] == ["circuit.opened", "daemon.clock_stepped"]
    assert 0 < again.state.circuits.by_provider["up"].until_us - clock.now_us() <= 30_000_000
    await recover(again, "boot-2")
    assert len(journal.rows) == 2
    await core.stop()


def test_an_instant_of_a_wrong_clock_is_due_now() -> None:
    """What was done in the future is done again at once."""
    assert due_us(100, 15, 110) == 115
    assert due_us(100, 15, 99) == 99
    assert abs(asleep_us() - asleep_us()) < 1_000_000
