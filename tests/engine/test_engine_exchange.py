"""Edges of an exchange: pauses asked for, odd answers, output limits, large bodies, and what headers tell."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from engine_fakes import DONE, EVENTS, ROLE, STOP, Script, ScriptedProvider, cut, error, event, stream, unary
from engine_world import Taker, house, model, one, provider, registry, two
from upstream import Behaviour, Upstream

from palyra.engine.client import refusal_headers
from palyra.engine.run import RunSettings
from palyra.errors import Refusal
from palyra.events.attempts import AttemptFailed, AttemptStarted, AttemptSucceeded
from palyra.events.usage import UsageRecorded
from palyra.limits import OFF_LOOP_BYTES
from palyra.redaction import Secret


def test_retry_after_of_a_refusal_is_whole_seconds() -> None:
    """A client is never told to come back at once."""
    assert refusal_headers(Refusal(code="draining", message="")) == {}
    assert refusal_headers(Refusal(code="draining", message="", retry_after_ms=0)) == {"retry-after": "1"}
    assert refusal_headers(Refusal(code="draining", message="", retry_after_ms=1_001)) == {"retry-after": "2"}


async def test_output_beyond_every_limit_is_cut() -> None:
    """A stream far past its maximum is ended as if the maximum had been kept, and settled as complete."""
    long = [event({"content": "word " * 200}) for _ in range(20)]
    fake = ScriptedProvider(Script(ROLE, *long, headers=EVENTS))
    async with house(one(of_model={"max_tokens_per_event": 1_000}), extra={"a": fake}) as world:
        taker = Taker()
        reply = await world.chat(client=taker, stream=True, max_tokens=5_000)
        assert reply.status == 200
        assert reply.headers["x-palyra-adjusted"] == "max_tokens=1000"
        assert taker.is_complete
        last = json.loads(taker.data.split(b"data: ")[-2])
        assert last["choices"][0]["finish_reason"] == "length"
        (succeeded,) = world.facts(AttemptSucceeded)
        assert succeeded.stop == "max_tokens"
        assert len(fake.answers[0]._pieces) > 5
        assert fake.answers[0].is_closed
        assert json.loads(fake.calls[0].body)["max_tokens"] == 1_000
        (started,) = world.facts(AttemptStarted)
        assert started.output_max_tokens == 1_000
        (row,) = world.facts(UsageRecorded)
        assert (row.source, row.anomalies) == ("estimated", ["cap_ignored_by_provider"])
        assert row.overshoot_tokens > 0


async def test_stream_that_ends_without_its_mark_is_complete_when_it_has_a_reason() -> None:
    """`finish_reason` ends an answer too; a stream without either is truncated."""
    fake = ScriptedProvider(stream("Hi.", ending=(STOP,)), stream("Hi.", ending=()))
    async with house(one(), extra={"a": fake}) as world:
        taker = Taker()
        assert (await world.chat(client=taker, stream=True)).status == 200
        assert taker.is_complete
        assert (await world.chat(stream=True)).refusal.code == "stream_truncated"


@pytest.mark.parametrize("preamble", [ROLE, b""])
async def test_stream_of_nothing_but_its_end_is_an_answer(preamble: bytes) -> None:
    """What was held back is passed on with the end."""
    pieces = [piece for piece in (preamble, DONE) if piece]
    async with house(one(), extra={"a": ScriptedProvider(Script(*pieces, headers=EVENTS))}) as world:
        taker = Taker()
        assert (await world.chat(client=taker, stream=True)).status == 200
        assert taker.data == preamble + DONE


async def test_content_and_error_in_one_piece_fail_over() -> None:
    """What has not been relayed can still be replaced, although the provider bills it."""
    broken = event({"content": "Wrong"}) + b'data: {"error":{"message":"boom"}}\n\n'
    first, other = ScriptedProvider(Script(broken, headers=EVENTS)), ScriptedProvider()
    async with house(two(), extra={"a": first, "b": other}) as world:
        taker = Taker()
        assert (await world.chat(client=taker, stream=True)).status == 200
        assert taker.text == "Hello."
        (failed,) = world.facts(AttemptFailed)
        assert failed.phase == "body"


async def test_content_type_is_read_as_the_standard_says() -> None:
    """Upper case and parameters change nothing."""
    good = stream("Hi.")
    script = Script(*good.pieces, headers={"content-type": "Text/Event-Stream; charset=UTF-8"})
    async with house(one(), extra={"a": ScriptedProvider(script)}) as world:
        assert (await world.chat(stream=True)).status == 200


async def test_stream_without_a_type_is_malformed() -> None:
    """An answer that does not say that it is a stream is none."""
    script = Script(b"hello", headers={"content-type": ""})
    async with house(one(), extra={"a": ScriptedProvider(script)}) as world:
        reply = await world.chat(stream=True)
        assert reply.refusal.code == "malformed_response"
        assert "untyped" in reply.refusal.message


async def test_error_whose_body_cannot_be_read_keeps_its_status() -> None:
    """A status says enough: a caller's mistake does not become a fault of the provider."""
    script = Script(cut(), status=400)
    async with house(one(), extra={"a": ScriptedProvider(script)}) as world:
        assert (await world.chat()).status == 400
        assert world.state.circuits.by_provider == {}


