"""Transcripts: read and written in every format, to the millisecond."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palyra.wire.errors import Malformed
from palyra.wire.transcripts import Segment, Transcript, read_transcript, transcript_segment, write_transcript

VERBOSE = (
    b'{"task":"transcribe","language":"english","duration":3723.4569,"text":"Hi there. Bye.","segments":['
    b'{"id":0,"start":0.0,"end":3.3199999332427979,"text":" Hi there."},'
    b'{"id":1,"start":3.32,"end":3723.4565,"text":" Bye -->\\n\\n now. "}]}'
)


def test_subtitles_are_exact_to_the_millisecond() -> None:
    """Times are rounded once, half up, from the decimals that were sent; no blank line or arrow breaks a cue."""
    transcript = read_transcript(VERBOSE)
    assert write_transcript(transcript, "srt").decode() == (
        "1\n00:00:00,000 --> 00:00:03,320\nHi there.\n\n2\n00:00:03,320 --> 01:02:03,457\nBye ->\nnow.\n\n"
    )
    assert write_transcript(transcript, "vtt").decode() == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:03.320\nHi there.\n\n00:00:03.320 --> 01:02:03.457\nBye ->\nnow.\n\n"
    )


def test_each_format_of_one_transcript() -> None:
    """JSON has the text and what it used; the long forms have the segments, those with speakers say who."""
    transcript = Transcript(
        text="Hi.",
        language="english",
        duration_ms=1_500,
        segments=(Segment(start_ms=0, end_ms=1_500, text="Hi.", speaker="B"),),
    )
    usage = {"type": "duration", "seconds": 1.5}
    event = transcript_segment(0, transcript.segments[0]).decode().removeprefix("data: ")
    assert (json.loads(event)["type"], json.loads(event)["speaker"]) == ("transcript.text.segment", "B")
    assert json.loads(write_transcript(transcript, "json", usage)) == {"text": "Hi.", "usage": usage}
    assert write_transcript(transcript, "text") == b"Hi.\n"
    verbose = json.loads(write_transcript(transcript, "verbose_json"))
    assert (verbose["duration"], verbose["language"], verbose["segments"][0]["end"]) == (1.5, "english", 1.5)
    diarized = json.loads(write_transcript(transcript, "diarized_json"))
    assert diarized["segments"] == [
        {"type": "transcript.text.segment", "id": "seg_0", "start": 0.0, "end": 1.5, "text": "Hi.", "speaker": "B"}
    ]


@pytest.mark.parametrize(("text", "cues"), [("Hi.", 1), ("", 0)])
def test_a_transcript_without_segments_is_one(text: str, cues: int) -> None:
    """What says nothing has no cue."""
    subtitles = write_transcript(Transcript(text=text), "srt").decode()
    assert subtitles.count("-->") == cues


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"text":1}',
        b'{"text":"a","duration":-1}',
        b'{"text":"a","segments":[{"start":0,"text":"a"}]}',
        b'{"text":"a","segments":[{"start":0,"end":1e99,"text":"a"}]}',
        b'{"text":"a","duration":"NaN"}',
        b'{"text":' + b"[" * 5_000,
    ],
)
def test_what_is_no_transcript(body: bytes) -> None:
    """A time that is none makes it none."""
    with pytest.raises(Malformed):
        read_transcript(body)


_TIMES = st.integers(0, 359_999_999)


@given(st.lists(st.tuples(_TIMES, _TIMES, st.text(max_size=5)), min_size=1, max_size=5))
def test_times_survive_the_long_way(rows: list[Any]) -> None:
    """Written as JSON and read again every segment has its milliseconds."""
    segments = tuple(Segment(start_ms=start, end_ms=end, text=text) for start, end, text in rows)
    transcript = Transcript(text="x", language="de", duration_ms=5, segments=segments)
    assert read_transcript(write_transcript(transcript, "verbose_json")) == transcript
