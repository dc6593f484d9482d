"""The response cache: which requests are alike, which answers are kept, and what a hit records."""

from __future__ import annotations

from typing import Any

import pytest
from story import World, admission, adopt, fail, given, model, provider, record, registry, start, wait
from story import admit as admit_step

from palyra.decisions.cache import Cached, Place, admit_hit, is_fresh, is_storable, place_of
from palyra.decisions.runs import AdmitRun, CacheAsk
from palyra.events.auth import AuthProfileConnected, AuthProfileRevoked
from palyra.events.cache import CacheEvicted, CacheHit
from palyra.events.registry import Capabilities, Registry
from palyra.events.runs import RunAdmitted, RunCompleted
from palyra.projections.run_view import view_of_run
from palyra.projections.usage import total_of
from palyra.units import US_PER_MS

CACHED = Cached(
    key_digest="d",
    run_id="r1",
    provider_id="a",
    model_id="gpt",
    stop="end_turn",
    stored_us=0,
    input_tokens=90,
    output_tokens=20,
    known_nanousd=285_000,
)


def offer(**settings: Any) -> Registry:
    """Return one model with a name for it at two providers."""
    return registry(
        provider("a", circuit_breaker_failure_threshold=1),
        provider("b"),
        model("gpt", "a", aliases=["fast"], capabilities=Capabilities(tools=True, streaming=True)),
        model("gpt", "b", priority=200, capabilities=Capabilities(tools=True, vision=True)),
        **settings,
    )


def ask(body: str = "x", **changes: Any) -> AdmitRun:
    wishes = {name: changes.pop(name) for name in ("reads", "writes", "max_age_ms") if name in changes}
    return admission("r2", **{"cache": CacheAsk(body_digest=body, **wishes), **changes})


def key(world: World, command: AdmitRun) -> str:
    place = place_of(world.state, command)
    return "" if place is None else place.key_digest


def test_equal_requests_have_one_place() -> None:
    """Whatever the model was called, and whether or not the answer is streamed."""
    world = given(offer())
    assert key(world, ask()) == key(world, ask(model="fast")) == key(world, ask(stream=True))
    assert key(world, ask()) != key(world, ask("y"))


@pytest.mark.parametrize(
    ("isolation", "alike"),
    [("principal", [True, True, False]), ("session", [True, False, False]), ("shared", [True, True, True])],
)
def test_isolation(isolation: str, alike: list[bool]) -> None:
    """Two principals never share unless it is written; sessions may be kept apart too."""
    world = given(offer(response_cache_isolation=isolation))
    mine = key(world, ask(session_id="s"))
    others = [ask(session_id="s"), ask(session_id="t"), ask(principal_id="key:other", session_id="s")]
    assert [key(world, other) == mine for other in others] == alike


def test_an_agent_with_a_credential_of_its_own_shares_nothing() -> None:
    """What its account may see is its own; other agents, and a credential that was revoked, change nothing."""
    world = given(registry(provider("a", auth_provider_kind="a"), model("gpt", "a")))
    of_all = key(world, ask(agent_id="coder"))
    own = {"provider": "a", "profile_name": "Own", "agent_id": "coder", "audience": "https://a.example"}
    world.do(record("credential-own", AuthProfileConnected(**own, vault_revision=1)))
    assert key(world, ask(agent_id="coder")) not in ("", of_all)
    assert key(world, ask(agent_id="other")) == key(world, ask()) == of_all
    world.do(record("credential-own", AuthProfileRevoked(remote="skipped")))
    assert key(world, ask(agent_id="coder")) == of_all


def test_a_changed_entry_has_another_place() -> None:
    """What was kept under the old one cannot be reached any more."""
    world = given(offer())
    before = key(world, ask())
    changed = registry(provider("a"), model("gpt", "a", upstream_model="gpt-2"))
    world.do(adopt(changed))
    assert key(world, ask()) not in ("", before)


def test_the_place_is_that_of_the_first_that_could_serve() -> None:
    """Circuits do not count: a kept answer serves although nobody could give it now."""
    world = given(offer())
    before = place_of(world.state, ask())
    assert before is not None
    assert before.entry.provider_id == "a"
    world.do(admit_step("r1"), start("r1"), fail("r1", "overloaded", may_retry=False))
    assert world.state.circuits.by_provider["a"].status == "open"
    assert place_of(world.state, ask()) == before
    seeing = place_of(world.state, ask(needs=["vision"]))
    assert seeing is not None
    assert seeing.entry.provider_id == "b"


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "nobody"},
        {"model": "palyra/cheap"},
        {"needs": ["audio_input"]},
        {"models": ["b/other"]},
        {"models": ["other"]},
    ],
)
def test_a_request_that_nobody_could_serve_has_none(changes: dict[str, Any]) -> None:
    """It is refused as it would be without a cache."""
    assert key(given(offer()), ask(**changes)) == ""


