"""Logging in at a provider: an attempt is started, somebody comes back with a code, and tokens are kept or nothing.

What an attempt has to keep secret is sealed, so it outlives a restart; who comes back is judged in the loop, so
that of any number that come at once one goes on. A code is sent once. Whoever hangs up meanwhile stops nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from palyra.auth.keys import digest_of, random_token
from palyra.auth.oauth import (
    Redirect,
    authorize_url,
    new_attempt,
)
from palyra.config.tree import OAuthConfig
from palyra.decisions.oauth import (
    PROVIDER,
    Claim,
    cancel,
    claim_browser,
    claim_paste,
    of_attempt,
    refuse_start,
    sealed_ref,
)
from palyra.decisions.profiles import Wish, profile_id_for
from palyra.engine.console.changes import DaemonNotRunning, Order
from palyra.engine.core import Core
from palyra.engine.oauth_redeeming import Redeemer, origin_of
from palyra.engine.tokens import TokenKeeper
from palyra.engine.vault import VaultKeeper, ref_of
from palyra.errors import PalyraError, Refusal, Refused, VaultError, or_refuse
from palyra.events.auth import OAuthGrant
from palyra.events.base import Draft
from palyra.events.oauth import OauthAttemptStarted, OAuthMode
from palyra.projections.auth import AuthProfile
from palyra.projections.oauth import OAuthAttempt, attempt_of, open_attempts
from palyra.redaction import Secret
from palyra.units import US_PER_S, ms_to_s, ms_to_us
from palyra.wire.netguard import classify_address, is_literal, is_local_name

#: Where people come back to, below the daemon's own address, unless configuration says otherwise.
OPENAI_OAUTH_CALLBACK_PATH = f"/console/v1/auth/providers/{PROVIDER}/callback"
LAUNCH_LIFE_US = 60 * US_PER_S
_LAUNCHES_MAX_COUNT = 64
#: How long a page is still there that says how a login ended.
_LINGER_S = 10.0


class Callbacks(Protocol):
    """Where browsers come back to, beside the daemon's own address."""

    @property
    def own_url(self) -> str:
        """The daemon's own address, without a path."""
        ...

    async def open(self, redirect_uri: str, for_s: float) -> None:
        """See to it that somebody listens there for so long from now; raises `StateError`."""
        ...


class Started(NamedTuple):
    """An attempt that was just started."""

    attempt: OAuthAttempt
    #: Where a person has to go; for an attempt that is finished by pasting.
    authorize_url: Secret | None
    #: Where a browser has to go first, once: it gets its cookie there.
    launch_url: Secret | None


class Launch(NamedTuple):
    """What a browser is given on its way to the provider."""

    attempt: OAuthAttempt
    cookie: Secret
    authorize_url: Secret


