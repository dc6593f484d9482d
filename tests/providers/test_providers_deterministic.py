"""Kind deterministic: what it answers, what its script makes of it, and how it fails."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import struct
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provider_calls import FOREVER_MS
from recordings import CONTENT_TYPE, transcription

from palyra.errors import TransportFailed
from palyra.limits import OFF_LOOP_BYTES, SCRIPTED_CALL_MAX_BYTES, SSE_LINE_MAX_BYTES
from palyra.providers.deterministic import DeterministicProvider, DeterministicSettings
from palyra.providers.hash_embedding import hash_embedding
from palyra.providers.port import Answer, Call
from palyra.redaction import Secret
from palyra.wire.script import parse_rule
from palyra.wire.tokens import estimate_token_count

USER: list[dict[str, Any]] = [{"role": "user", "content": "Hello brave new world"}]
PICTURE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.test/x.png"}}]}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}, "days": {"type": "integer"}},
            "required": ["city", "unit"],
        },
    },
}


class Clock:
    """A clock that only waits move."""

    def __init__(self) -> None:
        self.waits_s: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits_s.append(seconds)


def scripted(*rules: dict[str, Any], clock: Clock | None = None) -> DeterministicProvider:
    made = DeterministicSettings(rules=tuple(parse_rule(rule) for rule in rules))
    return DeterministicProvider(made, sleep=(clock or Clock()).sleep)


def ask(path: str = "/chat/completions", headers: dict[str, str] | None = None, **request: Any) -> Call:
    """Return a call with the fields given; a chat has a model and a user message without being told."""
    if path == "/chat/completions":
        request = {"model": "m", "messages": USER, **request}
    deadlines = dict.fromkeys(("connect_timeout_ms", "first_byte_timeout_ms", "idle_timeout_ms"), 1_000)
    return Call(
        path=path,
        headers=headers or {},
        body=json.dumps(request).encode(),
        stream=bool(request.get("stream")),
        total_timeout_ms=FOREVER_MS,
        **deadlines,
    )


async def answer_of(provider: DeterministicProvider, call: Call) -> Any:
    """Send a unary call and decode its answer."""
    answer = await provider.send(call, None)
    return json.loads(await answer.body(1 << 20))


async def text_of(provider: DeterministicProvider, **request: Any) -> Any:
    return (await answer_of(provider, ask(**request)))["choices"][0]["message"]["content"]


async def chunks(answer: Answer) -> list[bytes]:
    found = []
    while chunk := await answer.chunk():
        found.append(chunk)
    return found


async def events_of(provider: DeterministicProvider, **request: Any) -> list[Any]:
    """Send a streamed call and decode its events; the end marker is the text `[DONE]`."""
    answer = await provider.send(ask(stream=True, **request), None)
    assert answer.headers["content-type"] == "text/event-stream"
    blocks = b"".join(await chunks(answer)).decode().split("\n\n")
    assert blocks.pop() == ""
    data = [block.removeprefix("data: ") for block in blocks]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def text_in(events: list[Any]) -> str:
    deltas = [choice["delta"] for event in events[:-1] for choice in event["choices"] if choice["index"] == 0]
    return "".join(delta.get("content") or "" for delta in deltas)


# what it says without a script


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (USER, "Hello brave new world"),
        ([*USER, {"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}], "Hello brave new world"),
        ([{"role": "user", "content": "first"}, {"role": "user", "content": "last"}], "last"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "a\nb"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}], "ok"),
        ([{"role": "user", "content": "  "}], "ok"),
        ([{"role": "user", "content": None}], "ok"),
        ([{"role": "system", "content": "alone"}], "ok"),
    ],
)
async def test_the_last_user_text_comes_back(messages: list[dict[str, Any]], expected: str) -> None:
    """Without a rule the answer is the last user text, or `ok` when there is none."""
    assert await text_of(scripted(), messages=messages) == expected


async def test_the_client_maximum_is_kept() -> None:
    """The echo is cut to the client's maximum and says so; a provider must not bill past what it was given."""
    answer = await answer_of(scripted(), ask(max_tokens=3))
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "length"
    assert USER[0]["content"].startswith(choice["message"]["content"])
    assert answer["usage"]["completion_tokens"] == 3
    assert await text_of(scripted(), max_completion_tokens=1_000) == USER[0]["content"]


