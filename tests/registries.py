"""Registries for tests: providers and models as configuration resolves them, with what a test is about changed."""

from __future__ import annotations

from typing import Any

from palyra.events.registry import Capabilities, ModelEntry, ProviderEntry, Registry

ALL_CAPABILITIES = Capabilities(**dict.fromkeys(Capabilities.__struct_fields__, True))


def provider(provider_id: str, **changes: Any) -> ProviderEntry:
    """Return a provider with the defaults of configuration: no key, two retries, a circuit of five failures."""
    defaults: dict[str, Any] = {
        "provider_id": provider_id,
        "display_name": provider_id,
        "kind": "openai_compatible",
        "flavor": "generic",
        "base_url": f"https://{provider_id}.example/v1",
        "request_timeout_ms": 600_000,
        "connect_timeout_ms": 5_000,
        "first_byte_timeout_ms": 120_000,
        "idle_timeout_ms": 120_000,
        "max_retries": 2,
        "retry_backoff_ms": 150,
        "retry_after_cap_ms": 10_000,
        "circuit_breaker_failure_threshold": 5,
        "circuit_breaker_cooldown_ms": 30_000,
        "max_concurrency": 32,
        "max_queue": 256,
        "queue_timeout_ms": 30_000,
        "on_client_disconnect": "drain",
        "drain_max_ms": 30_000,
        "drain_max_tokens": 4_096,
    }
    return ProviderEntry(**{**defaults, **changes})


def model(model_id: str, provider_id: str, **changes: Any) -> ModelEntry:
    """Return a model that can do everything in 128,000 tokens; its name upstream is `<model_id>-<provider_id>`."""
    defaults: dict[str, Any] = {
        "model_id": model_id,
        "provider_id": provider_id,
        "upstream_model": f"{model_id}-{provider_id}",
        "capabilities": ALL_CAPABILITIES,
        "max_context_tokens": 128_000,
        "max_tokens_per_event": 128_000,
        "request_timeout_ms": 600_000,
        "first_byte_timeout_ms": 120_000,
    }
    return ModelEntry(**{**defaults, **changes})


def registry(*entries: ProviderEntry | ModelEntry, **settings: Any) -> Registry:
    """Return a registry; `gpt` is the default chat model unless said otherwise."""
    return Registry(
        providers=[entry for entry in entries if isinstance(entry, ProviderEntry)],
        models=[entry for entry in entries if isinstance(entry, ModelEntry)],
        **{"default_chat_model_id": "gpt", **settings},
    )


#: `gpt` at three providers that are alike.
THREE = registry(
    provider("a"), provider("b"), provider("c"), model("gpt", "a"), model("gpt", "b"), model("gpt", "c")
)
