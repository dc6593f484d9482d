"""A profile with tokens of an authorization server, an engine with a vault, and a clock that a test moves."""

from __future__ import annotations

import math
from typing import Any

from authorization_server import CLIENT_ID, AuthorizationServer, Grant
from engine_fakes import ManualClock
from engine_world import World, model, provider, registry

from palyra.auth.vault import Vault
from palyra.engine.tokens import TokenKeeper
from palyra.engine.vault import VaultKeeper, ref_of
from palyra.events.auth import AuthProfileConnected, OAuthGrant
from palyra.events.base import Draft
from palyra.journal.port import Journal
from palyra.projections.auth import AuthProfile
from palyra.redaction import Secret
from palyra.units import US_PER_S


class TokenWorld:
    """Core, vault and token keeper over a journal in memory; `connect` first."""

    def __init__(self, up: AuthorizationServer, world: World, clock: ManualClock, vault: Vault) -> None:
        self.up = up
        self.world = world
        self.clock = clock
        self.core = world.core
        self.vault = VaultKeeper(world.core, vault)
        self.tokens = TokenKeeper(world.core, self.vault)
        world.runs.tokens = self.tokens
        world.secret = self.secret  # type: ignore[method-assign]

    @classmethod
    async def make(
        cls, up: AuthorizationServer, *, journal: Journal | None = None, vault: Vault | None = None
    ) -> TokenWorld:
        clock = ManualClock()
        entries = (
            provider("a", f"{up.url}/v1", auth_scheme="bearer", auth_provider_kind="openai"),
            model("m", "a"),
        )
        return cls(up, await World.make(registry(*entries), journal=journal, clock=clock), clock, vault or Vault())

    def secret(self, provider_id: str, credential_ref: str, revision: int) -> Secret | None:
        profile = self.core.state.auth.profiles[credential_ref]
        return self.vault.opened(ref_of(profile.vault_ref), revision).parts["access_token"]

    async def connect(self, profile_id: str = "p", life_s: int | None = 3_600, **changes: Any) -> Grant:
        """Store the tokens of a new grant as a profile."""
        grant = Grant(profile_id)
        self.up.grants.append(grant)
        given = self.up._give(grant, "")
        parts = {name: Secret(given[name]) for name in ("access_token", "refresh_token")}
        connected = AuthProfileConnected(
            provider="openai",
            profile_name=profile_id,
            credential_kind="oauth2",
            audience=self.up.url,
            vault_revision=1,
            expires_us=None if life_s is None else self.clock.now_us() + life_s * US_PER_S,
            oauth=OAuthGrant(
                token_url=f"{self.up.url}/oauth/token",
                revoke_url=f"{self.up.url}/oauth/revoke",
                client_id=CLIENT_ID,
                can_refresh=True,
            ),
            **changes,
        )
        ref = ref_of(f"global/auth.{profile_id}")
        drafts = [Draft(f"credential-{profile_id}", connected)]
        await self.vault.put(ref, parts, reason="connect", audience=self.up.url, then=lambda stored: drafts)
        return grant

    def profile(self, profile_id: str = "p") -> AuthProfile:
        profile: AuthProfile = self.core.state.auth.profiles[profile_id]
        return profile

    def pass_s(self, seconds: float) -> None:
        self.clock.pass_ms(math.ceil(seconds * 1_000))

    def due_in_s(self) -> float | None:
        due_us = self.tokens.due_at_us()
        return None if due_us is None else (due_us - self.clock.now_us()) / US_PER_S
