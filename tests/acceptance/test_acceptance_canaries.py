"""Canaries: a secret given in each way that there is, a prompt, and a provider that echoes what it was shown.

None of them may be in a file, on a stream or in an answer, as it is, in base64 or percent-encoded. Key files hold
their own keys and nothing else.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import pty
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
import pytest
from acceptance_kit import serving, spawn, write_config
from aiohttp import web

from palyra.auth.keyfiles import read_key_file
from palyra.config.state import StatePaths
from palyra.engine.console.table import QUESTIONS
from palyra.engine.reports.tables import Dataset

#: Command lines that show something of what was planted; the last ones write it into files below the home.
LINES = """
status; auth list --all; auth health; auth explain up; auth attempts; vault list; vault status
config show; config show --origin; config show --as-of boot; config history; config diff 1 1; config schema
keys list; runs list; runs show last; explain last; explain last --state
models list; models status; models explain; routing show; routing report; pricing show; pricing missing
budgets list; budgets check --model m-up; approvals list; alerts list; replay --what-if other.toml
usage summary; usage timeline; usage sessions; usage keys; usage models; usage insights; usage verify; usage report
journal status; journal tail -n 500; journal verify --replay
status --json; auth list --all --json; config show --json; explain last --state --json; journal tail -n 500 --json
"""
FILES = """
usage report --format html --out report.html; usage report --dataset attempts --format csv --out attempts.csv
usage export --dataset refusals --format json --out refusals.json; capture run last -o capsule.json
journal export -o journal.jsonl; journal backup backup; fixtures record --run last -o fixtures.jsonl
"""
LIVE = "status --online; sessions list; auth list --all --online; vault list --online; runs list --online"
#: Exits of those that have something to say against it.
EXITS = {"fixtures record --run last -o fixtures.jsonl": 7}
#: Names that places of the console want.
PLACES = {
    "policy": "day", "key": "client.key", "run": "last", "event": "1", "chapter": "auth", "provider": "up",
    "alert": "x", "approval": "x", "id": "config:up",
}  # fmt: skip


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


def lines_of(text: str) -> list[str]:
    return [line.strip() for line in re.split(r"[;\n]", text) if line.strip()]


def _console_paths() -> list[str]:
    """Return every place of the console that answers, with what it wants filled in."""
    wanted = {**PLACES, "a": "1", "b": "1", "provider_id": "up", "attempt_id": "x", "model": "m-up"}
    paths = []
    for question in (one for one in QUESTIONS if one.method == "GET"):
        path, needs = question.path, [one.name for one in msgspec.structs.fields(question.params) if one.required]
        for name in re.findall(r"{(\w+)}", path):
            path = path.replace(f"{{{name}}}", PLACES[name])
        query = {name: wanted[name] for name in needs if f"{{{name}}}" not in question.path and name in wanted}
        paths.append(f"{path}?{urlencode(query)}")
    return paths


async def _listen(session: aiohttp.ClientSession, url: str, headers: Mapping[str, str], heard: bytearray) -> None:
    """Follow what happens, until the daemon ends."""
    with contextlib.suppress(aiohttp.ClientError):
        async with session.get(url, headers=headers) as stream:
            assert stream.status == 200
            async for piece in stream.content.iter_any():
                heard.extend(piece)


@pytest.mark.timeout(300)
async def test_no_canary_is_found_anywhere(home: Path) -> None:
    """By option, variable, file, standard input, body, header, configuration and prompt; on every way out."""
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
    header = f'headers = {{ "x-team-token" = "{planted.new("a header of a provider", "plain-{}")}" }}'
    budget = (
        '[[budgets.policies]]\npolicy_id = "day"\nscope_kind = "global"\nmetric_kind = "tokens"\n'
        'interval_kind = "daily"\nhard_limit = 1_000_000\n'
    )
    cache = "[model_provider]\nresponse_cache_enabled = true\n"
    text = (
        cache
        + budget
        + "\n".join(
            f'[[model_provider.providers]]\nprovider_id = "{name}"\nkind = "openai"\nbase_url = "{up}"\n'
            f'allow_private_base_url = true\nauth_scheme = "bearer"\nmax_retries = 0\n{header}\n{line}\n'
            f'[[model_provider.models]]\nmodel_id = "m-{name}"\nprovider_id = "{name}"\nupstream_model = "m"\n'
            for name, line in entries.items()
        )
    )
    config = write_config(home / "palyra.toml", text)
    environ["PALYRA_CONFIG"] = str(config)
    write_config(home / "other.toml", text.replace("1_000_000", "1"))
    own_words = (config, home / "other.toml", key_file, home / "backup" / "palyra.toml")
    seen: list[tuple[str, bytes]] = []

    async def run(line: str, stdin: bytes = b"") -> int:
        process = await spawn(home, *line.split(), environ=environ, stdin=asyncio.subprocess.PIPE)
        out, err = await process.communicate(stdin)
        seen.extend([(line, out), (line, err)])
        assert process.returncode is not None
        return process.returncode

    async def type_in(line: str, typed: str) -> int:
        """Run a command line at a terminal and type what it asks for."""
        typing, read = pty.openpty()
        try:
            process = await spawn(home, *line.split(), environ=environ, stdin=read)
            assert process.stderr is not None
            asked = await process.stderr.readuntil(b": ")
            os.write(typing, f"{typed}\n".encode())
            out, err = await process.communicate()
            os.set_blocking(typing, False)
            with contextlib.suppress(BlockingIOError):
                seen.append((f"{line}, the terminal", os.read(typing, 65_536)))
        finally:
            os.close(typing)
            os.close(read)
        seen.extend([(line, out), (line, asked + err)])
        assert process.returncode is not None
        return process.returncode

    async def run_all(lines: list[str]) -> None:
        """Run command lines, a few at a time."""
        waiting = list(reversed(lines))

        async def one_by_one() -> None:
            while waiting:
                line = waiting.pop()
                statuses[line] = await run(line)

        await asyncio.gather(*(one_by_one() for _ in range(3)))

    statuses: dict[str, int] = {}
    async with serving(home, environ=environ) as daemon:
        assert await run("auth connect open --key-env CONNECT_KEY --name A") == 0
        assert await run("auth connect open --key-stdin --name B", planted.new("--key-stdin").encode()) == 0
        assert await run("vault put global/one --stdin", planted.new("vault put", "plain {} value").encode()) == 0
        environ["VAULT_VALUE"] = planted.new("vault put --env", "word {}")
        assert await run("vault put global/env --env VAULT_VALUE") == 0
        assert await type_in("auth connect open --name T", planted.new("a prompt of connect")) == 0
        assert await type_in("vault put global/typed", planted.new("a prompt of put", "word {}")) == 0
        secret_file = home / "secret.txt"
        secret_file.write_text(planted.new("vault put --file", "word {}"))
        assert await run(f"vault put global/file --file {secret_file}") == 0
        secret_file.unlink()
        assert await run("auth list --json") == 0
        rotated = json.loads(seen[-2][1])["data"]["items"][-1]["profile_id"]
        assert await run(f"auth rotate {rotated} --key-stdin", planted.new("auth rotate").encode()) == 0
        assert await run("auth connect open " + planted.new("an argument")) == 2
        token = read_key_file(StatePaths(daemon.state_dir).admin_token)
        assert token is not None
        admin = {"authorization": f"Bearer {token.reveal()}"}
        console = f"{daemon.url}/console/v1/"
        heard = bytearray()
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as listeners:
            listeners.create_task(_listen(session, f"{console}events", admin, heard))

            async def ask(way: str, method: str, url: str, **more: Any) -> int:
                async with session.request(method, url, **more) as answer:
                    seen.extend([(way, await answer.read()), (way, str(dict(answer.headers)).encode())])
                    return answer.status

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
            stream = {"model": "m-open", "stream": True, "messages": [{"role": "user", "content": prompt}]}
            await ask("stream", "POST", f"{daemon.url}/v1/chat/completions", json=stream, headers=daemon.headers)
            for path in _console_paths():
                for when in ("", "&at=20"):
                    status = await ask(path, "GET", f"{console}{path}{when}", headers=admin)
                    assert status in (200, 404), path
            question = {"prompt": planted.new("a prompt of a plan", "would {} be answered?"), "model": "m-open"}
            what_if = {"toml": (home / "other.toml").read_text()}
            inline = f'provider_id = "x"\napi_key = "{planted.new("a key in another configuration")}"\n'
            refused = {"toml": f"{text}\n[[model_provider.providers]]\n{inline}"}
            places = [
                ("auth/selection/explain", {"provider_id": "up"}, 200),
                ("budgets/check", {"model": "m-up"}, 200),
                ("usage/explain", question, 200),
                ("usage/what-if", what_if, 200),
                ("usage/what-if", refused, 422),
            ]
            assert {one.path for one in QUESTIONS if one.method == "POST"} <= {place for place, *_ in places}
            for place, asked, wanted in places:
                assert await ask(place, "POST", f"{console}{place}", json=asked, headers=admin) == wanted, place
            for dataset in get_args(Dataset):
                for form in ("csv", "json"):
                    place = f"usage/export?{urlencode({'dataset': dataset, 'format': form})}"
                    assert await ask(place, "GET", f"{console}{place}", headers=admin) == 200
            for place in ("/v1/openapi.json", "/v1/models", "/healthz", "/readyz"):
                await ask(place, "GET", f"{daemon.url}{place}", headers=daemon.headers)
            await run_all(lines_of(LIVE))
            await ask("off", "POST", f"{console}auth/profiles/nobody/revoke", json={}, headers=admin)
            assert await daemon.stop() == 0
        seen.append(("events", bytes(heard)))
        assert b"run.failed" in heard
    await runner.cleanup()
    await run_all([*lines_of(FILES), *lines_of(LINES)])
    assert planted.found_in(f"x{quote(prompt)}".encode()) == ["a prompt"]
    assert len(planted.by_way) >= 18
    assert {line: status for line, status in statuses.items() if status} == EXITS
    for way, data in seen:
        assert planted.found_in(data) == [], way
    for path in home.rglob("*"):
        if path.is_file() and path not in own_words:
            assert planted.found_in(path.read_bytes()) == [], path
