"""The test upstream itself: the official SDK understands it, and its misbehaviours are what they say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest
from upstream import CUT, RESET, Behaviour, Upstream, error_event


@asynccontextmanager
async def sdk(up: Upstream) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key="sk-test", base_url=up.url, max_retries=0) as client:
        yield client


HI = [{"role": "user", "content": "Hi"}]


async def test_the_sdk_reads_every_answer() -> None:
    """Unary, streamed, embedded and listed: the official client takes it all."""
    async with Upstream() as up, sdk(up) as client:
        up.reply_with(Behaviour(text="Hi there", tool_calls=(("call_1", "f", '{"a":1}'),)))
        whole = await client.chat.completions.create(model="gpt-x", messages=HI)
        assert whole.choices[0].message.content == "Hi there"
        assert whole.choices[0].message.tool_calls[0].function.arguments == '{"a":1}'
        assert whole.usage.total_tokens == 16
        stream = await client.chat.completions.create(
            model="gpt-x", messages=HI, stream=True, stream_options={"include_usage": True}
        )
        events = [event async for event in stream]
        text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
        assert text == "Hello from upstream."
        assert events[-1].usage.prompt_tokens == 11
        embedded = await client.embeddings.create(model="embed-x", input=["a", "b"])
        assert [len(item.embedding) for item in embedded.data] == [8, 8]
        assert [model.id async for model in client.models.list()] == ["gpt-x"]
        assert up.requests[0].json["messages"] == HI


@pytest.mark.parametrize("usage", ["none", "last_chunk", "usage_chunk", "x_groq"])
async def test_usage_comes_in_its_ways(usage: str) -> None:
    """Each way of reporting usage in a stream is there, and the SDK reads the stream all the same."""
    async with Upstream() as up, sdk(up) as client:
        up.reply_with(Behaviour(usage=usage, newline="\r\n", space=False, reasoning="hm"))  # type: ignore[arg-type]
        stream = await client.chat.completions.create(model="gpt-x", messages=HI, stream=True)
        events = [event async for event in stream]
        reported = [event for event in events if event.usage is not None]
        assert len(reported) == (1 if usage in ("last_chunk", "usage_chunk") else 0)
        assert any("x_groq" in (event.model_extra or {}) for event in events) == (usage == "x_groq")


async def test_errors_and_breaks_are_what_they_say() -> None:
    """Statuses raise the SDK's own errors, events of errors too, and cut connections are connection errors."""
    async with Upstream() as up, sdk(up) as client:
        up.reply_with(Behaviour.error(429, "rate_limit_exceeded", retry_after="1"))
        with pytest.raises(openai.RateLimitError) as limited:
            await client.chat.completions.create(model="gpt-x", messages=HI)
        assert limited.value.response.headers["retry-after"] == "1"
        for fault in (CUT, RESET):
            up.reply_with(Behaviour(head=fault))
            with pytest.raises(openai.APIConnectionError):
                await client.chat.completions.create(model="gpt-x", messages=HI)
        up.reply_with(Behaviour(after={2: error_event("boom")}))
        stream = await client.chat.completions.create(model="gpt-x", messages=HI, stream=True)
        with pytest.raises(openai.APIError, match="boom"):
            _ = [event async for event in stream]


async def test_gates_hold_an_answer_back() -> None:
    """An answer waits for its gate, before its head or inside its body, while the test looks on."""
    head, body = asyncio.Event(), asyncio.Event()
    async with Upstream() as up, sdk(up) as client:
        up.reply_with(Behaviour(head=head, after={1: body}))
        asking = asyncio.ensure_future(client.chat.completions.create(model="gpt-x", messages=HI))
        assert (await up.request_arrived()).path == "/v1/chat/completions"
        assert not asking.done()
        head.set()
        body.set()
        assert (await asking).choices[0].message.content
