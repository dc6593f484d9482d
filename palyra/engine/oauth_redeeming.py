"""The end of a login: a code that came back is turned into tokens, once, and these into a profile or into nothing.

What is not kept is given back. Source: auth specification 7.3, from the seventh check on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from palyra.auth.oauth import BadTokenAnswer, NoCode, Redirect, Tokens, code_of, exchange_body, subject_of
from palyra.auth.sealed import Stored
from palyra.decisions.oauth import of_attempt
from palyra.decisions.profiles import Wish, find_profile, profile_id_for
from palyra.decisions.tokens import TokenRefusal
from palyra.engine.core import Core
from palyra.engine.credential_checks import Target, check_credential, find_target
from palyra.engine.token_endpoint import ask_tokens
from palyra.engine.tokens import TokenKeeper, client_of, expiry_of, parts_of
from palyra.engine.vault import VaultKeeper, ref_of
from palyra.errors import PalyraError, Refusal, Refused, or_refuse
from palyra.events.auth import AuthProfileConnected, AuthProfileDefaultSet, AuthProfileRotated
from palyra.events.base import Draft, Fact
from palyra.events.oauth import OauthAttemptCompleted, OauthAttemptFailed
from palyra.projections.auth import vault_ref
from palyra.projections.oauth import OAuthAttempt
from palyra.redaction import Secret
from palyra.units import US_PER_S
from palyra.wire.netguard import BaseUrl, endpoint_url

#: What a refused model list says about the token that it was asked with.
_TOKEN_REJECTED = ("invalid_credential", "validation_not_permitted", "unverifiable")


class _Failed(Exception):
    """A claimed attempt that came to nothing."""

    def __init__(self, code: str, *, http_status: int = 0, tokens: Tokens | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.http_status = http_status
        #: What the provider gave for it, and takes back.
        self.tokens = tokens


class Redeemer:
    """Sees claimed attempts to their end."""

    def __init__(self, core: Core, vault: VaultKeeper, tokens: TokenKeeper) -> None:
        self._core = core
        self._vault = vault
        self._tokens = tokens

    async def redeem(self, attempt: OAuthAttempt, parts: Mapping[str, Secret], redirect: Redirect) -> None:
        """See an attempt to its end, and record which one that is. `parts` is what was sealed for it."""
        try:
            tokens = await self._exchange(attempt, parts, redirect)
            await self._keep(attempt, parts, tokens)
        except _Failed as failed:
            if failed.tokens is not None:
                self._tokens.drop(attempt.grant, parts_of(failed.tokens) | client_of(parts))
            fact = OauthAttemptFailed(failure_code=failed.code, http_status=failed.http_status)
            await self._core.record(of_attempt(attempt.attempt_id, fact))

    async def _exchange(self, attempt: OAuthAttempt, parts: Mapping[str, Secret], redirect: Redirect) -> Tokens:
        """Return the tokens that a code is good for; raises `_Failed`."""
        if redirect.issuer and origin_of(redirect.issuer) != attempt.issuer:
            raise _Failed("issuer_mismatch")  # of a refusal, too (RFC 9207, 2.4)
        try:
            code = code_of(redirect)
        except NoCode as no:
            raise _Failed(str(no)) from None
        grant = attempt.grant
        body = exchange_body(
            code,
            parts["verifier"],
            client_id=grant.client_id,
            redirect_uri=attempt.redirect_uri,
            client_secret=parts.get("client_secret"),
        )
        answer = await ask_tokens(grant.token_url, body, self._core.clock.now_us())
        if isinstance(answer, TokenRefusal):
            if answer.status == 200:
                raise _Failed("invalid_token_response", http_status=200)
            is_taken = 400 <= answer.status < 500
            code_word = "exchange_rejected" if is_taken else "exchange_unreachable"
            raise _Failed(code_word, http_status=answer.status)
        if answer.refresh_token is None and "offline_access" in grant.scopes:
            raise _Failed("invalid_token_response", http_status=200, tokens=answer)
        return answer

    async def _keep(self, attempt: OAuthAttempt, parts: Mapping[str, Secret], tokens: Tokens) -> None:
        """Check tokens at the provider and keep them as a profile; raises `_Failed`, and then nothing is kept."""
        core = self._core
        expires_us = expiry_of(tokens, core.clock.now_us())
        grant = msgspec.structs.replace(
            attempt.grant,
            account_fingerprint=self._account_of(attempt, parts, tokens),
            can_refresh=tokens.refresh_token is not None,
        )
        target, models_count = await self._check(attempt, tokens)
        profile_id = attempt.for_profile_id or attempt.profile_id

        def facts(stored: Stored) -> list[Draft]:
            more = {
                "vault_revision": stored.info.revision,
                "key_fingerprint": stored.key_fingerprint,
                "models_count": models_count,
                "expires_us": expires_us,
                "oauth": grant,
            }
            told = _end_of(core, attempt, target.audience, more)
            completed = of_attempt(attempt.attempt_id, OauthAttemptCompleted(profile_id=profile_id))
            return [*(Draft(f"credential-{profile_id}", fact) for fact in told), *completed]

        try:
            await self._vault.put(
                ref_of(_ref_for(core, attempt)),
                {**parts_of(tokens), **client_of(parts)},
                reason="rotate" if attempt.for_profile_id else "connect",
                record=_recorder(core, attempt.actor),
                audience=target.audience,
                profile_id=profile_id,
                then=facts,
            )
        except PalyraError:
            raise _Failed("not_stored", tokens=tokens) from None

    def _account_of(self, attempt: OAuthAttempt, parts: Mapping[str, Secret], tokens: Tokens) -> str:
        """Return a keyed digest of whose account it is, "" where nobody says; raises `_Failed`."""
        if tokens.id_token is None:
            return ""
        try:
            subject = subject_of(
                tokens.id_token,
                nonce=parts["nonce"],
                client_id=attempt.grant.client_id,
                now_s=self._core.clock.now_us() // US_PER_S,
            )
            return self._vault.fingerprint(subject)
        except BadTokenAnswer:
            raise _Failed("id_token_mismatch", tokens=tokens) from None
        except PalyraError:
            raise _Failed("not_stored", tokens=tokens) from None

    async def _check(self, attempt: OAuthAttempt, tokens: Tokens) -> tuple[Target, int]:
        """Return where a token is for, and how many models it lists there; raises `_Failed`."""
        core = self._core
        try:
            target = find_target(core.state.catalog.registry, attempt.provider)
            checked = await check_credential(target, tokens.access_token, core.clock.now_us())
        except PalyraError:
            raise _Failed("provider_unavailable", tokens=tokens) from None
        if not checked.is_good:
            code = "token_rejected" if checked.code in _TOKEN_REJECTED else "provider_unavailable"
            raise _Failed(code, http_status=checked.http_status, tokens=tokens)
        return target, checked.models_count


def origin_of(url: str) -> str:
    """Return scheme, host and port of an address, "" for none."""
    parsed = endpoint_url(url if urlsplit(url).path.strip("/") else f"{url.rstrip('/')}/-")
    return parsed.origin if isinstance(parsed, BaseUrl) else ""


def _ref_for(core: Core, attempt: OAuthAttempt) -> str:
    if not attempt.for_profile_id:
        return vault_ref(attempt.profile_id, attempt.agent_id)
    profile = core.state.auth.profiles[attempt.for_profile_id]
    return profile.vault_ref


def _end_of(core: Core, attempt: OAuthAttempt, audience: str, more: dict[str, Any]) -> list[Fact]:
    """Return what becomes of a profile whose tokens are sealed; raises `Refused` where it cannot be any more."""
    if attempt.state != "exchanging":
        raise Refused(Refusal(code="conflict", message="The login is over."))
    if attempt.for_profile_id:
        profile = or_refuse(find_profile(core.state, attempt.for_profile_id))
        before = "" if profile.oauth is None else profile.oauth.account_fingerprint
        after = more["oauth"].account_fingerprint
        return [AuthProfileRotated(account_changed=bool(before and after and before != after), **more)]
    wish = Wish(
        provider=attempt.provider,
        profile_name=attempt.profile_name,
        profile_id=attempt.profile_id,
        agent_id=attempt.agent_id,
        suffix="",
    )
    or_refuse(profile_id_for(core.state, wish))
    connected = AuthProfileConnected(
        provider=attempt.provider,
        profile_name=attempt.profile_name,
        agent_id=attempt.agent_id,
        credential_kind="oauth2",
        audience=audience,
        **more,
    )
    return [connected, *([AuthProfileDefaultSet()] if attempt.set_default else [])]


def _recorder(core: Core, actor: str) -> Callable[[Any], Awaitable[None]]:
    return lambda drafts: core.record(drafts, actor)
