"""Rules, prices and histories for tests about money, and an oracle that counts by reading every row.

`usd` prices `gpt` at all providers so that a token costs a whole micro-USD: amounts can be read off the tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from story import Outcome, Step, World

from palyra.decisions.policies import HistoryCount, retire_policy, set_policy
from palyra.decisions.pricing import adopt_prices, with_id
from palyra.decisions.windows import counted_window, rolling_start_us
from palyra.events.base import Recorded
from palyra.events.budgets import CountedSubject, UsageBudgetPolicyRecord
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


def count_history(
    record: UsageBudgetPolicyRecord, rows: Iterable[UsageRecorded | UsageCorrected], now_us: int
) -> list[CountedSubject]:
    """Return what a rule finds in its open window."""
    counted = HistoryCount(record, now_us)
    for row in rows:
        counted.add(row)
    return counted.found


def put(record: UsageBudgetPolicyRecord) -> Step:
    """Put a rule in force, with what history holds for it."""

    def step(world: World) -> Outcome:
        counted = count_history(record, rows_of(world.history), world.now_us)
        drafts = set_policy(world.state, record, counted, by="operator")
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
    """Return the same by brute force: every row that the rule is about, in the window, since it counts.

    The window is told by the calendar on the wall of its zone, and not by any instant at which one begins.
    """
    total = 0
    for row in rows_of(world.history):
        is_meant = subject_of(record, row, Where(row.provider_id, row.model_id)) == subject
        is_late_enough = row.effective_at_us >= record.effective_from_us
        if not is_meant or not is_late_enough or not _is_of_one_window(record, row.effective_at_us, at_us):
            continue
        if isinstance(row, UsageRecorded):
            total += amount_of(record.meter, row)
        elif record.meter == "usd_cost":
            total += (row.cost_after_nanousd or 0) - (row.cost_before_nanousd or 0)
    return total


def _is_of_one_window(record: UsageBudgetPolicyRecord, then_us: int, now_us: int) -> bool:
    """Return whether two instants are of one day, week or month there, or near enough for a rolling window."""
    if record.interval_kind == "rolling":
        since_us = now_us - (record.rolling_hours or 0) * 3_600_000_000
        return since_us - since_us % 900_000_000 <= then_us
    return _page_of(record, then_us) == _page_of(record, now_us)


def _page_of(record: UsageBudgetPolicyRecord, at_us: int) -> date:
    """Return the day on which the window began."""
    day = datetime.fromtimestamp(at_us / 1_000_000, ZoneInfo(record.timezone)).date()
    while record.interval_kind == "weekly" and day.strftime("%A").lower() != record.week_start:
        day -= timedelta(days=1)
    while record.interval_kind == "monthly" and day.day != record.month_day:
        day -= timedelta(days=1)
    return day


class Audit:
    """Books of every rule, kept from the facts alone: used and held never pass a hard limit and what was granted.

    They know rules, shares and rows, and none of the code that decides.
    """

    def __init__(self) -> None:
        self.rules: dict[str, UsageBudgetPolicyRecord] = {}
        #: By rule, subject and start of the window.
        self.settled: dict[tuple[str, str, int], int] = {}
        self.reserved: dict[tuple[str, str, int], int] = {}
        self.holds: dict[str, Any] = {}
        self.beyond: dict[tuple[str, str, int], int] = {}
        #: What grants let through and was not given back, and what is left of each grant.
        self.drawn: dict[tuple[str, str, int], int] = {}
        self.grants: dict[str, list[int]] = {}

    def enter(self, history: Sequence[Recorded]) -> Audit:
        """Enter facts in their order; fails where a start takes a sum past its limit."""
        for one in history:
            body: Any = one.body
            match one.name:
                case "budget_policy.set":
                    self.rules[body.policy.policy_id] = body.policy
                case "budget_policy.counted":
                    policy_id = one.stream.removeprefix("budget-")
                    for counted in body.subjects:
                        self.settled[policy_id, counted.subject, counted.window_start_us] = counted.amount
                case "budget.reserved":
                    self._reserve(one.stream, body)
                case "usage.recorded":
                    self._use(one.stream, body)
                case "budget.released":
                    back = {each.approval_id: each.amount for each in body.returned}
                    for share in self.holds.pop(one.stream).shares:
                        self.reserved[_key(share)] -= share.amount
                        if share.approval_id:
                            self.drawn[_key(share)] -= back.get(share.approval_id, 0)
                            self.grants[share.approval_id][1] += back.get(share.approval_id, 0)
                case "approval.granted":
                    self.grants[one.stream.removeprefix("approval-")] = [body.uses_max, body.amount_max]
                case "approval.used":
                    left = self.grants[one.stream.removeprefix("approval-")]
                    assert body.uses_left in (left[0] - 1, left[0]), f"{one.stream} was used by two at once"
                    left[0], left[1] = body.uses_left, left[1] - body.amount
                    assert left[0] >= 0
                    assert left[1] == body.amount_left >= 0
        assert all(amount >= 0 for amount in self.reserved.values())
        return self

    def _reserve(self, stream: str, body: Any) -> None:
        assert stream not in self.holds, f"{stream} holds twice"
        self.holds[stream] = body
        for share in body.shares:
            key = _key(share)
            self.reserved[key] = self.reserved.get(key, 0) + share.amount
            limit = self.rules[share.policy_id].hard_limit
            if share.approval_id:
                self.drawn[key] = self.drawn.get(key, 0) + share.amount
            granted = self.drawn.get(key, 0)
            projected = self.settled.get(key, 0) + self.reserved[key] - self.beyond.get(key, 0) - granted
            assert limit is None or projected <= limit, f"{key} is at {projected} of {limit}"

    def _use(self, stream: str, body: Any) -> None:
        for share in self.holds[stream].shares if stream in self.holds else ():
            key = _key(share)
            amount = amount_of(share.meter, body)
            self.settled[key] = self.settled.get(key, 0) + amount
            self.beyond[key] = self.beyond.get(key, 0) + max(0, amount - share.amount)


def _key(share: Any) -> tuple[str, str, int]:
    return share.policy_id, share.subject, share.window_start_us
