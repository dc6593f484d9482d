"""A request of `POST /v1/responses` in the terms in which it is admitted, routed and sent."""

from __future__ import annotations

from collections.abc import Mapping

from palyra.wire.decoding import read_or_none
from palyra.wire.jsonscan import check_depth, scan_object
from palyra.wire.request import TEXT, TOKENS_MAX, SurfaceRequest
from palyra.wire.responses_request import read_responses_request
from palyra.wire.view import last_text, needs_of, view_of


def decode_responses(body: bytes) -> SurfaceRequest:
    """Read a request; raises `WireError` with the field at fault."""
    spans = scan_object(body)
    check_depth(body)
    neutral = read_responses_request(body)
    view = view_of(neutral)
    limit = neutral.output_max_tokens
    return SurfaceRequest(
        surface="responses",
        body=body,
        spans=spans,
        model=neutral.model,
        stream=neutral.stream,
        wants_usage=True,
        output_max_tokens=None if limit is None else min(limit, TOKENS_MAX),
        needs=needs_of(neutral, view),
        raw_tokens=view.tokens,
        prompt_cache_key=_text(neutral.params, "prompt_cache_key"),
        previous_response_id=_text(neutral.params, "previous_response_id"),
        tools_count=len(neutral.tools) + len(neutral.foreign_tools),
        images_count=view.images_count,
        last_text=last_text(neutral),
        neutral=neutral,
    )


def _text(params: Mapping[str, bytes], name: str) -> str:
    return read_or_none(TEXT, params.get(name, b"null")) or ""
