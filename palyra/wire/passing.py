"""A request passed through to a provider of its own dialect: the client's bytes, but for what is named.

Key order, `cache_control`, beta fields and content that nobody here knows survive byte for byte. Inside of messages
two things only are changed: reasoning that was sealed here for a vendor who is not the target, or is, and what one
server of the dialect does not know. A message without either keeps its bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from palyra.wire.cargo import MARK, OPAQUE, unpack, unseal
from palyra.wire.decoding import ITEMS, MEMBERS, NULL, read_or_none
from palyra.wire.openai_edits import Edits
from palyra.wire.request import SurfaceRequest
from palyra.wire.target import Prepared, Target

_OPAQUE = OPAQUE.encode()
_DEVELOPER = msgspec.Raw(b'"developer"')
_SYSTEM = msgspec.Raw(b'"system"')


class _Sealed(msgspec.Struct):
    """A block or item that may hold cargo of ours."""

    signature: str = ""
    data: str = ""
    encrypted_content: str | None = None


class _Detail(msgspec.Struct):
    type: str = ""
    vendor: str = ""
    data: str = ""


_SEALED = msgspec.json.Decoder(_Sealed)
_DETAILS = msgspec.json.Decoder(list[_Detail])


def spliced(request: SurfaceRequest, target: Target, cap_member: str, adapt: Callable[[Passage], None]) -> Prepared:
    """Return a client's own body for one attempt; `cap_member` holds its output maximum."""
    edits = Edits(request)
    edits.set_model(target.model)
    cap, wanted = target.output_cap_tokens, request.output_max_tokens
    if cap is not None and (wanted is None or wanted > cap):
        edits.set(cap_member, str(cap).encode())
    if request.stream and not target.stream:
        edits.set("stream", b"false")
    passage = Passage(request, target, edits)
    adapt(passage)
    return msgspec.structs.replace(edits.prepared(), dropped=tuple(passage.dropped))


class Passage:
    """The edits of one request's messages, and what was dropped of them."""

    def __init__(self, request: SurfaceRequest, target: Target, edits: Edits) -> None:
        self.dropped: dict[str, None] = {}
        self._request = request
        self._target = target
        self._edits = edits

    def chat(self) -> None:
        """Adapt the messages of a chat request."""
        ways = self._target.ways
        marks = [] if ways.takes_developer else [_DEVELOPER]
        marks += [msgspec.Raw(f'"{name}"'.encode()) for name in ways.drops_in_messages]
        self._rewrite("messages", [*map(bytes, marks), _OPAQUE], self._chat_message)

    def messages(self) -> None:
        """Give a provider of Anthropic's dialect its own thoughts back, and no others."""
        self._rewrite("messages", [MARK], self._message)

    def responses(self) -> None:
        """Give a provider of the Responses API its own thoughts back, and no others."""
        self._rewrite("input", [MARK], self._sealed)

    def _rewrite(
        self, member: str, marks: list[bytes], change: Callable[[msgspec.Raw], msgspec.Raw | None]
    ) -> None:
        span = self._request.spans.get(member)
        if span is None:
            return
        raw = self._request.body[span.start : span.end]
        if not any(mark in raw for mark in marks):
            return
        before = read_or_none(ITEMS, raw) or []
        after = [change(one) if any(mark in bytes(one) for mark in marks) else one for one in before]
        kept = [one for one in after if one is not None]
        if [bytes(one) for one in kept] != [bytes(one) for one in before]:
            self._edits.set(member, b"[" + b",".join(map(bytes, kept)) + b"]")

    def _chat_message(self, raw: msgspec.Raw) -> msgspec.Raw | None:
        message = MEMBERS.decode(raw)
        ways, before = self._target.ways, dict(message)
        if not ways.takes_developer and bytes(message.get("role", NULL)) == bytes(_DEVELOPER):
            message["role"] = _SYSTEM
        for name in ways.drops_in_messages:
            if message.pop(name, None) is not None:
                self.dropped[f"messages.{name}"] = None
        details = read_or_none(_DETAILS, message.get("reasoning_details", NULL)) or []
        if any(detail.type == OPAQUE for detail in details):
            del message["reasoning_details"]
            own = [unpack(one.data) for one in details if one.vendor == self._target.vendor]
            for cargo in own:
                members: dict[str, msgspec.Raw] | None = read_or_none(MEMBERS, cargo or b"")
                message.update(members or {})
            if not own:
                message.pop("reasoning_content", None)
                self.dropped["reasoning"] = None
        return raw if message == before else msgspec.Raw(msgspec.json.encode(message))

    def _message(self, raw: msgspec.Raw) -> msgspec.Raw | None:
        message = MEMBERS.decode(raw)
        blocks = read_or_none(ITEMS, message.get("content", NULL))
        if blocks is None:
            return raw
        kept = [one for block in blocks if (one := self._sealed(block)) is not None]
        if not kept:
            return None
        message["content"] = msgspec.Raw(b"[" + b",".join(map(bytes, kept)) + b"]")
        return msgspec.Raw(msgspec.json.encode(message))

    def _sealed(self, raw: msgspec.Raw) -> msgspec.Raw | None:
        """Return a block as its vendor made it, None where it is another's."""
        block = read_or_none(_SEALED, raw) or _Sealed()
        sealed = unseal(block.signature or block.data or block.encrypted_content or "")
        if sealed is None:
            return raw
        vendor, cargo = sealed
        if vendor == self._target.vendor:
            return msgspec.Raw(cargo)
        self.dropped["reasoning"] = None
        return None
