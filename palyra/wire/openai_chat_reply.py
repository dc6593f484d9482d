"""What a chat completion says, read tolerantly: the shapes of whole answers and of stream chunks are one.

Only what is metered is decoded. A field of an unexpected type is as good as absent, because the client gets the
provider's bytes, not ours.
"""

from __future__ import annotations

from typing import Any

import msgspec

from palyra.wire.decoding import NULL, read_or_none
from palyra.wire.errors import Malformed
from palyra.wire.neutral_answer import derive_stop
from palyra.wire.reply_facts import ReplyFacts
from palyra.wire.tokens import TokenTally
from palyra.wire.upstream_errors import UpstreamErrorInBody, holds_error, read_upstream_error
from palyra.wire.usage import decode_usage, merge_usage, read_cost_nanousd, read_openai_usage


class Called(msgspec.Struct):
    """A call of a function, which has arguments, or of a custom tool, which has an input."""

    name: Any = None
    arguments: Any = None
    input: Any = None


class ToolCall(msgspec.Struct):
    function: Called | None = None
    custom: Called | None = None


class Said(msgspec.Struct):
    """A message of a whole answer, or the delta of a chunk."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: list[ToolCall] | None = None
    function_call: Called | None = None
    audio: Any = None

    @property
    def has_call(self) -> bool:
        return bool(self.tool_calls) or self.function_call is not None

    def texts(self) -> list[str]:
        """Return every non-empty piece of what was said, in the order of a stream; audio alone has no text."""
        pieces = [self.reasoning_content, self.reasoning, self.content, self.refusal]
        if isinstance(self.content, list):
            pieces += [part.get("text") for part in self.content if isinstance(part, dict)]
        if self.has_call:
            for call in self.tool_calls or ():
                pieces += _call_pieces(call.function) + _call_pieces(call.custom)
            pieces += _call_pieces(self.function_call)
        return [piece for piece in pieces if isinstance(piece, str) and piece]


def _call_pieces(called: Called | None) -> list[Any]:
    if called is None:
        return []
    arguments = called.arguments
    if isinstance(arguments, dict):  # as an object instead of its text
        arguments = msgspec.json.encode(arguments).decode()
    return [called.name, arguments, called.input]


class Choice(msgspec.Struct):
    index: Any = 0
    message: Said | None = None
    delta: Said | None = None
    finish_reason: Any = None

    @property
    def said(self) -> Said:
        return self.delta or self.message or _NOTHING


class GroqExtra(msgspec.Struct):
    usage: msgspec.Raw = NULL


class Reply(msgspec.Struct):
    """A whole answer or one chunk."""

    id: Any = None
    object: Any = None
    created: Any = None
    model: Any = None
    choices: list[Choice] | None = None
    usage: msgspec.Raw = NULL
    service_tier: Any = None
    x_groq: GroqExtra | None = None
    error: msgspec.Raw = NULL

    @property
    def is_error(self) -> bool:
        return holds_error(self.error) or self.object == "error"

    def usage_fields(self) -> dict[str, Any]:
        """Return what is reported here, {} when nothing is."""
        if self.usage is NULL and self.x_groq is None:
            return {}
        fields = decode_usage(self.usage)
        if self.x_groq is not None:
            fields = merge_usage(decode_usage(self.x_groq.usage), fields)
        return fields


_NOTHING = Said()
REPLY = msgspec.json.Decoder(Reply, float_hook=float)

_STOPS = {
    "": "end_turn",
    "stop": "end_turn",
    "eos": "end_turn",
    "end_turn": "end_turn",
    "stop_sequence": "end_turn",
    "length": "max_tokens",
    "max_tokens": "max_tokens",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


def neutral_stop(raw_stop: str, *, has_call: bool, has_refusal: bool) -> str:
    """Return the neutral word for how an answer ended; a call that was made beats what the provider calls it."""
    return derive_stop(_STOPS.get(raw_stop, "unknown"), has_call=has_call, has_refusal=has_refusal)


def reply_facts(
    *,
    reply_id: Any,
    model: Any,
    stop: str,
    raw_stop: str,
    usage_fields: dict[str, Any],
    service_tier: Any,
    output_tokens_estimate: int,
) -> ReplyFacts:
    """Put the facts together, for whole answers and for streams."""
    usage, anomalies = read_openai_usage(usage_fields, output_seen=output_tokens_estimate > 0)
    return ReplyFacts(
        stop=stop,
        raw_stop=raw_stop,
        usage=usage,
        anomalies=anomalies,
        upstream_model=text_or_empty(model),
        response_id=text_or_empty(reply_id),
        output_tokens_estimate=output_tokens_estimate,
        provider_cost_nanousd=read_cost_nanousd(usage_fields),
        service_tier=text_or_empty(service_tier),
    )


def read_chat_reply(body: bytes) -> ReplyFacts:
    """Read a whole answer; raises `Malformed`, or `UpstreamErrorInBody` for an error behind a 200."""
    reply = read_or_none(REPLY, body.removeprefix(b"\xef\xbb\xbf"))
    if reply is None:
        raise Malformed("The provider's answer is not a chat completion.")
    if reply.is_error:
        raise UpstreamErrorInBody(read_upstream_error(200, body))
    if reply.choices is None:
        raise Malformed("The provider's answer has no choices.")
    tally = TokenTally()
    for choice in reply.choices:
        for text in choice.said.texts():
            tally.add(text)
    first = reply.choices[0] if reply.choices else Choice()
    raw_stop = text_or_empty(first.finish_reason)
    return reply_facts(
        reply_id=reply.id,
        model=reply.model,
        stop=neutral_stop(raw_stop, has_call=first.said.has_call, has_refusal=bool(first.said.refusal)),
        raw_stop=raw_stop,
        usage_fields=reply.usage_fields(),
        service_tier=reply.service_tier,
        output_tokens_estimate=tally.tokens,
    )


def text_or_empty(value: Any) -> str:
    """Return a foreign value if it is a text, else ""."""
    return value if isinstance(value, str) else ""
