"""Bodies: broken, too large, slow, encoded; what cannot be read is refused with its place, and recorded."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from daemon_house import BROKEN, CHAT, chat, head, open_house, over_socket, raw_client, read_answer
from dialect_house import DIALECTS, MODELS
from upstream import Behaviour

from palyra.events.runs import RunRefused
from palyra.limits import APART_BYTES


@pytest.mark.parametrize(
    ("body", "code", "param", "text"),
    [
        (b"", "invalid_json", None, ""),
        (BROKEN, "invalid_json", None, "byte 30"),
        (b"\xff\xfe", "invalid_json", None, ""),
        (b"[]", "invalid_request", None, "object"),
        (b'{"model": "gpt", "model": "x", "messages": []}', "invalid_request", "model", "model"),
        ({"model": "gpt"}, "invalid_request", "messages", "missing"),
        (chat(messages=[]), "invalid_request", "messages", "at least one"),
        (chat(model=3), "invalid_request", "model", "string"),
        (chat(messages=[{"role": "boss", "content": "x"}]), "invalid_request", "messages[0].role", "one of"),
        (chat(max_tokens=0), "invalid_request", "max_tokens", "1 or more"),
        (chat(model="gtp"), "model_not_found", "model", "Did you mean 'gpt'"),
        (chat(model="m" * 513), "model_not_found", "model", "512"),
        (chat(model="vec"), "model_role_mismatch", "model", "embeddings"),
    ],
)
async def test_a_bad_body_is_refused_with_its_place(
    tmp_path: Path, body: Any, code: str, param: str | None, text: str
) -> None:
    """What cannot be read or served is refused with code and field, recorded, and never sent anywhere."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        answer = await raw(path=CHAT, body=body)
        assert answer.code == code
        assert answer.json["error"]["param"] == param
        assert text in answer.json["error"]["message"]
        (refused,) = house.facts(RunRefused)
        assert (refused.code, refused.http_status, refused.endpoint) == (code, answer.status, "chat")
        assert refused.principal_id == f"key:{refused.key_id}"
        assert house.upstream.requests == []
        assert house.lines[0].status == answer.status


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_only_json_is_read(tmp_path: Path, content_type: str) -> None:
    """Another content type is 415; JSON with a charset is JSON."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        answer = await raw(headers={"content-type": content_type}, body=chat())
        assert (answer.status, answer.code) == (415, "unsupported_media_type")
        assert (await raw(headers={"content-type": "Application/JSON; charset=utf-8"}, body=chat())).status == 200


async def test_a_body_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    """A declared length past the limit is refused at once, a body without one where it passes the limit."""
    async with open_house(tmp_path, max_request_bytes=1_024) as house, raw_client(house) as raw:
        declared = await over_socket(house.server.port, head(house, "Content-Length: 1000000000000") + b"{")
        assert (declared.status, declared.code) == (413, "body_too_large")
        chunk = b"400\r\n" + b"x" * 1_024 + b"\r\n"
        chunked = await over_socket(house.server.port, head(house, "Transfer-Encoding: chunked") + chunk * 2)
        assert (chunked.status, chunked.code) == (413, "body_too_large")
        assert (await raw(body=chat())).status == 200
        assert house.gateway.bodies.held_bytes == 0


async def test_a_large_body_is_read_off_the_loop(tmp_path: Path) -> None:
    """A body of some hundred kilobytes is served like a small one, and its bytes are given back."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        answer = await raw(body=chat(metadata={"note": "x" * 400_000}))
        assert answer.status == 200
        assert len(house.upstream.requests[0].body) > 400_000


async def test_all_bodies_together_are_bounded(tmp_path: Path) -> None:
    """While open requests hold too many bytes, another one is told to come back."""
    gate = asyncio.Event()
    async with open_house(tmp_path, max_inflight_bytes=50_000) as house, raw_client(house) as raw:
        house.upstream.reply_with(Behaviour(head=gate))
        first = asyncio.create_task(raw(body=chat("x" * 40_000)))
        await house.upstream.request_arrived()
        busy = await raw(body=chat("x" * 20_000))
        assert (busy.status, busy.code, busy.headers["retry-after"]) == (503, "gateway_busy", "1")
        gate.set()
        assert (await first).status == 200
        assert (await raw(body=chat("x" * 20_000))).status == 200


async def test_a_slow_body_is_given_up(tmp_path: Path) -> None:
    """A body that does not arrive in time is refused, and its sender let go."""
    async with open_house(tmp_path, body_read_ms=30) as house:
        answer = await over_socket(house.server.port, head(house, "Content-Length: 100") + b'{"model"')
        assert (answer.status, answer.code) == (400, "invalid_request")
        assert "30 ms" in answer.json["error"]["message"]
        assert [fact.code for fact in house.facts(RunRefused)] == ["invalid_request"]


