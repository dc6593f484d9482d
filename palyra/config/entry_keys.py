"""The keys of an entry: of a provider, and of a model."""

from __future__ import annotations

from types import MappingProxyType

from palyra import limits
from palyra.config.flavors import FLAVORS
from palyra.config.key import HOUR_MS, PATH_MAX_CHARS, Key, bool_, choice, int_, path, table, text, texts
from palyra.events.registry import ROLES, Capabilities

#: Kinds of provider that are reached over a network.
_REMOTE = "openai_compatible anthropic"

PROVIDER_KEYS = (
    *table(
        "model_provider.providers[]",
        "gateway",
        text("provider_id", None, 64, "name of this entry", shape="provider_id", required=True),
        env=False,
    ),
    *table(
        "model_provider.providers[]",
        "gateway",
        choice(
            "kind", None, "deterministic openai_compatible anthropic", "the protocol it speaks", required=True,
            spellings=MappingProxyType({"openai": "openai_compatible", "openai-compatible": "openai_compatible"}),
        ),
        text("display_name", None, 128, "name that is shown", derived="provider_id", shape="line"),
        choice(
            "flavor", None, " ".join(FLAVORS), "whose ways it has", derived="host of base_url, else generic",
            only="openai_compatible",
        ),
        text("base_url", None, 2_048, "where it is", derived="the flavor's", only=_REMOTE),
        bool_(
            "allow_private_base_url", False, "loopback, private networks and http need it",
            only=_REMOTE,
        ),
        bool_("enabled", True, "whether it gets requests"),
        path("ca_file", "", "extra trust root", only=_REMOTE),
        text(
            "api_key_env", None, 128, "environment variable that holds its key", shape="env_name",
            only=_REMOTE,
        ),
        path("api_key_file", None, "file that holds its key", only=_REMOTE),
        text(
            "api_key_vault_ref", None, 400, "secret of the vault that is its key: global/openai", shape="vault_ref",
            only=_REMOTE,
        ),
        text(
            "auth_profile_id", "", 64, "the one auth profile it is asked with", shape="profile_id",
            only=_REMOTE,
        ),
        text(
            "auth_provider_kind", None, 64, "whose auth profiles it takes",
            derived="openai or anthropic at their own address, else provider_id", shape="provider_id", only=_REMOTE,
        ),
        choice(
            "auth_scheme", None, "bearer x-api-key none", "how the key is sent",
            derived="the kind's; none where no key is named and the flavor needs none", only=_REMOTE,
        ),
        Key(
            path="headers", type="map", default={}, high=16, shape="header_value", only=_REMOTE,
            meaning="sent with every request; never a secret",
        ),
        texts("forward_headers", 16, "headers of the client that are passed on", only=_REMOTE),
        int_("request_timeout_ms", 600_000, 100, HOUR_MS, "one attempt in all"),
        int_("connect_timeout_ms", 5_000, 50, 600_000, "name lookup, TCP and TLS", only=_REMOTE),
        int_(
            "first_byte_timeout_ms", None, 50, 600_000, "request written to first byte of a stream",
            derived="the flavor's",
        ),
        int_("idle_timeout_ms", 120_000, 50, 600_000, "between two bytes of a stream"),
        int_("max_retries", 2, 0, 10, "more attempts at the same candidate"),
        int_("retry_backoff_ms", 150, 1, 60_000, "wait before the first retry; doubles"),
        int_("retry_after_cap_ms", 10_000, 0, 600_000, "a longer Retry-After is not waited for"),
        int_("circuit_breaker_failure_threshold", 5, 1, 1_000, "faults in a row that open the circuit"),
        int_("circuit_breaker_cooldown_ms", 30_000, 100, HOUR_MS, "how long it stays open before one trial"),
        int_("max_concurrency", None, 1, 4_096, "attempts at once", derived="the flavor's"),
        int_("max_queue", 256, 0, 65_536, "attempts that may wait for a slot"),
        int_("queue_timeout_ms", 30_000, 0, 600_000, "longest wait for a slot"),
        choice(
            "on_client_disconnect", None, "drain cancel", "whether an answer nobody waits for is read to its end",
            derived="the flavor's",
        ),
        int_("drain_max_ms", 30_000, 0, 600_000, "how long such an answer is read on"),
        int_("drain_max_tokens", 4_096, 0, 1_000_000, "and how much of it"),
        bool_(
            "health_probe", True, "whether it is asked for its models now and then, to know how it does",
            only=_REMOTE,
        ),
        choice(
            "discovery_mode", None, "off list serve", "what becomes of the models that it lists",
            derived="the flavor's", only=_REMOTE,
        ),
        choice(
            "pricing", "catalogue", "catalogue free unknown", "where its prices come from; free is a declaration",
            only=_REMOTE,
        ),
        text(
            "price_vendor", None, 64, "its name in the price catalogue", derived="the flavor's", shape="line",
            only=_REMOTE,
        ),
        choice(
            "cost_source", "price_book", "price_book provider", "provider: a cost that it reports is believed",
            only=_REMOTE,
        ),
        choice(
            "zero_usage", "trust", "trust estimate", "what counts when it reports 0 tokens for an answer",
            only=_REMOTE,
        ),
        Key(path="rules", type="rules", default=[], only="deterministic", meaning="answers; the first match wins"),
        text(
            "script", None, PATH_MAX_CHARS, "TOML file with more [[rules]], beside this file or absolute",
            only="deterministic",
        ),
        text(
            "fixtures", None, PATH_MAX_CHARS, "file of `palyra fixtures record`, beside this file or absolute",
            only="deterministic",
        ),
        choice(
            "fixture_mode", "strict", "strict lenient", "lenient: rules answer what was not recorded",
            only="deterministic",
        ),
        choice(
            "fixture_timing", "instant", "instant recorded", "recorded: answers take the time they took",
            only="deterministic",
        ),
    ),
)  # fmt: skip

