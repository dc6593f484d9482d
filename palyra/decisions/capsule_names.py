"""Names in a capsule: everybody in it is a token, and texts, addresses and credentials are left out.

What decisions compare with each other (a profile's origin with a provider's, an agent with a profile's) still
compares the same. Budgets have people of their own: `capsule_budgets`.
"""

from __future__ import annotations

import copy
import hmac
from typing import Any, TypeVar

import msgspec

from palyra.events.attempts import AttemptFailed, AttemptStarted, AttemptSucceeded
from palyra.events.base import Fact, UnknownEvent
from palyra.events.registry import ProviderEntry, Registry
from palyra.events.routing import CredentialVerdict, PlannedCredential, RoutingDecided
from palyra.events.runs import RunAdmitted, RunCancelled, RunCancelRequested, RunRefused
from palyra.events.usage import UsageRecorded
from palyra.projections.auth import IMPLICIT, AuthProfile, ProfileOrder
from palyra.projections.vault import VAULT_FORM
from palyra.redaction import redact_text

#: In place of the variable or the file that holds a key.
_HIDDEN = "hidden"

NamedT = TypeVar("NamedT", PlannedCredential, CredentialVerdict)


class Names:
    """Gives tokens. The same key gives the same ones, and without it nobody can try names."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def token(self, kind: str, name: str) -> str:
        """Return what stands for a name of this kind; "" for no name."""
        digest = hmac.new(self._key, f"{kind}|{name}".encode(), "sha256").hexdigest()
        return f"{kind}-{digest[:12]}" if name else ""

    def credential(self, name: str) -> str:
        """Return the name of a credential; that of one which an entry names says no more than the entry's."""
        return name if name.startswith(IMPLICIT) else self.token("credential", name)

    def reference(self, credential_ref: str) -> str:
        """Return where a key is without saying it, but so that a secret of the vault is still one."""
        if credential_ref.startswith(VAULT_FORM):
            return f"{VAULT_FORM}{self.token('secret', credential_ref)}"
        return _HIDDEN if credential_ref else ""

    def profile(self, profile: AuthProfile) -> AuthProfile:
        """Return a profile with all that is compared when one is chosen, as tokens."""
        return msgspec.structs.replace(
            copy.deepcopy(profile),
            profile_id=self.credential(profile.profile_id),
            provider=self.token("label", profile.provider),
            profile_name=self.token("name", profile.profile_name.casefold()),
            agent_id=self.token("agent", profile.agent_id),
            audience=self._place(profile.audience),
            key_fingerprint="",
            oauth=None,
        )

    def order(self, order: ProfileOrder) -> ProfileOrder:
        """Return an order of profiles by their tokens."""
        return msgspec.structs.replace(order, profile_ids=[self.credential(name) for name in order.profile_ids])

    def registry(self, registry: Registry) -> Registry:
        """Return a registry without what only a call needs: where providers are, credentials, headers, scripts.

        An origin that profiles are bound to is a token, for it is compared with theirs.
        """
        providers = [
            msgspec.structs.replace(
                entry,
                display_name=entry.provider_id,
                base_url=self._place(entry.audience) if _takes_profiles(entry) else "",
                ca_file="",
                credential_ref=self.reference(entry.credential_ref),
                auth_profile_id=self.token("credential", entry.auth_profile_id),
                auth_provider_kind=self.token("label", entry.auth_provider_kind),
                headers={},
                forward_headers=[],
                rules=[],
            )
            for entry in registry.providers
        ]
        return msgspec.structs.replace(registry, providers=providers)

    def fact(self, body: Fact | UnknownEvent) -> Fact | UnknownEvent:
        """Return a fact of a run without people, texts and addresses; other facts as they are."""
        replace = msgspec.structs.replace
        match body:
            case RunAdmitted():
                asked = redact_text(body.model_requested)
                return replace(body, **self._asking(body), model_requested=asked, tags={}, body_digest="")
            case RunRefused():
                return replace(body, **self._asking(body), model_requested=redact_text(body.model_requested))
            case UsageRecorded():
                return replace(body, **self._asking(body))
            case RoutingDecided():
                return replace(
                    body,
                    plan=[replace(step, credentials=self._all_of(step.credentials)) for step in body.plan],
                    verdicts=self._all_of(body.verdicts),
                )
            case AttemptStarted():
                return replace(body, credential_ref=self.credential(body.credential_ref))
            case AttemptSucceeded():
                return replace(
                    body,
                    raw_stop=redact_text(body.raw_stop),
                    upstream_request_id="",
                    upstream_response_id="",
                    upstream_model=redact_text(body.upstream_model),
                )
            case AttemptFailed():
                next_ref = self.credential(body.next_credential_ref)
                return replace(body, code=redact_text(body.code), message="", next_credential_ref=next_ref)
            case RunCancelled() | RunCancelRequested():
                return replace(body, by=self.token("principal", body.by))
        return body

    def _asking(self, body: RunAdmitted | RunRefused | UsageRecorded) -> dict[str, Any]:
        """Return who asks, as tokens."""
        return {
            f"{kind}_id": self.token(kind, getattr(body, f"{kind}_id"))
            for kind in ("principal", "key", "session", "agent")
        }

    def _all_of(self, named: list[NamedT]) -> list[NamedT]:
        return [msgspec.structs.replace(one, credential_ref=self.credential(one.credential_ref)) for one in named]

    def _place(self, audience: str) -> str:
        return f"https://{self.token('origin', audience)}:443" if audience else ""


def _takes_profiles(entry: ProviderEntry) -> bool:
    return entry.auth_scheme != "none" and not entry.credential_ref
