"""What fails before and after the first content, seen by clients of each dialect, and silence in each."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from budget_kit import rule
from daemon_house import House, Raw, chat, open_house, raw_client
from dialect_house import asked
from registries import model, provider, registry
from upstream import CUT, RESET, Behaviour, error_event

from palyra.engine.budgets import adopt_file_policies
from palyra.engine.run import RunSettings
from palyra.events.attempts import AttemptFailed
from palyra.events.budgets import BudgetReleased
from palyra.events.registry import Registry
from palyra.events.runs import RunCompleted, RunFailed
from palyra.events.usage import UsageRecorded
from palyra.wire.neutral import Dialect

APIS: list[Dialect] = ["chat", "messages", "responses"]
PLACES = {"chat": "/v1/chat/completions", "messages": "/v1/messages", "responses": "/v1/responses"}


def both(first: Dialect, second: Dialect) -> Registry:
    """Return the same model at two providers, each asked in a dialect of its own; the first one is tried first."""
    providers = [
        provider(
            name,
            kind="anthropic" if api == "messages" else "openai_compatible",
            flavor="" if api == "messages" else "generic",
            max_retries=0,
            credential_ref="",
            auth_scheme="none",
            circuit_breaker_failure_threshold=1_000,
        )
        for name, api in (("one", first), ("two", second))
    ]
    return registry(
        *providers,
        model("m", "one", upstream_model="m-x", upstream_apis=[first], priority=1),
        model("m", "two", upstream_model="m-x", upstream_apis=[second], priority=2),
        default_chat_model_id="m",
    )


#: One pair, where it is not the pairs that a test is about.
BOTH = both("messages", "chat")
CLIENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", chat(model="m", stream=True)),
    "messages": ("/v1/messages", asked(model="m", stream=True)),
    "responses": ("/v1/responses", {"model": "m", "input": "x", "stream": True}),
}
OVERLOADED = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n'
FAILED = (
    b'event: response.failed\ndata: {"type":"response.failed","response":{"error":{"code":"server_error"}}}\n\n'
)
#: What a stream of the dialect turns into when it fails.
BREAKS: dict[Dialect, bytes] = {
    "chat": error_event("busy", kind="overloaded_error"),
    "messages": OVERLOADED,
    "responses": FAILED,
}
#: Pieces of a stream that say nothing yet, and those before the second word.
PREAMBLE: dict[Dialect, int] = {"chat": 1, "messages": 3, "responses": 4}


def before_content(api: Dialect) -> list[Behaviour]:
    """Return ways to fail before there is content: the head, the status, the body, the stream."""
    status = Behaviour.anthropic_error(529, "overloaded_error") if api == "messages" else Behaviour.error(503)
    whole = {
        "chat": b'{"error":{"message":"x","type":"server_error"}}',
        "messages": b'{"type":"error","error":{"type":"api_error","message":"x"}}',
        "responses": b'{"error":{"message":"x","type":"server_error","code":"server_error"}}',
    }
    return [
        Behaviour(head=RESET),
        status,
        Behaviour.raw(whole[api]),
        Behaviour(after={1: CUT}),
        Behaviour(after={PREAMBLE[api]: BREAKS[api]}),
        Behaviour(after={PREAMBLE[api]: RESET}),
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


def _error(api: Dialect, status: int, kind: str) -> Behaviour:
    return Behaviour.anthropic_error(status, kind) if api == "messages" else Behaviour.error(status, kind=kind)


async def stream(raw: Raw, client: str) -> bytes:
    path, body = CLIENTS[client]
    answer = await raw(path=path, body=body)
    assert answer.status == 200, answer.body
    return answer.body


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("first", APIS)
@pytest.mark.parametrize("second", APIS)
async def test_a_failure_before_content_is_not_seen(
    tmp_path: Path, client: str, first: Dialect, second: Dialect
) -> None:
    """The client gets one clean answer of the other provider's, in its own words, and no head twice."""
    async with open_house(tmp_path, offer=both(first, second)) as house, raw_client(house) as raw:
        for count, fault in enumerate(before_content(first), 1):
            house.upstream.reply_with(fault)
            body = await stream(raw, client)
            assert body.count(b"upstream.") >= 1
            assert b"error" not in body.replace(b'"error":null', b"").replace(b'"error": null', b"")
            assert b"incomplete" not in body.replace(b'"incomplete_details"', b"")
            heads = {
                "chat": b'"role":"assistant"',
                "messages": b"event: message_start",
                "responses": b"event: response.created",
            }
            assert body.replace(b'": "', b'":"').count(heads[client]) == 1
            assert [one.path for one in house.upstream.requests[-2:]] == [PLACES[first], PLACES[second]]
            await house.wait_until_idle()
            assert len(house.facts(RunCompleted)) == count
            assert len(house.facts(AttemptFailed)) == count


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("first", APIS)
@pytest.mark.parametrize("second", APIS)
async def test_a_whole_answer_that_fails_is_replaced(
    tmp_path: Path, client: str, first: Dialect, second: Dialect
) -> None:
    """Unstreamed as well: a head that never comes, a status, an error inside a 200, a body that is cut."""
    async with open_house(tmp_path, offer=both(first, second)) as house, raw_client(house) as raw:
        path, body = CLIENTS[client]
        for fault in (*before_content(first)[:3], Behaviour(after={1: CUT})):
            house.upstream.reply_with(fault)
            answer = await raw(path=path, body={**body, "stream": False})
            assert (answer.status, answer.headers["x-palyra-failover"]) == (200, "one/m>two/m")
            assert b"Hello from upstream." in answer.body
            assert answer.headers["x-palyra-attempts"] == "2"


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("first", APIS)
@pytest.mark.parametrize("step", ["cut", "reset", "error"])
async def test_a_failure_after_content_ends_the_stream(
    tmp_path: Path, client: str, first: Dialect, step: str
) -> None:
    """Nobody else is asked; the error is the dialect's own, what was seen is recorded, what was held is free."""
    second = APIS[APIS.index(first) - 1]
    async with open_house(tmp_path, offer=both(first, second)) as house:
        await adopt_file_policies(house.core, [rule("day", scope_kind="global", managed_by="file")])
        gate = asyncio.Event()
        place = PREAMBLE[first] + 1
        break_with = {"cut": CUT, "reset": RESET, "error": BREAKS[first]}[step]
        house.upstream.reply_with(Behaviour(after={place: gate, place + 1: break_with}))
        body = await stream_past(house, client, gate)
        ends = {
            "chat": b"data: [DONE]\n\n",
            "messages": b"event: error\n",
            "responses": b"event: response.failed\n",
        }
        assert ends[client] in body
        assert b"Hello" in body
        assert b"error" in body
        assert len(house.upstream.requests) == 1
        await house.wait_until_idle()
        assert house.facts(AttemptFailed)[0].phase == "content"
        (row,) = house.facts(UsageRecorded)
        # One dialect tells at its beginning what went in, the others at their end, which never came.
        if first == "messages":
            assert (row.source, row.usage.input_tokens) == ("partial", 11)
        else:
            assert row.source == "estimated"
        assert row.usage.input_tokens > 0
        assert row.usage.output_tokens > 0
        assert len(house.facts(BudgetReleased)) == 1
        assert len(house.facts(RunFailed)) == 1


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("first", APIS)
@pytest.mark.parametrize("second", APIS)
async def test_when_all_fail_the_attempts_are_told(
    tmp_path: Path, client: str, first: Dialect, second: Dialect, is_streamed: bool
) -> None:
    """The status by rule, the envelope of the dialect, each attempt with its class, and the first cause."""
    async with open_house(tmp_path, offer=both(first, second)) as house, raw_client(house) as raw:
        path, body = CLIENTS[client]
        cases = [
            (
                _error(first, 529, "overloaded_error"),
                _error(second, 401, "authentication_error"),
                502,
                "upstream_failed",
            ),
            (_error(first, 503, "overloaded_error"), _error(second, 529, "overloaded_error"), 503, "overloaded"),
            (
                _error(first, 401, "authentication_error"),
                _error(second, 401, "authentication_error"),
                502,
                "upstream_auth",
            ),
        ]
        for one, two, status, code in cases:
            house.upstream.reply_with(one, two)
            answer = await raw(path=path, body={**body, "stream": is_streamed})
            assert (answer.status, answer.headers["content-type"]) == (status, "application/json"), answer.body
            attempts = answer.json["palyra"]["attempts"]
            assert [(one["provider_id"], one["model_id"]) for one in attempts] == [("one", "m"), ("two", "m")]
            assert {one["phase"] for one in attempts} == {"headers"}
            assert (answer.json.get("type") == "error") == (client == "messages")
            assert code in answer.body.decode()


@pytest.mark.parametrize("is_answered", [True, False])
@pytest.mark.parametrize("client", CLIENTS)
async def test_silence_is_broken_in_the_clients_words(tmp_path: Path, client: str, is_answered: bool) -> None:
    """A ping or a comment before anything else, then the answer of whoever gives one, or the dialect's error."""
    settings = RunSettings(sse_keepalive_ms=20)
    gate = asyncio.Event()
    slow = dataclasses.replace(Behaviour.error(500), head=gate)
    sign = b'event: ping\ndata: {"type":"ping"}\n\n' if client == "messages" else b": \n\n"
    path, asked_for = CLIENTS[client]
    async with open_house(tmp_path, offer=BOTH, run_settings=settings) as house, aiohttp.ClientSession() as session:
        house.upstream.reply_with(slow, Behaviour() if is_answered else Behaviour.error(500))
        headers = {"authorization": f"Bearer {house.client_key}"}
        async with session.post(house.server.url + path, json=asked_for, headers=headers) as answer:
            assert await answer.content.readexactly(len(sign)) == sign
            gate.set()
            body = await answer.content.read()
        assert (b"upstream." in body, b"error" in body.replace(b'"error":null', b"")) == (
            is_answered,
            not is_answered,
        )


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
