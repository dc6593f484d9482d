"""What stands around a request, through a whole daemon: lists, health, slots, estimates, the event limit."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from embedding_host import wait_until
from openai import AsyncOpenAI
from upstream import Behaviour, Upstream

import palyra
from palyra.events.runs import RunAdmitted

LONG = "word " * 400


@contextlib.asynccontextmanager
async def gateway(
    upstream: Upstream, *models: dict[str, Any], entry: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[tuple[palyra.Daemon, AsyncOpenAI]]:
    """Open a daemon before one server, and a client of it."""
    provider = {
        "provider_id": "up",
        "kind": "openai_compatible",
        "base_url": upstream.url,
        "allow_private_base_url": True,
        "max_retries": 0,
        **(entry or {}),
    }
    offered = [{"model_id": "gpt", "provider_id": "up", "upstream_model": "gpt-x"}, *models]
    config = {"model_provider": {"providers": [provider], "models": offered, **settings}}
    async with palyra.Daemon(config, journal=":memory:") as daemon:
        async with AsyncOpenAI(base_url=daemon.base_url, api_key=daemon.client_key, max_retries=0) as client:
            yield daemon, client


def chat(text: str = "Say hi.", **more: Any) -> dict[str, Any]:
    return {"model": "gpt", "messages": [{"role": "user", "content": text}], **more}


async def test_a_list_fills_what_was_left_open_and_serves_what_is_new() -> None:
    """Each model says where its entry is from; what an operator has overridden stays."""
    listed = [
        {"id": "gpt-x", "context_length": 9_000},
        {"id": "mine-x", "context_length": 9_000},
        {"id": "new/one", "context_length": 7_000},
    ]
    mine = {
        "model_id": "mine",
        "provider_id": "up",
        "upstream_model": "mine-x",
        "metadata_source": "operator_override",
    }
    async with Upstream() as upstream:
        upstream.models_behaviour = Behaviour.raw(json.dumps({"data": listed}).encode())
        async with gateway(upstream, mine, entry={"discovery_mode": "serve"}) as (daemon, client):
            await wait_until(daemon, "discovery.completed")
            await wait_until(daemon, "probe.completed")
            about = {
                one.id: one.model_extra["palyra"]  # type: ignore[index]
                async for one in await client.models.list()
            }
            figures = {
                name: (about[name]["metadata_source"], about[name]["max_context_tokens"])
                for name in ("gpt", "mine", "new/one")
            }
            assert figures == {
                "gpt": ("static", 9_000),
                "mine": ("operator_override", 128_000),
                "new/one": ("discovery", 7_000),
            }
            assert {about[name]["health"] for name in figures} == {"healthy"}
            await client.chat.completions.create(**{**chat(), "model": "new/one"})
            assert upstream.requests[-1].json["model"] == "new/one"


async def test_slots_are_bounded_and_so_is_the_wait_for_them() -> None:
    """One is served, one waits, the third is told at once that there is no room."""
    async with Upstream() as upstream:
        gate = asyncio.Event()
        upstream.reply_with(Behaviour(head=gate))
        bounds = {"max_concurrency": 1, "max_queue": 1}
        async with gateway(upstream, entry=bounds) as (daemon, client):
            first = asyncio.create_task(client.chat.completions.create(**chat("first")))
            await upstream.request_arrived()
            second = asyncio.create_task(client.chat.completions.create(**chat("second")))
            async for recorded in daemon.journal.follow():
                if recorded.name == "run.admitted" and recorded.position > 0 and len(daemon.runs.open) == 2:
                    break
            with pytest.raises(openai.APIStatusError) as refused:
                await client.chat.completions.create(**chat("third"))
            assert (refused.value.status_code, refused.value.code) == (503, "provider_queue_full")
            gate.set()
            assert [one.choices[0].finish_reason for one in await asyncio.gather(first, second)] == ["stop"] * 2
        assert [one.json["messages"][0]["content"] for one in upstream.requests] == ["first", "second"]


async def test_estimates_learn_from_what_providers_bill() -> None:
    """From the eighth answer on; what a request is let in with is on record."""
    async with Upstream() as upstream:
        async with gateway(upstream) as (daemon, client):

            async def tokens() -> Any:
                await client.chat.completions.create(**chat(LONG))
                admitted = [one.body async for one in daemon.journal if isinstance(one.body, RunAdmitted)]
                return admitted[-1].tokens

            first = await tokens()
            upstream.default = Behaviour(prompt_tokens=2 * first.raw)
            for _ in range(8):
                await tokens()
            later = await tokens()
        assert (first.ratio_bp, first.estimated) == (10_000, first.raw)
        assert later.raw == first.raw
        assert later.ratio_bp > 13_000
        assert later.upper >= later.estimated > first.estimated


async def test_no_event_is_longer_than_its_limit() -> None:
    """Input above it is refused, a maximum is lowered and named, and a model may have one of its own."""
    wide = {"model_id": "wide", "provider_id": "up", "upstream_model": "wide-x", "max_tokens_per_event": 5_000}
    async with Upstream() as upstream:
        async with gateway(upstream, wide, max_model_tokens_per_event=600) as (daemon, client):
            with pytest.raises(openai.BadRequestError) as refused:
                await client.chat.completions.create(**chat(LONG + LONG))
            assert refused.value.code == "max_model_tokens_per_event_exceeded"
            assert "600" in refused.value.message
            assert upstream.requests == []
            await client.chat.completions.create(**{**chat(LONG + LONG), "model": "wide"})
            assert "max_tokens" not in upstream.requests[-1].json
            raw = await client.chat.completions.with_raw_response.create(**chat(max_tokens=700))
            assert raw.headers["x-palyra-adjusted"] == "max_tokens=600"
            assert upstream.requests[-1].json["max_tokens"] == 600
            # A provider that does not keep to it is cut off; what came is an answer that was too long.
            upstream.reply_with(Behaviour(text="word " * 4_000))
            async with client.chat.completions.stream(**chat()) as stream:
                with contextlib.suppress(openai.LengthFinishReasonError):
                    await stream.until_done()
            completed = [one.body async for one in daemon.journal if one.name == "run.completed"]
            assert completed[-1].stop == "max_tokens"
