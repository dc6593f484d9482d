"""Tokens become money in one place: exactly, in integers, and what is not known stays unknown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given as generated
from hypothesis import strategies as st
from registries import model, provider, registry
from story import World, adopt, given, serve, wait

from palyra.decisions.pricing import (
    Cost,
    adopt_prices,
    cost_ceiling,
    cost_of,
    needs_catalogue,
    resolve_list,
    sample_nanousd,
    variant_of,
    with_id,
)
from palyra.events.pricing import PriceEntry, PriceListAdopted, PriceMissing, PriceTier
from palyra.events.registry import Registry
from palyra.events.usage import UsageRecorded
from palyra.projections.pricing import entries_in_force, price_at
from palyra.projections.usage import total_of
from palyra.usage import TokenUsage

USD = 1_000_000_000
PAID = registry(provider("a"), model("gpt", "a"))


def entry(**changes: Any) -> PriceEntry:
    """Return an entry of `gpt` at `a`: $3 in, $15 out per million tokens."""
    rates: dict[str, Any] = {"input_nanousd_per_mtok": 3 * USD, "output_nanousd_per_mtok": 15 * USD}
    return with_id(PriceEntry(**{"price_id": "", "provider_id": "a", "model_id": "gpt", **rates, **changes}))


def bare(**rates: int) -> PriceEntry:
    """Return an entry with these rates alone."""
    return with_id(PriceEntry(price_id="", provider_id="a", model_id="gpt", **rates))


@pytest.mark.parametrize(
    ("usage", "price", "nanousd"),
    [
        (TokenUsage(input_tokens=1_000, output_tokens=1_000), entry(), 18_000_000),
        (TokenUsage(input_tokens=1), bare(input_nanousd_per_mtok=499_999), 0),
        (TokenUsage(input_tokens=1), bare(input_nanousd_per_mtok=500_000), 1),
        (TokenUsage(input_tokens=3, cached_input_tokens=3), entry(cached_input_nanousd_per_mtok=500_000), 2),
        (TokenUsage(input_tokens=10, cached_input_tokens=10), entry(), 30_000),
        (TokenUsage(input_tokens=10, cache_write_5m_tokens=10), entry(), 30_000),
        (
            TokenUsage(input_tokens=10, cache_write_1h_tokens=10),
            entry(cache_write_5m_nanousd_per_mtok=4 * USD),
            40_000,
        ),
        (TokenUsage(output_tokens=10, reasoning_tokens=10), entry(), 150_000),
        (TokenUsage(input_tokens=10, input_image_tokens=10), entry(), 30_000),
        (TokenUsage(audio_ms=90_000), bare(audio_nanousd_per_minute=6_000_000), 9_000_000),
        (TokenUsage(search_count=3), bare(search_nanousd_per_thousand=10 * USD), 30_000_000),
        (TokenUsage(image_count=2), bare(image_nanousd_each=40_000_000), 80_000_000),
        (TokenUsage(), bare(request_nanousd_each=5), 5),
        (
            TokenUsage(input_tokens=10, input_audio_tokens=10, audio_ms=60_000),
            bare(input_audio_nanousd_per_mtok=6 * USD, audio_nanousd_per_minute=6_000_000),
            60_000,
        ),
        (
            TokenUsage(input_tokens=10, input_audio_tokens=10, audio_ms=60_000),
            bare(audio_nanousd_per_minute=6_000_000),
            6_000_000,
        ),
    ],
)
def test_cost_vectors(usage: TokenUsage, price: PriceEntry, nanousd: int) -> None:
    """Each meter at its rate or its fallback's; meters are summed, a clip is charged once, one rounding half up."""
    assert cost_of(usage, price) == Cost("priced", nanousd, nanousd)


