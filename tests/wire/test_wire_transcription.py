"""Transcription requests and answers: checked, sent on with the recording untouched, read for their cost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from recordings import BOUNDARY, CONTENT_TYPE, form, transcription, wav

from palyra.usage import TokenUsage
from palyra.wire.errors import Malformed, WireError
from palyra.wire.multipart import read_form
from palyra.wire.request import Recording, SurfaceRequest
from palyra.wire.target import WAYS
from palyra.wire.transcription import decode_transcription, prepare_transcription, upstream_format_of
from palyra.wire.transcription_answer import (
    MEASURED,
    TranscriptMeter,
    public_transcript,
    read_reply,
    transcript_stream,
)
from palyra.wire.transcripts import transcript_delta, transcript_done
from palyra.wire.upstream_errors import UpstreamErrorInBody


def asked(sound: bytes | None = None, **fields: Any) -> SurfaceRequest:
    return decode_transcription(CONTENT_TYPE, transcription(sound, **fields))


def recording(sound: bytes | None = None, **fields: Any) -> Recording:
    found = asked(sound, **fields).recording
    assert found is not None
    return found


def test_what_is_known_of_a_request() -> None:
    """Model, stream, size and length; a recording that tells no length has a guess."""
    request = asked(model=" m ", prompt="one two three four", stream="True", response_format="srt")
    assert (request.surface, request.model, request.stream) == ("audio_transcription", "m", True)
    assert request.raw_tokens == 4 + 5
    assert request.recording is not None
    assert (request.recording.length_ms, request.recording.is_guessed) == (1_500, False)
    assert request.recording.response_format == "srt"
    guessed = recording(b"x" * 8_000)
    assert (guessed.length_ms, guessed.is_guessed, guessed.response_format) == (2_000, True, "json")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (form(("model", None, b"m")), "file"),
        (form(("file", None, b"x")), "file"),
        (form(("file", "a", b"")), "file"),
        (form(("file", "a", b"x"), ("file", "b", b"x")), "file"),
        (transcription(response_format="xml"), "response_format"),
        (transcription(stream="maybe"), "stream"),
        (transcription(model=["a", "b"]), "model"),
        (b"x", None),
    ],
)
def test_a_request_that_is_refused(body: bytes, param: str | None) -> None:
    """The field at fault is named."""
    with pytest.raises(WireError) as caught:
        decode_transcription(CONTENT_TYPE, body)
    assert caught.value.param == param


def test_the_recording_goes_on_untouched() -> None:
    """Only the model's name differs; every other part, unknown ones too, has the bytes that came."""
    request = asked(model="m", language="de", strange="x")
    prepared = prepare_transcription(request, upstream_model="up", ways=WAYS["openai"], streams=False)
    assert (prepared.edits, prepared.emulated) == (("model",), ())
    again = read_form(prepared.body, BOUNDARY)
    assert [part.name for part in again.parts] == ["file", "model", "language", "strange"]
    assert bytes(again.content(again.parts[0])) == wav()
    same = prepare_transcription(request, upstream_model="m", ways=WAYS["openai"], streams=False)
    assert same.body == request.body


@pytest.mark.parametrize(
    ("flavor", "wanted", "sent"),
    [
        ("openai", "srt", "srt"),
        ("groq", "srt", "verbose_json"),
        ("groq", "vtt", "verbose_json"),
        ("groq", "text", "text"),
        ("together", "text", "json"),
        ("together", "diarized_json", "diarized_json"),
    ],
)
def test_a_format_that_a_server_lacks_is_made_here(flavor: str, wanted: str, sent: str) -> None:
    """It is asked for what the format can be made of, and that is named; what cannot be made it may refuse."""
    request = asked(model="m", response_format=wanted)
    assert request.recording is not None
    assert upstream_format_of(request.recording, WAYS[flavor]) == sent
    prepared = prepare_transcription(request, upstream_model="m", ways=WAYS[flavor], streams=False)
    assert prepared.emulated == ((f"response_format={wanted}",) if sent != wanted else ())
    assert read_form(prepared.body, BOUNDARY).text("response_format") == sent


def test_a_model_that_cannot_stream_is_not_asked_to() -> None:
    """The field is left out, which is named."""
    request = asked(model="m", stream="true")
    cut = prepare_transcription(request, upstream_model="m", ways=WAYS["openai"], streams=False)
    assert (cut.emulated, read_form(cut.body, BOUNDARY).text("stream")) == (("stream",), None)
    streamed = prepare_transcription(request, upstream_model="m", ways=WAYS["openai"], streams=True)
    assert (streamed.emulated, read_form(streamed.body, BOUNDARY).text("stream")) == ((), "true")


TOKENS = (
    b'{"type":"tokens","input_tokens":9,"input_token_details":{"audio_tokens":8},'
    b'"output_tokens":3,"total_tokens":12}'
)


