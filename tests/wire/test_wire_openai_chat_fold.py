"""A chat answer as a stream and as a whole: one folded into the other, and cut again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from palyra.usage import TokenUsage
from palyra.wire.openai_chat_fold import cut_chat, fold_chat
from palyra.wire.openai_reply import ChatAnswer, ToolCallReply, chat_completion, chat_events
from palyra.wire.sse import comment, encode_event

USAGE = TokenUsage(input_tokens=11, output_tokens=5, cached_input_tokens=3)


def answer(**changes: Any) -> ChatAnswer:
    values = {"response_id": "c1", "created_s": 7, "model": "m", "usage": USAGE, **changes}
    return ChatAnswer(**values)


ANSWERS = {
    "text": answer(text="Hello there."),
    "empty": answer(text=""),
    "reasoning": answer(text="Yes.", reasoning="Because."),
    "refusal": answer(refusal="No."),
    "tools": answer(
        tool_calls=(
            ToolCallReply(call_id="a", name="f", arguments='{"x":1}'),
            ToolCallReply(call_id="b", name="g", arguments="{}"),
        ),
        finish_reason="tool_calls",
    ),
    "choices": answer(text="Same.", choices_count=3),
}


def plain(whole: bytes) -> Any:
    """Return an answer without its nulls, which streams leave out."""
    return json.loads(whole, object_pairs_hook=lambda pairs: {k: v for k, v in pairs if v not in (None, "")})


def fold(stream: bytes, usage: TokenUsage | None = None) -> bytes:
    whole = fold_chat(stream, usage)
    assert whole is not None
    return whole


@pytest.mark.parametrize("one", ANSWERS.values(), ids=ANSWERS)
def test_a_stream_folds_into_the_answer(one: ChatAnswer) -> None:
    """Whatever it says, and however its text was cut."""
    pieces = list(one.text) if one.text else None
    stream = b"".join(chat_events(one, pieces=pieces, include_usage=True))
    assert plain(fold(stream)) == plain(chat_completion(one))


@pytest.mark.parametrize("one", ANSWERS.values(), ids=ANSWERS)
def test_a_whole_answer_is_cut_and_folds_back(one: ChatAnswer) -> None:
    """Nothing is lost on the way."""
    whole = chat_completion(one)
    assert plain(fold(cut_chat(whole, wants_usage=True))) == plain(whole)


def test_usage_is_shown_to_who_asked_for_it() -> None:
    """A stream without it gets the figures that are known; one that is cut for another client has none."""
    one = ANSWERS["text"]
    stream = b"".join(chat_events(one))
    whole = json.loads(fold(stream, USAGE))
    assert whole["usage"] == json.loads(chat_completion(one))["usage"]
    assert "usage" not in json.loads(fold(stream))
    assert b'"usage"' not in cut_chat(chat_completion(one), wants_usage=False)
    assert b'"usage"' not in cut_chat(fold(stream), wants_usage=True)


def event(delta: Any, **more: Any) -> bytes:
    return encode_event(json.dumps({"id": "c1", "choices": [{"index": 0, "delta": delta, **more}]}).encode())


def test_fields_of_others_come_along() -> None:
    """Texts go on, lists grow, objects are merged, everything else is the last value."""
    stream = b"".join(
        [
            comment("hello"),
            event({"role": "assistant", "content": None, "x": {"t": "a", "n": 1}}, logprobs={"content": [1]}),
            event({"role": "assistant", "content": "Hi", "x": {"t": "b", "n": 2}}, logprobs={"content": [2]}),
            event({"list": [1]}),
            event({"list": [2], "content": None}, finish_reason="stop"),
        ]
    )
    (choice,) = json.loads(fold(stream))["choices"]
    message = {"role": "assistant", "content": "Hi", "x": {"t": "ab", "n": 2}, "list": [1, 2]}
    assert choice == {"index": 0, "message": message, "logprobs": {"content": [1, 2]}, "finish_reason": "stop"}
    again = fold(cut_chat(fold(stream), wants_usage=False))
    assert json.loads(again)["choices"] == [choice]


def test_calls_without_a_number_go_on_where_they_are() -> None:
    """One with an id is new, one without belongs to the last."""
    calls = [
        {"id": "a", "function": {"name": "f", "arguments": "{"}},
        {"function": {"arguments": "}"}},
        {"id": "b", "function": {"name": "g", "arguments": "{}"}},
        "junk",
    ]
    stream = b"".join(event({"tool_calls": [call]}) for call in calls)
    (choice,) = json.loads(fold(stream))["choices"]
    assert choice["message"]["tool_calls"] == [
        {"id": "a", "function": {"name": "f", "arguments": "{}"}},
        {"id": "b", "function": {"name": "g", "arguments": "{}"}},
    ]


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"data: junk\n\n",
        b'data: {"choices":["x"]}\n\n',
        b'data: {"choices":[{"index":"x"}]}\n\n',
        b'data: {"choices":[]}\n\n',
    ],
)
def test_what_cannot_be_read_is_no_answer(stream: bytes) -> None:
    """Then nothing is kept."""
    assert fold_chat(stream, None) is None


def test_a_delta_that_is_none_adds_nothing() -> None:
    """Such choices end a stream of some providers."""
    stream = event({"content": "Hi"}) + event(None, finish_reason="stop")
    (choice,) = json.loads(fold(stream))["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hi", "stop")


def test_an_answer_without_a_word_has_its_end() -> None:
    """A message of nothing but nulls becomes two events and the last."""
    whole = (
        b'{"id":"c1","choices":[{"index":0,"message":{"role":"assistant","content":null},"finish_reason":"stop"}]}'
    )
    stream = cut_chat(whole, wants_usage=False)
    assert stream.count(b"data: ") == 3
    (choice,) = json.loads(fold(stream))["choices"]
    assert choice["finish_reason"] == "stop"
