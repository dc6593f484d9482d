"""What the tests of the providers share: settings for a loopback server, a call with generous deadlines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from palyra.providers.guard import Lookup, look_up
from palyra.providers.http import HttpProvider, HttpSettings
from palyra.providers.port import Call
from palyra.wire.netguard import BaseUrl, validate_base_url_network_policy

#: So long that a test in which it fires has failed.
FOREVER_MS = 60_000


def base_of(url: str) -> BaseUrl:
    """Return a base URL that the rules allow under the most generous setting."""
    base = validate_base_url_network_policy(url, allow_private=True)
    assert isinstance(base, BaseUrl), base
    return base


def unchecked(scheme: Any, host: str, port: int) -> BaseUrl:
    """Return a base URL that was never validated, so that only the connector stands in the way."""
    shown = f"[{host}]" if ":" in host else host
    return BaseUrl(url=f"{scheme}://{shown}:{port}/v1", scheme=scheme, host=host, port=port, path="/v1")


def call(*, stream: bool = False, body: bytes | None = None, **deadlines_ms: int) -> Call:
    """Return a chat call; deadlines are given as `connect=20` and so on."""
    request = {"model": "gpt-x", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
    names = ("connect", "first_byte", "idle", "total")
    return Call(
        path="/chat/completions",
        body=body if body is not None else json.dumps(request).encode(),
        stream=stream,
        **{f"{name}_timeout_ms": deadlines_ms.get(name, FOREVER_MS) for name in names},  # type: ignore[arg-type]
    )


@asynccontextmanager
async def provider_at(
    base: BaseUrl | str, *, allow_private: bool = True, lookup: Lookup = look_up, **settings: Any
) -> AsyncIterator[HttpProvider]:
    """Open a provider, with a resolver of the test's own if it gives one."""

    where = base_of(base) if isinstance(base, str) else base
    made = HttpSettings(base=where, allow_private=allow_private, **settings)
    provider = HttpProvider(made, lookup=lookup)
    try:
        yield provider
    finally:
        await provider.close()


class Answers:
    """A resolver that gives scripted answers, the last one for ever, and counts the questions."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
