"""`POST /v1/audio/transcriptions` seen from the engine: one form to one provider, and its transcript back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from palyra.engine.exchange import Ended
from palyra.engine.surfaces import Around, Part, passed_headers
from palyra.errors import Refusal
from palyra.events.registry import ModelEntry, ProviderEntry
from palyra.limits import APART_BYTES, OFF_LOOP_BYTES
from palyra.wire.multipart import NO_FORM
from palyra.wire.openai_errors import error_envelope
from palyra.wire.reply_facts import ReplyFacts
from palyra.wire.request import SurfaceRequest
from palyra.wire.sse import comment
from palyra.wire.stream_meter import StreamMeter
from palyra.wire.target import WAYS, Prepared
from palyra.wire.transcription import prepare_transcription, recording_of, upstream_format_of
from palyra.wire.transcription_answer import (
    TranscriptMeter,
    read_transcription,
    transcript_error,
    transcript_stream,
)
from palyra.wire.transcripts import CONTENT_TYPES
from palyra.wire.upstream_errors import UpstreamError


class TranscriptionSurface:
    """See `palyra.engine.surfaces.Surface`."""

    keepalive = comment("")

    def __init__(self, request: SurfaceRequest, headers: Mapping[str, str], around: Around | None = None) -> None:
        self.request = request
        self._apart = None if around is None else around.apart
        self._recording = recording_of(request)
        self._headers = headers
        self._parts = [Part()]
        self._prepared = Prepared(body=b"")
        self._upstream_format = ""
        self._meter: TranscriptMeter | None = None
        #: The whole answer of a model that does not stream, as it came.
        self._whole = b""

    @property
    def content_type(self) -> str:
        """See `Surface.content_type`."""
        return CONTENT_TYPES.get(self._recording.response_format, "application/json")

    @property
    def request_type(self) -> str:
        """See `Surface.request_type`."""
        return self._recording.form.content_type

    def parts(self, entry: ModelEntry) -> list[Part]:
        """See `Surface.parts`."""
        return self._parts

    def prepare(
        self, part: Part, provider: ProviderEntry, entry: ModelEntry, output_cap_tokens: int | None
    ) -> None:
        """See `Surface.prepare`."""
        ways, streams = WAYS[provider.flavor], entry.capabilities.streaming
        self._meter = None
        self._upstream_format = upstream_format_of(self._recording, ways)
        self._prepared = prepare_transcription(
            self.request, upstream_model=entry.upstream_model, ways=ways, streams=streams
        )
        part.api, part.path = "audio_transcription", "/audio/transcriptions"
        part.body, part.edits = self._prepared.body, self._prepared.edits
        part.stream = self.request.stream and streams

    def is_heavy(self, entry: ModelEntry) -> bool:
        """See `Surface.is_heavy`: the form is put together anew."""
        return len(self.request.body) > OFF_LOOP_BYTES

    def read(self, part: Part, entry: ModelEntry, body: bytes) -> ReplyFacts:
        """See `Surface.read`."""
        wanted = None if self.request.stream else self._recording.response_format
        if self._apart is not None and len(body) > APART_BYTES:
            small = msgspec.structs.replace(self._recording, form=NO_FORM)
            facts, answer = self._apart.ask(read_transcription, body, self._upstream_format, small, wanted)
        else:
            facts, answer = read_transcription(body, self._upstream_format, self._recording, wanted)
        if self.request.stream:
            self._whole = body
        else:
            part.answer = answer
        return facts

    def meter(self, entry: ModelEntry, output_cap_tokens: int | None) -> StreamMeter:
        """See `Surface.meter`."""
        self._meter = TranscriptMeter(self._recording)
        return self._meter

    async def public_reply(self) -> bytes:
        """See `Surface.public_reply`."""
        return self._parts[0].answer

    async def whole(self, sent: bytes | None, facts: ReplyFacts) -> bytes | None:
        """See `Surface.whole`: a transcript is not kept."""
        return None

    def as_stream(self, whole: bytes) -> bytes:
        """See `Surface.as_stream`."""
        return transcript_stream(whole, self._upstream_format)

    def stream_end(self, ended: Ended) -> bytes:
        """See `Surface.stream_end`."""
        return self.as_stream(self._whole) if self._meter is None else self._meter.closing(is_cut=False)

    def stream_error(self, envelope: dict[str, Any], *, has_begun: bool) -> bytes:
        """See `Surface.stream_error`."""
        return transcript_error(envelope)

    def envelope(self, refusal: Refusal, *, run_id: str, attempts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """See `Surface.envelope`."""
        failure_class = str(attempts[-1]["class"]) if attempts else ""
        return error_envelope(refusal, run_id=run_id, failure_class=failure_class, attempts=attempts)

    def headers_for(self, provider: ProviderEntry) -> Mapping[str, str]:
        """See `Surface.headers_for`."""
        headers = passed_headers(provider, self._headers, "audio_transcription")
        return {**headers, "content-type": self._recording.form.content_type}

    def answer_headers(self) -> Mapping[str, str]:
        """See `Surface.answer_headers`."""
        emulated = self._prepared.emulated
        return {"x-palyra-emulated": ", ".join(emulated)} if emulated else {}

    def note_refusal(self, error: UpstreamError) -> bool:
        """See `Surface.note_refusal`."""
        return False
