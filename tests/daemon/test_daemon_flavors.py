"""Servers of OpenAI's older dialect, each with the ways that are known of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from daemon_house import House, chat, open_house, raw_client
from dialect_house import anthropic_of, asked
from registries import ALL_CAPABILITIES, model, provider, registry
from upstream import Behaviour

from palyra.events.attempts import AttemptStarted
from palyra.events.registry import Registry
from palyra.events.usage import UsageRecorded


def offer(flavor: str, *, max_retries: int = 0, **changes: Any) -> Registry:
    """Return one model at a provider of a flavor."""
    entry = provider(
        "up", flavor=flavor, max_retries=max_retries, credential_ref="", auth_scheme="none", retry_backoff_ms=1
    )
    return registry(entry, model("gpt", "up", upstream_model="gpt-x", **changes))


async def sent(house: House, body: dict[str, Any]) -> dict[str, Any]:
    """Send a chat and return what reached the provider."""
    async with raw_client(house) as raw:
        answer = await raw(body=body)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = house.upstream.requests[-1].json
    return found


@pytest.mark.parametrize(
    ("flavor", "role", "cap"),
    [
        ("openai", "developer", "max_completion_tokens"),
        ("groq", "system", "max_tokens"),
        ("together", "system", "max_tokens"),
        ("ollama", "system", "max_tokens"),
        ("localai", "system", "max_tokens"),
        ("generic", "system", "max_tokens"),
    ],
)
async def test_instructions_and_maxima_have_their_names(tmp_path: Path, flavor: str, role: str, cap: str) -> None:
    """Passed through and translated alike: the role of instructions, and the field of the maximum."""
    async with open_house(tmp_path, offer=offer(flavor)) as house:
        messages = [{"role": "developer", "content": "a"}, {"role": "user", "content": "x"}]
        assert (await sent(house, chat(messages=messages)))["messages"][0]["role"] == role
        async with anthropic_of(house) as sdk:
            await sdk.messages.create(**asked(model="gpt", system="a"))
        translated = house.upstream.requests[-1].json
        assert (translated["messages"][0]["role"], translated[cap]) == (role, 100)


async def test_groq_takes_no_bias_and_no_names_and_reports_usage_aside(tmp_path: Path) -> None:
    """A bias keeps it from being asked, a speaker's name is left out by name, usage is found under `x_groq`."""
    async with open_house(tmp_path, offer=offer("groq")) as house, raw_client(house) as raw:
        refused = await raw(body=chat(logit_bias={"1": 1}))
        assert (refused.status, refused.json["error"]["param"]) == (400, "logit_bias")
        house.upstream.reply_with(Behaviour(usage="x_groq"))
        messages = [{"role": "user", "content": "x", "name": "ada"}]
        answer = await raw(body=chat(messages=messages, stream=True))
        assert answer.headers["x-palyra-dropped-params"] == "messages.name"
        assert house.upstream.requests[-1].json["messages"] == [{"role": "user", "content": "x"}]
        assert house.facts(AttemptStarted)[0].dropped == ["messages.name"]
        assert house.facts(UsageRecorded)[0].usage.input_tokens == 11


async def test_together_reports_usage_with_its_last_choice(tmp_path: Path) -> None:
    """It counts all the same, in its own dialect and in another."""
    async with (
        open_house(tmp_path, offer=offer("together")) as house,
        house.sdk() as sdk,
        anthropic_of(house) as ant,
    ):
        house.upstream.reply_with(*[Behaviour(usage="last_chunk")] * 2)
        async with sdk.chat.completions.stream(**chat()) as stream:
            assert (await stream.get_final_completion()).choices[0].message.content == "Hello from upstream."
        async with ant.messages.stream(**asked(model="gpt")) as told:
            assert (await told.get_final_message()).usage.input_tokens == 11
        await house.wait_until_idle()
        assert [row.usage.input_tokens for row in house.facts(UsageRecorded)] == [11, 11]


