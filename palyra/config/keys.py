"""Every key of the configuration, in one table.

Checking, environment variables, `palyra config keys` and the documentation's tables are derived from these rows, so
a key exists exactly if it stands here; a key without an effect must not. The typed tree that a program reads
(`tree.py`, `events/registry.py`) is compared with the rows in the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec

from palyra import limits
from palyra.config.entry_keys import MODEL_KEYS, PROVIDER_KEYS
from palyra.config.key import DAY_MS, GIB, HOUR_MS, KIB, MIB, Key, bool_, choice, int_, path, table, text, texts
from palyra.events.smart_routing import KEYWORDS, TASK_CLASSES

_ROOT_KEYS = (
    *table(
        "",
        "config",
        int_("version", 1, 1, 1, "format of this file"),
        env=False,
    ),
    *table(
        "daemon",
        "daemon",
        text("host", "127.0.0.1", 64, "address to listen on, or localhost", shape="listener"),
        int_("port", 7142, 0, 65_535, "port to listen on; 0 takes any free one"),
        bool_("allow_remote", False, "listen beyond this machine, with the two TLS files"),
        bool_("allow_plain_remote", False, "listen beyond this machine without TLS, behind a proxy that has it"),
        path("tls_cert_file", "", "certificate chain for TLS (PEM); read again when it changes"),
        path("tls_key_file", "", "its private key, mode 0600; read again when it changes"),
        path("tls_client_ca_file", "", "clients need a certificate of this authority; empty: none is asked for"),
        text("public_url", "", 256, "https://HOST where people and proxies find the daemon", shape="public_url"),
        texts("trusted_proxies", 64, "addresses and networks whose X-Forwarded headers count", shape="network"),
        texts("cors_origins", 64, "web pages that may call the API: https://app.example", shape="origin"),
        bool_("control_socket", True, "whether commands reach the daemon over a socket in the state directory"),
        int_("max_connections_count", 1_024, 1, 65_535, "connections open at once; more get 503"),
        int_("idle_timeout_ms", 75_000, 100, 600_000, "an idle connection is closed after this long"),
        int_("drain_timeout_ms", 30_000, 0, 600_000, "how long open runs may finish when the daemon stops"),
        bool_("watch_config", False, "whether the configuration is read again when its files change"),
        path(
            "state_dir", "", "directory of the journal and the keys; empty: the user's state directory",
            env="PALYRA_STATE_DIR",
        ),
    ),
    *table(
        "journal",
        "journal",
        choice("durability", "full", "full relaxed", "relaxed: a power cut may take the last commits"),
        int_("commit_max_count", limits.COMMIT_MAX_COUNT, 1, limits.COMMIT_MAX_COUNT, "events in one commit"),
        int_("lazy_append_ms", 250, 10, 5_000, "longest wait of facts that are not urgent"),
        int_("snapshot_every_count", 10_000, 100, 1_000_000, "events between two snapshots"),
        int_("snapshot_every_ms", 600_000, 1_000, DAY_MS, "time between two snapshots"),
        int_("wal_checkpoint_bytes", 4 * MIB, 64 * KIB, GIB, "size of the write-ahead log that is folded back"),
        int_("witness_every_ms", 60_000, 1_000, HOUR_MS, "time between two notes of the journal's head"),
        Key(
            path="witness_copies", type="paths", default=[], high=8,
            meaning="files on other disks that get a copy of the head note",
        ),
        int_("min_free_bytes", 512 * MIB, 64 * MIB, 1_024 * GIB, "room on the disk below which no run is taken"),
        int_("ballast_bytes", 16 * MIB, 0, GIB, "room kept for the facts of a full disk; 0 = none"),
        choice("verify_at_start", "quick", "quick full off", "what is verified before the daemon answers"),
    ),
    *table(
        "observability",
        "logging",
        choice("log_level", "info", "debug info warning error", "least severe line that is logged"),
        choice("log_format", "auto", "auto console json", "auto: console on a terminal, else json"),
        path("log_file", "", "file to log to; empty: standard error"),
        choice("log_requests", "all", "all errors off", "which requests get a line in the log"),
    ),
    *table(
        "auth",
        "daemon",
        choice("anonymous_client", "refuse", "refuse loopback", "loopback: local programs need no client key"),
        texts("extra_hosts", 64, "more names that a Host header may hold", shape="host_name"),
        int_("expiring_window_ms", 900_000, 1_000, DAY_MS, "a token that ends this soon counts as expiring"),
        int_("max_profiles_per_candidate", 3, 1, 16, "credentials that a model of a provider is tried with"),
    ),
    *table(
        "auth.oauth.openai",
        "auth",
        *(
            text(
                f"{name}_url", f"https://auth.openai.com/oauth/{name}", 2_048, meaning, shape="endpoint",
                env=f"PALYRA_OPENAI_OAUTH_{name.upper()}_URL",
            )
            for name, meaning in (
                ("authorize", "page of the provider where people log in"),
                ("token", "where codes and refresh tokens are turned into tokens"),
            )
        ),
        Key(
            path="revoke_url", type="text", default="https://auth.openai.com/oauth/revoke", low=0, high=2_048,
            meaning="where tokens are given back; empty: nowhere", shape="endpoint_or_none",
            env="PALYRA_OPENAI_OAUTH_REVOKE_URL",
        ),
        text("client_id", "", 256, "whom the provider knows you as; empty: nobody logs in by OAuth", shape="line"),
        text("client_secret_vault_ref", "", 400, "secret of the vault that goes with it", shape="vault_ref"),
        texts("scopes", 32, "what is asked for", default=["openid", "profile", "offline_access"], shape="scope"),
        text(
            "redirect_uri", "", 2_048, "where people come back to; empty: a place of the console", shape="endpoint",
        ),
        Key(
            path="extra_authorize_params", type="map", default={}, high=16, shape="header_value",
            meaning="more that the page is told; none of OAuth's own",
        ),
        int_("attempt_ttl_ms", 600_000, 60_000, 1_800_000, "how long somebody may take to log in"),
    ),
    *table(
        "vault",
        "vault",
        choice("key_source", "key_file", "key_file os_keychain", "where the key that seals secrets is kept"),
        path("key_file", "", "the file that holds it; empty: vault.key in the state directory"),
        int_("max_secrets", 4_096, 1, 1_000_000, "secrets that the vault holds at most"),
        int_("lock_timeout_ms", 3_000, 0, 60_000, "how long a command waits for another one that writes"),
    ),
    *table(
        "self_healing.stalls_after_ms",
        "supervision",
        int_("run", 120_000, 10_000, DAY_MS, "a run without a sign of life for this long is suspect"),
        int_("loop", 60_000, 10_000, DAY_MS, "a busy loop without a sign of life for this long is suspect"),
    ),
    *table(
        "usage",
        "usage",
        choice("unknown_outcome", "input", "input reserved zero", "what a call counts that may have been billed"),
        choice("abandoned", "reserved", "input reserved zero", "what a call counts that a crash cut off"),
    ),
    *table(
        "budgets",
        "budgets",
        text("timezone", "UTC", 64, "zone in which the days of a rule begin that names none", shape="zone"),
        int_(
            "default_output_cap_tokens", limits.DEFAULT_OUTPUT_CAP_TOKENS, 1, 10_000_000,
            "output that is held where neither client nor model names a maximum",
        ),
        Key(path="policies", type="rules", default=[], meaning="rules about usage: [[budgets.policies]]"),
    ),
    *table(
        "approvals",
        "budgets",
        int_("request_ttl_hours", 24, 1, 744, "how long a request to pass a limit waits for somebody to decide"),
        bool_("four_eyes", False, "nobody decides about what they have asked for themselves"),
    ),
    *table(
        "alerts",
        "alerts",
        Key(
            path="webhook_url", type="text", default="", low=0, high=2_048, shape="endpoint_or_none",
            meaning="your own program that is told of alerts: https, or http on this machine; empty: nobody is",
        ),
        text("webhook_secret_vault_ref", "", 400, "secret of the vault that signs it", shape="vault_ref"),
    ),
    *table(
        "pricing",
        "pricing",
        Key(path="overrides", type="rules", default=[], meaning="prices of your own: [[pricing.overrides]]"),
    ),
    *table(
        "routing",
        "routing",
        bool_("enabled", True, "whether a model is recommended or chosen for a request at all"),
        choice(
            "mode", "suggest", "suggest dry_run enforced",
            "suggest names a better model, dry_run records what would be done, enforced does it",
            spellings={"dry-run": "dry_run"},
        ),
        bool_("auxiliary_enabled", True, "route summaries, recall and the like; false: they get the default model"),
        choice("scorer", "palyra-complexity-1", "palyra-complexity-1", "formula of a request's complexity"),
        int_("simple_at_bp", 3_500, 0, 10_000, "up to this score a request is simple: the cheapest model"),
        int_("premium_at_bp", 7_500, 0, 10_000, "from this score on a request is worth the best model"),
        int_("budget_pressure_bp", 8_000, 1, 10_000, "used share of a hard limit from which choices are cheaper"),
        choice("override_requested", "always", "always virtual_only", "which requests enforced may move"),
        texts("keywords", 64, "words of demanding requests; stem* is a word that begins so",
               default=list(KEYWORDS), shape="keyword"),
        *(
            int_(f"weights.{part}_bp", 10_000, 0, 100_000, f"how much {what} counts; 10000 is as designed")
            for part, what in (
                ("length", "the length"), ("tools", "each tool"), ("json", "JSON"), ("images", "each picture"),
                ("keywords", "each keyword"),
            )
        ),
        *(
            int_(f"classes.{name}.min_quality", 0, 0, 100, f"models below go last for {name} requests")
            for name in TASK_CLASSES
        ),
        Key(
            path="agents", type="map", default={}, high=1_024, choices=("suggest", "dry_run", "enforced"),
            spellings={"dry-run": "dry_run"}, meaning="modes of agents that differ: agent = mode",
        ),
    ),
    *table(
        "privacy",
        "operations",
        choice("capture_content", "off", "off on", "on: prompts and answers are kept in content.db"),
        int_("content_days", 30, 1, 3_650, "how long they are kept"),
        int_("content_max_bytes", MIB, KIB, 64 * MIB, "of one request, and of one answer; longer is cut"),
        texts("capture_principals", 1_000, "whose are kept; [] = everybody's"),
        int_("error_text_bytes", 240, 0, 2_000, "of what a provider says of an error is stored and shown"),
        texts(
            "extra_patterns", 32, "regular expressions; what they match is shown nowhere", shape="linear_pattern"
        ),
    ),
    *table(
        "console",
        "console",
        int_("event_clients_max_count", 32, 1, 1_024, "event streams open at once"),
    ),
    *table(
        "cli",
        "cli",
        text("timezone", "local", 64, "zone of times that are shown: local, or an IANA name", shape="timezone"),
        choice("color", "auto", "auto always never", "colour in the terminal"),
    ),
    *table(
        "model_provider",
        "gateway",
        text(
            "default_chat_model_id", None, 512, "model of a request that names none",
            derived="first enabled chat model", shape="model_ref",
        ),
        text("default_embeddings_model_id", None, 512, "the same for embeddings", shape="model_ref"),
        text(
            "default_audio_transcription_model_id", None, 512, "the same for transcriptions", shape="model_ref"
        ),
        bool_("failover_enabled", True, "whether another candidate is tried when one fails"),
        choice("failover_scope", "compatible", "compatible same_model declared", "which models may stand in"),
        int_("failover_max_candidates", 4, 1, 8, "candidates of a request, the first included"),
        bool_("response_cache_enabled", False, "whether equal requests may get the same answer for a while"),
        int_("response_cache_ttl_ms", 30_000, 1_000, DAY_MS, "how long an answer is kept"),
        int_("response_cache_max_entries", 128, 1, 100_000, "answers that are kept"),
        int_("response_cache_max_bytes", 64 * MIB, MIB, 4 * GIB, "size of all kept answers together"),
        choice(
            "response_cache_isolation", "principal", "principal session shared",
            "who may get an answer that was made for another request",
        ),
        bool_("response_cache_tool_calls", False, "whether answers that call tools are kept"),
        int_(
            "health_ttl_ms", 60_000, 5_000, DAY_MS, "how long a provider's health is known for; 0: no probes",
            or_zero=True,
        ),
        int_(
            "discovery_ttl_ms", 300_000, 5_000, DAY_MS, "how long a list of models holds; 0: none is read",
            or_zero=True,
        ),
        int_(
            "max_model_tokens_per_event", limits.MAX_MODEL_TOKENS_PER_EVENT, 1, 10_000_000,
            "input tokens of one provider request, and output tokens of one answer",
        ),
        choice("unknown_model_policy", "refuse", "refuse default", "default: an unknown name means the default"),
        int_("max_request_bytes", 32 * MIB, KIB, GIB, "size of one request's body"),
        int_("max_audio_bytes", 64 * MIB, KIB, GIB, "the same where it is a recording"),
        int_("max_inflight_bytes", 512 * MIB, 16 * MIB, 64 * GIB, "size of all open requests' bodies together"),
        int_("run_timeout_ms", 900_000, 1_000, 7_200_000, "all attempts of a request together"),
        int_("sse_keepalive_ms", 15_000, 1_000, 60_000, "silence of a stream after which a comment is sent"),
        Key(
            path="model_aliases", type="map", default={}, high=1_000, shape="model_ref",
            meaning="other names of models; a name may end in * and is then a prefix",
        ),
    ),
)  # fmt: skip

#: Of `[journal]` what is no property of its file.
_OF_THE_JOURNAL = (
    *("commit_max_count", "lazy_append_ms", "min_free_bytes", "snapshot_every_count", "snapshot_every_ms"),
    *("verify_at_start", "wal_checkpoint_bytes", "witness_copies", "witness_every_ms"),
)
#: What a daemon that runs obeys as soon as it has read it again, beside everything that decisions choose from.
_LIVE = frozenset(
    (
        "alerts.webhook_secret_vault_ref",
        "alerts.webhook_url",
        "approvals.four_eyes",
        "approvals.request_ttl_hours",
        "auth.anonymous_client",
        "auth.expiring_window_ms",
        "auth.extra_hosts",
        "auth.max_profiles_per_candidate",
        *(key.path for key in _ROOT_KEYS if key.path.startswith("auth.oauth.")),
        "budgets.default_output_cap_tokens",
        "budgets.policies",
        "budgets.timezone",
        "cli.color",
        "cli.timezone",
        "console.event_clients_max_count",
        "daemon.cors_origins",
        "daemon.drain_timeout_ms",
        "daemon.idle_timeout_ms",
        "daemon.public_url",
        "daemon.trusted_proxies",
        "daemon.watch_config",
        *(f"journal.{name}" for name in _OF_THE_JOURNAL),
        "model_provider.max_audio_bytes",
        "model_provider.max_inflight_bytes",
        "model_provider.max_request_bytes",
        "model_provider.sse_keepalive_ms",
        "observability.log_file",
        "observability.log_format",
        "observability.log_level",
        "observability.log_requests",
        "pricing.overrides",
        "privacy.capture_content",
        "privacy.capture_principals",
        "privacy.content_days",
        "privacy.content_max_bytes",
        "privacy.error_text_bytes",
        "privacy.extra_patterns",
        "self_healing.stalls_after_ms.loop",
        "self_healing.stalls_after_ms.run",
        "usage.abandoned",
        "usage.unknown_outcome",
    )
)


def _is_live(path: str) -> bool:
    table, _, name = path.rpartition(".")
    is_read_by_decisions = "[]" in table or path.startswith("routing.")
    return path in _LIVE or is_read_by_decisions or (table == "model_provider" and name not in _AT_START)


#: Keys of `[model_provider]` that decisions do not look at.
_AT_START = frozenset(("max_audio_bytes", "max_inflight_bytes", "max_request_bytes", "sse_keepalive_ms"))

#: All rows, in the order in which they are listed.
KEYS: tuple[Key, ...] = tuple(
    msgspec.structs.replace(key, is_live=_is_live(key.path)) for key in (*_ROOT_KEYS, *PROVIDER_KEYS, *MODEL_KEYS)
)

#: Variables that begin like ours and are no keys: where the file is, and what the command line reads itself.
OTHER_VARIABLES = frozenset(("PALYRA_CONFIG", "PALYRA_TOKEN", "PALYRA_URL"))

#: Short flags and the key that each one sets.
SHORT_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "--host": "daemon.host",
        "--port": "daemon.port",
        "--state-dir": "daemon.state_dir",
        "--log-level": "observability.log_level",
    }
)


class Table:
    """The keys below one place: of the whole file, or of one kind of entry."""

    def __init__(self, path: str, keys: Iterable[Key]) -> None:
        #: "" for the file, else `model_provider.providers`.
        self.path = path
        #: By name within the table; a name may have parts: `capabilities.tools`.
        self.keys: dict[str, Key] = {key.path.removeprefix(f"{path}[]."): key for key in keys}
        #: Tables inside: `daemon`, `self_healing.stalls_after_ms`.
        self.branches = frozenset(
            ".".join(parts[:count])
            for parts in (name.split(".") for name in self.keys)
            for count in range(1, len(parts))
        )

    def names_below(self, branch: str) -> list[str]:
        """Return what may be written directly in a branch ("" = the top), keys and tables, in order."""
        prefix = f"{branch}." if branch else ""
        below = (name.removeprefix(prefix).split(".")[0] for name in self.keys if name.startswith(prefix))
        return list(dict.fromkeys(below))


ROOT = Table("", _ROOT_KEYS)
PROVIDERS = Table("model_provider.providers", PROVIDER_KEYS)
MODELS = Table("model_provider.models", MODEL_KEYS)
#: The arrays of tables, and the key by which an entry's variables name it.
ENTRY_TABLES: Mapping[str, tuple[Table, str]] = MappingProxyType(
    {PROVIDERS.path: (PROVIDERS, "provider_id"), MODELS.path: (MODELS, "model_id")}
)
