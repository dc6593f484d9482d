"""Circuits: whether attempts may go to a provider. Transitions are decided in `decisions/circuits.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from palyra.events import attempts, circuits, daemon
from palyra.events.base import Recorded
from palyra.projections.base import Chapter
from palyra.projections.runs import Run

if TYPE_CHECKING:
    from palyra.projections.state import State

CircuitStatus = Literal["closed", "open", "half_open"]


class Circuit(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """One provider's circuit."""

    status: CircuitStatus = "closed"
    #: Counted failures in a row over all models of the provider.
    streak: int = 0
    until_us: int = 0
    reason: str = ""
    #: The trial of a half-open circuit.
    trial_run: str = ""
    trial_attempt: int = 0
    #: Until then the circuit stays as somebody has put it.
    held_until_us: int = 0
    opened_count: int = 0
    changed_us: int = 0


class CircuitsState(msgspec.Struct, kw_only=True):
    """Circuits by provider_id; a provider without an entry has a closed circuit and no failure."""

    by_provider: dict[str, Circuit] = {}


CHAPTER = Chapter()
_CLOSED = Circuit()


def provider_of(stream: str) -> str:
    """Return the provider's id of a stream name `provider-<id>`."""
    return stream[9:]


def circuit_of(state: State, provider_id: str) -> Circuit:
    """Return the provider's circuit; not to be changed by the caller."""
    return state.circuits.by_provider.get(provider_id, _CLOSED)


def is_passable(circuit: Circuit, now_us: int) -> bool:
    """Return whether an attempt may start: closed, or open with its cooldown over (the attempt is the trial)."""
    return circuit.status == "closed" or (circuit.status == "open" and now_us >= circuit.until_us)


def _own(state: State, provider_id: str) -> Circuit:
    return state.circuits.by_provider.setdefault(provider_id, Circuit())


@CHAPTER.on(circuits.CircuitOpened)
def _opened(state: State, recorded: Recorded, body: circuits.CircuitOpened) -> None:
    circuit = _own(state, provider_of(recorded.stream))
    circuit.status, circuit.until_us, circuit.reason = "open", body.until_us, body.reason
    circuit.trial_run, circuit.trial_attempt = "", 0
    circuit.opened_count += 1
    circuit.changed_us = recorded.recorded_at_us


@CHAPTER.on(circuits.CircuitHalfOpened)
def _half_opened(state: State, recorded: Recorded, body: circuits.CircuitHalfOpened) -> None:
    circuit = _own(state, provider_of(recorded.stream))
    circuit.status, circuit.trial_run, circuit.trial_attempt = "half_open", body.run_id, body.attempt
    circuit.changed_us = recorded.recorded_at_us


@CHAPTER.on(circuits.CircuitClosed)
def _closed(state: State, recorded: Recorded, body: circuits.CircuitClosed) -> None:
    circuit = _own(state, provider_of(recorded.stream))
    circuit.status, circuit.streak, circuit.until_us, circuit.reason = "closed", 0, 0, ""
    circuit.trial_run, circuit.trial_attempt = "", 0
    circuit.changed_us = recorded.recorded_at_us


@CHAPTER.on(circuits.CircuitForced)
def _forced(state: State, recorded: Recorded, body: circuits.CircuitForced) -> None:
    circuit = _own(state, provider_of(recorded.stream))
    circuit.status, circuit.streak, circuit.reason = body.after, 0, "forced"
    circuit.until_us = body.until_us if body.after == "open" else 0
    circuit.held_until_us = body.until_us
    circuit.trial_run, circuit.trial_attempt = "", 0
    circuit.changed_us = recorded.recorded_at_us


@CHAPTER.of_run(attempts.AttemptFailed)
def _failed(state: State, recorded: Recorded, body: attempts.AttemptFailed, run: Run) -> None:
    if body.counted and run.attempt is not None:
        _own(state, run.attempt.provider_id).streak += 1


@CHAPTER.of_run(attempts.AttemptSucceeded)
def _succeeded(state: State, recorded: Recorded, body: attempts.AttemptSucceeded, run: Run) -> None:
    if run.attempt is not None:
        circuit = state.circuits.by_provider.get(run.attempt.provider_id)
        if circuit is not None:
            circuit.streak = 0


@CHAPTER.on(daemon.DaemonClockStepped)
def _clock_stepped(state: State, recorded: Recorded, body: daemon.DaemonClockStepped) -> None:
    """A cooldown goes on after a sleep, but is neither over nor a day long because the clock was set."""
    if body.cause == "step":
        for circuit in state.circuits.by_provider.values():
            circuit.until_us += body.step_us if circuit.status == "open" else 0
            circuit.held_until_us += body.step_us if circuit.held_until_us else 0
