"""Recordings through the served API: the official client, every format, streams, bounds, and what it costs."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from daemon_house import House, open_house, over_socket, raw_client, read_answer
from recordings import BOUNDARY, CONTENT_TYPE, transcription, wav
from registries import model, provider, registry
from upstream import CUT, Behaviour

from palyra.events.attempts import AttemptStarted
from palyra.events.registry import Capabilities, Registry
from palyra.events.runs import RunAdmitted, RunCompleted, RunFailed, RunRefused
from palyra.events.usage import UsageRecorded
from palyra.usage import TokenUsage
from palyra.wire.multipart import read_form

AUDIO = "/v1/audio/transcriptions"
STREAMS = Capabilities(streaming=True)


def offer(*, flavor: str = "generic", capabilities: Capabilities = STREAMS) -> Registry:
    """One transcription model at one provider."""
    return registry(
        provider("up", max_retries=0, credential_ref="", auth_scheme="none", flavor=flavor),
        model("gpt", "up"),
        model(
            "ear",
            "up",
            upstream_model="ear-x",
            role="audio_transcription",
            capabilities=capabilities,
            max_context_tokens=None,
        ),
        default_audio_transcription_model_id="ear",
    )


def house_of(directory: Path, **more: Any) -> Any:
    return open_house(directory, **{"offer": offer(), "max_audio_bytes": 1 << 20, **more})


def sent(house: House) -> Any:
    """What arrived at the provider, as a form."""
    return read_form(house.upstream.requests[-1].body, BOUNDARY)


async def test_a_recording_is_transcribed(tmp_path: Path) -> None:
    """The official client gets the provider's answer; the run says how long the recording is, and what it used."""
    async with house_of(tmp_path) as house, house.sdk() as sdk:
        raw = await sdk.audio.transcriptions.with_raw_response.create(
            model="ear", file=("speech.wav", wav(1.5)), language="en", extra_body={"strange": "x"}
        )
        assert raw.parse().text == "Hello from upstream."
        assert raw.headers["x-palyra-model"] == "ear"
        received = house.upstream.requests[-1]
        form = read_form(received.body, received.headers["content-type"].partition('"')[2].rstrip('"'))
        assert (form.text("model"), form.text("language"), form.text("strange")) == ("ear-x", "en", "x")
        (file,) = form.named("file")
        assert (file.filename, bytes(form.content(file))) == ("speech.wav", wav(1.5))
        (admitted,) = house.facts(RunAdmitted)
        assert (admitted.endpoint, admitted.audio_ms) == ("audio_transcription", 1_500)
        (used,) = house.facts(UsageRecorded)
        assert (used.usage, used.source, used.endpoint) == (
            TokenUsage(audio_ms=2_000),
            "provider",
            "audio_transcription",
        )
        assert house.facts(AttemptStarted)[0].edits == ["model"]


TEXTS = {
    "text": ("text/plain; charset=utf-8", "Hello from upstream.\n"),
    "srt": ("text/plain; charset=utf-8", "1\n00:00:00,000 --> 00:00:01,234\nHello from upstream.\n\n"),
    "vtt": ("text/vtt; charset=utf-8", "WEBVTT\n\n00:00:00.000 --> 00:00:01.234\nHello from upstream.\n\n"),
}


@pytest.mark.parametrize("wanted", ["text", "srt", "vtt"])
@pytest.mark.parametrize("flavor", ["openai", "together"])
async def test_every_text_format_whatever_the_server_writes(tmp_path: Path, flavor: str, wanted: Any) -> None:
    """A format that the server lacks is made here of the one it has, to the millisecond, and that is named."""
    async with house_of(tmp_path, offer=offer(flavor=flavor)) as house, house.sdk() as sdk:
        raw = await sdk.audio.transcriptions.with_raw_response.create(
            model="ear", file=("a.wav", wav()), response_format=wanted
        )
        assert (raw.headers["content-type"], raw.text) == TEXTS[wanted]
        emulated = f"response_format={wanted}" if flavor == "together" else None
        assert raw.headers.get("x-palyra-emulated") == emulated


@pytest.mark.parametrize("wanted", ["verbose_json", "diarized_json"])
async def test_the_long_formats_pass_as_they_come(tmp_path: Path, wanted: Any) -> None:
    """Their bytes are the provider's, and their duration is what is paid for."""
    async with house_of(tmp_path) as house, house.sdk() as sdk:
        answer = await sdk.audio.transcriptions.create(
            model="ear", file=("a.wav", wav()), response_format=wanted, timestamp_granularities=["word"]
        )
        assert answer.segments[0].end == 1.2339999
        assert house.facts(UsageRecorded)[0].usage == TokenUsage(audio_ms=1_500)


@pytest.mark.parametrize("streams", [True, False])
async def test_a_transcript_is_streamed(tmp_path: Path, streams: bool) -> None:
    """It is relayed event by event, or made of the whole answer, which is named; the end has text and usage."""
    capabilities = Capabilities(streaming=streams)
    async with house_of(tmp_path, offer=offer(capabilities=capabilities)) as house, house.sdk() as sdk:
        raw = await sdk.audio.transcriptions.with_raw_response.create(
            model="ear", file=("a.wav", wav()), stream=True
        )
        events = [event async for event in raw.parse()]
        deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
        assert "".join(deltas) == "Hello from upstream."
        assert len(deltas) == (3 if streams else 1)
        assert events[-1].type == "transcript.text.done"
        assert events[-1].text == "Hello from upstream."
        assert raw.headers.get("x-palyra-emulated") == (None if streams else "stream")
        await house.wait_until_idle()
        assert house.facts(UsageRecorded)[0].usage == TokenUsage(audio_ms=2_000)
        assert house.facts(RunCompleted)[0].stop == "end_turn"


