"""`pricing`: what models cost, which of them have no price, and what a corrected one makes of the past."""

from __future__ import annotations

from palyra.decisions.corrections import correct
from palyra.decisions.pricing import STREAM
from palyra.decisions.recost import recost
from palyra.engine.budgets import usage_recorded
from palyra.engine.codec import to_known
from palyra.engine.console.changes import Order
from palyra.engine.console.frame import Params, Sight
from palyra.engine.price_questions import (
    PriceDiffAnswer,
    PricingAnswer,
    RecostAnswer,
    list_head,
    price_changes,
    pricing_answer,
)
from palyra.errors import PalyraError
from palyra.events.base import Recorded
from palyra.events.pricing import PriceListAdopted


class PricingParams(Params, frozen=True, kw_only=True):
    """Nothing is chosen."""


def pricing(sight: Sight, params: PricingParams) -> PricingAnswer:
    """Return the price list in force."""
    return pricing_answer(sight.state, sight.now_us)


class DiffParams(Params, frozen=True, kw_only=True):
    """Two lists, by their version."""

    a: int
    b: int


def diff(sight: Sight, params: DiffParams) -> PriceDiffAnswer:
    """Return what changed between two lists that were in force, as they were recorded."""
    found: dict[int, tuple[Recorded, PriceListAdopted]] = {}
    newest = 0
    for rows in sight.rows.stream(STREAM):
        for recorded in map(to_known, rows):
            body = recorded.body
            if isinstance(body, PriceListAdopted):
                newest = body.price_version
                if newest in (params.a, params.b):
                    found[newest] = recorded, body
    for version in (params.a, params.b):
        if version not in found:
            hint = f"the newest is version {newest}" if newest else "none was adopted so far"
            raise PalyraError(f"There is no price list {version}.", hint=hint, code="price_list_not_found")
    (first, before), (second, after) = found[params.a], found[params.b]
    changes = price_changes(before.entries, after.entries)
    return PriceDiffAnswer(
        before=list_head(before, first.recorded_at_us),
        after=list_head(after, second.recorded_at_us),
        changes=changes,
        same_count=len(after.entries) - sum(one.after is not None for one in changes),
    )


class RecostParams(Params, frozen=True, kw_only=True):
    """Which rows, by the admission of their run; half open."""

    from_us: int = 0
    to_us: int = 1 << 62
    #: Write the corrections; else they are only counted.
    apply: bool = False


async def recost_usage(order: Order, params: RecostParams) -> RecostAnswer:
    """Price old rows by the list in force."""
    core = order.core
    with core.tapped() as fresh:
        history = await usage_recorded(core)
        found = recost(core.state, [*history, *fresh], from_us=params.from_us, to_us=params.to_us)
        noted = order.note(correct(found.corrections)) if params.apply else None
    if noted is not None:
        await noted.durable()
    return RecostAnswer(
        rows_count=found.rows_count,
        corrected_count=len(found.corrections),
        cost_before_nanousd=found.cost_before_nanousd,
        cost_after_nanousd=found.cost_after_nanousd,
        unpriced_before_count=found.unpriced_before_count,
        unpriced_after_count=found.unpriced_after_count,
        is_applied=params.apply,
    )
