"""The price list that a configuration gives: the real catalogue, opened where it is needed and nowhere else."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from engine_world import model, provider, registry

from palyra.config.problems import ConfigProblems
from palyra.engine.catalogue import Catalogue
from palyra.engine.prices import make_price_list


def test_the_catalogue_knows_public_prices() -> None:
    """Rates by class, a tier, a price a minute; its zero rates and unknown names give nothing."""
    catalogue = Catalogue()
    [mini] = catalogue.entries("openai", "gpt-4o-mini", "p", "mini")
    assert (mini.input_nanousd_per_mtok, mini.output_nanousd_per_mtok) == (150_000_000, 600_000_000)
    assert (mini.provider_id, mini.model_id, mini.source, mini.precision) == ("p", "mini", "catalogue", "list")
    [sonnet] = catalogue.entries("anthropic", "claude-sonnet-4-5", "p", "s")
    assert sonnet.tiers[0].above_input_tokens == 200_000
    assert (sonnet.cache_write_5m_nanousd_per_mtok or 0) < (sonnet.cache_write_1h_nanousd_per_mtok or 0)
    [whisper] = catalogue.entries("openai", "whisper-1", "p", "w")
    assert (whisper.input_nanousd_per_mtok, whisper.audio_nanousd_per_minute) == (None, 6_000_000)
    assert catalogue.entries("openai", "nobody-knows", "p", "x") == []
    assert catalogue.entries("nobody", "gpt-4o-mini", "p", "x") == []


def test_a_dated_price_change_is_two_windows() -> None:
    """One ends where the next begins, and nothing lies between them."""
    entries = Catalogue().entries("openai", "o3", "p", "o3")
    assert len(entries) >= 2
    assert all(one.effective_to_us == two.effective_from_us for one, two in itertools.pairwise(entries))
    assert entries[-1].effective_to_us is None


async def test_a_list_is_made_of_the_models_in_force() -> None:
    """A vendor's model is looked up by its upstream name, or by the name that the entry gives it there."""
    known = registry(
        provider("a", price_vendor="openai"),
        provider("b"),
        model("one", "a", upstream_model="gpt-4o-mini"),
        model("two", "a", upstream_model="my-deployment", price_model="gpt-4o-mini"),
        model("three", "a", upstream_model="nobody-knows"),
        model("four", "b", upstream_model="gpt-4o-mini"),
    )
    made = await make_price_list(known, [])
    assert [entry.model_id for entry in made.entries] == ["one", "two"]
    assert made.catalogue_name == "genai-prices"


async def test_a_list_is_no_longer_than_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is a problem of the configuration, by name and with the way out; of what is listed it is none."""
    known = registry(provider("a", pricing="free"), model("one", "a"), model("two", "a"))
    monkeypatch.setattr("palyra.engine.prices.PRICES_MAX_COUNT", 2)
    assert len((await make_price_list(known, [])).entries) == 2
    monkeypatch.setattr("palyra.engine.prices.PRICES_MAX_COUNT", 1)
    with pytest.raises(ConfigProblems, match="these models have 2 prices together, of 1 at most; take") as refused:
        await make_price_list(known, [])
    assert [one.code for one in refused.value.problems] == ["limit_prices"]
    listed = registry(known.providers[0], known.models[0], model("two", "a", metadata_source="discovery"))
    assert [one.model_id for one in (await make_price_list(listed, [])).entries] == ["one"]


def test_where_every_model_is_free_the_catalogue_is_never_imported() -> None:
    """Nor is it by the fold, by a decision, or by the program that asks for a price."""
    program = """
import asyncio, sys
import palyra.app, palyra.engine.prices, palyra.projections.state, palyra.cli.pricing
async def main():
    async with palyra.Daemon(journal=":memory:"):
        pass
asyncio.run(main())
sys.exit("genai_prices" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
