"""Corrected prices: rows that cost something else by the list in force, and corrections that stand beside them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from palyra.decisions.pricing import cost_of
from palyra.events.base import Draft, Recorded
from palyra.events.usage import UsageCorrected, UsageRecorded
from palyra.projections.pricing import price_at
from palyra.projections.state import State

#: Streams of runs that have ended are closed; corrections have one of their own.
STREAM = "corrections"


class Recosted(msgspec.Struct, frozen=True, kw_only=True):
    """What a new list makes of old rows."""

    rows_count: int
    cost_before_nanousd: int
    cost_after_nanousd: int
    #: Rows without a price before, and after.
    unpriced_before_count: int
    unpriced_after_count: int
    corrections: list[UsageCorrected]


def recost(state: State, history: Iterable[Recorded], *, from_us: int, to_us: int) -> Recosted:
    """Return the corrections of all rows in [from, to) whose cost differs by the list in force.

    `history` is every row and every correction so far, in order; a row that was corrected counts as corrected. A
    cost that the provider itself reported, and that was believed, is left alone.
    """
    costs: dict[int, int | None] = {}
    rows: list[Recorded] = []
    for one in history:
        if isinstance(one.body, UsageCorrected):
            costs[one.body.corrects_position] = one.body.cost_after_nanousd
        elif isinstance(one.body, UsageRecorded):
            costs[one.position] = one.body.cost_nanousd
            if from_us <= one.body.effective_at_us < to_us and not _is_believed(one.body):
                rows.append(one)
    corrections = [
        correction for one in rows if (correction := _correction(state, one, costs[one.position])) is not None
    ]
    before = [costs[one.position] for one in rows]
    changed = {one.corrects_position: one.cost_after_nanousd for one in corrections}
    after = [changed.get(one.position, costs[one.position]) for one in rows]
    return Recosted(
        rows_count=len(rows),
        cost_before_nanousd=sum(cost or 0 for cost in before),
        cost_after_nanousd=sum(cost or 0 for cost in after),
        unpriced_before_count=before.count(None),
        unpriced_after_count=after.count(None),
        corrections=corrections,
    )


def correct(corrections: Iterable[UsageCorrected]) -> list[Draft]:
    """Return corrections as facts."""
    return [Draft(STREAM, one) for one in corrections]


def _is_believed(row: UsageRecorded) -> bool:
    return row.provider_cost_nanousd is not None and row.cost_nanousd == row.provider_cost_nanousd


def _correction(state: State, recorded: Recorded, cost_before: int | None) -> UsageCorrected | None:
    row = recorded.body
    assert isinstance(row, UsageRecorded)
    entry = price_at(state, row.provider_id, row.model_id, row.effective_at_us, row.variant)
    cost_after = cost_of(row.usage, entry).nanousd
    if cost_after == cost_before or entry is None:
        return None
    return UsageCorrected(
        run_id=recorded.stream[4:],
        attempt=row.attempt,
        corrects_position=recorded.position,
        provider_id=row.provider_id,
        model_id=row.model_id,
        principal_id=row.principal_id,
        key_id=row.key_id,
        session_id=row.session_id,
        agent_id=row.agent_id,
        endpoint=row.endpoint,
        origin=row.origin,
        effective_at_us=row.effective_at_us,
        cost_before_nanousd=cost_before,
        cost_after_nanousd=cost_after,
        price_id=entry.price_id,
    )
