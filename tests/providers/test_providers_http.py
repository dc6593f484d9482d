"""The HTTP provider against a real server: bytes, deadlines, sizes, faults, and nothing left behind."""

from __future__ import annotations

import asyncio
import ssl
import traceback
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from provider_calls import call, provider_at, unchecked
from upstream import CUT, HANG, RESET, Behaviour, Upstream, raw_server

from palyra.errors import TransportFailed
from palyra.providers.http import HttpProvider, HttpSettings
from palyra.providers.port import Answer, Call, Provider
from palyra.redaction import Secret

KEY = Secret("sk-upstream-0123456789abcdef")
#: A certificate for `localhost` that nobody but these tests trusts, and its key.
LOCALHOST_PEM = Path(__file__).with_name("localhost.pem")


async def read(answer: Answer) -> bytes:
    return b"".join([part async for part in chunks_of(answer)])


async def chunks_of(answer: Answer) -> AsyncIterator[bytes]:
    while part := await answer.chunk():
        yield part


async def failure_of(provider: Provider, asked: Call) -> TransportFailed:
    """Send and read to the end, which must fail."""
    with pytest.raises(TransportFailed) as caught:
        await read(await provider.send(asked, KEY))
    return caught.value


def tls_of_localhost() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(LOCALHOST_PEM)
    return context


async def test_a_unary_answer_arrives_as_it_was_sent() -> None:
    """Status, headers in lower case and body are the upstream's; the request is ours byte for byte."""
    async with Upstream() as up, provider_at(up.url, user_agent="palyra/9") as provider:
        up.reply_with(Behaviour.raw(b'{"a":1}', "application/json", status=201))
        asked = call()
        answer = await provider.send(asked, KEY)
        assert answer.status == 201
        assert answer.headers["content-type"] == "application/json"
        assert await answer.body(7) == b'{"a":1}'
        await answer.close()
    received = up.requests[0]
    assert (received.method, received.path, received.body) == ("POST", "/v1/chat/completions", asked.body)
    assert received.headers == {
        "host": f"127.0.0.1:{up.port}",
        "user-agent": "palyra/9",
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "authorization": "Bearer sk-upstream-0123456789abcdef",
        "content-length": str(len(asked.body)),
    }


async def test_a_stream_arrives_piece_by_piece() -> None:
    """What the upstream has written can be read while it holds the rest back."""
    gate = asyncio.Event()
    async with Upstream() as up, provider_at(up.url) as provider:
        up.reply_with(Behaviour(after={2: gate}, newline="\r\n", space=False))
        answer = await provider.send(call(stream=True), None)
        early = await answer.chunk()
        while early.count(b"\r\n\r\n") < 2:
            early += await answer.chunk()
        assert early.count(b"data:{") == 2
        gate.set()
        assert (await read(answer)).endswith(b"data:[DONE]\r\n\r\n")
        assert await answer.chunk() == b""
        await answer.close()
        await answer.close()


async def test_connections_are_reused_after_a_clean_end() -> None:
    """Answers that were read to their end share one connection, streamed or not; one left early costs it."""
    async with Upstream() as up, provider_at(up.url) as provider:
        for stream in (False, True, False):
            answer = await provider.send(call(stream=stream), KEY)
            await read(answer)
            await answer.close()
        assert up.connections_made_count == 1
        up.reply_with(Behaviour(after={1: HANG}))
        left = await provider.send(call(stream=True), KEY)
        await left.chunk()
        await left.close()
        await up.connections_closed()
        await read(await provider.send(call(), KEY))
        assert up.connections_made_count == 2


async def test_headers_of_settings_and_call_are_sent() -> None:
    """A call's headers win over the settings', and no secret goes where the scheme says none."""
    async with Upstream() as up:
        settings = {"headers": {"X-Team": "blue", "X-Both": "settings"}, "auth_scheme": "none"}
        async with provider_at(up.url, **settings) as provider:
            asked = Call(
                path="/embeddings",
                headers={"x-both": "call", "content-type": "text/plain"},
                body=b'{"input":"a"}',
                connect_timeout_ms=1000,
                first_byte_timeout_ms=1000,
                idle_timeout_ms=1000,
                total_timeout_ms=1000,
            )
            await read(await provider.send(asked, KEY))
    received = up.requests[0].headers
    assert (received["x-team"], received["x-both"], received["content-type"]) == ("blue", "call", "text/plain")
    assert "authorization" not in received


