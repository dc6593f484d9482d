"""Asking providers where no daemon runs: the same changes, made by the command itself.

The configuration is adopted first, as a start would, so that what is learnt is about the providers of the file.
Everything is appended under the journal's lock; where there is no journal yet nothing is recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import AsyncIterator

from palyra.auth.references import ReferenceSource
from palyra.auth.vault import Vault
from palyra.config.load import LoadedConfig
from palyra.config.state import StatePaths
from palyra.engine.adoptable import adoptable_of
from palyra.engine.boot import adopt_config
from palyra.engine.clock import SystemClock
from palyra.engine.console.changes import Change, Changer, ChangeT, Desk
from palyra.engine.console.frame import AnswerT, Told
from palyra.engine.core import Core, load_state
from palyra.engine.ids import SystemIds
from palyra.engine.listing import ModelLists
from palyra.engine.offline import OPERATOR, held_core, take_lock
from palyra.engine.prices import renew_prices
from palyra.engine.vault import VaultKeeper, open_vault
from palyra.engine.watching import DiscoveryChore, HealthChore, Watchers, watched
from palyra.journal.memory import MemoryJournal
from palyra.outside import Outside


def ask_providers(
    paths: StatePaths, loaded: LoadedConfig, change: Change[ChangeT, AnswerT], params: ChangeT
) -> Told:
    """Make a change that asks providers. Raises `JournalLocked` while a daemon runs. Not for use inside a loop."""

    async def make(vault: Vault) -> Told:
        async with held_core(paths) if paths.journal.exists() else _passing_core() as core:
            return await _make(core, vault, loaded, change, params)

    if not paths.journal.exists():
        return asyncio.run(make(Vault()))
    settings = loaded.config.vault
    lock = take_lock(paths, timeout_ms=settings.lock_timeout_ms)
    with lock, contextlib.closing(open_vault(paths, settings)) as vault:
        return asyncio.run(make(vault))


async def _make(
    core: Core, vault: Vault, loaded: LoadedConfig, change: Change[ChangeT, AnswerT], params: ChangeT
) -> Told:
    keeper = VaultKeeper(core, vault)
    await keeper.reconcile()
    await adopt_config(core, adoptable_of(loaded.config, loaded.sources), actor=OPERATOR)
    entries = core.state.catalog.registry.providers
    outside = Outside(entries, ReferenceSource(os.environ), keeper, core)
    try:
        lists, ground = (
            ModelLists(outside, lambda: core.state, core.clock),
            watched(core, actor=OPERATOR, lazy=False),
        )
        health = HealthChore(ground, lambda provider: lists.ask(provider, pages_count=1))
        reprice = functools.partial(renew_prices, core, loaded.config.pricing.overrides, actor=OPERATOR)
        desk = Desk(core, keeper, watchers=Watchers(health, DiscoveryChore(ground, lists.ask, reprice)))
        return await Changer(desk).change(change, params, actor=OPERATOR)
    finally:
        await outside.close()


@contextlib.asynccontextmanager
async def _passing_core() -> AsyncIterator[Core]:
    """Give an engine over a journal that nobody will ever read."""
    clock, ids = SystemClock(), SystemIds()
    now_us = clock.now_us()
    journal = MemoryJournal(journal_id=ids.ulid(now_us), now_us=now_us)
    try:
        yield Core(journal, await load_state(journal), clock=clock, ids=ids)
    finally:
        await journal.close()
