"""Transcripts of the provider on loopback, in every format that OpenAI writes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from palyra.wire.multipart import boundary_of, read_form

if TYPE_CHECKING:
    from upstream import Behaviour, Received

_SRT = "1\n00:00:00,000 --> 00:00:01,234\n{}\n\n"
_VTT = "WEBVTT\n\n00:00:00.000 --> 00:00:01.234\n{}\n\n"
_TEXTS = {"text": "{}\n", "srt": _SRT, "vtt": _VTT}


def answer(behaviour: Behaviour, received: Received) -> tuple[str, list[bytes]]:
    """Return the content type and the pieces of an answer."""
    form = read_form(received.body, boundary_of(received.headers["content-type"]))
    wanted, text = form.text("response_format") or "json", behaviour.text
    usage = {"type": "duration", "seconds": 2}
    if form.text("stream") == "true":
        pieces = re.findall(r"\s*\S+", text)
        events = [{"type": "transcript.text.delta", "delta": piece} for piece in pieces]
        done = {"type": "transcript.text.done", "text": text, "usage": usage}
        return "text/event-stream", [f"data: {json.dumps(event)}\n\n".encode() for event in [*events, done]]
    if wanted in _TEXTS:
        return "text/plain", [_TEXTS[wanted].format(text).encode(), b""]
    told: dict[str, object] = {"text": text}
    if wanted == "json":
        told["usage"] = usage
    else:
        segment = {"id": 0, "start": 0.0, "end": 1.2339999, "text": f" {text}"}
        told |= {"task": "transcribe", "language": "english", "duration": 1.5, "segments": [segment]}
    return "application/json", [json.dumps(told).encode(), b""]