async def test_cookies_are_forgotten() -> None:
    """A cookie that the upstream sets never comes back."""
    async with Upstream() as up, provider_at(up.url) as provider:
        up.reply_with(Behaviour(headers={"set-cookie": "session=1"}))
        for _ in range(2):
            await read(await provider.send(call(), KEY))
        assert "cookie" not in up.requests[1].headers


async def test_repeated_headers_are_joined() -> None:
    """A header that comes twice is one value with a comma."""
    head = b"HTTP/1.1 200 OK\r\nX-Part: a\r\nx-part: b\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(head) as port, provider_at(f"http://127.0.0.1:{port}") as provider:
        answer = await provider.send(call(), KEY)
        assert answer.headers["x-part"] == "a, b"


@pytest.mark.parametrize("size", [0, 1, 70_000, (1 << 20) + 1, 3 << 20])
async def test_bodies_of_any_size_arrive_whole(size: int) -> None:
    """A request body is sent whole and with its length, in one piece or in several."""
    async with Upstream() as up, provider_at(up.url) as provider:
        up.reply_with(Behaviour.raw(b"{}"))
        await read(await provider.send(call(body=b"x" * size), KEY))
        assert len(up.requests[0].body) == size
        assert up.requests[0].headers["content-length"] == str(size)


# deadlines: each fires alone, with all others a minute away


async def test_connect_deadline_covers_the_tls_greeting() -> None:
    """A handshake that does not come to an end is `timeout_connect`."""
    async with raw_server() as port, provider_at(f"https://127.0.0.1:{port}") as provider:
        failed = await failure_of(provider, call(connect=20))
    assert (failed.failure_class, failed.phase) == ("timeout_connect", "connect")


async def test_first_byte_deadline() -> None:
    """A stream whose answer does not begin is `timeout_first_byte`, and its connection is gone."""
    async with Upstream() as up, provider_at(up.url) as provider:
        up.reply_with(Behaviour(head=HANG))
        failed = await failure_of(provider, call(stream=True, first_byte=20))
        assert (failed.failure_class, failed.phase) == ("timeout_first_byte", "headers")
        await up.connections_closed()


@pytest.mark.parametrize("pieces", [0, 1])
async def test_idle_deadline(pieces: int) -> None:
    """A stream that stands still is `timeout_idle`, before its first event too."""
    async with Upstream() as up, provider_at(up.url) as provider:
        up.reply_with(Behaviour(after={pieces: HANG}))
        failed = await failure_of(provider, call(stream=True, idle=20))
        assert (failed.failure_class, failed.phase) == ("timeout_idle", "body")
        await up.connections_closed()


async def test_the_first_byte_deadline_ends_with_the_first_byte() -> None:
    """Once the answer has begun only the idle and the total deadline remain, however short the first was."""
    async with Upstream() as up, provider_at(up.url) as provider:
        up.reply_with(Behaviour(after={1: HANG}))
        failed = await failure_of(provider, call(stream=True, first_byte=100, total=160))
        assert (failed.failure_class, failed.phase) == ("timeout_total", "body")


@pytest.mark.parametrize(
    "behaviour", [Behaviour(head=HANG), Behaviour(after={0: HANG}), Behaviour(after={1: HANG})]
)
async def test_total_deadline_is_the_only_one_of_a_unary_answer(behaviour: Behaviour) -> None:
    """A unary answer may be silent as long as it wants, within its total."""
    async with Upstream() as up, provider_at(up.url) as provider:
        up.reply_with(behaviour)
        failed = await failure_of(provider, call(first_byte=1, idle=1, total=200))
        assert failed.failure_class == "timeout_total"
        assert failed.phase == ("headers" if behaviour.head else "body")
        await up.connections_closed()


async def test_total_deadline_of_a_stream() -> None:
    """A stream that goes on for too long is `timeout_total`."""
    async with Upstream() as up, provider_at(up.url) as provider:
        up.reply_with(Behaviour(after={1: HANG}))
        failed = await failure_of(provider, call(stream=True, total=200))
        assert (failed.failure_class, failed.phase) == ("timeout_total", "body")


# faults and sizes


