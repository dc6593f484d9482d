"""Sessions of coding agents, kept as data, played to a provider of each dialect and to the one without a network.

What such an agent keeps of an answer it gives back to the letter, so each session is as long as its last request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from daemon_house import House, open_house
from registries import model, provider, registry
from upstream import Behaviour
from upstream_messages import SIGNATURE
from upstream_responses import ENCRYPTED

from palyra.events.attempts import AttemptStarted
from palyra.events.runs import RunAdmitted, RunCompleted
from palyra.events.usage import UsageRecorded
from palyra.providers.deterministic import DeterministicProvider, DeterministicSettings
from palyra.wire.script import Reply, Rule, ToolCall

FOLDER = Path(__file__).parent / "sessions"
SESSIONS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
#: Who answers, and in which dialect.
APIS = {"gpt": "chat", "claude": "messages", "oai": "responses", "det": "chat"}
KEYLESS: dict[str, Any] = {"max_retries": 0, "credential_ref": "", "auth_scheme": "none"}


def offer(name: str) -> Any:
    """Return models of every kind; whatever an agent calls its model, it is this one."""
    return registry(
        provider("up", **KEYLESS),
        provider("ant", kind="anthropic", flavor="", **KEYLESS),
        provider("det", kind="deterministic", flavor="", base_url="", **KEYLESS),
        model("gpt", "up", upstream_model="gpt-x", reasoning="effort", fallbacks=[]),
        model(
            "claude", "ant", upstream_model="claude-x", upstream_apis=["messages"], reasoning="effort", fallbacks=[]
        ),
        model("oai", "up", upstream_model="oai-x", upstream_apis=["responses"], reasoning="effort", fallbacks=[]),
        model("det", "det", upstream_model="det", reasoning="effort", fallbacks=[]),
        model_aliases={"claude-*": name, "gpt-5*": name},
    )


def said(answered: dict[str, Any]) -> Behaviour:
    calls = tuple(tuple(call) for call in answered.get("tool_calls", ()))
    return Behaviour(**{**answered, "tool_calls": calls})


def rule(answered: dict[str, Any]) -> Rule:
    """Return what the script says once: the same, as far as a script knows of such things."""
    calls = [ToolCall(id=given, name=name, arguments=text) for given, name, text in answered.get("tool_calls", ())]
    reply = Reply(text=answered["text"], reasoning=answered.get("reasoning", ""), tool_calls=calls)
    return Rule(reply=reply, times=1)


def events_of(stream: bytes) -> Iterator[dict[str, Any]]:
    for block in stream.decode().split("\n\n"):
        for line in block.split("\n"):
            if line.startswith("data: ") and line != "data: [DONE]":
                yield json.loads(line.removeprefix("data: "))


def fold_messages(stream: bytes) -> list[dict[str, Any]]:
    """Return the turn that a client of messages keeps of a stream: its blocks as they were told."""
    blocks: list[dict[str, Any]] = []
    for event in events_of(stream):
        match event["type"]:
            case "content_block_start":
                blocks.append({**event["content_block"], "partial": ""})
            case "content_block_delta":
                delta, block = event["delta"], blocks[event["index"]]
                match delta["type"]:
                    case "input_json_delta":
                        block["partial"] += delta["partial_json"]
                    case "signature_delta":
                        block["signature"] = delta["signature"]
                    case kind:
                        name = kind.removesuffix("_delta")
                        block[name] += delta[name]
            case "error":
                raise AssertionError(event)
    for block in blocks:
        partial = block.pop("partial")
        if block["type"] == "tool_use":
            block["input"] = json.loads(partial or "{}")
    return [{"role": "assistant", "content": blocks}]


def fold_responses(stream: bytes) -> list[dict[str, Any]]:
    """Return the items that a client of responses keeps of a stream."""
    *_, last = events_of(stream)
    assert last["type"] == "response.completed", last
    items: list[dict[str, Any]] = last["response"]["output"]
    return [{name: value for name, value in item.items() if name not in ("id", "status")} for item in items]


def fold_chat(stream: bytes) -> list[dict[str, Any]]:
    """Return the message that a client of chat keeps of a stream, with what was thought."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    calls: dict[int, dict[str, Any]] = {}
    for chunk in events_of(stream):
        for choice in chunk["choices"]:
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            for name, empty in (("reasoning_content", ""), ("reasoning_details", [])):
                if delta.get(name):
                    message[name] = message.get(name, empty) + delta[name]
            for told in delta.get("tool_calls") or ():
                call = calls.setdefault(
                    told["index"], {"type": "function", "function": {"name": "", "arguments": ""}}
                )
                call["id"] = told.get("id") or call["id"]
                for name, text in told["function"].items():
                    call["function"][name] += text or ""
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    return [message]


