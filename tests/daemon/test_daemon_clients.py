"""Clients that vanish, stall or leave early: the run goes on by its provider's rule and is settled."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from daemon_house import House, chat, head, open_house, raw_client, read_answer
from registries import model, provider, registry
from upstream import HANG, Behaviour

from palyra.daemon.stream import StreamClient
from palyra.engine.run import RunSettings
from palyra.events.runs import RunAdmitted, RunCancelled, RunCompleted, RunRefused
from palyra.events.usage import UsageRecorded


def offer(rule: str, **changes: Any) -> Any:
    """Return one chat model whose provider drains or cancels what nobody waits for."""
    settings = {"max_retries": 0, "credential_ref": "", "auth_scheme": "none", "on_client_disconnect": rule}
    return registry(provider("up", **{**settings, **changes}), model("gpt", "up", upstream_model="gpt-x"))


async def connect(house: House, body: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a whole request and leave the answer on the wire."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
    data = json.dumps(body).encode()
    writer.write(head(house, f"Content-Length: {len(data)}") + data)
    return reader, writer


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def ask_and_take_nothing(house: House, body: dict[str, Any]) -> socket.socket:
    """Send a request over a socket with a small window, and leave everything that comes back in the kernel."""
    loop = asyncio.get_running_loop()
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    plain.setblocking(False)
    await loop.sock_connect(plain, ("127.0.0.1", house.server.port))
    data = json.dumps(body).encode()
    await loop.sock_sendall(plain, head(house, f"Content-Length: {len(data)}") + data)
    return plain


def padded_stream(*, events_count: int, padding_bytes: int) -> Behaviour:
    """Return a stream of many bytes and few tokens."""
    pad = "x" * padding_bytes
    delta = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}], "pad": pad}
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    events = [delta] * events_count + [last]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    return Behaviour.raw(body.encode(), "text/event-stream")


async def test_a_client_that_goes_before_its_body_is_whole_leaves_a_refusal(tmp_path: Path) -> None:
    """A known caller who vanishes while sending is recorded; nothing is started."""
    async with open_house(tmp_path) as house:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
        writer.write(head(house, "Content-Length: 100", "Expect: 100-continue"))
        await reader.readuntil(b"100 Continue")
        writer.write(b'{"model"')
        await hang_up(writer)
        await house.wait_for(lambda: len(house.lines) == 1)
        assert house.lines[0].status == 499
        await house.wait_for(lambda: house.facts(RunRefused))
        assert [fact.code for fact in house.facts(RunRefused)] == ["client_disconnected"]
        assert house.upstream.requests == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_before_dispatch_spends_nothing(tmp_path: Path, stream: bool) -> None:
    """A run that still waits for a slot when its client goes is cancelled, and nothing is sent."""
    gate = asyncio.Event()
    async with open_house(tmp_path, offer=offer("drain", max_concurrency=1)) as house, raw_client(house) as raw:
        house.upstream.reply_with(Behaviour(head=gate))
        first = asyncio.create_task(raw(body=chat()))
        await house.upstream.request_arrived()
        _, writer = await connect(house, chat(stream=stream))
        await house.wait_for(lambda: len(house.facts(RunAdmitted)) == 2)
        await hang_up(writer)
        await house.wait_for(lambda: house.facts(RunCancelled))
        gate.set()
        assert (await first).status == 200
        (cancelled,) = house.facts(RunCancelled)
        assert (cancelled.reason, cancelled.attempts_count) == ("client", 0)
        assert len(house.upstream.requests) == 1
        assert len(house.facts(UsageRecorded)) == 1


async def test_a_client_that_goes_with_the_whole_answer_was_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has read a stream to its end may leave before the run's last step; its line says 200."""
    close, gate = StreamClient.close, asyncio.Event()

    async def close_and_wait(client: StreamClient, data: bytes) -> None:
        await close(client, data)
        await gate.wait()

    monkeypatch.setattr(StreamClient, "close", close_and_wait)
    async with open_house(tmp_path, offer=offer("cancel")) as house:
        reader, writer = await connect(house, chat(stream=True))
        assert (await reader.readuntil(b"0\r\n\r\n")).startswith(b"HTTP/1.1 200")
        await hang_up(writer)
        await house.wait_for(lambda: len(house.lines) == 1)
        gate.set()
        await house.wait_until_idle()
        assert house.lines[0].status == 200
        assert len(house.facts(RunCompleted)) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_before_content_may_be_cancelled(tmp_path: Path, stream: bool) -> None:
    """Where the rule is to cancel, the provider's connection is closed at once and the attempt settled."""
    async with open_house(tmp_path, offer=offer("cancel")) as house:
        house.upstream.reply_with(Behaviour(head=HANG))
        _, writer = await connect(house, chat(stream=stream))
        await house.upstream.request_arrived()
        await hang_up(writer)
        await house.wait_for(lambda: house.facts(RunCancelled))
        await house.upstream.connections_closed()
        (cancelled,) = house.facts(RunCancelled)
        assert (cancelled.reason, cancelled.policy, cancelled.drained) == ("client", "cancel", False)
        assert len(house.facts(UsageRecorded)) == 1
        assert house.lines[0].status == 499


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_before_content_may_be_drained(tmp_path: Path, stream: bool) -> None:
    """Where the rule is to drain, the answer is read to its end and its usage is the provider's own."""
    gate = asyncio.Event()
    async with open_house(tmp_path, offer=offer("drain")) as house:
        house.upstream.reply_with(Behaviour(head=gate))
        _, writer = await connect(house, chat(stream=stream))
        await house.upstream.request_arrived()
        await hang_up(writer)
        await house.wait_for(lambda: len(house.lines) == 1)
        gate.set()
        await house.wait_until_idle()
        (cancelled,) = house.facts(RunCancelled)
        assert (cancelled.reason, cancelled.policy, cancelled.drained) == ("client", "drain", True)
        (usage,) = house.facts(UsageRecorded)
        assert usage.usage.input_tokens == 11


