"""The configuration as a program reads it: typed, frozen, every value filled.

What a field means, its default and its limits stand in `keys.py`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from palyra.events.budgets import UsageBudgetPolicyRecord
from palyra.events.pricing import PriceEntry
from palyra.events.registry import Registry
from palyra.events.smart_routing import RoutingMode


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Defaults stand in `keys.py` alone, so no field has one here."""


class DaemonConfig(_Table, frozen=True, kw_only=True):
    """`[daemon]`."""

    host: str
    port: int
    allow_remote: bool
    allow_plain_remote: bool
    #: "": no TLS.
    tls_cert_file: str
    tls_key_file: str
    #: "": clients need no certificate.
    tls_client_ca_file: str
    #: "": there is none.
    public_url: str
    trusted_proxies: list[str]
    cors_origins: list[str]
    control_socket: bool
    max_connections_count: int
    idle_timeout_ms: int
    drain_timeout_ms: int
    watch_config: bool
    #: "": the user's state directory (`state.find_state_dir`).
    state_dir: str


class JournalConfig(_Table, frozen=True, kw_only=True):
    """`[journal]`."""

    durability: Literal["full", "relaxed"]
    commit_max_count: int
    lazy_append_ms: int
    snapshot_every_count: int
    snapshot_every_ms: int
    wal_checkpoint_bytes: int
    witness_every_ms: int
    witness_copies: list[str]
    min_free_bytes: int
    ballast_bytes: int
    verify_at_start: Literal["quick", "full", "off"]


class ObservabilityConfig(_Table, frozen=True, kw_only=True):
    """`[observability]`."""

    log_level: Literal["debug", "info", "warning", "error"]
    log_format: Literal["auto", "console", "json"]
    #: "": standard error.
    log_file: str
    log_requests: Literal["all", "errors", "off"]


class OAuthConfig(_Table, frozen=True, kw_only=True):
    """`[auth.oauth.openai]`."""

    authorize_url: str
    token_url: str
    #: "": tokens cannot be given back.
    revoke_url: str
    #: "": nobody logs in by OAuth.
    client_id: str
    #: "": the client has none.
    client_secret_vault_ref: str
    scopes: list[str]
    #: "": a place of the console.
    redirect_uri: str
    extra_authorize_params: dict[str, str]
    attempt_ttl_ms: int


class OAuthsConfig(_Table, frozen=True, kw_only=True):
    """`[auth.oauth]`: by provider."""

    openai: OAuthConfig


class AuthConfig(_Table, frozen=True, kw_only=True):
    """`[auth]`."""

    anonymous_client: Literal["refuse", "loopback"]
    extra_hosts: list[str]
    expiring_window_ms: int
    max_profiles_per_candidate: int
    oauth: OAuthsConfig


class VaultConfig(_Table, frozen=True, kw_only=True):
    """`[vault]`."""

    key_source: Literal["key_file", "os_keychain"]
    #: "": `vault.key` in the state directory.
    key_file: str
    max_secrets: int
    lock_timeout_ms: int


class StallsConfig(_Table, frozen=True, kw_only=True):
    """`[self_healing.stalls_after_ms]`: silence by kind of work, in milliseconds."""

    run: int
    loop: int


class SelfHealingConfig(_Table, frozen=True, kw_only=True):
    """`[self_healing]`."""

    stalls_after_ms: StallsConfig


class UsageConfig(_Table, frozen=True, kw_only=True):
    """`[usage]`."""

    unknown_outcome: Literal["input", "reserved", "zero"]
    abandoned: Literal["input", "reserved", "zero"]


class BudgetsConfig(_Table, frozen=True, kw_only=True):
    """`[budgets]`."""

    timezone: str
    default_output_cap_tokens: int
    policies: list[UsageBudgetPolicyRecord]


class ApprovalsConfig(_Table, frozen=True, kw_only=True):
    """`[approvals]`."""

    request_ttl_hours: int
    four_eyes: bool


class AlertsConfig(_Table, frozen=True, kw_only=True):
    """`[alerts]`."""

    webhook_url: str
    webhook_secret_vault_ref: str


class PricingConfig(_Table, frozen=True, kw_only=True):
    """`[pricing]`."""

    overrides: list[PriceEntry]


class RoutingWeightsConfig(_Table, frozen=True, kw_only=True):
    """`[routing.weights]`."""

    length_bp: int
    tools_bp: int
    json_bp: int
    images_bp: int
    keywords_bp: int


class RoutingClassConfig(_Table, frozen=True, kw_only=True):
    """`[routing.classes.<name>]`."""

    min_quality: int


class RoutingClassesConfig(_Table, frozen=True, kw_only=True):
    """`[routing.classes]`."""

    interactive: RoutingClassConfig
    background: RoutingClassConfig
    auxiliary: RoutingClassConfig


class RoutingConfig(_Table, frozen=True, kw_only=True):
    """`[routing]`; see `events/smart_routing.py`."""

    enabled: bool
    mode: RoutingMode
    auxiliary_enabled: bool
    scorer: Literal["palyra-complexity-1"]
    simple_at_bp: int
    premium_at_bp: int
    budget_pressure_bp: int
    override_requested: Literal["always", "virtual_only"]
    keywords: list[str]
    weights: RoutingWeightsConfig
    classes: RoutingClassesConfig
    agents: dict[str, RoutingMode]


class PrivacyConfig(_Table, frozen=True, kw_only=True):
    """`[privacy]`."""

    capture_content: Literal["off", "on"]
    content_days: int
    content_max_bytes: int
    capture_principals: list[str]
    error_text_bytes: int
    extra_patterns: list[str]


class ConsoleConfig(_Table, frozen=True, kw_only=True):
    """`[console]`."""

    event_clients_max_count: int


class CliConfig(_Table, frozen=True, kw_only=True):
    """`[cli]`."""

    timezone: str
    color: Literal["auto", "always", "never"]


class ModelProviderConfig(_Table, frozen=True, kw_only=True):
    """`[model_provider]`: what decisions choose from, and the bounds of requests."""

    registry: Registry
    max_model_tokens_per_event: int
    max_request_bytes: int
    max_audio_bytes: int
    max_inflight_bytes: int
    sse_keepalive_ms: int


class Config(_Table, frozen=True, kw_only=True):
    """Everything that is configured."""

    version: int
    daemon: DaemonConfig
    journal: JournalConfig
    observability: ObservabilityConfig
    auth: AuthConfig
    vault: VaultConfig
    self_healing: SelfHealingConfig
    usage: UsageConfig
    budgets: BudgetsConfig
    approvals: ApprovalsConfig
    alerts: AlertsConfig
    pricing: PricingConfig
    routing: RoutingConfig
    privacy: PrivacyConfig
    console: ConsoleConfig
    cli: CliConfig
    model_provider: ModelProviderConfig
