"""Logins at providers, decided: who may start one, who may finish it, and what a restart leaves."""

from __future__ import annotations

from typing import Any

from story import World, given, record

from palyra.decisions.oauth import (
    SENTENCES,
    cancel,
    claim_browser,
    claim_paste,
    interrupt,
    leftovers,
    next_expiry_us,
    of_attempt,
    refuse_start,
    sealed_ref,
    sentence_of,
)
from palyra.events.auth import OAuthGrant
from palyra.events.daemon import DaemonClockStepped
from palyra.events.oauth import (
    OauthAttemptCallbackReceived,
    OauthAttemptCancelled,
    OauthAttemptCompleted,
    OauthAttemptExpired,
    OauthAttemptFailed,
    OauthAttemptStarted,
)
from palyra.events.vault import VaultSecretStored
from palyra.projections.oauth import SHOWN_US, attempt_of, open_attempts
from palyra.units import US_PER_S

TTL_US = 600 * US_PER_S
ACTOR = "system:daemon"


def started(world: World | None = None, **changes: Any) -> OauthAttemptStarted:
    now_us = given(None).now_us if world is None else world.now_us
    fields: dict[str, Any] = {
        "provider": "openai",
        "mode": "browser",
        "issuer": "https://a.example:443",
        "redirect_uri": "http://127.0.0.1:1/cb",
        "grant": OAuthGrant(token_url="https://a.example/token", client_id="c"),
        "state_digest": "s",
        "challenge_digest": "c",
        "cookie_digest": "k",
        "expires_us": now_us + TTL_US,
    }
    return OauthAttemptStarted(**{**fields, **changes})


def stepped(step_us: int, cause: Any = "step") -> DaemonClockStepped:
    return DaemonClockStepped(cause=cause, wall_before_us=0, wall_after_us=step_us, monotonic_elapsed_us=0)


def world_of(*more: Any, **changes: Any) -> World:
    return given(None, record("oauth-a", started(**changes), *more))


def claimed(world: World, state: str = "s", cookie: str = "k", after_us: int = 0) -> Any:
    return claim_browser(world.state, state, cookie, world.now_us + after_us)


def test_the_first_who_comes_back_goes_on() -> None:
    """Those who come behind are told that it is under way; then how it ended."""
    world = world_of()
    first = claimed(world)
    assert first.is_won
    assert [draft.body for draft in first.drafts] == [OauthAttemptCallbackReceived()]
    world.do(record("oauth-a", OauthAttemptCallbackReceived()))
    second = claimed(world)
    assert (second.is_won, second.refusal.code) == (False, "oauth_in_progress")
    world.do(record("oauth-a", OauthAttemptCompleted(profile_id="p")))
    third = claimed(world)
    assert (third.is_won, third.refusal, third.attempt.profile_id) == (False, None, "p")


def test_who_comes_back_is_told_by_state_and_cookie() -> None:
    """An unknown state is nobody's; another cookie, or an attempt without one, is somebody else's."""
    world = world_of()
    assert claimed(world, state="t").refusal.code == "attempt_not_found"
    assert claimed(world, cookie="").refusal.code == "oauth_session_mismatch"
    pasted = world_of(mode="paste", cookie_digest="")
    assert claimed(pasted, cookie="").refusal.code == "oauth_session_mismatch"
    assert claimed(world_of(cookie_digest="")).refusal.code == "oauth_session_mismatch"


def test_whoever_comes_too_late() -> None:
    """It expires with that, and nothing is exchanged."""
    world = world_of()
    late = claimed(world, after_us=TTL_US)
    assert (late.is_won, [draft.body for draft in late.drafts]) == (False, [OauthAttemptExpired()])


def test_pasting_is_for_whoever_started_it() -> None:
    """Another operator, another attempt's address, an attempt of a browser: refused, and it stays open."""
    world = world_of(mode="paste", cookie_digest="")

    def paste(attempt_id: str = "a", state: str = "s", actor: str = ACTOR, of: World = world) -> Any:
        return claim_paste(of.state, attempt_id, state, actor, of.now_us)

    assert paste(attempt_id="b").refusal.code == "attempt_not_found"
    assert paste(actor="key:other").refusal.code == "oauth_session_mismatch"
    assert paste(of=world_of()).refusal.code == "oauth_session_mismatch"
    assert paste(state="t").refusal.code == "oauth_state_mismatch"
    assert paste().is_won
    world.do(record("oauth-a", OauthAttemptFailed(failure_code="provider_denied")))
    over = paste(state="anything")
    assert (over.refusal, over.attempt.state) == (None, "failed")


