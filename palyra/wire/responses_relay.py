"""OpenAI's newer stream passed through: the provider's bytes to the client, but for the model's name."""

from __future__ import annotations

from typing import Any

import msgspec

from palyra.wire.decoding import NULL, read_or_none
from palyra.wire.messages_relay import rename_inside
from palyra.wire.neutral_answer import Event, Usage
from palyra.wire.sse import encode_event
from palyra.wire.usage_written import responses_usage


class _Typed(msgspec.Struct):
    type: str = ""
    sequence_number: int = 0
    output_index: int = 0
    content_index: int = 0
    response: msgspec.Raw = NULL
    item: msgspec.Raw = NULL
    part: msgspec.Raw = NULL
    delta: Any = None


class _Open(msgspec.Struct):
    """An item, or a part of one, that has begun and not ended."""

    #: As it was when it began.
    members: dict[str, Any]
    #: Where its text stands among its members: text, refusal, arguments, input.
    text_member: str
    pieces: list[str]

    def told(self, **members: Any) -> dict[str, Any]:
        """Return it with what has come of its text."""
        text = {self.text_member: "".join(self.pieces)} if self.text_member else {}
        return {**self.members, **text, **members}


_TYPED = msgspec.json.Decoder(_Typed)
_MEMBERS = msgspec.json.Decoder(dict[str, Any])
_LAST = ("response.completed", "response.incomplete")
_TEXT_MEMBERS = {
    "output_text": "text",
    "refusal": "refusal",
    "function_call": "arguments",
    "custom_tool_call": "input",
}
#: Of an item itself, among its parts.
_ITSELF = -1


class ResponsesOutlet:
    """An outlet of the provider's own events; see `stream_meter.Outlet`."""

    drops = False
    keeps_text = True

    def __init__(self, *, upstream_model: str, public_model: str) -> None:
        self._upstream_model = upstream_model
        self._public_model = public_model
        self._sequence_number = -1
        #: The response as it was first told, and the items that are whole: for an end that is ours to tell.
        self._response: dict[str, Any] = {"object": "response"}
        self._items: list[Any] = []
        #: What is not whole yet, by item and place in it.
        self._open: dict[int, dict[int, _Open]] = {}
        self._usage: dict[str, Any] | None = None
        #: The last event, which goes out once the usage is durable.
        self._last = b""

    def pass_on(self, block: bytes) -> bytes:
        """See `Outlet.pass_on`."""
        return block

    def relay(self, block: bytes, data: bytes, events: list[Event]) -> bytes:
        """See `Outlet.relay`."""
        self.tail(events)
        typed = read_or_none(_TYPED, data) or _Typed()
        self._sequence_number = max(self._sequence_number, typed.sequence_number)
        self._note(typed)
        if bytes(typed.response) == b"null":
            return block
        if self._upstream_model != self._public_model:
            block = rename_inside(block, data, "response", self._upstream_model, self._public_model)
        if typed.type in _LAST:
            self._last = block
            return b""
        self._response = read_or_none(_MEMBERS, typed.response) or self._response
        return block

    def tail(self, events: list[Event]) -> bytes:
        """See `Outlet.tail`: usage is kept; what a provider left out, it left out for the client too."""
        for event in events:
            if isinstance(event, Usage):
                self._usage = responses_usage(event.usage)
        return b""

    def closing(self, *, is_cut: bool) -> bytes:
        """See `Outlet.closing`."""
        if not is_cut:
            return self._last
        ends = [self._end_item(index) for index in sorted(self._open)]
        reason = {"reason": "max_output_tokens"}
        return b"".join(ends) + self._response_event("incomplete", incomplete_details=reason, usage=self._usage)

    def failing(self, envelope: dict[str, Any]) -> bytes:
        """See `Outlet.failing`."""
        error = {"code": envelope["error"]["code"], "message": envelope["error"]["message"]}
        return self._response_event("failed", error=error, palyra=envelope["palyra"])

    def _note(self, typed: _Typed) -> None:
        """Keep what an end that is ours to tell would have to tell."""
        match typed.type:
            case "response.output_item.added":
                self._begin(typed.output_index, _ITSELF, typed.item)
            case "response.content_part.added":
                self._begin(typed.output_index, typed.content_index, typed.part)
            case "response.output_item.done":
                self._open.pop(typed.output_index, None)
                self._items.append(typed.item)
            case "response.output_text.delta" | "response.refusal.delta":
                self._more(typed, typed.content_index)
            case "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta":
                self._more(typed, _ITSELF)

    def _begin(self, index: int, place: int, raw: msgspec.Raw) -> None:
        members = read_or_none(_MEMBERS, raw) or {}
        opened = _Open(members=members, text_member=_TEXT_MEMBERS.get(str(members.get("type")), ""), pieces=[])
        self._open.setdefault(index, {})[place] = opened

    def _more(self, typed: _Typed, place: int) -> None:
        opened = self._open.get(typed.output_index, {}).get(place)
        if opened is not None and isinstance(typed.delta, str):
            opened.pieces.append(typed.delta)

    def _end_item(self, index: int) -> bytes:
        """Return the last event of an item that nothing more comes of."""
        parts = self._open.pop(index)
        item = parts.pop(_ITSELF, None)
        if item is None:
            return b""
        content = {"content": [parts[place].told() for place in sorted(parts)]} if parts else {}
        told = item.told(status="incomplete", **content)
        self._items.append(told)
        return self._event("response.output_item.done", output_index=index, item=told)

    def _response_event(self, status: str, **members: Any) -> bytes:
        told = {**self._response, "model": self._public_model, "status": status, "output": self._items}
        return self._event(f"response.{status}", response={**told, **members})

    def _event(self, name: str, **members: Any) -> bytes:
        self._sequence_number += 1
        event = {"type": name, "sequence_number": self._sequence_number, **members}
        return encode_event(msgspec.json.encode(event), name)
