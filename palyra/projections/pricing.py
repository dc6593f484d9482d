"""The price list in force, and every entry that anything was ever charged by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from palyra.events import pricing
from palyra.events.base import Recorded
from palyra.projections.base import Chapter

if TYPE_CHECKING:
    from palyra.projections.state import State

#: Variants that are billed at most like the standard one, where no entry of their own says how.
_NEVER_DEARER = ("batch", "flex")


class PricingState(msgspec.Struct, kw_only=True):
    """The list in force. Entries are never forgotten, because old rows name them."""

    version: int = 0
    digest: str = ""
    catalogue_name: str = ""
    catalogue_version: str = ""
    adopted_us: int = 0
    by_id: dict[str, pricing.PriceEntry] = {}
    #: `provider_id/model_id` -> ids in the order of precedence: the first whose window holds an instant counts.
    by_model: dict[str, list[str]] = {}
    #: `provider_id/model_id|variant` -> the day on which its missing price was told.
    missing: dict[str, int] = {}


CHAPTER = Chapter()


def entries_in_force(state: State) -> Iterator[pricing.PriceEntry]:
    """Yield the list in force, model by model, in the order of precedence."""
    for ids in state.pricing.by_model.values():
        yield from (state.pricing.by_id[price_id] for price_id in ids)


def entry_of(state: State, price_id: str) -> pricing.PriceEntry | None:
    """Return an entry of whatever list, or None."""
    return state.pricing.by_id.get(price_id)


def price_at(
    state: State, provider_id: str, model_id: str, at_us: int, variant: str = "standard"
) -> pricing.PriceEntry | None:
    """Return the entry that holds for a model at an instant, or None: unknown."""
    by_id = state.pricing.by_id
    ids = state.pricing.by_model.get(f"{provider_id}/{model_id}", ())
    for wanted in (variant, "standard") if variant in _NEVER_DEARER else (variant,):
        for price_id in ids:
            entry = by_id[price_id]
            until_us = entry.effective_to_us
            holds = entry.effective_from_us <= at_us and (until_us is None or at_us < until_us)
            if holds and (entry.variant == wanted or entry.state == "free"):
                return entry
    return None


@CHAPTER.on(pricing.PriceListAdopted)
def _adopted(state: State, recorded: Recorded, body: pricing.PriceListAdopted) -> None:
    book = state.pricing
    book.version, book.digest, book.adopted_us = body.price_version, body.digest, recorded.recorded_at_us
    book.catalogue_name, book.catalogue_version = body.catalogue_name, body.catalogue_version
    book.by_model = {}
    for entry in body.entries:
        book.by_id[entry.price_id] = entry
        book.by_model.setdefault(f"{entry.provider_id}/{entry.model_id}", []).append(entry.price_id)


@CHAPTER.on(pricing.PriceMissing)
def _missing(state: State, recorded: Recorded, body: pricing.PriceMissing) -> None:
    state.pricing.missing[f"{body.provider_id}/{body.model_id}|{body.variant}"] = body.day