@pytest.mark.parametrize(
    ("choice", "name"),
    [("required", "weather"), ({"type": "function", "function": {"name": "weather"}}, "weather"), ("auto", None)],
)
async def test_a_demanded_tool_is_called(choice: Any, name: str | None) -> None:
    """A required tool choice calls the tool with arguments made from its schema; a free one does not."""
    answer = await answer_of(scripted(), ask(tools=[TOOL], tool_choice=choice))
    message = answer["choices"][0]["message"]
    if name is None:
        assert "tool_calls" not in message
        return
    call = message["tool_calls"][0]
    assert call["function"] == {"name": name, "arguments": '{"city":"","unit":"C"}'}
    assert call["id"].startswith("call_")
    assert answer["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    "request_",
    [
        {"tool_choice": {"type": "function", "function": {"name": "unknown"}}, "tools": [TOOL]},
        {"tool_choice": "required", "tools": []},
        {"tool_choice": "required", "tools": ["odd", {"function": 1}]},
        {"response_format": {"type": "text"}},
        {"response_format": "odd"},
        {"response_format": {"type": "json_schema"}},
    ],
)
async def test_demands_that_cannot_be_met_are_no_demands(request_: dict[str, Any]) -> None:
    """A tool that is not there and a format of an odd shape leave the echo."""
    assert await text_of(scripted(), **request_) == USER[0]["content"]


async def test_json_is_answered_where_it_is_asked_for() -> None:
    """`json_object` gives a fixed object, `json_schema` the smallest instance of its schema."""
    assert await text_of(scripted(), response_format={"type": "json_object"}) == '{"ok":true}'
    schema = {"type": "object", "properties": {"a": {"type": "array"}, "b": {}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert await text_of(scripted(), response_format=wanted) == '{"a":[]}'


async def test_usage_is_the_estimate() -> None:
    """Usage counts input and output with the estimator, for every choice."""
    one = (await answer_of(scripted(), ask()))["usage"]
    assert one["completion_tokens"] == estimate_token_count(USER[0]["content"])
    assert one["prompt_tokens"] > 0
    two = await answer_of(scripted(), ask(n=2))
    assert two["usage"]["completion_tokens"] == 2 * one["completion_tokens"]
    assert [choice["index"] for choice in two["choices"]] == [0, 1]


async def test_a_stream_says_what_the_unary_answer_says() -> None:
    """The pieces of a stream make up the text; the usage chunk comes when it is asked for; the end is marked."""
    unary = await answer_of(scripted(), ask())
    events = await events_of(scripted(), stream_options={"include_usage": True})
    assert events[-1] == "[DONE]"
    assert text_in(events) == unary["choices"][0]["message"]["content"]
    assert events[-2]["usage"] == unary["usage"]
    assert events[-3]["choices"][0]["finish_reason"] == "stop"
    assert all("usage" not in event for event in (await events_of(scripted()))[:-1])


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/images/generations", b"{}", 404, "route_not_found"),
        ("/audio/transcriptions", b"{}", 400, "invalid_request"),
        ("/chat/completions", b'{"messages":[]}', 400, "invalid_request"),
        ("/chat/completions", b'{"messages":[{"role":"user","content":"a"}],"x":1e999}', 400, "invalid_json"),
        ("/embeddings", b'{"input":"a","dimensions":1000000}', 400, "invalid_request"),
    ],
)
async def test_calls_that_no_provider_would_take(path: str, body: bytes, status: int, code: str) -> None:
    """A bad call is answered with an error in OpenAI's envelope, as a provider would."""
    asked = ask()
    call = Call(path=path, body=body, **{name: getattr(asked, name) for name in asked.__struct_fields__[4:]})
    answer = await scripted().send(call, Secret("unused"))
    assert answer.status == status
    assert json.loads(await answer.body(10_000))["error"]["code"] == code


# embeddings


def test_the_hash_embedding_is_as_it_was_specified() -> None:
    """Bucket, sign and norm follow the definition, worked out here by hand for two tokens."""
    expected = [0.0] * 16
    for index, token in enumerate(["hello", "world"]):
        digest = hashlib.sha256(token.encode() + b"\0" + str(index).encode()).digest()
        expected[int.from_bytes(digest[:8], "big") % 16] += -1.0 if digest[8] & 1 else 1.0
    norm = math.sqrt(sum(value * value for value in expected))
    single = struct.unpack("<16f", struct.pack("<16f", *(value / norm for value in expected)))
    assert tuple(hash_embedding("Hello \n WORLD", 16)) == single
    assert hash_embedding(" ", 4) == [1.0, 0.0, 0.0, 0.0]
    assert len(hash_embedding("a")) == 64


