"""The model catalog: the adopted registry, the names that lead to its models, and models out of service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from palyra.events import attempts, config, daemon, models
from palyra.events.base import Recorded
from palyra.events.registry import ModelEntry, ProviderEntry, Registry
from palyra.projections.base import Chapter
from palyra.projections.circuits import provider_of

if TYPE_CHECKING:
    from palyra.projections.state import State


class ModelStanding(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How one model does at one provider."""

    #: Counted failures in a row of this model alone.
    streak: int = 0
    excluded_until_us: int = 0
    reason: str = ""


class CatalogState(msgspec.Struct, kw_only=True):
    """The registry and what was learnt about its models; standings by `provider_id/model_id`."""

    registry: Registry = Registry()
    adopted_us: int = 0
    standings: dict[str, ModelStanding] = {}
    #: role -> name -> indices into `registry.models`; a model's id and its aliases lead to it.
    names: dict[str, dict[str, list[int]]] = {}
    #: provider_id -> index into `registry.providers`.
    providers: dict[str, int] = {}


CHAPTER = Chapter()


def provider_entry(state: State, provider_id: str) -> ProviderEntry | None:
    """Return the configured provider, or None."""
    index = state.catalog.providers.get(provider_id)
    return None if index is None else state.catalog.registry.providers[index]


def models_named(state: State, role: str, name: str) -> list[ModelEntry]:
    """Return the entries that a model id or alias leads to, in order of priority, then file order."""
    entries = state.catalog.registry.models
    return [entries[index] for index in state.catalog.names.get(role, {}).get(name, ())]


def model_entry(state: State, role: str, provider_id: str, model_id: str) -> ModelEntry | None:
    """Return one provider's entry of a model, or None."""
    for entry in models_named(state, role, model_id):
        if entry.provider_id == provider_id and entry.model_id == model_id:
            return entry
    return None


def standing_of(state: State, provider_id: str, model_id: str) -> ModelStanding | None:
    """Return what is known about a model at a provider, or None."""
    return state.catalog.standings.get(f"{provider_id}/{model_id}")


def excluded_until_us(state: State, provider_id: str, model_id: str) -> int:
    """Return the instant until which a model is not tried, 0 for never."""
    standing = standing_of(state, provider_id, model_id)
    return 0 if standing is None else standing.excluded_until_us


@CHAPTER.on(config.ConfigAdopted)
def _adopted(state: State, recorded: Recorded, body: config.ConfigAdopted) -> None:
    catalog = state.catalog
    catalog.registry, catalog.adopted_us = body.registry, recorded.recorded_at_us
    catalog.providers = {entry.provider_id: index for index, entry in enumerate(body.registry.providers)}
    catalog.names = {}
    by_priority = sorted(enumerate(body.registry.models), key=lambda pair: (pair[1].priority, pair[0]))
    for index, entry in by_priority:
        names = catalog.names.setdefault(entry.role, {})
        for name in [entry.model_id, *entry.aliases]:
            names.setdefault(name, []).append(index)


def _own(state: State, provider_id: str, model_id: str) -> ModelStanding:
    return state.catalog.standings.setdefault(f"{provider_id}/{model_id}", ModelStanding())


@CHAPTER.on(models.ModelExcluded)
def _excluded(state: State, recorded: Recorded, body: models.ModelExcluded) -> None:
    standing = _own(state, provider_of(recorded.stream), body.model_id)
    standing.excluded_until_us, standing.reason = body.until_us, body.reason


@CHAPTER.on(models.ModelReadmitted)
def _readmitted(state: State, recorded: Recorded, body: models.ModelReadmitted) -> None:
    state.catalog.standings.pop(f"{provider_of(recorded.stream)}/{body.model_id}", None)


@CHAPTER.on(attempts.AttemptFailed)
def _failed(state: State, recorded: Recorded, body: attempts.AttemptFailed) -> None:
    run = state.runs.open.get(recorded.stream[4:])
    if body.counted and run is not None and run.attempt is not None:
        _own(state, run.attempt.provider_id, run.attempt.model_id).streak += 1


@CHAPTER.on(attempts.AttemptSucceeded)
def _succeeded(state: State, recorded: Recorded, body: attempts.AttemptSucceeded) -> None:
    run = state.runs.open.get(recorded.stream[4:])
    if run is not None and run.attempt is not None:
        standing = standing_of(state, run.attempt.provider_id, run.attempt.model_id)
        if standing is not None:
            standing.streak = 0


@CHAPTER.on(daemon.DaemonClockStepped)
def _clock_stepped(state: State, recorded: Recorded, body: daemon.DaemonClockStepped) -> None:
    if body.cause == "step":
        for standing in state.catalog.standings.values():
            standing.excluded_until_us += body.step_us if standing.excluded_until_us else 0
