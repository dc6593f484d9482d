"""Requests as such: where they go, the order of the checks, what is said of them; each leaves a trace."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from daemon_house import BROKEN, CHAT, OFFER, chat, head, open_house, over_socket, raw_client, read_answer
from upstream import raw_server

from palyra.events.runs import RunRefused


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v1/chat/completion", 404, "route_not_found"),
        ("POST", "/chat/completions", 404, "route_not_found"),
        ("GET", "/v1/models/", 404, "route_not_found"),
        ("GET", "/console", 404, "route_not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("OPTIONS", CHAT, 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("DELETE", "/v1/models/gpt", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_served_is_told(tmp_path: Path, method: str, path: str, status: int, code: str) -> None:
    """Unknown places are 404, wrong methods 405 with those allowed; both are counted."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        answer = await raw(method, path, body=None)
        assert (answer.status, answer.code) == (status, code)
        assert answer.headers.get("allow") == {405: "GET" if "models" in path else "POST"}.get(status)
        assert "access-control-allow-origin" not in answer.headers
        (denied,) = house.denied
        assert denied.endswith(code)
        assert house.lines[0].route != path or status == 405


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/v1", 200, b'{"object":"service","name":"palyra"}'),
        ("HEAD", "/", 200, b""),
        ("GET", "/healthz", 200, b'{"status":"alive"}'),
        ("GET", "/readyz", 200, b'{"status":"ready"}'),
    ],
)
async def test_open_places_need_no_key(tmp_path: Path, method: str, path: str, status: int, body: bytes) -> None:
    """Liveness needs no key, says one word, and leaves no fact."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        position = house.core.state.position
        answer = await raw(method, path + "?beta=true", key="")
        assert (answer.status, answer.body) == (status, body)
        assert house.core.state.position == position


async def test_every_answer_carries_the_same_protection(tmp_path: Path) -> None:
    """Answers of every kind say not to guess and not to share, and do not tell the version."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        answers = [
            await raw("GET", "/healthz", key=""),
            await raw("GET", "/v1/models"),
            await raw(body=chat()),
            await raw(body=chat(stream=True)),
            await raw(body=BROKEN),
            await raw("GET", "/nowhere"),
            await over_socket(house.server.port, b"NONSENSE\r\n\r\n"),
        ]
    for answer in answers:
        assert answer.headers["server"] == "palyra"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"x-palyra-max-coins": "1"}, 400, "unknown_palyra_header"),
        ({"X-Palyra-Timeout-MS": "soon"}, 400, "invalid_header"),
        ({"x-palyra-hop": "3"}, 508, "gateway_loop"),
    ],
)
async def test_headers_of_ours_are_followed_or_refused(
    tmp_path: Path, headers: dict[str, str], status: int, code: str
) -> None:
    """A header of ours that cannot be followed refuses the request, before its body is looked at."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        answer = await raw(headers=headers, body=BROKEN)
        assert (answer.status, answer.code) == (status, code)
        assert answer.json["error"]["param"] == next(iter(headers)).lower()
        assert [fact.code for fact in house.facts(RunRefused)] == [code]


async def test_the_order_of_the_checks(tmp_path: Path) -> None:
    """A request with every fault is told one after another of them, from the outside in."""
    async with open_house(tmp_path, max_request_bytes=1_024) as house, raw_client(house) as raw:
        faults: dict[str, str] = {
            "host": "evil.example",
            "origin": "https://evil.example",
            "authorization": "Bearer bad",
            "x-palyra-nonsense": "1",
            "content-type": "text/plain",
        }
        told = {
            "host": "bad_host",
            "origin": "origin_refused",
            "authorization": "invalid_client_key",
            "x-palyra-nonsense": "unknown_palyra_header",
            "content-type": "unsupported_media_type",
        }
        house.gateway.is_draining = True
        assert (await raw("PUT", "/nowhere", headers=faults)).code == "draining"
        house.gateway.is_draining = False
        for cure, code in told.items():
            assert (await raw(headers=faults, body=b"{" * 2_000)).code == code
            if cure in ("host", "origin"):
                assert (await raw("PUT", "/nowhere", headers=faults)).code == code
            else:
                assert (await raw("PUT", "/nowhere", headers=faults)).code == "route_not_found"
                assert (await raw("PUT", CHAT, headers=faults)).code == "method_not_allowed"
            del faults[cure]
        assert (await raw(headers=faults, body=b"{" * 2_000)).code == "body_too_large"
        assert (await raw(headers=faults, body=b"{" * 100)).code == "invalid_json"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "invalid_request"),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", "invalid_header"),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X-Y: aaaa\r\n" * 4_000 + b"\r\n", "invalid_request"),
        (
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + (b"X-Y: " + b"a" * 7_000 + b"\r\n") * 5 + b"\r\n",
            "invalid_header",
        ),
    ],
)
async def test_what_is_no_http_gets_an_envelope(tmp_path: Path, data: bytes, code: str) -> None:
    """Bytes that are no request, and heads that are too large, are refused like everything else, and counted."""
    async with open_house(tmp_path) as house:
        answer = await over_socket(house.server.port, data)
        assert (answer.status, answer.code) == (400, code)
        assert sum(house.denied.values()) == 1


async def test_what_a_client_writes_cannot_break_a_header(tmp_path: Path) -> None:
    """A model's name is repeated in a header as plain text, and a header that is no text is refused."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        for stream in (False, True):
            answer = await raw(body=chat(model="gpt\r\n", stream=stream))
            assert (answer.status, answer.headers["x-palyra-requested-model"]) == (200, "gpt??")
        data = head(house, "Content-Length: 2", "OpenAI-Beta: ?").replace(b"?", b"\xff") + b"{}"
        refused = await over_socket(house.server.port, data)
        assert (refused.status, refused.code) == (400, "invalid_header")


