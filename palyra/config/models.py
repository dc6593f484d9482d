"""One `[[model_provider.models]]`: the entry with everything filled in, and the models that it refers to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from palyra.config.capabilities import row_of
from palyra.config.flavors import traits_of
from palyra.config.problems import Path, nearest, quoted
from palyra.config.providers import warn_without_effect
from palyra.config.values import Reading, Sources, Values
from palyra.events.registry import LISTED_FIGURES, ROLES, Capabilities, ModelEntry, ProviderEntry

#: Length of a vector of the embeddings that kind deterministic computes, where the entry does not say.
HASH_EMBEDDING_DIMENSIONS = 64
#: What a model is worth that nobody has rated: what it costs.
QUALITY_OF_TIER = {"low": 30, "standard": 60, "premium": 90}
#: Key within an entry -> field.
_CAPABILITIES = {f"capabilities.{field}": field for field in Capabilities.__struct_fields__}
_EVENT_LIMIT = "model_provider.max_model_tokens_per_event"


def resolve_model(reading: Reading, values: Values, provider: ProviderEntry, declared: Values) -> ModelEntry:
    """Return the resolved entry of a model at its provider (`declared`: what the provider's own entry says)."""
    role = values.get("role")
    warn_without_effect(reading, values, role, f"of role {role}")
    row = row_of(provider.flavor or provider.kind, role)
    by_row = Sources.derived(declared.key("flavor" if provider.flavor else "kind"))
    values.derive({"upstream_model": values.get("model_id")}, Sources.derived(values.key("model_id")))
    values.derive({"price_model": values.get("upstream_model")}, Sources.derived(values.key("upstream_model")))
    values.derive(
        {name: getattr(row, name) for name in ("max_context_tokens", "cost_tier", "latency_tier")}, by_row
    )
    values.derive({name: getattr(row.capabilities, field) for name, field in _CAPABILITIES.items()}, by_row)
    values.derive({"quality": QUALITY_OF_TIER[values.get("cost_tier")]}, Sources.derived(values.key("cost_tier")))
    apis = list(traits_of(provider.kind, provider.flavor).upstream_apis) if role == "chat" else []
    if apis and provider.fixtures:
        # What was recorded is played in the dialect that it is asked for in.
        apis = ["chat", "messages", "responses"]
    values.derive({"reasoning": row.reasoning if role == "chat" else "none", "upstream_apis": apis}, by_row)
    for name in ("request_timeout_ms", "first_byte_timeout_ms"):
        values.derive({name: getattr(provider, name)}, Sources.derived(declared.key(name)))
    values.derive({"max_tokens_per_event": reading.root.get(_EVENT_LIMIT)}, Sources.derived(_EVENT_LIMIT))
    if role == "embeddings":
        values.derive({"max_batch": traits_of(provider.kind, provider.flavor).max_batch}, by_row)
        if provider.kind == "deterministic":
            values.derive({"dimensions": HASH_EMBEDDING_DIMENSIONS}, by_row)
    if provider.kind == "anthropic" and role != "chat":
        message = f"a provider of kind anthropic has no models for {role}"
        reading.refuse("role_not_supported_by_kind", values, "role", message)
    _warn_about_window(reading, values)
    values.fill()
    fields: dict[str, Any] = {
        name: setting.value for name, setting in values.settings.items() if name in ModelEntry.__struct_fields__
    }
    fields["left_open"] = [
        name
        for name in LISTED_FIGURES
        if not values.is_written(name) and values.get("metadata_source") != "operator_override"
    ]
    fields["capabilities"] = Capabilities(**{field: values.get(name) for name, field in _CAPABILITIES.items()})
    return ModelEntry(**fields)


def served_as(reading: Reading, provider: ProviderEntry) -> list[ModelEntry]:
    """Return what is taken of models that a provider lists and nobody has configured, one row a role."""
    if provider.discovery_mode != "serve":
        return []
    rows = {role: row_of(provider.flavor or provider.kind, role) for role in ROLES}
    traits = traits_of(provider.kind, provider.flavor)
    return [
        ModelEntry(
            model_id="",
            provider_id=provider.provider_id,
            role=role,
            upstream_model="",
            capabilities=row.capabilities,
            reasoning=row.reasoning if role == "chat" else "none",
            upstream_apis=list(traits.upstream_apis) if role == "chat" else [],  # type: ignore[arg-type]
            max_context_tokens=row.max_context_tokens,
            max_tokens_per_event=reading.root.get(_EVENT_LIMIT),
            max_batch=traits.max_batch if role == "embeddings" else None,
            cost_tier=row.cost_tier,
            latency_tier=row.latency_tier,
            quality=QUALITY_OF_TIER[row.cost_tier],
            request_timeout_ms=provider.request_timeout_ms,
            first_byte_timeout_ms=provider.first_byte_timeout_ms,
            metadata_source="discovery",
        )
        for role, row in rows.items()
        if role == "chat" or provider.kind != "anthropic"
    ]


def _warn_about_window(reading: Reading, values: Values) -> None:
    window, limit = values.get("max_context_tokens"), values.get("max_tokens_per_event")
    if values.is_written("max_context_tokens") and window > limit:
        reading.warn(
            "window_capped",
            values,
            "max_context_tokens",
            f"a request may hold {limit:,} tokens only",
            suggestion="raise max_tokens_per_event to use the whole window",
        )


class References:
    """Which models a name means: by id, by alias, pinned to a provider, or by an entry of `model_aliases`."""

    def __init__(
        self,
        models: Sequence[ModelEntry],
        providers: Iterable[ProviderEntry],
        aliases: Mapping[str, str],
        broken: Iterable[str],
    ) -> None:
        self.models = models
        #: Names of entries that were refused; that they are not found is no news.
        self._broken = frozenset(broken)
        self._aliases = aliases
        providers = list(providers)
        self._providers = {provider.provider_id for provider in providers}
        self._serving = [one.provider_id for one in providers if one.enabled and one.discovers]
        self._enabled = {provider.provider_id for provider in providers if provider.enabled}
        self._ids = {(model.role, model.model_id) for model in models}
        self._by_ref: dict[str, dict[str, list[ModelEntry]]] = {role: {} for role in ROLES}
        for model in models:
            for name in (model.model_id, *model.aliases):
                for ref in (name, f"{model.provider_id}/{name}"):
                    self._by_ref[model.role].setdefault(ref, []).append(model)

    def find(self, role: str, ref: str) -> list[ModelEntry]:
        """Return the models of a role that a name means, in file order."""
        found = self._by_ref[role].get(ref, [])
        return found or self._by_ref[role].get(self._aliases.get(ref, ""), [])

    def may_be_listed(self, ref: str) -> bool:
        """Return whether a name that is not configured may be that of a model which a provider lists and serves."""
        known = any(self.find(role, ref) for role in self._by_ref)
        pinned = ref.partition("/")[0] if ref.partition("/")[0] in self._providers else ""
        return not known and ref not in self._broken and any(pinned in ("", name) for name in self._serving)

    def is_model_id(self, role: str, name: str) -> bool:
        return (role, name) in self._ids

    def is_enabled(self, model: ModelEntry) -> bool:
        return model.enabled and model.provider_id in self._enabled

    def refuse(self, reading: Reading, values: Values, name: str, ref: str, role: str, inside: Path = ()) -> None:
        """Report a name that means no model of the role ("" = of any)."""
        if ref in self._broken:
            return
        other = next((known for known in self._by_ref if self.find(known, ref)), None)
        if other is not None:
            message = f"{quoted(ref)} is a model for {other}, not for {role}"
            reading.refuse("role_mismatch", values, name, message, inside=inside)
            return
        roles = [role] if role else list(self._by_ref)
        near = nearest(ref, (known for each in roles for known in self._by_ref[each]))
        hint = f"did you mean {quoted(near)}?" if near else ""
        message = f"unknown model {quoted(ref)}"
        reading.refuse("unknown_model", values, name, message, inside=inside, suggestion=hint)


def check_references(reading: Reading, models: Sequence[tuple[Values, ModelEntry]], references: References) -> None:
    """Check aliases and fallbacks of every model against all the others."""
    holders: dict[tuple[str, str], str] = {}
    for values, model in models:
        for index, alias in enumerate(model.aliases):
            holder = holders.setdefault((model.role, alias), model.model_id)
            if references.is_model_id(model.role, alias) or holder != model.model_id:
                message = f"{quoted(alias)} means another model already"
                reading.refuse("alias_conflict", values, "aliases", message, inside=(index,))
        _check_fallbacks(reading, values, model, references)


def _check_fallbacks(reading: Reading, values: Values, model: ModelEntry, references: References) -> None:
    seen: set[str] = set()
    for index, ref in enumerate(model.fallbacks or []):
        found = references.find(model.role, ref)
        if not found:
            references.refuse(reading, values, "fallbacks", ref, model.role, (index,))
        elif all(other.model_id == model.model_id for other in found):
            message = "a model cannot stand in for itself"
            reading.refuse("bad_fallback", values, "fallbacks", message, inside=(index,))
        elif ref in seen:
            reading.refuse("bad_fallback", values, "fallbacks", f"{quoted(ref)} is there twice", inside=(index,))
        seen.add(ref)
