"""What runs reach outside: providers as they are configured, and the secrets that go with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import palyra
from palyra.auth.references import CredentialMissing, ReferenceSource
from palyra.engine.core import Core
from palyra.engine.vault import VaultKeeper, ref_of
from palyra.events.registry import ProviderEntry
from palyra.projections.auth import IMPLICIT
from palyra.projections.vault import VAULT_FORM, presence_of
from palyra.providers.deterministic import DeterministicSettings
from palyra.providers.http import HttpSettings
from palyra.providers.port import Provider
from palyra.providers.registry import ProviderSet, ProviderSettings
from palyra.redaction import Secret
from palyra.units import US_PER_S
from palyra.wire.netguard import BaseUrl, validate_base_url_network_policy
from palyra.wire.script import parse_rule

#: How often a credential that was not there is looked for.
_LOOK_AGAIN_US = 5 * US_PER_S


class Outside:
    """Providers and secrets, as runs ask for them."""

    def __init__(
        self, entries: Sequence[ProviderEntry], references: ReferenceSource, keeper: VaultKeeper, core: Core
    ) -> None:
        """`entries` are the providers as they are configured; `core` knows the profiles."""
        self._providers = ProviderSet()
        self._references = references
        self._keeper = keeper
        self._core = core
        self._origins: dict[str, str] = {}
        #: Where the keys are that entries of the configuration name.
        self._places: dict[str, str] = {}
        #: Providers that were taken out, for attempts that had been started before.
        self._gone: dict[str, Provider] = {}
        self.adopt(entries)

    def adopt(self, entries: Sequence[ProviderEntry]) -> list[Provider]:
        """Let these be the providers; return those that are not used by what starts from now on."""
        wanted = {entry.provider_id: provider_settings(entry) for entry in entries}
        self._gone |= {name: held for name, held in self._providers.items() if name not in wanted}
        self._origins |= {entry.provider_id: entry.audience for entry in entries}
        self._places |= {f"{IMPLICIT}{entry.provider_id}": entry.credential_ref for entry in entries}
        outside = (name for name, place in self._places.items() if place and not place.startswith(VAULT_FORM))
        self._missing = self._missing_of(outside)
        self._looked_us = self._core.clock.monotonic_us()
        return self._providers.adopt(wanted)

    async def close(self) -> None:
        """Close every provider."""
        await self._providers.close()

    def provider(self, provider_id: str) -> Provider:
        return self._providers[provider_id] if provider_id in self._providers else self._gone[provider_id]

    @property
    def absent(self) -> Sequence[str]:
        """Credentials that were not there at the last look; variables and files are looked for now and then."""
        if self._missing and self._core.clock.monotonic_us() - self._looked_us >= _LOOK_AGAIN_US:
            self._missing, self._looked_us = self._missing_of(self._missing), self._core.clock.monotonic_us()
        return self._missing if not self._core.state.vault.damage else (*self._missing, *self._damaged())

    def _damaged(self) -> Iterator[str]:
        """Yield credentials whose secret the vault has lost; one that is locked is met when it is to be read."""
        state = self._core.state
        places = {name: profile.vault_ref for name, profile in state.auth.profiles.items()}
        sealed = (item for item in self._places.items() if item[1].startswith(VAULT_FORM))
        places |= {name: place.removeprefix(VAULT_FORM) for name, place in sealed}
        yield from (name for name, ref in places.items() if presence_of(state, ref) in ("missing", "damaged"))

    def secret(self, provider_id: str, credential_ref: str, revision: int) -> Secret | None:
        if not credential_ref:
            return None
        profile = self._core.state.auth.profiles.get(credential_ref)
        place = self._places.get(credential_ref, "") if profile is None else f"{VAULT_FORM}{profile.vault_ref}"
        if place.startswith(VAULT_FORM):
            secret = self._sealed(provider_id, place, revision)
        else:
            secret = self._referred(credential_ref, place)
        self._core.known.hold(credential_ref, secret)
        return secret

    def _referred(self, credential_ref: str, place: str) -> Secret:
        try:
            return self._references.get(place)
        except CredentialMissing:
            self._missing = tuple(dict.fromkeys((*self._missing, credential_ref)))
            raise

    def _missing_of(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if not self._has(name))

    def _has(self, credential_ref: str) -> bool:
        try:
            self._references.get(self._places[credential_ref])
        except CredentialMissing:
            return False
        return True

    def _sealed(self, provider_id: str, credential_ref: str, revision: int) -> Secret:
        """Return what is sent of a secret of the vault, if it may go where this provider is."""
        ref = ref_of(credential_ref.removeprefix(VAULT_FORM))
        opened = self._keeper.opened(ref, revision)
        secret = opened.secret or opened.parts.get("api_key") or opened.parts.get("access_token")
        if secret is None:
            raise CredentialMissing(credential_ref, "holds nothing that could be sent")
        audience = opened.info.audience
        if audience and audience != self._origins.get(provider_id):
            raise CredentialMissing(credential_ref, f"was stored for {audience} and is sent nowhere else")
        return secret


def provider_settings(entry: ProviderEntry) -> ProviderSettings:
    """Return what a provider is made of."""
    if entry.kind == "deterministic":
        return DeterministicSettings(
            rules=tuple(parse_rule(rule) for rule in entry.rules),
            fixtures=entry.fixtures,
            fixtures_digest=entry.fixtures_digest,
            fixture_mode=entry.fixture_mode,
            fixture_timing=entry.fixture_timing,
        )
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
