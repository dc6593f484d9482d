"""Corrected prices: rows that cost something else by the list in force, and corrections that stand beside them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from palyra.decisions.corrections import Counted, correction_of, counted_rows
from palyra.decisions.pricing import cost_of
from palyra.events.base import Recorded
from palyra.events.usage import UsageCorrected, UsageRecorded
from palyra.projections.pricing import price_at
from palyra.projections.state import State


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
    cost that the provider itself reported and that was believed, one that was reconciled with its account and one
    that somebody set by hand are left alone.
    """
    rows = [
        one
        for one in counted_rows(history).values()
        if from_us <= one.row.effective_at_us < to_us
        and one.corrected in ("", "recost")
        and not _is_believed(one.row)
    ]
    corrections = [correction for one in rows if (correction := _correction(state, one)) is not None]
    before = [one.row.cost_nanousd for one in rows]
    changed = {one.corrects_position: one.cost_after_nanousd for one in corrections}
    after = [changed.get(one.position, one.row.cost_nanousd) for one in rows]
    return Recosted(
        rows_count=len(rows),
        cost_before_nanousd=sum(cost or 0 for cost in before),
        cost_after_nanousd=sum(cost or 0 for cost in after),
        unpriced_before_count=before.count(None),
        unpriced_after_count=after.count(None),
        corrections=corrections,
    )


def _is_believed(row: UsageRecorded) -> bool:
    return row.provider_cost_nanousd is not None and row.cost_nanousd == row.provider_cost_nanousd


def _correction(state: State, counted: Counted) -> UsageCorrected | None:
    row = counted.row
    entry = price_at(state, row.provider_id, row.model_id, row.effective_at_us, row.variant)
    if entry is None:
        return None
    cost = cost_of(row.usage, entry).nanousd
    return correction_of(counted, usage=row.usage, cost_nanousd=cost, price_id=entry.price_id, reason="recost")
