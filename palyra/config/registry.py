"""`[model_provider]` as a whole: what its entries say about each other, and the registry with everything filled."""

from __future__ import annotations

from typing import Any

import msgspec

from palyra.config.document import Document
from palyra.config.keys import MODELS, PROVIDERS
from palyra.config.models import References, check_references, resolve_model, served_as
from palyra.config.problems import nearest, quoted
from palyra.config.providers import WITHOUT_EFFECT, Listeners, resolve_provider
from palyra.config.values import NOT_WRITTEN, Reading, Sources, Values
from palyra.events.registry import ROLES, ModelEntry, ProviderEntry, Registry

_PREFIX = "model_provider."
#: What answers when nothing is configured, so that a fresh install does.
_FRESH_PROVIDER = {"provider_id": "deterministic", "kind": "deterministic"}
_FRESH_MODELS: tuple[dict[str, Any], ...] = (
    {"model_id": "deterministic", "provider_id": "deterministic"},
    {"model_id": "hash-embedding-v1", "provider_id": "deterministic", "role": "embeddings", "dimensions": 64},
)


def resolve_registry(reading: Reading, own: Listeners) -> tuple[Registry, list[Document]]:
    """Check `[model_provider]` across its entries and return it resolved, with the scripts that were read for it.

    Faults go to the findings; with one of them the registry is not meant to be used.
    """
    if not reading.entries[PROVIDERS.path] and PROVIDERS.path not in reading.root.faulty:
        _add_fresh_entries(reading)
    root = reading.root
    providers, scripts = _resolve_providers(reading, own)
    models, broken = _resolve_models(reading, providers)
    aliases = root.get(f"{_PREFIX}model_aliases")
    references = References([model for _, model in models], providers.values(), aliases, broken)
    check_references(reading, models, references)
    _resolve_defaults(reading, references)
    _check_aliases(reading, references)
    _warn_about_failover(reading)
    _warn_about_cache(reading)
    root.fill()
    fields = {
        name: setting.value
        for name in Registry.__struct_fields__
        if (setting := root.settings.get(f"{_PREFIX}{name}")) is not None
    }
    fields["max_profiles_per_candidate"] = root.get("auth.max_profiles_per_candidate")
    registry = Registry(**fields, providers=list(providers.values()), models=[model for _, model in models])
    return registry, scripts


def _add_fresh_entries(reading: Reading) -> None:
    fresh = [(PROVIDERS, _FRESH_PROVIDER)]
    if not reading.entries[MODELS.path]:
        fresh += [(MODELS, model) for model in _FRESH_MODELS]
        embeddings = _FRESH_MODELS[1]["model_id"]
        reading.root.derive({f"{_PREFIX}default_embeddings_model_id": embeddings}, NOT_WRITTEN)
    for table, written in fresh:
        entries = reading.entries[table.path]
        values = Values(table, (*table.path.split("."), len(entries)), NOT_WRITTEN)
        for name, value in written.items():
            values.put(name, value, NOT_WRITTEN)
        entries.append(values)


def _resolve_providers(reading: Reading, own: Listeners) -> tuple[dict[str, ProviderEntry], list[Document]]:
    """Return the providers by id, in file order."""
    providers: dict[str, ProviderEntry] = {}
    first: dict[str, Values] = {}
    scripts = []
    for values in reading.entries[PROVIDERS.path]:
        resolved = resolve_provider(reading, values, own)
        name = values.get("provider_id")
        if name in first:
            message = (
                f"{quoted(name)} is another provider's name already ({first[name].source('provider_id').place})"
            )
            reading.refuse("duplicate_provider", values, "provider_id", message)
        elif name is not None:
            first[name] = values
        if resolved is not None:
            provider, script = resolved
            provider = msgspec.structs.replace(provider, discovers=served_as(reading, provider))
            providers.setdefault(name, provider)
            scripts += [script] if script else []
    return providers, scripts


