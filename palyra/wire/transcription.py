"""Transcription requests: a form with a recording, checked as far as the gateway acts on it, and sent on.

The recording itself is never changed or copied to be looked at; of everything else only the model's name, and what
a provider cannot do and is done here in its place, differ from what the client sent.
"""

from __future__ import annotations

from typing import get_args

from palyra.units import ceil_div
from palyra.wire.audio_length import audio_length_ms, guessed_length_ms
from palyra.wire.decoding import model_asked
from palyra.wire.errors import WireError
from palyra.wire.multipart import Form, boundary_of, read_form
from palyra.wire.request import Recording, SurfaceRequest
from palyra.wire.target import Changes, Prepared, Ways
from palyra.wire.tokens import estimate_token_count
from palyra.wire.transcripts import MADE_OF, TranscriptFormat

#: Gateway specification 5.1.
_BYTES_PER_TOKEN = 3_200
_FORMATS = get_args(TranscriptFormat)
_TRUE, _FALSE = ("true", "1"), ("false", "0", "")


def decode_transcription(content_type: str, body: bytes) -> SurfaceRequest:
    """Read a transcription request; raises `WireError` with the field at fault."""
    form = read_form(body, boundary_of(content_type))
    files = form.named("file")
    if len(files) != 1 or files[0].filename is None:
        raise WireError("invalid_request", "file must be one file.", "file")
    size_bytes = files[0].size_bytes
    if not size_bytes:
        raise WireError("invalid_request", "file is empty.", "file")
    wanted = form.text("response_format") or "json"
    if wanted not in _FORMATS:
        raise WireError(
            "invalid_request", f"response_format must be one of {', '.join(_FORMATS)}.", "response_format"
        )
    told_ms = audio_length_ms(form.content(files[0]))
    return SurfaceRequest(
        surface="audio_transcription",
        body=body,
        spans={},
        model=model_asked((form.text("model") or "").strip()),
        stream=_is_true(form, "stream"),
        raw_tokens=ceil_div(size_bytes, _BYTES_PER_TOKEN) + estimate_token_count(form.text("prompt") or ""),
        recording=Recording(
            form=form,
            response_format=wanted,
            length_ms=guessed_length_ms(size_bytes) if told_ms is None else told_ms,
            is_guessed=told_ms is None,
        ),
    )


def _is_true(form: Form, name: str) -> bool:
    text = (form.text(name) or "").strip().lower()
    if text not in (*_TRUE, *_FALSE):
        raise WireError("invalid_request", f"{name} must be true or false.", name)
    return text in _TRUE


def prepare_transcription(request: SurfaceRequest, *, upstream_model: str, ways: Ways, streams: bool) -> Prepared:
    """Return the body for one attempt; `streams`: the model can stream.

    A format that the provider does not write is asked for as what it can be made of; a stream from a model that
    has none as JSON, which has all of its text.
    """
    recording = recording_of(request)
    fields: dict[str, str | None] = {}
    changes = Changes()
    if upstream_model != request.model:
        fields["model"] = upstream_model
    upstream_format = upstream_format_of(recording, ways)
    is_cut_here = request.stream and not streams
    if is_cut_here:
        fields["stream"] = None
        changes.emulate("stream")
    if upstream_format != recording.response_format:
        fields["response_format"] = upstream_format
        changes.emulate(f"response_format={recording.response_format}")
    prepared = changes.prepared(recording.form.rebuilt(fields))
    return Prepared(body=prepared.body, edits=tuple(fields), emulated=prepared.emulated)


def upstream_format_of(recording: Recording, ways: Ways) -> str:
    """Return the format in which a provider is asked for a transcript."""
    wanted = recording.response_format
    return wanted if wanted in ways.transcripts else MADE_OF.get(wanted, wanted)


def recording_of(request: SurfaceRequest) -> Recording:
    """Return what a transcription request brings."""
    assert request.recording is not None
    return request.recording