@given(st.text(max_size=60), st.integers(1, 70))
@settings(max_examples=60)
def test_every_hash_embedding_has_length_one(text: str, dimensions: int) -> None:
    """Any text gives a vector of the dimensions asked for, of length 1, of exact float32."""
    vector = hash_embedding(text, dimensions)
    assert math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-6)
    assert list(struct.unpack(f"<{dimensions}f", struct.pack(f"<{dimensions}f", *vector))) == vector


@pytest.mark.parametrize(
    ("given_", "texts"),
    [("a b", ["a b"]), (["a", "b"], ["a", "b"]), ([7, 8], ["7 8"]), ([[7, 8], [9]], ["7 8", "9"])],
)
async def test_embeddings_of_every_form_of_input(given_: Any, texts: list[str]) -> None:
    """Strings, lists of strings, tokens and lists of tokens each give their vectors, as floats and as base64."""
    provider = scripted()
    floats = await answer_of(provider, ask("/embeddings", model="e", input=given_, dimensions=8))
    assert [item["embedding"] for item in floats["data"]] == [hash_embedding(text, 8) for text in texts]
    assert floats["usage"]["prompt_tokens"] > 0
    packed = await answer_of(provider, ask("/embeddings", model="e", input=given_, encoding_format="base64"))
    assert len(base64.b64decode(packed["data"][0]["embedding"])) == 4 * 64


# rules


async def test_the_first_rule_that_matches_answers() -> None:
    """Rules are tried in order, and a rule without a match takes everything."""
    provider = scripted(
        {"match": {"contains": "brave"}, "reply": {"text": "first"}},
        {"match": {"regex": "^Good"}, "reply": {"text": "second"}},
        {"reply": {"text": "rest"}},
    )
    said = [
        await text_of(provider, messages=[{"role": "user", "content": text}]) for text in ("brave", "Good", "x")
    ]
    assert said == ["first", "second", "rest"]


MATCHES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"model": "m"}, {}, {"model": "other"}),
    ({"surface": "chat"}, {}, {"path": "/embeddings", "input": "a"}),
    ({"surface": "messages"}, {"headers": {"x-palyra-surface": "messages"}}, {}),
    ({"surface": "chat"}, {}, {"headers": {"x-palyra-surface": "responses"}}),
    ({"has_tools": True}, {"tools": [TOOL]}, {}),
    ({"has_tools": False}, {}, {"tools": [TOOL]}),
    ({"has_image": True}, {"messages": PICTURE}, {}),
    ({"has_image": False}, {}, {"messages": PICTURE}),
    ({"has_tool_result": True}, {"messages": [*USER, {"role": "tool", "content": "x"}]}, {}),
    ({"session": "s1"}, {"headers": {"X-Palyra-Session": "s1"}}, {"headers": {"x-palyra-session": "s2"}}),
    ({"contains": "new"}, {}, {"messages": [{"role": "user", "content": "old"}]}),
    ({"contains": "b\nc"}, {"path": "/embeddings", "input": ["ab", "cd"]}, {}),
    ({"regex": "wo.ld$"}, {}, {"messages": [{"role": "user", "content": "x" * 65_536 + "world"}]}),
]


@pytest.mark.parametrize(("match", "hit", "miss"), MATCHES)
async def test_each_part_of_a_match(match: dict[str, Any], hit: dict[str, Any], miss: dict[str, Any]) -> None:
    """Each condition lets the one request through and keeps the other out."""
    rule = {"match": match, "error": {"status": 418}}
    for request, status in ((hit, 418), (miss, 200)):
        answer = await scripted(rule).send(ask(**request), None)
        assert answer.status == status


async def test_nth_and_times_are_counted() -> None:
    """`nth` answers only that match, `times` only so many; each count belongs to its rule."""
    provider = scripted(
        {"match": {"nth": 2}, "reply": {"text": "second"}},
        {"times": 2, "reply": {"text": "twice"}},
        {"reply": {"text": "rest"}},
    )
    assert [await text_of(provider) for _ in range(5)] == ["twice", "second", "twice", "rest", "rest"]


