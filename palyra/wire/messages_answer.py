"""Reads answers in Anthropic's dialect into the neutral form: whole ones and streams, by the same steps.

A block of a kind that only this dialect has is kept as it came and has no meaning elsewhere.
"""

from __future__ import annotations

from typing import Any

import msgspec

from palyra.usage import TokenUsage
from palyra.wire.answer_reader import fold
from palyra.wire.cargo import made_id, unseal
from palyra.wire.decoding import NULL, read_or_none
from palyra.wire.errors import Malformed
from palyra.wire.messages_request import VENDOR, thinking_block
from palyra.wire.neutral_answer import Answer, Delta, Event, Finish, PartEnd, PartStart, Start, Usage, derive_stop
from palyra.wire.upstream_errors import UpstreamErrorInBody, read_upstream_error
from palyra.wire.usage import decode_usage, merge_usage, read_messages_usage


class _Block(msgspec.Struct):
    type: str = ""
    text: str = ""
    id: str = ""
    name: str = ""
    input: msgspec.Raw = NULL
    thinking: str = ""
    signature: str = ""
    data: str = ""
    citations: list[Any] | None = None


class _Delta(msgspec.Struct):
    type: str = ""
    text: str = ""
    partial_json: str = ""
    thinking: str = ""
    signature: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: Any = None
    container: Any = None


class _Whole(msgspec.Struct):
    type: str = ""
    id: str = ""
    model: str = ""
    content: list[msgspec.Raw] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: Any = None
    container: Any = None
    context_management: Any = None
    usage: msgspec.Raw = NULL


class _Event(msgspec.Struct):
    type: str
    message: _Whole | None = None
    index: int = 0
    content_block: msgspec.Raw = NULL
    delta: _Delta | None = None
    context_management: Any = None
    usage: msgspec.Raw = NULL


#: What is said of an answer as a whole and nowhere else.
_ASIDE = ("container", "context_management", "stop_details")


_EVENT = msgspec.json.Decoder(_Event)
_WHOLE = msgspec.json.Decoder(_Whole)
_BLOCK = msgspec.json.Decoder(_Block)
_STOPS = {
    "end_turn": "end_turn",
    "stop_sequence": "stop_sequence",
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "context_window",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    "pause_turn": "pause",
}


class _Open(msgspec.Struct):
    """A block that is being read."""

    part: int
    block: _Block
    raw: bytes
    thinking: list[str]
    signature: list[str]
    has_arguments: bool = False


