"""Rules as people write them: each key, and everything that is wrong with one, at its place and all at once."""

from __future__ import annotations

from typing import Any

import pytest
from budget_kit import count_history, put, rule
from registries import model, provider, registry
from story import given, serve

from palyra.decisions.policies import (
    POLICY_KEYS,
    HistoryCount,
    adopt_policies,
    needs_history,
    read_policies,
    read_policy,
    room_for,
)
from palyra.events.budgets import UsageBudgetPolicyRecord
from palyra.events.usage import UsageRecorded
from palyra.limits import POLICIES_MAX_COUNT

ROW: dict[str, Any] = {
    "policy_id": "day",
    "scope_kind": "global",
    "metric_kind": "tokens",
    "interval_kind": "daily",
    "hard_limit": 5,
}
ONE = registry(provider("a"), model("gpt", "a"))


def is_zone(name: str) -> bool:
    return name in ("UTC", "Europe/Prague")


def read(**changes: Any) -> tuple[UsageBudgetPolicyRecord | None, list[tuple[Any, str]]]:
    row = {name: value for name, value in {**ROW, **changes}.items() if value is not None}
    record, faults = read_policy(row, timezone="Europe/Prague", is_zone=is_zone, managed_by="file")
    return record, [(fault.path, fault.code) for fault in faults]


def test_a_short_rule_has_the_defaults() -> None:
    """The zone is the configured one; everything else stands in the record."""
    assert read() == (
        UsageBudgetPolicyRecord(
            policy_id="day",
            scope_kind="global",
            metric_kind="tokens",
            interval_kind="daily",
            hard_limit=5,
            timezone="Europe/Prague",
            managed_by="file",
        ),
        [],
    )


def test_a_long_rule_says_everything() -> None:
    """Money is written in USD and kept in nano-USD."""
    record, faults = read(
        scope_kind="session",
        scope_id="*",
        match={"endpoint": "chat"},
        metric_kind="usd_cost",
        interval_kind="weekly",
        week_start="sunday",
        timezone="UTC",
        soft_limit="4.00",
        hard_limit=5.5,
        on_unpriced="allow",
        sizing="strict",
        shrink_output=False,
        mode="dry_run",
        effective_from="2026-01-01",
        enabled=False,
    )
    assert faults == []
    assert record is not None
    assert (record.soft_limit, record.hard_limit) == (4_000_000_000, 5_500_000_000)
    assert (record.week_start, record.on_unpriced, record.mode) == ("sunday", "allow", "dry_run")
    assert record.effective_from_us > 0


@pytest.mark.parametrize(("hard", "on_unpriced"), [("1", "deny"), (None, "allow")])
def test_what_has_no_price_is_stopped_where_money_has_a_hard_limit(hard: str | None, on_unpriced: str) -> None:
    """A limit that only warns lets it pass."""
    record, _ = read(metric_kind="usd_cost", hard_limit=hard, soft_limit="1")
    assert record is not None
    assert record.on_unpriced == on_unpriced


@pytest.mark.parametrize(
    ("changes", "path", "code"),
    [
        ({"policy_id": "No"}, ("policy_id",), "bad_policy_id"),
        ({"policy_id": "request.x"}, ("policy_id",), "bad_policy_id"),
        ({"policy_id": 5}, ("policy_id",), "bad_policy_id"),
        ({"policy_id": None}, ("policy_id",), "missing_key"),
        ({"scope_kind": "team"}, ("scope_kind",), "bad_enum"),
        ({"scope_kind": "session"}, ("scope_id",), "missing_key"),
        ({"scope_id": "x"}, ("scope_id",), "setting_without_effect"),
        ({"scope_kind": "session", "scope_id": 5}, ("scope_id",), "wrong_type"),
        ({"match": []}, ("match",), "wrong_type"),
        ({"match": {"team": "x"}}, ("match", "team"), "unknown_key"),
        ({"match": {"origin": 5}}, ("match", "origin"), "wrong_type"),
        ({"timezone": "Mars"}, ("timezone",), "unknown_zone"),
        ({"interval_kind": "rolling"}, ("rolling_hours",), "missing_key"),
        ({"interval_kind": "rolling", "rolling_hours": 745}, ("rolling_hours",), "out_of_range"),
        ({"rolling_hours": 5}, ("rolling_hours",), "setting_without_effect"),
        ({"week_start": "sunday"}, ("week_start",), "setting_without_effect"),
        ({"month_day": 5}, ("month_day",), "setting_without_effect"),
        ({"interval_kind": "monthly", "month_day": 29}, ("month_day",), "out_of_range"),
        ({"interval_kind": "per_run", "hard_limit": None, "soft_limit": 5}, ("hard_limit",), "missing_key"),
        ({"hard_limit": None}, ("hard_limit",), "missing_key"),
        ({"hard_limit": -1}, ("hard_limit",), "limit_negative"),
        ({"hard_limit": "5"}, ("hard_limit",), "wrong_type"),
        ({"soft_limit": 6}, ("soft_limit",), "soft_above_hard"),
        ({"metric_kind": "usd_cost", "hard_limit": "-1"}, ("hard_limit",), "limit_negative"),
        ({"metric_kind": "usd_cost", "token_count": "all"}, ("token_count",), "setting_without_effect"),
        ({"on_unpriced": "deny"}, ("on_unpriced",), "setting_without_effect"),
        (
            {"hard_limit": None, "soft_limit": 5, "shrink_output": True},
            ("shrink_output",),
            "setting_without_effect",
        ),
        ({"enabled": "yes"}, ("enabled",), "wrong_type"),
        ({"sizing": "p95"}, ("sizing",), "bad_enum"),
        ({"on_hard": "downgrade"}, ("downgrade_to",), "missing_key"),
        ({"on_hard": "downgrade", "downgrade_to": "small"}, ("downgrade_to",), "wrong_type"),
        ({"on_hard": "downgrade", "downgrade_to": [1]}, ("downgrade_to",), "wrong_type"),
        ({"downgrade_to": ["small"]}, ("downgrade_to",), "setting_without_effect"),
        ({"ceiling_limit": 5_000_000}, ("ceiling_limit",), "setting_without_effect"),
        (
            {"on_hard": "downgrade", "downgrade_to": ["free"], "hard_limit": 100, "ceiling_limit": 100},
            ("ceiling_limit",),
            "ceiling_below_hard",
        ),
        ({"effective_from": "soon"}, ("effective_from",), "bad_instant"),
        ({"colour": "red"}, ("colour",), "unknown_key"),
    ],
)
def test_each_slip_is_refused_at_its_place(changes: dict[str, Any], path: tuple[Any, ...], code: str) -> None:
    """A negative limit, a soft one above the hard one, an unknown zone, a setting without effect."""
    assert read(**changes) == (None, [(path, code)])


