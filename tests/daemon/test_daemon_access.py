"""Who may come in: hosts, origins, keys, scopes; who may not is told so and leaves a trace."""

from __future__ import annotations

from pathlib import Path

import pytest
from daemon_house import BROKEN, CHAT, GUARDED, chat, head, open_house, over_socket, raw_client

from palyra.auth.keys import make_key
from palyra.events.base import Draft
from palyra.events.keys import AccessDenied, ClientKeyIssued, ClientKeyRevoked
from palyra.events.runs import RunRefused


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
    """No key, nonsense, unknown, mistyped, revoked keys, and one with another's id are 401 before the body."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        revoked, live, guess = (make_key("client", number) for number in ((1 << 256), (2 << 256), (2 << 256) + 1))
        for key in (revoked, live):
            issued = ClientKeyIssued(
                kind="client", display_name="x", verifier=key.verifier, principal_id="key:x", scopes=["v1:*"]
            )
            await house.core.record([Draft(f"key-{key.key_id}", issued)])
        await house.core.record([Draft(f"key-{revoked.key_id}", ClientKeyRevoked(reason="operator"))])
        assert guess.key_id == live.key_id
        bad = ["nonsense", make_key("client").secret.reveal(), house.client_key[:-1] + "!", revoked.secret.reveal()]
        bad.append(guess.secret.reveal())
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
        assert denied == [("missing_client_key", 1), ("invalid_client_key", 1), ("invalid_client_key", 4)]


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
