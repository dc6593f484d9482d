"""Every key of the configuration, in one table.

Checking, environment variables, `palyra config keys` and the documentation's tables are derived from these rows, so
a key exists exactly if it stands here; a key without an effect must not. The typed tree that a program reads
(`tree.py`, `events/registry.py`) is compared with the rows in the tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from palyra import limits
from palyra.config.flavors import FLAVORS
from palyra.events.registry import ROLES, Capabilities
from palyra.events.smart_routing import KEYWORDS, TASK_CLASSES

KeyType = Literal["bool", "int", "text", "texts", "path", "paths", "map", "rules"]


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One key: what may be written, and what holds if nothing is."""

    #: `daemon.port`; a key of an entry is `model_provider.providers[].base_url`.
    path: str
    type: KeyType
    #: None: unset, or taken from elsewhere as `derived` says.
    default: Any = None
    #: Where the value comes from when nothing is written: "the flavor's".
    derived: str = ""
    required: bool = False
    #: Inclusive bounds of the number, of a text's characters, or of a list's or a map's items.
    low: int | None = None
    high: int | None = None
    #: 0 is taken as well, and turns something off.
    or_zero: bool = False
    choices: tuple[str, ...] = ()
    #: Other spellings that are read as a choice.
    spellings: Mapping[str, str] = {}
    #: Name of the rule that each text follows (`schema.SHAPES`).
    shape: str = ""
    #: Kinds of provider, or role of model, for which the key means something; "" = any.
    only: str = ""
    #: The part of the program that obeys it.
    owner: str = ""
    #: One line for `palyra config keys`.
    meaning: str
    #: A change acts when the configuration is read again; that of any other key at the next start.
    is_live: bool = False
    #: Environment variable; "" = none. In an entry's variable `{}` is the folded id of the entry.
    env: str = ""


def fold_env(text: str) -> str:
    """Return `text` as it stands in a variable's name: upper case, everything but letters and digits `_`."""
    return re.sub(r"[^A-Z0-9]", "_", text.upper())


def _bool(path: str, default: bool | None, meaning: str, **more: Any) -> Key:
    return Key(path=path, type="bool", default=default, meaning=meaning, **more)


def _int(path: str, default: int | None, low: int, high: int, meaning: str, **more: Any) -> Key:
    return Key(path=path, type="int", default=default, low=low, high=high, meaning=meaning, **more)


def _choice(path: str, default: str | None, choices: str, meaning: str, **more: Any) -> Key:
    return Key(path=path, type="text", default=default, choices=tuple(choices.split()), meaning=meaning, **more)


def _text(path: str, default: str | None, high: int, meaning: str, **more: Any) -> Key:
    return Key(path=path, type="text", default=default, low=1, high=high, meaning=meaning, **more)


def _texts(path: str, high: int, meaning: str, **more: Any) -> Key:
    return Key(path=path, type="texts", **{"default": [], "high": high, "meaning": meaning, **more})


def _path(path: str, default: str | None, meaning: str, **more: Any) -> Key:
    return Key(path=path, type="path", default=default, high=_PATH_MAX_CHARS, meaning=meaning, **more)


def _table(prefix: str, owner: str, *rows: Key, env: bool = True) -> Iterator[Key]:
    """Yield the rows with their place: full path, owner, and variable where their type can have one."""
    for row in rows:
        path = f"{prefix}.{row.path}" if prefix else row.path
        changes: dict[str, Any] = {"path": path, "owner": owner}
        if env and not row.env and row.type not in ("map", "rules"):
            table, entry, name = path.partition("[].")
            changes["env"] = f"PALYRA_{fold_env(table)}" + (f"__{{}}__{fold_env(name)}" if entry else "")
        yield msgspec.structs.replace(row, **changes)


_PATH_MAX_CHARS = 4_096
_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30
_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000