def _resolve_models(
    reading: Reading, providers: dict[str, ProviderEntry]
) -> tuple[list[tuple[Values, ModelEntry]], list[str]]:
    """Return the models in file order, and the names of those that were refused."""
    broken: list[str] = []
    models: list[tuple[Values, ModelEntry]] = []
    first: dict[tuple[str, str, str], Values] = {}
    declared = {values.get("provider_id"): values for values in reading.entries[PROVIDERS.path]}
    for values in reading.entries[MODELS.path]:
        provider_id = values.get("provider_id")
        if provider_id is not None and provider_id not in declared:
            near = nearest(provider_id, (name for name in declared if name))
            hint = f"did you mean {quoted(near)}?" if near else ""
            message = f"unknown provider {quoted(provider_id)}"
            reading.refuse("unknown_provider", values, "provider_id", message, suggestion=hint)
        if provider_id not in providers or values.faulty.intersection(("model_id", "role")):
            broken += [values.get("model_id"), *values.get("aliases")]
            continue
        if values.get("model_id") is None:
            continue
        model = resolve_model(reading, values, providers[provider_id], declared[provider_id])
        identity = (model.model_id, model.provider_id, model.role)
        if identity in first:
            place = first[identity].source("model_id").place
            message = f"{quoted(model.model_id)} is there already for this provider and role ({place})"
            reading.refuse("duplicate_model", values, "model_id", message)
        else:
            first[identity] = values
            models.append((values, model))
    served = {model.provider_id for _, model in models}
    for values in reading.entries[PROVIDERS.path]:
        provider = providers.get(values.get("provider_id"))
        if provider is not None and provider.provider_id not in served and not provider.discovers:
            reading.warn(
                WITHOUT_EFFECT, values, "provider_id", "no model names this provider, so it is never asked"
            )
    return models, broken


def _resolve_defaults(reading: Reading, references: References) -> None:
    """Check the default of each role, and choose the one for chat where none is written."""
    root = reading.root
    for role in ROLES:
        name = f"{_PREFIX}default_{role}_model_id"
        wanted = root.get(name)
        if wanted is None:
            continue
        found = references.find(role, wanted)
        if not found and references.may_be_listed(wanted):
            message = (
                f"{quoted(wanted)} is not configured; it has to be on the list of a provider that serves its own"
            )
            reading.warn("model_not_listed", root, name, message)
        elif not found:
            references.refuse(reading, root, name, wanted, role)
        elif not any(references.is_enabled(model) for model in found):
            reading.refuse("default_disabled", root, name, f"{quoted(wanted)} is disabled, or its provider is")
    usable = (model for model in references.models if model.role == "chat" and references.is_enabled(model))
    chosen = next(usable, None)
    first = chosen.model_id if chosen else ""
    root.derive({f"{_PREFIX}default_chat_model_id": first}, Sources.derived(MODELS.path))
    root.derive({f"{_PREFIX}default_{role}_model_id": "" for role in ROLES if role != "chat"}, NOT_WRITTEN)


def _check_aliases(reading: Reading, references: References) -> None:
    """Check `model_aliases`: each name can be asked for, and leads to a model."""
    name = f"{_PREFIX}model_aliases"
    aliases: dict[str, str] = reading.root.get(name)
    for alias, target in aliases.items():
        if not alias or "*" in alias[:-1] or not alias.isprintable() or " " in alias or len(alias) > 256:
            message = f"{quoted(alias)} must be 1 to 256 printable characters without space, with * at its end only"
            reading.refuse("alias_conflict", reading.root, name, message, inside=(alias,))
        elif any(references.is_model_id(role, alias) for role in ROLES):
            message = f"{quoted(alias)} is the name of a model, which goes first"
            reading.warn(WITHOUT_EFFECT, reading.root, name, message, inside=(alias,))
        if not any(references.find(role, target) for role in ROLES):
            references.refuse(reading, reading.root, name, target, "", (alias,))


def _warn_about_cache(reading: Reading) -> None:
    """Warn about bounds of a cache that is off."""
    root = reading.root
    if root.get(f"{_PREFIX}response_cache_enabled"):
        return
    for name in ("ttl_ms", "max_entries", "max_bytes", "isolation", "tool_calls"):
        if root.is_written(f"{_PREFIX}response_cache_{name}"):
            reason = "means nothing while response_cache_enabled is false"
            reading.warn(WITHOUT_EFFECT, root, f"{_PREFIX}response_cache_{name}", reason)


def _warn_about_failover(reading: Reading) -> None:
    """Warn about candidates that are never tried."""
    root = reading.root
    if not root.get(f"{_PREFIX}failover_enabled"):
        reason = "means nothing while failover is off"
        for name in ("failover_scope", "failover_max_candidates"):
            if root.is_written(f"{_PREFIX}{name}"):
                reading.warn(WITHOUT_EFFECT, root, f"{_PREFIX}{name}", reason)
    elif root.get(f"{_PREFIX}failover_scope") == "same_model":
        reason = 'means nothing with failover_scope = "same_model"'
    else:
        return
    for values in reading.entries[MODELS.path]:
        if values.is_written("fallbacks") and values.get("fallbacks"):
            reading.warn(WITHOUT_EFFECT, values, "fallbacks", reason)
