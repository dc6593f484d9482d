"""Probes and discovery through days of trio's clock: how often a provider is asked, and how little is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import trio
from registries import model, provider, registry
from supervisor_kit import BASE_US, DAY_S, Log, WallClock, running
from trio.testing import MockClock

from palyra.engine.listing import Listing
from palyra.engine.watching import Decide, DiscoveryChore, HealthChore, Watched
from palyra.events.base import Draft, Fact, Recorded
from palyra.events.config import ConfigAdopted
from palyra.events.discovery import DiscoveryCompleted, DiscoveryFailed, ListedModel
from palyra.events.health import HealthChanged, ProbeCompleted
from palyra.events.registry import ProviderEntry, Registry
from palyra.projections.state import State, evolve
from palyra.projections.usage import total_of
from palyra.supervisor.loops import Loop, keep_doing
from palyra.supervisor.pace import Pace
from palyra.supervisor.tree import Tree

pytestmark = pytest.mark.trio

OK = Listing("ok", [ListedModel(upstream_model="m")], 0, 3)
DOWN = Listing("failed", [], 0, 10_000, "timeout_connect")


class Providers:
    """Providers that answer as they are told, a state, and what was recorded of them."""

    def __init__(self, config: Registry) -> None:
        self.clock = WallClock()
        self.state = State()
        self.facts: list[Fact] = []
        self.asked: list[tuple[float, str]] = []
        self.answers: dict[str, Listing] = {}
        self.lasts_s = 0.01
        self.repriced_count = 0
        self.adopt(config)

    def adopt(self, config: Registry) -> None:
        adopted = ConfigAdopted(generation=1, digest="", effective={}, registry=config)
        self._add([Draft("config", adopted)])

    def _add(self, drafts: Sequence[Draft]) -> None:
        for draft in drafts:
            state = self.state
            version = state.streams.get(draft.stream, 0) + 1
            now_us = self.clock.now_us() if trio.lowlevel.in_trio_run() else BASE_US
            evolve(state, Recorded(state.position + 1, draft.stream, version, now_us, "x", "", 0, "", draft.body))
            self.facts.append(draft.body)

    async def ask(self, entry: ProviderEntry) -> Listing:
        self.asked.append((self.clock.second, entry.provider_id))
        await trio.sleep(self.lasts_s)
        return self.answers.get(entry.provider_id, OK)

    async def record(self, steps: Sequence[Decide]) -> None:
        await trio.lowlevel.checkpoint()
        for decide in steps:
            self._add(decide(self.state, self.clock.now_us()))

    async def reprice(self) -> None:
        """Count how often other models are served than before."""
        self.repriced_count += 1

    @property
    def ground(self) -> Watched:
        return Watched(lambda: self.state, self.clock.now_us, lambda: 5_000, self.record)

    def counted(self, kind: type[Fact]) -> int:
        return sum(isinstance(fact, kind) for fact in self.facts)

    def tree(self, chore: HealthChore | DiscoveryChore) -> Tree:
        async def main(pace: Pace) -> None:
            await keep_doing(pace, chore, self.clock)

        return Tree([Loop("chore", ("journal",), main)], self.clock, Log(self.clock))


async def test_a_quiet_day_is_96_facts_a_provider(autojump_clock: MockClock) -> None:
    """Each is asked every minute, and all that is asked for is a list."""
    home = Providers(registry(provider("a"), provider("b"), model("gpt", "a"), health_ttl_ms=60_000))
    async with running(home.tree(HealthChore(home.ground, home.ask))):
        await trio.sleep(DAY_S)
    asked = Counter(name for _, name in home.asked)
    assert all(1_400 <= count <= 1_441 for count in asked.values())
    assert home.counted(ProbeCompleted) <= 2 * 96
    assert home.counted(HealthChanged) == 2
    assert total_of(home.state).rows_count == 0


async def test_one_that_is_down_is_asked_more_rarely(autojump_clock: MockClock) -> None:
    """Its silence holds nobody up for longer than the deadline, and it is found when it comes back."""
    home = Providers(registry(provider("a"), provider("b"), model("gpt", "a"), health_ttl_ms=60_000))
    home.answers["a"] = DOWN
    async with running(home.tree(HealthChore(home.ground, home.ask))):
        await trio.sleep(DAY_S / 2)
        asked = Counter(name for _, name in home.asked)
        assert asked["a"] < 90 < 650 < asked["b"]
        del home.answers["a"]
        await trio.sleep(700)
    changes = [(fact.before, fact.after) for fact in home.facts if isinstance(fact, HealthChanged)]
    assert changes[-1] == ("unavailable", "healthy")
    assert home.counted(ProbeCompleted) < 2 * 96


async def test_another_configuration_is_asked_at_once(autojump_clock: MockClock) -> None:
    """Not when the old one would have been due."""
    home = Providers(registry(provider("a"), model("gpt", "a"), health_ttl_ms=3_600_000))
    async with running(home.tree(HealthChore(home.ground, home.ask))) as tree:
        await trio.sleep(100)
        home.adopt(registry(provider("a", request_timeout_ms=1_234), model("gpt", "a"), health_ttl_ms=3_600_000))
        tree.ring("journal")
        await trio.sleep(5)
    assert len(home.asked) == 2


async def test_nobody_is_asked_where_probes_are_off(autojump_clock: MockClock) -> None:
    """The loop sleeps until something happens."""
    home = Providers(registry(provider("a"), model("gpt", "a"), health_ttl_ms=0, discovery_ttl_ms=0))
    for chore in (HealthChore(home.ground, home.ask), DiscoveryChore(home.ground, home.ask, home.reprice)):
        assert chore.due_at_us() is None
        await chore.do()
        async with running(home.tree(chore)):
            await trio.sleep(DAY_S)
    assert home.asked == []


async def test_a_list_is_read_every_few_minutes_and_told_once(autojump_clock: MockClock) -> None:
    """As long as it is the same; so are its prices looked up."""
    listing = provider("a", discovery_mode="list")
    home = Providers(registry(listing, model("gpt", "a"), discovery_ttl_ms=300_000))
    async with running(home.tree(DiscoveryChore(home.ground, home.ask, home.reprice))):
        await trio.sleep(DAY_S)
    assert 280 <= len(home.asked) <= 289
    assert (home.counted(DiscoveryCompleted), home.repriced_count) == (1, 1)


async def test_a_list_that_cannot_be_had_is_tried_again(autojump_clock: MockClock) -> None:
    """Later and later, up to an hour; the failure is told once, and its end."""
    listing = provider("a", discovery_mode="list")
    home = Providers(registry(listing, model("gpt", "a"), discovery_ttl_ms=300_000))
    home.answers["a"] = DOWN
    home.lasts_s = 0.0
    async with running(home.tree(DiscoveryChore(home.ground, home.ask, home.reprice))):
        await trio.sleep(4 * 3_600)
        waits = [later - sooner for (sooner, _), (later, _) in zip(home.asked, home.asked[1:], strict=False)]
        assert [round(wait) for wait in waits[:4]] == [30, 60, 120, 240]
        assert round(max(waits)) == 3_600
        del home.answers["a"]
        await trio.sleep(3_700)
    assert (home.counted(DiscoveryFailed), home.counted(DiscoveryCompleted)) == (1, 1)


async def test_a_provider_without_a_list_is_no_failure_of_its_health(autojump_clock: MockClock) -> None:
    """Discovery says so once; a probe learns nothing."""
    home = Providers(registry(provider("a", discovery_mode="list"), model("gpt", "a")))
    home.answers["a"] = Listing("unsupported", [], 0, 3)
    await DiscoveryChore(home.ground, home.ask, home.reprice).do()
    await HealthChore(home.ground, home.ask).do()
    assert [fact.failure_class for fact in home.facts if isinstance(fact, DiscoveryFailed)] == ["no_model_list"]
    assert home.counted(HealthChanged) == 0
