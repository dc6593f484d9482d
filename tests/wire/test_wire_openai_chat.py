"""Chat completions: the request on its way up, the whole answer on its way down."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra.usage import TokenUsage
from palyra.wire.errors import Malformed
from palyra.wire.openai_chat import prepare_chat
from palyra.wire.openai_chat_reply import read_chat_reply
from palyra.wire.openai_edits import rename_model
from palyra.wire.reply_facts import ReplyFacts
from palyra.wire.request import decode_chat
from palyra.wire.target import Target, Ways
from palyra.wire.upstream_errors import UpstreamErrorInBody

_MESSAGES = b'"messages": [ {"content":"\\u00e9 \\"model\\":\\"m\\"","role":"user","model":"m"} ]'


def target(
    upstream_model: str = "up", cap_field: Any = "max_tokens", *, stream: bool = True, **more: Any
) -> Target:
    ways = Ways(cap_field=cap_field, obeys_both_caps=cap_field == "max_completion_tokens", takes_developer=True)
    return Target(dialect="chat", model=upstream_model, ways=ways, stream=stream, **more)


def prepared(body: bytes, **arguments: Any) -> tuple[bytes, tuple[str, ...]]:
    """Prepare a body; the model is `up` and there is no cap unless said."""
    result = prepare_chat(decode_chat(body), target(**arguments))
    return result.body, result.edits


def test_a_body_that_needs_no_edit_is_the_clients() -> None:
    """Not a byte is moved when the model's name is the provider's."""
    body = b' { "x" : 1e400, "model":"up" , ' + _MESSAGES + b"}\n"
    assert prepared(body) == (body, ())


def test_the_model_is_replaced_or_added() -> None:
    """Only the top-level value changes, whatever nested text looks like it."""
    head, tail = b'{"mod\\u0065l" : ', b" , " + _MESSAGES + b', "seed":12345678901234567890123}'
    assert prepared(head + b'"m"' + tail) == (head + b'"up"' + tail, ("model",))
    assert prepared(head + b"null" + tail) == (head + b'"up"' + tail, ("model",))
    assert prepared(b"{" + _MESSAGES + b" }") == (b"{" + _MESSAGES + b',"model":"up" }', ("model",))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (b"", b',"stream_options":{"include_usage":true}'),
        (b',"stream_options": null', b',"stream_options": {"include_usage":true}'),
        (b',"stream_options": { }', b',"stream_options": {"include_usage":true }'),
        (b',"stream_options":{"x" : 1.0}', b',"stream_options":{"x" : 1.0,"include_usage":true}'),
        (b',"stream_options":{"include_usage": false, "x":1}', b',"stream_options":{"include_usage": true, "x":1}'),
    ],
)
def test_a_stream_is_asked_for_its_usage(options: bytes, expected: bytes) -> None:
    """The flag is set where it is missing; the rest of the options stays."""
    head = b'{"model":"up","stream":true,' + _MESSAGES
    assert prepared(head + options + b"}") == (head + expected + b"}", ("stream_options.include_usage",))


@pytest.mark.parametrize(
    ("members", "ask_usage"),
    [
        (b'"stream":true,"stream_options":{"include_usage":true}', True),
        (b'"stream":true,"stream_options":7', True),
        (b'"stream":true', False),
        (b'"stream":false,"stream_options":null', True),
    ],
)
def test_usage_is_not_asked_for_in_vain(members: bytes, ask_usage: bool) -> None:
    """A client that asks itself, a broken value, a provider that refuses, and a whole answer are left alone."""
    body = b'{"model":"up",' + members + b"," + _MESSAGES + b"}"
    assert prepared(body, ask_usage=ask_usage) == (body, ())


@pytest.mark.parametrize(
    ("members", "cap_field", "expected", "edits"),
    [
        (b"", "max_tokens", b',"max_tokens":100', ("max_tokens",)),
        (b"", "max_completion_tokens", b',"max_completion_tokens":100', ("max_completion_tokens",)),
        (b',"max_tokens": 100', "max_tokens", b',"max_tokens": 100', ()),
        (b',"max_tokens": 101', "max_completion_tokens", b',"max_tokens": 100', ("max_tokens",)),
        (b',"max_tokens":null', "max_tokens", b',"max_tokens":100', ("max_tokens",)),
        (
            b',"max_completion_tokens":500,"max_tokens":500',
            "max_tokens",
            b',"max_completion_tokens":100,"max_tokens":100',
            ("max_tokens", "max_completion_tokens"),
        ),
        (
            b',"max_completion_tokens":500,"max_tokens":null',
            "max_tokens",
            b',"max_completion_tokens":100,"max_tokens":100',
            ("max_completion_tokens", "max_tokens"),
        ),
        (
            b',"max_completion_tokens": 7',
            "max_tokens",
            b',"max_completion_tokens": 7,"max_tokens":7',
            ("max_tokens",),
        ),
    ],
)
def test_the_output_maximum_is_lowered_or_set(
    members: bytes, cap_field: str, expected: bytes, edits: tuple[str, ...]
) -> None:
    """A higher maximum is lowered under the name the client used; a lower one is the client's right.

    A server that obeys one name only gets it under that name too.
    """
    head = b'{"model":"up",' + _MESSAGES
    assert prepared(head + members + b"}", output_cap_tokens=100, cap_field=cap_field) == (
        head + expected + b"}",
        edits,
    )


_JUNK = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6).map("x".__add__),
    st.recursive(
        st.one_of(st.integers(), st.text(st.characters(exclude_categories=["Cs"])), st.just('"model":"m"')),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("model"), inner),
        max_leaves=6,
    ),
    max_size=4,
)


@given(_JUNK, st.booleans(), st.booleans(), st.sampled_from([None, 0, 3]))
@settings(max_examples=150)
def test_upstream_gets_the_clients_bytes_but_for_the_named_edits(
    junk: dict[str, Any], ascii_only: bool, model_first: bool, indent: int | None
) -> None:
    """Undoing the edits by their names gives back the client's body, byte for byte."""
    members = {"messages": [{"role": "user", "content": "x", "model": "m"}], **junk, "stream": True}
    members = {"model": "m", **members} if model_first else {**members, "model": "m"}
    body = json.dumps(members, ensure_ascii=ascii_only, indent=indent).encode()
    sent, edits = prepared(body, upstream_model="upstream-1", output_cap_tokens=77)
    assert edits == ("model", "stream_options.include_usage", "max_tokens")
    assert json.loads(sent) == {
        **members,
        "model": "upstream-1",
        "stream_options": {"include_usage": True},
        "max_tokens": 77,
    }
    undone = sent.replace(b',"stream_options":{"include_usage":true},"max_tokens":77', b"")
    assert undone.replace(b'"upstream-1"', b'"m"') == body


