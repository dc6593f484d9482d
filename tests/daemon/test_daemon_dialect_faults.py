"""What fails before and after the first content, seen by clients of each dialect, and silence in each."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from daemon_house import House, Raw, chat, open_house, raw_client
from dialect_house import asked
from registries import model, provider, registry
from upstream import CUT, RESET, Behaviour, error_event

from palyra.engine.run import RunSettings
from palyra.events.attempts import AttemptFailed
from palyra.events.runs import RunCompleted, RunFailed
from palyra.events.usage import UsageRecorded

#: The same model at providers of two dialects; the first is asked in messages, the second in chat.
BOTH = registry(
    provider("ant", kind="anthropic", flavor="", max_retries=0, credential_ref="", auth_scheme="none"),
    provider("up", max_retries=0, credential_ref="", auth_scheme="none"),
    model("m", "ant", upstream_model="claude-x", upstream_apis=["messages"]),
    model("m", "up", upstream_model="gpt-x", priority=200),
    default_chat_model_id="m",
)
CLIENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", chat(model="m", stream=True)),
    "messages": ("/v1/messages", asked(model="m", stream=True)),
    "responses": ("/v1/responses", {"model": "m", "input": "x", "stream": True}),
}
OVERLOADED = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n'
BEFORE = [
    Behaviour(head=RESET),
    Behaviour.anthropic_error(529, "overloaded_error"),
    Behaviour.raw(b'{"type":"error","error":{"type":"api_error","message":"x"}}'),
    Behaviour(after={1: CUT}),
    Behaviour(after={2: OVERLOADED}),
    Behaviour(after={3: RESET}),
]


async def stream_past(house: House, client: str, gate: asyncio.Event) -> bytes:
    """Read a stream to its end; the gate opens when content has arrived."""
    path, asked_for = CLIENTS[client]
    headers = {"authorization": f"Bearer {house.client_key}"}
    url = house.server.url + path
    async with aiohttp.ClientSession() as session, session.post(url, json=asked_for, headers=headers) as answer:
        body = b""
        async for piece in answer.content.iter_any():
            body += piece
            if b"Hello" in body:
                gate.set()
        return body


async def stream(raw: Raw, client: str) -> bytes:
    path, body = CLIENTS[client]
    answer = await raw(path=path, body=body)
    assert answer.status == 200, answer.body
    return answer.body


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("fault", range(len(BEFORE)))
async def test_a_failure_before_content_is_not_seen(tmp_path: Path, client: str, fault: int) -> None:
    """The client gets one clean answer of the other provider's, in its own words, and no head twice."""
    async with open_house(tmp_path, offer=BOTH) as house, raw_client(house) as raw:
        house.upstream.reply_with(BEFORE[fault])
        body = await stream(raw, client)
        assert body.count(b"upstream.") >= 1
        assert b"error" not in body.replace(b'"error":null', b"")
        heads = {
            "chat": b'"role": "assistant"',
            "messages": b"event: message_start",
            "responses": b"event: response.created",
        }
        assert body.count(heads[client]) == 1
        assert [one.path for one in house.upstream.requests] == ["/v1/messages", "/v1/chat/completions"]
        await house.wait_until_idle()
        assert len(house.facts(RunCompleted)) == 1


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("step", [CUT, RESET, OVERLOADED])
async def test_a_failure_after_content_ends_the_stream(tmp_path: Path, client: str, step: Any) -> None:
    """Nobody else is asked; the error is the dialect's own and what was seen is recorded."""
    async with open_house(tmp_path, offer=BOTH) as house:
        gate = asyncio.Event()
        house.upstream.reply_with(Behaviour(after={4: gate, 5: step}))
        body = await stream_past(house, client, gate)
        ends = {
            "chat": b"data: [DONE]\n\n",
            "messages": b"event: error\n",
            "responses": b"event: response.failed\n",
        }
        assert ends[client] in body
        assert len(house.upstream.requests) == 1
        await house.wait_until_idle()
        assert house.facts(AttemptFailed)[0].phase == "content"
        (row,) = house.facts(UsageRecorded)
        assert (row.source, row.usage.input_tokens) == ("partial", 11)
        assert len(house.facts(RunFailed)) == 1


@pytest.mark.parametrize("client", CLIENTS)
async def test_when_all_fail_the_attempts_are_told(tmp_path: Path, client: str) -> None:
    """The status by rule, the envelope of the dialect, and each attempt with its class."""
    async with open_house(tmp_path, offer=BOTH) as house, raw_client(house) as raw:
        house.upstream.reply_with(Behaviour.anthropic_error(529, "overloaded_error"), Behaviour.error(401))
        path, body = CLIENTS[client]
        answer = await raw(path=path, body=body)
        assert (answer.status, answer.headers["content-type"]) == (502, "application/json")
        attempts = [(one["provider_id"], one["class"]) for one in answer.json["palyra"]["attempts"]]
        assert attempts == [("ant", "overloaded"), ("up", "auth_invalid")]
        assert (answer.json.get("type") == "error") == (client == "messages")


@pytest.mark.parametrize("client", CLIENTS)
async def test_silence_is_broken_in_the_clients_words(tmp_path: Path, client: str) -> None:
    """A ping or a comment before anything else, then the answer of whoever gives one, or the dialect's error."""
    settings = RunSettings(sse_keepalive_ms=20)
    async with open_house(tmp_path, offer=BOTH, run_settings=settings) as house, raw_client(house) as raw:
        gate = asyncio.Event()
        house.upstream.reply_with(Behaviour(head=gate), Behaviour.error(500))
        asking = asyncio.create_task(stream(raw, client))
        await house.upstream.request_arrived()
        await house.wait_for(lambda: _has_begun(house))
        house.upstream.drop_replies()
        house.upstream.reply_with(Behaviour.error(500))
        gate.set()
        body = await asking
        sign = b'event: ping\ndata: {"type":"ping"}\n\n' if client == "messages" else b": \n\n"
        assert body.startswith(sign)


def _has_begun(house: House) -> bool:
    return any(run.client._has_begun for run in house.runs.open.values()) or not house.runs.open


async def test_error_objects_inside_a_chat_stream_are_found(tmp_path: Path) -> None:
    """The chat provider's way to fail inside a 200, told to a client of messages."""
    async with open_house(tmp_path, offer=BOTH) as house:
        house.upstream.reply_with(
            Behaviour.anthropic_error(529, "overloaded_error"),
            Behaviour(after={2: (gate := asyncio.Event()), 3: error_event("broke", kind="server_error")}),
        )
        body = await stream_past(house, "messages", gate)
        last = json.loads(body.rsplit(b"data: ", 1)[1])
        assert last["error"]["type"] == "api_error"
        assert "broke" in last["error"]["message"]
