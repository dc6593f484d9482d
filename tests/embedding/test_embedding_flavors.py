"""Each flavor before a server with exactly its ways, reached with the official clients through a whole daemon."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from anthropic import AsyncAnthropic
from embedding_host import wait_until
from openai import AsyncOpenAI
from upstream import Behaviour
from upstream_flavors import DEFAULTS, KNOW_RESPONSES, OBEY_MAX_TOKENS, FlavoredUpstream

import palyra
from palyra.cli.main import main
from palyra.config.flavors import FLAVORS
from palyra.events.attempts import AttemptStarted
from palyra.events.usage import UsageRecorded
from palyra.wire.target import WAYS

TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}},
}
IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Place:
    """A daemon before one server, and the clients of its users."""

    def __init__(self, daemon: palyra.Daemon, upstream: FlavoredUpstream) -> None:
        self.daemon = daemon
        self.upstream = upstream
        self.openai = AsyncOpenAI(base_url=daemon.base_url, api_key=daemon.client_key, max_retries=0)
        self.anthropic = AsyncAnthropic(base_url=daemon.url, api_key=daemon.client_key, max_retries=0)

    async def facts(self, kind: type[Any]) -> list[Any]:
        return [recorded.body async for recorded in self.daemon.journal if isinstance(recorded.body, kind)]


@contextlib.asynccontextmanager
async def open_place(flavor: str, **model: Any) -> AsyncIterator[Place]:
    """Open a daemon whose entry says no more than flavor and address; its models are the server's."""
    async with FlavoredUpstream(flavor) as upstream:
        provider = {
            "provider_id": "up",
            "kind": "openai_compatible",
            "flavor": flavor,
            "base_url": upstream.url,
            "allow_private_base_url": True,
            "max_retries": 1,
            "retry_backoff_ms": 1,
        }
        if FLAVORS[flavor].key == "required":
            provider["api_key_env"] = "UP_KEY"
        models = [
            {"model_id": "m", "provider_id": "up", "upstream_model": "m-x", **model},
            {"model_id": "vec", "provider_id": "up", "upstream_model": "v-x", "role": "embeddings"},
            {"model_id": "ear", "provider_id": "up", "upstream_model": "e-x", "role": "audio_transcription"},
        ]
        config = {"model_provider": {"providers": [provider], "models": models, "discovery_ttl_ms": 0}}
        async with palyra.Daemon(config, journal=":memory:", environ={"UP_KEY": "sk-up"}) as daemon:
            place = Place(daemon, upstream)
            async with place.openai, place.anthropic:
                yield place


