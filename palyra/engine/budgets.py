"""Rules put in force: the history that a new one counts is read once, beside the loop's other work."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Collection, Iterable, Sequence

from palyra.decisions.policies import HistoryCount, adopt_policies, needs_history, retire_policy, set_policy
from palyra.engine.codec import to_known
from palyra.engine.core import Batch, Core
from palyra.events.base import Draft, Recorded
from palyra.events.budgets import CountedSubject, UsageBudgetPolicyRecord
from palyra.events.usage import UsageCorrected, UsageRecorded

#: Of a whole history, what a rule can count.
_NAMES = ("usage.recorded", "usage.corrected")
#: Records facts in the name of whoever wants them.
Note = Callable[[Sequence[Draft]], Batch]


async def adopt_file_policies(core: Core, records: Sequence[UsageBudgetPolicyRecord]) -> None:
    """Put the rules of the configuration in force."""
    counted = await _counted(core, records)
    with core.batch() as batch:
        batch.add(adopt_policies(core.state, records, counted))
    await batch.durable()


async def put_in_force(core: Core, record: UsageBudgetPolicyRecord, *, actor: str, note: Note) -> None:
    """Put one rule in force with what was used before it."""
    counted = await _counted(core, [record])
    batch = note(set_policy(core.state, record, counted.get(record.policy_id, ()), by=actor))
    await batch.durable()


async def take_out_of_force(core: Core, policy_id: str, *, actor: str, note: Note) -> None:
    """Retire a rule."""
    await note(retire_policy(core.state, policy_id, by=actor)).durable()


async def _counted(core: Core, records: Sequence[UsageBudgetPolicyRecord]) -> dict[str, list[CountedSubject]]:
    """Return what was used of each rule's open window up to now, by name; nothing where no rule needs to know.

    Other work goes on meanwhile, and what it uses is counted too. Where a window ends meanwhile, they are counted
    anew.
    """
    if not needs_history(core.state, records):
        return {}
    with core.tapped() as fresh:
        while True:
            fresh.clear()
            counts = {record.policy_id: HistoryCount(record, core.clock.now_us()) for record in records}
            add = functools.partial(_add, list(counts.values()))
            await pass_over(core, core.state.position, _NAMES, add)
            add(fresh)
            if all(one.is_of(core.clock.now_us()) for one in counts.values()):
                return {policy_id: one.found for policy_id, one in counts.items()}


async def pass_over(
    core: Core, upto: int, names: Collection[str], take: Callable[[Iterable[Recorded]], None]
) -> None:
    """Hand over the facts of these names up to a position, beside the loop's other work; none of them is kept."""
    await core.durable()
    async for rows in core.journal.read(0, upto):
        known = (to_known(row) for row in rows if row.name in names)
        await asyncio.to_thread(take, known)


def _add(counts: Sequence[HistoryCount], facts: Iterable[Recorded]) -> None:
    for recorded in facts:
        row = recorded.body
        if isinstance(row, UsageRecorded | UsageCorrected):
            for one in counts:
                one.add(row)
