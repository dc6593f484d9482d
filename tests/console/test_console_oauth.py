"""Logging in at a provider: PKCE end to end against an authorization server that checks everything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import pytest
from authorization_server import AuthorizationServer
from console_house import Answer, Operator, open_console

from palyra import Daemon
from palyra.errors import JournalUnwritable
from palyra.events.auth import AuthProfileConnected, AuthProfileRotated
from palyra.events.base import Draft
from palyra.events.oauth import OauthAttemptCallbackReceived, OauthAttemptFailed
from palyra.events.vault import VaultSecretDeleted

OPENAI = "auth/providers/openai"


class Browser:
    """Follows redirects by hand and keeps cookies by name, as one window does."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.cookies: dict[str, str] = {}
        self._session = session

    async def get(self, url: str, cookies: Mapping[str, str] | None = None) -> Answer:
        sent = self.cookies if cookies is None else cookies
        header = {"cookie": "; ".join(f"{name}={value}" for name, value in sent.items())} if sent else {}
        async with self._session.get(url, headers=header, allow_redirects=False) as response:
            for name, morsel in response.cookies.items():
                self.cookies[name] = morsel.value
            return Answer(response.status, response.headers, await response.read())

    async def go_to_provider(self, started: Mapping[str, Any]) -> dict[str, str]:
        """Open the launch address and return what the provider is asked."""
        launched = await self.get(started["launch_url"])
        assert launched.status == 303
        return dict(parse_qsl(urlsplit(launched.headers["location"]).query))


@contextlib.asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield Browser(session)


async def start(ask: Operator, mode: str = "browser", **more: Any) -> dict[str, Any]:
    started = await ask.post(f"{OPENAI}/bootstrap", {"mode": mode, "profile_name": "Work", **more})
    assert started.status == 201, started.body
    answer: dict[str, Any] = started.json
    return answer