@pytest.mark.parametrize(
    ("reply", "message", "finish_reason"),
    [
        ({"text": "a"}, {"content": "a"}, "stop"),
        ({"text": ""}, {"content": ""}, "stop"),
        ({"json": "a"}, {"content": '"a"'}, "stop"),
        ({"json": {"b": [1, 2]}}, {"content": '{"b":[1,2]}'}, "stop"),
        ({"echo": True, "stop_reason": "max_tokens"}, {"content": "Hello brave new world"}, "length"),
        ({"reasoning": "hm"}, {"content": "Hello brave new world", "reasoning_content": "hm"}, "stop"),
        ({"refusal": "no"}, {"content": None, "refusal": "no"}, "stop"),
        ({"text": "a", "stop_reason": "content_filter"}, {"content": "a"}, "content_filter"),
        ({"text": "a", "stop_reason": "stop_sequence"}, {"content": "a"}, "stop"),
    ],
)
async def test_what_a_reply_says(reply: dict[str, Any], message: dict[str, Any], finish_reason: str) -> None:
    """Each part of a reply stands where OpenAI's format has it; what it leaves open is answered as usual."""
    choice = (await answer_of(scripted({"reply": reply}), ask()))["choices"][0]
    assert {name: choice["message"][name] for name in message} == message
    assert choice["finish_reason"] == finish_reason


