"""The provider registry as data: what configuration resolves to, what `config.adopted` records.

Every field is resolved before it is recorded (defaults, flavor rows, capability tables), so that a replay never
looks a default up in a newer program. Sources: the gateway specification, sections 1 to 1.3.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

ProviderKind = Literal["deterministic", "openai_compatible", "anthropic"]
#: Figures of a model that its provider's list may tell, where its entry leaves them open.
LISTED_FIGURES = ("max_context_tokens", "max_output_tokens")
#: How text is asked for: OpenAI's chat completions or responses, Anthropic's messages.
Dialect = Literal["chat", "messages", "responses"]
ModelRole = Literal["chat", "embeddings", "audio_transcription"]
ROLES: tuple[ModelRole, ...] = get_args(ModelRole)


class Capabilities(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a model can do; a request that needs something else excludes it."""

    tools: bool = False
    parallel_tools: bool = False
    tool_choice: bool = False
    json_mode: bool = False
    json_schema: bool = False
    vision: bool = False
    documents: bool = False
    audio_input: bool = False
    logprobs: bool = False
    multi_choice: bool = False
    streaming: bool = False


def origin_of(base_url: str) -> str:
    """Return the origin of a base URL in its one spelling, with its port; "" for no URL."""
    scheme, _, rest = base_url.partition("://")
    authority = rest.partition("/")[0]
    if not authority:
        return ""
    has_port = authority.rpartition(":")[2].isdecimal() and not authority.endswith("]")
    return f"{scheme}://{authority}" if has_port else f"{scheme}://{authority}:{_DEFAULT_PORTS.get(scheme, 0)}"


_DEFAULT_PORTS = {"http": 80, "https": 443}


class ProviderEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One `[[model_provider.providers]]`, resolved. Durations `_ms`."""

    provider_id: str
    display_name: str
    kind: ProviderKind
    flavor: str = ""
    base_url: str = ""
    allow_private_base_url: bool = False
    enabled: bool = True
    #: Path of an extra trust root.
    ca_file: str = ""
    #: Where the key is, never the key: "" (none), "env:NAME" or "file:PATH".
    credential_ref: str = ""
    #: The one profile it is asked with; "" for those of its label, in order.
    auth_profile_id: str = ""
    #: Whose profiles it takes: `openai`, `anthropic`, else a name of its own.
    auth_provider_kind: str = ""
    auth_scheme: Literal["bearer", "x-api-key", "none"] = "none"
    headers: dict[str, str] = {}
    forward_headers: list[str] = []
    request_timeout_ms: int
    connect_timeout_ms: int
    first_byte_timeout_ms: int
    idle_timeout_ms: int
    max_retries: int
    retry_backoff_ms: int
    retry_after_cap_ms: int
    circuit_breaker_failure_threshold: int
    circuit_breaker_cooldown_ms: int
    max_concurrency: int
    max_queue: int
    queue_timeout_ms: int
    on_client_disconnect: Literal["drain", "cancel"]
    drain_max_ms: int
    drain_max_tokens: int
    #: Where prices come from: the catalogue, under the vendor's name there, or it is free, or they are not known.
    pricing: Literal["catalogue", "free", "unknown"] = "catalogue"
    price_vendor: str = ""
    #: Which of two figures becomes the cost, and what an explicit zero of a provider that answered is worth.
    cost_source: Literal["price_book", "provider"] = "price_book"
    zero_usage: Literal["trust", "estimate"] = "trust"
    #: Whether it is asked how it does, and for its models (off, list, serve).
    health_probe: bool = True
    discovery_mode: Literal["off", "list", "serve"] = "off"
    #: Of mode serve: what is taken of a model that is listed and not configured, one row a role.
    discovers: list[ModelEntry] = []
    #: Rules of kind deterministic, inline and from `script`, in the order in which they are tried.
    rules: list[dict[str, Any]] = []
    #: Recorded exchanges that go before its rules: their file, its digest, and how they are played.
    fixtures: str = ""
    fixtures_digest: str = ""
    fixture_mode: Literal["strict", "lenient"] = "strict"
    fixture_timing: Literal["instant", "recorded"] = "instant"

    @property
    def audience(self) -> str:
        """The origin that a credential must be meant for to be sent here: `scheme://host:port`, port written."""
        return origin_of(self.base_url)


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One `[[model_provider.models]]`, resolved."""

    model_id: str
    provider_id: str
    role: ModelRole = "chat"
    enabled: bool = True
    #: The name sent on the wire.
    upstream_model: str
    #: Among providers of one model the lowest goes first, then file order.
    priority: int = 100
    aliases: list[str] = []
    #: None: by scope; a list (also an empty one): exactly these.
    fallbacks: list[str] | None = None
    capabilities: Capabilities = Capabilities()
    #: How it is told how much to think: by a word, by a number of tokens, or not at all.
    reasoning: Literal["none", "effort", "budget"] = "none"
    #: Dialects that it is asked in; the first one where a client's own is not among them. None named: chat.
    upstream_apis: list[Dialect] = []
    #: None: unknown; an unknown window fits everything.
    max_context_tokens: int | None = None
    max_output_tokens: int | None = None
    max_tokens_per_event: int
    dimensions: int | None = None
    max_batch: int | None = None
    cost_tier: Literal["low", "standard", "premium"] = "standard"
    latency_tier: Literal["low", "standard", "high"] = "standard"
    #: 0 to 100: what goes first where the better model is wanted.
    quality: int = 60
    request_timeout_ms: int
    first_byte_timeout_ms: int
    metadata_source: str = "static"
    #: Of `LISTED_FIGURES` those that nobody has written: the provider's list may fill them.
    left_open: list[str] = []
    #: Its name in the price catalogue.
    price_model: str = ""

    def api_for(self, dialect: str) -> Dialect:
        """Return the dialect in which a request of this one is sent on."""
        apis = self.upstream_apis or _CHAT
        for api in apis:
            if api == dialect:
                return api
        return apis[0]


_CHAT: list[Dialect] = ["chat"]


class Registry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`[model_provider]`, resolved: what decisions choose from."""

    default_chat_model_id: str = ""
    default_embeddings_model_id: str = ""
    default_audio_transcription_model_id: str = ""
    failover_enabled: bool = True
    failover_scope: Literal["compatible", "same_model", "declared"] = "compatible"
    failover_max_candidates: int = 4
    health_ttl_ms: int = 60_000
    discovery_ttl_ms: int = 300_000
    response_cache_enabled: bool = False
    response_cache_ttl_ms: int = 30_000
    response_cache_max_entries: int = 128
    response_cache_max_bytes: int = 67_108_864
    response_cache_isolation: Literal["principal", "session", "shared"] = "principal"
    response_cache_tool_calls: bool = False
    unknown_model_policy: Literal["refuse", "default"] = "refuse"
    run_timeout_ms: int = 900_000
    #: Credentials that a candidate is tried with.
    max_profiles_per_candidate: int = 3
    model_aliases: dict[str, str] = {}
    providers: list[ProviderEntry] = []
    models: list[ModelEntry] = []

    def default_of(self, role: str) -> str:
        """Return the default model of a role, "" where none is configured."""
        default: str = getattr(self, f"default_{role}_model_id")
        return default
