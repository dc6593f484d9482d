"""Rules, prices and histories for tests about money, and an oracle that counts by reading every row.

`usd` prices `gpt` at all providers so that a token costs a whole micro-USD: amounts can be read off the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from story import Outcome, Step, World

from palyra.decisions.policies import retire_policy, set_policy
from palyra.decisions.pricing import adopt_prices, with_id
from palyra.decisions.windows import counted_window, rolling_start_us
from palyra.events.base import Recorded
from palyra.events.budgets import UsageBudgetPolicyRecord
from palyra.events.pricing import PriceEntry
from palyra.events.usage import UsageCorrected, UsageRecorded
from palyra.projections.budgets import Where, amount_of, consumed_in, counter_of, late_amount, subject_of

#: A token of `gpt` costs this much.
TOKEN_NANOUSD = 1_000


def rule(policy_id: str = "day", **changes: Any) -> UsageBudgetPolicyRecord:
    """Return a rule of 1,000 tokens a day for each principal."""
    fields: dict[str, Any] = {
        "policy_id": policy_id,
        "scope_kind": "principal",
        "scope_id": "*",
        "metric_kind": "tokens",
        "interval_kind": "daily",
        "hard_limit": 1_000,
        **changes,
    }
    if fields["scope_kind"] == "global":
        fields["scope_id"] = ""
    if fields["metric_kind"] == "usd_cost":
        fields = {"on_unpriced": "deny", **fields}
    return UsageBudgetPolicyRecord(**fields)


def put(record: UsageBudgetPolicyRecord) -> Step:
    """Put a rule in force, with what history holds for it."""

    def step(world: World) -> Outcome:
        drafts = set_policy(world.state, record, rows_of(world.history), by="operator", now_us=world.now_us)
        return Outcome(recorded=world.record(drafts))

    return step


def retire(policy_id: str) -> Step:
    """Take a rule out of force."""
    return lambda world: Outcome(recorded=world.record(retire_policy(world.state, policy_id, by="operator")))


def price(**changes: Any) -> Step:
    """Give every configured model one price."""

    def step(world: World) -> Outcome:
        rate = 1_000_000 * TOKEN_NANOUSD
        entries = [
            with_id(
                PriceEntry(
                    **{
                        "price_id": "",
                        "provider_id": one.provider_id,
                        "model_id": one.model_id,
                        "input_nanousd_per_mtok": rate,
                        "output_nanousd_per_mtok": rate,
                        **changes,
                    }
                )
            )
            for one in world.state.catalog.registry.models
        ]
        drafts = adopt_prices(world.state, entries, catalogue_name="", catalogue_version="")
        return Outcome(recorded=world.record(drafts))

    return step


def rows_of(history: Sequence[Recorded]) -> list[UsageRecorded | UsageCorrected]:
    """Return every row of usage."""
    return [one.body for one in history if isinstance(one.body, (UsageRecorded, UsageCorrected))]


def consumed(world: World, policy_id: str, subject: str, at_us: int) -> int:
    """Return what the state says was used in the window of an instant."""
    policy = world.state.budgets.policies[policy_id]
    window = counted_window(policy.record, at_us)
    since_us = rolling_start_us(policy.record, at_us) if policy.record.interval_kind == "rolling" else 0
    counter = counter_of(world.state, policy_id, subject, window.start_us)
    if counter is None:
        return late_amount(policy, subject, max(window.start_us, since_us), window.end_us)
    return consumed_in(counter, since_us)


def counted_by_hand(world: World, record: UsageBudgetPolicyRecord, subject: str, at_us: int) -> int:
    """Return the same by brute force: every row that the rule is about, in the window, since it counts."""
    window = counted_window(record, at_us)
    since_us = max(window.start_us, record.effective_from_us)
    if record.interval_kind == "rolling":
        since_us = max(rolling_start_us(record, at_us), record.effective_from_us)
    total = 0
    for row in rows_of(world.history):
        is_meant = subject_of(record, row, Where(row.provider_id, row.model_id)) == subject
        if not is_meant or not since_us <= row.effective_at_us < window.end_us:
            continue
        if isinstance(row, UsageRecorded):
            total += amount_of(record.meter, row)
        elif record.meter == "usd_cost":
            total += (row.cost_after_nanousd or 0) - (row.cost_before_nanousd or 0)
    return total
