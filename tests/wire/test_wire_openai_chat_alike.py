"""Events that differ in nothing but their text are not decoded; nobody could tell from what comes out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palyra.wire import openai_chat_stream
from palyra.wire.alike import Alike
from palyra.wire.openai_chat_stream import ChatStreamMeter
from palyra.wire.reply_facts import ReplyFacts

#: Pieces of text that end a string, escape something, are no text, or look like what stands around them.
HARD = [
    "",
    "a",
    "word ",
    'say "x"',
    "back\\slash",
    "tab\t",
    "ü",
    "\u200b",
    "content",
    ":",
    ",",
    "}",
    '"}',
    "stop",
    "m-up",
]

pieces = st.one_of(st.sampled_from(HARD), st.text(max_size=6))
#: What else an event may bring beside, or in place of, a piece of text.
OTHERS: list[dict[str, Any]] = [
    {"delta": {"content": "x"}, "finish_reason": "stop"},
    {"delta": {"content": "x", "refusal": "no"}},
    {"delta": {"reasoning_content": "hm"}},
    {"delta": {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}},
    {"delta": {"content": "x", "audio": {"id": "a"}}},
    {"delta": {}},
    {"index": 1, "delta": {"content": "second"}},
]
events = st.lists(
    st.one_of(
        pieces,
        pieces,
        st.sampled_from(OTHERS),
        st.just({"usage": {"prompt_tokens": 3, "completion_tokens": 4}}),
        st.sampled_from([b"data: nonsense\n\n", b": sign of life\n\n", b"data: {}\n\n"]),
    ),
    max_size=14,
)


def event(item: Any, *, escapes: bool) -> bytes:
    if isinstance(item, bytes):
        return item
    chunk: dict[str, Any] = {"id": "c-1", "object": "chat.completion.chunk", "model": "m-up", "choices": []}
    if isinstance(item, str):
        chunk["choices"] = [{"index": 0, "delta": {"content": item}, "finish_reason": None}]
    elif "usage" in item:
        chunk |= item
    else:
        chunk["choices"] = [{"index": 0, "finish_reason": None, **item}]
    return b"data: " + json.dumps(chunk, ensure_ascii=escapes).encode("utf-8", "surrogatepass") + b"\n\n"


def relayed(blocks: list[bytes], public_model: str) -> tuple[bytes, ReplyFacts, bool, int]:
    meter = ChatStreamMeter(
        upstream_model="m-up", public_model=public_model, wants_usage=False, output_cap_tokens=None
    )
    out = b"".join(meter.feed(block) for block in blocks)
    return out, meter.facts(), meter.has_content, meter.unparsed_count


@given(events, st.booleans(), st.sampled_from(["m-up", "fast"]))
def test_what_is_not_decoded_comes_out_the_same(items: list[Any], escapes: bool, public_model: str) -> None:
    """Bytes, usage, stop and estimate are those that decoding each event gives, whatever the pieces hold."""
    blocks = [event(item, escapes=escapes) for item in items]
    quick = relayed(blocks, public_model)
    assert relayed([b"".join(blocks)], public_model) == quick, "it does not matter what arrives together"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Alike, "read", lambda self, blocks: None)
        assert relayed(blocks, public_model) == quick


def test_pieces_of_text_are_read_without_a_decoder() -> None:
    """After the first one, until an event is another."""
    decoded: list[bytes] = []
    decode = openai_chat_stream.read_or_none

    def noting(decoder: Any, data: bytes) -> Any:
        decoded.append(data)
        return decode(decoder, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_chat_stream, "read_or_none", noting)
        blocks = [event(word, escapes=False) for word in ("One ", "two ", "three ", 'a "quote"', "four")]
        relayed(blocks, "fast")
    assert len(decoded) == 2


def test_a_stream_of_other_events_is_given_up() -> None:
    """Where each event has a number of its own, the first few are learnt from in vain, and no more."""
    meter = ChatStreamMeter(upstream_model="m", public_model="m", wants_usage=False, output_cap_tokens=None)
    for number in range(20):
        chunk = {"id": f"c-{number}", "choices": [{"index": 0, "delta": {"content": "word "}}]}
        assert meter.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    assert not meter._blocks.alike.is_promising


def test_a_text_that_stands_twice_is_not_learnt_from() -> None:
    """It cannot be told which of the two is the text, so the next event is decoded as well."""
    meter = ChatStreamMeter(upstream_model="m", public_model="m", wants_usage=False, output_cap_tokens=None)
    meter.feed(event("c-1", escapes=False))
    assert not meter._blocks.alike._before
    assert meter.feed(event("c-2", escapes=False)) == event("c-2", escapes=False)


def test_what_is_no_text_is_left_to_the_decoder() -> None:
    """Bytes that are no UTF-8 are passed on and counted, in an event like one before too."""
    broken = event("two", escapes=False).replace(b"two", b"t\xffo")
    out, _, _, unparsed_count = relayed([event("one", escapes=False), broken], "m-up")
    assert (out, unparsed_count) == (event("one", escapes=False) + broken, 1)


def test_bytes_that_are_no_text_are_relayed_beside_it() -> None:
    """An event is not learnt from where something in it is no UTF-8; it passes as it came all the same."""
    event = b': \xff\ndata: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
    watched = ChatStreamMeter(upstream_model="m", public_model="m", wants_usage=True, output_cap_tokens=None)
    assert watched.feed(event) + watched.feed(event) == event + event
