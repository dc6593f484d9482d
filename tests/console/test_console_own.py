"""What a program may see of rules, alerts and approvals: its own part, and that nobody else has one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from console_house import open_console
from openai import APIStatusError
from test_console_routing import say

EACH: dict[str, Any] = {
    "policy_id": "each",
    "scope_kind": "principal",
    "scope_id": "*",
    "metric_kind": "tokens",
    "interval_kind": "daily",
    "hard_limit": 1,
    "on_hard": "approval_required",
}
ALL = {**EACH, "policy_id": "all", "scope_kind": "global", "hard_limit": 1_000_000, "on_hard": "block"}
del ALL["scope_id"]


async def test_a_program_sees_its_own_part_of_rules(tmp_path: Path) -> None:
    """Counters, alerts and approvals of others do not show, in no list and by no name."""
    async with open_console(tmp_path, {"budgets": {"policies": [EACH, ALL]}}) as ask:
        made = (await ask.post("keys", {"name": "app", "scopes": ["v1:chat", "usage:read"]})).json
        secret, principal = made["secret"], made["key"]["principal"]
        for key in (secret, ask.daemon.client_key):
            with pytest.raises(APIStatusError):
                await say(ask, key)
        while len((await ask("alerts")).json["items"]) < 2:
            await asyncio.sleep(0)
        approvals = (await ask("approvals")).json["items"]
        assert len(approvals) == 2
        (own,) = (await ask("approvals", key=secret)).json["items"]
        assert own["principal_id"] == principal
        foreign = next(one for one in approvals if one["principal_id"] != principal)
        assert (await ask(f"approvals/{own['approval_id']}", key=secret)).json["requested"] > 0
        assert (await ask(f"approvals/{foreign['approval_id']}", key=secret)).code == "approval_not_found"

        (alert,) = (await ask("alerts", key=secret)).json["items"]
        assert alert["facts"]["subject"] == principal
        others = [one["alert_id"] for one in (await ask("alerts")).json["items"]]
        others.remove(alert["alert_id"])
        assert (await ask(f"alerts/{alert['alert_id']}", key=secret)).status == 200
        assert (await ask(f"alerts/{others[0]}", key=secret)).code == "alert_not_found"

        (rule,) = (await ask("budgets", key=secret)).json["items"]
        assert (rule["policy"]["policy_id"], {one["subject"] for one in rule["status"]} <= {principal}) == (
            "each",
            True,
        )
        assert (await ask("budgets/each", key=secret)).json["policy"]["hard_limit"] == 1
        assert (await ask("budgets/all", key=secret)).code == "budget_policy_not_found"
        assert (await ask("budgets/all/holds", key=secret)).json["items"] == []
        assert len((await ask("budgets")).json["items"]) == 2
        refused = await ask("budgets", key=secret, principal_id="key:other")
        assert (refused.status, refused.code) == (403, "binding_violation")
