"""Access tokens: renewed before they end, one at a time for each profile, and given back when it is revoked.

Whoever wants a new token (the timer, a request that is about to leave, a 401, a person) joins the one renewal that
is under way. A refresh token may be good for one use, so its use is recorded durably before it leaves, it is sent
once, and what it brought is sealed before anybody is told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from palyra.auth.oauth import Tokens, refresh_body, revoke_body
from palyra.decisions import oauth as logins
from palyra.decisions.incidents import Stall, report, resolve
from palyra.decisions.tokens import (
    SUPERSEDED,
    TokenRefusal,
    after_refusal,
    due_refreshes,
    is_given_up,
    is_needed_now,
    logins_needed,
    refuse_refresh,
    to_give_back,
    wait_us,
    was_superseded,
)
from palyra.engine.core import Core
from palyra.engine.token_endpoint import ask_tokens, give_back
from palyra.engine.vault import VaultKeeper, ref_of
from palyra.errors import PalyraError, Refusal, VaultError
from palyra.events.auth import (
    AuthProfileRefreshed,
    AuthProfileRefreshFailed,
    AuthProfileRefreshStarted,
    AuthProfileRemoteRevocationFinished,
    OAuthGrant,
)
from palyra.events.base import Draft, Fact
from palyra.projections.auth import AuthProfile
from palyra.projections.oauth import open_attempts
from palyra.redaction import Secret
from palyra.units import US_PER_S, ms_to_s

#: Profiles whose tokens are renewed at once.
_AT_ONCE_COUNT = 4
#: How long a request waits for a new token before it goes on without one.
_JUST_IN_TIME_MS = 10_000
_Outcome = Literal["confirmed", "gave_up", "not_supported"]


class Renewed(NamedTuple):
    """How a renewal ended: with a new token, or with why there is none."""

    refusal: Refusal | None = None
    #: Somebody else's renewal was joined.
    is_joined: bool = False


class _Superseded(Exception):
    """Another secret took the place of the one that was being renewed."""


class TokenKeeper:
    """Renews and gives back the tokens of all profiles, and sweeps logins that are over."""

    def __init__(self, core: Core, vault: VaultKeeper) -> None:
        self._core = core
        self._vault = vault
        self._renewals: dict[str, asyncio.Task[Refusal | None]] = {}
        self._at_once = asyncio.Semaphore(_AT_ONCE_COUNT)
        #: Revoked profiles: tries in a row, and when the next one is. A start begins anew; the day for which a
        #: provider is asked is counted from the revocation.
        self._give_backs: dict[str, tuple[int, int]] = {}
        self._tasks: set[asyncio.Task[TokenRefusal | None]] = set()

    # -- the chore

    def due_at_us(self) -> int | None:
        """Return when something is to be done: a renewal, a revocation, a login that expires."""
        state = self._core.state
        dues = [at_us for at_us, _ in due_refreshes(state, self._renewals)[:1]]
        dues += [self._next_try_us(one) for one in to_give_back(state)]
        expiry_us = logins.next_expiry_us(state)
        dues += [] if expiry_us is None else [expiry_us]
        dues += [0] if logins.leftovers(state) or logins_needed(state) else []
        return min(dues, default=None)

    async def do(self) -> None:
        """Do everything that is due now."""
        now_us = self._core.clock.now_us()
        renewals = due_refreshes(self._core.state, self._renewals)
        due = [profile_id for at_us, profile_id in renewals if at_us <= now_us]
        returning = [one for one in to_give_back(self._core.state) if self._next_try_us(one) <= now_us]
        await asyncio.gather(
            *(self.renew(profile_id) for profile_id in due),
            *(self._give_back(profile) for profile in returning),
            self._sweep(now_us),
        )

    def _next_try_us(self, profile: AuthProfile) -> int:
        return self._give_backs.get(profile.profile_id, (0, 0))[1]

    async def settle(self) -> None:
        """Wait for what is under way: a token that was spent must not be lost."""
        under_way: list[asyncio.Task[Any]] = [*self._renewals.values(), *self._tasks]
        if under_way:
            await asyncio.wait(under_way)

    # -- renewal

    async def renew(self, profile_id: str) -> Renewed:
        """Get a profile a new token, or join whoever does; returns why there is none."""
        task = self._renewals.get(profile_id)
        is_joined = task is not None
        if task is None:
            task = asyncio.create_task(self._renew(profile_id), name=f"renew {profile_id}")
            self._renewals[profile_id] = task
            task.add_done_callback(lambda done: self._renewals.pop(profile_id, None))
        return Renewed(await asyncio.shield(task), is_joined)

    async def renew_in_time(self, credential_refs: Iterable[str]) -> None:
        """Renew those of these credentials that are about to end, if that takes no longer than 10 s."""
        profiles, now_us = self._core.state.auth.profiles, self._core.clock.now_us()
        due = [ref for ref in credential_refs if is_needed_now(profiles.get(ref), now_us)]
        if due:
            await asyncio.wait(
                [asyncio.ensure_future(self._quietly(ref)) for ref in due], timeout=ms_to_s(_JUST_IN_TIME_MS)
            )

    async def renew_after_401(self, profile_id: str, seen_revision: int) -> None:
        """Renew a token that a provider did not take, unless somebody has done so since."""
        profile = self._core.state.auth.profiles.get(profile_id)
        if profile is not None and profile.vault_revision == seen_revision:
            await self._quietly(profile_id)

    async def _quietly(self, profile_id: str) -> None:
        with contextlib.suppress(PalyraError):  # whoever wanted it goes on with what there is
            await self.renew(profile_id)

    def is_about_to_end(self, credential_ref: str) -> bool:
        """Return whether a request with this credential has to wait for a new token."""
        profile = self._core.state.auth.profiles.get(credential_ref)
        return is_needed_now(profile, self._core.clock.now_us())

    async def _renew(self, profile_id: str) -> Refusal | None:
        async with self._at_once:
            core = self._core
            profile = core.state.auth.profiles.get(profile_id)
            if profile is None:
                return Refusal(code="profile_not_found", message=f"There is no profile {profile_id}.")
            refusal = refuse_refresh(core.state, profile)
            if refusal is not None:
                return refusal
            assert profile.oauth is not None, "what can be renewed has a grant"
            grant, revision = profile.oauth, profile.vault_revision
            if profile.refresh is not None and profile.refresh.state == "in_flight":
                # Whoever spent the token has not told how that ended; what it brought may be sealed already.
                await self._vault.reconcile()
                if profile.vault_revision != revision:
                    return None
            ref = ref_of(profile.vault_ref)
            parts = dict(self._vault.opened(ref, revision).parts)
            refresh_token = parts.get("refresh_token")
            if refresh_token is None:
                raise VaultError(f"The secret of {profile_id} holds no refresh token.", code="secret_not_found")
            await core.record(_of(profile_id, AuthProfileRefreshStarted(vault_revision=revision)))
            body = refresh_body(refresh_token, client_id=grant.client_id, client_secret=parts.get("client_secret"))
            answer = await ask_tokens(grant.token_url, body, core.clock.now_us())
            if isinstance(answer, TokenRefusal):
                return await self._note_refusal(profile_id, revision, answer)
            return await self._keep(profile_id, revision, parts, answer)

    async def _note_refusal(self, profile_id: str, revision: int, refusal: TokenRefusal) -> Refusal | None:
        core = self._core
        profile = core.state.auth.profiles.get(profile_id)
        if profile is None or was_superseded(core.state, profile_id, revision):
            return _superseded(profile_id)
        facts = after_refusal(profile, refusal, core.clock.now_us(), core.ids.jitter_bp())
        await core.record(_of(profile_id, *facts))
        failed = facts[0]
        assert isinstance(failed, AuthProfileRefreshFailed)
        if failed.terminal:
            return refuse_refresh(core.state, profile)
        said = f" (HTTP {refusal.status})" if refusal.status else ""
        message = f"The provider gave no new token{said}; it is asked again by itself."
        wait_ms = max(0, ((failed.next_allowed_us or 0) - core.clock.now_us()) // 1_000)
        return Refusal(code="refresh_failed", message=message, retry_after_ms=wait_ms)

    async def _keep(
        self, profile_id: str, revision: int, parts: dict[str, Secret], tokens: Tokens
    ) -> Refusal | None:
        """Seal the new tokens, in one commit with the fact; a secret that was put there meanwhile wins."""
        core = self._core
        profile = core.state.auth.profiles[profile_id]
        is_rotated = tokens.refresh_token is not None and tokens.refresh_token != parts["refresh_token"]
        fresh = {**parts, **parts_of(tokens)}
        expires_us = expiry_of(tokens, core.clock.now_us())

        def facts(new_revision: int, key_fingerprint: str) -> list[Draft]:
            if was_superseded(core.state, profile_id, revision):
                raise _Superseded
            return _of(
                profile_id,
                AuthProfileRefreshed(
                    vault_revision=new_revision,
                    key_fingerprint=key_fingerprint,
                    expires_us=expires_us,
                    rotated_refresh=is_rotated,
                ),
            )

        try:
            await self._vault.put(
                ref_of(profile.vault_ref),
                fresh,
                reason="refresh",
                audience=profile.audience,
                profile_id=profile_id,
                if_revision=revision,
                then=lambda stored: facts(stored.info.revision, stored.key_fingerprint),
            )
        except (_Superseded, VaultError) as error:
            if isinstance(error, VaultError) and error.code != "stale_revision":
                raise
            await core.record(_of(profile_id, AuthProfileRefreshFailed(error_code=SUPERSEDED)))
            assert profile.oauth is not None
            self.drop(profile.oauth, parts_of(tokens) | client_of(parts))
            return _superseded(profile_id)
        return None

    # -- giving back

    def drop(self, grant: OAuthGrant, parts: Mapping[str, Secret]) -> None:
        """Give tokens back that are not kept, as far as that works at the first try."""
        task = asyncio.create_task(self._ask_back(grant, parts), name="give tokens back")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask_back(self, grant: OAuthGrant, parts: Mapping[str, Secret]) -> TokenRefusal | None:
        """Ask for the refresh token first: a provider that takes it back ends what it gave, too (RFC 7009, 2.1)."""
        if not grant.revoke_url:
            return None
        refused: TokenRefusal | None = None
        for hint in ("refresh_token", "access_token"):
            if hint in parts:
                body = revoke_body(
                    parts[hint], hint, client_id=grant.client_id, client_secret=parts.get("client_secret")
                )
                refused = await give_back(grant.revoke_url, body, self._core.clock.now_us()) or refused
        return refused

    async def _give_back(self, profile: AuthProfile) -> None:
        """Ask a provider once to take a revoked profile's tokens back."""
        core, profile_id, grant = self._core, profile.profile_id, profile.oauth
        if grant is None or not grant.revoke_url:
            await self._finish(profile, "not_supported")
            return
        try:
            parts = self._vault.opened(ref_of(profile.vault_ref), profile.vault_revision).parts
        except VaultError:
            parts = {}  # locked or lost; a vault that opens within the day is in time
        refused = await self._ask_back(grant, parts) if parts else TokenRefusal()
        now_us = core.clock.now_us()
        if refused is None:
            await self._finish(profile, "confirmed")
        elif is_given_up(profile, now_us):
            await self._finish(profile, "gave_up")
        else:
            tries = self._give_backs.get(profile_id, (0, 0))[0] + 1
            wait = wait_us(tries, refused.retry_after_ms, core.ids.jitter_bp())
            self._give_backs[profile_id] = (tries, now_us + wait)

    async def _finish(self, profile: AuthProfile, outcome: _Outcome) -> None:
        drafts = _of(profile.profile_id, AuthProfileRemoteRevocationFinished(outcome=outcome))
        if profile.vault_ref in self._core.state.vault.secrets:
            await self._vault.delete(ref_of(profile.vault_ref), reason="revoked", then=drafts)
        else:
            await self._core.record(drafts)
        self._give_backs.pop(profile.profile_id, None)

    # -- logins that are over

    def _tell(self, stall: Stall, now_us: int) -> list[Draft]:
        """Return what tells people that a profile waits for one of them, or does not any more."""
        if stall.stage == "recovered":
            return resolve(self._core.state, stall, now_us=now_us)
        return report(self._core.state, stall, incident_id=self._core.ids.ulid(now_us), now_us=now_us)

    async def _sweep(self, now_us: int) -> None:
        """Expire logins that nobody came back for, delete what was sealed for them, and say who has to log in."""
        with self._core.batch() as batch:
            for attempt in open_attempts(self._core.state):
                if attempt.state == "pending" and attempt.expires_us <= now_us:
                    batch.add(logins.expire(attempt))
            for stall in logins_needed(self._core.state):
                batch.add(self._tell(stall, batch.now_us))
        await batch.durable()
        for ref in logins.leftovers(self._core.state):
            await self._vault.delete(ref_of(ref), reason="attempt_over")


def parts_of(tokens: Tokens) -> dict[str, Secret]:
    """Return tokens in the form in which the vault seals them."""
    parts = {"access_token": tokens.access_token}
    return parts if tokens.refresh_token is None else {**parts, "refresh_token": tokens.refresh_token}


def expiry_of(tokens: Tokens, now_us: int) -> int | None:
    """Return when an access token ends that was just given; None where that is not known."""
    return None if tokens.expires_in_s is None else now_us + tokens.expires_in_s * US_PER_S


def client_of(parts: Mapping[str, Secret]) -> dict[str, Secret]:
    """Return what of a sealed credential, or of an attempt, tells who we are to the provider."""
    return {name: part for name, part in parts.items() if name == "client_secret"}


def _of(profile_id: str, *facts: Fact) -> list[Draft]:
    return [Draft(f"credential-{profile_id}", fact) for fact in facts]


def _superseded(profile_id: str) -> Refusal:
    message = f"{profile_id} was given another secret meanwhile, or was revoked; that holds."
    return Refusal(code="conflict", message=message)
