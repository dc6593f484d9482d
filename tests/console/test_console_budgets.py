"""Rules over the console's API: set, seen, felt by the next request, retired; what is wrong is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from console_house import Operator, open_console
from openai import APIStatusError

from palyra.engine.budgets import pass_over

RULE: dict[str, Any] = {
    "scope_kind": "global",
    "metric_kind": "tokens",
    "interval_kind": "daily",
    "hard_limit": 1_000_000,
}


#: The built-in provider, written out.
NAMED: dict[str, Any] = {
    "model_provider": {
        "providers": [{"provider_id": "deterministic", "kind": "deterministic"}],
        "models": [{"model_id": "deterministic", "provider_id": "deterministic"}],
    }
}


async def put(ask: Operator, name: str = "day", **changes: Any) -> Any:
    return await ask(f"budgets/{name}", method="PUT", body={"rule": {**RULE, **changes}})


async def use(ask: Operator) -> str:
    """Make a request; return how it went."""
    try:
        await ask.say()
    except APIStatusError as error:
        return str(error.code)
    return "ok"


async def test_a_rule_is_set_felt_changed_and_retired(tmp_path: Path) -> None:
    """What was used before it counts; a lower limit stops the next request; without it everything goes on."""
    async with open_console(tmp_path) as ask:
        assert await use(ask) == "ok"
        made = (await put(ask)).json
        assert (made["revision"], made["policy"]["hard_limit"]) == (1, 1_000_000)
        used = made["status"][0]["consumed"]
        assert used > 0
        assert await use(ask) == "ok"
        lowered = (await put(ask, hard_limit=used)).json
        assert (lowered["revision"], lowered["status"][0]["status"]) == (2, "hard_limit")
        assert await use(ask) == "budget_request_too_large"
        assert [one["policy"]["policy_id"] for one in (await ask("budgets")).json["items"]] == ["day"]
        assert (await ask("budgets/day/holds")).json["items"] == []
        assert (await ask("budgets/day", method="DELETE")).status == 200
        assert await use(ask) == "ok"
        assert (await ask("budgets/day")).code == "budget_policy_not_found"


async def test_what_is_wrong_is_refused_with_its_field(tmp_path: Path) -> None:
    """Limits below zero, soft above hard, unknown zones and keys, settings without effect."""
    async with open_console(tmp_path) as ask:
        for changes, field in (
            ({"hard_limit": -1}, "hard_limit"),
            ({"soft_limit": 2_000_000}, "soft_limit"),
            ({"timezone": "Mars/Olympus"}, "timezone"),
            ({"colour": "red"}, "colour"),
            ({"scope_id": "x"}, "scope_id"),
            ({"rolling_hours": 5}, "rolling_hours"),
        ):
            answer = await put(ask, **changes)
            assert (answer.status, answer.code, answer.error["field"]) == (400, "invalid_policy", field)
        assert (await put(ask, "No Name")).code == "invalid_policy"
        assert (await ask("budgets")).json["items"] == []


async def test_days_begin_where_the_configuration_says(tmp_path: Path) -> None:
    """A rule that names no zone has that of `[budgets]`, and so has the limit of a key; any other keeps its own."""
    async with open_console(tmp_path, {"budgets": {"timezone": "Europe/Prague"}}) as ask:
        assert (await put(ask)).json["policy"]["timezone"] == "Europe/Prague"
        assert (await put(ask, "there", timezone="Asia/Kathmandu")).json["policy"]["timezone"] == "Asia/Kathmandu"
        await ask.post("keys", {"name": "ci", "budget": "usd=5/daily"})
        zones = [one["policy"]["timezone"] for one in (await ask("budgets")).json["items"]]
        assert sorted(zones) == ["Asia/Kathmandu", "Europe/Prague", "Europe/Prague"]


async def test_no_more_rules_than_there_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused by name, with a key too; one in force can be changed, a retired one makes room."""
    monkeypatch.setattr("palyra.decisions.policies.POLICIES_MAX_COUNT", 1)
    async with open_console(tmp_path) as ask:
        assert (await put(ask)).status in (200, 201)
        full = await put(ask, "other")
        assert (full.status, full.code) == (409, "limit_policies")
        key = {"name": "ci", "budget": "usd=5/daily"}
        assert (await ask.post("keys", key)).code == "limit_policies"
        assert [one["name"] for one in (await ask("keys")).json["items"] if one["name"] == "ci"] == []
        assert (await put(ask, hard_limit=7)).status in (200, 201)
        assert (await ask("budgets/day", method="DELETE")).status == 200
        assert (await put(ask, "other")).status in (200, 201)


