"""What runs reach outside: providers as they are configured, and the secrets that go with them."""

from __future__ import annotations

import palyra
from palyra.auth.references import ReferenceSource
from palyra.events.registry import ProviderEntry
from palyra.providers.deterministic import DeterministicSettings
from palyra.providers.http import HttpSettings
from palyra.providers.port import Provider
from palyra.providers.registry import ProviderSet, ProviderSettings
from palyra.redaction import Secret
from palyra.wire.netguard import BaseUrl, validate_base_url_network_policy
from palyra.wire.script import parse_rule


class Outside:
    """Providers and secrets, as runs ask for them."""

    def __init__(self, providers: ProviderSet, references: ReferenceSource) -> None:
        self._providers = providers
        self._references = references

    def provider(self, provider_id: str) -> Provider:
        return self._providers[provider_id]

    def secret(self, credential_ref: str) -> Secret | None:
        return self._references.get(credential_ref) if credential_ref else None


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
