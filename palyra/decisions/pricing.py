"""What usage costs: exact, in integers, by one entry of the price list.

`cost_of` is the one place where tokens become money: estimate, hold, settlement, report and replay all ask it.
Source: governance specification 3.1.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from palyra.events.base import Draft
from palyra.events.pricing import PriceEntry, PriceListAdopted, PriceMissing, PriceTier
from palyra.events.registry import ModelEntry, Registry
from palyra.events.usage import CostState
from palyra.projections.pricing import entries_in_force
from palyra.projections.runs import Run
from palyra.projections.state import State
from palyra.usage import TokenUsage

STREAM = "pricing"
#: Sums are counted in thirds of a nano-USD per million tokens, so that minutes, searches and fees fit in.
_PARTS_PER_NANOUSD = 3_000_000
#: What providers call their ordinary service; the last two are Groq's and Anthropic's words.
_STANDARD = ("", "auto", "default", "standard", "on_demand", "standard_only")
#: A word that may be a tier's name; any other text of a client or a provider is not kept.
_TIER_NAME = re.compile(r"[a-z0-9_.-]{1,32}")
_NO_NAME = "other"
#: A day of which a missing price is told once.
_DAY_US = 86_400 * 1_000_000
#: Sample that unit slips are seen by.
_SAMPLE = TokenUsage(input_tokens=1_000, output_tokens=1_000)


class Cost(NamedTuple):
    """What usage costs: `nanousd` is None where a meter has no rate; `known_nanousd` is the rest of it."""

    state: CostState
    nanousd: int | None
    known_nanousd: int
    tier_above_tokens: int | None = None


UNKNOWN = Cost("unknown", None, 0)
FREE = Cost("free", 0, 0)


def cost_of(usage: TokenUsage, entry: PriceEntry | None) -> Cost:
    """Return what an attempt's usage costs, rounded once, half up."""
    return _rounded(usage, entry, _PARTS_PER_NANOUSD // 2)


def cost_ceiling(usage: TokenUsage, entry: PriceEntry | None) -> Cost:
    """Return the same rounded up: the bound that a hold is made of."""
    return _rounded(usage, entry, _PARTS_PER_NANOUSD - 1)


def _rounded(usage: TokenUsage, entry: PriceEntry | None, rounding: int) -> Cost:
    if entry is None:
        return UNKNOWN
    if entry.state == "free":
        return FREE
    tier = _tier_of(usage, entry)
    parts, is_complete = _parts(usage, entry, tier)
    known = (parts + rounding) // _PARTS_PER_NANOUSD
    above = None if tier is None else tier.above_input_tokens
    if is_complete:
        return Cost("priced", known, known, above)
    return Cost("unknown", None, known, above)


def _tier_of(usage: TokenUsage, entry: PriceEntry) -> PriceTier | None:
    """Tiers are cliffs: the highest one that the input passes holds for all tokens of the attempt."""
    held = None
    for tier in entry.tiers:
        if tier.above_input_tokens < usage.input_tokens:
            held = tier
    return held


def _parts(usage: TokenUsage, entry: PriceEntry, tier: PriceTier | None) -> tuple[int, bool]:
    """Return the sum of all meters, and whether each of them has a rate. Meters are summed, never chosen."""

    def rate(name: str) -> int | None:
        field = f"{name}_nanousd_per_mtok"
        replaced: int | None = None if tier is None else getattr(tier, field)
        own: int | None = getattr(entry, field)
        return own if replaced is None else replaced

    text_in, output = rate("input"), rate("output")
    write_5m = _first(rate("cache_write_5m"), text_in)
    # A clip that is measured in tokens and in time is charged once: by the meter that has a rate, tokens first.
    audio_tokens, audio_ms = usage.input_audio_tokens, usage.audio_ms
    if audio_tokens and audio_ms:
        by_token = rate("input_audio") is not None or entry.audio_nanousd_per_minute is None
        audio_tokens, audio_ms = (audio_tokens, 0) if by_token else (0, audio_ms)
    meters = (
        (3 * usage.text_input_tokens, text_in),
        (3 * usage.cached_input_tokens, _first(rate("cached_input"), text_in)),
        (3 * usage.cache_write_5m_tokens, write_5m),
        (3 * usage.cache_write_1h_tokens, _first(rate("cache_write_1h"), write_5m)),
        (3 * usage.input_image_tokens, _first(rate("input_image"), text_in)),
        (3 * audio_tokens, rate("input_audio")),
        (3 * usage.text_output_tokens, output),
        (3 * usage.reasoning_tokens, _first(rate("reasoning"), output)),
        (3 * usage.output_audio_tokens, rate("output_audio")),
        (50 * audio_ms, entry.audio_nanousd_per_minute),
        (3_000 * usage.search_count, entry.search_nanousd_per_thousand),
        (3_000_000 * usage.image_count, entry.image_nanousd_each),
        (3_000_000, entry.request_nanousd_each or 0),
    )
    parts = sum(count * each for count, each in meters if each is not None)
    return parts, all(each is not None for count, each in meters if count)


def _first(rate: int | None, fallback: int | None) -> int | None:
    return fallback if rate is None else rate


def usage_of_recording(price: PriceEntry | None, tokens_in: int, tokens_out: int, audio_ms: int) -> TokenUsage:
    """Return what a recording is taken to use where no provider tells: by its length where that has a rate."""
    if price is not None and price.state != "free":
        if price.audio_nanousd_per_minute is not None:
            return TokenUsage(audio_ms=audio_ms)
        heard = tokens_in if price.input_audio_nanousd_per_mtok is not None else 0
        return TokenUsage(input_tokens=tokens_in, input_audio_tokens=heard, output_tokens=tokens_out)
    return TokenUsage(input_tokens=tokens_in, output_tokens=tokens_out, audio_ms=audio_ms)


def variant_of(service_tier: str) -> str:
    """Return the variant that a service tier means; one that is not known keeps its name, and has no price."""
    name = service_tier.lower()
    if name in _STANDARD:
        return "standard"
    return name if _TIER_NAME.fullmatch(name) else _NO_NAME


def variant_at(run: Run, entry: ModelEntry | None) -> str:
    """Return the variant in which a run is served at a model: a request that is translated loses its tier."""
    asked = run.admitted
    is_translated = entry is not None and bool(asked.dialect) and entry.api_for(asked.dialect) != asked.dialect
    return "standard" if is_translated else asked.variant


def with_id(entry: PriceEntry) -> PriceEntry:
    """Return an entry with the id that its content gives it."""
    plain = msgspec.structs.replace(entry, price_id="")
    digest = hashlib.sha256(msgspec.json.Encoder(order="sorted").encode(plain)).hexdigest()
    return msgspec.structs.replace(plain, price_id=digest[:16])


def sample_nanousd(entry: PriceEntry) -> int | None:
    """Return what 1,000 tokens in and 1,000 out cost: an eye sees a slip of the unit."""
    return cost_of(_SAMPLE, entry).nanousd


def resolve_list(
    registry: Registry, overrides: Sequence[PriceEntry], catalogued: Callable[[ModelEntry], Sequence[PriceEntry]]
) -> list[PriceEntry]:
    """Return the list of a configuration, model by model, in the order of precedence.

    Overrides for the exact model, overrides for all models of its provider, what the provider was declared to be,
    the catalogue (`catalogued` answers for one model), overrides that are assumptions.
    """
    entries: list[PriceEntry] = []
    providers = {provider.provider_id: provider for provider in registry.providers}
    for model in registry.models:
        provider = providers[model.provider_id]
        own = [one for one in overrides if one.provider_id == model.provider_id]
        exact = [one for one in own if one.model_id == model.model_id]
        general = [
            with_id(msgspec.structs.replace(one, model_id=model.model_id)) for one in own if one.model_id == "*"
        ]
        entries += [one for one in (*exact, *general) if one.source == "operator"]
        if provider.pricing == "free":
            entries.append(_declared_free(model))
        elif provider.pricing == "catalogue":
            entries += catalogued(model)
        entries += [one for one in (*exact, *general) if one.source == "assumed"]
    return list({one.price_id: one for one in entries}.values())


def needs_catalogue(registry: Registry) -> bool:
    """Return whether a list can only be made with the catalogue at hand."""
    return any(one.pricing == "catalogue" and one.price_vendor for one in registry.providers)


def _declared_free(model: ModelEntry) -> PriceEntry:
    entry = PriceEntry(
        price_id="",
        provider_id=model.provider_id,
        model_id=model.model_id,
        state="free",
        source="declared_free",
    )
    return with_id(entry)


def adopt_prices(
    state: State, entries: list[PriceEntry], *, catalogue_name: str, catalogue_version: str
) -> list[Draft]:
    """Return the adoption of a whole list, or nothing where this very list is in force.

    A model that the catalogue has dropped keeps its last entry: retired models still have to be priced.
    """
    known = {one.key for one in entries}
    configured = {f"{one.provider_id}/{one.model_id}" for one in state.catalog.registry.models}
    kept = [
        one if one.retained else with_id(msgspec.structs.replace(one, retained=True))
        for one in entries_in_force(state)
        if one.source == "catalogue" and one.key in configured and one.key not in known
    ]
    whole = [*entries, *kept]
    digest = hashlib.sha256(msgspec.json.Encoder(order="sorted").encode(whole)).hexdigest()
    if digest == state.pricing.digest:
        return []
    adopted = PriceListAdopted(
        price_version=state.pricing.version + 1,
        digest=digest,
        catalogue_name=catalogue_name,
        catalogue_version=catalogue_version,
        config_generation=state.config.generation,
        entries=whole,
    )
    return [Draft(STREAM, adopted)]


def note_missing(
    state: State, *, provider_id: str, model_id: str, variant: str, run_id: str, now_us: int
) -> list[Draft]:
    """Return the fact that a model was used without a price, once a day; before any list nothing is said."""
    day = now_us // _DAY_US
    if not state.pricing.version or state.pricing.missing.get(f"{provider_id}/{model_id}|{variant}") == day:
        return []
    missing = PriceMissing(
        provider_id=provider_id, model_id=model_id, variant=variant, day=day, first_run_id=run_id
    )
    return [Draft(STREAM, missing, f"run-{run_id}")]
