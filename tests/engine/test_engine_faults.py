"""Every fault of an upstream at every point, over real sockets: what the client sees and what is recorded."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, NamedTuple

import pytest
from engine_world import HAPPY, Reply, Taker, World, house, one, two
from upstream import CUT, HANG, RESET, Behaviour, Upstream, error_event, raw_server

from palyra.events.attempts import AttemptFailed
from palyra.events.routing import RoutingFailedOver
from palyra.events.runs import RunFailed
from palyra.events.usage import UsageRecorded
from palyra.limits import SSE_LINE_MAX_BYTES, UPSTREAM_BODY_MAX_BYTES, UPSTREAM_ERROR_MAX_BYTES

#: Deadlines that end a test soon.
SOON: dict[str, Any] = {"connect_timeout_ms": 500, "idle_timeout_ms": 60}
SOON_MODEL: dict[str, Any] = {"request_timeout_ms": 60, "first_byte_timeout_ms": 60}

FAILED_OVER = [
    "run.admitted",
    "routing.decided",
    "attempt.started",
    "attempt.failed",
    "routing.failed_over",
    *HAPPY[2:],
]


class Fault(NamedTuple):
    """A fault and what must come of it at a provider that stands alone."""

    behaviour: Behaviour
    failure_class: str
    phase: str
    #: HTTP status and code for the client.
    status: int
    code: str = ""
    #: (source, billed) of the usage row, None for no row.
    usage: tuple[str, str] | None = None
    counted: bool = True
    fails_over: bool = True
    streams: tuple[bool, ...] = (False, True)
    model: dict[str, Any] = {}


BIG_ERROR = Behaviour(
    status=400, body=b'{"error":{"message":"%s"}}' % (b"x" * 2 * UPSTREAM_ERROR_MAX_BYTES), headers={}
)
HANGING = {"model": SOON_MODEL}
UNKNOWN = ("estimated", "unknown")

FAULTS: dict[str, Fault] = {
    "cut before the head": Fault(Behaviour(head=CUT), "network_unavailable", "headers", 502, usage=UNKNOWN),
    "reset before the head": Fault(Behaviour(head=RESET), "network_unavailable", "headers", 502, usage=UNKNOWN),
    "hang before the head": Fault(
        Behaviour(head=HANG), "timeout_total", "headers", 504, usage=UNKNOWN, streams=(False,), **HANGING
    ),
    "hang before the head of a stream": Fault(
        Behaviour(head=HANG),
        "timeout_first_byte",
        "headers",
        504,
        usage=UNKNOWN,
        streams=(True,),
        model={"first_byte_timeout_ms": 60},
    ),
    "cut after the head": Fault(Behaviour(after={0: CUT}), "stream_truncated", "body", 502, usage=UNKNOWN),
    "reset after the head": Fault(Behaviour(after={0: RESET}), "stream_truncated", "body", 502, usage=UNKNOWN),
    "cut in the body": Fault(Behaviour(after={1: CUT}), "stream_truncated", "body", 502, usage=UNKNOWN),
    "hang in the body": Fault(
        Behaviour(after={1: HANG}), "timeout_total", "body", 504, usage=UNKNOWN, streams=(False,), **HANGING
    ),
    "hang after the role": Fault(
        Behaviour(after={1: HANG}), "timeout_idle", "body", 504, usage=UNKNOWN, streams=(True,)
    ),
    "error event after the role": Fault(
        Behaviour(after={1: error_event("boom")}), "transient_upstream", "body", 502, streams=(True,)
    ),
    "stream without an end": Fault(
        Behaviour(text="", done=False, after={1: CUT}),
        "stream_truncated",
        "body",
        502,
        usage=UNKNOWN,
        streams=(True,),
    ),
    "400": Fault(
        Behaviour.error(400, message="n must be 1"),
        "invalid_request",
        "headers",
        400,
        "invalid_request",
        counted=False,
        fails_over=False,
    ),
    "400 too large": Fault(
        BIG_ERROR, "invalid_request", "headers", 400, "invalid_request", counted=False, fails_over=False
    ),
    "context": Fault(
        Behaviour.error(400, "context_length_exceeded"),
        "context_window_exceeded",
        "headers",
        400,
        "context_window_exceeded",
        counted=False,
        fails_over=False,
    ),
    "policy": Fault(
        Behaviour.error(400, "content_filter"),
        "content_policy_blocked",
        "headers",
        400,
        "content_policy_blocked",
        counted=False,
        fails_over=False,
    ),
    "401": Fault(Behaviour.error(401), "auth_invalid", "headers", 502, "upstream_auth", counted=False),
    "402": Fault(Behaviour.error(402), "quota_exceeded", "headers", 502, "upstream_quota", counted=False),
    "403": Fault(Behaviour.error(403), "permission_denied", "headers", 502, "upstream_permission", counted=False),
    "404": Fault(Behaviour.error(404), "model_unavailable", "headers", 502, counted=False),
    "409": Fault(Behaviour.error(409), "conflict", "headers", 409, counted=False, fails_over=False),
    "429": Fault(Behaviour.error(429), "rate_limited", "headers", 429, counted=False),
    "429 quota": Fault(
        Behaviour.error(429, "insufficient_quota"),
        "quota_exceeded",
        "headers",
        502,
        "upstream_quota",
        counted=False,
    ),
    "500": Fault(Behaviour.error(500), "transient_upstream", "headers", 502),
    "503": Fault(Behaviour.error(503), "transient_upstream", "headers", 502),
    "503 with Retry-After": Fault(Behaviour.error(503, retry_after="1"), "overloaded", "headers", 503),
    "529": Fault(Behaviour.error(529), "overloaded", "headers", 503),
    "500 in HTML": Fault(
        Behaviour(status=500, body=b"<html>oops</html>", headers={"content-type": "text/html"}),
        "transient_upstream",
        "headers",
        502,
    ),
    "201": Fault(Behaviour(status=201), "malformed_response", "headers", 502, streams=(False,), usage=UNKNOWN),
    "redirect": Fault(Behaviour.redirect("http://127.0.0.1:9/"), "redirect_refused", "headers", 502, counted=False),
    "200 with an error": Fault(
        Behaviour.raw(b'{"error":{"message":"no","type":"server_error"}}'),
        "transient_upstream",
        "body",
        502,
    ),
    "200 with nobody's fault": Fault(
        Behaviour.raw(b'{"error":{"message":"slow down","code":"rate_limit_exceeded"}}'),
        "rate_limited",
        "body",
        429,
        counted=False,
    ),
    "malformed JSON": Fault(Behaviour.raw(b'{"choices": ['), "malformed_response", "body", 502, usage=UNKNOWN),
    "wrong content type": Fault(
        Behaviour.raw(b"<p>hello</p>", "text/html"), "malformed_response", "body", 502, usage=UNKNOWN
    ),
    "no choices": Fault(
        Behaviour.raw(b'{"object":"chat.completion"}'), "malformed_response", "body", 502, usage=UNKNOWN
    ),
}
BOTH_WAYS = pytest.mark.parametrize(
    ("fault", "stream"),
    [
        pytest.param(fault, stream, id=f"{name}, {'stream' if stream else 'unary'}")
        for name, fault in FAULTS.items()
        for stream in fault.streams
    ],
)


async def ask(world: World, *, stream: bool) -> tuple[Reply, Taker]:
    taker = Taker()
    reply = await world.chat(client=taker if stream else None, **({"stream": True} if stream else {}))
    return reply, taker


@BOTH_WAYS
async def test_fault_of_a_lone_provider(fault: Fault, stream: bool) -> None:
    """The client gets the status of the class, the attempt one end, and the usage row is by the rule."""
    async with Upstream() as up:
        up.reply_with(fault.behaviour)
        async with house(one(up.url, of_model=fault.model, **SOON)) as world:
            reply, taker = await ask(world, stream=stream)
            (failed,) = world.facts(AttemptFailed)
            assert (failed.failure_class, failed.phase, failed.counted) == (
                fault.failure_class,
                fault.phase,
                fault.counted,
            )
            code = fault.code or fault.failure_class
            assert (reply.status, reply.refusal.code) == (fault.status, code)
            assert taker.data == b""
            assert taker.begun_count == 0
            assert f'"run_id":"{reply.run_id}"'.encode() in (reply.body or b"").partition(b'"palyra":{')[2]
            (ended,) = world.facts(RunFailed)
            assert (ended.code, ended.failure_class, ended.http_status) == (code, fault.failure_class, fault.status)
            rows = [(row.source, row.billed) for row in world.facts(UsageRecorded)]
            assert rows == ([] if fault.usage is None else [fault.usage])
            assert len(up.requests) == 1
        await up.connections_closed()


@BOTH_WAYS
async def test_fault_before_content_fails_over(fault: Fault, stream: bool) -> None:
    """Before content the next candidate answers as if nothing had been, unless the request itself is at fault."""
    async with Upstream() as bad, Upstream() as good:
        bad.reply_with(fault.behaviour)
        async with house(two(bad.url, good.url, of_model=fault.model, **SOON)) as world:
            reply, taker = await ask(world, stream=stream)
            if not fault.fails_over:
                assert reply.status == fault.status
                assert good.requests == []
            else:
                assert reply.status == 200
                assert reply.headers["x-palyra-failover"] == "a/m>b/m"
                assert reply.headers["x-palyra-attempts"] == "2"
                assert reply.headers["x-palyra-provider"] == "b"
                assert [row for row in world.names(reply.run_id) if row != "usage.recorded"] == [
                    row for row in FAILED_OVER if row != "usage.recorded"
                ]
                (moved,) = world.facts(RoutingFailedOver)
                assert (moved.from_attempt, moved.trigger, moved.provider_id) == (1, fault.failure_class, "b")
                if stream:
                    assert taker.text == "Hello from upstream."
                    assert taker.is_complete
                    assert taker.headers["x-palyra-provider"] == "b"
        await bad.connections_closed()
        await good.connections_closed()


AFTER_CONTENT: dict[str, tuple[Any, str]] = {
    "cut": (CUT, "stream_truncated"),
    "reset": (RESET, "stream_truncated"),
    "hang": (HANG, "timeout_idle"),
    "error event": (error_event("boom"), "transient_upstream"),
    "overloaded": (error_event("busy", kind="overloaded_error"), "overloaded"),
}


@pytest.mark.parametrize("step", AFTER_CONTENT)
async def test_fault_after_content_is_never_covered_up(step: str) -> None:
    """After content there is no other candidate: an error event ends the stream, and what was seen is billed."""
    fault, failure_class = AFTER_CONTENT[step]
    gate = asyncio.Event()
    async with Upstream() as bad, Upstream() as good:
        bad.reply_with(Behaviour(chunks=("One ", "two ", "three."), after={2: gate, 3: fault}))
        async with house(two(bad.url, good.url, idle_timeout_ms=60)) as world:
            taker = Taker()
            run = world.start_chat(client=taker, stream=True)
            await taker.got(b"One ")
            gate.set()
            reply = await run.task
            assert good.requests == []
            assert taker.text.startswith("One ")
            assert taker.error is not None
            assert taker.error["error"]["code"] == reply.refusal.code
            assert taker.is_complete
            assert reply.body is None
            (failed,) = world.facts(AttemptFailed)
            assert (failed.failure_class, failed.phase) == (failure_class, "content")
            (row,) = world.facts(UsageRecorded)
            assert (row.source, row.billed) == ("estimated", "yes")
            assert row.usage.output_tokens > 0
        await bad.connections_closed()


async def test_partial_usage_keeps_what_the_provider_reported() -> None:
    """Counts that came before the cut are kept; output is at least what was seen."""
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":70,"completion_tokens":1}}\n\n'
    async with Upstream() as up:
        up.reply_with(Behaviour(chunks=("Hello ", "there ", "world "), after={2: usage, 4: CUT}))
        async with house(one(up.url)) as world:
            await ask(world, stream=True)
            (row,) = world.facts(UsageRecorded)
            assert (row.source, row.billed, row.usage.input_tokens) == ("partial", "yes", 70)
            assert row.usage.output_tokens > 1


@pytest.mark.parametrize("stream", [False, True])
async def test_answer_without_usage_is_estimated(stream: bool) -> None:
    """A complete answer whose provider counts nothing is estimated, and the client of a unary one is told."""
    async with Upstream() as up:
        up.reply_with(Behaviour(usage="none"))
        async with house(one(up.url)) as world:
            reply, _ = await ask(world, stream=stream)
            (row,) = world.facts(UsageRecorded)
            assert (row.source, row.billed) == ("estimated", "yes")
            assert row.usage.output_tokens > 0
            assert reply.headers.get("x-palyra-estimated") == (None if stream else "true")


async def test_nobody_listens() -> None:
    """A refused connection is no attempt that could cost money."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        async with house(one(url)) as world:
            reply = await world.chat()
            assert reply.refusal.code == "network_unavailable"
            (failed,) = world.facts(AttemptFailed)
            assert (failed.phase, failed.counted) == ("connect", True)
            assert world.facts(UsageRecorded) == []