@pytest.mark.parametrize(
    ("body", "form_", "sound", "usage", "anomalies"),
    [
        (b'{"text":"a b","usage":{"type":"duration","seconds":7}}', "json", None, TokenUsage(audio_ms=7_000), ()),
        (b'{"text":"a","duration":7.25}', "verbose_json", None, TokenUsage(audio_ms=7_250), ()),
        (b'{"text":"a","duration":9,"usage":{"seconds":7}}', "verbose_json", None, TokenUsage(audio_ms=9_000), ()),
        (
            b'{"text":"a","usage":' + TOKENS + b"}",
            "json",
            None,
            TokenUsage(input_tokens=9, input_audio_tokens=8, output_tokens=3),
            (),
        ),
        (b'{"text":"a"}', "json", None, TokenUsage(audio_ms=1_500), (MEASURED,)),
        (b'{"text":"a"}', "json", b"unknown", None, ()),
        (b"1\n00:00", "srt", None, TokenUsage(audio_ms=1_500), (MEASURED,)),
        (b"", "text", b"unknown", None, ()),
    ],
)
def test_what_an_answer_cost(
    body: bytes, form_: str, sound: bytes | None, usage: TokenUsage | None, anomalies: tuple[str, ...]
) -> None:
    """What the provider says, else the length by the recording's own header, else it is to be estimated."""
    facts = read_reply(body, form_, recording(sound))
    assert (facts.usage, facts.anomalies, facts.stop) == (usage, anomalies, "end_turn")


@pytest.mark.parametrize(
    ("body", "form_"),
    [(b"", "json"), (b'{"x":1}', "json"), (b"[]", "verbose_json"), (b'{"text":1}', "json"), (b"\xff", "text")],
)
def test_an_answer_that_is_none(body: bytes, form_: str) -> None:
    """JSON without a text, and text that is none."""
    with pytest.raises(Malformed):
        read_reply(body, form_, recording())


@pytest.mark.parametrize("form_", ["json", "text"])
def test_an_error_behind_a_success(form_: str) -> None:
    """It is an error, in whatever format the transcript was to be."""
    with pytest.raises(UpstreamErrorInBody):
        read_reply(b'{"error":{"message":"no"}}', form_, recording())


def test_an_answer_as_its_client_wants_it() -> None:
    """The same bytes in the same format, made of the long form in another."""
    verbose = b'{"text":"Hi.", "segments":[{"start":0,"end":1,"text":"Hi."}]}'
    assert public_transcript(verbose, upstream_format="json", wanted_format="json") == verbose
    subtitles = public_transcript(verbose, upstream_format="verbose_json", wanted_format="srt")
    assert subtitles == b"1\n00:00:00,000 --> 00:00:01,000\nHi.\n\n"


@pytest.mark.parametrize(
    ("body", "form_", "events"),
    [
        (b'{"text":"Hi."}', "json", transcript_delta("Hi.") + transcript_done("Hi.")),
        (b'{"text":""}', "json", transcript_done("")),
        (b"Hi.", "text", transcript_delta("Hi.") + transcript_done("Hi.")),
        (
            b'{"text":"a","usage":{"seconds":1}}',
            "json",
            transcript_delta("a") + transcript_done("a", {"seconds": 1}),
        ),
    ],
)
def test_a_whole_answer_as_a_stream(body: bytes, form_: str, events: bytes) -> None:
    """One delta and the end, with the usage where there is one."""
    assert transcript_stream(body, form_) == events


def test_a_stream_is_relayed_and_its_end_held_back() -> None:
    """Deltas and segments pass as they come, comments and what cannot be read too; the end waits for its usage."""
    meter = TranscriptMeter(recording())
    assert (meter.done, meter.finished, meter.outgrown, meter.facts().usage) == (False, False, False, None)
    start = b": hello\n\ndata: nonsense\n\n" + transcript_delta("")
    assert meter.feed(start) == start
    assert (meter.unparsed_count, meter.has_content) == (1, False)
    deltas = transcript_delta("a ") + b'data: {"type":"transcript.text.segment"}\n\n' + b'data: {"type":"new"}\n\n'
    assert meter.feed(deltas) == deltas
    assert meter.has_content
    meter.feed(transcript_delta(""))
    assert meter.has_content
    end = transcript_done("a b", json.loads(TOKENS))
    assert meter.feed(end) == b""
    assert (meter.done, meter.closing(is_cut=False)) == (True, end)
    assert meter.feed(b"data: [DONE]\n\n") == b""
    assert meter.facts().usage == TokenUsage(input_tokens=9, input_audio_tokens=8, output_tokens=3)


def test_a_stream_whose_last_line_end_is_missing_is_whole() -> None:
    """What stands behind the last blank line is read at the end."""
    meter = TranscriptMeter(recording())
    assert meter.feed(transcript_done("a").rstrip()) == b""
    assert meter.end() == b""
    assert meter.finished
    assert meter.facts().usage == TokenUsage(audio_ms=1_500)
    assert TranscriptMeter(recording()).end() == b""


def test_a_stream_that_turns_into_an_error() -> None:
    """The error is withheld with all that follows; what ends the client's stream is in our envelope."""
    meter = TranscriptMeter(recording())
    assert meter.feed(b'data: {"error":{"message":"no"}}\n\n' + transcript_delta("a")) == b""
    assert meter.error is not None
    assert meter.failing({"error": {"message": "no"}}) == b'data: {"error":{"message":"no"}}\n\n'


def test_a_segment_alone_is_content() -> None:
    """A stream may bring segments without deltas."""
    meter = TranscriptMeter(recording())
    meter.feed(b'data: {"type":"transcript.text.segment"}\n\n')
    assert meter.has_content
