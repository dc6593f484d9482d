"""Writes answers in OpenAI's newer dialect, whole and as a stream.

Each piece of text is an item of its own, so that a whole answer and a stream have the same items in the same order.
"""

from __future__ import annotations

from typing import Any

import msgspec

from palyra.usage import TokenUsage
from palyra.wire.answer_writer import Reply
from palyra.wire.cargo import fit_id, seal
from palyra.wire.neutral import Call, Foreign, Part, Reasoning, Refused, Text
from palyra.wire.neutral_answer import Answer, Delta, Event, PartEnd, PartStart, Start, Usage
from palyra.wire.responses_request import VENDOR
from palyra.wire.sse import encode_event
from palyra.wire.usage_written import responses_usage

_INCOMPLETE = {
    "max_tokens": "max_output_tokens",
    "context_window": "max_output_tokens",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}
#: Stops that came while an item was being written.
_CUT_STOPS = ("max_tokens", "context_window", "content_filter")
#: Members of a response that its request may set, and what they are where it does not.
ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "service_tier": None,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}


def write_responses_reply(answer: Answer, reply: Reply) -> bytes:
    """Return a whole answer."""
    parts = [part for part in answer.parts if not (isinstance(part, Text | Refused) and not part.text)]
    whole_count = len(parts) - (answer.stop in _CUT_STOPS)
    statuses = ["completed" if index < whole_count else "incomplete" for index in range(len(parts))]
    items = [_item(part, index, reply, statuses[index]) for index, part in enumerate(parts)]
    return msgspec.json.encode(_ended(reply, items, answer.stop, answer.usage.usage if answer.usage else None))


def _response(reply: Reply, status: str, items: list[Any], **more: Any) -> dict[str, Any]:
    return {
        "id": f"resp_{reply.run_id}",
        "object": "response",
        "created_at": reply.created_s,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        **{name: reply.echo.get(name, usual) for name, usual in ECHOED.items()},
        "model": reply.model,
        "output": items,
        "store": False,
        "usage": None,
        **more,
    }


def _ended(reply: Reply, items: list[Any], stop: str, usage: TokenUsage | None) -> dict[str, Any]:
    reason = _INCOMPLETE.get(stop)
    return _response(
        reply,
        "completed" if reason is None else "incomplete",
        items,
        incomplete_details=None if reason is None else {"reason": reason},
        usage=responses_usage(usage or TokenUsage()),
    )


def _id(prefix: str, index: int, reply: Reply) -> str:
    return f"{prefix}_{reply.run_id}_{index}"


def _item(part: Part, index: int, reply: Reply, status: str) -> Any:
    """Return an item of a whole answer."""
    match part:
        case Text(text=text):
            return _message(index, reply, [_text_part(text)], status)
        case Refused(text=text):
            return _message(index, reply, [_refusal_part(text)], status)
        case Call():
            return _call(part, index, reply, status)
        case Reasoning():
            return _thoughts(part, index, reply)
        case Foreign(raw=raw):
            return msgspec.Raw(raw)
    raise TypeError(f"no model says {type(part).__name__}")


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _refusal_part(text: str) -> dict[str, Any]:
    return {"type": "refusal", "refusal": text}


def _message(index: int, reply: Reply, content: list[Any], status: str) -> dict[str, Any]:
    head = {"type": "message", "id": _id("msg", index, reply), "status": status, "role": "assistant"}
    return {**head, "content": content}


def _call(call: Call, index: int, reply: Reply, status: str) -> dict[str, Any]:
    group, name = reply.namespaces.get(call.name, ("", call.name))
    said = {"call_id": fit_id("responses", call.call_id), "name": name, **({"namespace": group} if group else {})}
    if call.is_freeform:
        head = {"type": "custom_tool_call", "id": _id("ctc", index, reply), "status": status}
        return {**head, **said, "input": call.arguments}
    head = {"type": "function_call", "id": _id("fc", index, reply), "status": status}
    return {**head, **said, "arguments": call.arguments}


def _thoughts(part: Reasoning, index: int, reply: Reply) -> Any:
    if part.vendor == VENDOR and part.raw:
        return msgspec.Raw(part.raw)
    summary = [{"type": "summary_text", "text": part.text}] if part.text else []
    cargo = {"encrypted_content": seal(part.vendor, part.raw)} if part.raw and reply.wants_cargo else {}
    return {"type": "reasoning", "id": _id("rs", index, reply), "summary": summary, **cargo}


