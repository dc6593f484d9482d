"""The model list and its entries as OpenAI's clients read them (gateway specification 11.8).

A model is shown with what a caller may know; no credential reference can get in, because none is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec


def model_object(
    *,
    model_id: str,
    created_s: int,
    owned_by: str,
    role: str,
    provider_ids: Sequence[str],
    capabilities: Mapping[str, bool],
    max_context_tokens: int | None,
    max_output_tokens: int | None,
    cost_tier: str,
    latency_tier: str,
    health: str,
    metadata_source: str,
    aliases: Sequence[str],
) -> dict[str, Any]:
    """Return one model; `created_s` is when its configuration was adopted, in Unix seconds."""
    return {
        "id": model_id,
        "object": "model",
        "created": created_s,
        "owned_by": owned_by,
        "palyra": {
            "role": role,
            "provider_ids": list(provider_ids),
            "capabilities": dict(capabilities),
            "max_context_tokens": max_context_tokens,
            "max_output_tokens": max_output_tokens,
            "cost_tier": cost_tier,
            "latency_tier": latency_tier,
            "health": health,
            "metadata_source": metadata_source,
            "aliases": list(aliases),
        },
    }


def models_list(models: Iterable[Mapping[str, Any]]) -> bytes:
    """Return the body of the list, in the order given."""
    return msgspec.json.encode({"object": "list", "data": list(models)})


def single_model(model: Mapping[str, Any]) -> bytes:
    """Return the body of one model."""
    return msgspec.json.encode(model)
