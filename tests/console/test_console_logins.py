"""Logging in at the console: cookies, the second secret, Origin, lockout; and what no answer may hold."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from console_house import CONSOLE, Answer, Operator, open_console
from test_console_http import sample

from palyra.auth.keys import make_key
from palyra.engine.console.change_table import CHANGES
from palyra.engine.console.table import QUESTIONS
from palyra.events.base import Recorded
from palyra.events.console_sessions import ConsoleSessionEnded, ConsoleSessionOpened
from palyra.events.keys import AccessDenied

#: Every place that changes something while somebody is logged in, with what stands in its placeholders.
CHANGING = [
    *((change.method, change.path) for change in CHANGES),
    ("POST", "auth/login-codes"),
    ("POST", "auth/logout"),
    ("POST", "auth/logout-all"),
    ("DELETE", "auth/sessions/{id}"),
]


class Browser:
    """Somebody who has logged in: the cookie, the second secret and the own origin go with each request."""

    def __init__(self, ask: Operator, answer: Answer) -> None:
        self.ask = ask
        self.login = answer.json
        self.cookie_line = answer.headers["set-cookie"]
        self.cookie = self.cookie_line.partition(";")[0]
        self.csrf = str(self.login["csrf_token"])
        self.origin = ask.daemon.url

    async def __call__(
        self,
        path: str,
        *,
        method: str = "GET",
        csrf: str | None = None,
        origin: str | None = None,
        body: Any = None,
    ) -> Answer:
        """Send a request; "" leaves a header out."""
        headers = {"cookie": self.cookie}
        given = {
            "x-palyra-csrf-token": self.csrf if csrf is None else csrf,
            "origin": self.origin if origin is None else origin,
        }
        headers |= {name: value for name, value in given.items() if value}
        return await self.ask(path, method=method, key="", body=body, headers=headers)


async def log_in(ask: Operator, **body: str) -> Browser:
    answer = await ask.post("auth/login", body or {"token": ask.key}, key="")
    assert answer.status == 200, answer.body
    return Browser(ask, answer)


@contextlib.asynccontextmanager
async def open_browser(state_dir: Path, **settings: Any) -> AsyncIterator[Browser]:
    async with open_console(state_dir, **settings) as ask:
        yield await log_in(ask)


def noted(recorded: list[Recorded]) -> list[Recorded]:
    """Leave out the count of those who were turned away."""
    return [one for one in recorded if not isinstance(one.body, AccessDenied)]


async def history(ask: Operator) -> list[Recorded]:
    await ask.daemon.core.durable()
    return noted([one async for one in ask.daemon.journal])


async def test_a_login_opens_a_session(tmp_path: Path) -> None:
    """The answer says for whom and until when; the cookie is for our own pages and no script; a fact is left."""
    async with open_browser(tmp_path) as browser:
        port = browser.ask.daemon.server.port
        assert re.fullmatch(
            rf"palyra_session_{port}=[\w-]{{43}}; Path=/console; HttpOnly; SameSite=Strict", browser.cookie_line
        )
        assert set(browser.login) == {
            *("principal", "scopes", "csrf_token", "issued_us", "idle_expires_us", "expires_us", "at"),
        }
        assert browser.login["idle_expires_us"] - browser.login["issued_us"] == 30 * 60 * 1_000_000
        assert browser.login["expires_us"] - browser.login["issued_us"] == 12 * 3_600 * 1_000_000
        session = await browser("auth/session")
        assert session.json["principal"] == browser.login["principal"]
        assert "csrf_token" not in session.json
        assert (await browser("status")).status == 200
        opened = [one.body for one in await history(browser.ask) if isinstance(one.body, ConsoleSessionOpened)]
        assert [(one.how, one.peer_class) for one in opened] == [("token", "loopback")]


async def test_a_code_opens_one_session(tmp_path: Path) -> None:
    """It is made by the admin key, stands in the fragment of a link, and works once."""
    async with open_console(tmp_path) as ask:
        made = await ask.post("auth/login-codes")
        url, _, code = made.json["login_url"].partition("#code=")
        assert url == f"{ask.daemon.url}/console"
        browser = await log_in(ask, login_code=code)
        assert (await browser("status")).status == 200
        again = await ask.post("auth/login", {"login_code": code}, key="")
        assert (again.status, again.code) == (401, "invalid_login")
        assert (await browser("auth/login-codes", method="POST")).code == "wrong_key_kind"


async def test_who_cannot_log_in(tmp_path: Path) -> None:
    """A client key, an unknown one, nonsense, nothing, both: refused, and nothing that was sent is repeated."""
    async with open_console(tmp_path) as ask:
        unknown = make_key("admin").secret.reveal()
        for body, code in [
            ({"token": ask.daemon.client_key}, "wrong_key_kind"),
            ({"token": unknown}, "invalid_login"),
            ({"token": ""}, "invalid_login"),
            ({"login_code": "nonsense"}, "invalid_login"),
            ({}, "invalid_request"),
            ({"token": ask.key, "login_code": "x"}, "invalid_request"),
            ({"token": ask.key, "more": 1}, "invalid_request"),
            ({"token": "x" * 500}, "invalid_request"),
        ]:
            answer = await ask.post("auth/login", body, key="")
            assert answer.code == code
            assert "set-cookie" not in answer.headers
            assert unknown not in answer.body.decode()


async def test_a_foreign_page_cannot_log_in(tmp_path: Path) -> None:
    """Also with the right token."""
    async with open_console(tmp_path) as ask:
        for origin in ("https://evil.example", "http://127.0.0.1:1", "null"):
            answer = await ask.post("auth/login", {"token": ask.key}, key="", headers={"origin": origin})
            assert (answer.status, answer.code) == (403, "origin_refused")


async def test_changes_need_the_second_secret_and_the_own_origin(tmp_path: Path) -> None:
    """Every place that changes something: no token, a wrong one, another port, null, none is 403 and no fact."""
    async with open_browser(tmp_path) as browser:
        before = await history(browser.ask)
        other_port = f"http://127.0.0.1:{browser.ask.daemon.server.port + 1}"
        for method, template in CHANGING:
            path = re.sub(r"{\w+}", "last", template)
            for wrong in (
                {"csrf": ""},
                {"csrf": "x" * 43},
                {"origin": other_port},
                {"origin": "null"},
                {"origin": "https://127.0.0.1"},
                {"origin": "", "csrf": browser.csrf},
            ):
                answer = await browser(path, method=method, body={"name": "x"}, **wrong)
                assert answer.status == 403, (template, wrong)
                assert answer.code in ("csrf_refused", "origin_refused")
        assert await history(browser.ask) == before
        made = await browser("keys", method="POST", body={"name": "mine"})
        assert made.status == 201
        assert made.json["key"]["issued_by"] == browser.login["principal"]


async def test_a_cookie_alone_reads_and_a_forged_one_does_not(tmp_path: Path) -> None:
    """A request of our own pages reads with the cookie; a foreign page and a cookie that nobody got do not."""
    async with open_browser(tmp_path) as browser:
        assert (await browser("status", csrf="", origin="")).status == 200
        assert (await browser("status", origin="https://evil.example")).code == "origin_refused"
        browser.cookie = browser.cookie[:-3] + "xxx"
        answer = await browser("status")
        assert (answer.status, answer.code) == (401, "missing_session")


async def test_a_bearer_key_needs_no_cookie_but_no_foreign_page_either(tmp_path: Path) -> None:
    """Programs send a key and nothing else; with a foreign Origin that is refused too."""
    async with open_console(tmp_path) as ask:
        assert (await ask.post("keys", {"name": "a"})).status == 201
        foreign = await ask.post("keys", {"name": "b"}, headers={"origin": "https://evil.example"})
        assert (foreign.status, foreign.code) == (403, "origin_refused")
        own = await ask.post("keys", {"name": "c"}, headers={"origin": ask.daemon.url})
        assert own.status == 201


async def test_sessions_are_listed_and_ended(tmp_path: Path) -> None:
    """By oneself, by another, all at once; each end is a fact with its reason, and opens nothing any more."""
    async with open_console(tmp_path) as ask:
        one, two, three, four = [await log_in(ask) for _ in range(4)]
        listed = (await one("auth/sessions")).json["items"]
        assert [item["current"] for item in listed] == [True, False, False, False]
        ended = await one(f"auth/sessions/{listed[1]['id']}", method="DELETE")
        assert ended.status == 204
        assert (await two("status")).status == 401
        assert (await one(f"auth/sessions/{listed[1]['id']}", method="DELETE")).code == "session_not_found"
        out = await three("auth/logout", method="POST")
        assert out.status == 204
        assert "Max-Age=0" in out.headers["set-cookie"]
        assert (await three("status")).status == 401
        assert (await four("auth/logout-all", method="POST")).status == 204
        assert [(await browser("status")).status for browser in (one, four)] == [401, 401]
        reasons = [one.body.reason for one in await history(ask) if isinstance(one.body, ConsoleSessionEnded)]
        assert reasons == ["operator", "logout", "logout_all", "logout_all"]
        assert (await ask.post("auth/logout")).code == "missing_session"


async def test_a_session_dies_with_its_key(tmp_path: Path) -> None:
    """A rotated or revoked admin key ends the sessions that it opened."""
    async with open_browser(tmp_path) as browser:
        rotated = await browser("keys/admin.token/rotate", method="POST", body={})
        assert rotated.status == 200
        assert rotated.json["secret"].startswith("palyra_admin_")
        assert (await browser("status")).status == 401
        reasons = [
            one.body.reason for one in await history(browser.ask) if isinstance(one.body, ConsoleSessionEnded)
        ]
        assert reasons == ["key_ended"]


async def test_a_start_ends_all_sessions(tmp_path: Path) -> None:
    """What proves a session is in memory only."""
    async with open_browser(tmp_path) as browser:
        cookie = browser.cookie.partition("=")[2]
    async with open_console(tmp_path) as ask:
        name = f"palyra_session_{ask.daemon.server.port}"
        assert (await ask("status", key="", headers={"cookie": f"{name}={cookie}"})).status == 401


async def test_failed_logins_have_to_wait(tmp_path: Path) -> None:
    """After five failures a right token waits too; a bearer key is not affected."""
    async with open_console(tmp_path) as ask:
        for _ in range(5):
            assert (await ask.post("auth/login", {"token": "nonsense"}, key="")).status == 401
        locked = await ask.post("auth/login", {"token": ask.key}, key="")
        assert (locked.status, locked.code) == (429, "login_locked")
        assert locked.headers["retry-after"] == "1"
        assert (await ask("status")).status == 200


async def test_no_answer_to_a_question_holds_a_secret(tmp_path: Path) -> None:
    """Neither a key, nor a verifier, nor the second secret, nor the cookie, whoever asks; nor does the journal."""
    async with open_browser(tmp_path) as browser:
        secret = (await browser("keys", method="POST", body={"name": "mine"})).json["secret"]
        cookie = browser.cookie.partition("=")[2]
        await browser.ask.say()
        hidden = [secret, browser.ask.key, browser.ask.daemon.client_key, browser.csrf, cookie]
        asked = [(path, query) for path, query, _ in map(sample, QUESTIONS)]
        paths = [f"{path}?{urlencode(query)}" for path, query in asked]
        for path in [*paths, "keys?all=true", "auth/session", "auth/sessions"]:
            text = (await browser(path)).body.decode()
            assert not [one for one in hidden if one in text], path
            assert path.startswith("journal/events") or "verifier" not in text
        for one in await history(browser.ask):
            assert not [each for each in hidden if each in repr(one.body)]


@pytest.mark.parametrize("path", ["status", "auth/session", "nowhere", "auth/login"])
async def test_every_answer_of_the_console_is_fenced(tmp_path: Path, path: str) -> None:
    """It is stored nowhere, framed nowhere, and nothing runs in it but files of ours."""
    async with open_browser(tmp_path) as browser:
        for answer in (await browser(path), await browser.ask(path, key="", headers={"host": "evil.example"})):
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["cross-origin-opener-policy"] == "same-origin"
            assert answer.headers["permissions-policy"] == "camera=(), microphone=(), geolocation=()"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert "unsafe" not in answer.headers["content-security-policy"]
            assert answer.headers["server"] == "palyra"
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.status == 421
        assert CONSOLE == "/console/v1/"
