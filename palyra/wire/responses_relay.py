"""OpenAI's newer dialect passed through: the client's bytes up, the provider's down, but for the splices."""

from __future__ import annotations

from typing import Any

import msgspec

from palyra.wire.decoding import NULL, read_or_none
from palyra.wire.messages_relay import rename_inside
from palyra.wire.neutral_answer import Event, Usage
from palyra.wire.openai_edits import Edits
from palyra.wire.passing import Passage
from palyra.wire.request import SurfaceRequest
from palyra.wire.sse import encode_event
from palyra.wire.target import Prepared, Target
from palyra.wire.usage_written import responses_usage


def prepare_responses(request: SurfaceRequest, target: Target) -> Prepared:
    """Return the body for one attempt, spliced from the client's."""
    edits = Edits(request)
    edits.set_model(target.model)
    cap, wanted = target.output_cap_tokens, request.output_max_tokens
    if cap is not None and (wanted is None or wanted > cap):
        edits.set("max_output_tokens", str(cap).encode())
    if request.stream and not target.stream:
        edits.set("stream", b"false")
    passage = Passage(request, target, edits)
    passage.responses()
    return msgspec.structs.replace(edits.prepared(), dropped=tuple(passage.dropped))


class _Typed(msgspec.Struct):
    type: str = ""
    sequence_number: int = 0
    response: msgspec.Raw = NULL
    item: msgspec.Raw = NULL


_TYPED = msgspec.json.Decoder(_Typed)
_MEMBERS = msgspec.json.Decoder(dict[str, Any])
_LAST = ("response.completed", "response.incomplete")


class ResponsesOutlet:
    """An outlet of the provider's own events; see `stream_meter.Outlet`."""

    drops = False

    def __init__(self, *, upstream_model: str, public_model: str) -> None:
        self._upstream_model = upstream_model
        self._public_model = public_model
        self._sequence_number = -1
        #: The response as it was first told, and the items that are whole: for an end that is ours to tell.
        self._response: dict[str, Any] = {"object": "response"}
        self._items: list[msgspec.Raw] = []
        self._usage: dict[str, Any] | None = None
        #: The last event, which goes out once the usage is durable.
        self._last = b""

    def pass_on(self, block: bytes) -> bytes:
        """See `Outlet.pass_on`."""
        return block

    def relay(self, block: bytes, data: bytes, events: list[Event]) -> bytes:
        """See `Outlet.relay`."""
        for event in events:
            if isinstance(event, Usage):
                self._usage = responses_usage(event.usage)
        typed = read_or_none(_TYPED, data) or _Typed()
        self._sequence_number = max(self._sequence_number, typed.sequence_number)
        if typed.type == "response.output_item.done":
            self._items.append(typed.item)
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
        """See `Outlet.tail`; what follows from the end alone, the provider has left out for the client too."""
        return b""

    def closing(self, *, is_cut: bool) -> bytes:
        """See `Outlet.closing`."""
        if not is_cut:
            return self._last
        return self._event("incomplete", incomplete_details={"reason": "max_output_tokens"}, usage=self._usage)

    def failing(self, envelope: dict[str, Any]) -> bytes:
        """See `Outlet.failing`."""
        error = {"code": envelope["error"]["code"], "message": envelope["error"]["message"]}
        return self._event("failed", error=error, palyra=envelope["palyra"])

    def _event(self, status: str, **members: Any) -> bytes:
        told = {**self._response, "model": self._public_model, "status": status, "output": self._items}
        number = self._sequence_number + 1
        name = f"response.{status}"
        event = {"type": name, "sequence_number": number, "response": {**told, **members}}
        return encode_event(msgspec.json.encode(event), name)
