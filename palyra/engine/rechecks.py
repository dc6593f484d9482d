"""Keys that a provider has rejected are looked at again, now and then: it may have been the provider's mistake.

By the free model listing, never by a request. A key of the configuration may be another one since the last start,
so it is looked at right after that.
"""

from __future__ import annotations

from typing import Protocol

from palyra.decisions.profiles import next_recheck
from palyra.engine.core import Core
from palyra.engine.credential_checks import Checked, check_credential, find_target
from palyra.errors import PalyraError
from palyra.events.auth import AuthProfileValidated, AuthProfileValidationFailed
from palyra.events.base import Draft
from palyra.projections.auth import IMPLICIT, failure_of, live_revision
from palyra.redaction import Secret


class Secrets(Protocol):
    """Where secrets are read."""

    def secret(self, provider_id: str, credential_ref: str, revision: int) -> Secret | None: ...


class RecheckChore:
    """The look at the rejected key that is due."""

    def __init__(self, core: Core, secrets: Secrets) -> None:
        self._core = core
        self._secrets = secrets
        #: Keys of the configuration that were looked at since the start.
        self._seen: dict[str, None] = {}

    def due_at_us(self) -> int | None:
        due = self._due()
        return None if due is None else due[1]

    async def do(self) -> None:
        """Look at one key and record what its provider said; the next one follows by itself."""
        due, core = self._due(), self._core
        if due is None:
            return
        credential_ref = due[0]
        self._seen[credential_ref] = None
        revision = live_revision(core.state, credential_ref)
        profile = core.state.auth.profiles.get(credential_ref)
        provider = credential_ref.removeprefix(IMPLICIT) if profile is None else profile.provider
        code, checked = "missing_credential", Checked(code="provider_unavailable")
        try:
            target = find_target(core.state.catalog.registry, provider)
            at = target.provider_ids[0] if target.provider_ids else ""
            secret = self._secrets.secret(provider if profile is None else at, credential_ref, revision)
            if secret is not None:
                checked = await check_credential(target, secret, core.clock.now_us())
                code = checked.code
        except PalyraError as error:
            code = error.code
        if checked.is_good:
            fact: AuthProfileValidated | AuthProfileValidationFailed = AuthProfileValidated(
                vault_revision=revision, models_count=checked.models_count
            )
        else:
            fact = AuthProfileValidationFailed(
                provider=provider, failure_code=code, http_status=checked.http_status, vault_revision=revision
            )
        await core.record([Draft(f"credential-{credential_ref}", fact)])

    def _due(self) -> tuple[str, int] | None:
        state = self._core.state
        for ref in state.auth.standings:
            is_new = ref.startswith(IMPLICIT) and ref not in self._seen
            failure = failure_of(state, ref) if is_new else None
            if failure is not None and failure.since_us < self._started_us():
                return ref, 0
        return next_recheck(state)

    def _started_us(self) -> int:
        boots = self._core.state.daemon.boots
        return boots[-1].started_us if boots else 0
