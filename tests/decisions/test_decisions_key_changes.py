"""What may be done to keys, and by whom."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from palyra.decisions.base import Decision
from palyra.decisions.key_changes import (
    GRACE_MAX_MS,
    SHARED_KEY_NAME,
    KeyChange,
    KeyWish,
    change,
    issue,
    revoke,
    rotate,
)
from palyra.decisions.key_text import KeyText, read_key, spell_key
from palyra.decisions.keys import ALL_SCOPES, DEFAULT_SCOPES, Caller, authenticate
from palyra.errors import Refusal
from palyra.events.base import Recorded
from palyra.events.keys import ClientKeyChanged, ClientKeyIssued, ClientKeyRevoked, ClientKeyRotated
from palyra.projections.keys import ClientKey, KeyLimits, live_keys, status_of
from palyra.projections.state import State, evolve
from palyra.units import US_PER_S

NOW_US = 1_800_000_000 * US_PER_S
ADMIN = DEFAULT_SCOPES["admin"]


def text_of(kind: str, number: int) -> tuple[str, KeyText]:
    """Return a key and what it says."""
    spelled = spell_key(kind, number, number)  # type: ignore[arg-type]
    read = read_key(spelled)
    assert read is not None
    return spelled, read


class Registry:
    """An access registry: each command is decided, and folded where it was not refused."""

    def __init__(self) -> None:
        self.state = State()
        self.now_us = NOW_US
        self._numbers = iter(range(1, 1_000))
        self.secrets: dict[str, str] = {}

    def fold(self, decision: Decision) -> Decision:
        for draft in decision.drafts:
            version = self.state.streams.get(draft.stream, 0) + 1
            position = self.state.position + 1
            evolve(
                self.state,
                Recorded(position, draft.stream, version, self.now_us, "operator:local", "", 0, "", draft.body),
            )
        return decision

    def new_text(self, kind: str) -> KeyText:
        secret, text = text_of(kind, next(self._numbers))
        self.secrets[text.key_id] = secret
        return text

    def issue(self, name: str = "ci", held: Any = ADMIN, **wish: Any) -> Decision:
        asked = KeyWish(name=name, **wish)
        return self.fold(issue(self.state, asked, self.new_text(asked.kind), held, self.now_us))

    def issued(self, name: str = "ci", **wish: Any) -> ClientKey:
        """Issue a key that must not be refused, and return it."""
        decision = self.issue(name, **wish)
        assert decision.refusal is None
        return self.state.keys.by_id[decision.drafts[0].stream[4:]]

    def change(self, key_id: str, held: Any = ADMIN, **wanted: Any) -> Decision:
        return self.fold(change(self.state, key_id, KeyChange(**wanted), held, self.now_us))

    def rotate(self, key: ClientKey, grace_ms: int = 0, held: Any = ADMIN) -> Decision:
        text = self.new_text(key.kind)
        return self.fold(rotate(self.state, key.key_id, text, grace_ms, held, self.now_us))

    def revoke(self, key_id: str, comment: str = "", held: Any = ADMIN) -> Decision:
        return self.fold(revoke(self.state, key_id, comment, held, self.now_us))

    def whose(self, key_id: str) -> Caller | Refusal:
        return authenticate(self.state, self.secrets[key_id], self.now_us)


def code(decision: Decision) -> str:
    assert decision.refusal is not None
    assert decision.drafts == []
    return decision.refusal.code


def test_a_key_is_issued_with_its_bindings() -> None:
    """Everything that was asked for stands in the registry, and whoever shows the key is bound by it."""
    registry = Registry()
    key = registry.issued(
        principal="user:ada",
        scopes=["v1:chat", "v1:chat"],
        agents=["coder"],
        default_agent="coder",
        session="build",
        models=["gpt-*"],
        allowed_cidrs=["10.0.0.0/8"],
        limits=KeyLimits(requests_per_minute=60, burst=2, tokens_per_minute=9, concurrent_runs=1),
        expires_us=NOW_US + 60 * US_PER_S,
    )
    assert (key.issued_by, key.issued_us, status_of(key, NOW_US)) == ("operator:local", NOW_US, "active")
    caller = registry.whose(key.key_id)
    assert caller == Caller(
        principal_id="user:ada",
        key_id=key.key_id,
        scopes=["v1:chat"],
        agents=["coder"],
        default_agent="coder",
        session="build",
        models=["gpt-*"],
        allowed_cidrs=["10.0.0.0/8"],
        limits=key.limits,
    )


def test_a_key_has_narrow_defaults() -> None:
    """A plain key serves programs, pays for itself, acts as no agent and is never limited."""
    registry = Registry()
    key = registry.issued(" ci ")
    assert (key.display_name, key.scopes, key.principal_id) == ("ci", ["v1:*"], f"key:{key.key_id}")
    assert (key.agents, key.models, key.limits, key.expires_us) == ([], ["*"], KeyLimits(), None)
    assert registry.issued("boss", kind="admin").scopes == list(ADMIN)


@pytest.mark.parametrize(
    ("wish", "code_", "param"),
    [
        ({"name": " "}, "invalid_request", "name"),
        ({"name": "x" * 65}, "invalid_request", "name"),
        ({"name": "a\nb"}, "invalid_request", "name"),
        ({"name": "taken"}, "conflict", "name"),
        ({"scopes": ["v1:everything"]}, "scope_escalation", "scopes"),
        ({"scopes": ["operate"]}, "invalid_request", "scopes"),
        ({"scopes": ["v1:chat"], "kind": "admin"}, "invalid_request", "scopes"),
        ({"principal": "system:daemon"}, "principal_reserved", "principal"),
        ({"principal": "operator:local"}, "principal_reserved", "principal"),
        ({"principal": "key:somebody"}, "principal_reserved", "principal"),
        ({"principal": "local"}, "principal_reserved", "principal"),
        ({"principal": "ada"}, "invalid_request", "principal"),
        ({"principal": "user:a b"}, "invalid_request", "principal"),
        ({"agents": ["a b"]}, "invalid_request", "agents"),
        ({"agents": ["a"] * 65}, "invalid_request", "agents"),
        ({"agents": ["a"], "default_agent": "b"}, "invalid_request", "default_agent"),
        ({"agents": ["*"], "default_agent": "a b"}, "invalid_request", "default_agent"),
        ({"session": "x" * 129}, "invalid_request", "session"),
        ({"session": "ключ"}, "invalid_request", "session"),
        ({"models": []}, "invalid_request", "models"),
        ({"models": ["a b"]}, "invalid_request", "models"),
        ({"allowed_cidrs": ["10.0.0.1/8"]}, "invalid_request", "allowed_cidrs"),
        ({"allowed_cidrs": ["lan"]}, "invalid_request", "allowed_cidrs"),
        ({"limits": KeyLimits(requests_per_minute=-1)}, "invalid_request", "requests_per_minute"),
        ({"limits": KeyLimits(tokens_per_minute=2**40)}, "invalid_request", "tokens_per_minute"),
        ({"limits": KeyLimits(burst=1)}, "invalid_request", "burst"),
        ({"limits": KeyLimits(burst=1), "kind": "admin"}, "invalid_request", "limits"),
        ({"limits": KeyLimits(concurrent_runs=1), "name": SHARED_KEY_NAME}, "invalid_request", "limits"),
        ({"expires_us": NOW_US + 60 * US_PER_S - 1}, "invalid_request", "expires_us"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused(wish: dict[str, Any], code_: str, param: str) -> None:
    """Each field has its rule; the refusal names the field, and nothing is recorded."""
    registry = Registry()
    registry.issued("taken")
    decision = registry.issue(**wish)
    assert code(decision) == code_
    assert decision.refusal is not None
    assert decision.refusal.param == param


def test_an_agent_of_any_name_may_be_the_default_where_all_are_allowed() -> None:
    """`*` holds every agent."""
    assert Registry().issued(agents=["*"], default_agent="coder").default_agent == "coder"


def test_nobody_hands_out_what_he_does_not_hold() -> None:
    """Managing keys is a scope; operator's scopes must be held, programs' need not; the socket holds all."""
    registry = Registry()
    assert code(registry.issue(held=["operate"])) == "missing_scope"
    assert code(registry.issue(held=["keys:manage"], scopes=["observe"])) == "scope_escalation"
    assert code(registry.issue(held=["keys:manage"], kind="admin")) == "scope_escalation"
    boss = registry.issued("boss", kind="admin")
    for decision in (
        registry.change(boss.key_id, ["keys:manage"], name="x"),
        registry.rotate(boss, held=["keys:manage"]),
        registry.revoke(boss.key_id, held=["keys:manage"]),
    ):
        assert code(decision) == "scope_escalation"
    assert registry.issue("mine", held=["keys:manage"], scopes=["v1:chat", "routing:pin"]).refusal is None
    assert registry.issue("root", held=ALL_SCOPES, kind="admin").refusal is None


def test_a_key_is_changed_in_what_may_change() -> None:
    """Name, limits, expiry and fewer scopes; everything else stays; the same again is no event."""
    registry = Registry()
    key = registry.issued(agents=["coder"], expires_us=NOW_US + 3_600 * US_PER_S)
    wanted = {"name": "build", "scopes": ["v1:chat"], "limits": KeyLimits(concurrent_runs=2), "expires_us": None}
    decision = registry.change(key.key_id, **wanted)
    assert [draft.body for draft in decision.drafts] == [
        ClientKeyChanged(display_name="build", scopes=["v1:chat"], concurrent_runs=2)
    ]
    assert (key.display_name, key.scopes, key.limits.concurrent_runs, key.expires_us) == (
        "build",
        ["v1:chat"],
        2,
        None,
    )
    assert key.agents == ["coder"]
    assert registry.change(key.key_id, **wanted).drafts == []
    assert registry.change(key.key_id).drafts == []
    assert registry.change(key.key_id, scopes=[]).refusal is None
    assert key.scopes == []


@pytest.mark.parametrize(
    ("wanted", "code_"),
    [
        ({"scopes": ["v1:*"]}, "scope_escalation"),
        ({"scopes": ["v1:models"]}, "scope_escalation"),
        ({"name": "taken"}, "conflict"),
        ({"limits": KeyLimits(burst=1)}, "invalid_request"),
        ({"expires_us": NOW_US}, "invalid_request"),
    ],
)
def test_a_change_that_gives_more_is_refused(wanted: dict[str, Any], code_: str) -> None:
    """Scopes only become fewer; names stay unique; limits and expiry keep their rules."""
    registry = Registry()
    registry.issued("taken")
    key = registry.issued(scopes=["v1:chat"])
    assert code(registry.change(key.key_id, **wanted)) == code_


def test_a_rotated_key_lives_on_as_another() -> None:
    """New id and secret, same bindings and principal; the old one opens what it opened while the grace lasts."""
    registry = Registry()
    old = registry.issued(agents=["coder"], limits=KeyLimits(concurrent_runs=1))
    decision = registry.rotate(old, grace_ms=1_000)
    issued, rotated = (draft.body for draft in decision.drafts)
    assert isinstance(issued, ClientKeyIssued)
    assert isinstance(rotated, ClientKeyRotated)
    new = registry.state.keys.by_id[rotated.successor_id]
    assert (new.display_name, new.principal_id, new.agents, new.limits) == (
        old.display_name,
        old.principal_id,
        old.agents,
        old.limits,
    )
    assert (status_of(old, registry.now_us), old.successor_id) == ("rotating", new.key_id)
    assert isinstance(registry.whose(old.key_id), Caller)
    assert isinstance(registry.whose(new.key_id), Caller)
    assert [key.key_id for key in live_keys(registry.state, "client", registry.now_us)] == [new.key_id]
    assert code(registry.rotate(old)) == "conflict"
    registry.now_us += US_PER_S
    assert status_of(old, registry.now_us) == "revoked"
    assert isinstance(registry.whose(old.key_id), Refusal)
    assert isinstance(registry.whose(new.key_id), Caller)
    assert code(registry.rotate(old)) == "conflict"


@pytest.mark.parametrize("grace_ms", [-1, GRACE_MAX_MS + 1])
def test_a_grace_has_bounds(grace_ms: int) -> None:
    """A day at most."""
    registry = Registry()
    assert code(registry.rotate(registry.issued(), grace_ms)) == "invalid_request"


def test_a_revoked_key_opens_nothing_and_is_revoked_once() -> None:
    """The fact says why; the same again is no event; nothing else can be done to it."""
    registry = Registry()
    key = registry.issued()
    decision = registry.revoke(key.key_id, "laptop lost")
    assert [draft.body for draft in decision.drafts] == [ClientKeyRevoked(reason="operator", comment="laptop lost")]
    assert isinstance(registry.whose(key.key_id), Refusal)
    assert registry.revoke(key.key_id) == Decision([])
    assert code(registry.change(key.key_id, name="x")) == "conflict"
    assert registry.issue("ci").refusal is None, "its name is free again"
    assert code(registry.revoke(registry.issued("b").key_id, "x" * 201)) == "invalid_request"


def test_a_revoked_key_takes_those_along_that_it_took_the_place_of() -> None:
    """A lost laptop may have any of them; what ended before is not ended again, and a successor stays."""
    registry = Registry()
    first = registry.issued()
    registry.rotate(first)
    second = registry.state.keys.by_id[first.successor_id]
    registry.rotate(second, grace_ms=60_000)
    third = registry.state.keys.by_id[second.successor_id]
    registry.rotate(third, grace_ms=60_000)
    fourth = registry.state.keys.by_id[third.successor_id]
    decision = registry.revoke(third.key_id)
    assert [draft.stream for draft in decision.drafts] == [f"key-{third.key_id}", f"key-{second.key_id}"]
    assert isinstance(registry.whose(second.key_id), Refusal)
    assert isinstance(registry.whose(fourth.key_id), Caller)


def test_the_last_admin_key_stays() -> None:
    """An operator can always come in; a second key frees the first."""
    registry = Registry()
    first = registry.issued("first", kind="admin")
    assert code(registry.revoke(first.key_id)) == "last_admin_key"
    registry.issued("second", kind="admin")
    assert registry.revoke(first.key_id).refusal is None


def test_what_is_not_there_is_not_found() -> None:
    """An unknown id is told so, to those who may manage keys."""
    registry = Registry()
    assert code(registry.revoke("nobody")) == "key_not_found"
    assert code(registry.change("nobody")) == "key_not_found"


def test_an_expired_key_is_told_so() -> None:
    """Expired, it opens nothing and says why; a wrong secret of its id learns nothing of that."""
    registry = Registry()
    key = registry.issued(expires_us=NOW_US + 60 * US_PER_S)
    registry.now_us += 60 * US_PER_S
    refusal = registry.whose(key.key_id)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "expired_client_key"
    assert status_of(key, registry.now_us) == "expired"
    wrong = authenticate(registry.state, spell_key("client", 1, 99), registry.now_us)
    assert isinstance(wrong, Refusal)
    assert wrong.code == "invalid_client_key"
    assert live_keys(registry.state, "client", registry.now_us) == []


def test_an_actor_keys_request_ids_its_first_event() -> None:
    """A command key stands on the fact, so that a repeat is known."""
    registry = Registry()
    decision = issue(
        registry.state, KeyWish(name="x"), registry.new_text("client"), ADMIN, NOW_US, command_key="again"
    )
    assert [draft.command_key for draft in decision.drafts] == ["again"]


def test_facts_about_unknown_keys_change_nothing() -> None:
    """Whatever a history says of a key that it never issued is skipped."""
    state = State()
    for number, fact in enumerate(
        [
            ClientKeyChanged(display_name="x", scopes=[]),
            ClientKeyRotated(successor_id="y", grace_until_us=1),
            ClientKeyRevoked(reason="operator"),
        ],
        1,
    ):
        evolve(state, Recorded(number, "key-x", number, 1, "a", "", 0, "", fact))
    assert msgspec.to_builtins(state.keys) == {"by_id": {}, "denied": {}}
