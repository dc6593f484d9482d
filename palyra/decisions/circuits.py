"""The breaker: when a provider's circuit opens, lets its one trial through, and closes."""

from __future__ import annotations

from typing import Literal

from palyra.events.circuits import CircuitClosed, CircuitForced, CircuitHalfOpened, CircuitOpened
from palyra.projections.circuits import Circuit
from palyra.units import US_PER_MS


def at_start(circuit: Circuit, *, run_id: str, attempt: int) -> CircuitHalfOpened | None:
    """Return the fact of an attempt that may start: through an open circuit it is the trial."""
    return CircuitHalfOpened(run_id=run_id, attempt=attempt) if circuit.status == "open" else None


def is_trial(circuit: Circuit, *, run_id: str, attempt: int) -> bool:
    """Return whether this attempt is the circuit's trial."""
    return circuit.status == "half_open" and (circuit.trial_run, circuit.trial_attempt) == (run_id, attempt)


def at_content(circuit: Circuit, *, run_id: str, attempt: int) -> CircuitClosed | None:
    """Return the fact of an attempt that reached content or a complete answer."""
    return CircuitClosed() if is_trial(circuit, run_id=run_id, attempt=attempt) else None


def at_failure(
    circuit: Circuit,
    *,
    run_id: str,
    attempt: int,
    counted: bool,
    threshold: int,
    cooldown_ms: int,
    now_us: int,
) -> CircuitOpened | None:
    """Return the fact of a failed, cancelled or abandoned attempt; `circuit` is as it was before the failure."""
    until_us = now_us + cooldown_ms * US_PER_MS
    failures_count = circuit.streak + counted
    if is_trial(circuit, run_id=run_id, attempt=attempt):
        if counted:
            return CircuitOpened(until_us=until_us, reason="trial_failed", failures_count=failures_count)
        return CircuitOpened(until_us=now_us, reason="trial_void", failures_count=failures_count)
    if now_us < circuit.held_until_us:
        return None
    if counted and circuit.status == "closed" and failures_count >= threshold:
        return CircuitOpened(until_us=until_us, reason="threshold", failures_count=failures_count)
    return None


#: How long a circuit is held where nobody says: until somebody does something else about it.
_FOR_EVER_US = 253_402_300_799 * 1_000_000


def force(circuit: Circuit, *, after: Literal["open", "closed"], for_ms: int | None, now_us: int) -> CircuitForced:
    """Return the fact of a circuit that somebody opens or closes by hand.

    An open one lets its trial pass when the time is over; a closed one counts failures again.
    """
    until_us = _FOR_EVER_US if after == "open" else 0
    if for_ms is not None:
        until_us = now_us + for_ms * US_PER_MS
    return CircuitForced(after=after, until_us=until_us)