@pytest.mark.parametrize("rule", ["drain", "cancel"])
async def test_a_client_that_goes_mid_stream(tmp_path: Path, rule: str) -> None:
    """A client that hangs up behind the first words is noticed; what was used is recorded by either rule."""
    gate = asyncio.Event()
    async with open_house(tmp_path, offer=offer(rule)) as house:
        house.upstream.reply_with(Behaviour(after={3: gate}))
        reader, writer = await connect(house, chat(stream=True))
        await reader.readuntil(b"Hello")
        await hang_up(writer)
        await house.wait_for(lambda: len(house.lines) == 1)
        gate.set()
        await house.wait_until_idle()
        (cancelled,) = house.facts(RunCancelled)
        assert (cancelled.reason, cancelled.policy, cancelled.drained) == ("client", rule, rule == "drain")
        (usage,) = house.facts(UsageRecorded)
        assert usage.usage.output_tokens > 0
        assert house.facts(RunCompleted) == []


async def test_a_client_that_takes_nothing_is_gone(tmp_path: Path) -> None:
    """A stream whose client stops reading fills the socket, is given up after the stall, and is settled."""
    async with open_house(tmp_path, offer=offer("cancel"), client_stall_ms=30) as house:
        house.upstream.reply_with(padded_stream(events_count=400, padding_bytes=40_000))
        with await ask_and_take_nothing(house, chat(stream=True)):
            await house.wait_for(lambda: house.facts(RunCancelled))
            (cancelled,) = house.facts(RunCancelled)
            assert cancelled.reason == "client"
            await house.wait_for(lambda: len(house.lines) == 1)


async def test_a_slow_client_gets_everything(tmp_path: Path) -> None:
    """A client that reads slowly holds its own stream back, and nothing of it is lost."""
    async with open_house(tmp_path) as house:
        house.upstream.reply_with(padded_stream(events_count=100, padding_bytes=40_000))
        reader, writer = await connect(house, chat(stream=True))
        taken = bytearray()
        while b"[DONE]" not in taken[-100:]:
            taken += await reader.read(4_000)
        assert taken.count(b'"pad"') == 100
        await hang_up(writer)
        await house.wait_until_idle()
        assert len(house.facts(RunCompleted)) == 1


async def test_a_large_unary_answer_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """A client that takes nothing of a large answer is let go of; the run was complete."""
    async with open_house(tmp_path, client_stall_ms=30) as house:
        house.upstream.reply_with(Behaviour(text="x" * 8_000_000))
        with await ask_and_take_nothing(house, chat()):
            await house.wait_for(lambda: len(house.lines) == 1)
            assert house.lines[0].status == 499
            assert len(house.facts(RunCompleted)) == 1


async def test_a_silent_stream_shows_signs_of_life(tmp_path: Path) -> None:
    """Before the first word the client of a stream gets comments, which every client skips."""
    gate = asyncio.Event()
    async with open_house(tmp_path, run_settings=RunSettings(sse_keepalive_ms=20)) as house:
        house.upstream.reply_with(Behaviour(head=gate))
        reader, writer = await connect(house, chat(stream=True))
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"\n\n")
        gate.set()
        assert b"Hello" in await reader.readuntil(b"[DONE]")
        await hang_up(writer)
        await house.wait_until_idle()


async def test_a_stopping_daemon_tells_an_open_stream(tmp_path: Path) -> None:
    """A stream that is cancelled by the shutdown ends with an error in the stream, and the run is settled."""
    async with open_house(tmp_path) as house:
        house.upstream.reply_with(Behaviour(after={3: HANG}))
        reader, writer = await connect(house, chat(stream=True))
        await reader.readuntil(b"Hello")
        house.gateway.is_draining = True
        assert await house.runs.cancel_all("shutdown") == 1
        rest = await reader.readuntil(b"[DONE]")
        assert b'"code":"draining"' in rest
        assert [fact.reason for fact in house.facts(RunCancelled)] == ["shutdown"]
        assert len(house.facts(UsageRecorded)) == 1
        await hang_up(writer)


async def test_many_clients_that_hang_up_leave_nothing(tmp_path: Path) -> None:
    """Clients that leave at every moment leave no open run, no held body, no task."""
    async with open_house(tmp_path, offer=offer("cancel")) as house:
        for turn in range(40):
            _, writer = await connect(house, chat(stream=turn % 2 == 0))
            for _ in range(turn):
                await asyncio.sleep(0)
            await hang_up(writer)
        await house.server.stop()
        await house.wait_until_idle()
        assert house.core.state.runs.open == {}
        admitted = len(house.facts(RunAdmitted))
        assert 0 < admitted == len(house.facts(RunCancelled)) + len(house.facts(RunCompleted))


async def test_a_kept_connection_serves_again(tmp_path: Path) -> None:
    """One connection serves a stream, a refusal and a unary answer in turn."""
    async with open_house(tmp_path) as house:
        reader, writer = await connect(house, chat(stream=True))
        await reader.readuntil(b"[DONE]\n\n\r\n0\r\n\r\n")
        for body, status in (({}, 400), (chat(), 200)):
            data = json.dumps(body).encode()
            writer.write(head(house, f"Content-Length: {len(data)}") + data)
            assert (await read_answer(reader)).status == status
        await hang_up(writer)
