"""Requests that are wrong, hostile or not allowed: each gets its code in the envelope, and each leaves a trace."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from pathlib import Path
from typing import Any

import pytest
from daemon_house import Answer, chat, head, open_house, raw_client, read_answer
from upstream import Behaviour

from palyra.auth.keys import make_key
from palyra.events.base import Draft
from palyra.events.keys import AccessDenied, ClientKeyIssued, ClientKeyRevoked
from palyra.events.runs import RunRefused

CHAT = "/v1/chat/completions"
#: Every route that wants a key.
GUARDED = [CHAT, "/v1/embeddings", "/v1/models", "/v1/models/gpt"]
BROKEN = b'{"model": "gpt", "messages": ['


async def over_socket(port: int, data: bytes) -> Answer:
    """Send bytes as they are and read one answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await read_answer(reader)
    finally:
        writer.close()
        await writer.wait_closed()


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
    "path", [CHAT, "/v1/embeddings", "/v1/models", "/v1/models/gpt", "/healthz", "/readyz", "/v1"]
)
async def test_a_foreign_host_is_refused_everywhere(tmp_path: Path, path: str) -> None:
    """A name that is not ours is 421 on every route, with a good key too; our names pass."""
    async with open_house(tmp_path, extra_hosts=["gateway.lan"]) as house, raw_client(house) as raw:
        method = "POST" if path in (CHAT, "/v1/embeddings") else "GET"
        answer = await raw(method, path, headers={"host": "evil.example"})
        assert (answer.status, answer.code) == (421, "bad_host")
        for host in ("localhost", "127.0.0.1:1", "gateway.lan:7142"):
            answer = await raw(method, path, headers={"host": host})
            assert answer.status in (200, 400)
            answer = await raw(method, path, headers={"host": host})
            assert answer.status in (200, 400)


async def test_any_number_of_our_names_is_served(tmp_path: Path) -> None:
    """Hosts that were seen are remembered, but only so many; the rest is served all the same."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        for number in range(70):
            assert (await raw("GET", "/healthz", headers={"host": f"127.0.0.{number}"})).status == 200


async def test_a_missing_host_is_refused(tmp_path: Path) -> None:
    """A request without Host is a bad request."""
    async with open_house(tmp_path) as house:
        answer = await over_socket(house.server.port, b"GET /healthz HTTP/1.0\r\n\r\n")
        assert (answer.status, answer.code) == (400, "invalid_header")


async def test_a_web_page_is_refused(tmp_path: Path) -> None:
    """Any Origin is refused, with a good key too, and gets no permission to read the answer."""
    async with open_house(tmp_path, anonymous="loopback") as house, raw_client(house) as raw:
        for key in (None, ""):
            answer = await raw(key=key, headers={"origin": "http://localhost:3000"}, body=chat())
            assert (answer.status, answer.code) == (403, "origin_refused")
            assert "access-control-allow-origin" not in answer.headers
        assert house.denied == {"chat|origin_refused": 1}
        await house.access.flush()
        assert [fact.count for fact in house.facts(AccessDenied)] == [1, 1]


@pytest.mark.parametrize("path", GUARDED)
async def test_keys_that_open_nothing(tmp_path: Path, path: str) -> None:
    """No key, nonsense, unknown, mistyped and revoked keys are 401 before a body that never ends is read."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        revoked = make_key("client", 1)
        issued = ClientKeyIssued(
            kind="client", display_name="old", verifier=revoked.verifier, principal_id="key:old", scopes=["v1:*"]
        )
        stream = f"key-{revoked.key_id}"
        await house.core.record([Draft(stream, issued), Draft(stream, ClientKeyRevoked(reason="operator"))])
        bad = ["nonsense", make_key("client").secret.reveal(), house.client_key[:-1] + "!", revoked.secret.reveal()]
        method = b"GET" if "models" in path else b"POST"
        for key, code in [("", "missing_client_key"), *((one, "invalid_client_key") for one in bad)]:
            endless = head(house, "Content-Length: 1000", path=path, key=key).replace(b"POST", method) + b'{"'
            answer = await over_socket(house.server.port, endless)
            assert (answer.status, answer.code) == (401, code)
            assert answer.headers["www-authenticate"] == 'Bearer realm="palyra"'
            assert not key or key not in answer.body.decode()
        await raw("GET", "/v1/models", headers={"x-api-key": house.client_key}, key="")
        assert house.counted("run.refused") == 0
        await house.access.flush()
        denied = [(fact.reason, fact.count) for fact in house.facts(AccessDenied)]
        assert denied == [("missing_client_key", 1), ("invalid_client_key", 1), ("invalid_client_key", 3)]