async def test_nobody_listens() -> None:
    """A refused connection is `network_unavailable`: nothing was sent."""
    async with raw_server() as port:
        pass
    async with provider_at(f"http://127.0.0.1:{port}") as provider:
        failed = await failure_of(provider, call())
    assert (failed.failure_class, failed.phase) == ("network_unavailable", "connect")
    assert failed.message == f"cannot reach 127.0.0.1:{port}: Connection refused"


@pytest.mark.parametrize("fault", [CUT, RESET])
async def test_a_connection_that_ends_before_the_answer(fault: CUT) -> None:  # type: ignore[valid-type]
    """Closed or reset before the head: nobody knows whether the request was read, and it is not repeated."""
    async with Upstream() as up, provider_at(up.url) as provider:
        await read(await provider.send(call(), KEY))
        up.reply_with(Behaviour(head=fault))
        failed = await failure_of(provider, call())
        assert (failed.failure_class, failed.phase) == ("network_unavailable", "headers")
        assert len(up.requests) == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", [CUT, RESET])
async def test_an_answer_that_is_cut(fault: CUT, stream: bool) -> None:  # type: ignore[valid-type]
    """Closed or reset inside the body is `stream_truncated`."""
    async with Upstream() as up, provider_at(up.url) as provider:
        up.reply_with(Behaviour(after={1: fault}))
        failed = await failure_of(provider, call(stream=stream))
        assert (failed.failure_class, failed.phase) == ("stream_truncated", "body")
        await up.connections_closed()


@pytest.mark.parametrize(
    ("answer", "failure_class"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "malformed_response"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", "malformed_response"),
        (b"HTTP/1.1 200 OK\r\nX-Big: " + b"x" * 70_000 + b"\r\n\r\n", "response_too_large"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-Big: " + b"x" * 1_000_000, "response_too_large"),
        (
            b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 8_000) for n in range(9)) + b"\r\n",
            "response_too_large",
        ),
        (
            b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: x\r\n" % n for n in range(20_000)) + b"\r\n",
            "malformed_response",
        ),
    ],
)
async def test_heads_that_cannot_be_used(answer: bytes, failure_class: str) -> None:
    """What is no HTTP, came compressed unasked, or is too large, is refused at its head."""
    async with raw_server(answer) as port, provider_at(f"http://127.0.0.1:{port}") as provider:
        failed = await failure_of(provider, call())
    assert (failed.failure_class, failed.phase) == (failure_class, "headers")


async def test_a_body_in_broken_chunks() -> None:
    """A body whose framing is broken has no clean end, whether its head was seen before or with it."""
    broken = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"
    async with raw_server(broken) as port, provider_at(f"http://127.0.0.1:{port}") as provider:
        failed = await failure_of(provider, call())
    assert failed.failure_class in ("malformed_response", "stream_truncated")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_body_larger_than_allowed(stream: bool) -> None:
    """`body` stops at its bound, whether the length was announced or not, and lets the connection go."""
    async with Upstream() as up, provider_at(up.url) as provider:
        up.reply_with(Behaviour(chunks=("x" * 200,), after={2 if stream else 1: HANG}))
        answer = await provider.send(call(stream=stream), KEY)
        with pytest.raises(TransportFailed) as caught:
            await answer.body(100)
        assert (caught.value.failure_class, caught.value.phase) == ("response_too_large", "body")
        await up.connections_closed()


# TLS


async def test_tls_needs_a_trusted_certificate() -> None:
    """A certificate nobody vouches for, a wrong name and plain text are `tls_failed`; `ca_file` adds a root."""
    async with Upstream(tls=tls_of_localhost()) as up:
        named = f"https://localhost:{up.port}"
        async with provider_at(named) as provider:
            failed = await failure_of(provider, call())
            assert (failed.failure_class, failed.phase) == ("tls_failed", "connect")
            assert "self-signed" in failed.message
        async with provider_at(up.url, ca_file=str(LOCALHOST_PEM)) as provider:
            assert (await failure_of(provider, call())).failure_class == "tls_failed"
        assert up.requests == []
        async with provider_at(named, ca_file=str(LOCALHOST_PEM)) as provider:
            assert await read(await provider.send(call(), KEY))
    async with Upstream() as plain, provider_at(f"https://127.0.0.1:{plain.port}") as provider:
        assert (await failure_of(provider, call())).failure_class == "tls_failed"


