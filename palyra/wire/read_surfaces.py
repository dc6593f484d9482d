"""Requests of the dialects that are read in full on arrival, in the terms in which they are admitted and sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from palyra.wire.decoding import read_or_none
from palyra.wire.jsonscan import check_depth, scan_object
from palyra.wire.messages_request import read_messages_request
from palyra.wire.neutral import NeutralRequest
from palyra.wire.request import TEXT, TOKENS_MAX, SurfaceRequest
from palyra.wire.responses_request import read_responses_request
from palyra.wire.view import last_text, needs_of, view_of


def decode_messages(body: bytes) -> SurfaceRequest:
    """Read a request of `POST /v1/messages`; raises `WireError` with the field at fault."""
    return _decode("messages", body, read_messages_request)


def decode_responses(body: bytes) -> SurfaceRequest:
    """Read a request of `POST /v1/responses`; raises `WireError` with the field at fault."""
    return _decode("responses", body, read_responses_request, "prompt_cache_key", "previous_response_id")


def _decode(
    surface: Literal["messages", "responses"], body: bytes, read: Callable[[bytes], NeutralRequest], *texts: str
) -> SurfaceRequest:
    """Read a request; `texts` are parameters that the gateway acts on, under their own names."""
    spans = scan_object(body)
    check_depth(body)
    neutral = read(body)
    view = view_of(neutral)
    limit = neutral.output_max_tokens
    more: dict[str, Any] = {
        name: read_or_none(TEXT, neutral.params[name]) or "" for name in texts if name in neutral.params
    }
    return SurfaceRequest(
        surface=surface,
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
        **more,
    )