FOLDS = {"messages": fold_messages, "responses": fold_responses, "chat": fold_chat}


async def play(house: House, session: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Go through a session; return what the client sent turn by turn, and what it was told was dropped."""
    dialect, history, sent = session["dialect"], [], []
    dropped: set[str] = set()
    headers = {**session["headers"], "authorization": f"Bearer {house.client_key}"}
    answer: list[dict[str, Any]] = []
    async with aiohttp.ClientSession(house.server.url, headers=headers) as client:
        for side in session["before"]:
            async with client.post(side["path"], json=side["body"]) as response:
                assert response.status == 200, await response.text()
        for turn in session["turns"]:
            for one in turn["say"]:
                history += answer if one == "ANSWER" else [one]
            body = {**session["asks"], "input" if dialect == "responses" else "messages": list(history)}
            async with client.post(session["path"], json=body) as response:
                stream = await response.read()
                assert response.status == 200, stream
                assert response.headers["content-type"].startswith("text/event-stream")
                told = response.headers.get("x-palyra-dropped-params", "")
            dropped |= set(filter(None, told.split(", ")))
            sent.append(body)
            answer = FOLDS[dialect](stream)
    return [*sent, {"answer": answer}], sorted(dropped)


def answers(session: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the provider is to say, in order; a count of tokens is no answer of a script."""
    before = [one["answered"] for one in session["before"] if "answered" in one]
    return [*before, *(turn["answered"] for turn in session["turns"])]


@pytest.mark.parametrize("name", APIS)
@pytest.mark.parametrize("session", SESSIONS.values(), ids=SESSIONS)
async def test_a_session_of_an_agent(tmp_path: Path, session: dict[str, Any], name: str) -> None:
    """It comes to its end whoever answers; results, pictures and thoughts reach the provider in its own words."""
    async with open_house(tmp_path, offer=offer(name)) as house:
        rules = tuple(rule(one) for one in answers(session))
        house._providers["det"] = DeterministicProvider(DeterministicSettings(rules=rules))
        is_counted = name == "claude" and any("count_tokens" in one["path"] for one in session["before"])
        house.upstream.reply_with(*[Behaviour()] * is_counted, *(said(one) for one in answers(session)))
        sent, dropped = await play(house, session)
        *bodies, last = sent
        assert "The test compared 1 with 2." in json.dumps(last["answer"])
        assert dropped == session["dropped"].get(APIS[name], [])
        await house.wait_until_idle()
        runs_count = len(answers(session))
        assert len(house.facts(RunCompleted)) == len(house.facts(UsageRecorded)) == runs_count
        assert {fact.dialect for fact in house.facts(RunAdmitted)} == {session["dialect"]}
        sessions = {fact.session_id for fact in house.facts(RunAdmitted)}
        assert len(sessions) == 1
        if name == "det":
            return
        assert {fact.api for fact in house.facts(AttemptStarted)} == {APIS[name]}
        requests = house.upstream.requests[-len(bodies) :]
        told = requests[-1].body.decode().encode().decode("unicode_escape", "replace")
        places = [told.find(result) for result in session["results"]]
        assert -1 not in places, dict(zip(session["results"], places, strict=True))
        if APIS[name] == session["dialect"]:
            check_untouched(session, requests, bodies)
        check_thoughts(APIS[name], requests[-1].json)


def check_untouched(session: dict[str, Any], requests: list[Any], bodies: list[dict[str, Any]]) -> None:
    """Between equals the body is the client's but for the model's name, and its betas go on."""
    for request, body in zip(requests, bodies, strict=True):
        got = request.json
        assert {**got, "model": ""} == {**body, "model": ""}
        assert list(got) == list(body)
        for header in ("anthropic-beta", "anthropic-version", "openai-beta"):
            assert request.headers.get(header) == session["headers"].get(header)
        for header in ("user-agent", "x-app", "originator", "authorization", "x-api-key"):
            assert request.headers.get(header) != session["headers"].get(header, "none")


def check_thoughts(api: str, body: dict[str, Any]) -> None:
    """What the provider thought before its calls comes back to it as it gave it out."""
    match api:
        case "messages":
            blocks = [
                block for one in body["messages"] if isinstance(one["content"], list) for block in one["content"]
            ]
            assert {one["signature"] for one in blocks if one["type"] == "thinking"} == {SIGNATURE}
        case "responses":
            thoughts = [one for one in body["input"] if one.get("type") == "reasoning"]
            assert {one["encrypted_content"] for one in thoughts} == {ENCRYPTED}
        case _:
            thoughts = [one.get("reasoning_content") for one in body["messages"] if one["role"] == "assistant"]
            assert len(list(filter(None, thoughts))) >= 2