def chat(text: str = "Say hi.", **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


async def _ask_chat_streamed(place: Place) -> str:
    async with place.openai.chat.completions.stream(**chat()) as stream:
        return (await stream.get_final_completion()).choices[0].message.content or ""


async def _ask_messages(place: Place) -> str:
    said = await place.anthropic.messages.create(
        model="m", max_tokens=50, system="Be brief.", messages=[{"role": "user", "content": "Say hi."}]
    )
    assert said.stop_reason == "end_turn"
    return "".join(block.text for block in said.content if block.type == "text")


async def _ask_messages_streamed(place: Place) -> str:
    async with place.anthropic.messages.stream(
        model="m", max_tokens=50, system="Be brief.", messages=[{"role": "user", "content": "Say hi."}]
    ) as stream:
        assert (await stream.get_final_message()).stop_reason == "end_turn"
        return await stream.get_final_text()


async def _ask_responses(place: Place) -> str:
    said = await place.openai.responses.create(
        model="m", instructions="Be brief.", input="Say hi.", max_output_tokens=50
    )
    assert said.status == "completed"
    return said.output_text


async def _ask_responses_streamed(place: Place) -> str:
    async with place.openai.responses.stream(model="m", instructions="Be brief.", input="Say hi.") as stream:
        return (await stream.get_final_response()).output_text


WAYS_TO_ASK = [
    _ask_chat_streamed,
    _ask_messages,
    _ask_messages_streamed,
    _ask_responses,
    _ask_responses_streamed,
]


@pytest.mark.parametrize("flavor", [*FLAVORS])
async def test_every_surface_is_served_by_every_flavor(flavor: str) -> None:
    """In three dialects, whole and streamed: nothing is asked of a server that it does not know, usage counts."""
    async with open_place(flavor) as place:
        for ask in WAYS_TO_ASK:
            assert await ask(place) == "Hello from upstream.", ask.__name__
        # What a server of this kind says no to is learnt from once.
        learnt = ["unsupported parameter: stream_options"] if flavor == "generic" else []
        assert place.upstream.refused == learnt
        paths = {request.path for request in place.upstream.requests}
        assert ("/v1/responses" in paths) == (flavor in KNOW_RESPONSES)
        rows = await place.facts(UsageRecorded)
        counted = [row for row in rows if row.source == "provider"]
        without = {"localai": 0, "generic": 2}.get(flavor, len(WAYS_TO_ASK))
        assert len(counted) >= without
        assert all(row.usage.input_tokens > 0 for row in counted)


@pytest.mark.parametrize("flavor", [*FLAVORS])
async def test_a_clients_words_are_a_servers_words(flavor: str) -> None:
    """The role of instructions where a server does not know it, and the maximum where it would be ignored."""
    async with open_place(flavor) as place:
        said = await place.openai.chat.completions.create(
            model="m",
            max_completion_tokens=2,
            messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Say hi."}],
        )
        asked = place.upstream.requests[-1].json
        assert asked["messages"][0]["role"] == ("developer" if flavor == "openai" else "system")
        assert asked.get("max_tokens") == (2 if flavor in OBEY_MAX_TOKENS else None)
        assert asked["max_completion_tokens"] == 2
        assert said.choices[0].message.content == (
            "Hello from" if flavor in OBEY_MAX_TOKENS else "Hello from upstream."
        )


def test_every_flavor_has_a_server_here() -> None:
    """And a row of ways; no flavor is known to one of them alone."""
    assert set(FLAVORS) == set(WAYS) - {""} == set(DEFAULTS)


async def test_openai_is_asked_for_usage_in_its_own_words() -> None:
    """A stream of chunks reports it only if it is asked to; a client that did not ask sees no such chunk."""
    async with open_place("openai") as place:
        stream = await place.openai.chat.completions.create(**chat(), stream=True)
        chunks = [chunk async for chunk in stream]
        assert all(chunk.choices and chunk.usage is None for chunk in chunks)
        assert place.upstream.requests[-1].json["stream_options"] == {"include_usage": True}
        (row,) = await place.facts(UsageRecorded)
        assert (row.source, row.usage.input_tokens, row.usage.output_tokens) == ("provider", 11, 5)


async def test_groq_gets_none_of_what_it_refuses() -> None:
    """A parameter keeps it from being asked, a name is left out by name, a transcript is made here."""
    async with open_place("groq") as place:
        for more in ({"logprobs": True}, {"logit_bias": {"1": 1}}, {"n": 2}):
            with pytest.raises(openai.BadRequestError) as refused:
                await place.openai.chat.completions.create(**chat(**more))
            assert refused.value.code in ("unsupported_parameter", "capability_missing"), more
        assert place.upstream.requests == []
        named = await place.openai.chat.completions.with_raw_response.create(
            model="m", messages=[{"role": "user", "name": "ada", "content": "Hi."}]
        )
        assert named.headers["x-palyra-dropped-params"] == "messages.name"
        for wanted, begins in (("srt", "1\n00:00:00,000 --> "), ("vtt", "WEBVTT\n")):
            text = await place.openai.audio.transcriptions.create(
                model="ear", file=("a.wav", b"RIFF....WAVE"), response_format=wanted
            )
            assert str(text).startswith(begins)
        assert place.upstream.refused == []


async def test_together_lists_a_bare_array(tmp_path: Path) -> None:
    """Which is read as any list; the windows in it fill what the entry leaves open."""
    async with open_place("together") as place:
        listing = await place.daemon.discovery.discover(place.daemon.config.model_provider.registry.providers[0])
        assert [(one.upstream_model, one.max_context_tokens) for one in listing.models] == [("m-x", 32_768)]
        window = (await place.daemon.state_at()).catalog.registry.models[0].max_context_tokens
        assert window == 32_768
        async with place.openai.chat.completions.stream(**chat()) as stream:
            await stream.until_done()
        (row,) = await place.facts(UsageRecorded)
        assert (row.source, row.usage.output_tokens) == ("provider", 5)


async def test_ollama_is_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It writes the entry; the daemon that reads it serves what the server lists, streams and vectors included."""
    file = tmp_path / "palyra" / "palyra.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("PALYRA_STATE_DIR", str(tmp_path / "state"))
    async with FlavoredUpstream("ollama", models=("llama3.2:latest", "nomic-embed-text")) as upstream:
        command = ["models", "connect", "ollama", "--base-url", upstream.url]
        assert await asyncio.to_thread(main, command) == 0
        assert "ollama connected · 2 models" in capsys.readouterr().out
        async with palyra.Daemon(file, journal=":memory:") as daemon:
            await wait_until(daemon, "discovery.completed")
            place = Place(daemon, upstream)
            async with place.openai, place.anthropic:
                names = {model.id async for model in await place.openai.models.list()}
                assert names >= {"llama3.2:latest", "nomic-embed-text", "palyra/default"}
                async with place.openai.chat.completions.stream(
                    model="llama3.2:latest", messages=[{"role": "user", "content": "Hi."}]
                ) as stream:
                    said = await stream.get_final_completion()
                assert said.choices[0].message.content == "Hello from upstream."
                vectors = await place.openai.embeddings.create(model="nomic-embed-text", input="a")
                assert len(vectors.data[0].embedding) == 8


async def test_ollama_is_never_sent_more_than_it_keeps() -> None:
    """It would cut a long prompt and say nothing, so a prompt past its window is refused before it is sent."""
    async with open_place("ollama") as place:
        with pytest.raises(openai.BadRequestError) as refused:
            await place.openai.chat.completions.create(**chat("word " * 9_000))
        assert refused.value.code == "context_window_exceeded"
        assert place.upstream.requests == []
    async with open_place("ollama", max_context_tokens=32_768) as place:
        await place.openai.chat.completions.create(**chat("word " * 9_000))
        assert len(place.upstream.requests) == 1


async def test_ollama_is_not_trusted_with_a_choice_of_tools() -> None:
    """It takes the parameter and does as it likes, so whoever insists is told that nobody can."""
    async with open_place("ollama") as place:
        with pytest.raises(openai.BadRequestError) as refused:
            await place.openai.chat.completions.create(**chat(tools=[TOOL], tool_choice="required"))
        assert "tool_choice" in refused.value.message
        assert place.upstream.requests == []


async def test_ollama_calls_have_names_of_ours_where_it_gives_none() -> None:
    """Two whole calls without ids and indices stay two, whole, and say so at the end."""
    async with open_place("ollama") as place:
        calls = (("", "look", '{"at":"a"}'), ("", "look", '{"at":"b"}'))
        place.upstream.reply_with(Behaviour(text="", tool_calls=calls))
        async with place.anthropic.messages.stream(
            model="m",
            max_tokens=50,
            tools=[{"name": "look", "input_schema": {"type": "object"}}],
            messages=[{"role": "user", "content": "Look."}],
        ) as stream:
            message = await stream.get_final_message()
        inputs = [block.input for block in message.content if block.type == "tool_use"]
        assert (message.stop_reason, inputs) == ("tool_use", [{"at": "a"}, {"at": "b"}])
        ids = [block.id for block in message.content if block.type == "tool_use"]
        assert len(set(ids)) == 2
        assert all(re.fullmatch(r"call_[a-z2-7]{24}", one) for one in ids)


async def test_ollama_gets_the_bytes_of_images_only() -> None:
    """An address is refused here, since nothing fetches it for anybody."""
    async with open_place("ollama", capabilities={"vision": True}) as place:
        for url, is_taken in ((f"data:image/png;base64,{IMAGE}", True), ("https://x.example/a.png", False)):
            content = [{"type": "image_url", "image_url": {"url": url}}]
            asked = {"model": "m", "messages": [{"role": "user", "content": content}]}
            if is_taken:
                await place.openai.chat.completions.create(**asked)
            else:
                with pytest.raises(openai.BadRequestError) as refused:
                    await place.openai.chat.completions.create(**asked)
                assert refused.value.code == "image_url_unsupported"
        assert (len(place.upstream.requests), place.upstream.refused) == (1, [])


async def test_localai_says_little_and_is_understood() -> None:
    """No usage and an empty reason are an end with estimated counts; vectors come as floats and leave as asked."""
    async with open_place("localai") as place:
        raw = await place.openai.chat.completions.with_raw_response.create(**chat())
        assert raw.headers["x-palyra-estimated"] == "true"
        # The official client asks for base64 where nobody says otherwise.
        vectors = await place.openai.embeddings.create(model="vec", input=["a", "b"])
        assert [one.embedding[:2] for one in vectors.data] == [[1.0, 0.0], [0.0, 1.0]]
        assert place.upstream.requests[-1].json["encoding_format"] == "float"
        assert (await place.facts(AttemptStarted))[-1].edits == ["model", "encoding_format"]
        raw_answer = await place.openai.embeddings.with_raw_response.create(
            model="vec", input="a", encoding_format="base64"
        )
        assert '"embedding":"AACAP' in raw_answer.text
        assert place.upstream.refused == []


async def test_a_generic_server_teaches_what_it_does_not_know_once() -> None:
    """A 400 that names the flag costs one more try; later streams go without it, in every dialect."""
    async with open_place("generic") as place:
        for ask in (_ask_chat_streamed, _ask_messages_streamed, _ask_chat_streamed):
            assert await ask(place) == "Hello from upstream."
        assert place.upstream.refused == ["unsupported parameter: stream_options"]
        assert len(place.upstream.requests) == 4
