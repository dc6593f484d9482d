"""Discovery: what a provider's list changes, and when it is asked for again. Source: gateway spec, 10.2."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from palyra.events.discovery import DiscoveryCompleted, ListedModel
from palyra.events.registry import ProviderEntry
from palyra.projections.catalog import list_of
from palyra.projections.state import State
from palyra.units import US_PER_MS

#: A list that could not be had is asked for again after this long, then twice as long, up to an hour.
_RETRY_FIRST_MS, _RETRY_MAX_MS = 30_000, 3_600_000
_ENCODER = msgspec.json.Encoder(order="sorted")


def is_discovered(state: State, provider: ProviderEntry) -> bool:
    """Return whether a provider is asked for its list."""
    is_asked = provider.enabled and provider.kind != "deterministic" and provider.discovery_mode != "off"
    return is_asked and state.catalog.registry.discovery_ttl_ms > 0


def retry_ms(failures_in_row: int) -> int:
    """Return the pause after so many failures."""
    return min(_RETRY_FIRST_MS << min(failures_in_row - 1, 16), _RETRY_MAX_MS)


def next_us(state: State, now_us: int, failures_in_row: int) -> int:
    """Return when a list that was just asked for is to be asked for again."""
    ttl_ms = state.catalog.registry.discovery_ttl_ms
    return now_us + (retry_ms(failures_in_row) if failures_in_row else ttl_ms) * US_PER_MS


def compare(
    state: State, provider_id: str, listed: Sequence[ListedModel], dropped_count: int
) -> DiscoveryCompleted | None:
    """Return what a list changes, or None.

    A model that is not listed stays for now; one that two lists running leave out is gone.
    """
    known = list_of(state, provider_id)
    now = {one.upstream_model: one for one in listed}
    added = [one for one in now.values() if known.models.get(one.upstream_model) != one]
    back = [now[name] for name in known.missing if name in now and now[name] not in added]
    gone = [name for name in known.models if name not in now]
    missing = [name for name in gone if name not in known.missing]
    removed = [name for name in gone if name in known.missing]
    if not (added or back or missing or removed or known.failure_class or not known.digest):
        return None
    return DiscoveryCompleted(
        digest=hashlib.sha256(_ENCODER.encode([now[name] for name in sorted(now)])).hexdigest(),
        models_count=len(now),
        added=[*added, *back],
        missing=missing,
        removed=removed,
        dropped_count=dropped_count,
    )
