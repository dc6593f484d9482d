"""A program that embeds gateways, and what must not be left of them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import aiohttp

import palyra

#: Runs a program on a loop of its own; see the fixture.
Run = Callable[[Coroutine[Any, Any, object]], None]


def script(*rules: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with one model, `m`, and what it answers."""
    provider = {"provider_id": "script", "kind": "deterministic", "rules": list(rules)}
    return {"model_provider": {"providers": [provider], "models": [{"model_id": "m", "provider_id": "script"}]}}


def says(text: str) -> dict[str, Any]:
    """Return a configuration whose model says always the same."""
    return script({"reply": {"text": text}})


HANGS = script({"error": {"hang": True}})


class Answer(NamedTuple):
    """What a gateway answered."""

    status: int
    text: str
    run_id: str


async def ask(daemon: palyra.Daemon) -> Answer:
    """Ask the daemon's default model for a chat completion."""
    body = {"model": "palyra/default", "messages": [{"role": "user", "content": "Hello?"}]}
    headers = {"authorization": f"Bearer {daemon.client_key}"}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{daemon.base_url}/chat/completions", json=body, headers=headers) as response:
            document = await response.json()
            text = document["choices"][0]["message"]["content"] if response.status == 200 else ""
            return Answer(response.status, text, response.headers["x-palyra-run-id"])


async def wait_until(daemon: palyra.Daemon, name: str) -> palyra.Recorded:
    """Wait for the first event of a name."""
    async for recorded in daemon.journal.follow():
        if recorded.name == name:
            return recorded
    raise AssertionError(f"the journal was closed before {name}")
