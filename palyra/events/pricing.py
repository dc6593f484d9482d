"""Prices: what a model costs at a provider, and since when. Stream `pricing`.

A list replaces the one before it whole. An entry never changes: another rate is another entry with another id, so
that a row of usage can name for ever what it was charged by.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from palyra.events.base import Fact

Variant = Literal["standard", "batch", "flex", "priority"]


class PriceTier(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Rates that hold for all tokens of an attempt whose input is longer than this."""

    above_input_tokens: int
    input_nanousd_per_mtok: int | None = None
    cached_input_nanousd_per_mtok: int | None = None
    cache_write_5m_nanousd_per_mtok: int | None = None
    cache_write_1h_nanousd_per_mtok: int | None = None
    output_nanousd_per_mtok: int | None = None
    reasoning_nanousd_per_mtok: int | None = None
    input_audio_nanousd_per_mtok: int | None = None
    output_audio_nanousd_per_mtok: int | None = None
    input_image_nanousd_per_mtok: int | None = None


class PriceEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What one model costs at one provider. A rate that is missing is not known, and never zero."""

    #: First 16 hex digits of the SHA-256 over the canonical JSON of the rest.
    price_id: str
    provider_id: str
    model_id: str
    variant: Variant = "standard"
    #: free: somebody declared that it costs nothing.
    state: Literal["priced", "free"] = "priced"
    effective_from_us: int = 0
    #: None: until further notice. The instant itself belongs to the next entry.
    effective_to_us: int | None = None
    input_nanousd_per_mtok: int | None = None
    cached_input_nanousd_per_mtok: int | None = None
    cache_write_5m_nanousd_per_mtok: int | None = None
    cache_write_1h_nanousd_per_mtok: int | None = None
    output_nanousd_per_mtok: int | None = None
    reasoning_nanousd_per_mtok: int | None = None
    input_audio_nanousd_per_mtok: int | None = None
    output_audio_nanousd_per_mtok: int | None = None
    input_image_nanousd_per_mtok: int | None = None
    audio_nanousd_per_minute: int | None = None
    image_nanousd_each: int | None = None
    request_nanousd_each: int | None = None
    search_nanousd_per_thousand: int | None = None
    #: Ascending.
    tiers: list[PriceTier] = []
    source: Literal["operator", "catalogue", "declared_free", "assumed"] = "operator"
    #: Release of the catalogue.
    source_version: str = ""
    #: exact: a contract's or declared; list: the public price; assumed: a guess that somebody wrote down.
    precision: Literal["exact", "list", "assumed"] = "exact"
    #: The catalogue has dropped the model; this is the last that it said.
    retained: bool = False

    @property
    def key(self) -> str:
        return f"{self.provider_id}/{self.model_id}"


class PriceListAdopted(Fact, tag="price_list.adopted", frozen=True, kw_only=True):
    """From here on attempts are priced by this list."""

    price_version: int
    #: SHA-256 over the entries, hex.
    digest: str
    catalogue_name: str = ""
    catalogue_version: str = ""
    config_generation: int
    entries: list[PriceEntry] = []


class PriceMissing(Fact, tag="price.missing", frozen=True, kw_only=True):
    """A model was used whose price is not known; said once a day."""

    provider_id: str
    model_id: str
    #: A service tier as the provider names it.
    variant: str = "standard"
    #: UTC days since 1970.
    day: int
    first_run_id: str
