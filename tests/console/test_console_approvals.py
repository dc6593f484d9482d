"""Approvals over the console's API: asked for by a request, decided once, used by the next one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from console_house import Operator, open_console
from openai import APIStatusError, AsyncOpenAI

RULE: dict[str, Any] = {
    "scope_kind": "principal",
    "scope_id": "*",
    "metric_kind": "tokens",
    "interval_kind": "daily",
    "hard_limit": 0,
    "on_hard": "approval_required",
}


async def limit(ask: Operator) -> None:
    assert (await ask("budgets/day", method="PUT", body={"rule": RULE})).status == 200


async def refusal(ask: Operator) -> APIStatusError:
    """Make a request that is refused."""
    with pytest.raises(APIStatusError) as raised:
        await ask.say()
    return raised.value


async def test_a_request_is_asked_for_granted_and_used(tmp_path: Path) -> None:
    """The refusal names its request; it is granted once, lets one run through, and the next one asks anew."""
    async with open_console(tmp_path) as ask:
        await limit(ask)
        error = await refusal(ask)
        assert (error.status_code, error.code) == (402, "budget_approval_required")
        asked = (await ask("approvals", state="open")).json["items"]
        assert [one["approval_id"] for one in asked] == [error.response.json()["palyra"]["budget"]["approval_id"]]
        name = asked[0]["approval_id"]
        granted = await ask.post(f"approvals/{name[:6]}/decide", {"decision": "grant", "amount_max": 10**6})
        assert (granted.json["state"], granted.json["uses_left"]) == ("granted", 1)
        assert (await ask.post(f"approvals/{name}/decide", {"decision": "deny"})).code == "already_decided"
        await ask.say()
        assert (await ask(f"approvals/{name}")).json["uses_left"] == 0
        assert (await refusal(ask)).code == "budget_approval_required"


async def test_a_denial_is_told_to_the_next_request(tmp_path: Path) -> None:
    """No is no until the window ends."""
    async with open_console(tmp_path) as ask:
        await limit(ask)
        await refusal(ask)
        name = (await ask("approvals")).json["items"][0]["approval_id"]
        assert (await ask.post(f"approvals/{name}/decide", {"decision": "deny"})).json["state"] == "denied"
        assert (await refusal(ask)).code == "budget_approval_denied"


async def test_a_request_waits_for_its_grant(tmp_path: Path) -> None:
    """With the header the connection is kept until somebody decides, and then answered like any other."""
    async with open_console(tmp_path) as ask:
        await limit(ask)
        async with AsyncOpenAI(base_url=ask.daemon.base_url, api_key=ask.daemon.client_key) as client:
            asking = asyncio.ensure_future(
                client.chat.completions.create(
                    model="deterministic",
                    messages=[{"role": "user", "content": "Hello?"}],
                    extra_headers={"x-palyra-wait-approval": "60"},
                )
            )
            while not (items := (await ask("approvals", state="open")).json["items"]):
                await asyncio.sleep(0)
            await ask.post(f"approvals/{items[0]['approval_id']}/decide", {"decision": "grant"})
            answer = await asking
        assert answer.choices[0].message.content


async def test_a_header_that_says_nothing_sensible_is_refused(tmp_path: Path) -> None:
    """It takes 1 to 300 seconds."""
    async with (
        open_console(tmp_path) as ask,
        AsyncOpenAI(base_url=ask.daemon.base_url, api_key=ask.daemon.client_key) as client,
    ):
        for value in ("0", "301", "soon"):
            with pytest.raises(APIStatusError) as raised:
                await client.chat.completions.create(
                    model="deterministic",
                    messages=[{"role": "user", "content": "Hello?"}],
                    extra_headers={"x-palyra-wait-approval": value},
                )
            assert raised.value.code == "invalid_header"


async def test_runs_pass_by_a_grant_ahead_of_time(tmp_path: Path) -> None:
    """It is asked for and granted in one step; without the right to grant it is only asked for."""
    async with open_console(tmp_path) as ask:
        await limit(ask)
        await refusal(ask)
        who = (await ask("approvals")).json["items"][0]["subject"]
        body = {"subject": who, "amount": 10**6, "uses": 2}
        made = (await ask.post("budgets/day/override-request", body)).json
        assert (made["state"], made["uses_max"], made["run_id"]) == ("granted", 2, None)
        await ask.say()
        wanted = (await ask.post("budgets/day/override-request", {**body, "grant": False})).json
        assert wanted["state"] == "open"
        assert (await ask.post("budgets/none/override-request", body)).code == "budget_policy_not_found"
        assert (await ask.post("budgets/day/override-request", {"uses": 0})).code == "invalid_request"
        key = (await ask.post("keys", {"name": "clerk", "kind": "admin", "scopes": ["usage:write"]})).json["secret"]
        answer = await ask.post("budgets/day/override-request", body, key=key)
        assert answer.code == "missing_scope"


async def test_a_name_that_is_none_or_several_is_not_found(tmp_path: Path) -> None:
    """The unique beginning of a name will do, and nothing less."""
    async with open_console(tmp_path) as ask:
        assert (await ask("approvals/4f1c")).code == "approval_not_found"
        assert (await ask.post("approvals/4f1c/decide", {"decision": "deny"})).code == "approval_not_found"
