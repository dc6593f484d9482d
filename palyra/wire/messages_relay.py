"""Anthropic's stream passed through: the provider's bytes to the client, but for the model's name."""

from __future__ import annotations

from typing import Any

import msgspec

from palyra.usage import TokenUsage
from palyra.wire.decoding import read_or_none
from palyra.wire.errors import WireError
from palyra.wire.jsonscan import replace, scan_object, splice
from palyra.wire.neutral_answer import Event, Usage
from palyra.wire.openai_edits import model_span
from palyra.wire.sse import encode_event, event_name
from palyra.wire.usage_written import messages_usage


class _Typed(msgspec.Struct):
    type: str = ""
    index: int = 0


_TYPED = msgspec.json.Decoder(_Typed)


class MessagesOutlet:
    """An outlet of the provider's own events; see `stream_meter.Outlet`."""

    drops = False
    keeps_text = False

    def __init__(self, *, upstream_model: str, public_model: str) -> None:
        self._upstream_model = upstream_model
        self._public_model = public_model
        self._usage = TokenUsage()
        self._open_index: int | None = None
        #: The last event, which goes out once the usage is durable.
        self._last = b""

    def pass_on(self, block: bytes) -> bytes:
        """See `Outlet.pass_on`."""
        return block

    def relay(self, block: bytes, data: bytes, events: list[Event]) -> bytes:
        """See `Outlet.relay`."""
        self.tail(events)
        typed = read_or_none(_TYPED, data) or _Typed()
        match typed.type:
            case "message_start" if self._upstream_model != self._public_model:
                return rename_inside(block, data, "message", self._upstream_model, self._public_model)
            case "content_block_start":
                self._open_index = typed.index
            case "content_block_stop":
                self._open_index = None
            case "message_stop":
                self._last = block
                return b""
        return block

    def tail(self, events: list[Event]) -> bytes:
        """See `Outlet.tail`: usage is kept; what a provider left out, it left out for the client too."""
        for event in events:
            if isinstance(event, Usage):
                self._usage = event.usage
        return b""

    def closing(self, *, is_cut: bool) -> bytes:
        """See `Outlet.closing`."""
        if not is_cut:
            return self._last
        out = b"" if self._open_index is None else _event("content_block_stop", index=self._open_index)
        delta = {"stop_reason": "max_tokens", "stop_sequence": None}
        out += _event("message_delta", delta=delta, usage=messages_usage(self._usage))
        return out + _event("message_stop")

    def failing(self, envelope: dict[str, Any]) -> bytes:
        """See `Outlet.failing`."""
        return encode_event(msgspec.json.encode(envelope), "error")


def rename_inside(block: bytes, data: bytes, member: str, upstream_model: str, public_model: str) -> bytes:
    """Return an event whose `member` names the model with the public name where the sent one stands."""
    try:
        outer = scan_object(data)[member]
    except (WireError, KeyError):
        return block
    inner = model_span(data[outer.start : outer.end], upstream_model)
    if inner is None:
        return block
    renamed = splice(data[outer.start : outer.end], [replace(inner, msgspec.json.encode(public_model))])
    return encode_event(splice(data, [replace(outer, renamed)]), event_name(block) or None)


def _event(name: str, **members: Any) -> bytes:
    return encode_event(msgspec.json.encode({"type": name, **members}), name)
