"""The model catalog: the adopted registry, the names that lead to its models, and models out of service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from palyra.events import attempts, config, daemon, discovery, models
from palyra.events.base import Recorded
from palyra.events.discovery import ListedModel
from palyra.events.registry import LISTED_FIGURES, ModelEntry, ProviderEntry, Registry
from palyra.projections.base import Chapter
from palyra.projections.circuits import provider_of
from palyra.projections.runs import Run

if TYPE_CHECKING:
    from palyra.projections.state import State


class ModelStanding(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """How one model does at one provider."""

    #: Counted failures in a row of this model alone.
    streak: int = 0
    excluded_until_us: int = 0
    reason: str = ""


class DiscoveredList(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a provider lists, as it was recorded last."""

    digest: str = ""
    models: dict[str, ListedModel] = {}
    #: Of these the ones that the newest list leaves out.
    missing: list[str] = []
    dropped_count: int = 0
    completed_us: int = 0
    #: Why the list could not be had since, "" where it could.
    failure_class: str = ""
    failed_us: int = 0


class CatalogState(msgspec.Struct, kw_only=True):
    """The registry and what was learnt about its models; standings by `provider_id/model_id`."""

    registry: Registry = Registry()
    adopted_us: int = 0
    standings: dict[str, ModelStanding] = {}
    #: role -> name -> indices into `registry.models`; a model's id and its aliases lead to it.
    names: dict[str, dict[str, list[int]]] = {}
    #: The same for models that are not configured, and serve because their provider lists them.
    discovered: dict[str, dict[str, list[int]]] = {}
    #: What providers list, by provider_id.
    lists: dict[str, DiscoveredList] = {}
    #: provider_id -> index into `registry.providers`.
    providers: dict[str, int] = {}


CHAPTER = Chapter()
_NO_LIST = DiscoveredList()
_NO_NAMES: dict[str, list[int]] = {}
#: Where an entry comes from that nobody has written.
DISCOVERED = "discovery"


def provider_entry(state: State, provider_id: str) -> ProviderEntry | None:
    """Return the configured provider, or None."""
    index = state.catalog.providers.get(provider_id)
    return None if index is None else state.catalog.registry.providers[index]


def models_named(state: State, role: str, name: str) -> list[ModelEntry]:
    """Return the entries that a model id or alias leads to, in order of priority, then file order."""
    entries = state.catalog.registry.models
    return [entries[index] for index in state.catalog.names.get(role, {}).get(name, ())]


def discovered_named(state: State, role: str, name: str) -> list[ModelEntry]:
    """Return the entries of a model that is not configured and serves because it is listed."""
    entries = state.catalog.registry.models
    return [entries[index] for index in state.catalog.discovered.get(role, {}).get(name, ())]


def list_of(state: State, provider_id: str) -> DiscoveredList:
    """Return what a provider lists; not to be changed by the caller."""
    return state.catalog.lists.get(provider_id, _NO_LIST)


def model_entry(state: State, role: str, provider_id: str, model_id: str) -> ModelEntry | None:
    """Return one provider's entry of a model, or None."""
    catalog = state.catalog
    for names in (catalog.names, catalog.discovered):
        for index in names.get(role, _NO_NAMES).get(model_id, ()):
            entry = catalog.registry.models[index]
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


def registry_once_adopted(state: State, registry: Registry) -> Registry:
    """Return a registry as it will be in force: with what its providers are known to list."""
    catalog = CatalogState(registry=state.catalog.registry, lists=state.catalog.lists)
    _take_up(catalog, registry)
    return catalog.registry


@CHAPTER.on(config.ConfigAdopted)
def _adopted(state: State, recorded: Recorded, body: config.ConfigAdopted) -> None:
    state.catalog.adopted_us = recorded.recorded_at_us
    _take_up(state.catalog, body.registry)


def _take_up(catalog: CatalogState, registry: Registry) -> None:
    before = {entry.provider_id: _place(entry) for entry in catalog.registry.providers}
    catalog.providers = {entry.provider_id: index for index, entry in enumerate(registry.providers)}
    kept = [one.provider_id for one in registry.providers if before.get(one.provider_id) == _place(one)]
    catalog.lists = {name: catalog.lists[name] for name in kept if name in catalog.lists}
    # A registry out of a capsule has its discovered entries already.
    served = [entry for entry in registry.models if entry.metadata_source == DISCOVERED]
    catalog.registry = registry
    _apply_lists(catalog, served)


def _place(entry: ProviderEntry) -> tuple[str, str, str]:
    """Return what makes two entries one provider: what it lists holds while this stays the same."""
    return (entry.kind, entry.base_url, entry.credential_ref)


