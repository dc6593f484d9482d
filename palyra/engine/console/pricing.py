"""`pricing`: what models cost, and which of them nobody knows the price of."""

from __future__ import annotations

from palyra.engine.console.frame import Params, Sight
from palyra.engine.price_questions import PricingAnswer, pricing_answer


class PricingParams(Params, frozen=True, kw_only=True):
    """Nothing is chosen."""


def pricing(sight: Sight, params: PricingParams) -> PricingAnswer:
    """Return the price list in force."""
    return pricing_answer(sight.state, sight.now_us)
