"""Backoff: how long the next try at the same candidate waits, or that there is none."""

from __future__ import annotations

from palyra.decisions.failures import Failure, rule_of
from palyra.events.registry import ProviderEntry

_BACKOFF_MAX_MS = 8_000
_RETRY_AFTER_JITTER_MS = 250
_BP = 10_000
#: A provider that asks for a longer pause is left at once where another candidate is ready.
PATIENCE_MS = 1_000


def backoff_ms(retry: int, base_ms: int, retry_after_ms: int | None, jitter_bp: int) -> int:
    """Return the wait before try `retry` + 1 (retry counts from 0): half fixed, half jitter, at least Retry-After.

    `jitter_bp` is a random share in [0, 10,000) stamped at the edge, so that a replay waits the same.
    """
    full_ms = min(_BACKOFF_MAX_MS, base_ms << min(retry, 20))
    wait_ms = full_ms // 2 + full_ms * jitter_bp // (2 * _BP)
    if retry_after_ms is not None:
        wait_ms = max(wait_ms, retry_after_ms + _RETRY_AFTER_JITTER_MS * jitter_bp // _BP)
    return wait_ms


def wait_before_retry_ms(
    failure: Failure,
    provider: ProviderEntry,
    *,
    retry: int,
    time_left_ms: int,
    jitter_bp: int,
    has_alternative: bool,
) -> int | None:
    """Return the wait before the next try at this candidate, or None when it is not tried again."""
    rule = rule_of(failure.failure_class)
    allowed = {"no": 0, "once": 1, "yes": provider.max_retries}[rule.retry]
    if failure.should_retry is not None:
        allowed = provider.max_retries if failure.should_retry else 0
    if failure.phase == "content" or retry >= min(allowed, provider.max_retries):
        return None
    asked_ms = failure.retry_after_ms
    if asked_ms is not None:
        if asked_ms > provider.retry_after_cap_ms or asked_ms > time_left_ms:
            return None
        if failure.failure_class == "rate_limited" and asked_ms > PATIENCE_MS and has_alternative:
            return None
    wait_ms = backoff_ms(retry, provider.retry_backoff_ms, asked_ms, jitter_bp)
    return wait_ms if wait_ms < time_left_ms else None