async def test_tool_calls_of_a_reply() -> None:
    """Calls keep their order, their ids or get one from the request; a text is sent as it stands."""
    calls = [
        {"name": "f", "arguments": {"a": 1}},
        {"name": "g", "id": "call_mine", "arguments": "{broken"},
    ]
    message = (await answer_of(scripted({"reply": {"tool_calls": calls}}), ask()))["choices"][0]["message"]
    made, named = message["tool_calls"]
    assert made["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert made["id"].startswith("call_")
    assert (named["id"], named["function"]["arguments"]) == ("call_mine", "{broken")
    events = await events_of(scripted({"reply": {"tool_calls": calls}}))
    deltas = [call for event in events[:-1] for call in event["choices"][0]["delta"].get("tool_calls", ())]
    assert [delta["index"] for delta in deltas] == [0, 0, 1, 1]


async def test_usage_of_a_reply_replaces_the_estimate() -> None:
    """Fields that the script names are its own, zero included; the others are estimated."""
    reply = {"text": "a", "usage": {"input_tokens": 0, "cached_input_tokens": 7}}
    usage = (await answer_of(scripted({"reply": reply}), ask()))["usage"]
    assert usage["prompt_tokens"] == 0
    assert usage["completion_tokens"] == 1
    assert usage["prompt_tokens_details"] == {"cached_tokens": 7, "audio_tokens": 0}


async def test_an_embedding_of_a_reply() -> None:
    """A rule's vector is given for each text, with its usage."""
    rule = {"match": {"surface": "embeddings"}, "reply": {"embedding": [0.5, 0.25], "usage": {"input_tokens": 9}}}
    answer = await answer_of(scripted(rule), ask("/embeddings", model="e", input=["a", "b"]))
    assert [item["embedding"] for item in answer["data"]] == [[0.5, 0.25]] * 2
    assert answer["usage"]["prompt_tokens"] == 9


# pace


@pytest.mark.parametrize("by", ["char", "word", "byte", "event"])
@pytest.mark.parametrize("size", [1, 3, 1_000])
async def test_any_cut_gives_the_same_text(by: str, size: int) -> None:
    """However a stream is cut, its pieces make up the text exactly."""
    text = "  héllo wörld\n你好 \t end "
    rule = {"reply": {"text": text}, "pace": {"chunk": {"by": by, "size": size}}}
    assert text_in(await events_of(scripted(rule))) == text


async def test_cuts_have_their_size() -> None:
    """Bytes and events say how much comes at once, characters and words how the text is divided."""
    for by, size in (("byte", 10), ("event", 3)):
        rule = {"reply": {"text": "a b c"}, "pace": {"chunk": {"by": by, "size": size}}}
        arrived = await chunks(await scripted(rule).send(ask(stream=True), None))
        if by == "byte":
            assert {len(chunk) for chunk in arrived[:-1]} == {10}
        else:
            assert [chunk.count(b"data: ") for chunk in arrived] == [3, 3]
    rule = {"reply": {"text": "a b c"}, "pace": {"chunk": {"by": "word", "size": 2}}}
    contents = [event["choices"][0]["delta"].get("content") for event in (await events_of(scripted(rule)))[:-1]]
    assert contents == ["", "a b ", "c", None]


async def test_the_pace_is_kept_on_the_clock_that_was_given() -> None:
    """First byte, pauses between pieces, and the latency of a unary answer are waits of the given clock."""
    pace = {"first_byte_ms": 500, "latency_ms": 250, "chunk": {"interval_ms": 20}}
    clock = Clock()
    provider = scripted({"reply": {"text": "a b"}, "pace": pace}, clock=clock)
    await (await provider.send(ask(), None)).body(10_000)
    assert clock.waits_s == [0.5, 0.25]
    clock.waits_s.clear()
    events = await chunks(await provider.send(ask(stream=True), None))
    assert clock.waits_s == [0.5] + [0.02] * (len(events) - 1)


# faults


async def fate_of(provider: DeterministicProvider, *, stream: bool) -> tuple[str, str, bytes]:
    """Return class and phase of the failure of a call, or "end", and what had arrived."""
    arrived = b""
    try:
        answer = await provider.send(ask(stream=stream), None)
        while chunk := await answer.chunk():
            arrived += chunk
    except TransportFailed as failed:
        return failed.failure_class, failed.phase, arrived
    return f"end {answer.status}", answer.headers["content-type"], arrived


STREAM_FATES: list[tuple[dict[str, Any], Any, str, str]] = [
    ({"refuse_connect": True}, None, "network_unavailable", "connect"),
    ({"reset": True}, "connect", "network_unavailable", "connect"),
    ({"hang": True}, "connect", "timeout_connect", "connect"),
    ({"reset": True}, None, "network_unavailable", "headers"),
    ({"reset": True}, "headers", "network_unavailable", "headers"),
    ({"reset": True}, "preamble", "stream_truncated", "body"),
    ({"reset": True}, {"after_chunks": 2}, "stream_truncated", "body"),
    ({"hang": True}, None, "timeout_first_byte", "headers"),
    ({"hang": True}, "preamble", "timeout_idle", "body"),
    ({"hang": True}, {"after_chunks": 1}, "timeout_idle", "body"),
    ({"malformed_json": True}, "headers", "malformed_response", "headers"),
    ({"malformed_json": True}, None, "end 200", "text/event-stream"),
    ({"truncate": True}, "headers", "stream_truncated", "headers"),
    ({"truncate": True}, None, "end 200", "text/event-stream"),
    ({"wrong_content_type": True}, None, "end 200", "text/html"),
    ({"wrong_content_type": True}, "headers", "end 200", "text/html"),
    ({"oversize": True}, "headers", "response_too_large", "headers"),
    ({"oversize": True}, None, "end 200", "text/event-stream"),
    ({"status": 429, "retry_after_ms": 1500}, None, "end 429", "application/json"),
    ({"status": 500}, "headers", "end 500", "application/json"),
    ({"status": 503}, "preamble", "end 200", "text/event-stream"),
    ({"status": 503}, {"after_chunks": 1}, "end 200", "text/event-stream"),
]


@pytest.mark.parametrize(("fault", "at", "failure_class", "phase"), STREAM_FATES)
async def test_each_fault_at_each_point_of_a_stream(
    fault: dict[str, Any], at: Any, failure_class: str, phase: str
) -> None:
    """Faults end a stream with the class and phase that a socket would give."""
    rule = {"error": fault} if at is None else {"error": fault, "at": at}
    assert (await fate_of(scripted(rule), stream=True))[:2] == (failure_class, phase)


UNARY_FATES: list[tuple[dict[str, Any], Any, str, str]] = [
    ({"hang": True}, None, "timeout_total", "headers"),
    ({"hang": True}, "preamble", "timeout_total", "body"),
    ({"reset": True}, "preamble", "stream_truncated", "body"),
    ({"malformed_json": True}, None, "end 200", "application/json"),
    ({"truncate": True}, None, "end 200", "application/json"),
    ({"status": 503, "code": "busy"}, None, "end 503", "application/json"),
    ({"status": 503, "code": "busy"}, "preamble", "end 200", "application/json"),
]


@pytest.mark.parametrize(("fault", "at", "failure_class", "phase"), UNARY_FATES)
async def test_faults_of_a_unary_answer(fault: dict[str, Any], at: Any, failure_class: str, phase: str) -> None:
    """A unary answer has only its total deadline, and faults of its body strike in its middle."""
    rule = {"error": fault} if at is None else {"error": fault, "at": at}
    fate = await fate_of(scripted(rule), stream=False)
    assert fate[:2] == (failure_class, phase)
    if "code" in fault:
        assert json.loads(fate[2])["error"]["code"] == "busy"
    elif failure_class == "end 200":
        with pytest.raises(json.JSONDecodeError):
            json.loads(fate[2])


async def test_where_in_a_stream_a_fault_strikes() -> None:
    """What comes before the point arrives whole, the error stands in the stream, and nothing comes after it."""
    for at, contents in (("preamble", []), ({"after_chunks": 2}, ["Hello ", "brave "])):
        rule = {"error": {"status": 503, "code": "busy"}, "at": at}
        _, _, arrived = await fate_of(scripted(rule), stream=True)
        *events, error = [json.loads(block[6:]) for block in arrived.decode().split("\n\n") if block]
        assert [event["choices"][0]["delta"]["content"] for event in events] == ["", *contents]
        assert error["error"]["code"] == "busy"
    truncated = (await fate_of(scripted({"error": {"truncate": True}}), stream=True))[2]
    assert truncated.count(b"data: ") == 2
    assert b'finish_reason":"stop' not in truncated


async def test_oversize_passes_the_bound() -> None:
    """An oversize answer is larger than any reader may take, in a body and in a line of a stream."""
    arrived = (await fate_of(scripted({"error": {"oversize": True}}), stream=True))[2]
    assert len(arrived.split(b"\n")[-1]) > SSE_LINE_MAX_BYTES
    answer = await scripted({"error": {"oversize": True}}).send(ask(), None)
    with pytest.raises(TransportFailed) as caught:
        await answer.body(1 << 20)
    assert caught.value.failure_class == "response_too_large"


async def test_a_scripted_status_names_its_wait() -> None:
    """A rule's retry time is a header, and its code stands in the envelope."""
    rule = {"error": {"status": 429, "code": "rate_limit_exceeded", "retry_after_ms": 1500}, "times": 1}
    provider = scripted(rule)
    answer = await provider.send(ask(), None)
    assert answer.headers["retry-after-ms"] == "1500"
    error = json.loads(await answer.body(10_000))["error"]
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert (await provider.send(ask(), None)).status == 200


async def test_waits_past_a_deadline_end_with_its_class() -> None:
    """A pace slower than the call's patience times out, after exactly that patience."""
    for stream, pace, expected in (
        (True, {"first_byte_ms": 1_001}, ("timeout_first_byte", "headers")),
        (True, {"chunk": {"interval_ms": 1_001}}, ("timeout_idle", "body")),
        (False, {"first_byte_ms": FOREVER_MS + 1}, ("timeout_total", "headers")),
        (False, {"first_byte_ms": FOREVER_MS - 1, "latency_ms": 2}, ("timeout_total", "body")),
    ):
        clock = Clock()
        assert (await fate_of(scripted({"pace": pace}, clock=clock), stream=stream))[:2] == expected
        assert math.isclose(sum(clock.waits_s), FOREVER_MS / 1_000 if not stream else 1.0)
    many = {"reply": {"text": "a " * 100}, "pace": {"chunk": {"interval_ms": 900}}}
    assert (await fate_of(scripted(many), stream=True))[:2] == ("timeout_total", "body")


async def test_a_closed_answer_says_nothing_more() -> None:
    """After closing, reading fails as it does on a closed socket; closing twice is fine, the provider too."""
    provider = scripted()
    answer = await provider.send(ask(stream=True), None)
    await answer.chunk()
    await answer.close()
    await answer.close()
    with pytest.raises(TransportFailed):
        await answer.chunk()
    await provider.close()


SCRIPT = """
import asyncio, hashlib, sys
sys.path.insert(0, {tests!r})
import test_providers_deterministic as t
async def main():
    digest = hashlib.sha256()
    for request in ({{}}, {{"tools": [t.TOOL], "tool_choice": "required"}}, {{"n": 3}}):
        for stream in (False, True):
            answer = await t.scripted().send(t.ask(stream=stream, **request), None)
            for chunk in await t.chunks(answer):
                digest.update(chunk)
    answer = await t.scripted().send(t.ask("/embeddings", model="e", input=["a b", "c"]), None)
    digest.update(await answer.body(1 << 20))
    print(digest.hexdigest())
asyncio.run(main())
"""


def test_two_processes_say_the_same_bytes() -> None:
    """Equal calls get equal bytes in different processes, whatever their hash seeds."""
    code = SCRIPT.format(tests=os.path.dirname(__file__))
    path = os.pathsep.join(entry for entry in sys.path if entry)
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) == 65


