"""What keys use right now: requests and tokens of the minute, runs that are open. In memory only.

A start forgets it: a limit protects a minute, and a budget is what protects money.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palyra.decisions.keys import Caller
from palyra.engine.rates import Bucket
from palyra.errors import Refusal
from palyra.projections.keys import NO_LIMITS, KeyLimits

_BUSY_RETRY_MS = 1_000


class KeyUse:
    """What one key uses."""

    def __init__(self, limits: KeyLimits, now_us: int) -> None:
        self.open_count = 0
        self.limit(limits, now_us)

    def limit(self, limits: KeyLimits, now_us: int) -> None:
        """Put other limits in force; their buckets are full."""
        self.limits = limits
        rpm, tpm = limits.requests_per_minute, limits.tokens_per_minute
        self.requests = Bucket(rpm, limits.burst or rpm, now_us) if rpm else None
        self.tokens = Bucket(tpm, tpm, now_us) if tpm else None

    def figures(self, now_us: int) -> Mapping[str, Mapping[str, int]]:
        """Return limit, rest and time until the whole limit is there again, of what is limited."""
        return {
            name: {
                "limit": bucket.per_minute,
                "remaining": max(0, bucket.left(now_us)),
                "reset_ms": bucket.wait_ms(bucket.capacity, now_us),
            }
            for name, bucket in (("requests", self.requests), ("tokens", self.tokens))
            if bucket is not None
        }


class Passage:
    """One request of a limited key, from being let in until it has ended."""

    def __init__(self, use: KeyUse) -> None:
        self._use = use
        self._is_open = True
        #: Tokens that were taken for it.
        self.charged_tokens = 0
        use.open_count += 1

    @property
    def counts_tokens(self) -> bool:
        return self._use.tokens is not None

    def charge(self, tokens: int, now_us: int) -> Refusal | None:
        """Take the tokens that a request is estimated at, or refuse it."""
        bucket = self._use.tokens
        if bucket is None:
            return None
        wait_ms = bucket.wait_ms(tokens, now_us)
        if wait_ms:
            return _limited("tokens a minute", wait_ms, self._use, now_us)
        bucket.take(tokens, now_us)
        self.charged_tokens = tokens
        return None

    def settle(self, tokens: int, now_us: int) -> None:
        """Take what the estimate was short of, or give back what it was too much."""
        if self._use.tokens is not None:
            self._use.tokens.take(tokens - self.charged_tokens, now_us)
            self.charged_tokens = tokens

    def end(self) -> None:
        """Make room for the next one; may be called more than once."""
        if self._is_open:
            self._is_open = False
            self._use.open_count -= 1


class Throttle:
    """The limited keys in use, by id."""

    def __init__(self) -> None:
        self._uses: dict[str, KeyUse] = {}

    def enter(self, caller: Caller, now_us: int) -> Passage | Refusal | None:
        """Let a request of this caller in, or refuse it; None for a caller without limits."""
        if caller.limits == NO_LIMITS:
            return None
        use = self._use(caller, now_us)
        runs = use.limits.concurrent_runs
        if runs and use.open_count >= runs:
            return _limited(f"{runs} at once", _BUSY_RETRY_MS, use, now_us)
        for name, bucket in (("requests", use.requests), ("tokens", use.tokens)):
            wait_ms = bucket.wait_ms(1, now_us) if bucket is not None else 0
            if wait_ms:
                return _limited(f"{name} a minute", wait_ms, use, now_us)
        if use.requests is not None:
            use.requests.take(1, now_us)
        return Passage(use)

    def _use(self, caller: Caller, now_us: int) -> KeyUse:
        use = self._uses.get(caller.key_id)
        if use is None:
            use = self._uses[caller.key_id] = KeyUse(caller.limits, now_us)
        elif use.limits != caller.limits:
            use.limit(caller.limits, now_us)
        return use


def _limited(what: str, wait_ms: int, use: KeyUse, now_us: int) -> Refusal:
    details: dict[str, Any] = {"rate_limit": use.figures(now_us)}
    message = f"This key's limit is reached: {what}."
    return Refusal(code="client_rate_limited", message=message, retry_after_ms=wait_ms, details=details)
