"""Recorded exchanges: what makes two requests the same, what comes nearest, and answers under another name."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import CONTENT_TYPE, transcription

from palyra.wire.fixtures import (
    BadFixture,
    Nearest,
    Recorded,
    answered_as,
    canonical,
    chunk_of,
    is_text,
    nearest,
    read_lines,
    redacted,
    request_key,
    write_line,
)
from palyra.wire.read_surfaces import decode_messages
from palyra.wire.request import decode_chat, decode_embeddings
from palyra.wire.transcription import decode_transcription


def chat_key(**body: Any) -> str:
    messages = [{"role": "user", "content": "Hi."}]
    request = decode_chat(json.dumps({"model": "gpt", "messages": messages, **body}).encode())
    return request_key(canonical(request, "gpt"))


def test_who_asks_and_how_makes_no_other_request() -> None:
    """Streaming, user, metadata and hints for a cache are left aside; spelling and order mean nothing."""
    plain = chat_key()
    assert chat_key(stream=True, stream_options={"include_usage": True}, user="u", metadata={"a": "b"}) == plain
    assert chat_key(messages=[{"content": [{"text": "Hi.", "type": "text"}], "role": "user"}]) == plain
    assert chat_key(store=True, prompt_cache_key="k", service_tier="flex") == plain


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": 0.5},
        {"seed": 7},
        {"max_tokens": 9},
        {"stop": "x"},
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
        {"messages": [{"role": "system", "content": "Hi."}, {"role": "user", "content": "Hi."}]},
        {"messages": [{"role": "user", "content": "Ho."}]},
    ],
)
def test_what_changes_an_answer_makes_another(more: dict[str, Any]) -> None:
    """Messages, tools, format and sampling."""
    assert chat_key(**more) != chat_key()


def test_ids_of_calls_are_numbers() -> None:
    """They are others every time; which result belongs to which call still counts."""

    def turns(first: str, second: str, *, crossed: bool = False) -> str:
        calls = [
            {"id": one, "type": "function", "function": {"name": "f", "arguments": "{}"}} for one in (first, second)
        ]
        results = [{"role": "tool", "tool_call_id": one, "content": one[-1]} for one in (first, second)]
        if crossed:
            results[0]["content"], results[1]["content"] = results[1]["content"], results[0]["content"]
        messages = [{"role": "user", "content": "Hi."}, {"role": "assistant", "tool_calls": calls}, *results]
        return chat_key(messages=messages)

    assert turns("call_1", "call_2") == turns("xyz_1", "abc_2") != turns("call_1", "call_2", crossed=True)


def test_a_request_is_the_same_in_another_dialect() -> None:
    """What two dialects say in their ways is one request."""
    body = b'{"model":"gpt","max_tokens":5,"messages":[{"role":"user","content":"Hi."}]}'
    assert request_key(canonical(decode_messages(body), "gpt")) == chat_key(max_tokens=5)


def test_requests_without_messages() -> None:
    """Inputs and their size; a recording by its bytes and fields."""
    one = canonical(decode_embeddings(b'{"input":["a"],"model":"x","encoding_format":"base64","user":"u"}'), "vec")
    assert one == {"surface": "embeddings", "model": "vec", "input": ["a"]}
    sound = canonical(
        decode_transcription(CONTENT_TYPE, transcription(model="x", stream="true", language="de")), "ear"
    )
    assert sound["fields"] == [["language", "de"]]
    assert len(sound["file"]) == 64
    bare = canonical(decode_transcription(CONTENT_TYPE, transcription(model="x")), "ear")
    assert "fields" not in bare


def recorded(**fields: Any) -> Recorded:
    return Recorded(**{"run_id": "r", "key": "k", "surface": "chat", "api": "chat", "model": "gpt", **fields})


def test_the_nearest_request_and_where_it_differs() -> None:
    """The fewest differing fields win; at most eight of them are named; what was not kept is passed over."""
    asked = {"model": "gpt", "messages": [{"text": "a"}, {"text": "b"}], "n": 1}
    known = [
        recorded(run_id="none", request=None),
        recorded(run_id="far", request={"model": "other", "messages": [{"text": "x"}]}),
        recorded(run_id="near", request={**asked, "n": 2}),
        recorded(run_id="later", request={**asked, "n": 3}),
    ]
    assert nearest(asked, known) == Nearest("near", ["n"])
    assert nearest(asked, known[:1]) is None
    many = nearest({f"f{index}": index for index in range(20)}, [recorded(request={})])
    assert many is not None
    assert len(many.fields) == 8


def test_a_line_comes_back() -> None:
    """Text as text, other bytes in base64; blank lines mean nothing."""
    one = recorded(chunks=[chunk_of(1, b"hi"), chunk_of(2, b"\xff")], usage={"input_tokens": 1}, request={"a": [1]})
    assert read_lines(b"\n" + write_line(one) + b"\n") == [one]
    assert one.body == b"hi\xff"


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[",
        write_line(recorded(format=2)),
        write_line(recorded(status=0, outcome="completed")),
        b'{"run_id":"r","key":"k","surface":"s","api":"a","model":"m","chunks":[{"after_us":1,"base64":"?"}]}',
    ],
)
def test_a_line_that_is_none(line: bytes) -> None:
    """Its number is told."""
    with pytest.raises(BadFixture, match="line 1 "):
        read_lines(line)


def test_what_has_the_shape_of_a_secret_is_taken_out() -> None:
    """At any depth; numbers stay."""
    key = "sk-proj-" + "a1B2" * 10
    told = redacted({"a": [f"key {key}", 1], "b": {"c": key}})
    assert key not in json.dumps(told)
    assert told["a"][1] == 1


_BODY = b'data: {"model":"gpt-x","n":1}\n\ndata: {"model" : "gpt-x"}\n\ndata: {"x":"gpt-x"}\n\n'


@given(st.lists(st.integers(0, len(_BODY)), max_size=12), st.sampled_from(["gpt", "much-longer-than-it", "gpt-x"]))
def test_another_name_wherever_the_pieces_are_cut(bounds: list[int], model: str) -> None:
    """The model's name is the asked one; there are as many pieces as there were, and nothing else has changed."""
    places = [0, *sorted(bounds), len(_BODY)]
    pieces = [_BODY[start:end] for start, end in pairwise(places)]
    one = recorded(upstream_model="gpt-x", chunks=[chunk_of(at, piece) for at, piece in enumerate(pieces)])
    answered = answered_as(one, model)
    assert [chunk.after_us for chunk in answered] == list(range(len(pieces)))
    name = f'"{model}"'.encode()
    expected = _BODY.replace(b'"model":"gpt-x"', b'"model":' + name).replace(
        b'"model" : "gpt-x"', b'"model" : ' + name
    )
    assert b"".join(chunk.data for chunk in answered) == expected


def test_an_answer_that_names_no_model_is_what_it_was() -> None:
    """Errors, and bodies without the name."""
    error = recorded(status=400, upstream_model="gpt-x", chunks=[chunk_of(1, b'{"model":"gpt-x"}')])
    assert answered_as(error, "gpt") == error.chunks
    other = recorded(upstream_model="gpt-x", chunks=[chunk_of(1, b'{"model":"gpt-2026"}')])
    assert answered_as(other, "gpt") == other.chunks
    assert (is_text("chat"), is_text("embeddings")) == (True, False)