class MessagesReader:
    """Reads one stream, or one whole answer as a stream whose blocks are whole."""

    keeps_text = False

    def __init__(self, *, vendor: str = VENDOR, seed: str = "") -> None:
        """`vendor`: whose reasoning this is. `seed`: what ids are made of that the provider left out."""
        self.is_done = False
        self._vendor = vendor
        self._seed = seed
        self._open: dict[int, _Open] = {}
        self._next_part = 0
        self._usage: dict[str, Any] = {}
        self._has_call = False
        self._stop: tuple[str, str] | None = None
        self._dropped: set[str] = set()
        self._has_ended = False

    def read(self, name: str, data: bytes) -> list[Event]:
        """See `StreamReader.read`."""
        event = read_or_none(_EVENT, data)
        if event is None or event.type == "error":
            if event is not None or name == "error":
                raise UpstreamErrorInBody(read_upstream_error(200, data))
            raise Malformed("An event of the provider's stream is not one of Anthropic's.")
        match event.type:
            case "content_block_delta" if event.delta is not None:
                return self._more(event.index, event.delta)
            case "content_block_start":
                return self._begin(event.index, event.content_block)
            case "content_block_stop":
                return self._end(event.index)
            case "message_start" if event.message is not None:
                message = event.message
                start = Start(response_id=message.id, model=message.model)
                return [start, *self._count(message.usage)]
            case "message_delta" if event.delta is not None:
                self._look_aside(event, event.delta)
                if event.delta.stop_reason is not None:
                    self._stop = (event.delta.stop_reason, event.delta.stop_sequence or "")
                return self._count(event.usage)
            case "message_stop":
                self.is_done = True
                return self.finish()
        return []

    def read_whole(self, body: bytes) -> list[Event]:
        """Return the events of a whole answer."""
        whole = read_or_none(_WHOLE, body.removeprefix(b"\xef\xbb\xbf"))
        if whole is not None and whole.type == "error":
            raise UpstreamErrorInBody(read_upstream_error(200, body))
        if whole is None or whole.content is None:
            raise Malformed("The provider's answer is not a message.")
        events: list[Event] = [Start(response_id=whole.id, model=whole.model)]
        for index, raw in enumerate(whole.content):
            events += self._begin(index, raw)
            events += self._end(index)
        events += self._count(whole.usage)
        self._look_aside(whole)
        self._stop = (whole.stop_reason or "", whole.stop_sequence or "")
        return events + self.finish()

    def finish(self) -> list[Event]:
        """See `StreamReader.finish`."""
        if self._has_ended or (self._stop is None and not self.is_done):
            return []
        self._has_ended = True
        events = [event for index in list(self._open) for event in self._end(index)]
        raw_stop, stop_text = self._stop or ("", "")
        stop = derive_stop(_STOPS.get(raw_stop, "unknown"), has_call=self._has_call, has_refusal=False)
        dropped = tuple(sorted(self._dropped))
        return [*events, Finish(stop=stop, raw_stop=raw_stop, stop_text=stop_text, dropped=dropped)]

    def _look_aside(self, *told: _Event | _Delta | _Whole) -> None:
        self._dropped |= {name for name in _ASIDE for one in told if getattr(one, name, None)}

    def _count(self, raw: msgspec.Raw) -> list[Event]:
        fields = decode_usage(raw)
        if not fields:
            return []
        self._usage = merge_usage(self._usage, fields)
        usage, anomalies = read_messages_usage(self._usage, output_seen=self._next_part > 0)
        tier = self._usage.get("service_tier")
        service_tier = tier if isinstance(tier, str) else ""
        return [Usage(usage=usage or TokenUsage(), anomalies=anomalies, service_tier=service_tier)]

    def _begin(self, index: int, raw: msgspec.Raw) -> list[Event]:
        block = read_or_none(_BLOCK, raw) or _Block(type="unknown")
        part = self._next_part
        self._next_part += 1
        opened = _Open(
            part=part, block=block, raw=bytes(raw), thinking=[block.thinking], signature=[block.signature]
        )
        self._open[index] = opened
        match block.type:
            case "text":
                self._dropped |= {"citations"} if block.citations else set()
                return [PartStart(index=part, kind="text"), *_delta(part, block.text)]
            case "tool_use":
                self._has_call = True
                call_id = block.id or made_id("toolu_", self._seed, part)
                return [PartStart(index=part, kind="call", call_id=call_id, name=block.name)]
            case "thinking":
                return [PartStart(index=part, kind="reasoning"), *_delta(part, block.thinking)]
            case "redacted_thinking":
                return [PartStart(index=part, kind="reasoning")]
        return [PartStart(index=part, kind="foreign")]

    def _more(self, index: int, delta: _Delta) -> list[Event]:
        opened = self._open.get(index)
        if opened is None:
            raise Malformed("The provider's stream goes on with a block that it has not begun.")
        match (opened.block.type, delta.type):
            case ("text", "text_delta"):
                return _delta(opened.part, delta.text)
            case ("text", "citations_delta"):
                self._dropped.add("citations")
            case ("tool_use", "input_json_delta"):
                opened.has_arguments = opened.has_arguments or bool(delta.partial_json)
                return _delta(opened.part, delta.partial_json)
            case ("thinking", "thinking_delta"):
                opened.thinking.append(delta.thinking)
                return _delta(opened.part, delta.thinking)
            case ("thinking", "signature_delta"):
                opened.signature.append(delta.signature)
        return []

    def _end(self, index: int) -> list[Event]:
        opened = self._open.pop(index, None)
        if opened is None:
            return []
        part, block = opened.part, opened.block
        match block.type:
            case "tool_use" if not opened.has_arguments:
                raw = b"{}" if bytes(block.input) == b"null" else bytes(block.input)
                return [Delta(index=part, text=msgspec.json.format(raw, indent=-1).decode()), PartEnd(index=part)]
            case "text" | "tool_use":
                return [PartEnd(index=part)]
            case "thinking":
                return [self._reasoning(part, "".join(opened.signature), "".join(opened.thinking))]
            case "redacted_thinking":
                return [self._reasoning(part, block.data, None)]
        return [PartEnd(index=part, label=block.type, raw=opened.raw)]

    def _reasoning(self, part: int, signature: str, thinking: str | None) -> PartEnd:
        sealed = unseal(signature)  # another gateway's
        vendor, raw = sealed or (self._vendor, thinking_block(thinking, signature))
        return PartEnd(index=part, vendor=vendor, raw=raw)


def read_messages_answer(body: bytes, *, vendor: str = VENDOR, seed: str = "") -> Answer:
    """Read a whole answer; raises `Malformed`, or `UpstreamErrorInBody` for an error behind a 200."""
    return fold(MessagesReader(vendor=vendor, seed=seed).read_whole(body))


def _delta(part: int, text: str) -> list[Event]:
    return [Delta(index=part, text=text)] if text else []
