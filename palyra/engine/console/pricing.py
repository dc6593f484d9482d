"""`pricing`: what models cost, which of them have no price, and what a corrected one makes of the past."""

from __future__ import annotations

from palyra.decisions.corrections import correct
from palyra.decisions.recost import recost
from palyra.engine.budgets import usage_recorded
from palyra.engine.console.changes import Order
from palyra.engine.console.frame import Params, Sight
from palyra.engine.price_questions import PricingAnswer, RecostAnswer, pricing_answer


class PricingParams(Params, frozen=True, kw_only=True):
    """Nothing is chosen."""


def pricing(sight: Sight, params: PricingParams) -> PricingAnswer:
    """Return the price list in force."""
    return pricing_answer(sight.state, sight.now_us)


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
