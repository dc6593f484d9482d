"""`GET /v1/models` and `GET /v1/models/{id}`: what the adopted configuration offers, and how it does right now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from palyra.decisions.health import health_with_credentials
from palyra.decisions.keys import is_permitted
from palyra.decisions.naming import VIRTUAL_NAMES, resolve
from palyra.errors import Refusal
from palyra.events.registry import ROLES, ModelEntry
from palyra.projections.catalog import provider_entry
from palyra.projections.state import State
from palyra.units import US_PER_S
from palyra.wire.messages_models import messages_model, messages_models_page
from palyra.wire.openai_models import model_object, models_list, single_model


def list_models(
    state: State, models: Sequence[str], now_us: int, *, page: Mapping[str, str] | None = None
) -> bytes:
    """Return the list: models by role and id, then the other names that lead to them.

    `models` are globs of those that the caller may use; others are not there for it. `page` is the query of a
    client that reads Anthropic's lists.
    """
    found = _objects(state, models, now_us)
    return models_list(found) if page is None else messages_models_page(found, page)


def find_model(
    state: State, name: str, models: Sequence[str], now_us: int, *, is_anthropic: bool = False
) -> bytes | Refusal:
    """Return the model that a request with this name would get."""
    write = messages_model if is_anthropic else dict
    refusals = []
    for role in ROLES:
        found = resolve(state, role, name)
        if not isinstance(found, Refusal):
            permitted = _permitted(found.entries, models)
            if permitted:
                return single_model(write(_object(state, name, permitted, now_us)))
            found = Refusal(code="model_not_found", message="This key may not use this model.", param="model")
        refusals.append(found)
    return refusals[0]


def _permitted(entries: Sequence[ModelEntry], models: Sequence[str]) -> list[ModelEntry]:
    return [entry for entry in entries if is_permitted(models, entry.provider_id, entry.model_id)]


def _objects(state: State, models: Sequence[str], now_us: int) -> Iterator[dict[str, Any]]:
    registry = state.catalog.registry
    seen: set[str] = set()
    for role in ROLES:
        names = state.catalog.names.get(role, {})
        ids = sorted({entry.model_id for entry in registry.models if entry.role == role})
        aliases = sorted({*names, *(alias for alias in registry.model_aliases if "*" not in alias)} - {*ids})
        for name in [*ids, *aliases, *VIRTUAL_NAMES]:
            found = resolve(state, role, name)
            # A name that leads to models of two roles is told once, for the role that comes first.
            if name not in seen and not isinstance(found, Refusal) and (own := _permitted(found.entries, models)):
                seen.add(name)
                yield _object(state, name, own, now_us)


def _object(state: State, name: str, entries: Sequence[ModelEntry], now_us: int) -> dict[str, Any]:
    first = entries[0]
    provider = provider_entry(state, first.provider_id)
    return model_object(
        model_id=name,
        created_s=state.catalog.adopted_us // US_PER_S,
        owned_by=first.provider_id,
        role=first.role,
        provider_ids=[entry.provider_id for entry in entries],
        capabilities={one: getattr(first.capabilities, one) for one in first.capabilities.__struct_fields__},
        max_context_tokens=first.max_context_tokens,
        max_output_tokens=first.max_output_tokens,
        cost_tier=first.cost_tier,
        latency_tier=first.latency_tier,
        health="unknown" if provider is None else health_with_credentials(state, provider, now_us),
        metadata_source=first.metadata_source,
        aliases=first.aliases,
    )
