"""`usage/corrections`: rows that turned out to be otherwise, by hand or by a provider's own account."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import msgspec

from palyra.decisions.corrections import Counted, correct, correction_of, counted_rows
from palyra.engine.budgets import pass_over
from palyra.engine.console.changes import Order
from palyra.engine.console.frame import Params
from palyra.engine.questions import Answer
from palyra.errors import PalyraError
from palyra.events.base import Recorded
from palyra.events.usage import UsageCorrected, UsageRecorded
from palyra.usage import TokenUsage

#: Corrections of one call; a longer list comes in several.
CORRECTIONS_MAX_COUNT = 1_000


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a row is to be. It is named by its position, or by its run and attempt."""

    position: int | None = None
    run_id: str = ""
    attempt: int = 1
    #: Null: as it is counted.
    usage: TokenUsage | None = None
    #: Null: not known.
    cost_after_nanousd: Annotated[int, msgspec.Meta(ge=0)] | None


class CorrectParams(Params, frozen=True, kw_only=True):
    """What rows are to be, and why."""

    corrections: Annotated[list[Wish], msgspec.Meta(min_length=1, max_length=CORRECTIONS_MAX_COUNT)]
    reason: Literal["operator", "reconciled"] = "operator"
    note_code: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_.-]{0,64}$")] = ""
    #: Write them; else they are only shown.
    apply: bool = False


class CorrectedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row before and after."""

    position: int
    run_id: str
    attempt: int
    provider_id: str
    model_id: str
    tokens_before: int
    tokens_after: int
    cost_before_nanousd: int | None
    cost_after_nanousd: int | None


class CorrectAnswer(Answer, frozen=True, kw_only=True):
    """Rows that are, or would be, corrected; those that are so already are left out."""

    items: list[CorrectedRow]
    change_nanousd: int
    is_applied: bool


async def correct_usage(order: Order, params: CorrectParams) -> CorrectAnswer:
    """Write what rows were beside them; the rows stay as they are."""
    core, wanted = order.core, _Wanted(params.corrections)
    with core.tapped() as fresh:
        await pass_over(core, core.state.position, ("usage.recorded", "usage.corrected"), wanted.take)
        wanted.take(fresh)
        rows = counted_rows(wanted.history)
        found = []
        for wish in params.corrections:
            counted = _row(rows, wish)
            usage = counted.row.usage if wish.usage is None else wish.usage
            made = correction_of(
                counted,
                usage=usage,
                cost_nanousd=wish.cost_after_nanousd,
                price_id="",
                reason=params.reason,
                by=order.actor,
                note_code=params.note_code,
            )
            if made is not None:
                found.append(made)
        noted = order.note(correct(found)) if params.apply and found else None
    if noted is not None:
        await noted.durable()
    return CorrectAnswer(
        items=[
            CorrectedRow(
                position=one.corrects_position,
                run_id=one.run_id,
                attempt=one.attempt,
                provider_id=one.provider_id,
                model_id=one.model_id,
                tokens_before=one.tokens_before,
                tokens_after=one.tokens_before + one.deltas.total_tokens,
                cost_before_nanousd=one.cost_before_nanousd,
                cost_after_nanousd=one.cost_after_nanousd,
            )
            for one in found
        ],
        change_nanousd=sum(one.change_nanousd for one in found),
        is_applied=params.apply,
    )


class _Wanted:
    """Keeps what was recorded of the rows that are meant."""

    def __init__(self, wishes: Sequence[Wish]) -> None:
        self.history: list[Recorded] = []
        self._positions = {wish.position for wish in wishes if wish.position is not None}
        self._runs = {wish.run_id for wish in wishes if wish.position is None}

    def take(self, history: Iterable[Recorded]) -> None:
        for one in history:
            body = one.body
            if isinstance(body, UsageRecorded):
                is_meant = one.position in self._positions or one.stream[4:] in self._runs
            elif isinstance(body, UsageCorrected):
                is_meant = body.corrects_position in self._positions or body.run_id in self._runs
            else:
                is_meant = False
            if is_meant:
                self.history.append(one)


def _row(rows: dict[int, Counted], wish: Wish) -> Counted:
    """Return the row that is meant; raises `PalyraError` (`usage_not_found`)."""
    if wish.position is not None:
        found = [rows[wish.position]] if wish.position in rows else []
    else:
        found = [one for one in rows.values() if one.run_id == wish.run_id and one.row.attempt == wish.attempt]
    if not found:
        name = (
            f"position {wish.position}"
            if wish.position is not None
            else f"run {wish.run_id}, attempt {wish.attempt}"
        )
        hint = "palyra usage report --dataset usage lists them"
        raise PalyraError(f"There is no row of usage at {name}.", hint=hint, code="usage_not_found")
    return found[0]