@pytest.mark.parametrize(
    ("tokens", "nanousd", "above"),
    [(200_000, 600_000_000, None), (200_001, 1_200_006_000, 200_000)],
)
def test_a_tier_is_a_cliff(tokens: int, nanousd: int, above: int | None) -> None:
    """One token past it, all tokens cost the tier's rate; a rate that it does not name stays."""
    price = entry(tiers=[PriceTier(above_input_tokens=200_000, input_nanousd_per_mtok=6 * USD)])
    assert cost_of(TokenUsage(input_tokens=tokens), price) == Cost("priced", nanousd, nanousd, above)
    [with_output] = [cost_of(TokenUsage(input_tokens=tokens, output_tokens=1), price)]
    assert with_output.nanousd == nanousd + 15_000


@pytest.mark.parametrize(
    "usage",
    [
        TokenUsage(input_tokens=10, input_audio_tokens=4),
        TokenUsage(output_tokens=10, output_audio_tokens=4, input_tokens=6),
        TokenUsage(input_tokens=6, audio_ms=1),
        TokenUsage(input_tokens=6, image_count=1),
        TokenUsage(input_tokens=6, search_count=1),
    ],
)
def test_a_meter_without_a_rate_makes_the_cost_unknown(usage: TokenUsage) -> None:
    """The rest is kept as what is known; unknown is None, and never zero."""
    cost = cost_of(usage, entry())
    assert (cost.state, cost.nanousd) == ("unknown", None)
    assert cost.known_nanousd > 0


def test_free_unknown_and_priced_are_three_things() -> None:
    """Declared free costs 0, unknown costs nobody knows what."""
    usage = TokenUsage(input_tokens=5, audio_ms=7)
    assert cost_of(usage, bare().__class__(**{**_plain(bare()), "state": "free"})) == Cost("free", 0, 0)
    assert cost_of(usage, None) == Cost("unknown", None, 0)


def _plain(price: PriceEntry) -> dict[str, Any]:
    return {name: getattr(price, name) for name in price.__struct_fields__}


@generated(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**10), st.integers(0, 10**10))
def test_more_tokens_never_cost_less_and_the_ceiling_is_a_bound(
    tokens: int, more: int, text_in: int, text_out: int
) -> None:
    """Inside one tier cost is monotone; a hold made by the ceiling covers the settlement."""
    price = bare(input_nanousd_per_mtok=text_in, output_nanousd_per_mtok=text_out)
    small, large = TokenUsage(input_tokens=tokens), TokenUsage(input_tokens=tokens, output_tokens=more)
    assert (cost_of(small, price).nanousd or 0) <= (cost_of(large, price).nanousd or 0)
    assert (cost_of(large, price).nanousd or 0) <= (cost_ceiling(large, price).nanousd or 0)


def test_service_tiers_are_variants() -> None:
    """What providers call auto and default is the standard; another name stays what it is."""
    assert [variant_of(name) for name in ("", "auto", "default", "flex", "gold")] == [
        "standard",
        "standard",
        "standard",
        "flex",
        "gold",
    ]


def listed(world: World, *entries: PriceEntry) -> World:
    """Adopt a price list."""
    world.record(adopt_prices(world.state, list(entries), catalogue_name="", catalogue_version=""))
    return world


def test_variants_have_prices_of_their_own() -> None:
    """Batch and flex fall back to the standard entry; any other variant without one is unknown."""
    flex = entry(variant="flex", input_nanousd_per_mtok=USD)
    world = listed(given(PAID), entry(), flex)
    assert price_at(world.state, "a", "gpt", 0, "flex") == flex
    assert price_at(world.state, "a", "gpt", 0, "batch") == entry()
    assert price_at(world.state, "a", "gpt", 0, "priority") is None
    assert price_at(world.state, "a", "other", 0) is None


