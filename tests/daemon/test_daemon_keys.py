"""What a key may do on /v1: scopes, bindings, models, networks, rates; and what guessing one costs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from daemon_house import CHAT, OFFER, chat, head, open_house, over_socket, raw_client, read_answer
from registries import model, provider, registry
from upstream import HANG, Behaviour

from palyra.auth.keys import make_key
from palyra.events.runs import RunAdmitted, RunRefused
from palyra.projections.keys import KeyLimits

SCOPES = ["v1:models", "v1:chat", "v1:responses", "v1:messages", "v1:embeddings", "v1:audio"]


async def test_every_route_of_v1_needs_its_scope(tmp_path: Path) -> None:
    """For each route a key with every scope but its own is refused before a body that never ends is read."""
    async with open_house(tmp_path) as house:
        guarded = [route for route in house.gateway.places if route.scope]
        assert {route.scope for route in guarded} <= set(SCOPES)
        for number, route in enumerate(guarded):
            others = [scope for scope in SCOPES if scope != route.scope]
            bare, poor = await house.issue(f"a{number}", scopes=[]), await house.issue(f"b{number}", scopes=others)
            for method in route.methods:
                for key in (bare, poor):
                    path = route.template.replace("{id}", "gpt")
                    lines = head(house, "Content-Length: 1000", path=path, key=key)
                    answer = await over_socket(house.server.port, lines.replace(b"POST", method.encode()) + b'{"')
                    assert answer.status == 403, (route.template, method)
                    assert b"lacks the scope" in answer.body
        assert len(guarded) >= 4


async def test_a_key_is_held_to_its_agents_and_its_session(tmp_path: Path) -> None:
    """Another agent or session is refused; what the request does not name comes from the key."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        key = await house.issue(
            principal="user:ada", agents=["coder", "tester"], default_agent="coder", session="build"
        )
        for header in ("x-palyra-agent", "x-palyra-session"):
            answer = await raw(key=key, headers={header: "other"}, body=chat())
            assert (answer.status, answer.code) == (403, "binding_violation")
        assert (await raw(key=key, body=chat(prompt_cache_key="cache"))).status == 200
        assert (await raw(key=key, body=chat(), headers={"x-palyra-agent": "tester"})).status == 200
        admitted = house.facts(RunAdmitted)
        assert [(one.session_id, one.agent_id) for one in admitted] == [
            ("user:ada/build", "coder"),
            ("user:ada/build", "tester"),
        ]


async def test_sessions_of_two_keys_never_meet(tmp_path: Path) -> None:
    """The same name is another session for another principal."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        for name in ("a", "b"):
            key = await house.issue(name)
            assert (await raw(key=key, body=chat(), headers={"x-palyra-session": "same"})).status == 200
        assert len({one.session_id for one in house.facts(RunAdmitted)}) == 2


async def test_a_key_is_held_to_its_models(tmp_path: Path) -> None:
    """By whatever name a model is asked for; what it may use is all that the list shows it."""
    offer = registry(
        provider("up", max_retries=0, credential_ref="", auth_scheme="none"),
        model("gpt", "up", upstream_model="gpt-x", aliases=["fast"]),
        model("mini", "up", upstream_model="gpt-y"),
    )
    async with open_house(tmp_path, offer=offer) as house, raw_client(house) as raw:
        key = await house.issue(models=["mi*"])
        for name in ("gpt", "fast", "up/gpt", ""):
            answer = await raw(key=key, body=chat(model=name))
            assert (answer.status, answer.code) == (403, "model_not_permitted")
        assert (await raw(key=key, body=chat(model="mini"))).status == 200
        listed = (await raw("GET", "/v1/models", key=key)).json["data"]
        assert [one["id"] for one in listed] == ["mini"]
        assert (await raw("GET", "/v1/models/gpt", key=key)).code == "model_not_found"
        assert {one.code for one in house.facts(RunRefused)} == {"model_not_permitted"}


async def test_a_key_is_held_to_its_networks(tmp_path: Path) -> None:
    """From elsewhere it is refused, and the refusal recorded; a trusted proxy says where a request comes from."""
    async with open_house(tmp_path, trusted_proxies=["127.0.0.1"]) as house, raw_client(house) as raw:
        key = await house.issue(allowed_cidrs=["10.0.0.0/8"])
        answer = await raw(key=key, body=chat())
        assert (answer.status, answer.code) == (403, "peer_not_allowed")
        assert (await raw(key=key, body=chat(), headers={"x-forwarded-for": "10.1.1.1"})).status == 200
        assert (await raw(key=key, body=chat(), headers={"x-forwarded-for": "11.1.1.1"})).status == 403
        assert len(house.facts(RunRefused)) == 2


async def test_forged_forwarding_headers_are_nothing(tmp_path: Path) -> None:
    """Without a trusted proxy nobody says where a request comes from but its connection."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        key = await house.issue(allowed_cidrs=["10.0.0.0/8"])
        assert (await raw(key=key, body=chat(), headers={"x-forwarded-for": "10.1.1.1"})).status == 403


