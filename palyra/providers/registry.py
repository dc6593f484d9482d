"""The providers that are open right now, made from resolved settings and kept while these stay the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from palyra.providers.deterministic import DeterministicProvider, DeterministicSettings
from palyra.providers.http import HttpProvider, HttpSettings
from palyra.providers.port import Provider

ProviderSettings = HttpSettings | DeterministicSettings


def build_provider(settings: ProviderSettings) -> Provider:
    """Return a provider of the kind its settings are for. Nothing is opened before its first call."""
    if isinstance(settings, HttpSettings):
        return HttpProvider(settings)
    return DeterministicProvider(settings)


class ProviderSet:
    """Open providers by id.

    A changed registry keeps the providers whose settings are equal, with their pools and their scripts' counts, and
    gives back the others: calls in flight still use them, so their owner closes them when these have ended.
    """

    def __init__(self) -> None:
        self._open: dict[str, tuple[ProviderSettings, Provider]] = {}

    def __getitem__(self, provider_id: str) -> Provider:
        """Return an open provider; raises `KeyError` for an unknown id."""
        return self._open[provider_id][1]

    def __contains__(self, provider_id: object) -> bool:
        return provider_id in self._open

    def items(self) -> Iterator[tuple[str, Provider]]:
        """Yield id and provider of each that is open."""
        for name, (_, provider) in self._open.items():
            yield name, provider

    def adopt(self, wanted: Mapping[str, ProviderSettings]) -> list[Provider]:
        """Make the set what is wanted; return the providers that have left it, for `close_all` later."""
        kept = {name: held for name, held in self._open.items() if wanted.get(name) == held[0]}
        left = [provider for name, (_, provider) in self._open.items() if name not in kept]
        self._open = {
            name: kept.get(name) or (settings, build_provider(settings)) for name, settings in wanted.items()
        }
        return left

    async def close(self) -> None:
        """Close every provider."""
        await close_all(self.adopt({}))


async def close_all(providers: list[Provider]) -> None:
    """Close providers side by side."""
    await asyncio.gather(*(provider.close() for provider in providers))
