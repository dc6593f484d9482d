"""Corrections: rows as they are counted now, and what stands beside a row that turned out to be otherwise.

A row is never rewritten. Whoever sums up adds what its corrections say, and so does whoever corrects it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from palyra.events.base import Draft, Recorded
from palyra.events.usage import UsageCorrected, UsageRecorded
from palyra.usage import TokenUsage

#: Streams of runs that have ended are closed; corrections have one of their own.
STREAM = "corrections"

Reason = Literal["recost", "reconciled", "operator"]


class Counted(msgspec.Struct, kw_only=True):
    """A row of usage, with everything that was corrected of it since."""

    position: int
    run_id: str
    row: UsageRecorded
    #: Why it was corrected last; "" where it never was.
    corrected: Reason | Literal[""] = ""


def counted_rows(history: Iterable[Recorded]) -> dict[int, Counted]:
    """Return rows by position, of every row and every correction in order."""
    rows: dict[int, Counted] = {}
    for one in history:
        body = one.body
        if isinstance(body, UsageRecorded):
            rows[one.position] = Counted(position=one.position, run_id=one.stream[4:], row=body)
        elif isinstance(body, UsageCorrected) and body.corrects_position in rows:
            counted = rows[body.corrects_position]
            counted.row, counted.corrected = corrected_row(counted.row, body), body.reason
    return rows


def corrected_row(row: UsageRecorded, correction: UsageCorrected) -> UsageRecorded:
    """Return a row as it counts once this was corrected."""
    cost = correction.cost_after_nanousd
    return msgspec.structs.replace(
        row,
        usage=plus(row.usage, correction.deltas),
        cost_nanousd=cost,
        known_nanousd=known_cost(row) if cost is None else cost,
        cost_state="unknown" if cost is None else "priced",
        price_id=correction.price_id or row.price_id,
    )


def known_cost(row: UsageRecorded) -> int:
    """Return what a row cost, or the part of it that is known."""
    return row.known_nanousd if row.cost_nanousd is None else row.cost_nanousd


def plus(one: TokenUsage, other: TokenUsage, sign: int = 1) -> TokenUsage:
    """Return two usages together, or what one has more than the other (`sign` -1)."""
    names = TokenUsage.__struct_fields__
    return TokenUsage(**{name: getattr(one, name) + sign * getattr(other, name) for name in names})


def correction_of(
    counted: Counted,
    *,
    usage: TokenUsage,
    cost_nanousd: int | None,
    price_id: str,
    reason: Reason,
    by: str = "",
    note_code: str = "",
) -> UsageCorrected | None:
    """Return what makes a row this usage at this cost; nothing where it is that already."""
    row = counted.row
    if (usage, cost_nanousd) == (row.usage, row.cost_nanousd):
        return None
    return UsageCorrected(
        run_id=counted.run_id,
        attempt=row.attempt,
        corrects_position=counted.position,
        provider_id=row.provider_id,
        model_id=row.model_id,
        principal_id=row.principal_id,
        key_id=row.key_id,
        session_id=row.session_id,
        agent_id=row.agent_id,
        endpoint=row.endpoint,
        origin=row.origin,
        effective_at_us=row.effective_at_us,
        tokens_before=row.usage.total_tokens,
        deltas=plus(usage, row.usage, -1),
        cost_before_nanousd=row.cost_nanousd,
        known_before_nanousd=known_cost(row),
        cost_after_nanousd=cost_nanousd,
        price_id=price_id,
        reason=reason,
        by=by,
        note_code=note_code,
    )


def correct(corrections: Iterable[UsageCorrected]) -> list[Draft]:
    """Return corrections as facts."""
    return [Draft(STREAM, one) for one in corrections]
