"""Two chores that watch providers: probes of their health, and discovery of their models.

One provider a turn, the one that is most overdue. Nothing here knows asyncio: the chores take ports, and their
tests let a day go by in trio. What is remembered beside the journal (when was asked last, failures that are no
news) may be lost with the process: then it is asked once more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from palyra.decisions import discovery, probes
from palyra.decisions.credentials import needs_credential, rank
from palyra.decisions.health import transition
from palyra.engine.core import SYSTEM, Core
from palyra.engine.listing import Listing
from palyra.events.base import Draft
from palyra.events.discovery import DiscoveryFailed
from palyra.events.health import ProbeCompleted
from palyra.events.registry import ProviderEntry
from palyra.projections.auth import live_revision
from palyra.projections.catalog import list_of
from palyra.projections.health import evidence_of
from palyra.projections.state import State

#: Decides facts from the state as it is when they are recorded.
Decide = Callable[[State, int], Sequence[Draft]]
Ask = Callable[[ProviderEntry], Awaitable[Listing]]


class Watched(NamedTuple):
    """What the chores stand on."""

    state: Callable[[], State]
    now_us: Callable[[], int]
    jitter_bp: Callable[[], int]
    #: Records what each of these decides, one after the other, in one commit.
    record: Callable[[Sequence[Decide]], Awaitable[None]]


def watched(core: Core, *, actor: str = SYSTEM, lazy: bool = True) -> Watched:
    """Return the ground of an engine. Facts of a daemon are not urgent."""

    async def record(steps: Sequence[Decide]) -> None:
        with core.batch(actor, lazy=lazy) as batch:
            for decide in steps:
                batch.add(decide(core.state, batch.now_us))
        await batch.durable()

    return Watched(lambda: core.state, core.clock.now_us, core.ids.jitter_bp, record)


class _Known(NamedTuple):
    """What an entry was when it was asked last: another one is asked at once."""

    provider: ProviderEntry
    #: Credentials with their revisions.
    credentials: tuple[tuple[str, int], ...]


def _known(state: State, provider: ProviderEntry) -> _Known:
    ranked = rank(state, provider, "", now_us=0) if needs_credential(provider) else []
    refs = sorted(one.credential_ref for one in ranked)
    return _Known(provider, tuple((ref, live_revision(state, ref)) for ref in refs))


class HealthChore:
    """Probes of providers that no request has told about."""

    def __init__(self, ground: Watched, ask: Ask) -> None:
        self._ground = ground
        self._ask = ask
        self._last: dict[str, tuple[_Known, probes.Probed]] = {}

    def due_at_us(self) -> int | None:
        """Return when the next provider is due, None where none ever is."""
        return min((at_us for at_us, _ in self._due(self._ground.now_us())), default=None)

    async def do(self) -> None:
        """Probe the provider that is most overdue."""
        now_us = self._ground.now_us()
        due = [(at_us, provider) for at_us, provider in self._due(now_us) if at_us <= now_us]
        if due:
            _, provider = min(due, key=lambda pair: pair[0])
            await self.probe(provider)

    async def probe(self, provider: ProviderEntry) -> Listing:
        """Probe a provider now."""
        known, provider_id = _known(self._ground.state(), provider), provider.provider_id
        last = self._newest(provider)
        before = evidence_of(self._ground.state(), provider_id).probe_failures
        failures_in_row = before if last is None else last.failures_in_row
        listing = await self._ask(provider)
        failures_in_row = failures_in_row + 1 if listing.result == "failed" else 0
        probed = probes.Probed(
            at_us=self._ground.now_us(), failures_in_row=failures_in_row, jitter_bp=self._ground.jitter_bp()
        )
        self._last[provider_id] = (known, probed)
        fact = ProbeCompleted(
            result=listing.result,
            failure_class=listing.failure_class,
            failures_in_row=failures_in_row,
            latency_ms=listing.latency_ms,
        )
        reason = listing.failure_class or "success"
        await self._ground.record(
            [
                lambda state, now_us: probes.record_probe(state, provider_id, fact, now_us),
                lambda state, now_us: transition(state, provider_id, reason=reason, now_us=now_us),
            ]
        )
        return listing

    def _newest(self, provider: ProviderEntry) -> probes.Probed | None:
        known, probed = self._last.get(provider.provider_id, (None, None))
        return probed if known == _known(self._ground.state(), provider) else None

    def _due(self, now_us: int) -> list[tuple[int, ProviderEntry]]:
        state = self._ground.state()
        found = []
        for provider in state.catalog.registry.providers:
            at_us = probes.due_us(state, provider, self._newest(provider), now_us)
            if at_us is not None:
                found.append((at_us, provider))
        return found


class DiscoveryChore:
    """Lists of models, read again when they are old."""

    def __init__(self, ground: Watched, ask: Ask, reprice: Callable[[], Awaitable[None]]) -> None:
        """`reprice` is called where other models are served than before."""
        self._ground = ground
        self._ask = ask
        self._reprice = reprice
        #: By provider: as what it was asked, when it is to be asked again, and failures in a row.
        self._next: dict[str, tuple[_Known, int, int]] = {}

    def due_at_us(self) -> int | None:
        """Return when the next list is due, None where none ever is."""
        return min((at_us for at_us, _, _ in self._due(self._ground.now_us())), default=None)

    async def do(self) -> None:
        """Read the list that is most overdue."""
        now_us = self._ground.now_us()
        due = [row for row in self._due(now_us) if row[0] <= now_us]
        if due:
            _, provider, _ = min(due, key=lambda row: row[0])
            await self.discover(provider)

    async def discover(self, provider: ProviderEntry) -> Listing:
        """Read a provider's list now, and record what it changes."""
        state, provider_id = self._ground.state(), provider.provider_id
        failures_in_row = next((row[2] for row in self._due(0) if row[1] is provider), 0)
        known = _known(state, provider)
        listing = await self._ask(provider)
        failures_in_row = 0 if listing.result == "ok" else failures_in_row + 1
        next_us = discovery.next_us(state, self._ground.now_us(), failures_in_row)
        self._next[provider_id] = (known, next_us, failures_in_row)
        before = self._ground.state().catalog.registry
        await self._ground.record([lambda state, now_us: _changes(state, provider_id, listing, next_us)])
        if self._ground.state().catalog.registry is not before:
            await self._reprice()
        return listing

    def _due(self, now_us: int) -> list[tuple[int, ProviderEntry, int]]:
        state = self._ground.state()
        found = []
        for provider in state.catalog.registry.providers:
            if discovery.is_discovered(state, provider):
                known, at_us, failures = self._next.get(provider.provider_id, (None, now_us, 0))
                is_same = known == _known(state, provider)
                found.append((at_us if is_same else now_us, provider, failures if is_same else 0))
        return found


class Watchers(NamedTuple):
    """Both chores, for whoever wants something to be asked right now."""

    health: HealthChore
    discovery: DiscoveryChore


def _changes(state: State, provider_id: str, listing: Listing, next_us: int) -> list[Draft]:
    stream = f"provider-{provider_id}"
    if listing.result == "ok":
        completed = discovery.compare(state, provider_id, listing.models, listing.dropped_count)
        return [] if completed is None else [Draft(stream, completed)]
    failure_class = listing.failure_class or "no_model_list"
    if list_of(state, provider_id).failure_class == failure_class:
        return []
    return [Draft(stream, DiscoveryFailed(failure_class=failure_class, next_try_us=next_us))]
