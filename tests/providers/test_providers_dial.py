"""Dialling: which address is reached, how often is asked for it, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import pytest
from provider_calls import Answers, call, provider_at, unchecked
from upstream import Behaviour, Upstream

from palyra.errors import TransportFailed
from palyra.providers import dial as dial_module
from palyra.providers.connection import Connection
from palyra.providers.dial import Dialler
from palyra.providers.guard import AddrInfo, Guard
from palyra.providers.pool import Pool


async def failure_of(sending: Any) -> tuple[str, str]:
    with pytest.raises(TransportFailed) as caught:
        await sending
    return caught.value.failure_class, caught.value.phase


async def test_the_next_address_is_tried() -> None:
    """An address that refuses is no reason to give up while the name has another one."""
    async with Upstream() as up:
        base = unchecked("http", "two.example", up.port)
        async with provider_at(base, lookup=Answers(["127.0.0.9", "127.0.0.1"])) as provider:
            answer = await provider.send(call(), None)
            assert await answer.body(10_000)
        async with provider_at(base, lookup=Answers(["127.0.0.8", "127.0.0.9"])) as provider:
            assert await failure_of(provider.send(call(), None)) == ("network_unavailable", "connect")


async def test_many_calls_at_once_ask_once() -> None:
    """Calls that begin together share one lookup; when it has grown old the next one asks again."""
    lookup = Answers(["127.0.0.1"])
    async with Upstream() as up:
        async with provider_at(unchecked("http", "busy.example", up.port), lookup=lookup) as provider:
            answers = await asyncio.gather(*(provider.send(call(), None) for _ in range(8)))
            assert all([await answer.body(10_000) for answer in answers])
            assert up.connections_made_count == 8
    assert lookup.asked == ["busy.example"]


async def test_a_lookup_grows_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a name leads to is asked again after a while, and judged again."""
    monkeypatch.setattr(dial_module, "LOOKUP_CACHE_S", 0)
    lookup = Answers(["127.0.0.1"], ["169.254.169.254"])
    async with Upstream() as up:
        async with provider_at(unchecked("http", "old.example", up.port), lookup=lookup) as provider:
            up.reply_with(Behaviour(headers={"connection": "close"}))
            assert await (await provider.send(call(), None)).body(10_000)
            assert await failure_of(provider.send(call(), None)) == ("netguard_blocked", "connect")
    assert len(lookup.asked) == 2


class Lying(socket.socket):
    """A socket that has ended up elsewhere."""

    def getpeername(self) -> Any:
        return ("10.0.0.7", 443)


class Careless(Guard):
    """A guard whose sockets do not go where they are sent."""

    made: list[socket.socket] = []

    def make_socket(self, addr_info: AddrInfo) -> socket.socket:
        made = Lying(addr_info[0], addr_info[1], addr_info[2])
        made.setblocking(False)
        self.made.append(made)
        return made


async def test_the_peer_must_be_one_of_the_vetted() -> None:
    """Whoever answers at another address than was judged hears nothing."""
    guard = Careless(scheme="http", allow_private=True)
    async with Upstream() as up:
        dialler = Dialler(unchecked("http", "127.0.0.1", up.port), guard)
        assert await failure_of(dialler.dial(asyncio.Protocol, 10)) == ("netguard_blocked", "connect")
        assert guard.made.pop().fileno() == -1
        await up.connections_closed()
        assert up.requests == []


async def test_a_server_that_closes_during_the_tls_greeting() -> None:
    """It is there and will not talk: the network's fault, and nothing was sent."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with provider_at(f"https://127.0.0.1:{port}") as provider:
            assert await failure_of(provider.send(call(), None)) == ("network_unavailable", "connect")


async def test_a_provider_closed_while_it_dials() -> None:
    """The connection that comes too late is closed, and its call fails without a byte sent."""
    gate = asyncio.Event()

    async def lookup(host: str) -> Sequence[str]:
        await gate.wait()
        return ["127.0.0.1"]

    async with Upstream() as up:
        async with provider_at(unchecked("http", "late.example", up.port), lookup=lookup) as provider:
            sending = asyncio.ensure_future(provider.send(call(), None))
            await asyncio.sleep(0)
            await provider.close()
            gate.set()
            assert await failure_of(sending) == ("network_unavailable", "connect")
        await up.connections_closed()
        assert up.requests == []


async def test_connecting_ends_with_the_attempt() -> None:
    """Where the attempt's whole time is shorter than that to connect it bounds the connecting: nothing was sent."""

    async def never(host: str) -> Sequence[str]:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async with provider_at(unchecked("https", "slow.example", 443), lookup=never) as provider:
        assert await failure_of(provider.send(call(total=10), None)) == ("timeout_connect", "connect")


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
async def test_ipv6_is_dialled() -> None:
    """An IPv6 literal is dialled as it is and written in brackets where a host stands."""
    heads = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    try:
        server = await asyncio.start_server(serve, "::1", 0)
    except OSError:
        pytest.skip("no IPv6 on loopback")
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with provider_at(unchecked("http", "::1", port)) as provider:
            answer = await provider.send(call(), None)
            assert (answer.status, await answer.chunk()) == (204, b"")
    assert b"\r\nHost: [::1]:%d\r\n" % port in heads[0]


async def test_a_connection_that_has_just_closed_is_not_handed_out() -> None:
    """Between the end of a resting connection and the loop's word of it nobody is given it."""
    async with Upstream() as up:
        dialler = Dialler(unchecked("http", "127.0.0.1", up.port), Guard(scheme="http", allow_private=True))
        pool = Pool(resting_max_count=0)
        connection = await dialler.dial(lambda: Connection(pool), 10)
        pool.add(connection)
        pool.rests(connection)
        assert pool.take() is connection
        pool.rests(connection)
        connection.abort()
        assert pool.take() is None
        await pool.close()
        await up.connections_closed()
