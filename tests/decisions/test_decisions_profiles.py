"""Profiles: bounds and forms that no story over the console reaches, and what answers to a check mean."""

from __future__ import annotations

import pytest
from story import World, given, record

from palyra.decisions.key_text import spell_key
from palyra.decisions.profiles import (
    PROFILES_MAX_COUNT,
    PROFILES_OF_A_PROVIDER_MAX_COUNT,
    RECHECK_LAST_US,
    Wish,
    check_code,
    find_profile,
    next_recheck,
    profile_id_for,
    refusal_of_check,
    refuse_key,
    refuse_order,
)
from palyra.errors import Refusal
from palyra.events.auth import (
    AuthProfileConnected,
    AuthProfileDisabled,
    AuthProfileFailed,
    AuthProfileRevoked,
    AuthProfileValidated,
    AuthProfileValidationFailed,
)
from palyra.projections.auth import AuthProfile
from palyra.units import US_PER_S


def connected(provider: str = "a", name: str = "p", **changes: object) -> AuthProfileConnected:
    fields = {"provider": provider, "profile_name": name, "audience": "https://a:443", "vault_revision": 1}
    return AuthProfileConnected(**{**fields, **changes})  # type: ignore[arg-type]


def wish(name: str = "Work", **changes: str) -> Wish:
    return Wish(**{"provider": "a", "profile_name": name, "suffix": "x7k2mq", **changes})


def code_of(world: World, wanted: Wish) -> str:
    found = profile_id_for(world.state, wanted)
    return found.code if isinstance(found, Refusal) else found


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (wish(), "work-x7k2mq"),
        (wish("Zoë's Key!"), "zo-s-key-x7k2mq"),
        (wish("日本"), "profile-x7k2mq"),
        (wish("x" * 128), "x" * 40 + "-x7k2mq"),
        (wish("x" * 129), "invalid_request"),
        (wish(" x"), "invalid_request"),
        (wish("a\tb"), "invalid_request"),
        (wish(profile_id="mine"), "mine"),
        (wish(profile_id="-x"), "invalid_request"),
        (wish(profile_id="a" * 65), "invalid_request"),
        (wish(agent_id="a..b"), "invalid_request"),
        (wish(agent_id="a b"), "invalid_request"),
        (wish(agent_id="coder:1@x"), "work-x7k2mq"),
    ],
)
def test_ids_and_names(wanted: Wish, expected: str) -> None:
    """An id is given or made of the name; what cannot be one is refused."""
    assert code_of(given(None), wanted) == expected


def test_an_id_stays_with_its_provider() -> None:
    """Also when it was revoked; for the same provider it may be used again then."""
    world = given(None, record("credential-mine", connected()))
    assert code_of(world, wish(profile_id="mine")) == "profile_exists"
    assert code_of(world, wish(profile_id="mine", provider="b")) == "profile_provider_mismatch"
    assert code_of(world, wish("P")) == "profile_exists"
    assert code_of(world, wish("P", agent_id="me")) == "p-x7k2mq"
    world.do(record("credential-mine", AuthProfileRevoked(remote="skipped")))
    assert code_of(world, wish(profile_id="mine", provider="b")) == "profile_provider_mismatch"
    assert code_of(world, wish("P", profile_id="mine")) == "mine"


def test_there_are_bounds() -> None:
    """64 of a provider, 1,024 in all; those that were revoked do not count."""
    world = given(None)
    for number in range(PROFILES_OF_A_PROVIDER_MAX_COUNT):
        world.do(record(f"credential-a{number}", connected(name=f"n{number}")))
    assert code_of(world, wish()) == "too_many_profiles"
    assert code_of(world, wish(provider="b")) == "work-x7k2mq"
    world.do(record("credential-a0", AuthProfileRevoked(remote="pending")))
    assert code_of(world, wish()) == "work-x7k2mq"
    for number in range(PROFILES_MAX_COUNT - PROFILES_OF_A_PROVIDER_MAX_COUNT + 1):
        world.do(record(f"credential-c{number}", connected(f"c{number}")))
    assert code_of(world, wish(provider="b")) == "too_many_profiles"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x" * 8, None),
        ("x" * 512, None),
        ("x" * 7, "invalid_api_key_format"),
        ("ключ-ключ", "invalid_api_key_format"),
    ],
)
def test_forms_of_keys(text: str, code: str | None) -> None:
    """8 to 512 visible ASCII characters; the text is not repeated."""
    refusal = refuse_key(text)
    assert (None if refusal is None else refusal.code) == code
    assert refusal is None or text not in refusal.message