async def state_of(ask: Operator, started: Mapping[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = (await ask(f"{OPENAI}/callback-state", attempt_id=started["attempt_id"])).json
    return answer


async def log_in(ask: Operator, up: AuthorizationServer, **more: Any) -> str:
    """Log in with a browser and return the profile."""
    async with browsing() as browser:
        started = await start(ask, **more)
        back = up.allow(await browser.go_to_provider(started))
        assert (await browser.get(back)).status == 303
    ended = await state_of(ask, started)
    assert ended["state"] == "completed", ended
    return str(ended["profile_id"])


async def facts(ask: Operator, kind: type[Any]) -> list[Any]:
    return [one.body async for one in ask.daemon.journal if isinstance(one.body, kind)]


async def say(ask: Operator) -> str:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=ask.daemon.base_url, api_key=ask.daemon.client_key, max_retries=0) as client:
        answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello?"}])
    return str(answer.choices[0].message.content)


async def test_a_login_in_a_browser(tmp_path: Path) -> None:
    """The tokens are in the vault and nowhere else; the profile is well, first in its order, and used at once."""
    async with AuthorizationServer() as up, open_console(tmp_path, up.config) as ask, browsing() as browser:
        started = await start(ask, set_default=True)
        assert started["authorize_url"] is None
        launched = await browser.get(started["launch_url"])
        cookie = launched.headers["set-cookie"]
        assert all(part in cookie for part in ("HttpOnly", "SameSite=Lax", f"Path=/console/v1/{OPENAI}/callback"))
        sent_to = urlsplit(launched.headers["location"])
        assert f"{sent_to.scheme}://{sent_to.netloc}{sent_to.path}" == f"{up.url}/oauth/authorize"
        asked = dict(parse_qsl(sent_to.query))
        assert asked["scope"] == "offline_access openid profile"
        assert (await state_of(ask, started))["state"] == "pending"
        came_back = await browser.get(up.allow(asked, iss=up.url))
        assert came_back.status == 303
        assert "code" not in came_back.headers["location"]
        page = await browser.get(ask.daemon.url + came_back.headers["location"])
        assert (page.status, b"You are logged in" in page.body) == (200, True)
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["x-frame-options"] == "DENY"
        assert b"<script" not in page.body
        profile_id = (await state_of(ask, started))["profile_id"]
        shown = (await ask(f"auth/profiles/{profile_id}")).json
        wanted = ("credential_kind", "health", "is_default", "audience", "vault_ref", "scopes")
        assert {name: shown[name] for name in wanted} == {
            "credential_kind": "oauth2", "health": "ok", "is_default": True, "audience": up.url,
            "vault_ref": "<redacted>", "scopes": ["offline_access", "openid", "profile"],
        }  # fmt: skip
        (connected,) = await facts(ask, AuthProfileConnected)
        assert connected.oauth.can_refresh
        assert connected.oauth.account_fingerprint
        assert await say(ask) == "Hi"
        assert up.asked_with[-1] == up.grants[0].access[0]
        held = [item["ref"] for item in (await ask("vault/secrets")).json["items"]]
        assert held == [f"global/auth.{profile_id}"]
        secrets = [*up.secrets, asked["state"], asked["nonce"], *browser.cookies.values()]
        secrets.append(up.token_requests[0]["code"])
        secrets.append(up.token_requests[0]["code_verifier"])
        for path in ("auth/profiles", "auth/health", "auth/attempts", "journal/events?limit=500", "config"):
            answer = await ask(path)
            assert answer.status == 200
            assert not [one for one in secrets if one.encode() in answer.body], path
    for path in tmp_path.iterdir():
        data = path.read_bytes() if path.is_file() else b""
        assert not [one for one in secrets if one.encode() in data], path


async def test_fifty_callbacks_at_once_are_one_exchange(tmp_path: Path) -> None:
    """Whoever is not first is told that it is under way, or how it ended; the code is sent once."""
    async with AuthorizationServer() as up, open_console(tmp_path, up.config) as ask, browsing() as browser:
        started = await start(ask)
        back = up.allow(await browser.go_to_provider(started))
        answers = await asyncio.gather(*(browser.get(back) for _ in range(50)))
        assert {answer.status for answer in answers} <= {303, 409}
        assert [answer.status for answer in answers].count(303) >= 1
        assert len(up.token_requests) == 1
        assert len(await facts(ask, OauthAttemptCallbackReceived)) == 1
        assert (await state_of(ask, started))["state"] == "completed"
        again = await browser.get(back)  # the same outcome, no second exchange
        assert (again.status, len(up.token_requests)) == (303, 1)


async def test_who_comes_back_must_be_who_left(tmp_path: Path) -> None:
    """No cookie, or that of another login: refused, and the right one can still come back."""
    async with AuthorizationServer() as up, open_console(tmp_path, up.config) as ask, browsing() as browser:
        first, second = await start(ask), await start(ask, profile_name="Other")
        back = up.allow(await browser.go_to_provider(first))
        assert (await browser.get(first["launch_url"])).status == 404  # a launch address is good once
        async with browsing() as other:
            await other.go_to_provider(second)
            foreign = dict(zip(browser.cookies, other.cookies.values(), strict=True))
            for cookies in ({}, other.cookies, foreign):
                refused = await browser.get(back, cookies)
                assert (refused.status, b"another browser" in refused.body) == (403, True)
        assert up.token_requests == []
        assert (await state_of(ask, first))["state"] == "pending"
        assert (await browser.get(back)).status == 303
        assert (await state_of(ask, first))["state"] == "completed"
        unknown = await browser.get(f"{first['redirect_uri']}?code=x&state=nobody")
        assert (unknown.status, (await browser.get(f"{first['redirect_uri']}?code=x")).status) == (404, 404)
        twice = back.replace("state=", "state=x&state=")
        assert (await browser.get(twice)).status == 404


async def test_an_attempt_ends(tmp_path: Path) -> None:
    """Cancelled: the code that comes back is not exchanged, and what was sealed is gone."""
    async with AuthorizationServer() as up, open_console(tmp_path, up.config) as ask, browsing() as browser:
        started = await start(ask)
        back = up.allow(await browser.go_to_provider(started))
        cancelled = await ask.post(f"{OPENAI}/attempts/{started['attempt_id']}/cancel")
        assert cancelled.json["state"] == "cancelled"
        assert (await browser.get(back)).status == 303
        page = await browser.get(f"{ask.daemon.url}/console/v1/{OPENAI}/done/{started['attempt_id']}")
        assert b"cancelled" in page.body
        assert up.token_requests == []
        (deleted,) = await facts(ask, VaultSecretDeleted)
        assert deleted.ref == f"system/oauth.{started['attempt_id']}"
        assert (await ask("auth/attempts")).json["items"][0]["state"] == "cancelled"


async def test_a_pending_attempt_outlives_a_restart(tmp_path: Path) -> None:
    """What it keeps secret is sealed, so the browser may come back to the next process."""
    async with AuthorizationServer() as up, browsing() as browser:
        async with Daemon(up.config, state_dir=tmp_path) as daemon:
            port = int(daemon.url.rpartition(":")[2])
        config = {**up.config, "daemon": {"port": port}}
        async with open_console(tmp_path, config) as ask:
            started = await start(ask)
            back = up.allow(await browser.go_to_provider(started))
        async with open_console(tmp_path, config) as ask:
            assert (await state_of(ask, started))["state"] == "pending"
            assert (await browser.get(back)).status == 303
            assert (await state_of(ask, started))["state"] == "completed"


async def test_an_exchange_that_was_cut_off_is_not_repeated(tmp_path: Path) -> None:
    """The code may be spent, so it is never sent again."""
    async with AuthorizationServer() as up:
        async with open_console(tmp_path, up.config) as ask:
            started = await start(ask)
            from palyra.decisions.oauth import of_attempt

            # As a crash leaves it: claimed, and nothing after that.
            await ask.daemon.core.record(of_attempt(started["attempt_id"], OauthAttemptCallbackReceived()))
        async with open_console(tmp_path, up.config) as ask:
            ended = await state_of(ask, started)
            assert (ended["state"], ended["failure_code"]) == ("failed", "interrupted")
            await ask.daemon.tokens.do()
            assert (await ask("vault/secrets")).json["items"] == []
        assert up.token_requests == []


def _deny(up: AuthorizationServer, asked: dict[str, str]) -> str:
    return f"{asked['redirect_uri']}?error=access_denied&error_description=<b>no</b>&state={asked['state']}"


def _no_code(up: AuthorizationServer, asked: dict[str, str]) -> str:
    return f"{asked['redirect_uri']}?state={asked['state']}"


def _mixed_up(up: AuthorizationServer, asked: dict[str, str]) -> str:
    return up.allow(asked, iss="https://evil.example")


def _long_code(up: AuthorizationServer, asked: dict[str, str]) -> str:
    return f"{asked['redirect_uri']}?code={'x' * 2_049}&state={asked['state']}"


@pytest.mark.parametrize(
    ("answer", "failure_code"),
    [
        (_deny, "provider_denied"),
        (_no_code, "missing_code"),
        (_long_code, "missing_code"),
        (_mixed_up, "issuer_mismatch"),
    ],
)
async def test_answers_that_bring_no_code(tmp_path: Path, answer: Any, failure_code: str) -> None:
    """Nothing is sent to the token endpoint, and no word of the provider is on the page."""
    async with AuthorizationServer() as up, open_console(tmp_path, up.config) as ask, browsing() as browser:
        started = await start(ask)
        came_back = await browser.get(answer(up, await browser.go_to_provider(started)))
        page = await browser.get(ask.daemon.url + came_back.headers["location"])
        assert b"<b>" not in page.body
        ended = await state_of(ask, started)
        assert (ended["state"], ended["failure_code"]) == ("failed", failure_code)
        assert up.token_requests == []


BAD_ANSWERS: list[tuple[dict[str, Any], str, int]] = [
    ({"token_answers": [(400, {}, b'{"error":"invalid_grant"}')]}, "exchange_rejected", 0),
    ({"token_answers": [(500, {}, b"oops")]}, "exchange_unreachable", 0),
    ({"token_answers": [(302, {"location": "https://evil.example/"}, b"")]}, "exchange_unreachable", 0),
    ({"token_answers": [(200, {}, b"<html>")]}, "invalid_token_response", 0),
    ({"token_answers": [(200, {}, b"x" * 65_537)]}, "exchange_unreachable", 0),
    ({"leaves_out": ["refresh_token"]}, "invalid_token_response", 1),
    ({"more": {"token_type": "mac"}}, "invalid_token_response", 0),
    ({"more": {"access_token": "short"}}, "invalid_token_response", 0),
    ({"expires_in": 0}, "invalid_token_response", 0),
    ({"expires_in": "soon"}, "invalid_token_response", 0),
    ({"claims": {"nonce": "another"}}, "id_token_mismatch", 2),
    ({"claims": {"aud": "another"}}, "id_token_mismatch", 2),
    ({"claims": {"exp": 1_000}}, "id_token_mismatch", 2),
    ({"models_status": 401}, "token_rejected", 2),
    ({"models_status": 403}, "token_rejected", 2),
    ({"models_status": 404}, "token_rejected", 2),
    ({"models_status": 500}, "provider_unavailable", 2),
]


@pytest.mark.parametrize(("changes", "failure_code", "revoked_count"), BAD_ANSWERS)
async def test_tokens_that_are_not_kept(
    tmp_path: Path, changes: dict[str, Any], failure_code: str, revoked_count: int
) -> None:
    """Nothing is stored, and what the provider had given is given back."""
    async with AuthorizationServer() as up, open_console(tmp_path, up.config) as ask, browsing() as browser:
        for name, value in changes.items():
            setattr(up, name, value)
        started = await start(ask)
        await browser.get(up.allow(await browser.go_to_provider(started)))
        ended = await state_of(ask, started)
        assert (ended["state"], ended["failure_code"]) == ("failed", failure_code)
        await ask.daemon.tokens.settle()
        assert len(up.revocations) == revoked_count
        assert len(up.token_requests) == 1
        assert (await ask("auth/profiles")).json["items"] == []
        assert (await ask("vault/secrets")).json["items"] == []
        (failed,) = await facts(ask, OauthAttemptFailed)
        assert failed.failure_code == failure_code


async def test_tokens_that_the_journal_does_not_take_are_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails while they are kept: nobody would ever use them, so the provider takes them back."""
    async with AuthorizationServer() as up, open_console(tmp_path, up.config) as ask, browsing() as browser:
        started = await start(ask)
        back = up.allow(await browser.go_to_provider(started))
        core = ask.daemon.core
        record = core.record

        async def fail_at_last(drafts: Sequence[Draft], *more: str) -> None:
            if any(isinstance(one.body, AuthProfileConnected) for one in drafts):
                raise JournalUnwritable
            await record(drafts, *more)

        monkeypatch.setattr(core, "record", fail_at_last)
        assert (await browser.get(back)).status == 303
        ended = await state_of(ask, started)
        assert (ended["state"], ended["failure_code"]) == ("failed", "not_stored")
        await ask.daemon.tokens.settle()
        assert len(up.revocations) == 2
        assert [info.ref for info in ask.daemon.vault.vault.revisions()] == []


async def test_a_token_of_unknown_life(tmp_path: Path) -> None:
    """`expires_in` may be left out, or be digits."""
    async with AuthorizationServer() as up, open_console(tmp_path, up.config) as ask:
        up.expires_in = None
        profile_id = await log_in(ask, up)
        assert (await ask(f"auth/profiles/{profile_id}")).json["expires_us"] is None
        up.expires_in = "3600"
        profile_id = await log_in(ask, up, profile_name="Second")
        assert (await ask(f"auth/profiles/{profile_id}")).json["expires_us"] is not None


async def test_how_soon_counts_as_expiring_is_configured(tmp_path: Path) -> None:
    """In a list and in the sum alike, and at every moment as it was configured then."""
    async with AuthorizationServer() as up:
        async with open_console(tmp_path, up.config) as ask:
            profile_id = await log_in(ask, up)
            assert (await ask(f"auth/profiles/{profile_id}")).json["health"] == "ok"
            before = (await ask("status")).json["at"]["position"]
        config = up.config
        config["auth"]["expiring_window_ms"] = 7_200_000
        async with open_console(tmp_path, config) as ask:
            assert (await ask(f"auth/profiles/{profile_id}")).json["health"] == "expiring"
            assert (await ask("auth/health")).json["summary"]["expiring"] == 1
            assert (await ask("auth/health", at=before)).json["summary"]["ok"] == 1


async def test_pasting(tmp_path: Path) -> None:
    """Without a browser here, somebody pastes the address that they ended at; a callback does not finish it."""
    async with AuthorizationServer() as up, open_console(tmp_path, up.config) as ask, browsing() as browser:
        started = await start(ask, mode="paste")
        assert started["launch_url"] is None
        asked = dict(parse_qsl(urlsplit(started["authorize_url"]).query))
        back = up.allow(asked)
        assert (await browser.get(back)).status == 403
        complete = f"{OPENAI}/complete"
        body = {"attempt_id": started["attempt_id"], "redirect_url": back}
        wrong = await ask.post(complete, {**body, "redirect_url": back.replace("state=", "state=x")})
        assert (wrong.status, wrong.code) == (400, "oauth_state_mismatch")
        assert (await ask.post(complete, {**body, "redirect_url": "x" * 5_000})).code == "invalid_request"
        assert (await ask.post(complete, {**body, "attempt_id": "nobody"})).code == "attempt_not_found"
        other = await ask.post("keys", {"name": "other", "kind": "admin"})
        foreign = await ask.post(complete, body, key=other.json["secret"])
        assert (foreign.status, foreign.code) == (403, "oauth_session_mismatch")
        assert (await state_of(ask, started))["state"] == "pending"
        ended = await ask.post(complete, body)
        assert ended.json["state"] == "completed"
        assert (await ask.post(complete, body)).json["state"] == "completed"
        assert len(up.token_requests) == 1
        browser_attempt = await start(ask, profile_name="Two")
        refused = await ask.post(complete, {**body, "attempt_id": browser_attempt["attempt_id"]})
        assert refused.code == "oauth_session_mismatch"


async def test_a_denied_login_by_pasting(tmp_path: Path) -> None:
    """The provider's no is the outcome."""
    async with AuthorizationServer() as up, open_console(tmp_path, up.config) as ask:
        started = await start(ask, mode="paste")
        asked = dict(parse_qsl(urlsplit(started["authorize_url"]).query))
        body = {"attempt_id": started["attempt_id"], "redirect_url": _deny(up, asked)}
        assert (await ask.post(f"{OPENAI}/complete", body)).json["failure_code"] == "provider_denied"


async def test_a_profile_is_logged_in_anew(tmp_path: Path) -> None:
    """It keeps its id and gets new tokens; that another account has logged in is said."""
    async with AuthorizationServer() as up, open_console(tmp_path, up.config) as ask, browsing() as browser:
        profile_id = await log_in(ask, up)
        up.subject = "somebody-else"
        started = (await ask.post(f"{OPENAI}/reconnect", {"profile_id": profile_id})).json
        await browser.get(up.allow(await browser.go_to_provider(started)))
        assert (await state_of(ask, started))["profile_id"] == profile_id
        (rotated,) = await facts(ask, AuthProfileRotated)
        assert rotated.account_changed
        assert await say(ask) == "Hi"
        assert up.asked_with[-1] == up.grants[1].access[0]


async def test_a_callback_on_another_port(tmp_path: Path) -> None:
    """Where the provider knows another address of this machine, somebody listens there while the login lasts."""
    async with AuthorizationServer() as up:
        probe = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = probe.sockets[0].getsockname()[1]
        probe.close()
        await probe.wait_closed()
        config = up.config
        config["auth"]["oauth"]["openai"]["redirect_uri"] = f"http://localhost:{port}/auth/callback"
        async with open_console(tmp_path, config) as ask, browsing() as browser:
            started = await start(ask)
            assert started["launch_url"].startswith(f"http://localhost:{port}/auth/launch/")
            came_back = await browser.get(up.allow(await browser.go_to_provider(started)))
            page = await browser.get(f"http://localhost:{port}{came_back.headers['location']}")
            assert b"You are logged in" in page.body
            assert (await browser.get(f"http://localhost:{port}/v1/models")).status == 404
            assert (await state_of(ask, started))["state"] == "completed"


async def logins_at(ask: Operator, provider: str) -> tuple[bool, bool]:
    shown = (await ask(f"auth/providers/{provider}")).json
    return shown["oauth_supported"], shown["oauth_configured"]


async def test_what_is_missing_or_too_much(tmp_path: Path) -> None:
    """No client id, or too many logins at once: told before anything is sealed."""
    async with AuthorizationServer() as up, open_console(tmp_path, up.config) as ask:
        for number in range(4):
            await start(ask, profile_name=f"P{number}")
        refused = await ask.post(f"{OPENAI}/bootstrap", {"profile_name": "P5"})
        assert (refused.status, refused.code) == (429, "too_many_attempts")
        assert await logins_at(ask, "openai") == (True, True)
        assert await logins_at(ask, "groq") == (False, False)
    config = up.config
    del config["auth"]["oauth"]["openai"]["client_id"]
    async with open_console(tmp_path / "other", config) as ask:
        refused = await ask.post(f"{OPENAI}/bootstrap", {"profile_name": "P"})
        assert (refused.status, refused.code) == (409, "oauth_not_configured")
        assert await logins_at(ask, "openai") == (True, False)