# -- transcripts


def heard(stream: str = "false", response_format: str = "json", **fields: Any) -> Call:
    """A transcription call."""
    body = transcription(model="ear", stream=stream, response_format=response_format, **fields)
    return Call(
        path="/audio/transcriptions",
        headers={"Content-Type": CONTENT_TYPE},
        body=body,
        stream=stream == "true",
        connect_timeout_ms=1_000,
        first_byte_timeout_ms=1_000,
        idle_timeout_ms=1_000,
        total_timeout_ms=1_000,
    )


async def said(rules: list[dict[str, Any]], call: Call) -> tuple[str, bytes]:
    """Content type and body of an answer."""
    settings = DeterministicSettings(rules=tuple(parse_rule(rule) for rule in rules))
    answer = await DeterministicProvider(settings).send(call, None)
    return answer.headers["content-type"], await answer.body(1 << 20)


SPOKEN = {
    "text": "Hi there. Bye.",
    "duration_ms": 2_500,
    "segments": [
        {"start_ms": 0, "end_ms": 1_250, "text": "Hi there.", "speaker": "A"},
        {"start_ms": 1_250, "end_ms": 2_500, "text": "Bye.", "speaker": "B"},
    ],
}


async def test_a_recording_without_a_rule() -> None:
    """The hint that goes with it comes back, else `ok`; its own length is what it used."""
    for fields, text in (({}, "ok"), ({"prompt": "words to expect"}, "words to expect")):
        _, body = await said([], heard(**fields))
        assert json.loads(body) == {"text": text, "usage": {"type": "duration", "seconds": 1.5}}