async def test_a_client_that_asks_first_is_told_to_go_on(tmp_path: Path) -> None:
    """`Expect: 100-continue` gets its interim answer once the checks are passed, and a refusal without it."""
    async with open_house(tmp_path) as house:
        body = b'{"model":"gpt","messages":[{"role":"user","content":"Hi"}]}'
        asks = (f"Content-Length: {len(body)}", "Expect: 100-continue")
        reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
        writer.write(head(house, *asks))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await read_answer(reader)).status == 200
        writer.close()
        await writer.wait_closed()
        assert (await over_socket(house.server.port, head(house, *asks, key="bad"))).status == 401


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "bare deflate", "identity"])
async def test_encoded_bodies_are_inflated(tmp_path: Path, encoding: str) -> None:
    """gzip and deflate are read; what goes upstream is the body as it was."""
    body = b'{"model":"gpt","messages":[{"role":"user","content":"Hi"}]}'
    bare = zlib.compressobj(wbits=-15)
    encoded = {
        "gzip": gzip.compress(body, mtime=0),
        "x-gzip": gzip.compress(body, mtime=0),
        "deflate": zlib.compress(body),
        "bare deflate": bare.compress(body) + bare.flush(),
        "identity": body,
    }[encoding]
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        answer = await raw(headers={"content-encoding": encoding.split(" ")[-1]}, body=encoded)
        assert answer.status == 200
        assert b'"content":"Hi"' in house.upstream.requests[0].body


@pytest.mark.parametrize(
    ("encoding", "make_body", "code"),
    [
        ("br", lambda: b"x", "unsupported_media_type"),
        ("gzip, gzip", lambda: b"x", "unsupported_media_type"),
        ("gzip", lambda: b"not gzip", "invalid_request"),
        ("gzip", lambda: gzip.compress(b"{}" * 50, mtime=0)[:-6], "invalid_request"),
        ("gzip", lambda: gzip.compress(b"{}", mtime=0) + b"more", "invalid_request"),
        ("gzip", lambda: gzip.compress(bytes(64 << 20), mtime=0), "body_too_large"),
        ("deflate", lambda: zlib.compress(bytes(64 << 20)), "body_too_large"),
    ],
)
async def test_encodings_are_no_way_around_a_limit(
    tmp_path: Path, encoding: str, make_body: Callable[[], bytes], code: str
) -> None:
    """Unknown encodings, broken streams and bombs are refused; a limit holds for the inflated size."""
    body = make_body()
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        answer = await raw(headers={"content-encoding": encoding}, body=body)
        assert answer.code == code
        assert [fact.code for fact in house.facts(RunRefused)] == [code]


async def test_a_broken_framing_is_refused(tmp_path: Path) -> None:
    """A chunked body whose chunks are nonsense is refused, with its head or, behind it, when its time is over."""
    async with open_house(tmp_path, body_read_ms=30) as house:
        framed = head(house, "Transfer-Encoding: chunked", "Expect: 100-continue")
        answer = await over_socket(house.server.port, framed + b"ZZZ\r\n\r\n")
        assert (answer.status, answer.code) == (400, "invalid_request")
        reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
        writer.write(framed)
        await reader.readuntil(b"100 Continue\r\n\r\n")
        writer.write(b"5\r\nhello\r\nZZZ\r\n\r\n")
        answer = await read_answer(reader)
        assert (answer.status, answer.code) == (400, "invalid_request")
        writer.close()
        await writer.wait_closed()


async def test_a_very_large_body_is_judged_like_any_other(tmp_path: Path) -> None:
    """Read by a process of its own: its mistakes are told with their place, and what is right is served."""
    text = "word " * (APART_BYTES // 5 + 1)
    async with open_house(tmp_path, offer=DIALECTS) as house, raw_client(house) as raw:
        house.gateway.bodies.bound(max_request_bytes=16 << 20, max_inflight_bytes=64 << 20)
        answer = await raw(path=CHAT, body=chat(text, max_tokens=0))
        assert (answer.status, answer.code, answer.json["error"]["param"]) == (400, "invalid_request", "max_tokens")
        assert house.runs.apart.pid is not None
        answer = await raw(path=CHAT, body=chat(text))
        assert (answer.status, answer.code) == (400, "max_model_tokens_per_event_exceeded")
        content = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}}]
        sent = chat(messages=[{"role": "user", "content": content}])
        for name in MODELS:
            assert (await raw(path=CHAT, body={**sent, "model": name})).status == 200
        assert house.upstream.requests[0].json == {**sent, "model": "gpt-x"}
        assert [len(one.body) > APART_BYTES for one in house.upstream.requests] == [True] * 3
