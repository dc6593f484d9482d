"""Making of a price list: overrides, declarations and the catalogue, resolved once for the models in force.

The catalogue is opened here, off the loop, and only where a model may be in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from palyra.config.problems import DEFAULT, ConfigProblems, Problem
from palyra.decisions.pricing import adopt_prices, needs_catalogue, resolve_list
from palyra.engine.core import SYSTEM, Core
from palyra.events.pricing import PriceEntry
from palyra.events.registry import ModelEntry, Registry
from palyra.limits import PRICES_MAX_COUNT
from palyra.projections.catalog import DISCOVERED


class PriceList(NamedTuple):
    """A list that may be adopted, and the catalogue that it was made with, "" where none was needed."""

    entries: list[PriceEntry]
    catalogue_name: str = ""
    catalogue_version: str = ""


async def renew_prices(core: Core, overrides: Sequence[PriceEntry], *, actor: str = SYSTEM) -> None:
    """Adopt the list of the registry in force, which has other models once a provider lists other ones."""
    prices = await make_price_list(core.state.catalog.registry, overrides)
    with core.batch(actor) as batch:
        batch.add(adopt_prices(core.state, **prices._asdict()))
    await batch.durable()


async def make_price_list(registry: Registry, overrides: Sequence[PriceEntry]) -> PriceList:
    """Return the list of a registry; raises `ConfigProblems` where configured models have more than it may hold.

    Models that serve because they are listed stand behind those; what does not fit is without a price.
    """
    if needs_catalogue(registry):
        made = await asyncio.to_thread(_with_catalogue, registry, overrides)
    else:
        made = PriceList(resolve_list(registry, overrides, lambda model: ()))
    listed = {(one.provider_id, one.model_id) for one in registry.models if one.metadata_source == DISCOVERED}
    own_count = sum((one.provider_id, one.model_id) not in listed for one in made.entries)
    if own_count > PRICES_MAX_COUNT:
        raise ConfigProblems([_too_many(own_count)])
    return made._replace(entries=made.entries[:PRICES_MAX_COUNT])


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
