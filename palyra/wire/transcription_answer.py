"""Answers to transcription requests: read for what they cost, and streams metered on their way to the client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from palyra.usage import TokenUsage
from palyra.wire.decoding import NULL, read_or_none
from palyra.wire.errors import Malformed
from palyra.wire.reply_facts import ReplyFacts
from palyra.wire.request import Recording
from palyra.wire.sse import SseSplitter, encode_event, event_data
from palyra.wire.tokens import TokenTally, estimate_token_count
from palyra.wire.transcripts import (
    JSON_FORMATS,
    Transcript,
    read_transcript,
    transcript_delta,
    transcript_done,
    write_transcript,
)
from palyra.wire.upstream_errors import UpstreamError, UpstreamErrorInBody, holds_error, read_upstream_error
from palyra.wire.usage import decode_usage, read_openai_usage

#: The provider did not tell how long the recording is; its own header did.
MEASURED = "audio_length_measured"


class _Reply(msgspec.Struct):
    text: str | None = None
    duration: msgspec.Raw = NULL
    usage: msgspec.Raw = NULL
    error: msgspec.Raw = NULL


class _Event(msgspec.Struct):
    type: str = ""
    delta: str = ""
    text: str = ""
    usage: msgspec.Raw = NULL
    error: msgspec.Raw = NULL


_REPLY = msgspec.json.Decoder(_Reply)
_EVENT = msgspec.json.Decoder(_Event)


def read_reply(body: bytes, upstream_format: str, recording: Recording) -> ReplyFacts:
    """Check a whole answer in the format it was asked in; raises `Malformed`, or `UpstreamErrorInBody`."""
    reply = read_or_none(_REPLY, body) if body.lstrip()[:1] == b"{" else None
    if reply is not None and holds_error(reply.error):
        raise UpstreamErrorInBody(read_upstream_error(200, body))
    if upstream_format in JSON_FORMATS:
        if reply is None or reply.text is None:
            raise Malformed("The provider's answer is not a transcript.")
        told = decode_usage(reply.usage)
        if bytes(reply.duration) != b"null":
            told = {**decode_usage(b'{"duration":' + bytes(reply.duration) + b"}"), **told}
        return _facts(reply.text, told, recording)
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        raise Malformed("The provider's answer is not text.") from exc
    return _facts(text, {}, recording)


def _facts(text: str, told: Mapping[str, Any], recording: Recording) -> ReplyFacts:
    usage, anomalies = _usage(told, recording)
    return ReplyFacts(
        stop="end_turn",
        raw_stop="",
        usage=usage,
        anomalies=anomalies,
        upstream_model="",
        response_id="",
        output_tokens_estimate=estimate_token_count(text),
        provider_cost_nanousd=None,
    )


def _usage(told: Mapping[str, Any], recording: Recording) -> tuple[TokenUsage | None, tuple[str, ...]]:
    """Return what was used: as the provider says, with the recording's length by its header where it does not."""
    usage, anomalies = read_openai_usage(told, expects_output=False)
    # A transcript that is measured in time has no tokens to miss.
    anomalies = tuple(one for one in anomalies if one != "usage_input_missing")
    if usage is not None or recording.is_guessed:
        return usage, anomalies
    return TokenUsage(audio_ms=recording.length_ms), (*anomalies, MEASURED)


def public_transcript(body: bytes, *, upstream_format: str, wanted_format: str) -> bytes:
    """Return a checked answer in the format that its client asked for; the same bytes where it came in it."""
    return body if upstream_format == wanted_format else write_transcript(read_transcript(body), wanted_format)


def read_transcription(
    body: bytes, upstream_format: str, recording: Recording, wanted_format: str | None
) -> tuple[ReplyFacts, bytes]:
    """Check an answer and return what it amounts to, and it as its client gets it; b"" for who wants a stream."""
    facts = read_reply(body, upstream_format, recording)
    if wanted_format is None:
        return facts, b""
    return facts, public_transcript(body, upstream_format=upstream_format, wanted_format=wanted_format)


def transcript_stream(body: bytes, upstream_format: str) -> bytes:
    """Return a checked whole answer as the stream that says the same: one delta, and the end."""
    if upstream_format not in JSON_FORMATS:
        transcript, usage = Transcript(text=body.decode()), {}
    else:
        reply = _REPLY.decode(body)
        transcript, usage = Transcript(text=reply.text or ""), decode_usage(reply.usage)
    delta = transcript_delta(transcript.text) if transcript.text else b""
    return delta + transcript_done(transcript.text, usage or None)


class TranscriptMeter:
    """See `palyra.wire.stream_meter.StreamMeter`; the last event waits until the usage is durable."""

    #: Transcripts have no output maximum.
    outgrown = False

    def __init__(self, recording: Recording) -> None:
        self.has_content = False
        self.error: UpstreamError | None = None
        self.unparsed_count = 0
        self._recording = recording
        self._splitter = SseSplitter()
        self._tally = TokenTally()
        self._last = b""
        self._usage: dict[str, Any] = {}

    @property
    def done(self) -> bool:
        """See `StreamMeter.done`."""
        return bool(self._last)

    @property
    def finished(self) -> bool:
        """See `StreamMeter.finished`."""
        return self.done

    def feed(self, chunk: bytes) -> bytes:
        """See `StreamMeter.feed`."""
        return b"".join([self._take(block) for block in self._splitter.feed(chunk)])

    def end(self) -> bytes:
        """See `StreamMeter.end`."""
        tail = self._splitter.tail.rstrip(b"\r\n")
        return self._take(tail + b"\n\n") if tail else b""

    def closing(self, *, is_cut: bool) -> bytes:
        """See `StreamMeter.closing`."""
        return self._last

    def failing(self, envelope: dict[str, Any]) -> bytes:
        """See `StreamMeter.failing`."""
        return transcript_error(envelope)

    def facts(self) -> ReplyFacts:
        """See `StreamMeter.facts`."""
        usage, anomalies = _usage(self._usage, self._recording) if self.done else (None, ())
        return ReplyFacts(
            stop="end_turn" if self.done else "unknown",
            raw_stop="",
            usage=usage,
            anomalies=anomalies,
            upstream_model="",
            response_id="",
            output_tokens_estimate=self._tally.tokens,
            provider_cost_nanousd=None,
        )

    def _take(self, block: bytes) -> bytes:
        if self.done or self.error is not None:
            return b""
        data = event_data(block)
        if not data:
            return block
        event = read_or_none(_EVENT, data)
        if event is None:
            self.unparsed_count += 1
            return block
        if holds_error(event.error):
            self.error = read_upstream_error(200, data)
            return b""
        match event.type:
            case "transcript.text.done":
                self._usage = decode_usage(event.usage)
                self.has_content, self._last = True, block
                return b""
            case "transcript.text.delta":
                self._tally.add(event.delta)
                self.has_content = self.has_content or bool(event.delta)
            case "transcript.text.segment":
                self.has_content = True
        return block


def transcript_error(envelope: dict[str, Any]) -> bytes:
    """Return the last event of a streamed transcript that broke off."""
    return encode_event(msgspec.json.encode(envelope))
