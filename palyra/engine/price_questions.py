"""What the state knows of prices, as it is shown: pure questions about the list in force at an instant."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from palyra.decisions.pricing import sample_nanousd
from palyra.engine.questions import Answer
from palyra.events.pricing import PriceEntry, PriceListAdopted
from palyra.projections.pricing import price_at
from palyra.projections.state import State

_UNITS = ("_nanousd_per_mtok", "_nanousd_per_minute", "_nanousd_each", "_nanousd_per_thousand")


class PriceAnswer(Answer, frozen=True, kw_only=True):
    """One entry, and what 1,000 tokens in and 1,000 out cost by it; null where it has no rate for them."""

    entry: PriceEntry
    sample_nanousd: int | None

    @property
    def rates(self) -> dict[str, int]:
        """Return the rates that the entry has, by the name of their field."""
        names = [name for name in self.entry.__struct_fields__ if name.endswith(_UNITS)]
        return {name: rate for name in names if (rate := getattr(self.entry, name)) is not None}


class UnpricedModel(Answer, frozen=True, kw_only=True):
    """A configured model whose cost is unknown."""

    provider_id: str
    model_id: str


class PricingAnswer(Answer, frozen=True, kw_only=True):
    """The list in force."""

    price_version: int
    catalogue_name: str
    catalogue_version: str
    adopted_us: int
    items: list[PriceAnswer]
    missing: list[UnpricedModel]


class PriceListHead(Answer, frozen=True, kw_only=True):
    """One list that was recorded."""

    price_version: int
    catalogue_name: str
    catalogue_version: str
    adopted_us: int


class PriceChange(Answer, frozen=True, kw_only=True):
    """One entry that two lists do not share; null is where a list has none for it."""

    provider_id: str
    model_id: str
    variant: str
    effective_from_us: int
    before: PriceEntry | None
    after: PriceEntry | None
    sample_before_nanousd: int | None
    sample_after_nanousd: int | None


class PriceDiffAnswer(Answer, frozen=True, kw_only=True):
    """What one recorded list has otherwise than another."""

    before: PriceListHead
    after: PriceListHead
    changes: list[PriceChange]
    same_count: int


class RecostAnswer(Answer, frozen=True, kw_only=True):
    """What the list in force makes of old rows."""

    rows_count: int
    corrected_count: int
    cost_before_nanousd: int
    cost_after_nanousd: int
    unpriced_before_count: int
    unpriced_after_count: int
    #: The corrections were written.
    is_applied: bool


def pricing_answer(state: State, now_us: int) -> PricingAnswer:
    """Return the entry of each configured model that holds at an instant, and the models that have none."""
    items: list[PriceAnswer] = []
    missing: list[UnpricedModel] = []
    for model in state.catalog.registry.models:
        entry = price_at(state, model.provider_id, model.model_id, now_us)
        if entry is None:
            missing.append(UnpricedModel(provider_id=model.provider_id, model_id=model.model_id))
        else:
            items.append(PriceAnswer(entry=entry, sample_nanousd=sample_nanousd(entry)))
    book = state.pricing
    return PricingAnswer(
        price_version=book.version,
        catalogue_name=book.catalogue_name,
        catalogue_version=book.catalogue_version,
        adopted_us=book.adopted_us,
        items=items,
        missing=missing,
    )


def price_changes(before: Sequence[PriceEntry], after: Sequence[PriceEntry]) -> list[PriceChange]:
    """Return what is in one list alone, entries of one model, variant and beginning side by side."""
    shared = {one.price_id for one in before} & {one.price_id for one in after}
    sides: dict[tuple[str, str, str, int], tuple[list[PriceEntry], list[PriceEntry]]] = {}
    for side, entries in enumerate((before, after)):
        for one in entries:
            if one.price_id not in shared:
                place = (one.provider_id, one.model_id, one.variant, one.effective_from_us)
                sides.setdefault(place, ([], []))[side].append(one)
    return [_price_change(*pair) for _, both in sorted(sides.items()) for pair in zip_longest(*both)]


def _price_change(before: PriceEntry | None, after: PriceEntry | None) -> PriceChange:
    one = after or before
    assert one is not None, "a change has a side"
    return PriceChange(
        provider_id=one.provider_id,
        model_id=one.model_id,
        variant=one.variant,
        effective_from_us=one.effective_from_us,
        before=before,
        after=after,
        sample_before_nanousd=None if before is None else sample_nanousd(before),
        sample_after_nanousd=None if after is None else sample_nanousd(after),
    )


def list_head(adopted: PriceListAdopted, adopted_us: int) -> PriceListHead:
    """Return which list this is."""
    return PriceListHead(
        price_version=adopted.price_version,
        catalogue_name=adopted.catalogue_name,
        catalogue_version=adopted.catalogue_version,
        adopted_us=adopted_us,
    )
