"""Making of a price list: overrides, declarations and the catalogue, resolved once for the models in force.

The catalogue is opened here, off the loop, and only where a model may be in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from palyra.config.problems import DEFAULT, ConfigProblems, Problem
from palyra.decisions.pricing import needs_catalogue, resolve_list
from palyra.events.pricing import PriceEntry
from palyra.events.registry import ModelEntry, Registry
from palyra.limits import PRICES_MAX_COUNT


class PriceList(NamedTuple):
    """A list that may be adopted, and the catalogue that it was made with, "" where none was needed."""

    entries: list[PriceEntry]
    catalogue_name: str = ""
    catalogue_version: str = ""


async def make_price_list(registry: Registry, overrides: Sequence[PriceEntry]) -> PriceList:
    """Return the list of a registry; raises `ConfigProblems` for one that is longer than a list may be."""
    if needs_catalogue(registry):
        made = await asyncio.to_thread(_with_catalogue, registry, overrides)
    else:
        made = PriceList(resolve_list(registry, overrides, lambda model: ()))
    if len(made.entries) > PRICES_MAX_COUNT:
        raise ConfigProblems([_too_many(len(made.entries))])
    return made


def _too_many(count: int) -> Problem:
    return Problem(
        code="limit_prices",
        key="model_provider.models",
        message=f"these models have {count:,} prices together, of {PRICES_MAX_COUNT:,} at most",
        source=DEFAULT,
        suggestion='take models out, or declare a provider pricing = "unknown"',
    )


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
