"""What a seed says of money: prices, rules that are tight enough to matter, and what requests allow themselves."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from palyra.decisions.pricing import with_id
from palyra.events.budgets import UsageBudgetPolicyRecord
from palyra.events.pricing import PriceEntry, PriceTier

#: nano-USD a million tokens: from nearly nothing to dear.
_RATES = [0, 7, 150_000_000, 3_000_000_000, 75_000_000_000]
#: Limits in tokens, and in nano-USD.
_TOKENS = [20, 80, 300, 2_000, 9_000, 60_000, 3_000_000]
_NANOUSD = [0, 40_000, 400_000, 5_000_000, 60_000_000, 900_000_000, 200_000_000_000]
_SCOPES = [
    ("global", ""), ("global", ""), ("principal", "*"), ("principal", "key:sim"), ("session", "*"), ("agent", "*"),
    ("provider", "*"), ("provider", "a"), ("model", "*"), ("model", "m"), ("model", "a/m"),
]  # fmt: skip
_INTERVALS: list[dict[str, Any]] = [
    {"interval_kind": "daily"},
    {"interval_kind": "daily", "timezone": "Asia/Tokyo"},
    {"interval_kind": "weekly", "week_start": "friday"},
    {"interval_kind": "monthly", "month_day": 15},
    {"interval_kind": "rolling", "rolling_hours": 1},
    {"interval_kind": "rolling", "rolling_hours": 24},
    {"interval_kind": "per_run"},
]


def prices_of(rng: random.Random, names: str, changes_us: int) -> list[PriceEntry]:
    """Return what models cost; some have no price, and some get another one at an instant."""
    entries: list[PriceEntry] = []
    for name in names:
        for model_id in rng.choice([["*"], ["*"], ["m", "e"], ["m", "n", "*"], []]):
            before = _price(rng, name, model_id)
            entries.append(before)
            if rng.random() < 0.3:
                entries[-1] = msgspec.structs.replace(before, effective_to_us=changes_us)
                entries.append(msgspec.structs.replace(_price(rng, name, model_id), effective_from_us=changes_us))
    return [with_id(entry) for entry in entries]


def _price(rng: random.Random, name: str, model_id: str) -> PriceEntry:
    if rng.random() < 0.1:
        return PriceEntry(price_id="", provider_id=name, model_id=model_id, state="free")
    tiers = [
        PriceTier(above_input_tokens=above, input_nanousd_per_mtok=rng.choice(_RATES)) for above in (10, 100_000)
    ]
    return PriceEntry(
        price_id="",
        provider_id=name,
        model_id=model_id,
        input_nanousd_per_mtok=rng.choice(_RATES),
        cached_input_nanousd_per_mtok=rng.choice([None, *_RATES[:3]]),
        output_nanousd_per_mtok=rng.choice([*_RATES, *_RATES, None]),
        reasoning_nanousd_per_mtok=rng.choice([None, None, *_RATES]),
        request_nanousd_each=rng.choice([None, None, 1_000]),
        tiers=tiers if rng.random() < 0.2 else [],
    )


def policies_of(rng: random.Random, *, managed_by: str = "file") -> list[UsageBudgetPolicyRecord]:
    """Return the rules of a configuration."""
    count = rng.choice([0, 0, 0, 0, 0, 1, 1, 2, 4])
    return [policy_of(rng, f"{managed_by}-{number}", managed_by=managed_by) for number in range(count)]


def policy_of(rng: random.Random, policy_id: str, *, managed_by: str) -> UsageBudgetPolicyRecord:
    """Return a rule."""
    is_cost = rng.random() < 0.4
    interval = rng.choice(_INTERVALS)
    soft, hard = sorted(rng.choice(_NANOUSD if is_cost else _TOKENS) for _ in range(2))
    kind = rng.choice(["hard", "hard", "soft", "both", "both"])
    if interval["interval_kind"] == "per_run" and kind == "soft":
        kind = "both"
    scope_kind, scope_id = rng.choice(_SCOPES)
    fields: dict[str, Any] = {
        "policy_id": policy_id,
        "scope_kind": scope_kind,
        "scope_id": scope_id,
        "match": rng.choice([{}, {}, {}, {}, {"endpoint": "chat"}, {"model_id": "m"}]),
        "metric_kind": "usd_cost" if is_cost else "tokens",
        "token_count": "all" if is_cost else rng.choice(["all", "all", "uncached", "output"]),
        "soft_limit": None if kind == "hard" else soft,
        "hard_limit": None if kind == "soft" else hard,
        "on_unpriced": rng.choice(["deny", "allow", "allow"]),
        "sizing": rng.choice(["worst_case", "worst_case", "strict"]),
        "shrink_output": rng.random() < 0.7,
        "mode": rng.choice(["enforced", "enforced", "enforced", "enforced", "dry_run", "suggest"]),
        "managed_by": managed_by,
        **interval,
    }
    return UsageBudgetPolicyRecord(**fields)