async def test_a_trust_root_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing or damaged `ca_file` fails the calls of its provider, with the file's name."""
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("no certificate")
    for path in (damaged, tmp_path / "missing.pem"):
        async with provider_at("https://127.0.0.1:1", ca_file=str(path)) as provider:
            failed = await failure_of(provider, call())
            assert (failed.failure_class, failed.phase) == ("tls_failed", "connect")
            assert path.name in failed.message


# nothing is left behind, nothing is told


async def test_no_failure_tells_the_secret() -> None:
    """Neither a failure nor anything it hangs on shows the secret, also where the upstream has echoed it."""
    behaviours = [
        Behaviour(head=CUT),
        Behaviour(head=RESET),
        Behaviour(head=HANG),
        Behaviour(after={1: CUT}),
        Behaviour.redirect("http://elsewhere.example/?key=" + KEY.reveal()),
    ]
    failures = []
    async with Upstream() as up, provider_at(up.url) as provider:
        for behaviour in behaviours:
            up.reply_with(behaviour)
            failures.append(await failure_of(provider, call(stream=True, first_byte=20)))
    echo = b"HTTP/1.1 bad " + KEY.reveal().encode() + b"\r\n\r\n"
    async with raw_server(echo) as port, provider_at(f"http://127.0.0.1:{port}") as provider:
        failures.append(await failure_of(provider, call()))
    async with provider_at(unchecked("https", "10.0.0.1", 1), allow_private=False) as provider:
        failures.append(await failure_of(provider, call()))
    for failed in failures:
        cause: BaseException | None = failed
        while cause is not None:
            assert "0123456789abcdef" not in repr(cause) + repr(vars(cause)), failed.failure_class
            cause = cause.__cause__ or cause.__context__
        assert "0123456789abcdef" not in "".join(traceback.format_exception(failed))


@pytest.mark.parametrize("steps", range(12))
async def test_cancelling_at_every_await_leaves_no_connection(steps: int) -> None:
    """Wherever a call is cancelled, its connection closes and the provider serves the next one."""
    async with Upstream() as up, provider_at(up.url) as provider:
        up.default = Behaviour(head=HANG)
        sending = asyncio.ensure_future(provider.send(call(stream=True), KEY))
        for _ in range(steps):
            await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await up.connections_closed()
        up.default = Behaviour()
        assert await read(await provider.send(call(), KEY))


@pytest.mark.parametrize("pieces", [0, 2])
async def test_cancelling_a_read_closes_the_connection(pieces: int) -> None:
    """A read that is cancelled gives its connection up."""
    async with Upstream() as up, provider_at(up.url) as provider:
        up.reply_with(Behaviour(after={pieces: HANG}))
        answer = await provider.send(call(stream=True), KEY)
        reading = asyncio.ensure_future(read(answer))
        for _ in range(10):
            await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await up.connections_closed()
        with pytest.raises(TransportFailed):
            await answer.chunk()


async def test_cancelling_a_handshake_closes_the_connection() -> None:
    """A call cancelled while it connects leaves nothing half open."""
    async with Upstream() as up, provider_at(f"https://127.0.0.1:{up.port}") as provider:
        sending = asyncio.ensure_future(provider.send(call(), KEY))
        while not up.connections_made_count and not sending.done():
            await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises((asyncio.CancelledError, TransportFailed)):
            await sending
        await up.connections_closed()


async def test_a_closed_provider() -> None:
    """Closing ends streams in use, frees every connection, and later calls fail; closing twice is fine."""
    async with Upstream() as up, provider_at(up.url) as provider:
        up.reply_with(Behaviour(after={1: HANG}))
        answer = await provider.send(call(stream=True), KEY)
        await answer.chunk()
        await provider.close()
        await provider.close()
        await up.connections_closed()
        with pytest.raises(TransportFailed) as caught:
            await answer.chunk()
        assert caught.value.failure_class == "stream_truncated"
        assert (await failure_of(provider, call())).failure_class == "network_unavailable"


def test_a_provider_needs_no_loop_to_be_built() -> None:
    """Building a provider opens nothing."""
    provider = HttpProvider(HttpSettings(base=unchecked("https", "api.example", 443)))
    asyncio.run(provider.close())