def _apply_lists(catalog: CatalogState, served: Sequence[ModelEntry] = ()) -> None:
    """Fill what entries leave open from what providers list, add what is listed alone, and find names anew."""
    registry = catalog.registry
    models = [_filled(catalog, entry) for entry in registry.models if entry.metadata_source != DISCOVERED]
    known = {(entry.provider_id, entry.upstream_model) for entry in models}
    models += served
    for provider in registry.providers:
        listed = catalog.lists.get(provider.provider_id)
        if provider.discovery_mode != "serve" or listed is None:
            continue
        templates = {template.role: template for template in provider.discovers}
        models += [
            _entry_of(templates[one.role], one)
            for name, one in listed.models.items()
            if one.role in templates and (provider.provider_id, name) not in known
        ]
    catalog.registry = msgspec.structs.replace(registry, models=models)
    catalog.names, catalog.discovered = {}, {}
    by_priority = sorted(enumerate(models), key=lambda pair: (pair[1].priority, pair[0]))
    for index, entry in by_priority:
        maps = catalog.discovered if entry.metadata_source == DISCOVERED else catalog.names
        names = maps.setdefault(entry.role, {})
        for name in [entry.model_id, *entry.aliases]:
            names.setdefault(name, []).append(index)


def _filled(catalog: CatalogState, entry: ModelEntry) -> ModelEntry:
    listed = catalog.lists.get(entry.provider_id)
    one = None if listed is None or not entry.left_open else listed.models.get(entry.upstream_model)
    if one is None:
        return entry
    figures = {name: value for name in entry.left_open if (value := getattr(one, name)) is not None}
    return msgspec.structs.replace(entry, **figures) if figures else entry


def _entry_of(template: ModelEntry, one: ListedModel) -> ModelEntry:
    named = msgspec.structs.replace(
        template, model_id=one.upstream_model, upstream_model=one.upstream_model, price_model=one.upstream_model
    )
    figures = {name: value for name in LISTED_FIGURES if (value := getattr(one, name)) is not None}
    return msgspec.structs.replace(named, **figures)


@CHAPTER.on(discovery.DiscoveryCompleted)
def _listed(state: State, recorded: Recorded, body: discovery.DiscoveryCompleted) -> None:
    listed = state.catalog.lists.setdefault(provider_of(recorded.stream), DiscoveredList())
    for one in body.added:
        listed.models[one.upstream_model] = one
    for name in body.removed:
        listed.models.pop(name, None)
    back = {one.upstream_model: None for one in body.added}
    listed.missing = [
        name for name in (*listed.missing, *body.missing) if name in listed.models and name not in back
    ]
    listed.digest, listed.dropped_count = body.digest, body.dropped_count
    listed.completed_us, listed.failure_class = recorded.recorded_at_us, ""
    _apply_lists(state.catalog)


@CHAPTER.on(discovery.DiscoveryFailed)
def _not_listed(state: State, recorded: Recorded, body: discovery.DiscoveryFailed) -> None:
    listed = state.catalog.lists.setdefault(provider_of(recorded.stream), DiscoveredList())
    listed.failure_class, listed.failed_us = body.failure_class, recorded.recorded_at_us


def _own(state: State, provider_id: str, model_id: str) -> ModelStanding:
    return state.catalog.standings.setdefault(f"{provider_id}/{model_id}", ModelStanding())


@CHAPTER.on(models.ModelExcluded)
def _excluded(state: State, recorded: Recorded, body: models.ModelExcluded) -> None:
    standing = _own(state, provider_of(recorded.stream), body.model_id)
    standing.excluded_until_us, standing.reason = body.until_us, body.reason


@CHAPTER.on(models.ModelReadmitted)
def _readmitted(state: State, recorded: Recorded, body: models.ModelReadmitted) -> None:
    state.catalog.standings.pop(f"{provider_of(recorded.stream)}/{body.model_id}", None)


@CHAPTER.of_run(attempts.AttemptFailed)
def _failed(state: State, recorded: Recorded, body: attempts.AttemptFailed, run: Run) -> None:
    if body.counted and run.attempt is not None:
        _own(state, run.attempt.provider_id, run.attempt.model_id).streak += 1


@CHAPTER.of_run(attempts.AttemptSucceeded)
def _succeeded(state: State, recorded: Recorded, body: attempts.AttemptSucceeded, run: Run) -> None:
    if state.catalog.standings and run.attempt is not None:
        standing = standing_of(state, run.attempt.provider_id, run.attempt.model_id)
        if standing is not None:
            standing.streak = 0


@CHAPTER.on(daemon.DaemonClockStepped)
def _clock_stepped(state: State, recorded: Recorded, body: daemon.DaemonClockStepped) -> None:
    if body.cause == "step":
        for standing in state.catalog.standings.values():
            standing.excluded_until_us += body.step_us if standing.excluded_until_us else 0
