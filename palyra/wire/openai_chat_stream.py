"""A chat stream on its way through: relayed as it came, metered on the side.

Bytes are untouched but for the model's name. Two events are held back: `[DONE]`, which the engine sends once the
settlement is durable, and a chunk of nothing but usage that the client did not ask for. An error event ends the
relay and is the engine's to tell. Each event is decoded once, only in the fields that are metered; what cannot be
decoded is passed on and counted, because the client may understand it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from palyra.limits import OUTPUT_OVERRUN_TOKENS
from palyra.wire.alike import Blocks
from palyra.wire.chat_reply import DONE
from palyra.wire.decoding import read_or_none
from palyra.wire.jsonscan import replace, splice
from palyra.wire.openai_chat_reply import (
    REPLY,
    Reply,
    neutral_stop,
    reply_facts,
    text_or_empty,
)
from palyra.wire.openai_edits import model_span
from palyra.wire.reply_facts import ReplyFacts, estimated_usage
from palyra.wire.sse import encode_event, event_data, event_name
from palyra.wire.tokens import TokenTally
from palyra.wire.upstream_errors import UpstreamError, read_upstream_error
from palyra.wire.usage import merge_usage
from palyra.wire.usage_written import chat_usage


class ChatStreamMeter:
    """Takes the bytes of one upstream stream and gives back those that may be relayed."""

    def __init__(
        self,
        *,
        upstream_model: str,
        public_model: str,
        wants_usage: bool,
        input_estimate_tokens: int = 0,
        output_cap_tokens: int | None,
    ) -> None:
        """`wants_usage`: of the client, who then sees the usage chunk. `output_cap_tokens`: the event limit.

        `input_estimate_tokens`: what a client is told of the input of a stream that is cut.
        """
        #: There was text, reasoning, refusal, a tool's name or argument, audio, or a clean end.
        self.has_content = False
        #: The error that the stream turned into; its event and all that follows is withheld.
        self.error: UpstreamError | None = None
        #: `[DONE]` has been seen.
        self.done = False
        #: Events that could not be decoded.
        self.unparsed_count = 0
        self._public_model = public_model
        self._renamer = _Renamer(upstream_model, public_model)
        self._wants_usage = wants_usage
        self._input_estimate_tokens = input_estimate_tokens
        self._output_cap_tokens = output_cap_tokens
        self._tally = TokenTally()
        self._blocks = Blocks(self._take, self._tally)
        self._usage: dict[str, Any] = {}
        self._reply_id: Any = None
        self._created: Any = None
        self._model: Any = None
        self._service_tier: Any = None
        #: By choice: the finish reason, "" until there is one.
        self._raw_stops: dict[Any, str] = {}
        #: Of the first choice.
        self._has_call = False
        self._has_refusal = False

    @property
    def finished(self) -> bool:
        """Every choice that began has its finish reason, or `[DONE]` has been seen."""
        return self.done or (bool(self._raw_stops) and all(self._raw_stops.values()))

    @property
    def outgrown(self) -> bool:
        """The output is past its maximum, a tenth and a margin; noticed up to some hundred characters late."""
        cap = self._output_cap_tokens
        return cap is not None and self._tally.counted_tokens > cap + cap // 10 + OUTPUT_OVERRUN_TOKENS

    def feed(self, chunk: bytes) -> bytes:
        """Return what may be relayed now; raises `Malformed` for an endless event."""
        return self._blocks.feed(chunk)

    def end(self) -> bytes:
        """Say that upstream has closed; return a last event that only lacked its blank line."""
        tail = self._blocks.tail.rstrip(b"\r\n")
        if not tail or self._blocks.is_over:
            return b""
        unparsed_count = self.unparsed_count
        relayed = self._take(tail + b"\n\n")
        return relayed if self.unparsed_count == unparsed_count else b""

    def closing(self, *, is_cut: bool) -> bytes:
        """Return the last bytes of the stream; one that was cut says so before."""
        if not is_cut:
            return DONE
        head = {
            "id": text_or_empty(self._reply_id),
            "object": "chat.completion.chunk",
            "created": self._created if isinstance(self._created, int) else 0,
            "model": self._public_model,
        }
        chunks: list[dict[str, Any]] = [
            {**head, "choices": [{"index": index, "delta": {}, "finish_reason": "length"}]}
            for index, raw_stop in (self._raw_stops or {0: ""}).items()
            if not raw_stop
        ]
        if self._wants_usage:
            seen = self.facts().usage
            usage = estimated_usage(seen, self._input_estimate_tokens, self._tally.tokens)
            chunks.append({**head, "choices": [], "usage": chat_usage(usage)})
        return b"".join([encode_event(msgspec.json.encode(chunk)) for chunk in chunks]) + DONE

    def failing(self, envelope: dict[str, Any]) -> bytes:
        """Return the last bytes of a stream that broke; `envelope` is an error answer as plain data."""
        return encode_event(msgspec.json.encode(envelope)) + DONE

    def facts(self) -> ReplyFacts:
        """Return what the stream has amounted to so far."""
        first_index = next(iter(self._raw_stops), 0)
        raw_stop = self._raw_stops.get(first_index, "")
        is_cut_off = not raw_stop and not self.done
        return reply_facts(
            reply_id=self._reply_id,
            model=self._model,
            stop="unknown"
            if is_cut_off
            else neutral_stop(raw_stop, has_call=self._has_call, has_refusal=self._has_refusal),
            raw_stop=raw_stop,
            usage_fields=self._usage,
            service_tier=self._service_tier,
            output_tokens_estimate=self._tally.tokens,
        )

    def _take(self, block: bytes) -> bytes:
        """Meter one event; return it as it may be relayed, b"" when it is withheld."""
        data = event_data(block)
        if not data:
            return block
        if data == b"[DONE]":
            self.done = self.has_content = self._blocks.is_over = True
            return b""
        reply = read_or_none(REPLY, data)
        if (reply is not None and reply.is_error) or (block[:5] != b"data:" and event_name(block) == "error"):
            self.error = read_upstream_error(200, data)
            self._blocks.is_over = True
            return b""
        if reply is None:
            self.unparsed_count += 1
            return block
        if self._meter_usage(reply) and not reply.choices and not self._wants_usage:
            return b""
        self._meter_output(reply)
        relayed = self._renamer.rename(block, data, reply.model)
        if self._blocks.alike.is_promising and (text := _text_alone(reply)):
            self._blocks.alike.learn(block, relayed, text)
        return relayed

    def _meter_usage(self, reply: Reply) -> bool:
        """Note what the event reports; return whether it reports anything."""
        fields = reply.usage_fields()
        if fields:
            self._usage = merge_usage(self._usage, fields)
        if self._created is None:
            self._created = reply.created
        self._reply_id = self._reply_id or reply.id
        self._model = self._model or reply.model
        self._service_tier = reply.service_tier or self._service_tier
        return bool(fields)

    def _meter_output(self, reply: Reply) -> None:
        for choice in reply.choices or ():
            said = choice.said
            for text in said.texts():
                self._tally.add(text)
                self.has_content = True
            index = choice.index if isinstance(choice.index, int) else 0
            raw_stop = text_or_empty(choice.finish_reason) or self._raw_stops.get(index, "")
            self._raw_stops[index] = raw_stop
            if raw_stop or said.audio is not None:
                self.has_content = True
            if index == next(iter(self._raw_stops)):
                self._has_call = self._has_call or said.has_call
                self._has_refusal = self._has_refusal or bool(said.refusal)


def _text_alone(reply: Reply) -> str:
    """Return the text of an event that brings a piece of one choice's text and nothing else, "" for any other."""
    if reply.choices is None or len(reply.choices) != 1 or reply.usage_fields():
        return ""
    choice = reply.choices[0]
    said = choice.said
    is_bare = choice.finish_reason is None and said.audio is None and not said.has_call
    texts = said.texts() if is_bare else []
    return said.content if len(texts) == 1 and texts[0] is said.content else ""


class _Renamer:
    """Gives the events of one stream the public model name.

    The chunks of a stream begin alike, so the name is located once; a chunk that begins with the very same bytes
    has it at the same place.
    """

    def __init__(self, upstream_model: str, public_model: str) -> None:
        self._upstream_model = upstream_model
        self._public_json = msgspec.json.encode(public_model)
        self._is_needed = upstream_model != public_model
        self._beginning = b""
        self._renamed_beginning = b""

    def rename(self, block: bytes, data: bytes, model: Any) -> bytes:
        """Return the block with the model renamed where it is the one that was sent, else untouched."""
        if not self._is_needed or model != self._upstream_model:
            return block
        if not (self._beginning and block.startswith(self._beginning)):
            span = model_span(data, self._upstream_model)
            if span is None:
                return block
            start = block.find(data)
            if start < 0:  # data over several lines
                renamed = splice(data, [replace(span, self._public_json)])
                return encode_event(renamed, event_name(block) or None)
            self._beginning = block[: start + span.end]
            self._renamed_beginning = block[: start + span.start] + self._public_json
        return self._renamed_beginning + block[len(self._beginning) :]
