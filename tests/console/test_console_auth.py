"""Auth profiles over the console's API, against a provider that listens: nothing is kept that it has not taken."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from console_house import Answer, Operator, open_console
from listing_provider import GOOD_KEY, Listing
from openai import APIStatusError

from palyra.engine.credential_checks import find_target
from palyra.events.auth import AuthProfileConnected, AuthProfileFailed, AuthProfileValidationFailed
from palyra.events.registry import Registry


def config(listing: Listing, **more: Any) -> dict[str, Any]:
    """Return a configuration with that provider, which names no key."""
    up = {
        "provider_id": "up",
        "kind": "openai",
        "base_url": listing.url,
        "allow_private_base_url": True,
        "auth_scheme": "bearer",
        "max_retries": 0,
        "health_probe": False,
        "discovery_mode": "off",
    }
    return {
        "model_provider": {
            "providers": [{**up, **more}, {"provider_id": "det", "kind": "deterministic"}],
            "models": [{"model_id": "m", "provider_id": "up"}, {"model_id": "d", "provider_id": "det"}],
        }
    }


async def connect(ask: Operator, api_key: str = GOOD_KEY, at: str = "up", **more: Any) -> Answer:
    return await ask.post(f"auth/providers/{at}/api-key", {"api_key": api_key, **more})


async def facts(ask: Operator, kind: type[Any]) -> list[Any]:
    return [one.body async for one in ask.daemon.journal if isinstance(one.body, kind)]


async def test_a_key_is_checked_kept_and_used(tmp_path: Path) -> None:
    """It goes to the provider as a bearer token, into the vault, and nowhere else; a request is made with it."""
    async with Listing() as up, open_console(tmp_path, config(up)) as ask:
        done = await connect(ask, profile_name="Work", set_default=True)
        assert done.status == 201
        assert {name: done.json[name] for name in ("provider", "action", "state", "models_count")} == {
            "provider": "up", "action": "api_key", "state": "connected", "models_count": 2,
        }  # fmt: skip
        assert up.requests == [("/v1/models", f"Bearer {GOOD_KEY}")]
        profile_id = done.json["profile_id"]
        assert profile_id.startswith("work-")
        shown = (await ask(f"auth/profiles/{profile_id}")).json
        wanted = ("health", "status", "audience", "vault_ref", "vault_revision", "is_default", "source")
        assert {name: shown[name] for name in wanted} == {
            "health": "static", "status": "active", "audience": up.origin, "vault_ref": "<redacted>",
            "vault_revision": 1, "is_default": True, "source": "profile",
        }  # fmt: skip
        for path in ("auth/profiles", "auth/health", "vault/secrets", "journal/events?limit=500"):
            assert GOOD_KEY.encode() not in (await ask(path)).body
        answer = await say(ask)
        assert answer == "Hi"
        assert up.requests[-1] == ("/v1/chat/completions", f"Bearer {GOOD_KEY}")
    for path in tmp_path.iterdir():
        assert not path.is_file() or GOOD_KEY.encode() not in path.read_bytes()


async def say(ask: Operator) -> str:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=ask.daemon.base_url, api_key=ask.daemon.client_key, max_retries=0) as client:
        answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello?"}])
    return str(answer.choices[0].message.content)


@pytest.mark.parametrize(
    ("status", "headers", "body", "code", "http_status"),
    [
        (401, {}, b"{}", "invalid_credential", 400),
        (403, {}, b"{}", "validation_not_permitted", 409),
        (404, {}, b"", "unverifiable", 409),
        (405, {}, b"", "unverifiable", 409),
        (501, {}, b"", "unverifiable", 409),
        (429, {"retry-after": "7"}, b"{}", "rate_limited", 429),
        (302, {"location": "/elsewhere"}, b"", "redirect_refused", 502),
        (200, {}, b'{"models":[]}', "unexpected_response", 502),
        (200, {}, b"<html>", "unexpected_response", 502),
        (200, {}, b"x" * ((4 << 20) + 1), "unexpected_response", 502),
        (418, {}, b"", "unexpected_response", 502),
        (500, {}, b"", "provider_unavailable", 503),
    ],
)
async def test_what_a_provider_says(
    tmp_path: Path, status: int, headers: Mapping[str, str], body: bytes, code: str, http_status: int
) -> None:
    """Each answer has its code; nothing is stored, the refusal is a fact, and no redirect is followed."""
    async with Listing() as up, open_console(tmp_path, config(up)) as ask:
        up.answers = [(status, headers, body)]
        refused = await connect(ask)
        assert (refused.code, refused.status) == (code, http_status)
        assert len(up.requests) == 1
        assert refused.error["retry_after_ms"] == (7_000 if status == 429 else None)
        assert (await ask("auth/profiles")).json["items"] == []
        assert (await ask("vault/secrets")).json["items"] == []
        (failed,) = await facts(ask, AuthProfileValidationFailed)
        assert (failed.provider, failed.failure_code) == ("up", code)


async def test_an_unreachable_provider_is_tried_three_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """502 to 504 may be over in a second."""
    monkeypatch.setattr("palyra.engine.credential_checks._PAUSES_S", (0.0, 0.0))
    async with Listing() as up, open_console(tmp_path, config(up, health_probe=False, discovery_mode="off")) as ask:
        up.answers = [(503, {}, b"")] * 2
        assert (await connect(ask)).json["state"] == "connected"
        up.answers = [(502, {}, b"")] * 3
        assert (await connect(ask, profile_name="Other")).code == "provider_unavailable"
        assert len(up.requests) == 6


async def test_an_echoed_key_is_taken_out(tmp_path: Path) -> None:
    """A provider repeats the key in its error; nobody sees it."""
    key = "plain-but-secret-0123456789"
    async with Listing() as up, open_console(tmp_path, config(up)) as ask:
        refused = await connect(ask, key)
        assert refused.code == "invalid_credential"
        assert "Incorrect API key" in refused.error["message"]
        assert key.encode() not in refused.body
        assert key.encode() not in (await ask("journal/events?limit=500")).body


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"api_key": "short"}, "invalid_api_key_format"),
        ({"api_key": "has a blank in it"}, "invalid_api_key_format"),
        ({"api_key": "x" * 513}, "invalid_api_key_format"),
        ({"api_key": "<redacted>"}, "invalid_api_key_format"),
        ({"api_key": GOOD_KEY, "profile_name": ""}, "invalid_request"),
        ({"api_key": GOOD_KEY, "profile_name": "a\nb"}, "invalid_request"),
        ({"api_key": GOOD_KEY, "profile_id": "Upper"}, "invalid_request"),
        ({"api_key": GOOD_KEY, "scope": {"kind": "agent"}}, "invalid_request"),
        ({"api_key": GOOD_KEY, "scope": {"kind": "agent", "agent_id": "a/b"}}, "invalid_request"),
        ({"api_key": GOOD_KEY, "colour": "red"}, "unknown_field"),
        ({}, "invalid_request"),
    ],
)
async def test_what_is_refused_before_anybody_is_asked(tmp_path: Path, body: dict[str, Any], code: str) -> None:
    """The provider sees no request."""
    async with Listing() as up, open_console(tmp_path, config(up)) as ask:
        refused = await ask.post("auth/providers/up/api-key", body)
        assert refused.code == code
        assert up.requests == []


async def test_who_may_be_connected_to(tmp_path: Path) -> None:
    """A provider that is configured to be asked with a key, or one that is known; our own key opens none."""
    async with Listing() as up, open_console(tmp_path, config(up)) as ask:
        assert (await connect(ask, at="nobody")).code == "provider_not_found"
        assert (await connect(ask, at="det")).code == "provider_not_found"
        assert (await connect(ask, ask.daemon.client_key)).code == "own_key_as_upstream_credential"
        assert (await connect(ask, f"sk-{ask.daemon.client_key}")).code == "own_key_as_upstream_credential"
        assert up.requests == []
    async with Listing() as up, open_console(tmp_path, config(up, auth_scheme="none")) as ask:
        refused = await connect(ask)
        assert (refused.code, "auth_scheme" in refused.error["hint"]) == ("conflict", True)


@pytest.mark.parametrize(
    ("name", "audience", "auth_scheme"),
    [
        ("openai", "https://api.openai.com:443", "bearer"),
        ("anthropic", "https://api.anthropic.com:443", "x-api-key"),
        ("groq", "https://api.groq.com:443", "bearer"),
    ],
)
def test_providers_that_everybody_knows(name: str, audience: str, auth_scheme: str) -> None:
    """A key of theirs is checked where they are, before anything is configured."""
    target = find_target(Registry(), name)
    assert (target.provider, target.audience, target.settings.auth_scheme) == (name, audience, auth_scheme)
    assert target.is_anthropic == (name == "anthropic")


async def test_ids_and_names_are_taken_once(tmp_path: Path) -> None:
    """An id stays with its provider, also after it was revoked; a refusal says how to give it another key."""
    async with Listing() as up, open_console(tmp_path, config(up)) as ask:
        await connect(ask, profile_id="work", profile_name="Work")
        assert (await connect(ask, profile_id="work", profile_name="x")).code == "profile_exists"
        again = await connect(ask, profile_name="WORK")
        assert again.code == "profile_exists"
        assert "rotate work" in again.error["message"]
        assert (await connect(ask, profile_name="work", scope={"kind": "agent", "agent_id": "me"})).status == 201
        assert (await ask.post("auth/profiles/work/revoke")).json["state"] == "revoked"
        assert (await connect(ask, profile_id="work")).json["state"] == "connected"


async def test_anthropic_is_asked_in_its_own_way(tmp_path: Path) -> None:
    """`x-api-key`, and one model is enough."""
    async with Listing() as up:
        more = {"kind": "anthropic", "auth_scheme": "x-api-key"}
        async with open_console(tmp_path, config(up, **more)) as ask:
            assert (await connect(ask)).json["state"] == "connected"
            assert up.requests == [("/v1/models?limit=1", GOOD_KEY)]


async def test_a_rotated_key_is_used_by_the_next_request(tmp_path: Path) -> None:
    """Only if the provider takes it; the one before stays until then."""
    async with Listing() as up, open_console(tmp_path, config(up)) as ask:
        await connect(ask, profile_id="work")
        assert (await ask.post("auth/profiles/work/rotate", {"api_key": "sk-bad-0123456789"})).code == (
            "invalid_credential"
        )
        assert (await ask("auth/profiles/work")).json["health"] == "static"
        up.keys = ["sk-new-0123456789"]
        done = await ask.post("auth/profiles/work/rotate", {"api_key": "sk-new-0123456789"})
        assert (done.json["state"], done.json["models_count"]) == ("rotated", 2)
        assert await say(ask) == "Hi"
        assert up.requests[-1][1] == "Bearer sk-new-0123456789"


async def test_the_same_key_twice_is_said(tmp_path: Path) -> None:
    """It counts against one account."""
    async with Listing() as up, open_console(tmp_path, config(up)) as ask:
        await connect(ask, profile_id="one", profile_name="One")
        assert (await connect(ask, profile_id="two", profile_name="Two")).json["duplicate_of"] == "one"


async def test_a_key_that_is_rejected_fails_until_it_is_taken_again(tmp_path: Path) -> None:
    """A check says so too; a good one ends it. The failure is sticky for requests."""
    async with Listing() as up, open_console(tmp_path, config(up)) as ask:
        await connect(ask, profile_id="work")
        up.keys = []
        assert (await ask.post("auth/profiles/work/validate")).code == "invalid_credential"
        assert [one.code for one in await facts(ask, AuthProfileFailed)] == ["key_rejected"]
        health = (await ask("auth/health")).json
        assert (health["summary"]["failed"], health["profiles"][0]["health_reason"]) == (1, "key_rejected")
        explained = (await ask.post("auth/selection/explain", {"provider_id": "up", "model_id": "m"})).json
        assert (explained["selected"], explained["candidates"][0]["verdict"]) == (None, "failed")
        up.keys = [GOOD_KEY]
        assert (await ask.post("auth/profiles/work/validate")).json["state"] == "valid"
        explained = (await ask.post("auth/selection/explain", {"provider_id": "up", "model_id": "m"})).json
        assert (explained["selected"], explained["reason"]) == ("work", "sticky")


async def test_a_moved_provider_gets_no_key(tmp_path: Path) -> None:
    """The new origin sees no request until the profile is bound to it, which checks it there."""
    async with Listing() as first, Listing() as second:
        async with open_console(tmp_path, config(first)) as ask:
            await connect(ask, profile_id="work")
        async with open_console(tmp_path, config(second)) as ask:
            explained = (await ask.post("auth/selection/explain", {"provider_id": "up"})).json
            assert explained["candidates"][0]["verdict"] == "audience_mismatch"
            refused = await ask.post("auth/profiles/work/validate")
            assert (refused.code, "rebind" in refused.error["hint"]) == ("conflict", True)
            assert second.requests == []
            done = await ask.post("auth/profiles/work/rebind", {"provider_id": "up"})
            assert done.json["state"] == "valid"
            assert (await ask("auth/profiles/work")).json["audience"] == second.origin
            assert await say(ask) == "Hi"
            assert [path for path, _ in second.requests] == ["/v1/models", "/v1/chat/completions"]


async def test_small_changes(tmp_path: Path) -> None:
    """Rest and wake, first and in order, cleared; what is done already is no fact."""
    async with Listing() as up, open_console(tmp_path, config(up)) as ask:
        for name in ("one", "two"):
            await connect(ask, profile_id=name, profile_name=name)
        assert (await ask.post("auth/profiles/one/disable")).json["state"] == "disabled"
        assert (await ask("auth/profiles/one")).json["status"] == "disabled"
        assert (await ask.post("auth/profiles/one/enable")).json["state"] == "enabled"
        for _ in range(2):
            assert (await ask.post("auth/profiles/two/default")).json["state"] == "selected"
        assert (await ask("auth/profile-order", provider="up")).json["profile_ids"] == ["two", "one"]
        order = {"provider": "up", "profile_ids": ["one"], "strategy": "least_recently_used"}
        assert (await ask("auth/profile-order", method="PUT", body=order)).json["profile_ids"] == ["one"]
        for wrong in (["one", "one"], ["nobody"]):
            body = {**order, "profile_ids": wrong}
            assert (await ask("auth/profile-order", method="PUT", body=body)).code == "invalid_request"
        assert (await ask.post("auth/profiles/one/cooldown/clear")).json["state"] == "cleared"
        assert (await ask.post("auth/profiles/nobody/cooldown/clear")).code == "profile_not_found"
        shown = (await ask("auth/providers/up")).json
        assert (shown["state"], shown["profile_ids"]) == ("profile", ["one"])
        assert [one.profile_name for one in await facts(ask, AuthProfileConnected)] == ["one", "two"]


async def test_a_revoked_profile_is_gone(tmp_path: Path) -> None:
    """Its secret is deleted; twice is no mistake; what is asked of it then is refused."""
    async with Listing() as up, open_console(tmp_path, config(up)) as ask:
        await connect(ask, profile_id="work")
        done = await ask.post("auth/profiles/work/revoke", {"local_only": True})
        assert done.json["state"] == "revoked"
        assert (await ask.post("auth/profiles/work/revoke")).json["state"] == "already_revoked"
        assert (await ask("vault/secrets")).json["items"] == []
        assert (await ask("auth/profiles")).json["items"] == []
        assert (await ask("auth/profiles", all="true")).json["items"][0]["status"] == "revoked"
        assert (await ask.post("auth/profiles/work/validate")).code == "profile_revoked"
        assert (await ask.post("auth/profiles/nobody/revoke")).code == "profile_not_found"
        assert (await ask("auth/profiles/nobody")).code == "profile_not_found"


async def test_a_key_of_the_configuration_is_shown_beside_them(tmp_path: Path) -> None:
    """It goes before every profile, and whoever connects one is told."""
    async with Listing() as up:
        async with open_console(tmp_path, config(up, api_key_env="UP_KEY"), environ={"UP_KEY": GOOD_KEY}) as ask:
            (own,) = (await ask("auth/profiles")).json["items"]
            assert (own["profile_id"], own["source"], own["health"]) == ("config:up", "config_env", "static")
            assert "goes first" in (await connect(ask)).json["warnings"][0]
            assert (await ask("auth/providers/up")).json["state"] == "config"
            assert (await ask.post("auth/selection/explain", {"provider_id": "up"})).json[
                "reason"
            ] == "named_by_entry"


async def wait_health(ask: Operator, wanted: str) -> dict[str, Any]:
    """Ask until the one credential has this health."""
    while True:
        answer: dict[str, Any] = (await ask("auth/health")).json
        if [one["health"] for one in answer["profiles"]] == [wanted]:
            return answer


@pytest.mark.parametrize("form", ["env", "file"])
async def test_a_key_of_the_configuration_that_is_not_there(tmp_path: Path, form: str) -> None:
    """It is shown as missing and raised as an alert, in the past as well; a start that finds it ends both."""
    key_file = tmp_path / "up.key"
    named = {"api_key_env": "UP_KEY"} if form == "env" else {"api_key_file": str(key_file)}
    async with Listing() as up:
        async with open_console(tmp_path / "state", config(up, **named), environ={}) as ask:
            told = await wait_health(ask, "missing")
            assert (told["summary"]["missing"], told["profiles"][0]["health_reason"]) == (1, "missing")
            (alert,) = (await ask("alerts")).json["items"]
            assert (alert["kind"], alert["subject_id"], alert["severity"]) == (
                "missing_credential",
                "up",
                "warning",
            )
            explained = (await ask.post("auth/selection/explain", {"provider_id": "up"})).json
            assert (explained["selected"], explained["candidates"][0]["verdict"]) == (None, "missing")
            models = (await ask("models")).json
            assert models["providers"][0]["credential"] == "missing"
        key_file.write_text(GOOD_KEY)
        key_file.chmod(0o600)
        async with open_console(tmp_path / "state", config(up, **named), environ={"UP_KEY": GOOD_KEY}) as ask:
            await wait_health(ask, "static")
            assert (await ask("alerts", state="open")).json["items"] == []
            past = (await ask("auth/health", at=told["at"]["position"])).json
            assert past["profiles"][0]["health"] == "missing"


async def test_clients_have_no_business_here(tmp_path: Path) -> None:
    """A client's key neither looks nor connects."""
    async with Listing() as up, open_console(tmp_path, config(up)) as ask:
        assert (await ask("auth/profiles", key=ask.daemon.client_key)).status == 403
        refused = await ask.post("auth/providers/up/api-key", {}, key=ask.daemon.client_key)
        assert refused.status == 401


