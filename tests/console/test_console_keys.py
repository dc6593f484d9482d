"""Keys over the console's API: issue, list, change, rotate, revoke; a secret is in one answer only."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from console_house import Operator, open_console
from openai import APIStatusError, AsyncOpenAI

from palyra.auth.keyfiles import read_key_file
from palyra.events.runs import RunCancelled

#: Never answers.
SLOW: dict[str, Any] = {
    "model_provider": {
        "providers": [{"provider_id": "slow", "kind": "deterministic", "rules": [{"error": {"hang": True}}]}],
        "models": [{"model_id": "deterministic", "provider_id": "slow"}],
        "default_chat_model_id": "deterministic",
    }
}


async def use(ask: Operator, key: str) -> str:
    """Make one request with a key; return how it went."""
    async with AsyncOpenAI(base_url=ask.daemon.base_url, api_key=key, max_retries=0) as client:
        try:
            await client.chat.completions.create(
                model="deterministic", messages=[{"role": "user", "content": "Hello?"}]
            )
        except APIStatusError as error:
            return str(error.code)
    return "ok"


async def test_a_key_is_issued_used_changed_and_revoked(tmp_path: Path) -> None:
    """Its secret stands in the answer that made it; each step acts on the next request."""
    async with open_console(tmp_path) as ask:
        wish = {"name": "ci", "scopes": ["v1:chat", "v1:models"], "requests_per_minute": 100}
        made = (await ask.post("keys", wish)).json
        key_id, secret = made["key"]["key_id"], made["secret"]
        assert secret.startswith(f"palyra_client_{key_id}_")
        assert made["already_issued"] is False
        assert (made["key"]["principal"], made["key"]["status"]) == (f"key:{key_id}", "active")
        assert await use(ask, secret) == "ok"
        assert await use(ask, f"sk-{secret}") == "ok"
        listed = (await ask("keys")).json["items"]
        assert [one["name"] for one in listed] == ["admin.token", "client.key", "ci"]
        assert listed[2]["last_used_us"] > listed[2]["created_us"]
        assert (await ask("keys/ci")).json["key_id"] == key_id
        body = {"name": "build", "burst": 7, "scopes": ["v1:chat"]}
        changed = await ask(f"keys/{key_id}", method="PATCH", body=body)
        assert (changed.json["name"], changed.json["burst"], changed.json["requests_per_minute"]) == (
            "build",
            7,
            100,
        )
        more = await ask(f"keys/{key_id}", method="PATCH", body={"scopes": ["v1:*"]})
        assert (more.status, more.code) == (403, "scope_escalation")
        revoked = await ask.post("keys/build/revoke", {"reason": "laptop lost"})
        assert revoked.json["status"] == "revoked"
        assert await use(ask, secret) == "invalid_client_key"
        assert [one["name"] for one in (await ask("keys")).json["items"]] == ["admin.token", "client.key"]
        assert len((await ask("keys", all=True)).json["items"]) == 3


async def test_a_budget_of_a_key_stops_that_key_alone(tmp_path: Path) -> None:
    """It is a rule like any other, made in the same commit; what is none is refused, and no key is made."""
    async with open_console(tmp_path) as ask:
        guest = (await ask.post("keys", {"name": "guest", "budget": "tokens=1/daily"})).json
        other = (await ask.post("keys", {"name": "other", "budget": "usd=5.00/monthly"})).json["secret"]
        assert await use(ask, guest["secret"]) == "budget_request_too_large"
        assert await use(ask, other) == "ok"
        (rule,) = [one for one in (await ask("budgets")).json["items"] if one["policy"]["hard_limit"] == 1]
        assert rule["policy"]["scope_id"] == guest["key"]["principal"]
        for wrong in (
            {"budget": "usd=5"},
            {"budget": "tokens=1.5/daily"},
            {"budget": "usd=5/daily", "principal": "user:ada"},
            {"budget": "usd=0.0000000001/daily"},
            {"budget": "usd=5/daily", "kind": "admin"},
        ):
            refused = await ask.post("keys", {"name": "more", **wrong})
            assert (refused.status, refused.code, refused.error["field"]) == (400, "invalid_request", "budget")
        desk = (await ask.post("keys", {"name": "desk", "kind": "admin", "scopes": ["keys:manage"]})).json["secret"]
        refused = await ask.post("keys", {"name": "more", "budget": "usd=5/daily"}, key=desk)
        assert refused.code == "scope_escalation"
        assert [one["name"] for one in (await ask("keys")).json["items"]][2:] == ["guest", "other", "desk"]


async def test_a_repeat_does_not_hold_the_secret(tmp_path: Path) -> None:
    """The same Idempotency-Key gives the same key, and says that whoever was first has its secret."""
    async with open_console(tmp_path) as ask:
        again = {"idempotency-key": "once"}
        first, second = [(await ask.post("keys", {"name": "ci"}, headers=again)).json for _ in range(2)]
        assert first["secret"] is not None
        assert (second["secret"], second["already_issued"]) == (None, True)
        assert first["key"] == second["key"]
        assert (await ask.post("keys", {"name": "other"}, headers=again)).code == "idempotency_key_reused"


async def test_a_rotated_key_file_holds_the_new_key(tmp_path: Path) -> None:
    """Local programs go on with the file; the old key works while its grace lasts, and not after it."""
    async with open_console(tmp_path) as ask:
        old = ask.daemon.client_key
        with_grace = (await ask.post("keys/client.key/rotate", {"grace_ms": 60_000})).json
        assert await use(ask, old) == "ok"
        new = read_key_file(ask.daemon.paths.client_key)
        assert new is not None
        assert new.reveal() == with_grace["secret"]
        assert await use(ask, new.reveal()) == "ok"
        at_once = (await ask.post("keys/client.key/rotate")).json
        assert await use(ask, new.reveal()) == "invalid_client_key"
        assert await use(ask, at_once["secret"]) == "ok"
        assert (await ask.post(f"keys/{with_grace['key']['key_id']}/rotate")).code == "conflict"


async def test_an_operator_keeps_a_way_in(tmp_path: Path) -> None:
    """The last admin key cannot be revoked; a rotated one leads to its successor."""
    async with open_console(tmp_path) as ask:
        assert (await ask.post("keys/admin.token/revoke")).code == "last_admin_key"
        new = (await ask.post("keys/admin.token/rotate")).json["secret"]
        assert (await ask("status")).status == 401
        assert (await ask("status", key=new)).status == 200


async def test_only_those_who_may_manage_keys_do(tmp_path: Path) -> None:
    """A client key changes nothing and lists nothing; an admin key hands out what it holds."""
    async with open_console(tmp_path) as ask:
        client = ask.daemon.client_key
        assert (await ask.post("keys", {"name": "x"}, key=client)).code == "wrong_key_kind"
        assert (await ask("keys", key=client)).code == "missing_scope"
        wish = {"name": "desk", "kind": "admin", "scopes": ["keys:manage"]}
        desk = (await ask.post("keys", wish)).json["secret"]
        grab = {"name": "y", "kind": "admin", "scopes": ["operate"]}
        assert (await ask.post("keys", grab, key=desk)).code == "scope_escalation"
        assert (await ask.post("keys", {"name": "z"}, key=desk)).status == 201
        assert (await ask.post("runs/last/cancel", key=desk)).code == "missing_scope"


async def test_a_key_revoked_now_ends_its_runs(tmp_path: Path) -> None:
    """Open runs finish after a plain revocation; with `now` they are cancelled and settled."""
    async with open_console(tmp_path, SLOW) as ask:
        secret = (await ask.post("keys", {"name": "ci"})).json["secret"]
        asking = asyncio.create_task(use(ask, secret))
        other = asyncio.create_task(use(ask, ask.daemon.client_key))
        while (await ask("runs", open=True)).json["items"].__len__() < 2:
            await asyncio.sleep(0)
        assert (await ask.post("keys/ci/revoke", {"now": True})).status == 200
        open_runs = (await ask("runs", open=True)).json["items"]
        assert len(open_runs) == 1
        cancelled = [one.body async for one in ask.daemon.journal if isinstance(one.body, RunCancelled)]
        assert [one.reason for one in cancelled] == ["operator"]
        await ask.post("runs/last/cancel")
        await asyncio.gather(asking, other, return_exceptions=True)
