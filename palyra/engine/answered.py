"""Answers that are at hand before anybody is asked: of the very same request, or of one like it.

They are looked for in the step in which a request would be admitted, and kept once one has been given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from palyra.decisions.base import Decision
from palyra.decisions.cache import Place, admit_hit, is_fresh, is_storable, place_of
from palyra.decisions.runs import AdmitRun, refusal_draft
from palyra.engine.candidate import Candidate
from palyra.engine.client import ClientSide, KeptAnswer
from palyra.engine.exchange import Ended
from palyra.engine.settlement import Storing
from palyra.engine.surfaces import Surface
from palyra.limits import REPEAT_MAX_BYTES
from palyra.units import us_to_ms

if TYPE_CHECKING:
    from palyra.engine.runs import Runs


class Answered:
    """What one request finds of answers that were given, and leaves of its own."""

    def __init__(self, runs: Runs, command: AdmitRun, surface: Surface, client: ClientSide) -> None:
        #: The answer, where it is at hand.
        self.answer: KeptAnswer | None = None
        self._runs = runs
        self._core = runs.core
        self._command = command
        self._surface = surface
        self._client = client
        #: Where the answer is kept for requests like this one.
        self._place: Place | None = None
        if command.command_name or (command.cache is not None and command.cache.writes):
            client.keep_copy(REPEAT_MAX_BYTES)  # events are many times as long as the answer that they make up

    def look(self, now_us: int) -> Decision | None:
        """Return what is decided where the request was made before or is like one; None for one to be admitted."""
        if self._command.command_name:
            judged = self._runs.repeats.judge(self._core.state, self._command, self._runs.open, now_us)
            if isinstance(judged, KeptAnswer):
                self.answer = judged
                return Decision([])
            if judged is not None:
                return Decision([refusal_draft(self._command, judged)], judged)
        return None if self._command.cache is None else self._look_into_cache(now_us)

    def _look_into_cache(self, now_us: int) -> Decision | None:
        state, command = self._core.state, self._command
        ask = command.cache
        assert ask is not None
        self._client.cache_word = "miss" if ask.reads else "bypass" if ask.writes else "off"
        self._place = place = place_of(state, command) if ask.writes else None
        answer = None if place is None else self._runs.cache.find(place.key_digest, now_us)
        if place is None or answer is None or not is_fresh(command, answer.known, now_us):
            return None
        age_ms = max(0, us_to_ms(now_us - answer.known.stored_us))
        self.answer = self._client.from_cache(answer, age_ms)
        return admit_hit(state, command, place, answer.known, now_us)

    async def storable(self, ended: Ended, candidate: Candidate) -> Storing | None:
        """Return a request's last answer for the cache, if it is one that is kept."""
        facts, place = ended.facts, self._place
        if place is None or ended.failure is not None or facts is None or ended.outgrown:
            return None
        if self._client.is_gone or candidate.entry != place.entry:
            return None
        body = await self._surface.whole(self._client.sent, facts) or b""
        state, command, index = self._core.state, self._command, candidate.index
        if not is_storable(state, command, stop=facts.stop, candidate=index, size_bytes=len(body)):
            return None
        return Storing(place.key_digest, candidate.entry, facts.stop, body)

    def store(self, stored: Storing | None) -> None:
        """Put an answer into the cache whose fact is durable."""
        if stored is not None and stored.kept is not None:
            self._runs.cache.keep(stored.kept, self._core.state.catalog.registry)

    def keep_for_repeats(self, answer: KeptAnswer | None) -> None:
        """Keep what the client was told, for when it sends a request with a name again."""
        self._runs.repeats.keep(self._core.state, self._command, answer, self._core.clock.now_us())
