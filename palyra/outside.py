"""What runs reach outside: providers as they are configured, and the secrets that go with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import palyra
from palyra.auth.references import CredentialMissing, ReferenceSource
from palyra.engine.vault import VaultKeeper, ref_of
from palyra.events.registry import ProviderEntry
from palyra.projections.vault import VAULT_FORM
from palyra.providers.deterministic import DeterministicSettings
from palyra.providers.http import HttpSettings
from palyra.providers.port import Provider
from palyra.providers.registry import ProviderSet, ProviderSettings
from palyra.redaction import Secret
from palyra.wire.netguard import BaseUrl, validate_base_url_network_policy
from palyra.wire.script import parse_rule


class Outside:
    """Providers and secrets, as runs ask for them."""

    def __init__(
        self, providers: ProviderSet, references: ReferenceSource, keeper: VaultKeeper, origins: Mapping[str, str]
    ) -> None:
        """`origins` says for each provider where its requests go: `https://api.openai.com:443`."""
        self._providers = providers
        self._references = references
        self._keeper = keeper
        self._origins = origins

    def provider(self, provider_id: str) -> Provider:
        return self._providers[provider_id]

    def secret(self, provider_id: str, credential_ref: str, revision: int) -> Secret | None:
        if not credential_ref:
            return None
        if credential_ref.startswith(VAULT_FORM):
            return self._sealed(provider_id, credential_ref, revision)
        return self._references.get(credential_ref)

    def _sealed(self, provider_id: str, credential_ref: str, revision: int) -> Secret:
        """Return a text of the vault, if it may go where this provider is."""
        ref = ref_of(credential_ref.removeprefix(VAULT_FORM))
        opened = self._keeper.opened(ref, revision)
        if opened.secret is None:
            raise CredentialMissing(credential_ref, "is no single secret but the parts of a profile")
        audience = opened.info.audience
        if audience and audience != self._origins.get(provider_id):
            raise CredentialMissing(credential_ref, f"was stored for {audience} and is sent nowhere else")
        return opened.secret


def origins_of(entries: Iterable[ProviderEntry]) -> dict[str, str]:
    """Return where the requests of each provider go; those of a kind that goes nowhere are left out."""
    found = {}
    for entry in entries:
        base = validate_base_url_network_policy(entry.base_url, allow_private=entry.allow_private_base_url)
        if isinstance(base, BaseUrl):
            found[entry.provider_id] = base.origin
    return found


def provider_settings(entry: ProviderEntry) -> ProviderSettings:
    """Return what a provider is made of."""
    if entry.kind == "deterministic":
        return DeterministicSettings(rules=tuple(parse_rule(rule) for rule in entry.rules))
    base = validate_base_url_network_policy(entry.base_url, allow_private=entry.allow_private_base_url)
    assert isinstance(base, BaseUrl), "configuration has checked the base URL"
    return HttpSettings(
        base=base,
        allow_private=entry.allow_private_base_url,
        auth_scheme=entry.auth_scheme,
        headers=entry.headers,
        ca_file=entry.ca_file,
        user_agent=f"palyra/{palyra.__version__}",
        max_connections=entry.max_concurrency,
    )
