"""The API described by itself: made of its routes and Structs, and true for whatever is sent."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_house import GUARDED, open_house, raw_client

import palyra

CONFIG = {
    "model_provider": {
        "providers": [{"provider_id": "script", "kind": "deterministic"}],
        "models": [
            {"model_id": "echo", "provider_id": "script"},
            {"model_id": "vec", "provider_id": "script", "role": "embeddings"},
            {"model_id": "ear", "provider_id": "script", "role": "audio_transcription"},
        ],
        "default_embeddings_model_id": "vec",
        "default_audio_transcription_model_id": "ear",
    }
}


async def test_every_route_is_described(tmp_path: Path) -> None:
    """Nobody needs a key to read it; what needs one says so; every reference leads somewhere."""
    async with open_house(tmp_path) as house, raw_client(house) as send:
        answer = await send("GET", "/v1/openapi.json", key="")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        document = answer.json
        assert document["openapi"] == "3.1.0"
        assert set(document["paths"]) == {place.template for place in house.gateway.places}
        for path in GUARDED[:3]:
            (operation,) = document["paths"][path].values()
            assert operation["security"]
            assert {"400", "401", "429", "503"} <= set(operation["responses"])
        schemas = document["components"]["schemas"]
        references = {part.partition('"')[0] for part in answer.body.decode().split("#/components/schemas/")[1:]}
        assert references <= set(schemas)
        assert schemas["ChatBody"]["required"] == ["messages"]
        assert {"MessagesMessage", "Message"} <= set(schemas)
        assert (await send("GET", "/v1/openapi.json")).body == answer.body


@pytest.mark.timeout(120)
async def test_nothing_that_is_sent_breaks_it(tmp_path: Path) -> None:
    """Schemathesis sends what the description allows and what it does not: no 5xx, no status that it lacks."""
    async with palyra.Daemon(CONFIG, journal=":memory:") as daemon:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{daemon.base_url}/openapi.json"]
        command += ["--url", daemon.url, "-H", f"Authorization: Bearer {daemon.client_key}", "--no-color"]
        command += ["--checks", "not_a_server_error,status_code_conformance,unsupported_method"]
        command += ["--phases", "coverage,fuzzing", "-n", "8", "--generation-deterministic"]
        ran = await asyncio.to_thread(
            subprocess.run,
            command,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
            env={**os.environ, "PYTHONPATH": ""},
        )
        assert ran.returncode == 0, ran.stdout[-4_000:] + ran.stderr[-1_000:]
        assert "12 passed" in ran.stdout


@pytest.mark.parametrize("stream", [False, True])
async def test_a_parameter_with_an_impossible_name_is_named_all_the_same(tmp_path: Path, stream: bool) -> None:
    """What no header can hold is a question mark in the header that tells of it, and not an error."""
    async with open_house(tmp_path) as house, raw_client(house) as send:
        body = {"model": "gpt", "input": "Hi.", "stream": stream, "a\r\nb\u0000\u20ac": 1}
        answer = await send(path="/v1/responses", body=body)
        assert answer.status == 200
        assert "a??b??" in answer.headers["x-palyra-dropped-params"]
