"""`pricing`: what models cost, which of them have no price, and what a corrected one makes of the past."""

from __future__ import annotations

import msgspec

from palyra.decisions.corrections import correct
from palyra.decisions.pricing import STREAM
from palyra.decisions.recost import Recost
from palyra.engine.budgets import pass_over
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
from palyra.engine.reports.scope import instant_in
from palyra.errors import PalyraError, Refusal, Refused
from palyra.events.base import Recorded
from palyra.events.pricing import PriceListAdopted
from palyra.events.usage import UsageCorrected

#: Later than any request.
_END_US = 1 << 62
#: Rows are read so often at most, where what they are compared with changes meanwhile.
_TRIES_COUNT = 3


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

    #: RFC 3339, a local date or -7d; "" for all of them.
    from_: str = msgspec.field(default="", name="from")
    to: str = ""
    #: Write the corrections; else they are only counted.
    apply: bool = False


async def recost_usage(order: Order, params: RecostParams) -> RecostAnswer:
    """Price old rows by the list in force."""
    core, now_us = order.core, order.core.clock.now_us()
    from_us = instant_in(params.from_, "from", None, now_us) if params.from_ else 0
    to_us = instant_in(params.to, "to", None, now_us) if params.to else _END_US
    if from_us >= to_us:
        message = "'from' must lie before 'to'."
        raise Refused(Refusal(code="invalid_request", message=message, param="from"))
    for _ in range(_TRIES_COUNT):
        version, upto = core.state.pricing.version, core.state.position
        again = Recost(core.state, from_us=from_us, to_us=to_us)
        with core.tapped() as fresh:
            await pass_over(core, upto, ("usage.corrected",), again.know)
            await pass_over(core, upto, ("usage.recorded",), again.add)
            # What was corrected or priced otherwise meanwhile is looked at once more.
            is_still_so = version == core.state.pricing.version
            if is_still_so and not any(isinstance(one.body, UsageCorrected) for one in fresh):
                again.add(fresh)
                found = again.found
                noted = order.note(correct(found.corrections)) if params.apply else None
                break
    else:
        message = "Prices or corrections have changed while the rows were read; try again."
        raise Refused(Refusal(code="conflict", message=message))
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
