"""Recorded exchanges out of captured content, for a replay that needs no provider."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator

from palyra.errors import PalyraError
from palyra.memory.content import Content
from palyra.wire.dialects import DIALECT_ROWS
from palyra.wire.errors import WireError
from palyra.wire.fixtures import SILENCES, Recorded, canonical, chunk_of, redacted
from palyra.wire.read_surfaces import decode_messages, decode_responses
from palyra.wire.request import SurfaceRequest, decode_chat, decode_embeddings
from palyra.wire.transcription import decode_transcription

_READERS: dict[str, Callable[[bytes], SurfaceRequest]] = {
    "chat": decode_chat,
    "messages": decode_messages,
    "responses": decode_responses,
    "embeddings": decode_embeddings,
}

#: Outcomes of runs that somebody ended before their answer did.
_LEFT = ("cancelled", "client_disconnected", "draining")


def recorded_of(content: Content) -> Recorded | None:
    """Return a run's exchange; None for one that no provider was asked in, or whose answer is not there whole.

    What a provider broke off is there as far as it came; what a client did not want to the end is not.
    """
    was_silent = content.api != "" and content.outcome in SILENCES
    if content.answer_cut or content.outcome in _LEFT or not (content.status or was_silent):
        return None
    return Recorded(
        run_id=content.run_id,
        key=content.key,
        surface=content.surface,
        api=content.api if content.api in DIALECT_ROWS else content.surface,
        stream=content.stream,
        model=content.model_id,
        upstream_model=content.upstream_model,
        request=_request_of(content),
        status=content.status,
        headers=content.headers,
        chunks=[chunk_of(after_us, data) for after_us, data in content.chunks],
        outcome=content.outcome,
        usage=content.usage,
    )


def _request_of(content: Content) -> object:
    """Return what was asked for, without secrets; None where it was too long to be kept."""
    if not content.request:
        return None
    reader = _READERS.get(content.surface) or functools.partial(decode_transcription, content.content_type)
    try:
        return redacted(canonical(reader(content.request), content.model_id))
    except WireError:
        return None


def exchanges(contents: Iterable[Content], wanted: Iterable[str] = ()) -> Iterator[Recorded]:
    """Yield the exchanges of runs; raises `PalyraError` for one of `wanted` that has none."""
    missing = dict.fromkeys(wanted)
    for content in contents:
        recorded = recorded_of(content)
        if recorded is not None:
            missing.pop(content.run_id, None)
            yield recorded
    if missing:
        raise PalyraError(
            f"Of {next(iter(missing))} no whole answer is kept.",
            hint='it is while privacy.capture_content is "on", up to content_max_bytes',
            code="content_not_captured",
        )