async def test_large_answer_is_read_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unary answer over 256 KiB is checked in a thread; a smaller one is not worth the way."""
    hops: list[Any] = []
    to_thread = asyncio.to_thread

    async def noting(function: Any, *arguments: Any) -> Any:
        hops.append(function)
        return await to_thread(function, *arguments)

    monkeypatch.setattr("asyncio.to_thread", noting)
    fake = ScriptedProvider(unary("x" * OFF_LOOP_BYTES), unary())
    async with house(one(of_model={"upstream_model": "gpt-x"}), extra={"a": fake}) as world:
        reply = await world.chat()
        assert len(reply.body or b"") > OFF_LOOP_BYTES
        assert len(hops) == 1
        assert (await world.chat()).status == 200
        assert len(hops) == 1


async def test_headers_of_an_answer() -> None:
    """The client is told who answered, under which of the provider's ids, and what it had asked for."""
    config = registry(
        provider("a", credential_ref="env:KEY", auth_scheme="bearer"), model("m", "a", aliases=["fast"])
    )
    async with Upstream() as up:
        config.providers[0] = provider("a", up.url, credential_ref="env:KEY", auth_scheme="bearer")
        up.reply_with(Behaviour(headers={"x-request-id": "req_" + "9" * 200}))
        async with house(config) as world:
            world.secrets["config:a"] = Secret("s3cret")
            reply = await world.chat(model="fast")
            assert reply.headers == {
                "x-palyra-run-id": reply.run_id,
                "request-id": reply.run_id,
                "x-request-id": reply.run_id,
                "x-palyra-provider": "a",
                "x-palyra-model": "m",
                "x-palyra-attempts": "1",
                "x-palyra-requested-model": "fast",
                "x-palyra-upstream-request-id": ("req_" + "9" * 200)[:128],
                "content-type": "application/json",
            }
            assert up.requests[0].headers["authorization"] == "Bearer s3cret"
            assert not any(b"s3cret" in row.body for row in world.rows())
            (started,) = world.facts(AttemptStarted)
            assert started.credential_ref == "config:a"


async def test_failover_header_names_every_step() -> None:
    """Three candidates leave the whole way in the header."""
    config = registry(
        *(provider(name) for name in "abc"),
        *(model("m", name, priority=number) for number, name in enumerate("abc")),
    )
    fakes = {"a": ScriptedProvider(error(500)), "b": ScriptedProvider(error(502)), "c": ScriptedProvider()}
    async with house(config, extra=fakes) as world:
        reply = await world.chat()
        assert reply.headers["x-palyra-failover"] == "a/m>b/m>c/m"
        assert reply.headers["x-palyra-attempts"] == "3"


@pytest.mark.parametrize("size", [40_000, 400_000])
async def test_much_of_a_stream_at_once_is_read_off_the_loop(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Hundreds of events in one read, or an event that is long, have no turn of the loop for themselves."""
    hops: list[str] = []
    to_thread = asyncio.to_thread

    async def noting(function: Any, *arguments: Any) -> Any:
        hops.append(getattr(function, "func", function).__name__)
        return await to_thread(function, *arguments)

    monkeypatch.setattr("asyncio.to_thread", noting)
    fake = ScriptedProvider(stream("x" * size), stream("Hel", "lo."))
    async with house(one(), extra={"a": fake}) as world:
        taker = Taker()
        assert (await world.chat(client=taker, stream=True)).status == 200
        assert taker.text == "x" * size
        assert hops[:1] == ["_fed"]
        assert ("stream_end" in hops) == (size > OFF_LOOP_BYTES)
        hops.clear()
        assert (await world.chat(stream=True)).status == 200
        assert hops == []


@pytest.mark.parametrize("size", [0, 240, 2_000])
async def test_of_an_error_so_much_is_shown_as_is_configured(size: int) -> None:
    """Stored and told alike, in bytes and never half a character; what looks like a key is gone before."""
    words = "Überall " * 300
    settings = RunSettings(error_text_bytes=size)
    async with house(
        one(), extra={"a": ScriptedProvider(error(400, message=f"sk-{'a' * 40} {words}"))}, settings=settings
    ) as world:
        reply = await world.chat()
        (failed,) = world.facts(AttemptFailed)
        assert max(0, size - 1) <= len(failed.message.encode()) <= size
        assert "sk-a" not in repr(failed)
        assert "sk-a" not in (reply.body or b"").decode()
        assert failed.message in json.loads(reply.body or b"")["error"]["message"]
        assert ("Überall" in failed.message) == (size > 0)
