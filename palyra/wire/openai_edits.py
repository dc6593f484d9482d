"""Edits that a body needs on its way to a provider, and the one that an answer needs on its way back.

Every edit has a name, which is recorded with the attempt; what no edit names stays as the client wrote it.
"""

from __future__ import annotations

import msgspec

from palyra.wire.decoding import read_or_none
from palyra.wire.errors import WireError
from palyra.wire.jsonscan import Edit, Span, insert, replace, scan_object, splice
from palyra.wire.request import SurfaceRequest
from palyra.wire.target import Prepared


class Edits:
    """Collects the new values of a request's top-level members and makes them one splice."""

    def __init__(self, request: SurfaceRequest) -> None:
        self._request = request
        self._values: dict[str, bytes] = {}
        self._names: list[str] = []

    def set(self, member: str, value: bytes, name: str = "") -> None:
        """Give `member` the JSON `value`; `name` is the edit's name where it is not the member's."""
        self._values[member] = value
        self._names.append(name or member)

    def set_model(self, upstream_model: str) -> None:
        """Name the model as the provider knows it."""
        if self._request.model != upstream_model:
            self.set("model", msgspec.json.encode(upstream_model))

    def prepared(self) -> Prepared:
        request = self._request
        edits: list[Edit] = []
        added: dict[str, bytes] = {}
        for member, value in self._values.items():
            if member in request.spans:
                edits.append(replace(request.spans[member], value))
            else:
                added[member] = value
        if added:
            edits.append(insert(request.body, request.spans, added))
        return Prepared(body=splice(request.body, edits), edits=tuple(self._names))


_TEXT = msgspec.json.Decoder(str)


def rename_model(body: bytes, upstream_model: str, public_model: str) -> bytes:
    """Return an answer whose top-level `model`, if it is the one sent, is the public name; else the same bytes."""
    span = model_span(body, upstream_model) if upstream_model != public_model else None
    return body if span is None else splice(body, [replace(span, msgspec.json.encode(public_model))])


def model_span(body: bytes, upstream_model: str) -> Span | None:
    """Return where an answer names the model that was sent; None where it names another or cannot be read."""
    try:
        span = scan_object(body).get("model")
    except WireError:
        return None
    is_sent = span is not None and read_or_none(_TEXT, body[span.start : span.end]) == upstream_model
    return span if is_sent else None
