"""Answers written here read back as what they say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palyra.usage import TokenUsage
from palyra.wire.chat_reply import DONE
from palyra.wire.openai_chat_reply import read_chat_reply
from palyra.wire.openai_chat_stream import ChatStreamMeter
from palyra.wire.openai_embeddings import read_embeddings_reply
from palyra.wire.openai_reply import ChatAnswer, ToolCallReply, chat_completion, chat_events, embeddings_reply
from palyra.wire.sse import event_data

_USAGE = TokenUsage(input_tokens=9, output_tokens=4, cached_input_tokens=3, reasoning_tokens=2)
_CALLS = (
    ToolCallReply(call_id="call_1", name="f", arguments='{"a":1}'),
    ToolCallReply(call_id="call_2", name="g", arguments=""),
)


def answer(**fields: Any) -> ChatAnswer:
    """An answer with fixed ids."""
    return ChatAnswer(**{"response_id": "c1", "created_s": 7, "model": "m", "usage": _USAGE, **fields})


_ANSWERS = [
    answer(text="Hello there."),
    answer(text=""),
    answer(refusal="no"),
    answer(text="Let me see.", reasoning="hm", tool_calls=_CALLS, finish_reason="tool_calls"),
    answer(tool_calls=_CALLS, finish_reason="tool_calls", choices_count=2),
    answer(text="cut", finish_reason="length", usage=TokenUsage()),
]


def folded(events: list[bytes]) -> dict[str, Any]:
    """Fold a stream into a whole answer, as a client does."""
    whole: dict[str, Any] = {"choices": {}, "usage": None}
    for chunk in (json.loads(event_data(event)) for event in events[:-1]):
        whole.update({name: chunk[name] for name in ("id", "created", "model")})
        whole["usage"] = chunk.get("usage") or whole["usage"]
        for choice in chunk["choices"]:
            state = whole["choices"].setdefault(choice["index"], {"message": {}, "finish_reason": None})
            for name, value in choice["delta"].items():
                if name == "tool_calls":
                    for call in value:
                        calls = state["message"].setdefault("tool_calls", {})
                        kept = calls.setdefault(call["index"], {"function": {"name": "", "arguments": ""}})
                        for part, text in call["function"].items():
                            kept["function"][part] += text
                        kept["id"] = call.get("id", kept.get("id"))
                elif name != "role":
                    state["message"][name] = state["message"].get(name, "") + value
            state["finish_reason"] = choice["finish_reason"] or state["finish_reason"]
    return whole


@pytest.mark.parametrize("said", _ANSWERS)
def test_the_fold_of_the_stream_is_the_whole_answer(said: ChatAnswer) -> None:
    """A client that folds the events has what the whole answer says."""
    whole = json.loads(chat_completion(said))
    stream = folded(list(chat_events(said, include_usage=True)))
    assert [stream[name] for name in ("id", "created", "model", "usage")] == [
        whole[name] for name in ("id", "created", "model", "usage")
    ]
    assert len(whole["choices"]) == len(stream["choices"]) == said.choices_count
    for choice in whole["choices"]:
        state = stream["choices"][choice["index"]]
        message = choice["message"]
        assert state["finish_reason"] == choice["finish_reason"] == said.finish_reason
        for name in ("content", "refusal", "reasoning_content"):
            assert state["message"].get(name, "") == (message.get(name) or "")
        calls = [(call["id"], call["function"]) for call in message.get("tool_calls", [])]
        assert [(call["id"], call["function"]) for call in state["message"].get("tool_calls", {}).values()] == calls


@pytest.mark.parametrize("said", _ANSWERS)
def test_what_is_written_is_metered_alike(said: ChatAnswer) -> None:
    """The gateway reads the same facts from the stream and from the whole answer."""
    meter = ChatStreamMeter(upstream_model="m", public_model="m", wants_usage=False, output_cap_tokens=None)
    for event in chat_events(said, include_usage=True):
        meter.feed(event)
    facts = read_chat_reply(chat_completion(said))
    assert facts.usage == said.usage
    assert meter.done
    assert (meter.facts().stop, meter.facts().usage) == (facts.stop, facts.usage)


def test_an_empty_answer_is_an_empty_text() -> None:
    """Content is null only where a call or a refusal stands instead."""
    contents = [json.loads(chat_completion(said))["choices"][0]["message"]["content"] for said in _ANSWERS]
    assert contents == ["Hello there.", "", None, "Let me see.", None, "cut"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_pieces_make_up_the_text(pieces: list[str]) -> None:
    """The text is cut where the caller says, and ends with `[DONE]`; usage comes only when asked for."""
    events = list(chat_events(answer(text="".join(pieces)), pieces=pieces))
    assert folded(events)["choices"][0]["message"]["content"] == "".join(pieces)
    assert folded(events)["usage"] is None
    assert len(events) == len([piece for piece in pieces if piece]) + 3
    assert events[-1] == DONE


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_an_embeddings_answer(encoding_format: str) -> None:
    """Both encodings pass the checks that a provider's answer must pass."""
    body = embeddings_reply([[0.5, 1.0], [2.0, 3.0]], model="m", input_tokens=4, encoding_format=encoding_format)
    facts = read_embeddings_reply(body, expected_count=2, dimensions=2)
    assert (facts.encoding_format, facts.usage) == (encoding_format, TokenUsage(input_tokens=4))