async def test_a_scripted_transcript_in_each_format() -> None:
    """The same words in every format, to the millisecond."""
    rules = [{"match": {"surface": "audio_transcription"}, "reply": {"transcript": SPOKEN}}]
    assert await said(rules, heard(response_format="text")) == ("text/plain; charset=utf-8", b"Hi there. Bye.\n")
    kind, subtitles = await said(rules, heard(response_format="vtt"))
    assert kind == "text/vtt; charset=utf-8"
    assert b"00:00:01.250 --> 00:00:02.500\nBye." in subtitles
    _, verbose = await said(rules, heard(response_format="verbose_json"))
    assert json.loads(verbose)["duration"] == 2.5


async def test_a_streamed_transcript() -> None:
    """Its pieces are the text; with speakers each passage is told; the end has text and usage; a fault strikes."""
    rules = [
        {"reply": {"transcript": SPOKEN, "usage": {"input_tokens": 9, "input_audio_tokens": 8, "output_tokens": 4}}}
    ]
    kind, body = await said(rules, heard("true", "diarized_json"))
    events = [json.loads(line[6:]) for line in body.decode().split("\n\n") if line]
    assert kind == "text/event-stream"
    deltas = [event["delta"] for event in events if event["type"] == "transcript.text.delta"]
    assert "".join(deltas) == SPOKEN["text"]
    assert [event["speaker"] for event in events if event["type"] == "transcript.text.segment"] == ["A", "B"]
    assert events[-1]["usage"]["input_token_details"] == {"audio_tokens": 8}
    broken = [{"reply": {"transcript": SPOKEN}, "error": {"reset": True}, "at": {"after_chunks": 1}}]
    with pytest.raises(TransportFailed):
        await said(broken, heard("true"))


async def test_what_is_too_large_for_a_script_is_refused() -> None:
    """As a provider does with a request that is longer than it reads; a recording may be as long as it is."""
    large = [{"role": "user", "content": "x" * SCRIPTED_CALL_MAX_BYTES}]
    answer = await scripted().send(ask(messages=large), None)
    assert answer.status == 413
    assert json.loads(await answer.body(1_000))["error"]["code"] == "body_too_large"
    text = "word " * (OFF_LOOP_BYTES // 4)
    assert await text_of(scripted(), messages=[{"role": "user", "content": text}]) == text
