"""The vault over the console's API: secrets go in, what may be shown comes out, and values never do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from console_house import Answer, Operator, open_console

VALUE = "sk-canary-0123456789abcdef"
CONFIG = {
    "model_provider": {
        "providers": [
            {
                "provider_id": "up",
                "kind": "openai",
                "base_url": "https://up.example",
                "api_key_vault_ref": "global/up",
            },
            {"provider_id": "det", "kind": "deterministic"},
        ],
        "models": [
            {"model_id": "m", "provider_id": "up"},
            {"model_id": "deterministic", "provider_id": "det"},
        ],
    }
}


async def put(ask: Operator, ref: str = "global/up", value: str = VALUE, **more: Any) -> Answer:
    return await ask("vault/secrets", method="PUT", body={"ref": ref, "value": value, **more})


async def test_a_secret_is_put_listed_and_deleted(tmp_path: Path) -> None:
    """Each answer has what may be shown; the operator's name stands in the facts."""
    async with open_console(tmp_path, CONFIG) as ask:
        assert (await ask("vault/status")).json["state"] == "empty"
        stored = await put(ask, audience="https://UP.example/v1")
        assert stored.status == 200
        item = {
            name: stored.json[name]
            for name in ("ref", "revision", "value_bytes", "managed", "audience", "presence")
        }
        assert item == {
            "ref": "global/up",
            "revision": 1,
            "value_bytes": len(VALUE),
            "managed": False,
            "audience": "https://up.example:443",
            "presence": "present",
        }
        await put(ask, "agent:coder/groq")
        assert [one["ref"] for one in (await ask("vault/secrets")).json["items"]] == [
            "agent:coder/groq",
            "global/up",
        ]
        scoped = (await ask("vault/secrets", scope="global")).json["items"]
        assert [one["ref"] for one in scoped] == ["global/up"]
        status = (await ask("vault/status")).json
        assert (status["state"], status["secrets_count"], status["findings"]) == ("open", 2, [])
        gone = await ask("vault/secrets", method="DELETE", body={"ref": "agent:coder/groq"})
        assert gone.json["was_there"]
        actors = [one.actor async for one in ask.daemon.journal if one.name.startswith("vault.secret")]
        assert {actor.partition(":")[0] for actor in actors} == {"key"}
        for path in ("vault/secrets", "vault/status", "journal/events?limit=500", "config"):
            assert VALUE.encode() not in (await ask(path)).body


@pytest.mark.parametrize(
    ("body", "code", "http_status"),
    [
        ({"ref": "openai", "value": VALUE}, "invalid_vault_ref", 400),
        ({"ref": "global/auth.x", "value": VALUE}, "managed_secret", 403),
        ({"ref": "system/x", "value": VALUE}, "managed_secret", 403),
        ({"ref": "global/x", "value": ""}, "invalid_request", 400),
        ({"ref": "global/x", "value": "x" * 65_537}, "value_too_large", 413),
        ({"ref": "global/x", "value": VALUE, "audience": "ftp://x"}, "invalid_request", 400),
        ({"ref": "global/x", "value": VALUE, "if_revision": 1}, "stale_revision", 409),
        ({"ref": "global/x", "value": VALUE, "colour": "red"}, "unknown_field", 400),
        ({"ref": "global/x", "value": 5}, "invalid_request", 400),
    ],
)
async def test_what_is_not_taken(tmp_path: Path, body: dict[str, Any], code: str, http_status: int) -> None:
    """Nothing is stored, and no answer holds a value."""
    async with open_console(tmp_path) as ask:
        answer = await ask("vault/secrets", method="PUT", body=body)
        assert (answer.status, answer.code) == (http_status, code)
        assert b"canary" not in answer.body
        assert (await ask("vault/secrets")).json["items"] == []


async def test_our_own_key_is_no_providers_key(tmp_path: Path) -> None:
    """A loop through `palyra env` is refused."""
    async with open_console(tmp_path) as ask:
        answer = await put(ask, value=ask.daemon.client_key)
        assert answer.code == "own_key_as_upstream_credential"
        assert ask.daemon.client_key.encode() not in answer.body


async def test_a_secret_that_is_in_use_is_not_deleted_by_mistake(tmp_path: Path) -> None:
    """The refusal names who uses it; `force` does it all the same; a second time there is nothing."""
    async with open_console(tmp_path, CONFIG) as ask:
        await put(ask)
        refused = await ask("vault/secrets", method="DELETE", body={"ref": "global/up"})
        assert refused.code == "conflict"
        assert "provider up" in refused.error["message"]
        for was_there in (True, False):
            gone = await ask("vault/secrets", method="DELETE", body={"ref": "global/up", "force": True})
            assert gone.json["was_there"] is was_there


async def test_a_put_under_a_key_is_done_once(tmp_path: Path) -> None:
    """A repeat gets the first outcome."""
    async with open_console(tmp_path) as ask:
        sent = {"method": "PUT", "body": {"ref": "global/x", "value": VALUE}, "headers": {"idempotency-key": "k"}}
        answers = [await ask("vault/secrets", **sent) for _ in range(2)]
        assert [answer.json["revision"] for answer in answers] == [1, 1]


async def test_damage_shows_and_can_be_looked_for(tmp_path: Path) -> None:
    """`verify` finds what the last start did not know; `rekey` refuses to lose it; the past is as it was."""
    async with open_console(tmp_path) as ask:
        await put(ask)
        await put(ask, "global/other")
        rekeyed = await ask.post("vault/rekey")
        assert (rekeyed.json["state"], rekeyed.json["key_source"]) == ("open", "key_file")
        before = len(ask.daemon.journal)
    data = (tmp_path / "vault.db").read_bytes()
    (tmp_path / "vault.db").write_bytes(b"x" * len(data))
    async with open_console(tmp_path) as ask:
        assert (await ask("vault/status")).json["state"] == "unreadable"
        assert (await ask("vault/status", at=before)).json["state"] == "open"
        assert (await put(ask)).code == "vault_unreadable"
        secret = (await ask("vault/secrets")).json["items"][0]
        assert secret["presence"] == "missing"
    (tmp_path / "vault.db").write_bytes(data)
    async with open_console(tmp_path) as ask:
        assert (await ask.post("vault/verify")).json["findings"] == []


async def test_clients_have_no_business_here(tmp_path: Path) -> None:
    """Neither to look nor to change."""
    async with open_console(tmp_path) as ask:
        key = ask.daemon.client_key
        assert (await ask("vault/secrets", key=key)).status == 403
        assert (await ask("vault/secrets", method="PUT", key=key, body={})).status == 401
