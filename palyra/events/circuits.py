"""Circuits: one a provider; consecutive provider faults open it. Stream `provider-<provider_id>`."""

from __future__ import annotations

from typing import Literal

from palyra.events.base import Fact


class CircuitOpened(Fact, tag="circuit.opened", frozen=True, kw_only=True):
    """No attempt goes to the provider until then."""

    until_us: int
    #: threshold, trial_failed, trial_void.
    reason: str
    failures_count: int = 0


class CircuitHalfOpened(Fact, tag="circuit.half_opened", frozen=True, kw_only=True):
    """One attempt, the trial, may pass; all others see the circuit open."""

    run_id: str
    attempt: int


class CircuitClosed(Fact, tag="circuit.closed", frozen=True, kw_only=True):
    """The trial reached an answer; attempts pass again."""


class CircuitForced(Fact, tag="circuit.forced", frozen=True, kw_only=True):
    """Somebody opened or closed the circuit by hand; until then no failure and no trial changes it."""

    after: Literal["open", "closed"]
    until_us: int
