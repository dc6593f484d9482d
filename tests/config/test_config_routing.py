"""`[routing]` and rules that downgrade: what they mean, and what is refused at its place."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from palyra.config.load import LoadedConfig
from palyra.engine.adoptable import smart_routing_of
from palyra.events.smart_routing import KEYWORDS, ScoreWeights, SmartRouting

Load = Callable[..., LoadedConfig]
Codes = Callable[..., list[tuple[str, str]]]
MODELS = """
[[model_provider.providers]]
provider_id = "up"
kind = "openai_compatible"
flavor = "generic"
base_url = "https://up.example/v1"
auth_scheme = "none"
[[model_provider.models]]
model_id = "gpt"
provider_id = "up"
cost_tier = "premium"
[[model_provider.models]]
model_id = "small"
provider_id = "up"
cost_tier = "low"
quality = 77
"""
RULE = """
[[budgets.policies]]
policy_id = "day"
scope_kind = "global"
metric_kind = "tokens"
interval_kind = "daily"
hard_limit = 100
on_hard = "downgrade"
downgrade_to = ["small", "up/gpt", "free"{more}]
"""


def test_nothing_written_is_the_default(load: Load) -> None:
    """What decisions read where nobody says anything is what the fact leaves out."""
    assert smart_routing_of(load("").config.routing) == SmartRouting()
    assert load("").config.routing.keywords == list(KEYWORDS)


def test_what_is_written_reaches_the_decisions(load: Load) -> None:
    """Modes in any spelling, weights, classes and agents; a list of keywords replaces ours."""
    config = load(
        """
[routing]
mode = "dry-run"
keywords = ["beweis*"]
agents = { coder = "enforced", writer = "dry-run" }
[routing.weights]
tools_bp = 0
[routing.classes.background]
min_quality = 40
"""
    ).config
    assert smart_routing_of(config.routing) == SmartRouting(
        mode="dry_run",
        keywords=["beweis*"],
        agents={"coder": "enforced", "writer": "dry_run"},
        weights=ScoreWeights(tools_bp=0),
        min_quality={"background": 40},
    )


def test_a_models_quality_follows_its_cost_unless_it_is_written(load: Load) -> None:
    """Low 30, standard 60, premium 90."""
    registry = load(MODELS).config.model_provider.registry
    assert {model.model_id: model.quality for model in registry.models} == {"gpt": 90, "small": 77}


def test_bands_that_cross_are_refused(codes: Codes) -> None:
    """There must be something between simple and premium, at the key that was written."""
    assert codes("[routing]\nsimple_at_bp = 7500\n") == [("conflicting_keys", "routing.simple_at_bp")]
    assert codes("[routing]\npremium_at_bp = 3500\n") == [("conflicting_keys", "routing.premium_at_bp")]


@pytest.mark.parametrize("more", ["", ', "nobody"'])
def test_what_is_left_past_a_limit_must_exist(more: str, load: Load, codes: Codes) -> None:
    """A model by name, pinned, or free; another name is refused where it stands."""
    text = MODELS + RULE.replace("{more}", more)
    if more:
        assert codes(text) == [("unknown_model", "budgets.policies[0].downgrade_to[3]")]
    else:
        assert load(text).config.budgets.policies[0].downgrade_to == ["small", "up/gpt", "free"]
