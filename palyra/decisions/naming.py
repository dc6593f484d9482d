"""What a requested model name stands for (gateway specification 1.4): first match wins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from palyra.errors import Refusal
from palyra.events.registry import ModelEntry
from palyra.projections.catalog import discovered_named, models_named
from palyra.projections.state import State

#: Names that leave the choice to Palyra, and what they ask for; "" leaves that to it as well.
VIRTUAL_NAMES = {
    "palyra/default": "",
    "palyra/auto": "",
    "palyra/cheap": "cheapest",
    "palyra/fast": "fastest",
    "palyra/best": "best",
}
_NEAR_NAMES_COUNT = 3
_NEAR_DISTANCE = 2


class Resolution(NamedTuple):
    """The entries that a name leads to, best first, all of one model id and role."""

    #: model_id, alias, model_alias, pinned, virtual, discovered or default.
    resolved_by: str
    entries: list[ModelEntry]

    @property
    def model_id(self) -> str:
        return self.entries[0].model_id

    @property
    def is_pinned(self) -> bool:
        return self.resolved_by == "pinned"


def resolve(state: State, role: str, name: str) -> Resolution | Refusal:
    """Return what `name` stands for in this role, or the refusal of a name that leads nowhere."""
    name = name.strip()
    if not name or name in VIRTUAL_NAMES:
        return _default(state, role, "virtual", name)
    found = _lookup(state, role, name)
    if found is None:
        found = _pinned(state, role, name) or _discovered(state, role, name)
    if found is None:
        if state.catalog.registry.unknown_model_policy == "default":
            return _default(state, role, "default", name)
        return _not_found(state, role, name)
    return _usable(state, found, name)


def _lookup(state: State, role: str, name: str) -> Resolution | None:
    entries = models_named(state, role, name)
    exact = [entry for entry in entries if entry.model_id == name]
    if exact:
        return Resolution("model_id", exact)
    if entries:
        return Resolution("alias", [entry for entry in entries if entry.model_id == entries[0].model_id])
    target = _aliased(state.catalog.registry.model_aliases, name)
    if target is None:
        return None
    entries = models_named(state, role, target)
    if entries:
        return Resolution("model_alias", [entry for entry in entries if entry.model_id == entries[0].model_id])
    return _pinned(state, role, target)


def _aliased(aliases: dict[str, str], name: str) -> str | None:
    if name in aliases:
        return aliases[name]
    prefixes = [key for key in aliases if key.endswith("*") and name.startswith(key[:-1])]
    return aliases[max(prefixes, key=len)] if prefixes else None


def _pinned(state: State, role: str, name: str) -> Resolution | None:
    provider_id, slash, rest = name.partition("/")
    if not slash or provider_id not in state.catalog.providers:
        return None
    entries = [entry for entry in models_named(state, role, rest) if entry.provider_id == provider_id]
    return Resolution("pinned", entries[:1]) if entries else None


def _discovered(state: State, role: str, name: str) -> Resolution | None:
    """Return a model that nobody has configured, as its provider lists it; it may be pinned like any other."""
    entries = discovered_named(state, role, name)
    if entries:
        return Resolution("discovered", entries)
    provider_id, _, rest = name.partition("/")
    pinned = [one for one in discovered_named(state, role, rest) if one.provider_id == provider_id]
    return Resolution("pinned", pinned) if pinned else None


def default_of(state: State, role: str) -> ModelEntry | None:
    """Return the default model of a role, None where none is there."""
    found = _default(state, role, "default", "")
    return None if isinstance(found, Refusal) else found.entries[0]


def _default(state: State, role: str, resolved_by: str, name: str) -> Resolution | Refusal:
    default = state.catalog.registry.default_of(role)
    found = None
    if default:
        found = _lookup(state, role, default) or _pinned(state, role, default) or _discovered(state, role, default)
    elif state.catalog.discovered:
        found = _first_discovered(state, role)
    if found is None:
        message = f"No default {role} model is configured. Name a model, or set default_{role}_model_id."
        return Refusal(code="model_not_found", message=message, param="model")
    return _usable(state, found._replace(resolved_by=resolved_by), name or default)


def _first_discovered(state: State, role: str) -> Resolution | None:
    """Return the first model that is listed, for a configuration that names none at all."""
    names = state.catalog.discovered.get(role, {})
    entries = discovered_named(state, role, next(iter(names))) if names else []
    return Resolution("virtual", entries) if entries else None


def _usable(state: State, found: Resolution, name: str) -> Resolution | Refusal:
    registry = state.catalog.registry
    enabled = [
        entry
        for entry in found.entries
        if entry.enabled and registry.providers[state.catalog.providers[entry.provider_id]].enabled
    ]
    if not enabled:
        message = f"The model '{name}' is disabled in the configuration."
        return Refusal(code="model_disabled", message=message, param="model")
    return found if len(enabled) == len(found.entries) else found._replace(entries=enabled)


def _not_found(state: State, role: str, name: str) -> Refusal:
    for other in state.catalog.names:
        if other != role and (_lookup(state, other, name) or _pinned(state, other, name)):
            message = f"The model '{name}' serves {other}, not {role}."
            return Refusal(code="model_role_mismatch", message=message, param="model")
    catalog = state.catalog
    known = [*catalog.names.get(role, {}), *catalog.discovered.get(role, {}), *catalog.registry.model_aliases]
    near = near_names(name, known)
    listed = " GET /v1/models lists what there is."
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else listed
    message = f"The model '{name[:256]}' does not exist here.{hint}"
    return Refusal(code="model_not_found", message=message, param="model", details={"near": near} if near else {})


def near_names(name: str, names: Iterable[str]) -> list[str]:
    """Return up to three of `names` at an edit distance of two or less, nearest first."""
    if len(name) > 256:
        return []
    close = [(distance, one) for one in names if (distance := _distance(name, one)) <= _NEAR_DISTANCE]
    return [one for _, one in sorted(close)[:_NEAR_NAMES_COUNT]]


def _distance(left: str, right: str) -> int:
    if abs(len(left) - len(right)) > _NEAR_DISTANCE:
        return _NEAR_DISTANCE + 1
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]