async def test_not_http() -> None:
    """What is no HTTP is malformed before there is a head."""
    async with raw_server(b"SSH-2.0-OpenSSH_9.6\r\n\r\n") as port:
        async with house(one(f"http://127.0.0.1:{port}/v1")) as world:
            reply = await world.chat()
            assert (reply.status, reply.refusal.code) == (502, "malformed_response")


async def test_missing_secret_sends_nothing() -> None:
    """Without its secret an attempt fails before a connection is made, and another provider answers."""
    async with Upstream() as bad, Upstream() as good:
        async with house(two(bad.url, good.url, credential_ref="env:GONE", auth_scheme="bearer")) as world:
            reply = await world.chat()
            assert reply.status == 200
            assert bad.connections_made_count == 0
            (failed,) = world.facts(AttemptFailed)
            assert (failed.failure_class, failed.message) == ("missing_credential", "config:a is not set")
            assert len(world.facts(UsageRecorded)) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_deadline_of_the_run_beats_all(stream: bool) -> None:
    """A time-out that is the run's own ends it with 504: no retry, no other candidate, no mark on the provider."""
    async with Upstream() as slow, Upstream() as good:
        slow.reply_with(Behaviour(head=HANG))
        async with house(two(slow.url, good.url, max_retries=2)) as world:
            body: dict[str, Any] = {"stream": True} if stream else {}
            reply = await world.chat(changes={"timeout_ms": 60}, **body)
            assert (reply.status, reply.refusal.code) == (504, "run_deadline")
            assert good.requests == []
            (failed,) = world.facts(AttemptFailed)
            assert (failed.failure_class, failed.counted) == ("run_deadline", False)
            assert world.state.circuits.by_provider == {}


