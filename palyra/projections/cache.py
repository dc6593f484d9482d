"""The response cache as the journal tells of it: how often it helped, and what that saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from palyra.events import cache
from palyra.events.base import Recorded
from palyra.projections.base import Chapter

if TYPE_CHECKING:
    from palyra.projections.state import State


class CacheState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Totals since the journal began."""

    stored_count: int = 0
    hits_count: int = 0
    #: Answers that a purge let go.
    evicted_count: int = 0
    saved_input_tokens: int = 0
    saved_output_tokens: int = 0
    #: As far as it is known.
    saved_nanousd: int = 0


CHAPTER = Chapter()


@CHAPTER.on(cache.CacheStored)
def _stored(state: State, recorded: Recorded, body: cache.CacheStored) -> None:
    state.cache.stored_count += 1


@CHAPTER.on(cache.CacheHit)
def _hit(state: State, recorded: Recorded, body: cache.CacheHit) -> None:
    state.cache.hits_count += 1
    state.cache.saved_input_tokens += body.saved_input_tokens
    state.cache.saved_output_tokens += body.saved_output_tokens
    state.cache.saved_nanousd += body.saved_nanousd


@CHAPTER.on(cache.CacheEvicted)
def _evicted(state: State, recorded: Recorded, body: cache.CacheEvicted) -> None:
    state.cache.evicted_count += body.answers_count
