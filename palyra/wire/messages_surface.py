"""A request of `POST /v1/messages` in the terms in which it is admitted, routed and sent."""

from __future__ import annotations

from palyra.wire.jsonscan import check_depth, scan_object
from palyra.wire.messages_request import read_messages_request
from palyra.wire.request import TOKENS_MAX, SurfaceRequest
from palyra.wire.view import last_text, needs_of, view_of


def decode_messages(body: bytes) -> SurfaceRequest:
    """Read a request; raises `WireError` with the field at fault."""
    spans = scan_object(body)
    check_depth(body)
    neutral = read_messages_request(body)
    view = view_of(neutral)
    limit = neutral.output_max_tokens
    return SurfaceRequest(
        surface="messages",
        body=body,
        spans=spans,
        model=neutral.model,
        stream=neutral.stream,
        wants_usage=True,
        output_max_tokens=None if limit is None else min(limit, TOKENS_MAX),
        needs=needs_of(neutral, view),
        raw_tokens=view.tokens,
        tools_count=len(neutral.tools) + len(neutral.foreign_tools),
        images_count=view.images_count,
        last_text=last_text(neutral),
        neutral=neutral,
    )
