"""Making of a price list: overrides, declarations and the catalogue, resolved once for the models in force.

The catalogue is opened here, off the loop, and only where a model may be in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from palyra.decisions.pricing import needs_catalogue, resolve_list
from palyra.events.pricing import PriceEntry
from palyra.events.registry import ModelEntry, Registry


class PriceList(NamedTuple):
    """A list that may be adopted, and the catalogue that it was made with, "" where none was needed."""

    entries: list[PriceEntry]
    catalogue_name: str = ""
    catalogue_version: str = ""


async def make_price_list(registry: Registry, overrides: Sequence[PriceEntry]) -> PriceList:
    """Return the list of a registry."""
    if not needs_catalogue(registry):
        return PriceList(resolve_list(registry, overrides, lambda model: ()))
    return await asyncio.to_thread(_with_catalogue, registry, overrides)


def _with_catalogue(registry: Registry, overrides: Sequence[PriceEntry]) -> PriceList:
    from palyra.engine.catalogue import NAME, Catalogue

    catalogue = Catalogue()
    vendors = {provider.provider_id: provider.price_vendor for provider in registry.providers}

    def look_up(model: ModelEntry) -> list[PriceEntry]:
        vendor = vendors[model.provider_id]
        if not vendor:
            return []
        name = model.price_model or model.upstream_model
        return catalogue.entries(vendor, name, model.provider_id, model.model_id)

    return PriceList(resolve_list(registry, overrides, look_up), NAME, catalogue.version)
