"""Ten megabytes where a key belongs: refused in words, nothing of it kept, and the daemon serves on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from console_house import Operator, open_console
from listing_provider import Listing
from test_console_auth import config

HUGE = "k" * 10_000_000


async def send(ask: Operator, head: str, body: str = "") -> tuple[int, str]:
    """Send a request as it is, and return status and answer; whoever stops reading it may hang up then."""
    reader, writer = await asyncio.open_connection("127.0.0.1", ask.daemon.server.port)
    lines = f"{head}\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(lines.encode() + body.encode())
    try:
        async with asyncio.timeout(20):
            status = (await reader.readline()).split(b" ")[1]
            return int(status), (await reader.read()).decode()
    finally:
        writer.close()


async def check_facts(ask: Operator, before: int) -> None:
    """Who was turned away is counted; nothing else is recorded, and nothing of what was sent."""
    facts = [one async for one in ask.daemon.journal if one.position > before]
    assert {one.name for one in facts} <= {"access.denied"}
    assert "kkk" not in repr(facts)


@pytest.mark.parametrize("name", ["Authorization: Bearer ", "x-api-key: ", "Cookie: palyra_session_1=", "Host: "])
async def test_in_a_header(tmp_path: Path, name: str) -> None:
    """Heads have an end, whatever they hold."""
    async with open_console(tmp_path) as ask:
        before = ask.daemon.core.state.position
        for line in ("GET /console/v1/status HTTP/1.1", "POST /v1/chat/completions HTTP/1.1"):
            status, told = await send(ask, f"{line}\r\n{name}{HUGE}")
            assert (status, '"error"' in told, len(told) < 2_000) == (400, True, True), told[:200]
        assert (await ask("status")).status == 200
        await check_facts(ask, before)


@pytest.mark.parametrize(
    "line",
    [
        "GET /v1/models?key=",
        "GET /console/v1/auth/providers/openai/callback?state=x&code=",
        "GET /console/v1/auth/providers/openai/launch/",
    ],
)
async def test_in_an_address(tmp_path: Path, line: str) -> None:
    """Addresses have one, too."""
    async with open_console(tmp_path) as ask:
        status, told = await send(ask, f"{line}{HUGE} HTTP/1.1")
        assert (status in (400, 414), '"error"' in told, "kkk" in told) == (True, True, False), told[:200]
        assert (await ask("status")).status == 200


async def test_in_a_body(tmp_path: Path) -> None:
    """A login, a key to connect, a secret to keep: too large before anything of it is looked at."""
    async with Listing() as up, open_console(tmp_path, config(up)) as ask:
        before = ask.daemon.core.state.position
        for path, body in (
            ("auth/login", {"token": HUGE}),
            ("auth/providers/up/api-key", {"api_key": HUGE, "profile_name": "x"}),
            ("auth/providers/openai/complete", {"attempt_id": "x", "redirect_url": HUGE}),
        ):
            refused = await ask.post(path, body)
            assert (refused.status, refused.code) == (413, "body_too_large"), path
            assert len(refused.body) < 2_000
        refused = await ask("vault/secrets", method="PUT", body={"ref": "global/x", "value": HUGE})
        assert (refused.status, refused.code) == (413, "body_too_large")
        refused = await ask("vault/secrets", method="PUT", body={"ref": "global/x", "value": HUGE[:70_000]})
        assert (refused.status, refused.code) == (413, "value_too_large")
        refused = await ask.post("auth/providers/up/api-key", {"api_key": HUGE[:70_000], "profile_name": "x"})
        assert (refused.status, refused.code) == (400, "invalid_api_key_format")
        assert up.requests == []
        assert (await ask("vault/secrets")).json["items"] == []
        await check_facts(ask, before)
