"""The web server's life: bind, serve, drain, stop."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from daemon_house import chat, head, open_house, raw_client, read_answer
from upstream import Behaviour

from palyra.daemon.server import Server
from palyra.engine.text_surface import ChatSurface
from palyra.errors import StateError
from palyra.events.runs import RunCompleted


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """A second server on the same port fails with the port in its message, and leaves nothing open."""
    async with open_house(tmp_path) as house:
        port = house.server.port
        second = Server(house.gateway, host="127.0.0.1", port=port, idle_timeout_ms=1_000, max_connections_count=10)
        with pytest.raises(StateError, match=str(port)) as caught:
            await second.start()
        assert caught.value.code == "address_in_use"
        await second.stop()
        assert house.server.url == f"http://127.0.0.1:{port}"


async def test_draining_refuses_what_is_new_and_finishes_what_is_open(tmp_path: Path) -> None:
    """While draining, open runs end well, new ones are told to come back later, and readiness is gone."""
    gate = asyncio.Event()
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        house.upstream.reply_with(Behaviour(head=gate))
        open_run = asyncio.create_task(raw(body=chat()))
        await house.upstream.request_arrived()
        house.gateway.is_draining = True
        for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models")):
            refused = await raw(method, path, body=chat())
            assert (refused.status, refused.code) == (503, "draining")
            assert refused.headers["retry-after"] == "5"
            assert refused.headers["connection"] == "close"
        assert (await raw("GET", "/readyz")).json == {"status": "draining"}
        assert (await raw("GET", "/healthz")).status == 200
        gate.set()
        assert (await open_run).status == 200
        assert len(house.facts(RunCompleted)) == 1
        assert house.denied == {"chat|draining": 1, "models|draining": 1}


async def test_a_stopped_server_is_not_there(tmp_path: Path) -> None:
    """After the stop idle connections are closed and new ones are refused; stopping twice is fine."""
    async with open_house(tmp_path) as house:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await read_answer(reader)).status == 200
        await house.server.stop()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.get(house.server.url)
        await house.server.stop()


async def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    """A connection that asks nothing is closed after the idle time, before its first request and after one."""
    async with open_house(tmp_path, server={"idle_timeout_ms": 30}) as house:
        for data in (b"", b"GET /heal", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
            writer.write(data)
            if data.endswith(b"\n"):
                await read_answer(reader)
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()


async def test_connections_past_the_limit_are_told(tmp_path: Path) -> None:
    """One connection too many gets 503 on its first request and is closed; when one goes, there is room again."""
    async with open_house(tmp_path, server={"max_connections_count": 1}) as house:
        body = b"{}"
        request = head(house, f"Content-Length: {len(body)}") + body
        first_reader, first = await asyncio.open_connection("127.0.0.1", house.server.port)
        first.write(request)
        assert (await read_answer(first_reader)).code == "invalid_request"
        second_reader, second = await asyncio.open_connection("127.0.0.1", house.server.port)
        second.write(request)
        refused = await read_answer(second_reader)
        assert (refused.status, refused.code, refused.headers["connection"]) == (
            503,
            "too_many_connections",
            "close",
        )
        assert await second_reader.read() == b""
        for writer in (first, second):
            writer.close()
            await writer.wait_closed()
        code = ""
        while code != "invalid_request":
            reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
            writer.write(request)
            code = (await read_answer(reader)).code
            writer.close()
            await writer.wait_closed()


async def test_a_bug_is_told_by_its_run_alone(tmp_path: Path) -> None:
    """An exception that nobody expected is 500 `internal` with the run's id, reported once, without its text."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:

        def burst(command: object, surface: object, client: object) -> None:
            raise RuntimeError("secret detail")

        house.runs.start = burst  # type: ignore[assignment, method-assign]
        answer = await raw(body=chat())
        assert (answer.status, answer.code) == (500, "internal")
        assert b"secret detail" not in answer.body
        assert house.bugs == [answer.headers["x-palyra-run-id"]]
        assert house.counted("run.refused") == 1
        house.bugs.clear()


async def test_a_bug_within_a_stream_breaks_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that a bug interrupts ends without its end, so that nobody takes the part for the whole."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:

        def burst(surface: object, ended: object) -> bytes:
            raise RuntimeError("secret detail")

        monkeypatch.setattr(ChatSurface, "stream_end", burst)
        with pytest.raises(aiohttp.ClientError):
            await raw(body=chat(stream=True))
        assert len(house.bugs) == 1
        house.bugs.clear()


async def test_what_fails_behind_the_last_net_is_no_traceback(tmp_path: Path) -> None:
    """When even the answer of a refusal cannot be made, the client gets the envelope of an internal error."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:

        async def burst(*answer: object) -> None:
            raise RuntimeError("secret detail")

        house.gateway._send = burst  # type: ignore[assignment, method-assign]
        answer = await raw(path="/nowhere")
        assert (answer.status, answer.code) == (500, "internal")
        assert b"secret detail" not in answer.body