_ROOT_KEYS = (
    *_table(
        "",
        "config",
        _int("version", 1, 1, 1, "format of this file"),
        env=False,
    ),
    *_table(
        "daemon",
        "daemon",
        _text("host", "127.0.0.1", 64, "address to listen on, or localhost", shape="listener"),
        _int("port", 7142, 0, 65_535, "port to listen on; 0 takes any free one"),
        _bool("allow_remote", False, "listen beyond this machine, with the two TLS files"),
        _bool("allow_plain_remote", False, "listen beyond this machine without TLS, behind a proxy that has it"),
        _path("tls_cert_file", "", "certificate chain for TLS (PEM); read again when it changes"),
        _path("tls_key_file", "", "its private key, mode 0600; read again when it changes"),
        _path("tls_client_ca_file", "", "clients need a certificate of this authority; empty: none is asked for"),
        _text("public_url", "", 256, "https://HOST where people and proxies find the daemon", shape="public_url"),
        _texts("trusted_proxies", 64, "addresses and networks whose X-Forwarded headers count", shape="network"),
        _texts("cors_origins", 64, "web pages that may call the API: https://app.example", shape="origin"),
        _bool("control_socket", True, "whether commands reach the daemon over a socket in the state directory"),
        _int("max_connections_count", 1_024, 1, 65_535, "connections open at once; more get 503"),
        _int("idle_timeout_ms", 75_000, 100, 600_000, "an idle connection is closed after this long"),
        _int("drain_timeout_ms", 30_000, 0, 600_000, "how long open runs may finish when the daemon stops"),
        _path(
            "state_dir", "", "directory of the journal and the keys; empty: the user's state directory",
            env="PALYRA_STATE_DIR",
        ),
    ),
    *_table(
        "journal",
        "journal",
        _choice("durability", "full", "full relaxed", "relaxed: a power cut may take the last commits"),
        _int("commit_max_count", limits.COMMIT_MAX_COUNT, 1, limits.COMMIT_MAX_COUNT, "events in one commit"),
        _int("lazy_append_ms", 250, 10, 5_000, "longest wait of facts that are not urgent"),
        _int("snapshot_every_count", 10_000, 100, 1_000_000, "events between two snapshots"),
        _int("snapshot_every_ms", 600_000, 1_000, _DAY_MS, "time between two snapshots"),
        _int("wal_checkpoint_bytes", 4 * _MIB, 64 * _KIB, _GIB, "size of the write-ahead log that is folded back"),
        _int("witness_every_ms", 60_000, 1_000, _HOUR_MS, "time between two notes of the journal's head"),
        Key(
            path="witness_copies", type="paths", default=[], high=8,
            meaning="files on other disks that get a copy of the head note",
        ),
        _int("min_free_bytes", 512 * _MIB, 64 * _MIB, 1_024 * _GIB, "room on the disk below which no run is taken"),
        _int("ballast_bytes", 16 * _MIB, 0, _GIB, "room kept for the facts of a full disk; 0 = none"),
        _choice("verify_at_start", "quick", "quick full off", "what is verified before the daemon answers"),
    ),
    *_table(
        "observability",
        "logging",
        _choice("log_level", "info", "debug info warning error", "least severe line that is logged"),
        _choice("log_format", "auto", "auto console json", "auto: console on a terminal, else json"),
        _path("log_file", "", "file to log to; empty: standard error"),
        _choice("log_requests", "all", "all errors off", "which requests get a line in the log"),
    ),
    *_table(
        "auth",
        "daemon",
        _choice("anonymous_client", "refuse", "refuse loopback", "loopback: local programs need no client key"),
        _texts("extra_hosts", 64, "more names that a Host header may hold", shape="host_name"),
        _int("expiring_window_ms", 900_000, 1_000, _DAY_MS, "a token that ends this soon counts as expiring"),
        _int("max_profiles_per_candidate", 3, 1, 16, "credentials that a model of a provider is tried with"),
    ),
    *_table(
        "auth.oauth.openai",
        "auth",
        *(
            _text(
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
        _text("client_id", "", 256, "whom the provider knows you as; empty: nobody logs in by OAuth", shape="line"),
        _text("client_secret_vault_ref", "", 400, "secret of the vault that goes with it", shape="vault_ref"),
        _texts("scopes", 32, "what is asked for", default=["openid", "profile", "offline_access"], shape="scope"),
        _text(
            "redirect_uri", "", 2_048, "where people come back to; empty: a place of the console", shape="endpoint",
        ),
        Key(
            path="extra_authorize_params", type="map", default={}, high=16, shape="header_value",
            meaning="more that the page is told; none of OAuth's own",
        ),
        _int("attempt_ttl_ms", 600_000, 60_000, 1_800_000, "how long somebody may take to log in"),
    ),
    *_table(
        "vault",
        "vault",
        _choice("key_source", "key_file", "key_file os_keychain", "where the key that seals secrets is kept"),
        _int("max_secrets", 4_096, 1, 1_000_000, "secrets that the vault holds at most"),
        _int("lock_timeout_ms", 3_000, 0, 60_000, "how long a command waits for another one that writes the vault"),
    ),
    *_table(
        "self_healing.stalls_after_ms",
        "supervision",
        _int("run", 120_000, 10_000, _DAY_MS, "a run without a sign of life for this long is suspect"),
        _int("loop", 60_000, 10_000, _DAY_MS, "a busy loop without a sign of life for this long is suspect"),
    ),
    *_table(
        "usage",
        "usage",
        _choice("unknown_outcome", "input", "input reserved zero", "what a call counts that may have been billed"),
        _choice("abandoned", "reserved", "input reserved zero", "what a call counts that a crash cut off"),
    ),
    *_table(
        "budgets",
        "budgets",
        _text("timezone", "UTC", 64, "zone in which the days of a rule begin that names none", shape="zone"),
        _int(
            "default_output_cap_tokens", limits.DEFAULT_OUTPUT_CAP_TOKENS, 1, 10_000_000,
            "output that is held where neither client nor model names a maximum",
        ),
        Key(path="policies", type="rules", default=[], meaning="rules about usage: [[budgets.policies]]"),
    ),
    *_table(
        "approvals",
        "budgets",
        _int("request_ttl_hours", 24, 1, 744, "how long a request to pass a limit waits for somebody to decide"),
        _bool("four_eyes", False, "nobody decides about what they have asked for themselves"),
    ),
    *_table(
        "pricing",
        "pricing",
        Key(path="overrides", type="rules", default=[], meaning="prices of your own: [[pricing.overrides]]"),
    ),
    *_table(
        "routing",
        "routing",
        _bool("enabled", True, "whether a model is recommended or chosen for a request at all"),
        _choice(
            "mode", "suggest", "suggest dry_run enforced",
            "suggest names a better model, dry_run records what would be done, enforced does it",
            spellings={"dry-run": "dry_run"},
        ),
        _bool("auxiliary_enabled", True, "route summaries, recall and the like; false: they get the default model"),
        _choice("scorer", "palyra-complexity-1", "palyra-complexity-1", "formula of a request's complexity"),
        _int("simple_at_bp", 3_500, 0, 10_000, "up to this score a request is simple: the cheapest model"),
        _int("premium_at_bp", 7_500, 0, 10_000, "from this score on a request is worth the best model"),
        _int("budget_pressure_bp", 8_000, 1, 10_000, "used share of a hard limit from which choices are cheaper"),
        _choice("override_requested", "always", "always virtual_only", "which requests enforced may move"),
        _texts("keywords", 64, "words of demanding requests; stem* is a word that begins so",
               default=list(KEYWORDS), shape="keyword"),
        *(
            _int(f"weights.{part}_bp", 10_000, 0, 100_000, f"how much {what} counts; 10000 is as designed")
            for part, what in (
                ("length", "the length"), ("tools", "each tool"), ("json", "JSON"), ("images", "each picture"),
                ("keywords", "each keyword"),
            )
        ),
        *(
            _int(f"classes.{name}.min_quality", 0, 0, 100, f"models below go last for {name} requests")
            for name in TASK_CLASSES
        ),
        Key(
            path="agents", type="map", default={}, high=1_024, choices=("suggest", "dry_run", "enforced"),
            spellings={"dry-run": "dry_run"}, meaning="modes of agents that differ: agent = mode",
        ),
    ),
    *_table(
        "privacy",
        "operations",
        _choice("capture_content", "off", "off on", "on: prompts and answers are kept in content.db"),
        _int("content_days", 30, 1, 3_650, "how long they are kept"),
        _int("content_max_bytes", _MIB, _KIB, 64 * _MIB, "of one request, and of one answer; longer is cut"),
        _texts("capture_principals", 1_000, "whose are kept; [] = everybody's"),
        _texts(
            "extra_patterns", 32, "regular expressions; what they match is shown nowhere", shape="linear_pattern"
        ),
    ),
    *_table(
        "console",
        "console",
        _int("event_clients_max_count", 32, 1, 1_024, "event streams open at once"),
    ),
    *_table(
        "cli",
        "cli",
        _text("timezone", "local", 64, "zone of times that are shown: local, or an IANA name", shape="timezone"),
        _choice("color", "auto", "auto always never", "colour in the terminal"),
    ),
    *_table(
        "model_provider",
        "gateway",
        _text(
            "default_chat_model_id", None, 512, "model of a request that names none",
            derived="first enabled chat model", shape="model_ref",
        ),
        _text("default_embeddings_model_id", None, 512, "the same for embeddings", shape="model_ref"),
        _text(
            "default_audio_transcription_model_id", None, 512, "the same for transcriptions", shape="model_ref"
        ),
        _bool("failover_enabled", True, "whether another candidate is tried when one fails"),
        _choice("failover_scope", "compatible", "compatible same_model declared", "which models may stand in"),
        _int("failover_max_candidates", 4, 1, 8, "candidates of a request, the first included"),
        _bool("response_cache_enabled", False, "whether equal requests may get the same answer for a while"),
        _int("response_cache_ttl_ms", 30_000, 1_000, _DAY_MS, "how long an answer is kept"),
        _int("response_cache_max_entries", 128, 1, 100_000, "answers that are kept"),
        _int("response_cache_max_bytes", 64 * _MIB, _MIB, 4 * _GIB, "size of all kept answers together"),
        _choice(
            "response_cache_isolation", "principal", "principal session shared",
            "who may get an answer that was made for another request",
        ),
        _bool("response_cache_tool_calls", False, "whether answers that call tools are kept"),
        _int(
            "health_ttl_ms", 60_000, 5_000, _DAY_MS, "how long a provider's health is known for; 0: no probes",
            or_zero=True,
        ),
        _int(
            "discovery_ttl_ms", 300_000, 5_000, _DAY_MS, "how long a list of models holds; 0: none is read",
            or_zero=True,
        ),
        _int(
            "max_model_tokens_per_event", limits.MAX_MODEL_TOKENS_PER_EVENT, 1, 10_000_000,
            "input tokens of one provider request, and output tokens of one answer",
        ),
        _choice("unknown_model_policy", "refuse", "refuse default", "default: an unknown name means the default"),
        _int("max_request_bytes", 32 * _MIB, _KIB, _GIB, "size of one request's body"),
        _int("max_audio_bytes", 64 * _MIB, _KIB, _GIB, "the same where it is a recording"),
        _int("max_inflight_bytes", 512 * _MIB, 16 * _MIB, 64 * _GIB, "size of all open requests' bodies together"),
        _int("run_timeout_ms", 900_000, 1_000, 7_200_000, "all attempts of a request together"),
        _int("sse_keepalive_ms", 15_000, 1_000, 60_000, "silence of a stream after which a comment is sent"),
        Key(
            path="model_aliases", type="map", default={}, high=1_000, shape="model_ref",
            meaning="other names of models; a name may end in * and is then a prefix",
        ),
    ),
)  # fmt: skip

#: Kinds of provider that are reached over a network.
_REMOTE = "openai_compatible anthropic"

_PROVIDER_KEYS = (
    *_table(
        "model_provider.providers[]",
        "gateway",
        _text("provider_id", None, 64, "name of this entry", shape="provider_id", required=True),
        env=False,
    ),
    *_table(
        "model_provider.providers[]",
        "gateway",
        _choice(
            "kind", None, "deterministic openai_compatible anthropic", "the protocol it speaks", required=True,
            spellings=MappingProxyType({"openai": "openai_compatible", "openai-compatible": "openai_compatible"}),
        ),
        _text("display_name", None, 128, "name that is shown", derived="provider_id", shape="line"),
        _choice(
            "flavor", None, " ".join(FLAVORS), "whose ways it has", derived="host of base_url, else generic",
            only="openai_compatible",
        ),
        _text("base_url", None, 2_048, "where it is", derived="the flavor's", only=_REMOTE),
        _bool(
            "allow_private_base_url", False, "loopback, private networks and http need it",
            only=_REMOTE,
        ),
        _bool("enabled", True, "whether it gets requests"),
        _path("ca_file", "", "extra trust root", only=_REMOTE),
        _text(
            "api_key_env", None, 128, "environment variable that holds its key", shape="env_name",
            only=_REMOTE,
        ),
        _path("api_key_file", None, "file that holds its key", only=_REMOTE),
        _text(
            "api_key_vault_ref", None, 400, "secret of the vault that is its key: global/openai", shape="vault_ref",
            only=_REMOTE,
        ),
        _text(
            "auth_profile_id", "", 64, "the one auth profile it is asked with", shape="profile_id",
            only=_REMOTE,
        ),
        _text(
            "auth_provider_kind", None, 64, "whose auth profiles it takes",
            derived="openai or anthropic at their own address, else provider_id", shape="provider_id", only=_REMOTE,
        ),
        _choice(
            "auth_scheme", None, "bearer x-api-key none", "how the key is sent",
            derived="the kind's; none where no key is named and the flavor needs none", only=_REMOTE,
        ),
        Key(
            path="headers", type="map", default={}, high=16, shape="header_value", only=_REMOTE,
            meaning="sent with every request; never a secret",
        ),
        _texts("forward_headers", 16, "headers of the client that are passed on", only=_REMOTE),
        _int("request_timeout_ms", 600_000, 100, _HOUR_MS, "one attempt in all"),
        _int("connect_timeout_ms", 5_000, 50, 600_000, "name lookup, TCP and TLS", only=_REMOTE),
        _int(
            "first_byte_timeout_ms", None, 50, 600_000, "request written to first byte of a stream",
            derived="the flavor's",
        ),
        _int("idle_timeout_ms", 120_000, 50, 600_000, "between two bytes of a stream"),
        _int("max_retries", 2, 0, 10, "more attempts at the same candidate"),
        _int("retry_backoff_ms", 150, 1, 60_000, "wait before the first retry; doubles"),
        _int("retry_after_cap_ms", 10_000, 0, 600_000, "a longer Retry-After is not waited for"),
        _int("circuit_breaker_failure_threshold", 5, 1, 1_000, "faults in a row that open the circuit"),
        _int("circuit_breaker_cooldown_ms", 30_000, 100, _HOUR_MS, "how long it stays open before one trial"),
        _int("max_concurrency", None, 1, 4_096, "attempts at once", derived="the flavor's"),
        _int("max_queue", 256, 0, 65_536, "attempts that may wait for a slot"),
        _int("queue_timeout_ms", 30_000, 0, 600_000, "longest wait for a slot"),
        _choice(
            "on_client_disconnect", None, "drain cancel", "whether an answer nobody waits for is read to its end",
            derived="the flavor's",
        ),
        _int("drain_max_ms", 30_000, 0, 600_000, "how long such an answer is read on"),
        _int("drain_max_tokens", 4_096, 0, 1_000_000, "and how much of it"),
        _bool(
            "health_probe", True, "whether it is asked for its models now and then, to know how it does",
            only=_REMOTE,
        ),
        _choice(
            "discovery_mode", None, "off list serve", "what becomes of the models that it lists",
            derived="the flavor's", only=_REMOTE,
        ),
        _choice(
            "pricing", "catalogue", "catalogue free unknown", "where its prices come from; free is a declaration",
            only=_REMOTE,
        ),
        _text(
            "price_vendor", None, 64, "its name in the price catalogue", derived="the flavor's", shape="line",
            only=_REMOTE,
        ),
        _choice(
            "cost_source", "price_book", "price_book provider", "provider: a cost that it reports is believed",
            only=_REMOTE,
        ),
        _choice(
            "zero_usage", "trust", "trust estimate", "what counts when it reports 0 tokens for an answer",
            only=_REMOTE,
        ),
        Key(path="rules", type="rules", default=[], only="deterministic", meaning="answers; the first match wins"),
        _text(
            "script", None, _PATH_MAX_CHARS, "TOML file with more [[rules]], beside this file or absolute",
            only="deterministic",
        ),
        _text(
            "fixtures", None, _PATH_MAX_CHARS, "file of `palyra fixtures record`, beside this file or absolute",
            only="deterministic",
        ),
        _choice(
            "fixture_mode", "strict", "strict lenient", "lenient: rules answer what was not recorded",
            only="deterministic",
        ),
        _choice(
            "fixture_timing", "instant", "instant recorded", "recorded: answers take the time they took",
            only="deterministic",
        ),
    ),
)  # fmt: skip

_MODEL_KEYS = (
    *_table(
        "model_provider.models[]",
        "gateway",
        _text("model_id", None, 256, "name that clients use", shape="model_id", required=True),
        env=False,
    ),
    *_table(
        "model_provider.models[]",
        "gateway",
        _text("provider_id", None, 64, "entry that serves it", shape="provider_id", required=True),
        _choice("role", "chat", " ".join(ROLES), "what it does"),
        _bool("enabled", True, "whether it gets requests"),
        _text("upstream_model", None, 256, "name sent to the provider", derived="model_id", shape="line"),
        _int("priority", 100, 0, 10_000, "among providers of one model the lowest goes first"),
        _texts("aliases", 32, "other names", shape="model_id"),
        _texts("fallbacks", 8, "models that stand in, in order; [] = none", default=None, shape="model_ref"),
        *(
            _bool(
                f"capabilities.{name}", None, "what it can do", derived="the flavor's",
                only="chat audio_transcription" if name == "streaming" else "chat",
            )
            for name in Capabilities.__struct_fields__
        ),
        _choice(
            "reasoning", None, "none effort budget", "how it is told how much to think",
            derived="the flavor's", only="chat",
        ),
        _texts(
            "upstream_apis", 3, "dialects it is asked in, the preferred one first", default=None, low=1,
            choices=("chat", "messages", "responses"), derived="the flavor's", only="chat",
        ),
        _int("max_context_tokens", None, 1, 100_000_000, "window", derived="the flavor's"),
        _int("max_output_tokens", None, 1, 100_000_000, "longest answer", only="chat"),
        _int(
            "max_tokens_per_event", None, 1, 100_000_000, "input and output bound of one request",
            derived="model_provider.max_model_tokens_per_event",
        ),
        _int("dimensions", None, 1, 65_536, "length of a vector", only="embeddings"),
        _int(
            "max_batch", None, 1, limits.EMBEDDING_INPUTS_MAX_COUNT, "texts in one provider request",
            derived="the flavor's", only="embeddings",
        ),
        _choice("cost_tier", None, "low standard premium", "rank when models are compared", derived="the flavor's"),
        _int(
            "quality", None, 0, 100, "rank when the better model is chosen", derived="by cost_tier", only="chat"
        ),
        _choice("latency_tier", None, "low standard high", "rank when models are compared", derived="the flavor's"),
        _int("request_timeout_ms", None, 100, _HOUR_MS, "one attempt in all", derived="the provider's"),
        _int(
            "first_byte_timeout_ms", None, 50, 600_000, "request written to first byte of a stream",
            derived="the provider's",
        ),
        _text("price_model", None, 256, "name in the price catalogue", derived="upstream_model", shape="line"),
        _choice("metadata_source", "static", "static operator_override", "override: beats what a provider reports"),
    ),
)  # fmt: skip

#: What a daemon that runs obeys as soon as it has read it again, beside everything that decisions choose from.
_LIVE = frozenset(
    (
        "approvals.four_eyes",
        "approvals.request_ttl_hours",
        "auth.anonymous_client",
        "auth.extra_hosts",
        *(key.path for key in _ROOT_KEYS if key.path.startswith("auth.oauth.")),
        "budgets.default_output_cap_tokens",
        "budgets.policies",
        "budgets.timezone",
        "cli.color",
        "cli.timezone",
        "console.event_clients_max_count",
        "daemon.cors_origins",
        "daemon.drain_timeout_ms",
        "daemon.trusted_proxies",
        "journal.verify_at_start",
        "model_provider.max_audio_bytes",
        "model_provider.max_inflight_bytes",
        "model_provider.max_request_bytes",
        "observability.log_requests",
        "pricing.overrides",
        "privacy.capture_content",
        "privacy.capture_principals",
        "privacy.content_days",
        "privacy.content_max_bytes",
        "privacy.extra_patterns",
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
    msgspec.structs.replace(key, is_live=_is_live(key.path)) for key in (*_ROOT_KEYS, *_PROVIDER_KEYS, *_MODEL_KEYS)
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
PROVIDERS = Table("model_provider.providers", _PROVIDER_KEYS)
MODELS = Table("model_provider.models", _MODEL_KEYS)
#: The arrays of tables, and the key by which an entry's variables name it.
ENTRY_TABLES: Mapping[str, tuple[Table, str]] = MappingProxyType(
    {PROVIDERS.path: (PROVIDERS, "provider_id"), MODELS.path: (MODELS, "model_id")}
)
