"""A chat stream on its way through."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra.usage import TokenUsage
from palyra.wire.chat_reply import DONE
from palyra.wire.openai_chat_reply import read_chat_reply
from palyra.wire.openai_chat_stream import ChatStreamMeter
from palyra.wire.sse import encode_event


def meter(**arguments: Any) -> ChatStreamMeter:
    """A meter of a stream whose model has the public name it was sent as."""
    defaults = {"upstream_model": "up", "public_model": "up", "wants_usage": False, "output_cap_tokens": None}
    return ChatStreamMeter(**{**defaults, **arguments})


def event(**members: Any) -> bytes:
    """One chunk."""
    return encode_event(json.dumps({"id": "c1", "model": "up", **members}).encode())


def said(finish_reason: Any = None, index: Any = 0, **delta: Any) -> bytes:
    """One chunk with one choice."""
    return event(choices=[{"index": index, "delta": delta, "finish_reason": finish_reason}])


_USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
_ROLE, _HELLO, _STOP = said(role="assistant", content=""), said(content="hello"), said("stop")
_USAGE_ONLY = event(choices=[], usage=_USAGE)
_STREAM = _ROLE + _HELLO + _STOP + _USAGE_ONLY + DONE


def test_a_stream_is_relayed_but_for_what_is_held_back() -> None:
    """`[DONE]` and the usage that nobody asked for stay here; the rest passes as it came."""
    watched = meter()
    assert watched.feed(_ROLE) == _ROLE
    assert not watched.has_content
    assert watched.feed(_HELLO) == _HELLO
    assert watched.has_content
    assert not watched.finished
    assert watched.feed(_STOP) == _STOP
    assert watched.finished
    assert not watched.done
    assert watched.feed(_USAGE_ONLY + DONE + _HELLO) == b""
    assert watched.done
    assert watched.end() == b""
    facts = watched.facts()
    assert (facts.stop, facts.raw_stop, facts.response_id, facts.upstream_model) == ("end_turn", "stop", "c1", "up")
    assert (facts.usage, facts.anomalies) == (TokenUsage(input_tokens=3, output_tokens=2), ())
    assert facts.output_tokens_estimate == 2


def test_a_client_that_asked_sees_the_usage_once() -> None:
    """The usage chunk passes to who asked for it."""
    assert meter(wants_usage=True).feed(_STREAM) == _ROLE + _HELLO + _STOP + _USAGE_ONLY


def test_usage_next_to_choices_passes_and_counts() -> None:
    """Usage on any chunk is read; the last value of each field wins."""
    watched = meter()
    first = event(choices=[{"delta": {"content": "x"}}], usage={"prompt_tokens": 3, "completion_tokens": 1})
    last = event(
        choices=[{"delta": {}, "finish_reason": "stop"}], usage={"completion_tokens": 9, "prompt_tokens": None}
    )
    groq = event(choices=[], x_groq={"usage": {"total_tokens": 12}})
    assert watched.feed(first + last + groq) == first + last
    assert watched.facts().usage == TokenUsage(input_tokens=3, output_tokens=9)


def test_a_chunk_without_choices_and_usage_passes() -> None:
    """A filter report in front is no usage chunk; no usage at all is none."""
    watched = meter()
    report = event(choices=[], prompt_filter_results=[])
    assert watched.feed(report) == report
    assert watched.facts().usage is None


@given(st.lists(st.integers(0, len(_STREAM) * 2), max_size=6), st.sampled_from([b"\n", b"\r\n", b"\r"]))
@settings(max_examples=100)
def test_any_split_relays_the_same(points: list[int], end: bytes) -> None:
    """However the bytes arrive and lines end, the client gets the same stream and the facts are the same."""
    stream = (_STREAM + b": ping\n\n").replace(b"\n", end)
    whole, parts = meter(), meter()
    expected = whole.feed(stream) + whole.end()
    cuts = [0, *sorted(points), len(stream)]
    relayed = b"".join([parts.feed(stream[start:stop]) for start, stop in pairwise(cuts)])
    assert relayed + parts.end() == expected == (_ROLE + _HELLO + _STOP).replace(b"\n", end)
    assert parts.facts() == whole.facts()


@pytest.mark.parametrize(
    ("delta", "has_content"),
    [
        ({"role": "assistant", "content": ""}, False),
        ({"content": None}, False),
        ({"content": "x"}, True),
        ({"content": [{"type": "text", "text": "x"}]}, True),
        ({"reasoning_content": "x"}, True),
        ({"reasoning": "x"}, True),
        ({"refusal": "x"}, True),
        ({"tool_calls": [{"index": 0, "id": "c"}]}, False),
        ({"tool_calls": [{"index": 0, "function": {"name": "f"}}]}, True),
        ({"tool_calls": [{"function": {"arguments": "{"}}]}, True),
        ({"function_call": {"name": "f"}}, True),
        ({"audio": {"data": "AA"}}, True),
    ],
)
def test_what_is_content(delta: dict[str, Any], has_content: bool) -> None:
    """Text, reasoning, refusals, calls and audio commit a stream; its preamble does not."""
    watched = meter()
    watched.feed(said(**delta))
    assert watched.has_content is has_content


@pytest.mark.parametrize("end", [_STOP, DONE, said("function_call")])
def test_a_clean_end_is_content(end: bytes) -> None:
    """An empty answer is an answer."""
    watched = meter()
    watched.feed(end)
    assert watched.has_content
    assert watched.finished


def test_all_choices_must_finish() -> None:
    """With several choices the stream is finished when each that began is; an odd index is the first."""
    watched = meter()
    watched.feed(said(index=0, content="a") + said(index=1, content="b") + said("stop", index=1))
    assert not watched.finished
    watched.feed(said("length", index=[]) + said("", index=1))
    assert watched.finished
    assert watched.facts().stop == "max_tokens"


@pytest.mark.parametrize(
    ("stream", "stop"),
    [
        (said(content="x") + said("stop"), "end_turn"),
        (said(tool_calls=[{"function": {"name": "f"}}]) + said("stop"), "tool_calls"),
        (said(refusal="no") + said("stop"), "refusal"),
        (said(content="x") + said(""), "unknown"),
        (said(content="x") + said("") + DONE, "end_turn"),
        (said(content="x"), "unknown"),
        (b"", "unknown"),
    ],
)
def test_the_stop_of_a_stream(stream: bytes, stop: str) -> None:
    """A stream that only broke off has no known stop; `[DONE]` without a reason is a clean end."""
    watched = meter()
    watched.feed(stream)
    assert watched.facts().stop == stop


@pytest.mark.parametrize(
    "bad",
    [
        event(error={"message": "too slow", "type": "overloaded_error"}),
        event(error={"message": "too slow", "type": "overloaded_error"}, choices=[{"delta": {"content": "x"}}]),
        b'event: error\ndata: {"message":"too slow","type":"overloaded_error"}\n\n',
        b'data: {"object":"error","message":"too slow","type":"overloaded_error"}\n\n',
    ],
)
def test_an_error_event_ends_the_relay(bad: bytes) -> None:
    """The event is withheld with all that follows; the engine tells the error."""
    watched = meter()
    assert watched.feed(_HELLO + bad + _HELLO) == _HELLO
    assert watched.error is not None
    assert (watched.error.status, watched.error.message) == (529, "too slow")
    assert watched.feed(_HELLO) == watched.end() == b""


@pytest.mark.parametrize("odd", [b"data: {\n\n", b"data: 7\n\n", b'data: {"choices":7}\n\n', b'data: "\xff"\n\n'])
def test_what_cannot_be_read_passes_and_is_counted(odd: bytes) -> None:
    """The client may understand it."""
    watched = meter()
    assert watched.feed(odd + b": ping\n\nevent: x\n\n") == odd + b": ping\n\nevent: x\n\n"
    assert watched.unparsed_count == 1
    assert not watched.has_content


@pytest.mark.parametrize(
    ("tail", "relayed", "done"),
    [
        (_HELLO[:-2], _HELLO, False),
        (_HELLO[:-1], _HELLO, False),
        (_HELLO[:-9], b"", False),
        (b"data: [DONE]", b"", True),
        (b"", b"", False),
        (b"\r\n", b"", False),
    ],
)
def test_a_last_event_may_lack_its_blank_line(tail: bytes, relayed: bytes, done: bool) -> None:
    """A whole one is completed, a cut one dropped."""
    watched = meter()
    assert watched.feed(tail) == b""
    assert watched.end() == relayed
    assert watched.done is done


def test_the_public_model_name_in_every_event() -> None:
    """The name that was sent becomes the public one, at the top and nowhere else, however events are spelled."""
    events = [
        _HELLO,
        _HELLO,
        _STOP,
        b'data: {"x":{"model":"up"},"model" : "up","choices":[]}\n\n',
        b'data: {"mod\\u0065l":"up","model2":"up"}\n\n',
    ]
    watched = meter(public_model='fa"st')
    expected = [
        block.replace(b'"model": "up"', b'"model": "fa\\"st"')
        .replace(b'"model" : "up"', b'"model" : "fa\\"st"')
        .replace(b'l":"up","model2"', b'l":"fa\\"st","model2"')
        for block in events
    ]
    assert [watched.feed(block) for block in events] == expected


def test_other_model_names_pass() -> None:
    """A dated version, a missing name and an event that cannot be scanned stay as they are."""
    watched = meter(public_model="fast")
    dated, unnamed = b'data: {"model":"up-2024","choices":[]}\n\n', b'data: {"choices":[]}\n\n'
    twice = b'data: {"model":"up","model":"up"}\n\n'
    assert watched.feed(dated + unnamed + twice) == dated + unnamed + twice


def test_data_over_several_lines_is_renamed_too() -> None:
    """Such an event is written anew, with its name."""
    watched = meter(public_model="fast")
    assert (
        watched.feed(b'event: e\ndata: {"model":\ndata: "up"}\n\n')
        == b'event: e\ndata: {"model":\ndata: "fast"}\n\n'
    )


def test_an_output_past_its_cap_is_noticed() -> None:
    """The cap, a tenth and a margin may be used; no cap is never outgrown."""
    watched, free = meter(output_cap_tokens=100), meter()
    word = said(content="word ")
    for _ in range(300):
        watched.feed(word)
    assert not watched.outgrown
    for _ in range(220):
        watched.feed(word)
        free.feed(word)
    assert watched.outgrown
    assert not free.outgrown


def test_the_facts_of_a_stream_are_those_of_the_whole_answer() -> None:
    """The same answer in pieces and whole gives the same facts."""
    pieces = ["The quick ", "brown fox jumps ", "over the lazy dog."]
    stream = _ROLE + b"".join(said(content=piece) for piece in pieces) + _STOP + _USAGE_ONLY + DONE
    message = {"role": "assistant", "content": "".join(pieces)}
    whole = {"id": "c1", "model": "up", "choices": [{"message": message, "finish_reason": "stop"}], "usage": _USAGE}
    watched = meter()
    watched.feed(stream)
    assert watched.facts() == read_chat_reply(json.dumps(whole).encode())


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_pass(chunks: list[bytes]) -> None:
    """Nothing that a provider sends breaks the relay."""
    watched = meter(public_model="fast", output_cap_tokens=1)
    for chunk in chunks:
        watched.feed(b"data: " + chunk + b"\n\n")
    watched.end()
    assert watched.facts().stop in ("unknown", "end_turn")


def test_the_event_of_an_error() -> None:
    """A stream that fails late ends with its error as data."""
    assert meter().failing({"error": {"code": "x"}}) == b'data: {"error":{"code":"x"}}\n\n' + DONE
