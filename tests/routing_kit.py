"""A world with models of three grades for tests about routing, and steps that set its rules and prices.

A token of `small` costs one micro-USD, of `gpt` ten, of `large` a hundred.
"""

from __future__ import annotations

from typing import Any

from registries import model, provider, registry
from story import Outcome, Step, World, admit, given

from palyra.decisions.pricing import adopt_prices, with_id
from palyra.events.base import Draft
from palyra.events.config import ConfigAdopted
from palyra.events.pricing import PriceEntry
from palyra.events.registry import ModelEntry, ProviderEntry, Registry
from palyra.events.routing import RoutingDecided
from palyra.events.smart_routing import SmartRouting

GRADES: dict[str, dict[str, Any]] = {
    "small": {"cost_tier": "low", "quality": 30, "latency_tier": "low"},
    "gpt": {"cost_tier": "standard", "quality": 60},
    "large": {"cost_tier": "premium", "quality": 90, "latency_tier": "high"},
}
TOKEN_NANOUSD = {"small": 1_000, "gpt": 10_000, "large": 100_000}


def three_grades(*more: ProviderEntry | ModelEntry, **settings: Any) -> Registry:
    """Return `small` at a, `gpt` (the default) at b, `large` at c, and more."""
    own = [model(name, provider_id, **GRADES[name]) for name, provider_id in zip(GRADES, "abc", strict=True)]
    return registry(provider("a"), provider("b"), provider("c"), *own, *more, **settings)


def with_models(*entries: ModelEntry) -> Registry:
    """Return exactly these models at a, b and c."""
    return registry(
        provider("a"), provider("b"), provider("c"), *entries, default_chat_model_id=entries[0].model_id
    )


def rules(config: Registry | None = None, **changes: Any) -> Step:
    """Put rules of routing in force, with another registry where one is given."""

    def step(world: World) -> Outcome:
        adopted = ConfigAdopted(
            generation=world.state.config.generation + 1,
            digest="",
            effective={},
            registry=config or world.state.catalog.registry,
            routing=SmartRouting(**changes),
        )
        return Outcome(recorded=world.record([Draft("config", adopted)]))

    return step


def prices(**by_model: int | None) -> Step:
    """Price models by token in nano-USD, by default as the kit says; None is no price."""

    def step(world: World) -> Outcome:
        each = {**TOKEN_NANOUSD, **by_model}
        entries = [
            with_id(
                PriceEntry(
                    price_id="",
                    provider_id=one.provider_id,
                    model_id=one.model_id,
                    input_nanousd_per_mtok=1_000_000 * rate,
                    output_nanousd_per_mtok=1_000_000 * rate,
                )
            )
            for one in world.state.catalog.registry.models
            if (rate := each.get(one.model_id)) is not None
        ]
        drafts = adopt_prices(world.state, entries, catalogue_name="", catalogue_version="")
        return Outcome(recorded=world.record(drafts))

    return step


def routed(*steps: Step, config: Registry | None = None, **changes: Any) -> World:
    """Return a priced world with these rules of routing, after these steps."""
    return given(config or three_grades(), prices(), rules(**changes), *steps)


def decided(world: World, run_id: str = "r1", model_name: str = "gpt", **changes: Any) -> RoutingDecided:
    """Admit a request, or have it refused, and return the fact about its routing."""
    world.do(admit(run_id, model_name, **changes))
    return world.facts(RoutingDecided)[-1]


def served(fact: RoutingDecided) -> str:
    """Return the model that serves, "" for none."""
    return fact.plan[0].model_id if fact.plan else ""
