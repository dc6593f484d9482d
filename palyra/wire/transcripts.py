"""A transcript in no format, and the formats that it is written in. Times are milliseconds throughout."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from palyra.wire.errors import Malformed
from palyra.wire.sse import encode_event

TranscriptFormat = Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"]
#: What each format is sent as; all others are JSON.
CONTENT_TYPES: Mapping[str, str] = MappingProxyType(
    {"text": "text/plain; charset=utf-8", "srt": "text/plain; charset=utf-8", "vtt": "text/vtt; charset=utf-8"}
)
JSON_FORMATS = ("json", "verbose_json", "diarized_json")
#: What a format is made of here where a provider does not write it.
MADE_OF: Mapping[str, TranscriptFormat] = MappingProxyType(
    {"text": "json", "srt": "verbose_json", "vtt": "verbose_json"}
)


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A passage and when it is said."""

    start_ms: int
    end_ms: int
    text: str
    speaker: str = ""


class Transcript(msgspec.Struct, frozen=True, kw_only=True):
    """What is said in a recording."""

    text: str
    language: str = ""
    duration_ms: int | None = None
    segments: tuple[Segment, ...] = ()


class _Segment(msgspec.Struct):
    start: Decimal
    end: Decimal
    text: str
    speaker: str = ""


class _Verbose(msgspec.Struct):
    text: str
    language: str | None = None
    duration: Decimal | None = None
    segments: list[_Segment] | None = None


_VERBOSE = msgspec.json.Decoder(_Verbose)
_TIME_MAX_S = Decimal(1_000_000)


def read_transcript(body: bytes) -> Transcript:
    """Read a transcript as JSON, with its segments where it has them; raises `Malformed`."""
    try:
        read = _VERBOSE.decode(body)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise Malformed("The provider's answer is not a transcript.") from exc
    segments = tuple(
        Segment(start_ms=_ms(one.start), end_ms=_ms(one.end), text=one.text, speaker=one.speaker)
        for one in read.segments or ()
    )
    return Transcript(
        text=read.text,
        language=read.language or "",
        duration_ms=None if read.duration is None else _ms(read.duration),
        segments=segments,
    )


def _ms(seconds: Decimal) -> int:
    if not seconds.is_finite() or not 0 <= seconds <= _TIME_MAX_S:
        raise Malformed("A time of the provider's transcript is none.")
    return int((seconds * 1_000).to_integral_value(ROUND_HALF_UP))


def write_transcript(transcript: Transcript, form: str, usage: Mapping[str, Any] | None = None) -> bytes:
    """Return a transcript in a format; `usage` goes into those that are JSON."""
    if form == "text":
        return f"{transcript.text}\n".encode()
    if form == "srt":
        return "".join(
            f"{number}\n{_stamp(one.start_ms, ',')} --> {_stamp(one.end_ms, ',')}\n{_line(one.text)}\n\n"
            for number, one in enumerate(_passages(transcript), 1)
        ).encode()
    if form == "vtt":
        cues = "".join(
            f"{_stamp(one.start_ms, '.')} --> {_stamp(one.end_ms, '.')}\n{_line(one.text)}\n\n"
            for one in _passages(transcript)
        )
        return f"WEBVTT\n\n{cues}".encode()
    told: dict[str, Any] = {"text": transcript.text}
    if form != "json":
        told = {"task": "transcribe", "duration": _seconds(transcript.duration_ms or 0), **told}
        write = _diarized if form == "diarized_json" else _verbose
        told["segments"] = [write(index, one) for index, one in enumerate(_passages(transcript))]
    if form == "verbose_json":
        told["language"] = transcript.language
    if usage is not None:
        told["usage"] = usage
    return msgspec.json.encode(told)


def _passages(transcript: Transcript) -> tuple[Segment, ...]:
    """Return the segments; a transcript without any is one, if it says anything."""
    if transcript.segments or not transcript.text:
        return transcript.segments
    return (Segment(start_ms=0, end_ms=transcript.duration_ms or 0, text=transcript.text),)


def _stamp(time_ms: int, point: str) -> str:
    seconds, rest_ms = divmod(time_ms, 1_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{rest_ms:03}"


def _line(text: str) -> str:
    """Return a passage as it may stand in subtitles: no blank line, which would end it, and no arrow."""
    lines = [line.strip() for line in text.splitlines()]
    return "\n".join(line for line in lines if line).replace("-->", "->")


def _seconds(time_ms: int) -> float:
    return time_ms / 1_000


def _diarized(index: int, one: Segment) -> dict[str, Any]:
    return {
        "type": "transcript.text.segment",
        "id": f"seg_{index}",
        "start": _seconds(one.start_ms),
        "end": _seconds(one.end_ms),
        "text": one.text,
        "speaker": one.speaker or "A",
    }


def _verbose(index: int, one: Segment) -> dict[str, Any]:
    return {
        "id": index,
        "seek": 0,
        "start": _seconds(one.start_ms),
        "end": _seconds(one.end_ms),
        "text": one.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": 0.0,
        "compression_ratio": 1.0,
        "no_speech_prob": 0.0,
    }


def transcript_delta(text: str) -> bytes:
    """Return the event that brings a piece of a streamed transcript."""
    return encode_event(msgspec.json.encode({"type": "transcript.text.delta", "delta": text}))


def transcript_segment(index: int, one: Segment) -> bytes:
    """Return the event of a passage and its speaker."""
    return encode_event(msgspec.json.encode(_diarized(index, one)))


def transcript_done(text: str, usage: Mapping[str, Any] | None = None) -> bytes:
    """Return the last event of a streamed transcript, with all of its text."""
    told: dict[str, Any] = {"type": "transcript.text.done", "text": text}
    return encode_event(msgspec.json.encode(told if usage is None else {**told, "usage": usage}))