def reply(*, message: Any = None, finish_reason: Any = "stop", **members: Any) -> bytes:
    """A whole answer with one choice."""
    choice = {
        "index": 0,
        "message": message or {"role": "assistant", "content": "hi"},
        "finish_reason": finish_reason,
    }
    return json.dumps({"id": "c1", "model": "up-2024", "choices": [choice], **members}).encode()


def test_the_facts_of_a_whole_answer() -> None:
    """Ids, usage, stop and cost are read; text is only counted."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "cost": 0.25}
    assert read_chat_reply(reply(usage=usage)) == ReplyFacts(
        stop="end_turn",
        raw_stop="stop",
        usage=TokenUsage(input_tokens=3, output_tokens=2),
        anomalies=(),
        upstream_model="up-2024",
        response_id="c1",
        output_tokens_estimate=1,
        provider_cost_nanousd=250_000_000,
    )


_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("raw", "message", "stop"),
    [
        ("stop", {"content": "x"}, "end_turn"),
        ("eos", {"content": "x"}, "end_turn"),
        ("", {"content": "x"}, "end_turn"),
        (None, {"content": None}, "end_turn"),
        (7, {"content": "x"}, "end_turn"),
        ("stop", {"tool_calls": [_CALL]}, "tool_calls"),
        ("tool_calls", {"tool_calls": [_CALL]}, "tool_calls"),
        ("tool_calls", {"content": "x", "tool_calls": []}, "end_turn"),
        ("function_call", {"function_call": {"name": "f", "arguments": {"a": 1}}}, "tool_calls"),
        ("length", {"tool_calls": [_CALL]}, "max_tokens"),
        ("content_filter", {"content": ""}, "content_filter"),
        ("stop", {"refusal": "no"}, "refusal"),
        ("odd", {"content": "x"}, "unknown"),
    ],
)
def test_the_stop_is_derived_from_what_was_emitted(raw: Any, message: dict[str, Any], stop: str) -> None:
    """A call makes it tool_calls and the lack of one end_turn, whatever the provider says."""
    facts = read_chat_reply(reply(message=message, finish_reason=raw))
    assert (facts.stop, facts.raw_stop) == (stop, raw if isinstance(raw, str) else "")


@pytest.mark.parametrize(
    ("message", "tokens"),
    [
        ({"content": "one two three four"}, 5),
        ({"content": [{"type": "text", "text": "one two three four"}, {"type": "odd"}, 7]}, 5),
        ({"content": None, "reasoning_content": "one two three four"}, 5),
        ({"reasoning": "one two three four"}, 5),
        ({"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, 3),
        ({"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}, 5),
        ({"tool_calls": [{"custom": {"name": "f", "input": "x"}}, {}]}, 1),
        ({"audio": {"id": "a", "x": 1e999}}, 0),
    ],
)
def test_all_that_was_said_is_counted(message: dict[str, Any], tokens: int) -> None:
    """Content in every form, reasoning and calls count; audio has no text."""
    body = reply(message=message).replace(b"Infinity", b"1e999")
    assert read_chat_reply(body).output_tokens_estimate == tokens


def test_usage_may_stand_under_x_groq_and_a_bom_in_front() -> None:
    """Reading is tolerant; fields of the wrong type are absent."""
    body = b"\xef\xbb\xbf" + reply(x_groq={"usage": {"prompt_tokens": 3, "completion_tokens": 2}}, id=7, model=None)
    facts = read_chat_reply(body)
    assert facts.usage == TokenUsage(input_tokens=3, output_tokens=2)
    assert (facts.response_id, facts.upstream_model) == ("", "")


def test_an_answer_without_choices_stays_empty() -> None:
    """An empty list is an empty answer."""
    facts = read_chat_reply(b'{"choices":[]}')
    assert (facts.stop, facts.usage, facts.output_tokens_estimate) == ("end_turn", None, 0)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"choices":{}}', b'{"choices":[1]}', b'{"choices":']
)
def test_what_is_no_completion_is_malformed(body: bytes) -> None:
    """Wrong shapes and cut bodies are the provider's fault."""
    with pytest.raises(Malformed) as caught:
        read_chat_reply(body)
    assert caught.value.code == "malformed_response"


