"""Corrected prices: rows that cost something else by the list in force, and corrections that stand beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from palyra.decisions.corrections import Counted, corrected_row, correction_of
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


class Recost:
    """Prices rows again, one after the other; what it holds are corrections alone, those of before and its own."""

    def __init__(self, state: State, *, from_us: int, to_us: int) -> None:
        self._state = state
        self._from_us = from_us
        self._to_us = to_us
        self._known: dict[int, list[UsageCorrected]] = {}
        self._made: list[UsageCorrected] = []
        self._rows_count = self._before_nanousd = self._after_nanousd = 0
        self._unpriced_before = self._unpriced_after = 0

    def know(self, corrections: Iterable[Recorded]) -> None:
        """Take what was corrected before; all of it comes before the first row."""
        for one in corrections:
            if isinstance(one.body, UsageCorrected):
                self._known.setdefault(one.body.corrects_position, []).append(one.body)

    def add(self, history: Iterable[Recorded]) -> None:
        """Price rows; whatever is no row is passed over."""
        for one in history:
            body = one.body
            if not isinstance(body, UsageRecorded) or not self._from_us <= body.effective_at_us < self._to_us:
                continue
            counted = Counted(position=one.position, run_id=one.stream[4:], row=body)
            for known in self._known.get(one.position, ()):
                counted.row, counted.corrected = corrected_row(counted.row, known), known.reason
            if counted.corrected in ("", "recost") and not _is_believed(counted.row):
                self._price(counted)

    def _price(self, counted: Counted) -> None:
        before = after = counted.row.cost_nanousd
        made = _correction(self._state, counted)
        if made is not None:
            after = made.cost_after_nanousd
            self._made.append(made)
        self._rows_count += 1
        self._before_nanousd += before or 0
        self._after_nanousd += after or 0
        self._unpriced_before += before is None
        self._unpriced_after += after is None

    @property
    def found(self) -> Recosted:
        """What the list in force makes of the rows so far."""
        return Recosted(
            rows_count=self._rows_count,
            cost_before_nanousd=self._before_nanousd,
            cost_after_nanousd=self._after_nanousd,
            unpriced_before_count=self._unpriced_before,
            unpriced_after_count=self._unpriced_after,
            corrections=list(self._made),
        )


def recost(state: State, history: Sequence[Recorded], *, from_us: int, to_us: int) -> Recosted:
    """Return the corrections of all rows in [from, to) whose cost differs by the list in force.

    `history` is every row and every correction so far; a row that was corrected counts as corrected. A cost that
    the provider itself reported and that was believed, one that was reconciled with its account and one that
    somebody set by hand are left alone.
    """
    again = Recost(state, from_us=from_us, to_us=to_us)
    again.know(history)
    again.add(history)
    return again.found


def _is_believed(row: UsageRecorded) -> bool:
    return row.provider_cost_nanousd is not None and row.cost_nanousd == row.provider_cost_nanousd


def _correction(state: State, counted: Counted) -> UsageCorrected | None:
    row = counted.row
    entry = price_at(state, row.provider_id, row.model_id, row.effective_at_us, row.variant)
    if entry is None:
        return None
    cost = cost_of(row.usage, entry).nanousd
    return correction_of(counted, usage=row.usage, cost_nanousd=cost, price_id=entry.price_id, reason="recost")
