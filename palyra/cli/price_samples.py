"""What a thousand tokens in and a thousand out cost at each model of a configuration: a slip of the unit shows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from palyra.cli.page import Column, Page, Styled
from palyra.cli.render import usd

if TYPE_CHECKING:
    from palyra.config.tree import Config


class Sample(NamedTuple):
    """One model, and what it costs by the price that holds now; None where that is not known."""

    provider_id: str
    model_id: str
    sample_nanousd: int | None


def samples_of(config: Config) -> list[Sample]:
    """Return every model that is configured; raises `ConfigProblems` for more prices than a list may hold."""
    from palyra.config.effective import recordable_registry
    from palyra.decisions.pricing import sample_nanousd
    from palyra.engine.clock import SystemClock
    from palyra.engine.prices import make_price_list

    registry = recordable_registry(config.model_provider.registry)
    entries = asyncio.run(make_price_list(registry, config.pricing.overrides)).entries
    now_us = SystemClock().now_us()
    # Of several that hold the first counts, which comes last into the book.
    book = {
        one.key: sample_nanousd(one)
        for one in reversed(entries)
        if one.variant == "standard"
        and one.effective_from_us <= now_us
        and (one.effective_to_us is None or now_us < one.effective_to_us)
    }
    return [
        Sample(one.provider_id, one.model_id, book.get(f"{one.provider_id}/{one.model_id}"))
        for one in registry.models
    ]


def show_samples(page: Page, samples: list[Sample]) -> None:
    """Print models with what they cost, where any has a price that is not nothing."""
    if not any(one.sample_nanousd for one in samples):
        return
    page.line()
    columns = [Column("MODEL", is_cut=True), Column("PROVIDER", is_cut=True), Column("1K + 1K", align="right")]
    page.table(columns, [(one.model_id, one.provider_id, _money(one.sample_nanousd)) for one in samples])


def _money(nanousd: int | None) -> str | Styled:
    return Styled("unknown", "warn") if nanousd is None else usd(nanousd) if nanousd else "free"
