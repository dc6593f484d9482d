"""Answers kept for requests like those that they were made for. In memory alone; a restart begins anew."""

from __future__ import annotations

import msgspec

from palyra.decisions.cache import Cached
from palyra.engine.shelf import Shelf
from palyra.events.base import Draft
from palyra.events.cache import CacheEvicted
from palyra.events.registry import Registry
from palyra.units import ms_to_us

_OVERHEAD_BYTES = 1_024


class CachedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer as its client got it, and what is known of it."""

    known: Cached
    body: bytes


class ResponseCache:
    """Answers by key, within the bounds that are configured when one is added."""

    def __init__(self) -> None:
        self._shelf: Shelf[CachedAnswer] = Shelf()

    def find(self, key_digest: str, now_us: int) -> CachedAnswer | None:
        """Return the answer that is kept for a key."""
        return self._shelf.get(key_digest, now_us)

    def keep(self, answer: CachedAnswer, registry: Registry) -> None:
        """Keep an answer, unless the cache was turned off meanwhile."""
        if not registry.response_cache_enabled:
            return
        until_us = answer.known.stored_us + ms_to_us(registry.response_cache_ttl_ms)
        size_bytes = len(answer.body) + _OVERHEAD_BYTES
        self._shelf.put(answer.known.key_digest, answer, size_bytes, until_us)
        self._trim(registry)

    def obey(self, registry: Registry) -> list[Draft]:
        """Hold the bounds of the configuration now; where that has no cache, let go of all and return the fact."""
        if registry.response_cache_enabled:
            self._trim(registry)
            return []
        size_bytes = self._shelf.held_bytes
        answers_count = self._shelf.clear()
        if not answers_count:
            return []
        return [Draft("cache", CacheEvicted(answers_count=answers_count, size_bytes=size_bytes))]

    def _trim(self, registry: Registry) -> None:
        self._shelf.trim(max_count=registry.response_cache_max_entries, max_bytes=registry.response_cache_max_bytes)