async def test_ollama_takes_bytes_of_images_only_and_numbers_every_call_0(tmp_path: Path) -> None:
    """An address is refused before anything is sent; two whole calls without ids of their own stay two."""
    image = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    async with open_house(tmp_path, offer=offer("ollama")) as house, raw_client(house) as raw:
        refused = await raw(body=chat(messages=[{"role": "user", "content": [image]}]))
        assert (refused.status, refused.code) == (400, "image_url_unsupported")
        assert house.upstream.requests == []
        calls = [{"function": {"name": name, "arguments": "{}"}} for name in ("a", "b")]
        chunks = [{"choices": [{"index": 0, "delta": {"tool_calls": [one]}}]} for one in calls]
        body = b"".join(
            f"data: {json.dumps(one)}\n\n".encode()
            for one in [*chunks, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
        )
        house.upstream.reply_with(Behaviour.raw(body + b"data: [DONE]\n\n", "text/event-stream"))
        async with anthropic_of(house) as sdk, sdk.messages.stream(**asked(model="gpt")) as stream:
            message = await stream.get_final_message()
        assert [(block.type, block.name) for block in message.content] == [("tool_use", "a"), ("tool_use", "b")]  # type: ignore[union-attr]
        assert message.stop_reason == "tool_use"
        assert len({block.id for block in message.content}) == 2  # type: ignore[union-attr]


async def test_localai_may_say_nothing_of_usage_and_of_the_end(tmp_path: Path) -> None:
    """An empty finish reason is an end, missing counts are estimated and said to be."""
    async with open_house(tmp_path, offer=offer("localai")) as house, anthropic_of(house) as sdk:
        house.upstream.reply_with(Behaviour(usage="none", finish_reason=""))
        raw = await sdk.messages.with_raw_response.create(**asked(model="gpt"))
        message = await raw.parse()
        assert message.stop_reason == "end_turn"
        assert raw.headers["x-palyra-estimated"] == "true"
        assert house.facts(UsageRecorded)[0].source == "estimated"


@pytest.mark.parametrize("is_translated", [False, True])
async def test_a_refusal_of_stream_options_is_remembered(tmp_path: Path, is_translated: bool) -> None:
    """The same request goes again without the flag, and later ones never have it."""
    refusal = Behaviour.error(400, message="unknown field: stream_options", kind="invalid_request_error")
    async with open_house(tmp_path, offer=offer("generic", max_retries=1)) as house, house.sdk() as sdk:
        house.upstream.reply_with(refusal)
        for _ in range(2):
            if is_translated:
                async with anthropic_of(house) as ant, ant.messages.stream(**asked(model="gpt")) as told:
                    assert (await told.get_final_message()).stop_reason == "end_turn"
            else:
                stream = await sdk.chat.completions.create(**chat(), stream=True)
                assert [chunk async for chunk in stream]
        flags = ["stream_options" in request.json for request in house.upstream.requests]
        assert flags == [True, False, False]


async def test_a_client_that_wants_the_flag_itself_is_told_no(tmp_path: Path) -> None:
    """What it asked for is its own; nothing is taken away from it in silence."""
    refusal = Behaviour.error(400, message="unknown field: stream_options", kind="invalid_request_error")
    async with open_house(tmp_path, offer=offer("generic", max_retries=1)) as house, raw_client(house) as raw:
        house.upstream.reply_with(refusal)
        answer = await raw(body=chat(stream=True, stream_options={"include_usage": True}))
        assert (answer.status, len(house.upstream.requests)) == (400, 1)


@pytest.mark.parametrize("is_translated", [False, True])
async def test_a_model_that_does_not_stream_serves_streams(tmp_path: Path, is_translated: bool) -> None:
    """It is asked for a whole answer, which the client gets as the events that say the same."""
    import msgspec

    able = msgspec.structs.replace(ALL_CAPABILITIES, streaming=False)
    config = offer("generic", capabilities=able)
    async with open_house(tmp_path, offer=config) as house, house.sdk() as sdk, anthropic_of(house) as ant:
        if is_translated:
            async with ant.messages.stream(**asked(model="gpt")) as told:
                assert await told.get_final_text() == "Hello from upstream."
        else:
            raw = await sdk.chat.completions.with_raw_response.create(**chat(), stream=True)
            chunks = [chunk async for chunk in raw.parse()]
            assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello from upstream."
            assert raw.headers["x-palyra-emulated"] == "stream"
        assert not house.upstream.requests[0].json.get("stream")


async def test_a_large_body_is_translated_beside_the_loop(tmp_path: Path) -> None:
    """It is read and written in a thread; the run starts when it is ready, with the whole of it."""
    both = registry(
        provider("ant", kind="anthropic", flavor="", max_retries=0, credential_ref="", auth_scheme="none"),
        model("claude", "ant", upstream_model="claude-x", upstream_apis=["messages"], max_context_tokens=None),
        default_chat_model_id="claude",
    )
    text = "word " * 100_000
    async with open_house(tmp_path, offer=both) as house, house.sdk() as sdk:
        answer = await sdk.chat.completions.create(**chat(text, model="claude", seed=1))
        assert answer.choices[0].message.content == "Hello from upstream."
        assert house.upstream.requests[0].json["messages"][0]["content"] == [{"type": "text", "text": text}]
        (started,) = house.facts(AttemptStarted)
        assert (started.api, started.dropped) == ("messages", ["seed"])
