"""Keys that a rule or a price has not: the way out is told where one is known."""

from __future__ import annotations

import pytest

from palyra.decisions.overrides import OVERRIDE_KEYS, read_overrides
from palyra.decisions.policies import POLICY_KEYS, read_policy
from palyra.decisions.strange_keys import OF_PRICES, OF_RULES, unknown_key

RULE = {"policy_id": "d", "scope_kind": "global", "metric_kind": "usd_cost", "interval_kind": "daily"}
RULE |= {"hard_limit": "1"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("limit_usd", "unknown key; here it is hard_limit, whose unit is that of metric_kind"),
        ("budget_duration", "unknown key; here it is interval_kind"),
        ("hard_limt", 'unknown key; did you mean "hard_limit"?'),
        ("colour", "unknown key"),
    ],
)
def test_a_rule_that_says_it_otherwise(name: str, said: str) -> None:
    """By another word, by a slip of the pen, or by something that there is not."""
    _, faults = read_policy({**RULE, name: 1}, timezone="UTC", is_zone=lambda zone: True, managed_by="file")
    assert [(one.path, one.code, one.message) for one in faults] == [((name,), "unknown_key", said)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("input_cost_per_token", "unknown key; here it is input_usd_per_mtok, per million tokens"),
        ("completion_usd_per_1k", "unknown key; here it is output_usd_per_mtok, per million tokens"),
        ("valid_from", "unknown key; here it is effective_from"),
        ("output_usd_per_mtk", 'unknown key; did you mean "output_usd_per_mtok"?'),
    ],
)
def test_a_price_that_counts_by_another_size(name: str, said: str) -> None:
    """A slip of a thousandfold is told by its name; tiers too."""
    row = {"provider_id": "p", "model_id": "m", "input_usd_per_mtok": "1"}
    _, faults = read_overrides([{**row, name: "1"}], ["p"])
    assert [(one.path, one.message) for one in faults] == [((0, name), said)]
    tier = {"above_input_tokens": 5, "input_usd_per_mtok": "1", name: "1"}
    _, faults = read_overrides([{**row, "tiers": [tier]}], ["p"])
    assert [one.path for one in faults] == [(0, "tiers", 0, name)]


def test_no_key_that_there_is_has_another_name() -> None:
    """Neither table speaks of a key that is known, and each names one that is."""
    assert not set(OF_RULES) & set(POLICY_KEYS)
    assert not set(OF_PRICES) & set(OVERRIDE_KEYS)
    for others, known in ((OF_RULES, POLICY_KEYS), (OF_PRICES, OVERRIDE_KEYS)):
        assert all(any(key in words for key in known) for words in others.values())
    assert unknown_key("xyz", [], {}) == "unknown key"