def test_our_own_key_is_no_providers_key() -> None:
    """With `sk-` before it or without, mistyped too: that would be a loop, or hand most of it to somebody else."""
    own = spell_key("client", 5, 7)
    for text in (own, f"sk-{own}", own[:-1], spell_key("admin", 5, 7) + "x"):
        refusal = refuse_key(text)
        assert refusal is not None
        assert refusal.code == "own_key_as_upstream_credential"


def test_a_profile_that_can_be_used() -> None:
    """It is known and not revoked; one that rests counts."""
    world = given(None, record("credential-p", connected(), AuthProfileDisabled()))
    assert isinstance(find_profile(world.state, "p"), AuthProfile)
    missing = find_profile(world.state, "q")
    assert isinstance(missing, Refusal)
    assert missing.code == "profile_not_found"
    world.do(record("credential-p", AuthProfileRevoked(remote="pending")))
    gone = find_profile(world.state, "p")
    assert isinstance(gone, Refusal)
    assert gone.code == "profile_revoked"


def test_orders_hold_what_can_be_seen() -> None:
    """Each once, and nothing of another agent."""
    world = given(None, record("credential-p", connected()))
    world.do(record("credential-m", connected(name="m", agent_id="me")))
    assert refuse_order(world.state, "a", "", ["p"]) is None
    assert refuse_order(world.state, "a", "me", ["m", "p"]) is None
    for agent_id, wrong in (("", ["m"]), ("you", ["m"]), ("", ["p", "p"]), ("", ["q"])):
        assert refuse_order(world.state, "a", agent_id, wrong) is not None
    nobody = refuse_order(world.state, "z", "", ["p"])
    assert nobody is not None
    assert "none" in nobody.message


def test_answers_to_a_check() -> None:
    """By status, and by whether there is a list."""
    assert check_code(200, has_list=True) == "connected"
    assert check_code(204, has_list=False) == "unexpected_response"
    assert [check_code(status, has_list=False) for status in (401, 403, 404, 405, 429, 501, 500, 418)] == [
        "invalid_credential",
        "validation_not_permitted",
        "unverifiable",
        "unverifiable",
        "rate_limited",
        "unverifiable",
        "provider_unavailable",
        "unexpected_response",
    ]
    told = refusal_of_check("invalid_credential", provider="a", http_status=401, said="no such key")
    assert told.message.endswith("(a answered 401: no such key)")
    assert told.param == "api_key"
    assert refusal_of_check("provider_unavailable", provider="a", said="refused").message.endswith(" (refused)")
    assert refusal_of_check("redirect_refused", provider="a").message.endswith("nowhere else.")


def test_the_next_look_at_a_rejected_key() -> None:
    """The one that is due first; what rests, is no key or has failed otherwise is left alone."""
    world = given(None, record("credential-p", connected()), record("credential-q", connected(name="q")))
    assert next_recheck(world.state) is None
    world.do(record("credential-q", AuthProfileFailed(code="account_disabled", vault_revision=1)))
    assert next_recheck(world.state) is None
    world.do(record("credential-p", AuthProfileFailed(code="key_rejected", vault_revision=1)))
    at_us = world.now_us
    assert next_recheck(world.state) == ("p", at_us + 300 * US_PER_S)
    world.now_us += 1
    world.do(record("credential-config:x", AuthProfileFailed(code="key_rejected")))
    assert next_recheck(world.state) == ("p", at_us + 300 * US_PER_S)
    unsure = AuthProfileValidationFailed(provider="a", failure_code="x", vault_revision=1)
    world.do(record("credential-p", unsure))
    assert next_recheck(world.state) == ("config:x", at_us + 1 + 300 * US_PER_S)
    world.do(record("credential-p", unsure))
    world.do(record("credential-config:x", AuthProfileValidated()))
    assert next_recheck(world.state) == ("p", world.now_us + RECHECK_LAST_US)
    world.do(record("credential-p", AuthProfileDisabled()))
    assert next_recheck(world.state) is None
