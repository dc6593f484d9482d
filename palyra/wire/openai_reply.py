"""Writes answers in OpenAI's dialect, for a provider that has no upstream.

The same arguments give the same bytes: ids and times come in, nothing is made up here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from palyra.usage import TokenUsage
from palyra.wire.chat_reply import DONE
from palyra.wire.openai_embeddings import pack_vector
from palyra.wire.sse import encode_event
from palyra.wire.usage_written import chat_usage


class ToolCallReply(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a tool; `arguments` is JSON text."""

    call_id: str
    name: str
    arguments: str


class ChatAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a chat completion says, however it is delivered."""

    response_id: str
    created_s: int
    model: str
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: tuple[ToolCallReply, ...] = ()
    #: OpenAI's word: stop, length, tool_calls, content_filter.
    finish_reason: str = "stop"
    usage: TokenUsage = TokenUsage()
    #: Every choice says the same.
    choices_count: int = 1


def chat_completion(answer: ChatAnswer) -> bytes:
    """Return a whole answer."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    message["refusal"] = answer.refusal or None
    if answer.tool_calls:
        message["tool_calls"] = [_tool_call(call) for call in answer.tool_calls]
    elif not answer.refusal:
        message["content"] = answer.text
    choices = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
        for index in range(answer.choices_count)
    ]
    head = _head(answer, "chat.completion")
    return msgspec.json.encode({**head, "choices": choices, "usage": chat_usage(answer.usage)})


def chat_events(
    answer: ChatAnswer, *, pieces: Sequence[str] | None = None, include_usage: bool = False
) -> Iterator[bytes]:
    """Yield the events of a stream; `pieces` are the parts of the text, which they make up exactly."""
    head = _head(answer, "chat.completion.chunk")
    tail = {"usage": None} if include_usage else {}

    def events(delta: dict[str, Any], finish_reason: str | None = None) -> Iterator[bytes]:
        for index in range(answer.choices_count):
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
            yield encode_event(msgspec.json.encode({**head, "choices": [choice], **tail}))

    yield from events({"role": "assistant", "content": ""})
    if answer.reasoning:
        yield from events({"reasoning_content": answer.reasoning})
    if answer.refusal:
        yield from events({"refusal": answer.refusal})
    for piece in [answer.text] if pieces is None else pieces:
        if piece:
            yield from events({"content": piece})
    for position, call in enumerate(answer.tool_calls):
        whole = _tool_call(call)
        start = {**whole, "index": position, "function": {"name": call.name, "arguments": ""}}
        yield from events({"tool_calls": [start]})
        yield from events({"tool_calls": [{"index": position, "function": {"arguments": call.arguments}}]})
    yield from events({}, answer.finish_reason)
    if include_usage:
        usage_chunk = {**head, "choices": [], "usage": chat_usage(answer.usage)}
        yield encode_event(msgspec.json.encode(usage_chunk))
    yield DONE


def embeddings_reply(
    vectors: Sequence[Sequence[float]], *, model: str, input_tokens: int, encoding_format: str = "float"
) -> bytes:
    """Return an embeddings answer with its vectors as "float" or "base64"."""
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": pack_vector(vector) if encoding_format == "base64" else list(vector),
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": input_tokens, "total_tokens": input_tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": model, "usage": usage})


def _head(answer: ChatAnswer, kind: str) -> dict[str, Any]:
    return {"id": answer.response_id, "object": kind, "created": answer.created_s, "model": answer.model}


def _tool_call(call: ToolCallReply) -> dict[str, Any]:
    return {
        "id": call.call_id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