async def test_answer_that_is_too_large_is_not_read_on() -> None:
    """A unary answer past its bound is given up, whatever its announced length."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {UPSTREAM_BODY_MAX_BYTES + 1}\r\n\r\n{{"
    async with raw_server(head.encode()) as port:
        async with house(one(f"http://127.0.0.1:{port}/v1")) as world:
            reply = await world.chat()
            assert (reply.status, reply.refusal.code) == (502, "response_too_large")


async def test_event_that_is_too_large_ends_the_stream() -> None:
    """An event of a stream past its bound is as bad as a cut."""
    async with Upstream() as up:
        up.reply_with(Behaviour(after={1: b"data: " + b"x" * (SSE_LINE_MAX_BYTES + 1)}))
        async with house(one(up.url)) as world:
            reply, _ = await ask(world, stream=True)
            assert (reply.status, reply.refusal.code) == (502, "response_too_large")
        await up.connections_closed()


async def test_long_preamble_commits() -> None:
    """A preamble that grows past its bound is relayed; from then on a failure is an error event."""
    comment = b": " + b"." * (300 * 1024) + b"\n\n"
    async with Upstream() as bad, Upstream() as good:
        bad.reply_with(Behaviour(after={1: comment, 2: CUT}))
        async with house(two(bad.url, good.url)) as world:
            taker = Taker()
            run = world.start_chat(client=taker, stream=True)
            await taker.got(comment)
            reply = await run.task
            assert taker.begun_count == 1
            assert reply.status in (200, 502)


async def test_mixed_failures_are_a_failure_of_the_whole() -> None:
    """Different classes end in 502 `upstream_failed`, with every attempt in the body."""
    async with Upstream() as one_up, Upstream() as other:
        one_up.reply_with(Behaviour.error(500, message="first"))
        other.reply_with(Behaviour.error(403, message="second"))
        async with house(two(one_up.url, other.url)) as world:
            reply = await world.chat()
            assert (reply.status, reply.refusal.code) == (502, "upstream_failed")
            body = (reply.body or b"").decode()
            assert '"class":"transient_upstream"' in body
            assert '"class":"permission_denied"' in body
            assert reply.headers["x-palyra-attempts"] == "2"


async def test_words_of_a_provider_are_cleaned() -> None:
    """A secret in an upstream message reaches neither the client nor the journal."""
    async with Upstream() as up:
        up.reply_with(Behaviour.error(400, message="bad key sk-abcdefghijklmnopqrstuvwxyz123456"))
        async with house(one(up.url)) as world:
            reply = await world.chat()
            assert b"sk-abcdef" not in (reply.body or b"")
            assert not any(b"sk-abcdef" in row.body for row in world.rows())