async def test_requests_of_a_minute_are_limited(tmp_path: Path) -> None:
    """So many at once, then 429 with what is left and when; the shared key of local programs never."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        key = await house.issue(limits=KeyLimits(requests_per_minute=6, burst=2))
        assert [(await raw("GET", "/v1/models", key=key)).status for _ in range(3)] == [200, 200, 429]
        answer = await raw(key=key, body=chat())
        assert answer.code == "client_rate_limited"
        assert answer.json["error"]["type"] == "rate_limit_error"
        assert answer.headers["x-ratelimit-limit-requests"] == "6"
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        assert 1 <= int(answer.headers["retry-after"]) <= 10
        assert answer.headers["x-ratelimit-reset-requests"].endswith("ms")
        assert "x-ratelimit-limit-tokens" not in answer.headers
        assert [one.code for one in house.facts(RunRefused)] == ["client_rate_limited"] * 2
        for _ in range(10):
            assert (await raw("GET", "/v1/models")).status == 200


async def test_tokens_of_a_minute_are_taken_by_estimate_and_corrected(tmp_path: Path) -> None:
    """What was estimated too high is given back at the end; a minute that is used up is 429."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        key = await house.issue(limits=KeyLimits(tokens_per_minute=1_000))
        for _ in range(3):
            assert (await raw(key=key, body=chat(max_tokens=900))).status == 200
            await house.wait_until_idle()
        house.upstream.reply_with(Behaviour(prompt_tokens=900, completion_tokens=300))
        assert (await raw(key=key, body=chat(max_tokens=100))).status == 200
        await house.wait_until_idle()
        answer = await raw(key=key, body=chat())
        assert (answer.status, answer.code) == (429, "client_rate_limited")
        assert answer.headers["x-ratelimit-remaining-tokens"] == "0"


