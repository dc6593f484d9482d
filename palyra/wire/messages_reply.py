"""Writes answers in Anthropic's dialect, whole and as a stream.

The blocks of a stream follow one another, so what a provider interleaves is sorted: the block at hand goes out as
it comes, the others wait for their turn (gateway specification 12.4).
"""

from __future__ import annotations

from typing import Any

import msgspec

from palyra.limits import SSE_LINE_MAX_BYTES
from palyra.usage import TokenUsage
from palyra.wire.answer_writer import Reply
from palyra.wire.cargo import fit_id, seal
from palyra.wire.decoding import MEMBERS, read_or_none
from palyra.wire.errors import Malformed
from palyra.wire.messages_request import VENDOR
from palyra.wire.neutral import Call, Foreign, Part, Reasoning, Refused, Text
from palyra.wire.neutral_answer import Answer, Delta, Event, Finish, PartEnd, PartStart, Start, Usage
from palyra.wire.sse import encode_event
from palyra.wire.usage_written import messages_usage

PING = encode_event(b'{"type":"ping"}', "ping")
_STOP_REASONS = {
    "stop_sequence": "stop_sequence",
    "max_tokens": "max_tokens",
    "context_window": "model_context_window_exceeded",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "refusal": "refusal",
    "pause": "pause_turn",
}


def stop_reason(stop: str) -> str:
    """Return a stop in the words of this dialect."""
    return _STOP_REASONS.get(stop, "end_turn")


def write_messages_reply(answer: Answer, reply: Reply) -> bytes:
    """Return a whole answer."""
    body = {
        **_head(reply),
        "content": [block for part in answer.parts if (block := _block(part)) is not None],
        "stop_reason": stop_reason(answer.stop),
        "stop_sequence": answer.stop_text or None,
        "usage": messages_usage(answer.usage.usage if answer.usage is not None else TokenUsage()),
    }
    return msgspec.json.encode(body)


def _head(reply: Reply) -> dict[str, Any]:
    return {"id": f"msg_{reply.run_id}", "type": "message", "role": "assistant", "model": reply.model}


def _block(part: Part) -> Any:
    """Return a block of a whole answer, None for a text that is empty."""
    match part:
        case Text(text=text) | Refused(text=text):
            return {"type": "text", "text": text} if text else None
        case Reasoning():
            return _thinking(part)
        case Call():
            return {**_call_head(part.call_id, part.name), "input": _input(part.arguments)}
        case Foreign(raw=raw):
            return msgspec.Raw(raw)
    raise TypeError(f"no model says {type(part).__name__}")


