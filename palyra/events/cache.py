"""The response cache: answers that were kept, and requests that they answered. Stream of the run, mostly."""

from __future__ import annotations

from palyra.events.base import Fact


class CacheStored(Fact, tag="cache.stored", frozen=True, kw_only=True):
    """A complete answer is kept for requests like this one; its text is in memory alone."""

    #: SHA-256 of what makes two requests alike, hex.
    key_digest: str
    size_bytes: int
    until_us: int


class CacheHit(Fact, tag="cache.hit", frozen=True, kw_only=True):
    """The request was answered without a provider; nothing was spent."""

    key_digest: str
    #: The run that the answer was made for, and how long ago.
    of_run_id: str
    age_ms: int
    #: What that run used.
    saved_input_tokens: int
    saved_output_tokens: int
    #: What it cost, as far as that is known.
    saved_nanousd: int = 0


class CacheEvicted(Fact, tag="cache.evicted", frozen=True, kw_only=True):
    """All answers were let go at once, because the cache was turned off. Stream `cache`.

    What goes by its time or for want of room is not told.
    """

    answers_count: int
    size_bytes: int