class OAuthDesk:
    """The logins of an engine."""

    def __init__(
        self,
        core: Core,
        vault: VaultKeeper,
        tokens: TokenKeeper,
        settings: Callable[[], OAuthConfig],
        *,
        public_url: Callable[[], str] = lambda: "",
        callbacks: Callbacks | None = None,
    ) -> None:
        """Without `callbacks` there is no daemon, and no browser can come back."""
        self._core = core
        self._vault = vault
        self._redeemer = Redeemer(core, vault, tokens)
        self._settings = settings
        self._public_url = public_url
        self._callbacks = callbacks
        #: By digest of the code: attempt, until when.
        self._launches: dict[str, tuple[str, int]] = {}
        self._exchanges: dict[str, asyncio.Task[None]] = {}

    # -- the start

    async def start(
        self,
        order: Order,
        *,
        mode: OAuthMode,
        wish: Wish | None = None,
        set_default: bool = False,
        scopes: list[str] | None = None,
        for_profile: AuthProfile | None = None,
    ) -> Started:
        """Start an attempt for a new profile, or for new tokens of one that is there; raises `PalyraError`."""
        core, settings = self._core, self._settings()
        if mode == "browser" and self._callbacks is None:
            raise DaemonNotRunning
        if not settings.client_id:
            hint = f"set auth.oauth.{PROVIDER}.client_id to the id that the provider has given your program"
            message = f"Nobody can log in at {PROVIDER}: there is no client id."
            raise PalyraError(message, hint=hint, code="oauth_not_configured")
        refusal = refuse_start(core.state, order.actor, core.clock.now_us())
        if refusal is not None:
            raise Refused(refusal)
        redirect_uri = self._redirect_uri(settings, mode)
        if mode == "browser" and self._callbacks is not None:
            await self._callbacks.open(redirect_uri, ms_to_s(settings.attempt_ttl_ms) + _LINGER_S)
        profile_id = "" if wish is None else or_refuse(profile_id_for(core.state, wish))
        made, attempt_id = new_attempt(), core.ids.ulid(core.clock.now_us()).lower()
        state_digest, challenge_digest, cookie_digest = made.digests
        asked = sorted(dict.fromkeys(settings.scopes if scopes is None else scopes))
        started = OauthAttemptStarted(
            provider=PROVIDER,
            mode=mode,
            issuer=origin_of(settings.authorize_url),
            redirect_uri=redirect_uri,
            grant=OAuthGrant(
                token_url=settings.token_url,
                revoke_url=settings.revoke_url,
                client_id=settings.client_id,
                scopes=asked,
            ),
            state_digest=state_digest,
            challenge_digest=challenge_digest,
            cookie_digest=cookie_digest if mode == "browser" else "",
            expires_us=core.clock.now_us() + ms_to_us(settings.attempt_ttl_ms),
            for_profile_id="" if for_profile is None else for_profile.profile_id,
            profile_id=profile_id,
            profile_name="" if wish is None else wish.profile_name,
            agent_id="" if wish is None else wish.agent_id,
            set_default=set_default,
        )
        parts = made.parts
        url = authorize_url(
            settings.authorize_url,
            parts,
            client_id=settings.client_id,
            redirect_uri=redirect_uri,
            scopes=asked,
            extra=settings.extra_authorize_params,
        )
        if settings.client_secret_vault_ref:
            parts["client_secret"] = self._client_secret(settings.client_secret_vault_ref)
        parts["authorize_url"] = url
        await self._vault.put(
            ref_of(sealed_ref(attempt_id)),
            parts,
            reason="oauth",
            record=order.record,
            then=lambda stored: self._started(order, of_attempt(attempt_id, started)),
        )
        attempt = core.state.oauth.attempts[attempt_id]
        launch_url = self._launch_url(attempt) if mode == "browser" else None
        return Started(attempt, url if mode == "paste" else None, launch_url)

    def _started(self, order: Order, drafts: list[Draft]) -> list[Draft]:
        refusal = refuse_start(self._core.state, order.actor, self._core.clock.now_us())
        if refusal is not None:
            raise Refused(refusal)
        return drafts

    def _client_secret(self, reference: str) -> Secret:
        secret = self._core.state.vault.secrets.get(reference)
        opened = self._vault.opened(ref_of(reference), 0 if secret is None else secret.revision)
        if opened.secret is None:
            raise VaultError(f"{reference} holds no text that could be a client secret.", code="secret_not_found")
        return opened.secret

    def _redirect_uri(self, settings: OAuthConfig, mode: OAuthMode) -> str:
        """Return where people come back to; raises `PalyraError` where nobody would be there."""
        own_url = "" if self._callbacks is None else self._callbacks.own_url
        if not settings.redirect_uri:
            return f"{own_url or 'http://127.0.0.1:7142'}{OPENAI_OAUTH_CALLBACK_PATH}"
        if mode == "paste" or is_here(settings.redirect_uri):
            return settings.redirect_uri
        if settings.redirect_uri == f"{self._public_url()}{OPENAI_OAUTH_CALLBACK_PATH}":
            return settings.redirect_uri
        message = (
            f"auth.oauth.{PROVIDER}.redirect_uri is neither on this machine nor daemon.public_url with"
            f" {OPENAI_OAUTH_CALLBACK_PATH}, so nobody would come back here."
        )
        raise PalyraError(message, hint="correct it, or log in with --paste", code="oauth_not_configured")

    def _launch_url(self, attempt: OAuthAttempt) -> Secret:
        """Return where a browser gets its cookie: on the very host that it comes back to."""
        now_us = self._core.clock.now_us()
        self._launches = {digest: found for digest, found in self._launches.items() if now_us < found[1]}
        while len(self._launches) >= _LAUNCHES_MAX_COUNT:
            del self._launches[next(iter(self._launches))]
        code = random_token()
        self._launches[digest_of(code.reveal())] = (attempt.attempt_id, now_us + LAUNCH_LIFE_US)
        return Secret(f"{attempt.redirect_uri.removesuffix('/callback')}/launch/{code.reveal()}")

    def launch(self, code: str) -> Launch | Refusal:
        """Return what a browser gets that shows a launch code; each is good once."""
        attempt_id, until_us = self._launches.pop(digest_of(code), ("", 0))
        attempt = attempt_of(self._core.state, attempt_id, self._core.clock.now_us())
        if attempt is None or attempt.state != "pending" or until_us <= self._core.clock.now_us():
            return Refusal(code="attempt_not_found", message="This link was used before, or is too old.")
        parts = self._sealed(attempt)
        return Launch(attempt, parts["cookie"], parts["authorize_url"])

    # -- the way back

    async def arrive(self, redirect: Redirect, cookies: Mapping[str, str]) -> OAuthAttempt | Refusal:
        """Take a browser that came back, and return how its login ended; raises `PalyraError`."""
        attempt = next(
            (one for one in self._core.state.oauth.attempts.values() if one.state_digest == redirect.state_digest),
            None,
        )
        cookie = "" if attempt is None else cookies.get(cookie_name(attempt), "")
        return await self._come_back(
            lambda now_us: claim_browser(self._core.state, redirect.state_digest, digest_of(cookie), now_us),
            redirect,
        )

    async def complete(self, order: Order, attempt_id: str, redirect: Redirect) -> OAuthAttempt:
        """Take the address that somebody pasted, and return how the login ended; raises `PalyraError`."""
        ended = await self._come_back(
            lambda now_us: claim_paste(self._core.state, attempt_id, redirect.state_digest, order.actor, now_us),
            redirect,
        )
        return or_refuse(ended)

    async def _come_back(self, claim_at: Callable[[int], Claim], redirect: Redirect) -> OAuthAttempt | Refusal:
        with self._core.batch() as batch:
            claim = claim_at(batch.now_us)
            if claim.attempt is not None and claim.is_won:
                self._sealed(claim.attempt)  # a vault that cannot be read leaves the attempt as it is
            batch.add(claim.drafts)
        if claim.refusal is not None or claim.attempt is None:
            assert claim.refusal is not None
            return claim.refusal
        if claim.is_won:
            attempt_id = claim.attempt.attempt_id
            task = asyncio.create_task(self._finish(claim.attempt, redirect, batch.durable()))
            self._exchanges[attempt_id] = task
            task.add_done_callback(lambda done: self._exchanges.pop(attempt_id, None))
            await asyncio.shield(task)
        else:
            await batch.durable()
        return self._core.state.oauth.attempts[claim.attempt.attempt_id]

    async def _finish(self, attempt: OAuthAttempt, redirect: Redirect, claimed: Coroutine[Any, Any, None]) -> None:
        """See a claimed attempt through, whatever happens on the way."""
        await claimed
        await self._redeemer.redeem(attempt, self._sealed(attempt), redirect)
        await self._stop_listening(attempt)
        await self._vault.delete(ref_of(sealed_ref(attempt.attempt_id)), reason="attempt_over")

    # -- while it lasts, and otherwise

    async def cancel(self, order: Order, attempt_id: str) -> OAuthAttempt:
        """End an attempt that waits; one that is over stays as it is."""
        attempt = self.find(attempt_id)
        await order.record(cancel(attempt))
        if attempt.state == "cancelled":
            await self._stop_listening(attempt)
            await self._vault.delete(ref_of(sealed_ref(attempt_id)), reason="attempt_over")
        return attempt

    def find(self, attempt_id: str) -> OAuthAttempt:
        """Return an attempt as long as it is shown; raises `Refused`."""
        attempt = attempt_of(self._core.state, attempt_id, self._core.clock.now_us())
        if attempt is None:
            message = "There is no such login, or not any more; palyra auth attempts shows them."
            raise Refused(Refusal(code="attempt_not_found", message=message))
        return attempt

    async def listen(self) -> None:
        """Listen where the open attempts of browsers come back to: those that a restart has left pending.

        A place that cannot be had leaves the attempt to expire.
        """
        now_us = self._core.clock.now_us()
        for one in open_attempts(self._core.state):
            if self._callbacks is not None and one.mode == "browser" and one.expires_us > now_us:
                with contextlib.suppress(PalyraError):
                    for_s = (one.expires_us - now_us) / US_PER_S + _LINGER_S
                    await self._callbacks.open(one.redirect_uri, for_s)

    async def _stop_listening(self, attempt: OAuthAttempt) -> None:
        """Listen no longer than the last page takes, unless somebody else comes back to the same place."""
        is_shared = any(one.redirect_uri == attempt.redirect_uri for one in open_attempts(self._core.state))
        if self._callbacks is not None and attempt.mode == "browser" and not is_shared:
            await self._callbacks.open(attempt.redirect_uri, _LINGER_S)

    async def settle(self) -> None:
        """Wait for the codes that are being exchanged."""
        if self._exchanges:
            await asyncio.wait(list(self._exchanges.values()))

    def _sealed(self, attempt: OAuthAttempt) -> dict[str, Secret]:
        """Return what an attempt keeps secret; raises `VaultError`."""
        reference = sealed_ref(attempt.attempt_id)
        secret = self._core.state.vault.secrets.get(reference)
        return dict(self._vault.opened(ref_of(reference), 0 if secret is None else secret.revision).parts)


def cookie_name(attempt: OAuthAttempt) -> str:
    """Return the name of the cookie that binds an attempt to a browser: one for each, so that two do not meet."""
    return f"palyra_oauth_{attempt.attempt_id[-6:]}"


def is_here(url: str) -> bool:
    """Return whether an address is on this very machine."""
    host = urlsplit(url).hostname or ""
    return is_local_name(host) or (is_literal(host) and classify_address(host) == "loopback")