class _Open(msgspec.Struct):
    """A part that is being written."""

    start: PartStart
    #: Place among the items, -1 until it has begun.
    index: int
    pieces: list[str]

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class ResponsesWriter:
    """Writes one stream; see `StreamWriter`.

    An item that has ended is told once it is clear that it was whole: when more comes, or the answer ends well.
    """

    keeps_text = True

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._sequence_number = 0
        self._items: list[Any] = []
        self._open: dict[int, _Open] = {}
        #: What has ended last, and how.
        self._ended: tuple[_Open, PartEnd] | None = None
        self._usage: TokenUsage | None = None
        self._stop = "unknown"

    def write(self, event: Event) -> bytes:
        """See `StreamWriter.write`."""
        match event:
            case Delta(index=index, text=text):
                return self._delta(self._open[index], text)
            case Start():
                response = _response(self._reply, "in_progress", [])
                begun = self._event("response.created", response=response)
                return begun + self._event("response.in_progress", response=response)
            case PartStart(index=index):
                self._open[index] = opened = _Open(start=event, index=-1, pieces=[])
                return self._tell_ended() + (self._begin(opened) if event.kind == "call" else b"")
            case PartEnd(index=index):
                told = self._tell_ended()
                self._ended = (self._open.pop(index), event)
                return told
            case Usage(usage=usage):
                self._usage = usage
                return b""
            case _:
                self._stop = event.stop
                return self._tell_ended("incomplete" if event.stop in _CUT_STOPS else "completed")

    def end(self) -> bytes:
        """See `StreamWriter.end`."""
        return self._last(self._stop)

    def cut(self) -> bytes:
        """See `StreamWriter.cut`."""
        ends = [self._end(opened, PartEnd(index=0), "incomplete") for opened in self._open.values()]
        return self._tell_ended() + b"".join(ends) + self._last("max_tokens")

    def fail(self, envelope: dict[str, Any]) -> bytes:
        """See `StreamWriter.fail`."""
        error = {"code": envelope["error"]["code"], "message": envelope["error"]["message"]}
        told = self._tell_ended()
        response = _response(self._reply, "failed", self._items, error=error)
        return told + self._event("response.failed", response=response, palyra=envelope["palyra"])

    def _last(self, stop: str) -> bytes:
        response = _ended(self._reply, self._items, stop, self._usage)
        return self._event(f"response.{response['status']}", response=response)

    def _event(self, kind: str, **members: Any) -> bytes:
        data = msgspec.json.encode({"type": kind, "sequence_number": self._sequence_number, **members})
        self._sequence_number += 1
        return encode_event(data, kind)

    def _at(self, opened: _Open, prefix: str) -> dict[str, Any]:
        return {"item_id": _id(prefix, opened.index, self._reply), "output_index": opened.index}

    def _begin(self, opened: _Open) -> bytes:
        """Begin the item of a part, unless it has begun."""
        if opened.index >= 0:
            return b""
        opened.index = index = len(self._items)
        start = opened.start
        out = b""
        match start.kind:
            case "call":
                item: Any = _call(self._said(opened, ""), index, self._reply, "in_progress")
            case "reasoning":
                item = {"type": "reasoning", "id": _id("rs", index, self._reply), "summary": []}
            case _:
                item = _message(index, self._reply, [], "in_progress")
        self._items.append(item)
        out = self._event("response.output_item.added", output_index=index, item=item)
        if start.kind in ("text", "refusal"):
            at = {**self._at(opened, "msg"), "content_index": 0}
            part = _text_part("") if start.kind == "text" else _refusal_part("")
            out += self._event("response.content_part.added", **at, part=part)
        return out

    def _said(self, opened: _Open, arguments: str) -> Call:
        start = opened.start
        return Call(call_id=start.call_id, name=start.name, arguments=arguments, is_freeform=start.is_freeform)

    def _delta(self, opened: _Open, text: str) -> bytes:
        out = self._begin(opened)
        is_first = not opened.pieces
        opened.pieces.append(text)
        match opened.start.kind:
            case "text":
                at = {**self._at(opened, "msg"), "content_index": 0}
                return out + self._event("response.output_text.delta", **at, delta=text, logprobs=[])
            case "refusal":
                at = {**self._at(opened, "msg"), "content_index": 0}
                return out + self._event("response.refusal.delta", **at, delta=text)
            case "call" if opened.start.is_freeform:
                return out + self._event(
                    "response.custom_tool_call_input.delta", **self._at(opened, "ctc"), delta=text
                )
            case "call":
                at = self._at(opened, "fc")
                return out + self._event("response.function_call_arguments.delta", **at, delta=text)
        at = {**self._at(opened, "rs"), "summary_index": 0}
        if is_first:
            part = {"type": "summary_text", "text": ""}
            out += self._event("response.reasoning_summary_part.added", **at, part=part)
        return out + self._event("response.reasoning_summary_text.delta", **at, delta=text)

    def _tell_ended(self, status: str = "completed") -> bytes:
        ended, self._ended = self._ended, None
        return b"" if ended is None else self._end(*ended, status)

    def _end(self, opened: _Open, end: PartEnd, status: str) -> bytes:
        text, kind = opened.text, opened.start.kind
        if kind in ("text", "refusal") and not text:
            return b""
        out = self._begin(opened)
        match kind:
            case "text" | "refusal":
                part: Part = Text(text=text) if kind == "text" else Refused(text=text)
                out += self._end_content(opened, text)
            case "call":
                part = self._said(opened, text)
                name = "custom_tool_call_input" if opened.start.is_freeform else "function_call_arguments"
                said = (
                    {"input": text} if opened.start.is_freeform else {"arguments": text, "name": opened.start.name}
                )
                at = self._at(opened, "ctc" if opened.start.is_freeform else "fc")
                out += self._event(f"response.{name}.done", **at, **said)
            case "reasoning":
                part = Reasoning(text=text, vendor=end.vendor, raw=end.raw)
                if text:
                    at = {**self._at(opened, "rs"), "summary_index": 0}
                    out += self._event("response.reasoning_summary_text.done", **at, text=text)
                    done = {"type": "summary_text", "text": text}
                    out += self._event("response.reasoning_summary_part.done", **at, part=done)
            case _:
                part = Foreign(label=end.label, raw=end.raw)
        self._items[opened.index] = item = _item(part, opened.index, self._reply, status)
        return out + self._event("response.output_item.done", output_index=opened.index, item=item)

    def _end_content(self, opened: _Open, text: str) -> bytes:
        at = {**self._at(opened, "msg"), "content_index": 0}
        if opened.start.kind == "text":
            done = self._event("response.output_text.done", **at, text=text, logprobs=[])
            return done + self._event("response.content_part.done", **at, part=_text_part(text))
        done = self._event("response.refusal.done", **at, refusal=text)
        return done + self._event("response.content_part.done", **at, part=_refusal_part(text))
