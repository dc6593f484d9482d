"""The first facts of a process: journal, boot, configuration; then the end of whatever a crash left open."""

from __future__ import annotations

import functools
import os
import platform

import palyra
from palyra.decisions.budgets import sweep
from palyra.decisions.pricing import adopt_prices
from palyra.decisions.recovery import clear_old_boot, recover_run
from palyra.engine.adoptable import Adoptable
from palyra.engine.budgets import adopt_file_policies
from palyra.engine.core import Core
from palyra.engine.prices import make_price_list
from palyra.events.base import Draft
from palyra.events.daemon import DaemonStarted
from palyra.events.journal import JournalCreated
from palyra.journal.version import SQLITE_VERSION
from palyra.limits import COMMIT_MAX_COUNT
from palyra.projections.budgets import reserved_tokens
from palyra.projections.catalog import registry_once_adopted
from palyra.projections.state import State


async def boot(core: Core, boot_id: str, config: Adoptable) -> dict[str, int]:
    """Record the start and close what an older boot left open; returns what was closed, by kind.

    From then on the core closes by itself what a failed commit leaves open.
    """
    core.catch_up_with_clock()
    prices = await make_price_list(registry_once_adopted(core.state, config.registry), config.overrides)
    with core.batch() as batch:
        batch.add(creation(core))
        adopted = config.adoption(core.state)
        started = DaemonStarted(
            boot_id=boot_id,
            release=palyra.__version__,
            python=platform.python_version(),
            sqlite=SQLITE_VERSION,
            config_generation=core.state.config.generation + len(adopted),
            pid=os.getpid(),
        )
        batch.add([Draft("daemon", started), *adopted])
        batch.add(adopt_prices(core.state, **prices._asdict()))
    await batch.durable()
    core.on_rebuilt = functools.partial(recover, core, boot_id)
    recovered = await recover(core, boot_id)
    # Behind the recovery: what it settles is history by then.
    await adopt_file_policies(core, config.policies)
    return recovered


def creation(core: Core) -> list[Draft]:
    """Return the first fact of a journal; nothing for one that has been begun."""
    if core.state.position:
        return []
    return [Draft("journal", JournalCreated(journal_id=core.journal.journal_id, release=palyra.__version__))]


async def adopt_config(core: Core, config: Adoptable, *, actor: str) -> None:
    """Adopt a configuration without a start, where another one is in force."""
    prices = await make_price_list(registry_once_adopted(core.state, config.registry), config.overrides)
    with core.batch(actor) as batch:
        batch.add(config.adoption(core.state))
        batch.add(adopt_prices(core.state, **prices._asdict()))
    await batch.durable()
    await adopt_file_policies(core, config.policies)


async def recover(core: Core, boot_id: str) -> dict[str, int]:
    """Close everything that is open; returns how much, by kind. Nobody may be at work on any of it.

    All of it is decided before the first wait, so nothing new can come in between.
    """
    core.catch_up_with_clock()
    counts = open_work(core.state)
    for run in list(core.state.runs.open.values()):
        # A commit a run: closing 10,000 runs at once must not make one huge one.
        with core.batch() as batch:
            batch.add(recover_run(core.state, run, boot_id=boot_id, now_us=batch.now_us))
    drafts = clear_old_boot(core.state, core.clock.now_us())
    drafts += sweep(core.state, [], core.clock.now_us())
    for first in range(0, len(drafts), COMMIT_MAX_COUNT):
        with core.batch() as batch:
            batch.add(drafts[first : first + COMMIT_MAX_COUNT])
    await core.durable()
    return counts


def open_work(state: State) -> dict[str, int]:
    """Return how much is open, by kind; kinds of which nothing is open are left out."""
    runs = state.runs.open.values()
    counts = {
        "runs": len(runs),
        "attempts": sum(run.attempt is not None for run in runs),
        "reserved_tokens": reserved_tokens(state),
        "heartbeats": len(state.heartbeats.board),
    }
    return {kind: count for kind, count in counts.items() if count}