async def test_a_rule_is_made_once(tmp_path: Path) -> None:
    """Made under a name that there is, it would change what somebody else has made."""
    async with open_console(tmp_path) as ask:
        made = await ask.post("budgets", {"policy": "day", "rule": RULE})
        assert (made.status, made.json["revision"]) == (201, 1)
        assert (
            await ask.post("budgets", {"policy": "day", "rule": {**RULE, "hard_limit": 7}})
        ).code == "stale_revision"
        assert (await ask("budgets/day")).json["policy"]["hard_limit"] == RULE["hard_limit"]


async def test_nobody_changes_what_he_has_not_seen(tmp_path: Path) -> None:
    """A revision that has passed, and a rule that stands in the file, are refused."""
    policies = [{"policy_id": "filed", **RULE}]
    async with open_console(tmp_path, {"budgets": {"policies": policies}}) as ask:
        assert (await put(ask, "filed")).code == "managed_by_file"
        assert (await ask("budgets/filed", method="DELETE")).code == "managed_by_file"
        await put(ask)
        body = {"rule": RULE, "if_revision": 0}
        assert (await ask("budgets/day", method="PUT", body=body)).code == "stale_revision"
        answer = await ask(
            "budgets/day", method="PUT", body={**body, "if_revision": 1, "rule": {**RULE, "hard_limit": 5}}
        )
        assert answer.json["revision"] == 2
    async with open_console(tmp_path, {}) as ask:
        # Gone from the file; the one that was set here is still there.
        assert [one["policy"]["policy_id"] for one in (await ask("budgets")).json["items"]] == ["day"]


async def test_a_corrected_price_works_on_history(tmp_path: Path) -> None:
    """Counted first, written when asked to, once; the rows stay as they are."""
    free = {"pricing": {"overrides": [{"provider_id": "deterministic", "input_usd_per_mtok": "1.00"}]}}
    async with open_console(tmp_path) as ask:
        await ask.say()
    async with open_console(tmp_path, {**NAMED, **free}) as ask:
        seen = (await ask("pricing/recost", method="POST", body={})).json
        assert (seen["rows_count"], seen["is_applied"]) == (1, False)
        assert ask.daemon.core.state.counts.get("usage.corrected", 0) == 0
        done = (await ask("pricing/recost", method="POST", body={"apply": True})).json
        assert done["corrected_count"] == seen["corrected_count"]
        again = (await ask("pricing/recost", method="POST", body={"apply": True})).json
        assert again["corrected_count"] == 0
        assert (await ask.post("pricing/recost", {"from": "2099-01-01"})).json["rows_count"] == 0
        assert (await ask.post("pricing/recost", {"to": "2099-01-01"})).json["rows_count"] == 1
        for body, field in (({"from": "soon"}, "from"), ({"from": "2026-02-02", "to": "2026-01-01"}, "from")):
            refused = await ask.post("pricing/recost", body)
            assert (refused.status, refused.error["field"]) == (400, field)
        assert ask.daemon.core.state.counts.get("usage.corrected", 0) == done["corrected_count"]
        assert (await ask("pricing")).json["items"][0]["entry"]["input_nanousd_per_mtok"] == 10**9


async def test_what_is_corrected_while_rows_are_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are read beside the loop's work; what comes between wins, and what never rests is refused."""
    rates = {"pricing": {"overrides": [{"provider_id": "deterministic", "input_usd_per_mtok": "1.00"}]}}
    async with open_console(tmp_path) as ask:
        run_id = await ask.say()
    async with open_console(tmp_path, {**NAMED, **rates}) as ask:
        passes, times = 0, 1

        async def meanwhile(*arguments: Any) -> None:
            nonlocal passes
            await pass_over(*arguments)
            passes += 1
            if passes <= times:
                wish = {"run_id": run_id, "cost_after_nanousd": passes}
                done = await ask.post(
                    "usage/corrections", {"corrections": [wish], "reason": "operator", "apply": True}
                )
                assert done.status == 200

        monkeypatch.setattr("palyra.engine.console.pricing.pass_over", meanwhile)
        found = (await ask.post("pricing/recost", {"apply": True})).json
        # What somebody has set by hand is left alone.
        assert (found["rows_count"], found["corrected_count"], passes) == (0, 0, 4)
        passes, times = 0, 10
        assert (await ask.post("pricing/recost", {"apply": True})).code == "conflict"
