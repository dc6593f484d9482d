"""Logging in from the command line: with a browser at the daemon that runs, and by pasting without one.

What was typed, sealed or sent is searched for in every file, on every stream and in every answer.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import pty
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

import aiohttp
import pytest
from acceptance_kit import history, serving, spawn, write_config
from authorization_server import AuthorizationServer

from palyra.events.auth import AuthProfileConnected, AuthProfileRefreshed


@pytest.fixture
def home() -> Iterator[Path]:
    """A home whose path is short enough for a socket below it."""
    with tempfile.TemporaryDirectory(prefix="palyra-") as directory:
        yield Path(directory)


def configure(home: Path, up: AuthorizationServer) -> Path:
    openai = up.config["auth"]["oauth"]["openai"]
    lines = [
        "[auth.oauth.openai]",
        *(f"{name} = {json.dumps(value)}" for name, value in openai.items()),
        "[[model_provider.providers]]",
        'provider_id = "up"',
        'kind = "openai"',
        f'base_url = "{up.url}/v1"',
        "allow_private_base_url = true",
        'auth_scheme = "bearer"',
        'auth_provider_kind = "openai"',
        "[[model_provider.models]]",
        'model_id = "m"',
        'provider_id = "up"',
    ]
    return write_config(home / "palyra.toml", "\n".join(lines))


async def run(home: Path, *arguments: str, config: Path, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    process = await spawn(home, *arguments, environ={"PALYRA_CONFIG": str(config)}, stdin=asyncio.subprocess.PIPE)
    out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, out, err


async def url_in(process: asyncio.subprocess.Process, start: str) -> str:
    assert process.stderr is not None
    said = []
    while True:
        line = (await process.stderr.readline()).decode()
        said.append(line)
        assert line, said
        if line.startswith(start):
            return line.strip()


async def test_a_login_with_a_browser(home: Path) -> None:
    """The command waits; the profile renews itself, works, and is given back."""
    async with AuthorizationServer() as up:
        config = configure(home, up)
        async with serving(home, "--config", str(config)) as daemon:
            process = await spawn(
                home,
                "auth",
                "login",
                "openai",
                "--no-open",
                "--name",
                "Work",
                "--json",
                environ={"PALYRA_CONFIG": str(config)},
            )
            launch = await url_in(process, f"{daemon.url}/console/v1/auth/providers/openai/launch/")
            jar = aiohttp.CookieJar(unsafe=True)
            async with aiohttp.ClientSession(cookie_jar=jar) as browser, browser.get(launch) as page:
                assert b"You are logged in" in await page.read()
                assert "code=" not in str(page.url)
            out, _ = await process.communicate()
            assert process.returncode == 0
            told = json.loads(out)["data"]
            assert told["state"] == "completed"
            profile_id = told["profile_id"]
            status, out, _ = await run(home, "auth", "refresh", profile_id, "--json", config=config)
            assert (status, json.loads(out)["data"]["state"]) == (0, "refreshed")
            status, out, _ = await run(home, "auth", "attempts", "--json", config=config)
            assert [one["state"] for one in json.loads(out)["data"]["items"]] == ["completed"]
            assert (await run(home, "auth", "health", config=config))[0] == 0
            status, out, _ = await run(home, "auth", "revoke", "--yes", profile_id, "--json", config=config)
            assert (status, json.loads(out)["data"]["state"]) == (0, "revoking")
            while not any("refresh_token" in one["token_type_hint"] for one in up.revocations):
                await asyncio.sleep(0.05)  # the daemon's own loop does it
            assert await daemon.stop() == 0
        facts = [one.body for one in history(daemon.state_dir)]
        assert [type(one) for one in facts if isinstance(one, (AuthProfileConnected, AuthProfileRefreshed))] == [
            AuthProfileConnected,
            AuthProfileRefreshed,
        ]
        canaries = [*up.secrets, up.token_requests[0]["code"], up.token_requests[0]["code_verifier"]]
        search(home, canaries)


async def test_a_login_by_pasting_without_a_daemon(home: Path) -> None:
    """The address is read from standard input; one of another login is refused, and the login is given up."""
    async with AuthorizationServer() as up:
        config = configure(home, up)
        async with serving(home, "--config", str(config)) as daemon:
            await daemon.stop()
        process = await spawn(
            home,
            "auth",
            "login",
            "openai",
            "--paste",
            stdin=asyncio.subprocess.PIPE,
            environ={"PALYRA_CONFIG": str(config)},
        )
        address = await url_in(process, f"{up.url}/oauth/authorize")
        back = up.allow(dict(parse_qsl(urlsplit(address).query)))
        out, err = await process.communicate(back.encode() + b"\n")
        assert (process.returncode, b"completed" in out) == (0, True), err
        process = await spawn(
            home, "auth", "login", "openai", "--paste", "--name", "Two",
            stdin=asyncio.subprocess.PIPE, environ={"PALYRA_CONFIG": str(config)},
        )  # fmt: skip
        await url_in(process, f"{up.url}/oauth/authorize")
        out, err = await process.communicate(back.encode() + b"\n")
        assert (process.returncode, b"another login" in err) == (2, True), err
        _, out, _ = await run(home, "auth", "attempts", "--json", config=config)
        assert [one["state"] for one in json.loads(out)["data"]["items"]] == ["cancelled", "completed"]
        ended = json.loads(out)["data"]["items"][1]["attempt_id"]
        status, out, _ = await run(home, "auth", "cancel", ended, "--json", config=config)
        assert (status, json.loads(out)["data"]["state"]) == (0, "completed")  # what is over stays as it is
        assert (await run(home, "auth", "cancel", "nobody", config=config))[0] == 8
        status, _, err = await run(home, "auth", "login", "openai", config=config)
        assert (status, b"daemon" in err) == (4, True)
        search(home, [*up.secrets, *(one["code"] for one in up.token_requests)])


async def asked(process: asyncio.subprocess.Process) -> str:
    """Wait until an address is asked for, and return what was said until then; what was typed before is lost."""
    assert process.stderr is not None
    return (await process.stderr.readuntil(b"Address: ")).decode()


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """Give both ends of a terminal: where somebody types, and what a program reads."""
    ends = pty.openpty()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


async def test_whoever_pastes_at_a_terminal_is_asked_again(home: Path) -> None:
    """A wrong address is no end of the login; nothing at all is, and so is Ctrl-C."""
    async with AuthorizationServer() as up:
        config = configure(home, up)
        async with serving(home, "--config", str(config)) as daemon:
            await daemon.stop()
        line = ("auth", "login", "openai", "--paste", "--json")
        environ = {"PALYRA_CONFIG": str(config)}
        with terminal() as (typing, read):
            process = await spawn(home, *line, stdin=read, environ=environ)
            address = await url_in(process, f"{up.url}/oauth/authorize")
            await asked(process)
            os.write(typing, b"http://127.0.0.1:7142/elsewhere?state=x&code=y\n")
            assert "another login" in await asked(process)
            os.write(typing, up.allow(dict(parse_qsl(urlsplit(address).query))).encode() + b"\n")
            out, err = await process.communicate()
            assert (process.returncode, json.loads(out)["data"]["state"]) == (0, "completed"), err
        for typed, number, status in ((b"\x04", None, 2), (b"\n", None, 2), (b"", signal.SIGINT, 130)):
            with terminal() as (typing, read):
                process = await spawn(home, *line, "--name", "Two", stdin=read, environ=environ)
                await asked(process)
                os.write(typing, typed)
                if number is not None:
                    process.send_signal(number)
                await process.communicate()
                assert process.returncode == status
        _, out, _ = await run(home, "auth", "attempts", "--json", config=config)
        states = [one["state"] for one in json.loads(out)["data"]["items"]]
        assert states == ["cancelled", "cancelled", "cancelled", "completed"]


def search(home: Path, canaries: list[str]) -> None:
    """Find nothing of what is secret in any file, in whatever form."""
    assert len(canaries) >= 3
    forms = [
        form
        for text in canaries
        for form in (text.encode(), quote(text, safe="").encode(), base64.b64encode(text.encode()).rstrip(b"="))
    ]
    files = [path for path in home.rglob("*") if path.is_file()]
    assert files
    for path in files:
        data = path.read_bytes()
        assert not [form for form in forms if form in data], path