@pytest.mark.parametrize(
    ("headers", "stream", "status"),
    [
        (b"content-type: application/json\r\nx-request-id: \xff\xfe", False, 200),
        (b"content-type: text/\xff\xfe", True, 502),
    ],
)
async def test_what_a_provider_writes_cannot_break_the_journal(
    tmp_path: Path, headers: bytes, stream: bool, status: int
) -> None:
    """Bytes that are no text in a provider's headers are nobody's bug."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    body = json.dumps({"id": "x", "object": "chat.completion", "choices": [choice]}).encode()
    answer = b"HTTP/1.1 200 OK\r\n" + headers + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    async with raw_server(answer) as port, open_house(tmp_path) as house, raw_client(house) as raw:
        house.upstream_url = f"http://127.0.0.1:{port}/v1"
        got = await raw(body=chat(stream=stream))
        assert got.status == status
        assert "x-palyra-upstream-request-id" not in got.headers
        assert house.core.is_writable


async def test_a_model_id_may_hold_a_slash(tmp_path: Path) -> None:
    """A model is found by an id with slashes, written plainly or encoded."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        for path in ("/v1/models/up/gpt", "/v1/models/up%2Fgpt"):
            answer = await raw("GET", path)
            assert (answer.status, answer.json["id"]) == (200, "up/gpt")
        assert {line.route for line in house.lines} == {"/v1/models/{id}"}


async def test_nothing_is_taken_while_the_journal_cannot_be_written(tmp_path: Path) -> None:
    """With a failed journal all but liveness is 503; what was turned away is recorded when it works again."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        repaired = asyncio.Event()

        async def wait_for_repair() -> None:
            await repaired.wait()

        house.core.on_failure = wait_for_repair
        house.core.journal.fail_next_commits(1)  # type: ignore[attr-defined]
        # This one finds out: its refusal cannot be recorded, so it is not told.
        for method, path in (("POST", CHAT), ("POST", CHAT), ("GET", "/v1/models"), ("GET", "/nowhere")):
            answer = await raw(method, path, body=BROKEN)
            assert (answer.status, answer.code) == (503, "journal_unwritable")
            assert answer.headers["retry-after"] == "1"
        assert (await raw("GET", "/healthz")).status == 200
        ready = await raw("GET", "/readyz")
        assert (ready.status, ready.json) == (503, {"status": "journal_unwritable"})
        repaired.set()
        await house.wait_until_writable()
        assert (await raw(body=chat())).status == 200
        await house.access.flush()
        assert house.denied == {
            "chat|journal_unwritable": 1,
            "models|journal_unwritable": 1,
            "other|journal_unwritable": 1,
        }


async def test_pipelined_requests_are_answered_in_turn(tmp_path: Path) -> None:
    """Two requests sent at once on one connection get their answers in order."""
    async with open_house(tmp_path) as house:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
        writer.write(head(house, "Content-Length: 1") + b"{" + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await read_answer(reader)).code == "invalid_json"
        assert (await read_answer(reader)).json == {"status": "alive"}
        writer.close()
        await writer.wait_closed()


async def test_a_request_with_an_idempotency_key_is_made_once(tmp_path: Path) -> None:
    """By caller and route; what the provider sees of the key is nothing."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        headers = {"idempotency-key": "order 7"}
        first = await raw(body=chat(), headers=headers)
        second = await raw(body=chat(), headers=headers)
        assert (first.status, second.status, second.body) == (200, 200, first.body)
        assert "x-palyra-idempotent-replay" not in first.headers
        assert second.headers["x-palyra-idempotent-replay"] == "true"
        assert (await raw(body=chat("Else."), headers=headers)).code == "idempotency_key_reused"
        assert (
            await raw(path="/v1/embeddings", body={"model": "vec", "input": "x"}, headers=headers)
        ).status == 200
        assert (await raw(body=chat(), key=house.admin_key, headers=headers)).status in (200, 401)
        assert all("idempotency-key" not in seen.headers for seen in house.upstream.requests)


async def test_equal_requests_share_an_answer_where_it_is_configured(tmp_path: Path) -> None:
    """Order of members and form of the answer do not count; headers and what a body asks of its provider do."""
    offer = msgspec.structs.replace(OFFER, response_cache_enabled=True)
    async with open_house(tmp_path, offer=offer) as house, raw_client(house) as raw:
        bodies = [
            chat(temperature=0.5),
            dict(reversed(chat(temperature=0.5, user="x").items())),
            chat(temperature=0.5, stream=True),
            chat(temperature=0.50),
            chat(temperature=0.5, store=False),
            chat(temperature=0.5, store=True),
            chat("x" * 270_000),
            chat("x" * 270_000),
        ]
        words = [(await raw(body=body)).headers["x-palyra-cache"] for body in bodies]
        assert words == ["miss", "hit", "hit", "hit", "miss", "off", "miss", "hit"]
        no_store = await raw(body=chat(temperature=0.5), headers={"cache-control": "no-store"})
        assert no_store.headers["x-palyra-cache"] == "off"
