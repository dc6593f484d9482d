"""Requests that are alike, or sent again, on every surface: answered from memory in any form, for free."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from budget_kit import rule
from daemon_house import Answer, chat, open_house, raw_client
from dialect_house import DIALECTS, MODELS, anthropic_of, asked
from recordings import CONTENT_TYPE, transcription
from registries import model, provider, registry
from upstream import Behaviour

from palyra.engine.budgets import adopt_file_policies
from palyra.events.attempts import AttemptStarted
from palyra.events.cache import CacheHit, CacheStored
from palyra.events.registry import Capabilities
from palyra.events.runs import RunCompleted
from palyra.events.usage import UsageRecorded

CACHED = msgspec.structs.replace(DIALECTS, response_cache_enabled=True)
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
#: One request for the same words on each surface that answers with text.
BODIES: Mapping[str, dict[str, Any]] = {
    "/v1/chat/completions": chat(max_tokens=100),
    MESSAGES: asked(),
    RESPONSES: {"input": "Say hi.", "store": False, "max_output_tokens": 100},
}
#: What a response says that its request does not.
ECHOLESS = ("status", "model", "output", "usage")
#: Members that name a run or an instant: a dialect's own, whatever the answer is.
_OF_THE_RUN = ("id", "created", "created_at", "completed_at", "response_id", "item_id")


def said(value: Any) -> Any:
    """Return what an answer says: ids and instants aside, and members that are null or zero, which say nothing."""
    if isinstance(value, dict):
        kept = {name: said(each) for name, each in value.items() if name not in _OF_THE_RUN}
        return {name: each for name, each in kept.items() if each not in (None, 0, {})}
    return [said(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("first_is_streamed", [False, True])
async def test_an_answer_is_kept_in_its_clients_dialect(
    tmp_path: Path, path: str, name: str, first_is_streamed: bool
) -> None:
    """Whichever dialect the provider speaks: the whole answer and the stream share one entry, and say the same."""
    async with open_house(tmp_path, offer=CACHED) as house, raw_client(house) as raw:
        bodies = [{**BODIES[path], "model": name, "stream": is_streamed} for is_streamed in (False, True)]
        made = {
            is_streamed: await raw(path=path, body=bodies[is_streamed], headers={"x-palyra-cache": "off"})
            for is_streamed in (False, True)
        }
        first = await raw(path=path, body=bodies[first_is_streamed])
        assert (first.status, first.headers["x-palyra-cache"]) == (200, "miss")
        await house.wait_until_idle()
        calls_count = len(house.upstream.requests)
        for is_streamed in (False, True):
            hit = await raw(path=path, body=bodies[is_streamed])
            assert (hit.status, hit.headers["x-palyra-cache"]) == (200, "hit")
            assert hit.headers["content-type"] == made[is_streamed].headers["content-type"]
            if is_streamed:
                assert told(path, hit) == told(path, made[True])
            else:
                assert whole(path, hit.json) == whole(path, made[False].json)
        await house.wait_until_idle()
        assert len(house.upstream.requests) == calls_count
        (stored,) = house.facts(CacheStored)
        assert [hit.key_digest for hit in house.facts(CacheHit)] == [stored.key_digest] * 2
        assert len(house.facts(UsageRecorded)) == len(house.facts(AttemptStarted)) == 3


def whole(path: str, body: dict[str, Any]) -> Any:
    """Return what a whole answer says; a response repeats its request, as far as its maker does."""
    return said([body[member] for member in ECHOLESS] if path == RESPONSES else body)


def told(path: str, answer: Answer) -> Any:
    """Return what a stream says in the end: its text, how it stopped, and what it used."""
    events = [json.loads(line[6:]) for line in answer.body.decode().splitlines() if line.startswith("data: {")]
    if path == RESPONSES:
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        return whole(path, events[-1]["response"])
    if path == MESSAGES:
        assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
        text = "".join(one["delta"].get("text", "") for one in events if one["type"] == "content_block_delta")
        return text, events[-2]["delta"]["stop_reason"], events[-2]["usage"]["output_tokens"]
    choices = [one["choices"][0] for one in events if one["choices"]]
    assert b"[DONE]" in answer.body
    return "".join(one["delta"].get("content") or "" for one in choices), choices[-1]["finish_reason"]


@pytest.mark.parametrize("name", MODELS)
async def test_official_clients_take_a_kept_answer(tmp_path: Path, name: str) -> None:
    """Their helpers fold a stream that was made of a kept answer to that answer."""
    async with open_house(tmp_path, offer=CACHED) as house, house.sdk() as openai, anthropic_of(house) as anthropic:
        response = await openai.responses.create(model=name, input="Say hi.")
        async with openai.responses.stream(model=name, input="Say hi.") as stream:
            assert (await stream.get_final_response()).output_text == response.output_text
        message = await anthropic.messages.create(**asked(model=name))
        async with anthropic.messages.stream(**asked(model=name)) as messages:
            folded = await messages.get_final_message()
        assert [block.to_dict() for block in folded.content] == [block.to_dict() for block in message.content]
        assert (folded.usage.input_tokens, folded.usage.output_tokens) == (11, 5)
        assert len(house.upstream.requests) == 2


async def test_a_tool_that_the_provider_runs_is_asked_every_time(tmp_path: Path) -> None:
    """What it finds is another thing tomorrow."""
    async with open_house(tmp_path, offer=CACHED) as house, raw_client(house) as raw:
        for path, name, tool in (
            (MESSAGES, "claude", {"type": "web_search_20250305", "name": "web_search"}),
            (RESPONSES, "oai", {"type": "web_search"}),
        ):
            body = {**BODIES[path], "model": name, "tools": [tool]}
            words = [(await raw(path=path, body=body)).headers["x-palyra-cache"] for _ in range(2)]
            assert words == ["off", "off"], path


async def test_a_hit_is_served_where_the_budget_is_spent(tmp_path: Path) -> None:
    """It costs nothing and is told apart from what is paid; what is not kept is refused before it is sent."""
    async with open_house(tmp_path, offer=CACHED) as house, raw_client(house) as raw:
        for path, body in BODIES.items():
            assert (await raw(path=path, body={**body, "model": "gpt"})).status == 200
        await adopt_file_policies(house.core, [rule(hard_limit=1, managed_by="file")])
        before = [(one.subject, one.settled) for one in house.core.state.budgets.counters.values()]
        for path, body in BODIES.items():
            for is_streamed in (False, True):
                kept = await raw(path=path, body={**body, "model": "gpt", "stream": is_streamed})
                assert (kept.status, kept.headers["x-palyra-cache"]) == (200, "hit")
            assert (await raw(path=path, body={**body, "model": "claude"})).status == 402
        assert [(one.subject, one.settled) for one in house.core.state.budgets.counters.values()] == before
        assert all(one.reserved == 0 for one in house.core.state.budgets.counters.values())
        assert len(house.upstream.requests) == 3


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("path", BODIES)
async def test_a_key_makes_a_request_once(tmp_path: Path, path: str, name: str) -> None:
    """On each surface, whole and streamed: the same bytes again, no second call, and another body is refused."""
    async with open_house(tmp_path, offer=DIALECTS) as house, raw_client(house) as raw:
        for is_streamed in (False, True):
            headers = {"idempotency-key": f"order-{is_streamed}"}
            body = {**BODIES[path], "model": name, "stream": is_streamed}
            first = await raw(path=path, body=body, headers=headers)
            await house.wait_until_idle()
            again = await raw(path=path, body=body, headers=headers)
            assert (first.status, again.status, again.body) == (200, 200, first.body)
            assert again.headers["x-palyra-idempotent-replay"] == "true"
            assert again.headers["x-palyra-run-id"] == first.headers["x-palyra-run-id"]
            assert again.headers["content-type"] == first.headers["content-type"]
            other = await raw(path=path, body={**body, "temperature": 0.5}, headers=headers)
            assert (other.status, "idempotency_key_reused" in other.body.decode()) == (422, True)
        assert len(house.upstream.requests) == len(house.facts(AttemptStarted)) == 2


@pytest.mark.parametrize("path", BODIES)
async def test_a_key_is_free_after_a_failure_that_cost_nothing(tmp_path: Path, path: str) -> None:
    """The client may send it again and gets an answer; one that is under way is not made twice."""
    async with open_house(tmp_path, offer=DIALECTS) as house, raw_client(house) as raw:
        house.upstream.reply_with(Behaviour(status=503))
        headers, body = {"idempotency-key": "order"}, {**BODIES[path], "model": "gpt"}
        assert (await raw(path=path, body=body, headers=headers)).status in (502, 503)
        assert (await raw(path=path, body=body, headers=headers)).status == 200
        assert (await raw(path=path, body=body, headers=headers)).headers["x-palyra-idempotent-replay"] == "true"
        assert len(house.upstream.requests) == 2
        assert len(house.facts(RunCompleted)) == 1


@pytest.mark.parametrize("streams", [False, True])
async def test_a_recording_with_a_key_is_transcribed_once(tmp_path: Path, streams: bool) -> None:
    """Form and stream alike; recordings are in no cache."""
    offer = registry(
        provider("up", max_retries=0, credential_ref="", auth_scheme="none"),
        model("gpt", "up"),
        model(
            "ear",
            "up",
            role="audio_transcription",
            capabilities=Capabilities(streaming=True),
            max_context_tokens=None,
        ),
        default_audio_transcription_model_id="ear",
        response_cache_enabled=True,
    )
    async with open_house(tmp_path, offer=offer, max_audio_bytes=1 << 20) as house, raw_client(house) as raw:
        form = transcription(model="ear", **({"stream": "true"} if streams else {}))
        headers = {"content-type": CONTENT_TYPE}
        asked_once = [
            await raw(path="/v1/audio/transcriptions", body=form, headers={**headers, "idempotency-key": "tape"})
            for _ in range(2)
        ]
        assert [answer.status for answer in asked_once] == [200, 200]
        assert asked_once[0].body == asked_once[1].body
        assert asked_once[1].headers["x-palyra-idempotent-replay"] == "true"
        assert len(house.upstream.requests) == 1
        await raw(path="/v1/audio/transcriptions", body=form, headers=headers)
        assert len(house.upstream.requests) == 2
        assert house.facts(CacheStored) == []


async def test_what_a_header_asks_for_is_asked_for(tmp_path: Path) -> None:
    """A beta, a version or a header that an entry lets through may change the answer: each has one of its own."""
    up, ant = DIALECTS.providers
    offer = msgspec.structs.replace(
        CACHED, providers=[msgspec.structs.replace(up, forward_headers=["X-Region"]), ant]
    )
    cases: list[tuple[str, dict[str, Any], dict[str, str]]] = [
        (MESSAGES, asked(), {"anthropic-beta": "context-1m"}),
        (MESSAGES, asked(), {"anthropic-version": "2023-01-01"}),
        ("/v1/chat/completions", chat(), {"openai-beta": "x=1"}),
        ("/v1/chat/completions", chat(), {"x-region": "eu"}),
    ]
    async with open_house(tmp_path, offer=offer) as house, raw_client(house) as raw:
        for path, body, header in cases:
            words = [
                (await raw(path=path, body=body, headers=sent)).headers["x-palyra-cache"]
                for sent in ({}, header, header, {"x-request-id": "1"})
            ]
            assert words[1:] == ["miss", "hit", "hit"], header