MODEL_KEYS = (
    *table(
        "model_provider.models[]",
        "gateway",
        text("model_id", None, 256, "name that clients use", shape="model_id", required=True),
        env=False,
    ),
    *table(
        "model_provider.models[]",
        "gateway",
        text("provider_id", None, 64, "entry that serves it", shape="provider_id", required=True),
        choice("role", "chat", " ".join(ROLES), "what it does"),
        bool_("enabled", True, "whether it gets requests"),
        text("upstream_model", None, 256, "name sent to the provider", derived="model_id", shape="line"),
        int_("priority", 100, 0, 10_000, "among providers of one model the lowest goes first"),
        texts("aliases", 32, "other names", shape="model_id"),
        texts("fallbacks", 8, "models that stand in, in order; [] = none", default=None, shape="model_ref"),
        *(
            bool_(
                f"capabilities.{name}", None, "what it can do", derived="the flavor's",
                only="chat audio_transcription" if name == "streaming" else "chat",
            )
            for name in Capabilities.__struct_fields__
        ),
        choice(
            "reasoning", None, "none effort budget", "how it is told how much to think",
            derived="the flavor's", only="chat",
        ),
        texts(
            "upstream_apis", 3, "dialects it is asked in, the preferred one first", default=None, low=1,
            choices=("chat", "messages", "responses"), derived="the flavor's", only="chat",
        ),
        int_("max_context_tokens", None, 1, 100_000_000, "window", derived="the flavor's"),
        int_("max_output_tokens", None, 1, 100_000_000, "longest answer", only="chat"),
        int_(
            "max_tokens_per_event", None, 1, 100_000_000, "input and output bound of one request",
            derived="model_provider.max_model_tokens_per_event",
        ),
        int_("dimensions", None, 1, 65_536, "length of a vector", only="embeddings"),
        int_(
            "max_batch", None, 1, limits.EMBEDDING_INPUTS_MAX_COUNT, "texts in one provider request",
            derived="the flavor's", only="embeddings",
        ),
        choice("cost_tier", None, "low standard premium", "rank when models are compared", derived="the flavor's"),
        int_(
            "quality", None, 0, 100, "rank when the better model is chosen", derived="by cost_tier", only="chat"
        ),
        choice("latency_tier", None, "low standard high", "rank when models are compared", derived="the flavor's"),
        int_("request_timeout_ms", None, 100, HOUR_MS, "one attempt in all", derived="the provider's"),
        int_(
            "first_byte_timeout_ms", None, 50, 600_000, "request written to first byte of a stream",
            derived="the provider's",
        ),
        text("price_model", None, 256, "name in the price catalogue", derived="upstream_model", shape="line"),
        choice(
            "metadata_source",
            "static",
            "static operator_override legacy_migration",
            "override: beats what a provider reports; the last: written by palyra config migrate",
        ),
    ),
)  # fmt: skip
