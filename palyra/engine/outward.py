"""What a run needs of the outside: providers, secrets, and tokens that are renewed in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from palyra.providers.port import Provider
from palyra.redaction import Secret


class Outward(Protocol):
    """What a run needs of the outside: providers by id, and secrets by credential and revision."""

    def provider(self, provider_id: str) -> Provider: ...

    @property
    def absent(self) -> Sequence[str]:
        """Credentials whose secret is not there, as far as that is known without trying."""
        ...

    def secret(self, provider_id: str, credential_ref: str, revision: int) -> Secret | None:
        """Return a credential's secret, for this provider; raises `PalyraError` where it cannot be had."""
        ...


class Renewals(Protocol):
    """Who renews access tokens that end."""

    def is_about_to_end(self, credential_ref: str) -> bool:
        """Return whether a request with this credential has to wait for a new token."""
        ...

    async def renew_in_time(self, credential_refs: Sequence[str]) -> None:
        """Renew what is about to end, if that takes no longer than a request may wait."""
        ...

    async def renew_after_401(self, credential_ref: str, seen_revision: int) -> None:
        """Renew a token that its provider did not take, unless it is another one by now."""
        ...


class NoRenewals:
    """For an engine whose credentials are all keys."""

    def is_about_to_end(self, credential_ref: str) -> bool:
        return False

    async def renew_in_time(self, credential_refs: Sequence[str]) -> None: ...

    async def renew_after_401(self, credential_ref: str, seen_revision: int) -> None: ...
