"""The bundled price catalogue: public prices of vendors, with their history, read offline.

It is opened while a price list is made and at no other time; nobody who asks for a price later imports it. A rate
of 0 in it means that it is not known, and so does everything that it leaves out.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from palyra.decisions.pricing import with_id
from palyra.events.pricing import PriceEntry, PriceTier
from palyra.units import NANOUSD_PER_USD, US_PER_S

NAME = "genai-prices"
_MINUTES_PER_HOUR = 60
#: Its rates per million tokens and ours; the first that is there wins.
_TOKEN_RATES = {
    "input_mtok": "input_nanousd_per_mtok",
    "cache_read_mtok": "cached_input_nanousd_per_mtok",
    "cache_write_mtok": "cache_write_5m_nanousd_per_mtok",
    "cache_write_1h_mtok": "cache_write_1h_nanousd_per_mtok",
    "output_mtok": "output_nanousd_per_mtok",
    "output_reasoning_mtok": "reasoning_nanousd_per_mtok",
    "input_audio_mtok": "input_audio_nanousd_per_mtok",
    "output_audio_mtok": "output_audio_nanousd_per_mtok",
    "input_image_mtok": "input_image_nanousd_per_mtok",
}
#: Its other rates, ours, and what one of its units is of ours.
_OTHER_RATES = {
    "audio_hours": ("audio_nanousd_per_minute", _MINUTES_PER_HOUR),
    "input_audio_hours": ("audio_nanousd_per_minute", _MINUTES_PER_HOUR),
    "requests_kcount": ("request_nanousd_each", 1_000),
    "web_searches_kcount": ("search_nanousd_per_thousand", 1),
}


class Catalogue:
    """The catalogue, opened."""

    def __init__(self) -> None:
        from genai_prices import data_snapshot

        self._snapshot = data_snapshot.get_snapshot()
        self.version = importlib.metadata.version(NAME)

    def entries(self, vendor: str, model: str, provider_id: str, model_id: str) -> list[PriceEntry]:
        """Return what a vendor asks for a model, as entries of one of our models; none where it is not known."""
        try:
            _, found = self._snapshot.find_provider_model(model, None, vendor, None)
        except LookupError:
            return []
        entries = []
        windows = _windows(found.prices)
        for at, (from_us, prices) in enumerate(windows):
            rates = _rates(prices)
            if rates:
                until_us = windows[at + 1][0] if at + 1 < len(windows) else None
                entry = PriceEntry(
                    price_id="",
                    provider_id=provider_id,
                    model_id=model_id,
                    effective_from_us=from_us,
                    effective_to_us=until_us,
                    source="catalogue",
                    source_version=self.version,
                    precision="list",
                    **rates,
                )
                entries.append(with_id(entry))
        return entries


def _windows(prices: Any) -> list[tuple[int, Any]]:
    """Return (since when, prices), oldest first; prices of certain hours of the day are left out."""
    if not isinstance(prices, list):
        return [(0, prices)]
    by_start: dict[int, Any] = {}
    for one in prices:
        start = getattr(one.constraint, "start_date", None)
        if one.constraint is None:
            by_start[0] = one.prices
        elif start is not None:
            midnight = datetime(start.year, start.month, start.day, tzinfo=UTC)
            by_start[int(midnight.timestamp()) * US_PER_S] = one.prices
    return sorted(by_start.items(), key=lambda pair: pair[0])


def _rates(prices: Any) -> dict[str, Any]:
    rates: dict[str, Any] = {}
    tiers: dict[int, dict[str, int]] = {}
    for name, field in _TOKEN_RATES.items():
        value = getattr(prices, name, None)
        if value is None:
            continue
        _put(rates, field, getattr(value, "base", value), 1)
        for tier in getattr(value, "tiers", ()):
            _put(tiers.setdefault(tier.start, {}), field, tier.price, 1)
    for name, (field, units) in _OTHER_RATES.items():
        value = getattr(prices, name, None)
        if value is not None and field not in rates:
            _put(rates, field, getattr(value, "base", value), units)
    steps: Sequence[PriceTier] = [
        PriceTier(above_input_tokens=start, **tiers[start]) for start in sorted(tiers) if tiers[start]
    ]
    return {**rates, "tiers": list(steps)} if rates else {}


def _put(rates: dict[str, Any], field: str, usd: Decimal, units: int) -> None:
    nanousd = int((Decimal(usd) * NANOUSD_PER_USD / units).to_integral_value(ROUND_HALF_UP))
    if nanousd > 0:
        rates[field] = nanousd