async def test_status_says_what_a_provider_is_asked_with(tmp_path: Path) -> None:
    """Nothing, something that works, something that has failed; and the way out stands among the problems."""
    async with Listing() as up, open_console(tmp_path, config(up)) as ask:

        async def told() -> tuple[str, list[str]]:
            models = (await ask("models")).json
            credential = next(one["credential"] for one in models["providers"] if one["provider_id"] == "up")
            return credential, [one["code"] for one in models["problems"]]

        assert await told() == ("none", ["default_unservable", "no_credential"])
        await connect(ask, profile_id="work")
        assert await told() == ("ready", [])
        up.keys = []
        await ask.post("auth/profiles/work/validate")
        assert await told() == ("failed", ["default_unservable", "no_credential"])
        await ask.post("auth/profiles/work/disable")
        assert await told() == ("disabled", ["default_unservable", "no_credential"])
        det = next(one for one in (await ask("models")).json["providers"] if one["provider_id"] == "det")
        assert det["credential"] == "not_needed"


async def test_a_locked_vault_is_told_and_serves_nobody(tmp_path: Path) -> None:
    """A program hears no more than that; the operator has an alert, and the next start with the key ends both."""
    key = tmp_path / "vault.key"
    async with Listing() as up:
        alone = config(up)
        for entries in alone["model_provider"].values():
            entries.pop()  # nobody else serves
        async with open_console(tmp_path, alone) as ask:
            await connect(ask)
        key.rename(tmp_path / "elsewhere")
        async with open_console(tmp_path, alone) as ask:
            with pytest.raises(APIStatusError) as caught:
                await say(ask)
            assert caught.value.status_code == 503
            assert caught.value.code == "vault_locked"
            assert "vault status" in caught.value.message
            assert str(tmp_path) not in caught.value.message
            while "vault_closed" not in await alerts(ask):
                await asyncio.sleep(0)
            assert (await ask("auth/health")).json["vault"]["state"] == "locked"
        (tmp_path / "elsewhere").rename(key)
        async with open_console(tmp_path, alone) as ask:
            assert await say(ask) == "Hi"
            while "vault_closed" in await alerts(ask):
                await asyncio.sleep(0)


async def alerts(ask: Operator) -> list[str]:
    return [one["kind"] for one in (await ask("alerts", state="open")).json["items"]]
