"""Credentials on the way of a run: the next one of a candidate before the next candidate, each an attempt."""

from __future__ import annotations

from typing import Any

import pytest
from engine_fakes import ManualClock, ScriptedProvider, error, unary
from engine_world import World, house, model, provider, registry

from palyra.events.attempts import AttemptFailed, AttemptStarted
from palyra.events.auth import AuthProfileConnected, AuthProfileCooledDown, AuthProfileFailed
from palyra.events.base import Draft
from palyra.redaction import Secret


def config(**changes: Any) -> Any:
    keyed = {"auth_scheme": "bearer", "auth_provider_kind": "a", "max_retries": 0}
    return registry(
        provider("a", **{**keyed, **changes}),
        provider("b"),
        model("m", "a"),
        model("m", "b", priority=200),
    )


async def connect(world: World, *names: str) -> None:
    connected = [
        Draft(
            f"credential-{name}",
            AuthProfileConnected(provider="a", profile_name=name, audience="", vault_revision=1),
        )
        for name in names
    ]
    await world.core.record(connected)
    for name in names:
        world.secrets[name] = Secret(f"secret of {name}")


@pytest.mark.parametrize("status", [401, 402, 429])
async def test_the_next_credential_and_then_the_next_candidate(status: int) -> None:
    """Each is an attempt of its own; the client sees none of it."""
    a, b = ScriptedProvider(error(status), error(status)), ScriptedProvider()
    async with house(config(), extra={"a": a, "b": b}) as world:
        await connect(world, "p", "q")
        reply = await world.chat(model="m")
        assert reply.status == 200
        assert [(one.provider_id, one.credential_ref) for one in world.facts(AttemptStarted)] == [
            ("a", "p"),
            ("a", "q"),
            ("b", ""),
        ]
        assert [one.next_credential_ref for one in world.facts(AttemptFailed)] == ["q", ""]
        assert len(world.facts(AuthProfileCooledDown)) == 2
        assert reply.headers["x-palyra-failover"] == "a/m>b/m"


async def test_the_second_credential_answers() -> None:
    """Nobody else is asked, and the provider is not thought ill of."""
    a = ScriptedProvider(error(429, retry_after="60"), unary())
    async with house(config(), extra={"a": a, "b": ScriptedProvider()}) as world:
        await connect(world, "p", "q")
        reply = await world.chat(model="m")
        assert (reply.status, reply.headers["x-palyra-provider"]) == (200, "a")
        # The first one rests, so the next run begins with the second.
        await world.chat(model="m")
        assert [one.credential_ref for one in world.facts(AttemptStarted)] == ["p", "q", "q"]
        assert (
            world.state.circuits.by_provider.get("a") is None or world.state.circuits.by_provider["a"].streak == 0
        )


async def test_all_rest() -> None:
    """429 with the least time that one of them needs; nothing is sent."""
    clock = ManualClock()
    a = ScriptedProvider(error(429, retry_after="90"), error(429, retry_after="30"))
    config_ = registry(provider("a", auth_scheme="bearer", auth_provider_kind="a", max_retries=0), model("m", "a"))
    async with house(config_, extra={"a": a}, clock=clock) as world:
        await connect(world, "p", "q")
        assert (await world.chat(model="m")).refusal.code == "rate_limited"
        reply = await world.chat(model="m")
        assert (reply.status, reply.refusal.code) == (429, "all_credentials_cooling")
        assert reply.refusal.retry_after_ms == 30_000
        clock.pass_ms(30_000)
        assert (await world.chat(model="m")).status == 200
        assert [one.credential_ref for one in world.facts(AttemptStarted)] == ["p", "q", "q"]


async def test_a_rejected_key_is_not_used_again() -> None:
    """Once its provider has said so by name."""
    a = ScriptedProvider(error(401, "invalid_api_key"))
    async with house(config(), extra={"a": a, "b": ScriptedProvider()}) as world:
        await connect(world, "p")
        for _ in range(3):
            assert (await world.chat(model="m")).status == 200
        assert [one.provider_id for one in world.facts(AttemptStarted)] == ["a", "b", "b", "b"]
        assert [one.code for one in world.facts(AuthProfileFailed)] == ["key_rejected"]


async def test_a_secret_that_is_gone_lets_the_next_one_try() -> None:
    """The attempt fails before anything is sent."""
    a = ScriptedProvider()
    async with house(config(), extra={"a": a, "b": ScriptedProvider()}) as world:
        await connect(world, "p", "q")
        del world.secrets["p"]
        reply = await world.chat(model="m")
        assert (reply.status, reply.headers["x-palyra-provider"]) == (200, "a")
        assert [one.failure_class for one in world.facts(AttemptFailed)] == ["missing_credential"]


async def test_nobody_can_be_asked() -> None:
    """503, and what is wrong with each is in the answer."""
    config_ = registry(provider("a", auth_scheme="bearer", auth_provider_kind="a"), model("m", "a"))
    async with house(config_, extra={"a": ScriptedProvider()}) as world:
        reply = await world.chat(model="m")
        assert (reply.status, reply.refusal.code) == (503, "no_usable_credential")
        assert world.facts(AttemptStarted) == []


async def test_a_profile_of_an_agent_is_for_its_runs_alone() -> None:
    """A run without agent never gets it."""
    async with house(config(), extra={"a": ScriptedProvider(), "b": ScriptedProvider()}) as world:
        mine = AuthProfileConnected(provider="a", profile_name="p", agent_id="me", audience="", vault_revision=1)
        await world.core.record([Draft("credential-p", mine)])
        world.secrets["p"] = Secret("x")
        await world.chat(model="m")
        await world.chat(model="m", changes={"agent_id": "me"})
        await world.chat(model="m", changes={"agent_id": "you"})
        assert [one.credential_ref for one in world.facts(AttemptStarted)] == ["", "p", ""]