def test_a_hit_is_a_whole_run() -> None:
    """Three facts: it spends nothing and holds nothing, and says what it saved."""
    world = given(offer(), wait(ms=1_500))
    cached = Cached(**{**_fields(CACHED), "stored_us": world.now_us - 1_500 * US_PER_MS})
    command = ask()
    place = place_of(world.state, command)
    assert isinstance(place, Place)
    decision = admit_hit(world.state, command, place, cached, world.now_us)
    recorded = [one.body for one in world.record(decision.drafts)]
    assert [type(body) for body in recorded] == [RunAdmitted, CacheHit, RunCompleted]
    assert recorded[1] == CacheHit(
        key_digest="d",
        of_run_id="r1",
        age_ms=1_500,
        saved_input_tokens=90,
        saved_output_tokens=20,
        saved_nanousd=285_000,
    )
    view = view_of_run(world.stream("run-r2"))
    assert view is not None
    assert (view.hit, view.attempts, view.state) == (recorded[1], [], "completed")
    assert world.state.runs.open == {}
    assert total_of(world.state).rows_count == 0
    (summary,) = world.state.runs.recent
    assert (summary.outcome, summary.model_id, summary.attempts_count) == ("completed", "gpt", 0)
    saved = world.state.cache
    assert (saved.hits_count, saved.saved_output_tokens, saved.saved_nanousd) == (1, 20, 285_000)


def _fields(cached: Cached) -> dict[str, Any]:
    return {name: getattr(cached, name) for name in cached.__struct_fields__}


@pytest.mark.parametrize(
    ("wishes", "age_ms", "fresh"),
    [
        ({}, 10**9, True),
        ({"max_age_ms": 1_000}, 1_000, True),
        ({"max_age_ms": 1_000}, 1_001, False),
        ({"max_age_ms": 0}, 1, False),
        ({"reads": False}, 0, False),
    ],
)
def test_a_client_says_how_old_an_answer_may_be(wishes: dict[str, Any], age_ms: int, fresh: bool) -> None:
    """Without a wish the time that is configured decides."""
    assert is_fresh(ask(**wishes), CACHED, age_ms * US_PER_MS) is fresh


def storable(settings: dict[str, Any], command: AdmitRun, **changes: Any) -> bool:
    values = {"stop": "end_turn", "candidate": 0, "size_bytes": 1 << 20, **changes}
    settings = {"response_cache_enabled": True, **settings}
    return is_storable(given(offer(**settings)).state, command, **values)


def test_a_plain_answer_is_kept() -> None:
    """Up to a size."""
    assert storable({}, ask())
    assert storable({}, ask(), stop="stop_sequence")
    assert not storable({}, ask(), size_bytes=(1 << 20) + 1)
    assert not storable({}, ask(), size_bytes=0)


@pytest.mark.parametrize("stop", ["max_tokens", "refusal", "content_filter", "tool_calls", "unknown"])
def test_other_ends_are_not_kept(stop: str) -> None:
    """Asked again, the same request may well get more."""
    assert not storable({}, ask(), stop=stop)


def test_tool_calls_are_kept_if_it_is_written() -> None:
    """They may be acts."""
    assert storable({"response_cache_tool_calls": True}, ask(), stop="tool_calls")


def test_an_answer_that_stood_in_is_not_kept() -> None:
    """Nor one of several choices, nor one that its client does not want to be kept."""
    assert not storable({}, ask(), candidate=1)
    assert not storable({}, ask(choices_count=2))
    assert not storable({}, ask(writes=False))
    assert not storable({}, admission("r2"))


def test_nothing_is_kept_once_the_cache_is_off() -> None:
    """A run that began before it was turned off leaves nothing behind; a purge is counted."""
    assert not storable({"response_cache_enabled": False}, ask())
    world = given(offer(), record("cache", CacheEvicted(answers_count=3, size_bytes=4_096)))
    assert world.state.cache.evicted_count == 3
