"""Connections on real sockets: reuse, sizes, cuts, TLS, and what happens when both sides talk out of turn."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provider_calls import FOREVER_MS, call, provider_at, unchecked
from upstream import HANG, Behaviour, Upstream, raw_server

from palyra.errors import TransportFailed
from palyra.providers import pool as pool_module
from palyra.providers.connection import WAITING_MAX_BYTES
from palyra.providers.http import HttpProvider
from palyra.providers.port import Answer, Call
from palyra.redaction import Secret

LOCALHOST_PEM = Path(__file__).with_name("localhost.pem")
#: An asyncio transport reads at most this much at once.
ONE_READ_BYTES = 256 * 1024
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """A server whose every connection is a coroutine of the test's own, closed when that returns."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._tasks: set[asyncio.Task[None]] = set()
        self.made_count = 0
        self.port = 0
        #: What handlers and clients read of one another.
        self.went = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.made_count += 1
        try:
            await self._handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has left, or the test has
        finally:
            writer.close()

    async def all_left(self) -> None:
        """Wait until every handler has returned."""
        while pending := [task for task in self._tasks if not task.done()]:
            await asyncio.wait(pending)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def serving(handler: Handler, *, tls: bool = False) -> AsyncIterator[Server]:
    server = Server(handler)
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(LOCALHOST_PEM)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context, limit=1 << 26)
    async with listener:
        server.port = int(listener.sockets[0].getsockname()[1])
        yield server
        await server.stop()


@asynccontextmanager
async def provider_of(
    server: Server, *, tls: bool = False, max_connections: int = 0
) -> AsyncIterator[HttpProvider]:
    scheme, ca_file = ("https", str(LOCALHOST_PEM)) if tls else ("http", "")
    base = unchecked(scheme, "localhost", server.port)
    async with provider_at(base, ca_file=ca_file, max_connections=max_connections) as provider:
        yield provider


async def take_request(reader: asyncio.StreamReader) -> bytes:
    """Read one request; return its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    return await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))


async def turns(count: int = 20) -> None:
    """Let the loop go round, so that what is on its way over loopback arrives."""
    for _ in range(count):
        await asyncio.sleep(0)


async def read(answer: Answer) -> bytes:
    body = b""
    while part := await answer.chunk():
        body += part
    return body


async def failure_of(provider: HttpProvider, asked: Call) -> tuple[str, str]:
    with pytest.raises(TransportFailed) as caught:
        await read(await provider.send(asked, None))
    return caught.value.failure_class, caught.value.phase


async def passed_time(time_ms: int) -> None:
    """Return when a deadline of this length has passed for a call that nobody answers."""
    async with raw_server() as port, provider_at(f"http://127.0.0.1:{port}") as silent:
        assert await failure_of(silent, call(total=time_ms)) == ("timeout_total", "headers")


BODY = bytes(range(256)) * 4
HEAD = b"HTTP/1.1 200 OK\r\nX-Part: a\r\n"
WAYS = {
    "length": HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY,
    "chunked": HEAD + b"Transfer-Encoding: chunked\r\n\r\n400\r\n" + BODY + b"\r\n0\r\n\r\n",
    "close": HEAD + b"\r\n" + BODY,
}


async def answer_in_cuts(way: str, cuts: Sequence[int]) -> None:
    answer = WAYS[way]

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await take_request(reader)
            for begin, end in zip([0, *cuts], [*cuts, len(answer)], strict=True):
                writer.write(answer[begin:end])
                await turns(3)
            if way == "close":
                return

    async with serving(handler) as server, provider_of(server) as provider:
        for stream in (False, True):
            received = await provider.send(call(stream=stream), None)
            assert received.headers["x-part"] == "a"
            assert await received.body(len(BODY)) == BODY
        assert server.made_count == (2 if way == "close" else 1)


@settings(max_examples=40)
@given(way=st.sampled_from(sorted(WAYS)), cuts=st.sets(st.integers(1, 1_000), max_size=12))
def test_random_cuts_on_the_wire(way: str, cuts: set[int]) -> None:
    """However an answer is cut into segments, its bytes are the same."""
    asyncio.run(answer_in_cuts(way, sorted(cuts)))


@pytest.mark.parametrize("tls", [False, True])
async def test_garbage_after_an_answer_ends_its_connection(tls: bool) -> None:
    """The answer is good; the next call has a connection of its own."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(EMPTY + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlie!")
        await reader.read()

    async with serving(handler, tls=tls) as server, provider_of(server, tls=tls) as provider:
        for expected in (1, 2):
            assert await read(await provider.send(call(), None)) == b""
            await server.all_left()
            assert server.made_count == expected


