"""The loop `tokens` over a day without anybody: a new token is there before each one ends."""

from __future__ import annotations

import pytest
import trio
from supervisor_kit import BASE_US, DAY_S, World, running
from trio.testing import MockClock

from palyra.decisions.tokens import due_refreshes
from palyra.events.auth import AuthProfileConnected, AuthProfileRefreshed, OAuthGrant
from palyra.events.base import Fact, Recorded
from palyra.events.vault import VaultSecretStored
from palyra.projections.state import State, evolve
from palyra.units import US_PER_S

pytestmark = pytest.mark.trio
LIFE_US = 3_600 * US_PER_S


class Renewing:
    """Answers the port as the engine does: the projection says who is due, a renewal is a fact."""

    def __init__(self, world: World) -> None:
        self._clock = world.clock
        self.state = State()
        #: How much life the old token had left at each renewal.
        self.left_us: list[int] = []
        grant = OAuthGrant(token_url="https://a.example/token", client_id="c", can_refresh=True)
        stored = VaultSecretStored(
            ref="global/auth.p", revision=1, kind="credential_set", key_fingerprint="", value_bytes=1, reason="x"
        )
        connected = AuthProfileConnected(
            provider="a",
            profile_name="p",
            credential_kind="oauth2",
            audience="https://a.example:443",
            vault_revision=1,
            expires_us=BASE_US + LIFE_US,
            oauth=grant,
        )
        self._take("vault", stored)
        self._take("credential-p", connected)

    def _take(self, stream: str, fact: Fact) -> None:
        position, now_us = self.state.position + 1, self._clock.now_us()
        evolve(self.state, Recorded(position, stream, position, now_us, "system:daemon", "", 0, "", fact))

    def due_at_us(self) -> int | None:
        return next((at_us for at_us, _ in due_refreshes(self.state)), None)

    async def do(self) -> None:
        await trio.sleep(0.2)
        profile = self.state.auth.profiles["p"]
        now_us = self._clock.now_us()
        assert profile.expires_us is not None
        self.left_us.append(profile.expires_us - now_us)
        refreshed = AuthProfileRefreshed(vault_revision=profile.vault_revision + 1, expires_us=now_us + LIFE_US)
        self._take("credential-p", refreshed)


async def test_a_day_of_tokens_without_any_client(autojump_clock: MockClock) -> None:
    """Each is renewed a tenth of its life before its end, at most half a minute earlier, and none ends."""
    world = World()
    port = Renewing(world)
    world.tokens = port  # type: ignore[assignment]
    async with running(world.tree()):
        await trio.sleep(DAY_S)
    assert 26 <= len(port.left_us) <= 28
    assert all(359 * US_PER_S <= left_us <= 391 * US_PER_S for left_us in port.left_us)