def test_an_error_behind_a_200_is_an_error() -> None:
    """Even next to choices; an empty error field is none."""
    with pytest.raises(UpstreamErrorInBody, match="slow down") as caught:
        read_chat_reply(reply(error={"message": "slow down", "code": 429}))
    assert caught.value.error.status == 429
    with pytest.raises(UpstreamErrorInBody):
        read_chat_reply(b'{"object":"error","message":"x"}')
    assert read_chat_reply(reply(error=None)).stop == "end_turn"


@given(
    st.one_of(
        st.binary(max_size=80), st.text(st.sampled_from('{}[]",:choicesmg1é')).map(lambda text: text.encode())
    )
)
def test_any_bytes_are_read_or_malformed(body: bytes) -> None:
    """No answer of a provider raises anything else."""
    with contextlib.suppress(Malformed, UpstreamErrorInBody):
        read_chat_reply(body)


def test_the_public_model_name() -> None:
    """The name that was sent becomes the public one, a dated version stays; nothing else moves."""
    body = b'{"id":"x", "model" : "up", "choices":[{"model":"up"}]}'
    assert rename_model(body, "up", "fast") == body.replace(b' : "up"', b' : "fast"')
    assert rename_model(body, "up", "up") is body
    assert rename_model(body, "u", "fast") is body
    assert rename_model(b'{"a":1}', "up", "fast") == b'{"a":1}'
    assert rename_model(b'{"a":1', "up", "fast") == b'{"a":1'