async def test_a_large_request_waits_for_a_minute_that_is_free(tmp_path: Path) -> None:
    """What is more than a minute has passes when nothing else was used, and is refused otherwise."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        key = await house.issue(limits=KeyLimits(tokens_per_minute=100))
        house.upstream.reply_with(Behaviour(prompt_tokens=10, completion_tokens=5))
        assert (await raw(key=key, body=chat(max_tokens=4_000))).status == 200
        await house.wait_until_idle()
        assert (await raw(key=key, body=chat(max_tokens=4_000))).code == "client_rate_limited"
        assert (await raw(key=key, body=chat(max_tokens=10))).status == 200


async def test_runs_at_once_are_limited_and_freed_by_a_hang_up(tmp_path: Path) -> None:
    """One more than allowed is 429; when its client hangs up and the run has ended there is room again."""
    offer = registry(
        provider("up", max_retries=0, credential_ref="", auth_scheme="none", on_client_disconnect="cancel"),
        model("gpt", "up", upstream_model="gpt-x"),
    )
    async with open_house(tmp_path, offer=offer) as house, raw_client(house) as raw:
        key = await house.issue(limits=KeyLimits(concurrent_runs=1))
        house.upstream.reply_with(Behaviour(after={0: HANG}))
        _, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
        data = json.dumps(chat()).encode()
        writer.write(head(house, f"Content-Length: {len(data)}", key=key) + data)
        await house.upstream.request_arrived()
        answer = await raw(key=key, body=chat())
        assert (answer.status, answer.code) == (429, "client_rate_limited")
        assert answer.headers["retry-after"] == "1"
        writer.close()
        await writer.wait_closed()
        await house.wait_until_idle()
        assert (await raw(key=key, body=chat())).status == 200
        assert (await raw(key=key, body=b"{")).status == 400
        assert (await raw(key=key, body=chat())).status == 200


async def test_guessing_is_slow_and_good_keys_are_not(tmp_path: Path) -> None:
    """From the twentieth failure in a minute on a peer's failing answers are held back; a good key's never."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        for _ in range(19):
            await raw(key=make_key("client").secret.reveal(), body=chat())
        assert house.pauses_s == []
        for _ in range(21):
            assert (await raw(key="nonsense", body=chat())).status == 401
        assert house.pauses_s == [1.0] * 20 + [2.0]
        assert (await raw(body=chat())).status == 200
        assert (await raw(key="", headers={"origin": "https://evil.example"})).status == 403
        assert len(house.pauses_s) == 21


async def test_a_named_web_page_may_call(tmp_path: Path) -> None:
    """Its preflight and its answers say so, streams and refusals too; every other page gets no such header."""
    async with open_house(tmp_path, cors_origins=["https://app.example"]) as house, raw_client(house) as raw:
        page = {"origin": "https://app.example"}
        ask = {**page, "access-control-request-method": "POST"}
        preflight = await raw("OPTIONS", CHAT, key="", headers=ask)
        assert preflight.status == 204
        assert preflight.headers["access-control-allow-methods"] == "POST"
        assert "Authorization" in preflight.headers["access-control-allow-headers"]
        for body in (chat(), chat(stream=True), chat(model="nobody")):
            answer = await raw(headers=page, body=body)
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
            assert answer.headers["vary"] == "Origin"
        for origin in ("https://evil.example", "null"):
            for method in ("OPTIONS", "POST"):
                answer = await raw(method, headers={"origin": origin}, body=chat())
                assert (answer.status, answer.code) == (403, "origin_refused")
                assert "access-control-allow-origin" not in answer.headers
        assert (await raw("OPTIONS", CHAT, key="")).status == 405


async def test_every_place_knows_its_hosts_and_its_headers(tmp_path: Path) -> None:
    """Each place, and what is none, refuses a foreign Host before anything else, and answers with the same set."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        places = [(method, route.template) for route in house.gateway.places for method in route.methods]
        for method, template in [*places, ("GET", "/nowhere"), ("DELETE", CHAT)]:
            path = template.replace("{id}", "gpt")
            refused = await raw(method, path, headers={"host": "evil.example"}, key="")
            assert refused.status == 421, path
            passed = await raw(method, path, body=b"{}" if method == "POST" else None)
            assert passed.status != 421
            for answer in (refused, passed):
                assert answer.headers["server"] == "palyra"
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["referrer-policy"] == "no-referrer"
                assert answer.headers["cross-origin-resource-policy"] == "same-origin"


async def test_bad_bytes_carry_the_headers_too(tmp_path: Path) -> None:
    """What is no HTTP gets an answer like every other."""
    async with open_house(tmp_path, offer=OFFER) as house:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
        writer.write(b"nonsense\r\n\r\n")
        answer = await read_answer(reader)
        writer.close()
        await writer.wait_closed()
        assert answer.headers["server"] == "palyra"
