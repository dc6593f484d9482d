"""The whole engine on virtual time, by seeds: `sim_plan` says what may happen, `sim_books` what must hold.

`PALYRA_SIM_SEEDS=20000 PALYRA_SIM_FROM=1000 pytest tests/sim` plays others; `python tests/sim/run.py` hunts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable

import pytest
from sim_bugs import BUGS
from sim_loop import Stuck, VirtualLoop
from sim_plan import plan_of
from sim_world import Simulation, explain, failure_of

from palyra.decisions.failures import FAILURES
from palyra.events.vocabulary import VOCABULARY

SEEDS_COUNT = 300
#: Families of facts that the engine records while it serves.
FAMILIES = tuple(
    "run. routing. attempt. usage. budget. budget_policy. price. price_list. cache. circuit. health. model."
    " heartbeat. incident.".split()
)
#: What is too rare to wait for, is asked for elsewhere, or comes from the deterministic kind alone.
RARE = (
    "incident.severity_changed incident.reopened model.readmitted content_policy_blocked unsupported_feature"
    " model_excluded no_credential vault_locked run.cancel_requested fixture_missing usage.corrected"
    " circuit.forced cache.evicted run.held run.resumed"
).split()


class Played:
    """What came of many seeds."""

    def __init__(self, seeds: range) -> None:
        self.names: Counter[str] = Counter()
        self.classes: Counter[str] = Counter()
        self.failed: list[int] = []
        for seed in seeds:
            simulation = Simulation(plan_of(seed))
            try:
                simulation.run()
            except Exception:
                self.failed.append(seed)
            self._count(simulation)

    def _count(self, simulation: Simulation) -> None:
        for row in simulation.store.rows:
            self.names[row.name] += 1
            if row.name in ("attempt.failed", "routing.failed_over"):
                body = json.loads(row.body)
                self.classes[body.get("failure_class") or body["trigger"]] += 1


@pytest.fixture(scope="module")
def played() -> Played:
    first = int(os.environ.get("PALYRA_SIM_FROM", "0"))
    return Played(range(first, first + int(os.environ.get("PALYRA_SIM_SEEDS", str(SEEDS_COUNT)))))


@pytest.mark.timeout(0)
def test_nothing_that_must_never_happen_happens(played: Played) -> None:
    """Whatever arrives, fails, crashes or is cancelled: the rules of the journal hold after every step."""
    if played.failed:
        pytest.fail(f"seeds {played.failed} fail\n{explain(plan_of(played.failed[0]))}", pytrace=False)


@pytest.mark.timeout(0)
def test_plans_lead_everywhere(played: Played) -> None:
    """The seeds reach every fact of the engine and every class of failure, or they would prove little."""
    facts = [entry.name for entry in VOCABULARY.entries.values() if entry.name.startswith(FAMILIES)]
    reached = {**played.names, **played.classes}
    assert [name for name in [*facts, *FAILURES] if name not in reached and name not in RARE] == []


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_planted_bug_is_found(bug: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
    """Each promise that is broken on purpose is missed within the seeds that are played by default."""
    with bug():
        assert any(failure_of(plan_of(seed)) is not None for seed in range(SEEDS_COUNT))


@pytest.mark.parametrize("seed", range(6))
def test_same_seed_same_journal(seed: int) -> None:
    """A seed gives the same rows each time, byte for byte: what fails once can be looked at again."""
    journals = []
    for _ in range(2):
        simulation = Simulation(plan_of(seed))
        simulation.run()
        journals.append((simulation.store.rows, simulation.loop.turns_count))
    assert journals[0] == journals[1]


def test_failure_can_be_read() -> None:
    """A failing seed is told with its plan, its journal and the command that plays it again."""
    with BUGS[0]():
        told = explain(plan_of(1))
    assert told.startswith("seed 1 fails: ")
    assert "arrivals:" in told
    assert "attempt.started" in told
    assert "python tests/sim/run.py --from 1 --seeds 1" in told


def test_time_jumps_to_the_next_timer() -> None:
    """A day of sleeping takes no time, and timers come in their order."""
    loop, woken = VirtualLoop(), []

    async def sleep(hours: int) -> None:
        await asyncio.sleep(hours * 3_600)
        woken.append((hours, loop.now_us // 3_600_000_000))

    async def main() -> None:
        await asyncio.gather(sleep(24), sleep(1), sleep(7))

    loop.run_until_complete(main())
    assert woken == [(1, 1), (7, 7), (24, 24)]


def test_waiting_for_nothing_is_told() -> None:
    """Where nothing will ever happen again, or never stops, the loop says so instead of hanging."""

    async def wait() -> None:
        await asyncio.Event().wait()

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Stuck, match="these wait"):
        VirtualLoop().run_until_complete(wait())
    with pytest.raises(Stuck, match="no end"):
        VirtualLoop(turns_max_count=1_000).run_until_complete(spin())
