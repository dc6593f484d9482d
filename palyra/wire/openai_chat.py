"""A chat completion's request on its way to a provider of its own dialect.

A body goes through byte for byte but for the edits named here; nothing is decoded and encoded again.
"""

from __future__ import annotations

import msgspec

from palyra.wire.errors import WireError
from palyra.wire.jsonscan import insert, replace, scan_object, splice
from palyra.wire.openai_edits import Edits
from palyra.wire.passing import Passage
from palyra.wire.request import SurfaceRequest
from palyra.wire.target import Prepared, Target

_LIMITS = ("max_tokens", "max_completion_tokens")
_ASK = b'{"include_usage":true}'


def prepare_chat(request: SurfaceRequest, target: Target) -> Prepared:
    """Return the body for one attempt.

    The target's output maximum lowers a client's higher one, or is set where the client named none; it has the name
    that the server obeys. A stream is asked to report its usage, unless the provider has refused to be asked.
    """
    edits = Edits(request)
    edits.set_model(target.model)
    passage = Passage(request, target, edits)
    passage.chat()
    if request.stream and not target.stream:
        edits.set("stream", b"false")
        if "stream_options" in request.spans:
            edits.set("stream_options", b"null")
    elif request.stream and target.ask_usage and not request.wants_usage:
        _ask_usage(edits, request)
    _write_maximum(edits, request, target)
    prepared = edits.prepared()
    return msgspec.structs.replace(prepared, dropped=tuple(passage.dropped)) if passage.dropped else prepared


def _ask_usage(edits: Edits, request: SurfaceRequest) -> None:
    span = request.spans.get("stream_options")
    options = b"null" if span is None else request.body[span.start : span.end]
    if options == b"null":
        edits.set("stream_options", _ASK, "stream_options.include_usage")
        return
    try:
        inner = scan_object(options)
    except WireError:
        return  # not the object it must be: the provider's to refuse
    edit = replace(inner["include_usage"], b"true") if "include_usage" in inner else None
    asking = splice(options, [edit or insert(options, inner, {"include_usage": b"true"})])
    edits.set("stream_options", asking, "stream_options.include_usage")


def _write_maximum(edits: Edits, request: SurfaceRequest, target: Target) -> None:
    """Lower the client's maximum to the target's, or name one where the client does not.

    Under a name that the server may not know it is said in the server's own too; the other harms nobody.
    """
    wanted, cap_tokens, ways = request.output_max_tokens, target.output_cap_tokens, target.ways
    named = [name for name in _LIMITS if wanted is not None and _has_value(request, name)]
    sent = wanted if cap_tokens is None or (wanted is not None and wanted <= cap_tokens) else cap_tokens
    if sent != wanted:
        for name in named or [ways.cap_field]:
            edits.set(name, str(sent).encode())
    if named and not ways.obeys_both_caps and ways.cap_field not in named:
        edits.set(ways.cap_field, str(sent).encode())


def _has_value(request: SurfaceRequest, name: str) -> bool:
    span = request.spans.get(name)
    return span is not None and request.body[span.start : span.end] != b"null"