async def test_an_operator_key_is_known_and_refused(tmp_path: Path) -> None:
    """The admin key is of the wrong kind for programs; its holder is known, so the refusal is recorded."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        answer = await raw(key=house.admin_key, body=BROKEN)
        assert (answer.status, answer.code) == (401, "wrong_key_kind")
        assert [fact.code for fact in house.facts(RunRefused)] == ["wrong_key_kind"]
        assert house.denied == {}


@pytest.mark.parametrize("path", GUARDED)
async def test_a_scope_is_needed(tmp_path: Path, path: str) -> None:
    """A key without the endpoint's scope is 403, recorded."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        key = make_key("client", 1)
        issued = ClientKeyIssued(
            kind="client", display_name="ci", verifier=key.verifier, principal_id="user:ci", scopes=["v1:audio"]
        )
        await house.core.record([Draft(f"key-{key.key_id}", issued)])
        answer = await raw("GET" if "models" in path else "POST", path, key=key.secret.reveal())
        assert (answer.status, answer.code) == (403, "missing_scope")
        assert [(fact.principal_id, fact.code) for fact in house.facts(RunRefused)] == [
            ("user:ci", "missing_scope")
        ]


async def test_two_keys_that_differ_are_refused(tmp_path: Path) -> None:
    """A request that shows two different keys is told so."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        answer = await raw(headers={"x-api-key": "other"}, body=chat())
        assert (answer.status, answer.code) == (400, "conflicting_credentials")


async def test_a_local_program_needs_no_key_where_that_is_configured(tmp_path: Path) -> None:
    """With anonymous clients a plain local request is principal `local`; a proxied one still needs a key."""
    async with open_house(tmp_path, anonymous="loopback") as house, raw_client(house) as raw:
        assert (await raw(key="", body=chat())).status == 200
        refused = await raw(key="", body=chat(), headers={"x-palyra-agent": "a"})
        assert refused.code == "binding_violation"
        assert house.facts(RunRefused)[0].principal_id == "local"
        assert (
            await raw(key="", body=chat(), headers={"x-forwarded-for": "10.0.0.1"})
        ).code == "missing_client_key"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"x-palyra-max-cost-usd": "1"}, 400, "unknown_palyra_header"),
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
        assert (await raw("PUT", "/nowhere", headers=faults)).code == "route_not_found"
        assert (await raw("PUT", CHAT, headers=faults)).code == "method_not_allowed"
        for cure, code in told.items():
            assert (await raw(headers=faults, body=b"{" * 2_000)).code == code
            del faults[cure]
        assert (await raw(headers=faults, body=b"{" * 2_000)).code == "body_too_large"
        assert (await raw(headers=faults, body=b"{" * 100)).code == "invalid_json"


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
        "gzip": gzip.compress(body),
        "x-gzip": gzip.compress(body),
        "deflate": zlib.compress(body),
        "bare deflate": bare.compress(body) + bare.flush(),
        "identity": body,
    }[encoding]
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        answer = await raw(headers={"content-encoding": encoding.split(" ")[-1]}, body=encoded)
        assert answer.status == 200
        assert b'"content":"Hi"' in house.upstream.requests[0].body


@pytest.mark.parametrize(
    ("encoding", "body", "code"),
    [
        ("br", b"x", "unsupported_media_type"),
        ("gzip, gzip", b"x", "unsupported_media_type"),
        ("gzip", b"not gzip", "invalid_request"),
        ("gzip", gzip.compress(b"{}" * 50)[:-6], "invalid_request"),
        ("gzip", gzip.compress(b"{}") + b"more", "invalid_request"),
        ("gzip", gzip.compress(bytes(64 << 20)), "body_too_large"),
        ("deflate", zlib.compress(bytes(64 << 20)), "body_too_large"),
    ],
)
async def test_encodings_are_no_way_around_a_limit(tmp_path: Path, encoding: str, body: bytes, code: str) -> None:
    """Unknown encodings, broken streams and bombs are refused; a limit holds for the inflated size."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        answer = await raw(headers={"content-encoding": encoding}, body=body)
        assert answer.code == code
        assert [fact.code for fact in house.facts(RunRefused)] == [code]


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