@pytest.mark.parametrize("unasked", [b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", b""])
@pytest.mark.parametrize("tls", [False, True])
async def test_a_connection_that_ends_while_it_rests(unasked: bytes, tls: bool) -> None:
    """Closed by the server, with or without a last word, it is not used again, and the next call does not fail."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(EMPTY)
        await server.went.wait()
        writer.write(unasked)

    async with serving(handler, tls=tls) as server, provider_of(server, tls=tls) as provider:
        for expected in (1, 2, 3):
            server.went.clear()
            assert await read(await provider.send(call(), None)) == b""
            server.went.set()
            await server.all_left()
            await turns()
            assert server.made_count == expected


async def test_a_request_that_may_have_been_read_is_not_repeated() -> None:
    """A reused connection that closes under a request fails the call: a repeat could cost twice."""
    bodies = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies.append(await take_request(reader))
        writer.write(EMPTY)
        bodies.append(await take_request(reader))

    async with serving(handler) as server, provider_of(server) as provider:
        await read(await provider.send(call(), None))
        assert await failure_of(provider, call(body=b"again")) == ("network_unavailable", "headers")
        assert (server.made_count, bodies[1:]) == (1, [b"again"])


async def test_calls_at_once_have_a_connection_each() -> None:
    """Nobody waits for a connection; of those that come back as many rest as are wanted."""
    async with Upstream() as up, provider_at(up.url, max_connections=2) as provider:
        gates = [asyncio.Event() for _ in range(5)]
        up.reply_with(*(Behaviour(head=gate) for gate in gates))
        calls = [asyncio.ensure_future(provider.send(call(), None)) for _ in gates]
        await up.request_arrived(len(gates))
        assert up.connection_count == 5
        for gate in gates:
            gate.set()
        for one in calls:
            assert await read(await one)
        while up.connection_count > 2:
            await asyncio.sleep(0)
        await turns()
        assert up.connection_count == 2


async def test_connections_have_an_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is reused while it is young and replaced when it is not."""
    async with Upstream() as up, provider_at(up.url) as provider:
        for expected in (1, 1, 2, 3):
            assert await (await provider.send(call(), None)).body(10_000)
            assert up.connections_made_count == expected
            if len(up.requests) == 2:
                monkeypatch.setattr(pool_module, "CONNECTION_AGE_MAX_S", -1.0)


async def test_connections_do_not_rest_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has used for a while is closed, each in its time."""
    monkeypatch.setattr(pool_module, "KEEPALIVE_S", 0.3)
    async with Upstream() as up, provider_at(up.url) as provider:
        gates = asyncio.Event(), asyncio.Event()
        up.reply_with(*(Behaviour(after={1: gate}) for gate in gates))
        answers = [await provider.send(call(), None) for _ in gates]
        for gate, answer in zip(gates, answers, strict=True):
            gate.set()
            await read(answer)
            await passed_time(60)
        assert up.connection_count == 2
        await up.connections_closed()
        await read(await provider.send(call(), None))
        assert up.connections_made_count == 3


@pytest.mark.parametrize("tls", [False, True])
async def test_a_slow_reader_holds_the_server_back(tls: bool) -> None:
    """What waits to be taken is bounded, whatever the server sends, and a pause of ours is not its silence."""
    size = 16 << 20

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size >> 16):
            writer.write(b"x" * (1 << 16))
            await writer.drain()
        server.went.set()
        await reader.read()

    async with serving(handler, tls=tls) as server, provider_of(server, tls=tls) as provider:
        answer = await provider.send(call(stream=True, idle=200), None)
        await passed_time(250)
        assert not server.went.is_set()
        got = 0
        while part := await answer.chunk():
            assert len(part) <= WAITING_MAX_BYTES + ONE_READ_BYTES
            got += len(part)
        assert got == size


@pytest.mark.parametrize("tls", [False, True])
async def test_an_answer_before_the_request_is_written(tls: bool) -> None:
    """It counts; but the connection is of no further use."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await server.went.wait()
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        await reader.read()

    async with serving(handler, tls=tls) as server, provider_of(server, tls=tls) as provider:
        for expected in (1, 2):
            answer = await provider.send(call(body=b"x" * (48 << 20)), None)
            assert (answer.status, await answer.body(10)) == (413, b"no")
            assert server.made_count == expected
        server.went.set()
        await server.all_left()


async def test_the_first_byte_is_waited_for_once_the_request_is_written() -> None:
    """While the server takes its time to read, only the total runs; then the first byte is due."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await server.went.wait()
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        await reader.read()

    async with serving(handler) as server, provider_of(server) as provider:
        asked = {"stream": True, "body": b"x" * (48 << 20), "first_byte": 20}
        assert await failure_of(provider, call(**asked, total=150)) == ("timeout_total", "headers")  # type: ignore[arg-type]
        failing = asyncio.ensure_future(failure_of(provider, call(**asked)))  # type: ignore[arg-type]
        while server.made_count < 2:
            await asyncio.sleep(0)
        server.went.set()
        assert await failing == ("timeout_first_byte", "headers")


@pytest.mark.parametrize("tls", [False, True])
async def test_a_body_up_to_the_close(tls: bool) -> None:
    """A body that only the end of its connection ends is whole when the server has closed it."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000)

    async with serving(handler, tls=tls) as server, provider_of(server, tls=tls) as provider:
        assert await read(await provider.send(call(), None)) == b"x" * 1_000


async def test_a_body_up_to_a_reset() -> None:
    """A reset is no such end."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000)
        await server.went.wait()
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async with serving(handler) as server, provider_of(server) as provider:
        answer = await provider.send(call(), None)
        server.went.set()
        with pytest.raises(TransportFailed) as caught:
            await read(answer)
        assert (caught.value.failure_class, caught.value.phase) == ("stream_truncated", "body")


async def test_tls_connections_are_reused_and_carry_any_size() -> None:
    """Large bodies both ways, one connection."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            body = await take_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async with serving(handler, tls=True) as server, provider_of(server, tls=True) as provider:
        for size in (0, 1, 100_000, 4 << 20):
            body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
            assert await (await provider.send(call(body=body, stream=True), None)).body(size) == body
        assert server.made_count == 1


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_cancelling_tls_anywhere(steps: int) -> None:
    """Wherever a call over TLS is cancelled, its connection closes and the next call works."""
    held = True

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        if held:
            await reader.read()
        writer.write(EMPTY)

    async with serving(handler, tls=True) as server, provider_of(server, tls=True) as provider:
        sending = asyncio.ensure_future(provider.send(call(), None))
        await turns(steps)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await server.all_left()
        held = False
        assert await read(await provider.send(call(), None)) == b""


async def test_an_answer_outlives_its_connection() -> None:
    """What has arrived whole can be read after the connection serves another call, or is gone."""
    async with Upstream() as up, provider_at(up.url) as provider:
        first = await provider.send(call(), None)
        while not first._reader.is_complete:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        up.reply_with(Behaviour(after={1: HANG}))
        second = await provider.send(call(stream=True), None)
        assert up.connections_made_count == 1
        await first.close()
        assert await second.chunk()
        await provider.close()
        assert b"upstream" in await read(first)


async def test_what_came_before_a_failure_is_given_first() -> None:
    """A stream that is cut still gives what had arrived, then fails, and fails again."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")

    async with serving(handler) as server, provider_of(server) as provider:
        answer = await provider.send(call(), None)
        await server.all_left()
        await turns()
        assert await answer.chunk() == b"hello"
        for _ in range(2):
            with pytest.raises(TransportFailed) as caught:
                await answer.chunk()
            assert (caught.value.failure_class, caught.value.phase) == ("stream_truncated", "body")


def asked_with(headers: dict[str, str]) -> Call:
    times = dict.fromkeys(("connect", "first_byte", "idle", "total"), FOREVER_MS)
    return Call(path="/x", headers=headers, **{f"{name}_timeout_ms": ms for name, ms in times.items()})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "\x7f"])
async def test_headers_cannot_break_their_line(value: str) -> None:
    """A control character in a header, a secret among them, fails the call before anything is dialled."""
    async with Upstream() as up, provider_at(up.url) as provider:
        for headers, secret in (({"X-A": value}, None), ({f"X{value}": "a"}, None), ({}, Secret(value))):
            with pytest.raises(TransportFailed) as caught:
                await provider.send(asked_with(headers), secret)
            assert (caught.value.failure_class, caught.value.phase) == ("network_unavailable", "connect")
            assert "Evil" not in caught.value.message
        assert up.connections_made_count == 0


async def test_headers_travel_as_bytes_and_the_framing_is_ours() -> None:
    """What a server has decoded arrives as the same bytes; no header of a call changes where a request ends."""
    heads = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(EMPTY)

    async with serving(handler) as server, provider_of(server) as provider:
        odd = {"X-Odd": b"caf\xc3\xa9 \xff".decode("utf-8", "surrogateescape")}
        ours = {"Host": "evil", "content-length": "7", "Transfer-Encoding": "chunked", "Connection": "close"}
        await read(await provider.send(asked_with({**odd, **ours}), None))
        assert b"\r\nX-Odd: caf\xc3\xa9 \xff\r\n" in heads[0]
        assert heads[0].startswith(b"POST /v1/x HTTP/1.1\r\nHost: localhost:%d\r\n" % server.port)
        assert heads[0].lower().count(b"content-length") == 1
        assert b"evil" not in heads[0] + heads[0].lower()
        assert b"chunked" not in heads[0]
        assert b"close" not in heads[0]