async def test_a_stream_that_breaks_says_so(tmp_path: Path) -> None:
    """Behind its first words it ends with an error that the client raises; before them it plainly fails."""
    async with house_of(tmp_path) as house, house.sdk() as sdk:
        house.upstream.reply_with(Behaviour(after={2: CUT}))
        stream = await sdk.audio.transcriptions.create(model="ear", file=("a.wav", wav()), stream=True)
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass
        house.upstream.reply_with(Behaviour(after={0: CUT}))
        with pytest.raises(openai.InternalServerError):
            await sdk.audio.transcriptions.create(model="ear", file=("a.wav", wav()), stream=True)
        await house.wait_until_idle()
        assert [fact.code for fact in house.facts(RunFailed)] == ["stream_truncated", "stream_truncated"]
        assert house.facts(UsageRecorded)[0].source == "estimated"


async def test_a_length_that_nobody_tells_is_estimated(tmp_path: Path) -> None:
    """4,000 bytes of an unknown recording are a second, and the answer says that this is a guess."""
    async with house_of(tmp_path) as house, raw_client(house) as send:
        house.upstream.reply_with(Behaviour.raw(b'{"text":"Hi."}'), Behaviour.raw(b'{"text":"Hi."}'))
        guessed = await send(
            path=AUDIO, body=transcription(b"x" * 8_000, model="ear"), headers={"content-type": CONTENT_TYPE}
        )
        known = await send(path=AUDIO, body=transcription(wav(1.5)), headers={"content-type": CONTENT_TYPE})
        assert (guessed.headers.get("x-palyra-estimated"), known.headers.get("x-palyra-estimated")) == (
            "true",
            None,
        )
        rows = house.facts(UsageRecorded)
        assert [(row.usage.audio_ms, row.source, row.anomalies) for row in rows] == [
            (2_000, "estimated", []),
            (1_500, "provider", ["audio_length_measured"]),
        ]
        assert [one.audio_guessed for one in house.facts(RunAdmitted)] == [True, False]


async def test_a_recording_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    """Its announced length is enough to refuse it before a byte has come; without one it is cut off on its way."""
    async with house_of(tmp_path) as house:
        head = (
            f"POST {AUDIO} HTTP/1.1\r\nHost: 127.0.0.1:{house.server.port}\r\n"
            f"Authorization: Bearer {house.client_key}\r\nContent-Type: {CONTENT_TYPE}\r\n"
        )
        announced = await over_socket(house.server.port, f"{head}Content-Length: {65 << 20}\r\n\r\n".encode())
        assert (announced.status, announced.code) == (413, "body_too_large")
        reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
        writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        for _ in range(17):
            writer.write(piece)
        assert (await read_answer(reader)).status == 413
        writer.close()
        assert [fact.code for fact in house.facts(RunRefused)] == ["body_too_large"] * 2
        assert house.upstream.requests == []


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        ("application/json", b"{}", 415, "unsupported_media_type"),
        ("multipart/form-data", b"x", 400, "invalid_request"),
        (CONTENT_TYPE, b"x", 400, "invalid_request"),
        (CONTENT_TYPE, transcription(model="gpt"), 400, "model_role_mismatch"),
        (CONTENT_TYPE, transcription(model="earr"), 404, "model_not_found"),
    ],
)
async def test_what_is_refused(tmp_path: Path, content_type: str, body: bytes, status: int, code: str) -> None:
    """Other bodies, broken forms and models for something else are refused in OpenAI's envelope."""
    async with house_of(tmp_path) as house, raw_client(house) as send:
        answer = await send(path=AUDIO, body=body, headers={"content-type": content_type})
        assert (answer.status, answer.code) == (status, code)
        assert house.upstream.requests == []


async def test_a_key_needs_its_scope(tmp_path: Path) -> None:
    """Chat alone does not open the door to recordings."""
    async with house_of(tmp_path) as house, raw_client(house) as send:
        key = await house.issue(scopes=["v1:chat"])
        answer = await send(path=AUDIO, key=key, body=transcription(), headers={"content-type": CONTENT_TYPE})
        assert (answer.status, answer.code) == (403, "missing_scope")


async def test_a_large_recording_does_not_hold_the_loop(tmp_path: Path) -> None:
    """While 48 MiB come in and go out, the loop has its turn all the time."""
    async with house_of(tmp_path, max_audio_bytes=64 << 20, max_inflight_bytes=256 << 20) as house:
        async with raw_client(house) as send:
            ticks: list[float] = []
            loop = asyncio.get_running_loop()

            async def tick() -> None:
                while True:
                    ticks.append(loop.time())
                    await asyncio.sleep(0.001)

            body = await asyncio.to_thread(transcription, bytes(48 << 20), model="ear")
            ticking = asyncio.create_task(tick())
            answer = await send(path=AUDIO, body=io.BytesIO(body), headers={"content-type": CONTENT_TYPE})
            ticking.cancel()
            assert (answer.status, json.loads(answer.body)["text"]) == (200, "Hello from upstream.")
            assert len(ticks) > 20
