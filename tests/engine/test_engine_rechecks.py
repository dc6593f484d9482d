"""Keys that were rejected: when they are looked at again, and what comes of it."""

from __future__ import annotations

from typing import Any

from engine_fakes import ManualClock
from engine_world import World, model, provider, registry
from upstream import Upstream

from palyra.engine.rechecks import RecheckChore
from palyra.errors import PalyraError
from palyra.events.auth import (
    AuthProfileConnected,
    AuthProfileFailed,
    AuthProfileValidated,
    AuthProfileValidationFailed,
)
from palyra.events.base import Draft, Fact
from palyra.events.daemon import DaemonStarted
from palyra.projections.auth import failure_of
from palyra.redaction import Secret
from palyra.units import US_PER_S


class Bench:
    """A world whose chore reads one secret, and a clock that only the test moves."""

    def __init__(self, world: World, clock: ManualClock) -> None:
        self.world = world
        self.clock = clock
        self.given: Secret | None = Secret("sk-anything-1234")
        self.chore = RecheckChore(world.core, self)

    def secret(self, provider_id: str, credential_ref: str, revision: int) -> Secret | None:
        if self.given is None:
            raise PalyraError("it is gone", code="missing_credential")
        return self.given

    async def record(self, ref: str, *facts: Fact) -> None:
        await self.world.core.record([Draft(f"credential-{ref}", fact) for fact in facts])

    def due_in_s(self) -> int | None:
        due_at_us = self.chore.due_at_us()
        return None if due_at_us is None else (due_at_us - self.clock.now_us()) // US_PER_S


async def bench(url: str, **changes: Any) -> Bench:
    clock = ManualClock()
    config = registry(provider("a", url, auth_scheme="bearer", auth_provider_kind="a", **changes), model("m", "a"))
    return Bench(await World.make(config, clock=clock), clock)


def connected(url: str) -> AuthProfileConnected:
    audience = url.removesuffix("/v1")
    return AuthProfileConnected(provider="a", profile_name="p", audience=audience, vault_revision=1)


async def test_a_rejected_key_is_looked_at_less_and_less_often() -> None:
    """After 5 and 30 minutes, then every 6 hours; each look is a fact."""
    here = await bench("http://127.0.0.1:9/v1")
    assert here.due_in_s() is None
    await here.chore.do()
    await here.record(
        "p", connected("http://127.0.0.1:9/v1"), AuthProfileFailed(code="key_rejected", vault_revision=1)
    )
    here.given = None
    for wait_s in (300, 1_500, 21_600, 21_600):
        assert here.due_in_s() == wait_s
        here.clock.pass_ms(wait_s * 1_000)
        await here.chore.do()
    looks = here.world.facts(AuthProfileValidationFailed)
    assert [one.failure_code for one in looks] == ["missing_credential"] * 4
    await here.world.close()


async def test_a_key_that_is_taken_again_is_used_again() -> None:
    """The failure ends with the provider's good word; a failure of another kind is nobody's mistake."""
    async with Upstream() as up:
        here = await bench(up.url)
        await here.record("p", connected(up.url), AuthProfileFailed(code="account_disabled", vault_revision=1))
        assert here.due_in_s() is None
        await here.record("p", AuthProfileFailed(code="key_rejected", vault_revision=1))
        here.clock.pass_ms(300_000)
        await here.chore.do()
        assert failure_of(here.world.state, "p") is None
        assert len(here.world.facts(AuthProfileValidated)) == 1
        assert here.due_in_s() is None
        await here.world.close()


async def test_a_key_of_the_configuration_is_looked_at_after_a_start() -> None:
    """It may be another one by now; once, and then in the same rhythm."""
    async with Upstream() as up:
        here = await bench(up.url, credential_ref="env:KEY")
        await here.record("config:a", AuthProfileFailed(code="key_rejected"))
        assert here.due_in_s() == 300
        here.clock.pass_ms(10_000)
        started = DaemonStarted(boot_id="b", release="0", python="3", sqlite="3", config_generation=1, pid=1)
        await here.world.core.record([Draft("daemon", started)])
        due_at_us = here.chore.due_at_us()
        assert due_at_us is not None
        assert due_at_us <= here.clock.now_us()
        await here.chore.do()
        assert failure_of(here.world.state, "config:a") is None
        await here.world.close()