def test_how_many_may_be_open() -> None:
    """4 of one operator, 32 in all; those that have expired do not count."""
    world = given(None)
    for number in range(4):
        assert refuse_start(world.state, ACTOR, world.now_us) is None
        world.do(record(f"oauth-{number}", started(world, state_digest=str(number))))
    refused = refuse_start(world.state, ACTOR, world.now_us)
    assert refused is not None
    assert (refused.code, refused.retry_after_ms) == ("too_many_attempts", 600_000)
    assert refuse_start(world.state, "key:other", world.now_us) is None
    assert refuse_start(world.state, ACTOR, world.now_us + TTL_US) is None
    for number in range(4, 32):
        world.do(record(f"oauth-{number}", started(world, state_digest=str(number))))
    assert refuse_start(world.state, "key:other", world.now_us) is not None


def test_what_is_over_is_shown_for_a_while() -> None:
    """600 s; it is forgotten when another one starts after that."""
    world = world_of(OauthAttemptCancelled())
    assert attempt_of(world.state, "a", world.now_us + SHOWN_US - 1) is not None
    assert attempt_of(world.state, "a", world.now_us + SHOWN_US) is None
    assert claimed(world, after_us=SHOWN_US).refusal.code == "attempt_not_found"
    world.do(record("oauth-b", started(world)))
    assert list(world.state.oauth.attempts) == ["a", "b"]
    world.now_us += SHOWN_US
    world.do(record("oauth-c", started(world)))
    assert list(world.state.oauth.attempts) == ["b", "c"]


def test_only_what_waits_is_cancelled() -> None:
    """A code that is under way is not called back."""
    world = world_of()
    attempt = world.state.oauth.attempts["a"]
    assert [draft.body for draft in cancel(attempt)] == [OauthAttemptCancelled()]
    world.do(record("oauth-a", OauthAttemptCallbackReceived()))
    assert cancel(attempt) == []
    assert next_expiry_us(world.state) is None


def test_a_restart_ends_what_was_under_way() -> None:
    """The code may be spent. What waits goes on waiting, with what is sealed for it."""
    world = given(None, record("oauth-a", started()), record("oauth-b", started(state_digest="t")))
    world.do(record("oauth-a", OauthAttemptCallbackReceived()))
    assert interrupt(world.state) == of_attempt("a", OauthAttemptFailed(failure_code="interrupted"))
    world.do(record("oauth-a", OauthAttemptFailed(failure_code="interrupted")))
    assert next_expiry_us(world.state) == world.state.oauth.attempts["b"].expires_us
    for name in ("a", "b"):
        stored = VaultSecretStored(
            ref=sealed_ref(name),
            revision=1,
            kind="credential_set",
            key_fingerprint="",
            value_bytes=1,
            reason="oauth",
        )
        world.do(record("vault", stored))
    assert leftovers(world.state) == [sealed_ref("a")]


def test_a_clock_that_is_set_moves_the_times() -> None:
    """An attempt lasts as long as it was to last."""
    world = world_of()
    until_us = world.state.oauth.attempts["a"].expires_us
    world.do(record("daemon", stepped(5)))
    assert world.state.oauth.attempts["a"].expires_us == until_us + 5
    world.do(record("daemon", stepped(5, cause="suspend")))
    assert world.state.oauth.attempts["a"].expires_us == until_us + 5
    world.do(record("oauth-a", OauthAttemptExpired()))
    ended_us = world.state.oauth.attempts["a"].ended_us
    world.do(record("daemon", stepped(5)))
    assert world.state.oauth.attempts["a"].ended_us == ended_us + 5


def test_facts_about_nobody_change_nothing() -> None:
    """A fold is total."""
    facts = (
        OauthAttemptCallbackReceived(),
        OauthAttemptCompleted(profile_id="p"),
        OauthAttemptFailed(failure_code="x"),
        OauthAttemptExpired(),
    )
    world = given(None, *(record(f"oauth-{number}", fact) for number, fact in enumerate(facts)))
    assert open_attempts(world.state) == []


def test_every_end_has_a_sentence() -> None:
    """In words of our own."""
    world = world_of()
    assert sentence_of(world.state.oauth.attempts["a"]) == SENTENCES["pending"]
    world.do(record("oauth-a", OauthAttemptFailed(failure_code="of_a_newer_release")))
    assert sentence_of(world.state.oauth.attempts["a"]) == "The login failed."
