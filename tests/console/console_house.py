"""A daemon in this process with its console, and whoever asks it over HTTP."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from openai import AsyncOpenAI

from palyra import Daemon
from palyra.auth.keyfiles import read_key_file

CONSOLE = "/console/v1/"


class Answer:
    """An answer, read whole."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error; all of them have one form."""
        assert self.headers["content-type"] == "application/json"
        error: dict[str, Any] = self.json["error"]
        assert {"code", "message", "field", "hint", "retry_after_ms", "correlation"} <= set(error)
        return error

    @property
    def code(self) -> str:
        """Code of a refusal, "" where nothing was refused."""
        return "" if self.status < 400 else str(self.error["code"])


class Operator:
    """Asks a daemon's console with the operator's key, or another."""

    def __init__(self, daemon: Daemon, session: aiohttp.ClientSession, key: str) -> None:
        self.daemon = daemon
        self.key = key
        self._session = session

    async def __call__(
        self,
        path: str,
        *,
        method: str = "GET",
        key: str | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> Answer:
        """Send a request; `body` is JSON, `key` "" sends none."""
        sent = dict(headers or {})
        key = self.key if key is None else key
        if key:
            sent["authorization"] = f"Bearer {key}"
        data = None
        if body is not None:
            sent["content-type"] = "application/json"
            data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        async with self._session.request(
            method,
            self.daemon.url + CONSOLE + path,
            params={name: str(value) for name, value in query.items()},
            data=data,
            headers=sent,
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def post(self, path: str, body: Any = None, **more: Any) -> Answer:
        """Change something."""
        return await self(path, method="POST", body={} if body is None else body, **more)

    async def say(self, text: str = "Hello?") -> str:
        """Make one request to the gateway and return the id of its run."""
        async with AsyncOpenAI(base_url=self.daemon.base_url, api_key=self.daemon.client_key) as client:
            answer = await client.chat.completions.with_raw_response.create(
                model="deterministic", messages=[{"role": "user", "content": text}]
            )
        return str(answer.headers["x-palyra-run-id"])


@contextlib.asynccontextmanager
async def operator_of(daemon: Daemon, key: str) -> AsyncIterator[Operator]:
    """Open a client of a running daemon."""
    async with aiohttp.ClientSession() as session:
        yield Operator(daemon, session, key)


@contextlib.asynccontextmanager
async def open_console(
    state_dir: Path, config: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Operator]:
    """Run a daemon on a state directory and open a client with its operator's key."""
    async with Daemon(config, state_dir=state_dir, **settings) as daemon:
        secret = read_key_file(daemon.paths.admin_token)
        assert secret is not None
        async with operator_of(daemon, secret.reveal()) as operator:
            yield operator
