"""Client keys: spelling, verifiers, who is known, what is allowed."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra.decisions.key_text import is_mistyped, read_key, spell_key
from palyra.decisions.keys import (
    LOCAL_CALLER,
    Caller,
    authenticate,
    authorize,
    has_scope,
    is_permitted,
    is_within,
    presented_key,
)
from palyra.errors import Refusal
from palyra.events.base import Recorded
from palyra.events.keys import ClientKeyIssued, ClientKeyRevoked
from palyra.projections.state import State, evolve

CLIENT = spell_key("client", 1, 2)
ADMIN = spell_key("admin", 3, 4)


def house(*, revoked: bool = False) -> State:
    """Return a state that knows both keys."""
    state = State()
    for text in (CLIENT, ADMIN):
        key = read_key(text)
        assert key is not None
        facts: list[ClientKeyIssued | ClientKeyRevoked] = [
            ClientKeyIssued(
                kind=key.kind,
                display_name="test",
                verifier=key.verifier,
                principal_id=f"key:{key.key_id}",
                scopes=["v1:*"] if key.kind == "client" else ["operate"],
            )
        ]
        facts += [ClientKeyRevoked(reason="operator")] if revoked else []
        for version, fact in enumerate(facts, 1):
            position = state.position + 1
            evolve(state, Recorded(position, f"key-{key.key_id}", version, 1, "system:daemon", "", 0, "", fact))
    return state


def refused(answer: Caller | Refusal | None) -> str:
    """Return the code of what must be a refusal."""
    assert isinstance(answer, Refusal)
    return answer.code


@given(st.sampled_from(["client", "admin"]), st.integers(0, 2**60 - 1), st.integers(0, 2**256 - 1))
@settings(max_examples=50)
def test_what_is_spelled_is_read(kind: str, id_number: int, secret_number: int) -> None:
    """A spelled key has its documented shape and is read back, with `sk-` before it or without."""
    text = spell_key(kind, id_number, secret_number)  # type: ignore[arg-type]
    brand, spelled_kind, key_id, tail = text.split("_")
    assert (brand, spelled_kind, len(key_id), len(tail)) == ("palyra", kind, 12, 49)
    read = read_key(text)
    assert read is not None
    assert (read.kind, read.key_id) == (kind, key_id)
    assert read_key("sk-" + text) == read
    assert text not in read.verifier


@given(st.integers(0, len(CLIENT) - 1), st.characters(codec="utf-8"))
@settings(max_examples=100)
def test_a_mistyped_key_is_told_from_a_wrong_one(place: int, char: str) -> None:
    """Any single changed character leaves no key."""
    mistyped = CLIENT[:place] + char + CLIENT[place + 1 :]
    assert (read_key(mistyped) is None) == (mistyped != CLIENT)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sk-",
        "palyra_client",
        "x" * 9_000,
        CLIENT + "0",
        CLIENT[:-1],
        "palyra_root_" + CLIENT[14:],
        "ключ",
        "_" * 3,
    ],
)
def test_what_is_no_key_is_not_read(text: str) -> None:
    """Other texts are no keys, and reading them raises nothing."""
    assert read_key(text) is None


def test_another_kind_with_a_right_checksum_is_no_key() -> None:
    """A key of a kind that does not exist is not read although its checksum fits."""
    assert read_key(spell_key("root", 1, 2)) is None  # type: ignore[arg-type]


def test_a_known_key_is_its_principal() -> None:
    """A live key gives its caller: principal, scopes, any agent."""
    caller = authenticate(house(), CLIENT, 2)
    assert isinstance(caller, Caller)
    assert caller.principal_id == "key:000000000001"
    assert (caller.key_id, caller.kind, list(caller.scopes)) == ("000000000001", "client", ["v1:*"])
    assert list(caller.agents) == ["*"]


@pytest.mark.parametrize(
    ("presented", "code"),
    [
        (None, "missing_client_key"),
        ("hunter2", "invalid_client_key"),
        (CLIENT[:-1] + "z", "invalid_client_key"),
        (spell_key("client", 99, 2), "invalid_client_key"),
        (spell_key("client", 1, 3), "invalid_client_key"),
        # The admin key's id under the client's name is another key.
        (spell_key("client", 3, 4), "invalid_client_key"),
    ],
)
def test_nobody_else_is_let_in(presented: str | None, code: str) -> None:
    """No key, no form, a typing error, an unknown id, a wrong secret: each is refused and its key not repeated."""
    answer = authenticate(house(), presented, 2)
    assert refused(answer) == code
    assert isinstance(answer, Refusal)
    assert presented is None or presented not in answer.message


def test_an_unknown_id_costs_what_a_wrong_secret_costs() -> None:
    """Both take the same way, call by call, so that no clock tells which ids there are."""

    def calls(presented: str) -> list[str]:
        made: list[str] = []
        known = house()

        def note(frame: FrameType, event: str, what: Any) -> None:
            made.append(f"{event} {frame.f_code.co_qualname} {getattr(what, '__name__', '')}")

        sys.setprofile(note)
        try:
            authenticate(known, presented, 2)
        finally:
            sys.setprofile(None)
        return made

    unknown, wrong = calls(spell_key("client", 99, 2)), calls(spell_key("client", 1, 3))
    assert unknown == wrong
    assert any("compare_digest" in one for one in unknown)


def test_a_revoked_key_opens_nothing() -> None:
    """A revoked key is refused like an unknown one."""
    assert refused(authenticate(house(revoked=True), CLIENT, 2)) == "invalid_client_key"


def test_a_local_program_may_be_let_in_without_a_key() -> None:
    """Where it may be anonymous, a request without key is `local` and acts as no agent; a bad key stays bad."""
    assert authenticate(house(), None, 2, may_be_anonymous=True) == LOCAL_CALLER
    assert LOCAL_CALLER.principal_id == "local"
    assert LOCAL_CALLER.agents == ()
    assert refused(authenticate(house(), "bad", 2, may_be_anonymous=True)) == "invalid_client_key"


def test_an_operator_key_is_not_for_programs() -> None:
    """An admin key is known on /v1 and of the wrong kind there."""
    caller = authenticate(house(), ADMIN, 2)
    assert isinstance(caller, Caller)
    assert refused(authorize(caller, "v1:chat", "127.0.0.1")) == "wrong_key_kind"


@pytest.mark.parametrize(
    ("scopes", "is_allowed"),
    [(["v1:*"], True), (["v1:chat"], True), (["v1:models"], False), ([], False), (["*"], False), (["v1"], False)],
)
def test_a_scope_is_needed(scopes: list[str], is_allowed: bool) -> None:
    """A scope is held by name or by its family; an empty list and an unknown word allow nothing."""
    caller = Caller(principal_id="p", scopes=scopes)
    assert has_scope(scopes, "v1:chat") == is_allowed
    assert (authorize(caller, "v1:chat", "127.0.0.1") is None) == is_allowed
    if not is_allowed:
        assert refused(authorize(caller, "v1:chat", "127.0.0.1")) == "missing_scope"


@pytest.mark.parametrize(
    ("headers", "presented"),
    [
        ({}, None),
        ({"authorization": "Bearer a"}, "a"),
        ({"authorization": "bEARER   a "}, "a"),
        ({"x-api-key": " a "}, "a"),
        ({"authorization": "Bearer a", "x-api-key": "a"}, "a"),
        ({"authorization": "Bearer ", "x-api-key": "a"}, "a"),
        ({"authorization": "Bearer "}, None),
        ({"authorization": "Basic YTpi"}, "Basic YTpi"),
    ],
)
def test_the_key_is_where_clients_put_it(headers: dict[str, str], presented: str | None) -> None:
    """A key comes as a bearer token or as x-api-key; another scheme is a credential that fits nothing."""
    assert presented_key(headers) == presented


def test_two_different_keys_are_refused() -> None:
    """Two keys that differ are an error of the request, not a choice."""
    answer = presented_key({"authorization": "Bearer a", "x-api-key": "b"})
    assert isinstance(answer, Refusal)
    assert answer.code == "conflicting_credentials"


def test_a_typing_error_is_named() -> None:
    """What has a key's shape and the wrong checksum was mistyped; what has not is no key."""
    assert is_mistyped(CLIENT[:-1] + ("0" if CLIENT[-1] != "0" else "1"))
    assert not is_mistyped(CLIENT)
    assert not is_mistyped("hunter2")
    answer = authenticate(house(), CLIENT[:20] + "zz" + CLIENT[22:], 2)
    assert isinstance(answer, Refusal)
    assert "checksum" in answer.message


@pytest.mark.parametrize(
    ("address", "is_inside"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("fd00::1", True), ("11.0.0.1", False), ("", False)],
)
def test_a_key_may_be_bound_to_networks(address: str, is_inside: bool) -> None:
    """Outside of its networks a key is refused, whatever it may do; an address in another spelling is the same."""
    networks = ["10.0.0.0/8", "fd00::/8"]
    assert is_within(address, networks) == is_inside
    caller = Caller(principal_id="p", scopes=["v1:*"], allowed_cidrs=networks)
    refusal = authorize(caller, "v1:chat", address)
    assert (refusal is None) == is_inside
    assert is_inside or refused(refusal) == "peer_not_allowed"


@pytest.mark.parametrize(
    ("models", "is_allowed"),
    [
        ((), True),
        (["*"], True),
        (["gpt-*"], True),
        (["up/*"], True),
        (["up/gpt-4o"], True),
        (["GPT-*"], False),
        (["claude-*", "down/*"], False),
    ],
)
def test_models_are_permitted_by_globs(models: list[str], is_allowed: bool) -> None:
    """By name or by provider and name, in their case."""
    assert is_permitted(models, "up", "gpt-4o") == is_allowed
