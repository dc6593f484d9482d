"""Writes answers in OpenAI's older dialect, whole and as a stream."""

from __future__ import annotations

from typing import Any

import msgspec

from palyra.usage import TokenUsage
from palyra.wire.answer_writer import Reply
from palyra.wire.cargo import OPAQUE, fit_id, pack
from palyra.wire.neutral import Call, Reasoning, Refused, Text
from palyra.wire.neutral_answer import Answer, Delta, Event, PartEnd, PartStart, Start, Usage
from palyra.wire.sse import encode_event
from palyra.wire.usage_written import chat_usage

DONE = b"data: [DONE]\n\n"
_FINISH_REASONS = {
    "max_tokens": "length",
    "context_window": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}


def finish_reason(stop: str) -> str:
    """Return a stop in the words of this dialect."""
    return _FINISH_REASONS.get(stop, "stop")


def _opaque(vendor: str, raw: bytes) -> dict[str, str]:
    return {"type": OPAQUE, "vendor": vendor, "data": pack(raw)}


def write_chat_reply(answer: Answer, reply: Reply) -> bytes:
    """Return a whole answer."""
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    texts, thoughts, refusals = [], [], []
    details, calls = [], []
    for part in answer.parts:
        match part:
            case Text(text=text):
                texts.append(text)
            case Refused(text=text):
                refusals.append(text)
            case Reasoning(text=text, vendor=vendor, raw=raw):
                thoughts.append(text)
                details += [_opaque(vendor, raw)] if raw else []
            case Call():
                calls.append({"id": fit_id("chat", part.call_id), **_called(part)})
    if any(texts) or not (calls or refusals):
        message["content"] = "".join(texts)
    if refusals:
        message["refusal"] = "".join(refusals)
    if any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    if details:
        message["reasoning_details"] = details
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(answer.stop)}
    usage = answer.usage.usage if answer.usage is not None else TokenUsage()
    body = {**_head(reply, "chat.completion"), "choices": [choice], "usage": chat_usage(usage)}
    return msgspec.json.encode(body)


def _called(call: Call) -> dict[str, Any]:
    if call.is_freeform:
        return {"type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    return {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _head(reply: Reply, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{reply.run_id}", "object": kind, "created": reply.created_s, "model": reply.model}


class ChatWriter:
    """Writes one stream; see `StreamWriter`."""

    keeps_text = False

    def __init__(self, reply: Reply) -> None:
        self._wants_usage = reply.wants_usage
        head = msgspec.json.encode(_head(reply, "chat.completion.chunk"))
        self._head = b"data: " + head[:-1]
        #: Of a stream that ends with its usage every chunk before has the member, too.
        self._end = b',"usage":null}\n\n' if reply.wants_usage else b"}\n\n"
        self._usage = TokenUsage()
        self._kinds: dict[int, PartStart] = {}
        #: Of calls: their index among the calls.
        self._calls: dict[int, int] = {}

    def write(self, event: Event) -> bytes:
        """See `StreamWriter.write`."""
        match event:
            case Delta(index=index, text=text):
                return self._delta(index, text)
            case Start():
                return self._chunk({"role": "assistant", "content": ""})
            case PartStart(index=index):
                self._kinds[index] = event
                return self._begin(event) if event.kind == "call" else b""
            case PartEnd(raw=raw, vendor=vendor):
                is_cargo = raw and self._kinds[event.index].kind == "reasoning"
                return self._chunk({"reasoning_details": [_opaque(vendor, raw)]}) if is_cargo else b""
            case Usage(usage=usage):
                self._usage = usage
                return b""
            case _:
                return self._finish(finish_reason(event.stop))

    def end(self) -> bytes:
        """See `StreamWriter.end`."""
        return DONE

    def cut(self) -> bytes:
        """See `StreamWriter.cut`."""
        return self._finish("length") + DONE

    def fail(self, envelope: dict[str, Any]) -> bytes:
        """See `StreamWriter.fail`."""
        return encode_event(msgspec.json.encode(envelope)) + DONE

    def _begin(self, start: PartStart) -> bytes:
        self._calls[start.index] = len(self._calls)
        call = Call(
            call_id=fit_id("chat", start.call_id), name=start.name, arguments="", is_freeform=start.is_freeform
        )
        whole = {"index": self._calls[start.index], "id": call.call_id, **_called(call)}
        return self._chunk({"tool_calls": [whole]})

    def _delta(self, index: int, text: str) -> bytes:
        start = self._kinds[index]
        match start.kind:
            case "text":
                return self._chunk({"content": text})
            case "reasoning":
                return self._chunk({"reasoning_content": text})
            case "refusal":
                return self._chunk({"refusal": text})
        more = {"custom": {"input": text}} if start.is_freeform else {"function": {"arguments": text}}
        return self._chunk({"tool_calls": [{"index": self._calls[index], **more}]})

    def _finish(self, reason: str) -> bytes:
        last = self._chunk({}, reason)
        if not self._wants_usage:
            return last
        counts = msgspec.json.encode({"choices": [], "usage": chat_usage(self._usage)})
        return last + self._head + b"," + counts[1:] + b"\n\n"

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._head + b"," + msgspec.json.encode({"choices": [choice]})[1:-1] + self._end
