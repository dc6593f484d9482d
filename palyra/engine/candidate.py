"""The candidate that a run has come to: its place in the plan, and its configuration when the run came to it."""

from __future__ import annotations

import msgspec

from palyra.decisions.routing import output_cap
from palyra.engine.surfaces import Part, Surface
from palyra.events.registry import ModelEntry, ProviderEntry
from palyra.events.routing import PlanStep
from palyra.projections.catalog import model_entry, provider_entry
from palyra.projections.runs import Run
from palyra.projections.state import State
from palyra.providers.port import Call


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the plan with what is configured for it."""

    index: int
    step: PlanStep
    provider: ProviderEntry
    entry: ModelEntry
    #: Output maximum that is sent upstream, None where the client's body stays as it is.
    cap_tokens: int | None

    def capped(self, tokens: int) -> Candidate:
        """Return the candidate with a maximum of output that is not above its own."""
        cap_tokens = tokens if self.cap_tokens is None else min(tokens, self.cap_tokens)
        return msgspec.structs.replace(self, cap_tokens=cap_tokens)

    def call(self, surface: Surface, part: Part, time_left_ms: int) -> Call:
        """Return one attempt as its provider gets it; the part's body has been prepared."""
        return Call(
            path=part.path,
            headers=surface.headers_for(self.provider),
            body=part.body,
            stream=part.stream,
            connect_timeout_ms=self.provider.connect_timeout_ms,
            first_byte_timeout_ms=self.entry.first_byte_timeout_ms,
            idle_timeout_ms=self.provider.idle_timeout_ms,
            total_timeout_ms=min(self.entry.request_timeout_ms, time_left_ms),
        )


def candidate_of(state: State, run: Run, index: int) -> Candidate:
    """Return a candidate of a run's plan; the plan holds only what is configured."""
    step = run.plan[index]
    provider = provider_entry(state, step.provider_id)
    entry = model_entry(state, run.admitted.endpoint, step.provider_id, step.model_id)
    assert provider is not None
    assert entry is not None
    cap_tokens = output_cap(state, step, run.admitted.endpoint, run.output_requested_tokens)
    return Candidate(index=index, step=step, provider=provider, entry=entry, cap_tokens=cap_tokens)