def test_precedence_is_operator_then_declared_then_catalogue_then_assumed() -> None:
    """Exact before general; the first whose window holds the instant counts."""
    exact = entry(input_nanousd_per_mtok=1, effective_from_us=10, effective_to_us=20)
    general = entry(model_id="*", input_nanousd_per_mtok=2, effective_to_us=30)
    assumed = entry(input_nanousd_per_mtok=4, source="assumed")
    public = entry(input_nanousd_per_mtok=3, source="catalogue", effective_from_us=30)
    whole = resolve_list(PAID, [assumed, general, exact], lambda one: [public])
    world = listed(given(PAID), *whole)
    rates = [price_at(world.state, "a", "gpt", at_us) for at_us in (5, 10, 19, 20, 30)]
    assert [one and one.input_nanousd_per_mtok for one in rates] == [2, 1, 1, 2, 3]
    declared = registry(provider("a", pricing="free"), model("gpt", "a"))
    [first, *_] = resolve_list(declared, [assumed], lambda one: [public])
    assert (first.state, first.source) == ("free", "declared_free")
    nothing = registry(provider("a", pricing="unknown"), model("gpt", "a"))
    assert resolve_list(nothing, [], lambda one: [public]) == []


def test_the_catalogue_is_needed_only_where_a_model_may_be_in_it() -> None:
    """Free, unknown and vendors that it does not know never open it."""
    assert needs_catalogue(registry(provider("a", price_vendor="openai"), model("gpt", "a")))
    for changes in ({"pricing": "free", "price_vendor": "openai"}, {"pricing": "unknown"}, {}):
        assert not needs_catalogue(registry(provider("a", **changes), model("gpt", "a")))


def test_the_same_list_is_not_adopted_twice() -> None:
    """A digest that is equal writes nothing."""
    world = listed(given(PAID), entry())
    before = len(world.history)
    listed(world, entry())
    assert len(world.history) == before
    listed(world, entry(input_nanousd_per_mtok=USD))
    assert [one.price_version for one in world.facts(PriceListAdopted)] == [1, 2]


def test_a_model_that_the_catalogue_dropped_keeps_its_price() -> None:
    """Retired models are still priced, after other adoptions too; a model that nobody configures is not."""
    public = entry(source="catalogue")
    world = listed(listed(listed(given(PAID), public)), entry(provider_id="b"))
    kept = price_at(world.state, "a", "gpt", 0)
    assert kept is not None
    assert (kept.retained, kept.input_nanousd_per_mtok) == (True, 3 * USD)
    world.do(adopt(Registry()))
    listed(world)
    assert list(entries_in_force(world.state)) == []


def test_a_run_is_priced_by_the_entry_at_its_start() -> None:
    """A price that changes before the settlement changes nothing for an attempt that had started."""
    from story import admit, complete, start, succeed

    world = listed(given(PAID), entry()).do(admit("r1"), start("r1"))
    listed(world, entry(input_nanousd_per_mtok=6 * USD)).do(succeed("r1"), complete("r1"), serve("r2"))
    first, second = world.facts(UsageRecorded)
    assert (first.price_id, first.cost_nanousd) == (entry().price_id, 90 * 3_000 + 20 * 15_000)
    assert second.cost_nanousd == 90 * 6_000 + 20 * 15_000
    assert total_of(world.state).cost_nanousd == (first.cost_nanousd or 0) + (second.cost_nanousd or 0)


def test_a_missing_price_is_told_once_a_day() -> None:
    """The run is served, its cost is unknown, and it counts as unpriced."""
    world = listed(given(PAID)).do(serve("r1"), serve("r2"), wait(ms=86_400_000), serve("r3"))
    assert [one.first_run_id for one in world.facts(PriceMissing)] == ["r1", "r3"]
    assert total_of(world.state).unpriced_count == 3
    assert all(row.cost_nanousd is None for row in world.facts(UsageRecorded))


def test_the_sample_shows_a_slip_of_the_unit() -> None:
    """A price a token instead of a price a million tokens is a million times too low."""
    assert sample_nanousd(entry()) == 18_000_000
    assert sample_nanousd(bare(input_nanousd_per_mtok=3, output_nanousd_per_mtok=15)) == 0