def test_all_problems_of_all_rules_come_at_once() -> None:
    """With the rule's index; two rules of one name, and too many rules, are among them."""
    rows = [ROW, {**ROW, "hard_limit": -1, "colour": "red"}, ROW]
    records, faults = read_policies(rows, timezone="UTC", is_zone=is_zone, managed_by="file")
    assert len(records) == 2
    assert [(fault.path, fault.code) for fault in faults] == [
        ((1, "colour"), "unknown_key"),
        ((1, "hard_limit"), "limit_negative"),
        ((2, "policy_id"), "duplicate_policy"),
    ]
    many = [{**ROW, "policy_id": f"p{number}"} for number in range(POLICIES_MAX_COUNT + 1)]
    _, faults = read_policies(many, timezone="UTC", is_zone=is_zone, managed_by="file")
    assert [fault.code for fault in faults] == ["limit_policies"]


def test_every_key_of_the_record_can_be_written() -> None:
    """But for who manages it; the instant from which it counts is written as one."""
    fields = set(UsageBudgetPolicyRecord.__struct_fields__) - {"managed_by"}
    assert {name.replace("effective_from", "effective_from_us") for name in POLICY_KEYS} == fields


def test_a_file_puts_its_rules_in_force_and_takes_them_back() -> None:
    """What has gone from the file is retired; what was set elsewhere stays; the same file writes nothing."""
    filed = rule("filed", managed_by="file")
    world = given(ONE, put(rule("set")))
    assert needs_history(world.state, [filed])
    world.record(adopt_policies(world.state, [filed], {}))
    assert not needs_history(world.state, [filed])
    assert adopt_policies(world.state, [filed], {}) == []
    world.record(adopt_policies(world.state, [], {}))
    assert list(world.state.budgets.policies) == ["set"]


def test_a_rule_counts_of_history_whom_it_is_about() -> None:
    """Somebody else's rows are none of its own, however late it comes."""
    world = given(ONE, serve("r1"))
    rows = [one.body for one in world.history if isinstance(one.body, UsageRecorded)]
    counted = {
        name: count_history(rule(scope_id=name), rows, world.now_us) for name in ("*", "key:tester", "key:x")
    }
    assert [(one.subject, one.amount) for one in counted["*"]] == [("key:tester", rows[0].usage.total_tokens)]
    assert (counted["key:tester"], counted["key:x"]) == (counted["*"], [])


def test_a_count_is_of_one_window() -> None:
    """What was counted is good until the window has passed in which it was."""
    world = given()
    counted = HistoryCount(rule(), world.now_us)
    end_us = counted.window.end_us
    assert counted.is_of(world.now_us)
    assert (counted.is_of(end_us - 1), counted.is_of(end_us)) == (True, False)


def test_a_full_table_takes_no_new_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many rules as there may be: one more is refused by name, and one in force can still be changed."""
    monkeypatch.setattr("palyra.decisions.policies.POLICIES_MAX_COUNT", 1)
    assert room_for(given(ONE).state, "day") is None
    full = given(ONE, put(rule("day"))).state
    refused = room_for(full, "other")
    assert refused is not None
    assert (refused.code, refused.message) == ("limit_policies", "There are 1 rules already; retire one first.")
    assert room_for(full, "day") is None
