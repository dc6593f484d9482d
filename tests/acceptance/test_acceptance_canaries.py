"""Canaries: a secret given in each way that there is, a prompt, and a provider that echoes what it was shown.

None of them may be in a file, on a stream or in an answer, as it is, in base64 or percent-encoded. Key files hold
their own keys and nothing else.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from acceptance_kit import serving, spawn, write_config
from aiohttp import web

from palyra.auth.keyfiles import read_key_file
from palyra.config.state import StatePaths

QUESTIONS = [
    "status", "auth list --all", "auth health", "auth explain up", "vault list", "vault status", "config show",
    "config show --as-of now", "config history", "keys list", "runs list", "explain last", "explain last --state",
    "journal tail -n 500", "journal export", "capture run last", "journal verify",
]  # fmt: skip


class Planted:
    """Canaries by the way in which they came."""

    def __init__(self) -> None:
        self.by_way: dict[str, str] = {}

    def new(self, way: str, shape: str = "sk-canary-{}") -> str:
        self.by_way[way] = shape.format(secrets.token_urlsafe(24))
        return self.by_way[way]

    def found_in(self, data: bytes) -> list[str]:
        return [way for way, text in self.by_way.items() if any(form in data for form in _forms(text))]


def _forms(text: str) -> list[bytes]:
    data = text.encode()
    return [data, quote(text, safe="").encode(), base64.b64encode(data).rstrip(b"=")]


@pytest.fixture
def home() -> Iterator[Path]:
    """A home whose path is short enough for a socket below it."""
    with tempfile.TemporaryDirectory(prefix="palyra-") as directory:
        yield Path(directory)


async def _chat(request: web.Request) -> web.StreamResponse:
    """Say everything that was shown, in an error."""
    shown = request.headers.get("authorization", "")
    error: Any = {"error": {"message": f"bad {shown} at https://x.example/?key={shown}", "code": shown[:40]}}
    return web.json_response(error, status=400, headers={"x-request-id": shown[-30:]})


async def _models(request: web.Request) -> web.StreamResponse:
    return web.json_response({"object": "list", "data": [{"id": "m"}]})


async def test_no_canary_is_found_anywhere(home: Path) -> None:
    """By prompt-less options, variable, file, standard input, request body, header and prompt."""
    planted = Planted()
    app = web.Application()
    app.router.add_get("/v1/models", _models)
    app.router.add_post("/v1/chat/completions", _chat)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    up = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    key_file = home / "provider.key"
    key_file.write_text(planted.new("api_key_file"))
    key_file.chmod(0o600)
    environ = {"UP_KEY": planted.new("api_key_env"), "CONNECT_KEY": planted.new("--key-env")}
    entries = {"up": 'api_key_env = "UP_KEY"', "filed": f'api_key_file = "{key_file}"', "open": ""}
    text = "\n".join(
        f'[[model_provider.providers]]\nprovider_id = "{name}"\nkind = "openai"\nbase_url = "{up}"\n'
        f'allow_private_base_url = true\nauth_scheme = "bearer"\nmax_retries = 0\n{line}\n'
        f'[[model_provider.models]]\nmodel_id = "m-{name}"\nprovider_id = "{name}"\nupstream_model = "m"\n'
        for name, line in entries.items()
    )
    config = write_config(home / "palyra.toml", text)
    environ["PALYRA_CONFIG"] = str(config)
    seen: list[tuple[str, bytes]] = []

    async def run(line: str, stdin: bytes = b"") -> int:
        process = await spawn(home, *line.split(), environ=environ, stdin=asyncio.subprocess.PIPE)
        out, err = await process.communicate(stdin)
        seen.extend([(line, out), (line, err)])
        assert process.returncode is not None
        return process.returncode

    async with serving(home, environ=environ) as daemon:
        assert await run("auth connect open --key-env CONNECT_KEY --name A") == 0
        assert await run("auth connect open --key-stdin --name B", planted.new("--key-stdin").encode()) == 0
        assert await run("vault put global/one --stdin", planted.new("vault put", "plain {} value").encode()) == 0
        assert await run("auth connect open " + planted.new("an argument")) == 2
        token = read_key_file(StatePaths(daemon.state_dir).admin_token)
        assert token is not None
        admin = {"authorization": f"Bearer {token.reveal()}"}
        console = f"{daemon.url}/console/v1/"
        async with aiohttp.ClientSession() as session:

            async def ask(way: str, method: str, url: str, **more: Any) -> None:
                async with session.request(method, url, **more) as answer:
                    seen.extend([(way, await answer.read()), (way, str(dict(answer.headers)).encode())])

            secret = {"ref": "global/two", "value": planted.new("PUT vault/secrets", "word {}")}
            await ask("put", "PUT", f"{console}vault/secrets", json=secret, headers=admin)
            body = {"api_key": planted.new("POST api-key"), "profile_name": "C"}
            await ask("connect", "POST", f"{console}auth/providers/open/api-key", json=body, headers=admin)
            body = {"api_key": planted.new("a refused body") + " " * 3 + "x", "unknown": 1}
            await ask("refused", "POST", f"{console}auth/providers/open/api-key", json=body, headers=admin)
            login = {"token": planted.new("a wrong login", "palyra_admin_{}")}
            await ask("login", "POST", f"{console}auth/login", json=login)
            wrong = {"authorization": f"Bearer {planted.new('a wrong key')}"}
            await ask("wrong", "GET", f"{daemon.url}/v1/models?key={planted.new('a query')}", headers=wrong)
            prompt = planted.new("a prompt", "the prompt {}")
            for name in entries:
                tagged = {**daemon.headers, "x-palyra-tags": f"t={planted.new(f'a tag of {name}')}"}
                chat = {"model": f"m-{name}", "messages": [{"role": "user", "content": prompt}]}
                await ask(name, "POST", f"{daemon.url}/v1/chat/completions", json=chat, headers=tagged)
            chat = {"model": planted.new("a model's name"), "messages": [{"role": "user", "content": prompt}]}
            await ask("model", "POST", f"{daemon.url}/v1/chat/completions", json=chat, headers=daemon.headers)
        for line in QUESTIONS:
            await run(line)
            await run(f"{line} --json")
        assert await daemon.stop() == 0
    await runner.cleanup()
    assert planted.found_in(f"x{quote(prompt)}".encode()) == ["a prompt"]
    assert len(planted.by_way) >= 15
    for way, data in seen:
        assert planted.found_in(data) == [], way
    for path in home.rglob("*"):
        if path.is_file() and path != key_file:
            assert planted.found_in(path.read_bytes()) == [], path
