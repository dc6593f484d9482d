"""Rules put in force: the history that a new one counts is read once, beside the loop's other work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence

from palyra.decisions.policies import adopt_policies, needs_history, retire_policy, set_policy
from palyra.engine.codec import to_known
from palyra.engine.core import Batch, Core
from palyra.events.base import Draft, Recorded
from palyra.events.budgets import UsageBudgetPolicyRecord
from palyra.events.usage import UsageCorrected, UsageRecorded
from palyra.journal.port import Row

#: Of a whole history, what a rule can count.
_NAMES = ("usage.recorded", "usage.corrected")
UsageRow = UsageRecorded | UsageCorrected
#: No window is longer than a month and a day.
_LONGEST_WINDOW_US = 32 * 24 * 3_600 * 1_000_000
#: Records facts in the name of whoever wants them.
Note = Callable[[Sequence[Draft]], Batch]


async def adopt_file_policies(core: Core, records: Sequence[UsageBudgetPolicyRecord]) -> None:
    """Put the rules of the configuration in force."""
    with core.tapped() as fresh:
        history = await usage_history(core) if needs_history(core.state, records) else []
        with core.batch() as batch:
            batch.add(adopt_policies(core.state, records, [*history, *_rows_in(fresh)], batch.now_us))
    await batch.durable()


async def put_in_force(core: Core, record: UsageBudgetPolicyRecord, *, actor: str, note: Note) -> None:
    """Put one rule in force with what was used before it."""
    with core.tapped() as fresh:
        history = await usage_history(core) if needs_history(core.state, [record]) else []
        rows = [*history, *_rows_in(fresh)]
        batch = note(set_policy(core.state, record, rows, by=actor, now_us=core.clock.now_us()))
    await batch.durable()


async def take_out_of_force(core: Core, policy_id: str, *, actor: str, note: Note) -> None:
    """Retire a rule."""
    await note(retire_policy(core.state, policy_id, by=actor)).durable()


async def usage_history(core: Core) -> list[UsageRow]:
    """Return the rows of usage that an open window may hold; other work goes on meanwhile."""
    upto, since_us = core.state.position, core.clock.now_us() - _LONGEST_WINDOW_US
    await core.durable()
    history: list[UsageRow] = []
    async for rows in core.journal.read(0, upto):
        history += await asyncio.to_thread(_usage_in, rows, since_us)
    return history


async def pass_over(
    core: Core, upto: int, names: Collection[str], take: Callable[[Iterable[Recorded]], None]
) -> None:
    """Hand over the facts of these names up to a position, beside the loop's other work; none of them is kept."""
    await core.durable()
    async for rows in core.journal.read(0, upto):
        known = (to_known(row) for row in rows if row.name in names)
        await asyncio.to_thread(take, known)


def _usage_in(rows: Sequence[Row], since_us: int) -> list[UsageRow]:
    bodies = (to_known(row).body for row in rows if row.name in _NAMES)
    used = (body for body in bodies if isinstance(body, (UsageRecorded, UsageCorrected)))
    return [body for body in used if body.effective_at_us >= since_us]


def _rows_in(fresh: Sequence[Recorded]) -> list[UsageRow]:
    return [one.body for one in fresh if isinstance(one.body, (UsageRecorded, UsageCorrected))]