def _call_head(call_id: str, name: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": fit_id("messages", call_id), "name": name}


def _input(arguments: str) -> Any:
    """Return arguments as the object that they must be here; a text that is none, cut off perhaps, is kept."""
    if not arguments.strip():
        return {}
    members = read_or_none(MEMBERS, arguments.encode())
    return {"input": arguments} if members is None else members


def _thinking(part: Reasoning) -> Any:
    if part.vendor == VENDOR and part.raw:
        return msgspec.Raw(part.raw)
    signature = seal(part.vendor, part.raw) if part.raw else ""
    return {"type": "thinking", "thinking": part.text, "signature": signature}


class _Own(msgspec.Struct):
    type: str = ""
    signature: str = ""


_THINKING = msgspec.json.Decoder(_Own)


class _Waiting(msgspec.Struct):
    """A block whose turn has not come."""

    start: PartStart
    events: list[Delta | PartEnd]


class MessagesWriter:
    """Writes one stream; see `StreamWriter`."""

    keeps_text = False

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._usage: TokenUsage | None = None
        self._has_started = False
        #: The part that is being written, and whether its block has begun.
        self._current: PartStart | None = None
        self._has_begun = False
        self._waiting: dict[int, _Waiting] = {}
        self._waiting_bytes = 0
        self._blocks_count = 0
        self._finish: Finish | None = None

    def write(self, event: Event) -> bytes:
        """See `StreamWriter.write`."""
        match event:
            case Usage(usage=usage):
                self._usage = usage
                return b""
            case Start():
                return b""  # the head names the input's tokens, which come next if they come at all
            case Finish():
                self._finish = event
                return self._head()
            case PartStart():
                return self._head() + self._take_turn(event)
            case _:
                return self._relay(event)

    def end(self) -> bytes:
        """See `StreamWriter.end`."""
        finish = self._finish or Finish(stop="unknown")
        return self._close(stop_reason(finish.stop), finish.stop_text or None)

    def cut(self) -> bytes:
        """See `StreamWriter.cut`."""
        stop = _event("content_block_stop", index=self._blocks_count) if self._has_begun else b""
        return self._head() + stop + self._close("max_tokens", None)

    def fail(self, envelope: dict[str, Any]) -> bytes:
        """See `StreamWriter.fail`."""
        return encode_event(msgspec.json.encode(envelope), "error")

    def _head(self) -> bytes:
        if self._has_started:
            return b""
        self._has_started = True
        usage = self._usage or TokenUsage(input_tokens=self._reply.input_estimate_tokens)
        message = {
            **_head(self._reply),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": messages_usage(usage),
        }
        return _event("message_start", message=message)

    def _close(self, reason: str, stop_text: str | None) -> bytes:
        delta = {"stop_reason": reason, "stop_sequence": stop_text}
        usage = messages_usage(self._usage or TokenUsage())
        return _event("message_delta", delta=delta, usage=usage) + _event("message_stop")

    def _take_turn(self, start: PartStart) -> bytes:
        if self._current is not None:
            self._waiting[start.index] = _Waiting(start=start, events=[])
            return b""
        self._current = start
        return self._begin() if start.kind == "call" else b""

    def _relay(self, event: Delta | PartEnd) -> bytes:
        if self._current is None or event.index != self._current.index:
            self._wait(event)
            return b""
        out = self._write(event)
        while self._current is None and self._waiting:
            following = self._waiting.pop(min(self._waiting))
            out += self._take_turn(following.start)
            for held in following.events:
                out += self._write(held)
        return out

    def _wait(self, event: Delta | PartEnd) -> None:
        self._waiting[event.index].events.append(event)
        self._waiting_bytes += len(event.text) if isinstance(event, Delta) else 0
        if self._waiting_bytes > SSE_LINE_MAX_BYTES:
            raise Malformed("Too much of the answer came out of order.", code="response_too_large")

    def _begin(self) -> bytes:
        """Begin the block of the current part, unless it has begun."""
        assert self._current is not None
        if self._has_begun:
            return b""
        self._has_begun = True
        match self._current.kind:
            case "call":
                block = {**_call_head(self._current.call_id, self._current.name), "input": {}}
            case "reasoning":
                block = {"type": "thinking", "thinking": "", "signature": ""}
            case _:
                block = {"type": "text", "text": ""}
        return _event("content_block_start", index=self._blocks_count, content_block=block)

    def _write(self, event: Delta | PartEnd) -> bytes:
        current = self._current
        assert current is not None
        if isinstance(event, PartEnd):
            return self._end_block(current, event)
        match current.kind:
            case "reasoning":
                delta = {"type": "thinking_delta", "thinking": event.text}
            case "call":
                delta = {"type": "input_json_delta", "partial_json": event.text}
            case _:
                delta = {"type": "text_delta", "text": event.text}
        return self._begin() + _event("content_block_delta", index=self._blocks_count, delta=delta)

    def _end_block(self, current: PartStart, end: PartEnd) -> bytes:
        out = b""
        if current.kind == "reasoning":
            out = self._end_thinking(end)
        elif current.kind == "foreign":
            out = self._whole(msgspec.Raw(end.raw))
        if self._has_begun:
            out += _event("content_block_stop", index=self._blocks_count)
            self._blocks_count += 1
        self._current, self._has_begun = None, False
        return out

    def _end_thinking(self, end: PartEnd) -> bytes:
        own = read_or_none(_THINKING, end.raw) if end.vendor == VENDOR else None
        if own is not None and own.type != "thinking":
            return self._whole(msgspec.Raw(end.raw))  # redacted: all of it is cargo
        signature = own.signature if own is not None else seal(end.vendor, end.raw) if end.raw else ""
        delta = {"type": "signature_delta", "signature": signature}
        return self._begin() + _event("content_block_delta", index=self._blocks_count, delta=delta)

    def _whole(self, block: msgspec.Raw) -> bytes:
        self._has_begun = True
        return _event("content_block_start", index=self._blocks_count, content_block=block)


def _event(name: str, **members: Any) -> bytes:
    return encode_event(msgspec.json.encode({"type": name, **members}), name)
