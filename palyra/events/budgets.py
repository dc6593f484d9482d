"""Reservations: what an attempt may cost is held before it starts and let go when it ends. Stream of the run."""

from __future__ import annotations

from typing import Literal

from palyra.events.base import Fact


class BudgetReserved(Fact, tag="budget.reserved", frozen=True, kw_only=True):
    """The attempt that follows may consume this much."""

    attempt: int
    #: Input at its calibrated upper bound, output at the maximum that is sent upstream.
    input_tokens: int
    output_tokens: int
    expires_us: int


class BudgetReleased(Fact, tag="budget.released", frozen=True, kw_only=True):
    """The hold of an ended attempt was let go."""

    attempt: int
    because: Literal["settled", "cancelled", "abandoned"] = "settled"
    #: Tokens beyond the hold; 0 while the provider keeps the cap and the input its bound.
    overshoot_tokens: int = 0
