"""`[model_provider]`: what entries say about each other, and what they resolve to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from palyra.config.capabilities import row_of
from palyra.config.effective import recordable_tree
from palyra.config.flavors import FLAVORS, flavor_of_host, traits_of
from palyra.config.problems import Problem
from palyra.events.registry import ModelEntry, ProviderEntry, Registry

Codes = Callable[..., list[tuple[str, str]]]
Problems = Callable[..., list[Problem]]
P = "model_provider.providers[0]"
M = "model_provider.models[0]"
PRIVATE = "allow_private_base_url = true"


def provider(name: str = "a", *lines: str, kind: str = "deterministic") -> str:
    return "\n".join(["[[model_provider.providers]]", f'provider_id = "{name}"', f'kind = "{kind}"', *lines, ""])


def remote(name: str = "a", *lines: str) -> str:
    return provider(name, 'base_url = "https://api.example.com/v1"', 'api_key_env = "K"', *lines, kind="openai")


def model(name: str = "m", at: str = "a", *lines: str) -> str:
    return "\n".join(["[[model_provider.models]]", f'model_id = "{name}"', f'provider_id = "{at}"', *lines, ""])


def top(*lines: str) -> str:
    return "\n".join(["[model_provider]", *lines, ""])


#: Each configuration with what is wrong or doubtful in it.
FAULTS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "provider twice": (
        provider() + provider() + model(),
        [("duplicate_provider", "model_provider.providers[1].provider_id")],
    ),
    "model twice": (
        provider() + model() + model(),
        [("duplicate_model", "model_provider.models[1].model_id")],
    ),
    "one model at two providers and in two roles is fine": (
        provider() + provider("b") + model() + model("m", "b") + model("m", "b", 'role = "embeddings"'),
        [],
    ),
    "unknown provider": (
        provider("opnai") + model("m", "opnai") + model("n", "openai"),
        [("unknown_provider", "model_provider.models[1].provider_id")],
    ),
    "kind anthropic knows chat alone": (
        provider("a", 'api_key_env = "K"', kind="anthropic") + model() + model("v", "a", 'role = "embeddings"'),
        [("role_not_supported_by_kind", "model_provider.models[1].role")],
    ),
    "a flavor means nothing to kind anthropic": (
        provider("a", 'api_key_env = "K"', 'flavor = "groq"', kind="anthropic") + model(),
        [("setting_without_effect", f"{P}.flavor")],
    ),
    "model of a broken provider is not a second fault": (
        top('default_chat_model_id = "m"') + provider(kind="x") + model(),
        [("bad_enum", f"{P}.kind")],
    ),
    "unknown default": (
        top('default_chat_model_id = "n"') + provider() + model(),
        [("unknown_model", "model_provider.default_chat_model_id")],
    ),
    "default that a provider may list": (
        top('default_chat_model_id = "n"')
        + remote("a", 'discovery_mode = "serve"')
        + model(),
        [("model_not_listed", "model_provider.default_chat_model_id")],
    ),
    "default of the wrong role": (
        top('default_embeddings_model_id = "m"') + provider() + model(),
        [("role_mismatch", "model_provider.default_embeddings_model_id")],
    ),
    "disabled default": (
        top('default_chat_model_id = "m"') + provider() + model("m", "a", "enabled = false"),
        [("default_disabled", "model_provider.default_chat_model_id")],
    ),
    "default at a disabled provider": (
        top('default_chat_model_id = "m"') + provider("a", "enabled = false") + model(),
        [("default_disabled", "model_provider.default_chat_model_id")],
    ),
    "default enabled at one of two providers, pinned, by alias, by model_aliases": (
        top('default_chat_model_id = "a/x"', 'model_aliases = { y = "x" }')
        + provider("b", "enabled = false")
        + provider()
        + model("m", "b")
        + model("m", "a", 'aliases = ["x"]', 'fallbacks = ["n"]')
        + model("n", "a", 'fallbacks = ["y"]'),
        [],
    ),
    "bounds of a cache that is off": (
        top("response_cache_ttl_ms = 60000", "response_cache_max_entries = 5") + provider() + model(),
        [
            ("setting_without_effect", "model_provider.response_cache_ttl_ms"),
            ("setting_without_effect", "model_provider.response_cache_max_entries"),
        ],
    ),
    "bounds of a cache that is on": (
        top("response_cache_enabled = true", "response_cache_ttl_ms = 60000") + provider() + model(),
        [],
    ),
    "alias of another model": (
        provider() + model("m", "a", 'aliases = ["x", "n"]') + model("n", "a", 'aliases = ["x"]'),
        [
            ("alias_conflict", f"{M}.aliases[1]"),
            ("alias_conflict", "model_provider.models[1].aliases[0]"),
        ],
    ),
    "fallbacks": (
        provider()
        + model("m", "a", 'fallbacks = ["m", "n", "n", "v", "w"]')
        + model("n")
        + model("v", "a", 'role = "embeddings"'),
        [
            ("bad_fallback", f"{M}.fallbacks[0]"),
            ("bad_fallback", f"{M}.fallbacks[2]"),
            ("role_mismatch", f"{M}.fallbacks[3]"),
            ("unknown_model", f"{M}.fallbacks[4]"),
        ],
    ),
    "model_aliases": (
        top('model_aliases = { "a*b" = "m", "x*" = "m", m = "m", y = "mm" }') + provider() + model(),
        [
            ("alias_conflict", 'model_provider.model_aliases."a*b"'),
            ("setting_without_effect", "model_provider.model_aliases.m"),
            ("unknown_model", "model_provider.model_aliases.y"),
        ],
    ),
    "two credentials": (
        remote("a", 'api_key_file = "/k"') + model(),
        [("credential_conflict", f"{P}.api_key_file")],
    ),
    "no credential": (
        provider("groq-1", 'flavor = "groq"', kind="openai") + model("m", "groq-1"),
        [],
    ),
    "credential that is not sent": (
        remote("a", 'auth_scheme = "none"') + model(),
        [("setting_without_effect", f"{P}.api_key_env")],
    ),
    "headers": (
        remote("a", 'headers = { x-a = "1", X-A = "2", "a b" = "3", X-Palyra-Run-Id = "4", Te = "5" }',
               'forward_headers = ["Authorization", "x-b"]') + model(),
        [
            ("bad_header", f"{P}.headers.X-A"),
            ("bad_header", f'{P}.headers."a b"'),
            ("bad_header", f"{P}.headers.X-Palyra-Run-Id"),
            ("bad_header", f"{P}.headers.Te"),
            ("bad_header", f"{P}.forward_headers[0]"),
        ],
    ),
    "no address": (provider(kind="openai") + model(), [("missing_key", f"{P}.base_url")]),
    "no address of a written flavor": (
        provider("a", 'flavor = "generic"', kind="openai") + model(),
        [("missing_key", f"{P}.base_url")],
    ),
    "ollama without its line": (
        provider("a", 'flavor = "ollama"', kind="openai") + model(),
        [("private_address_refused", f"{P}.base_url")],
    ),
    "metadata": (
        provider("a", 'base_url = "https://169.254.169.254/"', PRIVATE, kind="openai") + model(),
        [("metadata_address_refused", f"{P}.base_url")],
    ),
    "http": (
        provider("a", 'base_url = "http://api.example.com"', kind="openai") + model(),
        [("insecure_scheme", f"{P}.base_url")],
    ),
    "odd literal": (
        provider("a", 'base_url = "https://0x7f000001/"', kind="openai") + model(),
        [("host_not_canonical", f"{P}.base_url")],
    ),
    "ourselves": (
        provider("a", 'base_url = "http://localhost:7142"', PRIVATE, kind="openai") + model(),
        [("base_url_is_self", f"{P}.base_url")],
    ),
    "user in the address": (
        provider("a", 'base_url = "https://me:pw@api.example.com"', kind="openai") + model(),
        [("bad_url", f"{P}.base_url")],
    ),
    "keys of another kind": (
        provider("a", 'base_url = "https://api.example.com"', 'flavor = "openai"') + model(),
        [("setting_without_effect", f"{P}.base_url"), ("setting_without_effect", f"{P}.flavor")],
    ),
    "keys of another role": (
        provider() + model("m", "a", "dimensions = 3")
        + model("v", "a", 'role = "embeddings"', "capabilities.tools = true"),
        [
            ("setting_without_effect", f"{M}.dimensions"),
            ("setting_without_effect", "model_provider.models[1].capabilities.tools"),
        ],
    ),
    "failover off": (
        top("failover_enabled = false", 'failover_scope = "declared"', "failover_max_candidates = 2")
        + provider() + model("m", "a", 'fallbacks = ["n"]') + model("n", "a", "fallbacks = []"),
        [
            ("setting_without_effect", "model_provider.failover_scope"),
            ("setting_without_effect", "model_provider.failover_max_candidates"),
            ("setting_without_effect", f"{M}.fallbacks"),
        ],
    ),
    "fallbacks out of scope": (
        top('failover_scope = "same_model"') + provider() + model("m", "a", 'fallbacks = ["n"]') + model("n"),
        [("setting_without_effect", f"{M}.fallbacks")],
    ),
    "drain of a provider that cancels": (
        provider("a", "drain_max_ms = 1", "max_queue = 0", "queue_timeout_ms = 1") + model(),
        [("setting_without_effect", f"{P}.drain_max_ms"), ("setting_without_effect", f"{P}.queue_timeout_ms")],
    ),
    "provider without a model": (provider(), [("setting_without_effect", f"{P}.provider_id")]),
    "window above the bound": (
        provider() + model("m", "a", "max_context_tokens = 200000"),
        [("window_capped", f"{M}.max_context_tokens")],
    ),
    "trust root that is not there": (
        remote("a", 'ca_file = "/nowhere/ca.pem"') + model(),
        [("bad_path", f"{P}.ca_file")],
    ),
    "nothing said": (
        "[[model_provider.providers]]\n[[model_provider.models]]\n",
        [
            ("missing_key", f"{P}.kind"),
            ("missing_key", f"{P}.provider_id"),
            ("missing_key", f"{M}.model_id"),
            ("missing_key", f"{M}.provider_id"),
        ],
    ),
    "model without a name": (
        provider() + model() + '[[model_provider.models]]\nprovider_id = "a"\n',
        [("missing_key", "model_provider.models[1].model_id")],
    ),
    "default of a broken model": (
        top('default_chat_model_id = "x"') + provider() + model() + model("n", "b", 'aliases = ["x"]'),
        [("unknown_provider", "model_provider.models[1].provider_id")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_rules_across_keys(name: str, codes: Codes) -> None:
    """Each rule finds its fault, at its key, and nothing else."""
    text, expected = FAULTS[name]
    assert codes(text) == expected


def test_place_of_the_other_entry_is_told(problems: Problems) -> None:
    """Who clashes with whom is in the message."""
    (found,) = problems(provider() + provider() + model())
    assert found.message.endswith("palyra.toml:2:1)")
    assert found.source.line == 5


def test_entries_resolve_to_everything_filled(load: Any) -> None:
    """A recorded entry never needs a newer program's defaults."""
    registry: Registry = load(
        remote("main", "headers = { X-Org = 'me' }", "first_byte_timeout_ms = 70000")
        + model("m", "main", "request_timeout_ms = 5000", "capabilities.vision = false", "max_output_tokens = 7")
    ).config.model_provider.registry
    (entry,), (chat,) = registry.providers, registry.models
    assert entry == ProviderEntry(
        provider_id="main", display_name="main", kind="openai_compatible", flavor="generic",
        base_url="https://api.example.com/v1", credential_ref="env:K", auth_provider_kind="main",
        auth_scheme="bearer", headers={"X-Org": "me"}, request_timeout_ms=600_000, connect_timeout_ms=5_000,
        first_byte_timeout_ms=70_000, idle_timeout_ms=120_000, max_retries=2, retry_backoff_ms=150,
        retry_after_cap_ms=10_000, circuit_breaker_failure_threshold=5, circuit_breaker_cooldown_ms=30_000,
        max_concurrency=32, max_queue=256, queue_timeout_ms=30_000, on_client_disconnect="drain",
        drain_max_ms=30_000, drain_max_tokens=4_096, price_vendor="", discovery_mode="list",
    )  # fmt: skip
    assert chat == ModelEntry(
        model_id="m", provider_id="main", upstream_model="m",
        capabilities=msgspec.structs.replace(row_of("generic", "chat").capabilities, vision=False),
        upstream_apis=["chat"], max_context_tokens=128_000, max_output_tokens=7, max_tokens_per_event=128_000,
        request_timeout_ms=5_000, first_byte_timeout_ms=70_000, price_model="m", left_open=["max_context_tokens"],
    )  # fmt: skip
    assert registry.default_chat_model_id == "m"


def test_first_enabled_chat_model_is_the_default(load: Any) -> None:
    """In the order of the file, skipping what is disabled or serves another role."""
    text = (
        provider("off", "enabled = false")
        + provider()
        + model("one", "off")
        + model("two", "a", 'role = "embeddings"')
        + model("three", "a", "enabled = false")
        + model("four")
        + model("five")
    )
    assert load(text).config.model_provider.registry.default_chat_model_id == "four"
    nothing = provider("off", "enabled = false") + model("one", "off")
    assert load(nothing).config.model_provider.registry.default_chat_model_id == ""


def test_models_without_providers_may_name_the_fresh_one(load: Any) -> None:
    """The deterministic provider is there whenever no other is."""
    registry = load(model("mine", "deterministic")).config.model_provider.registry
    assert [entry.model_id for entry in registry.models] == ["mine"]
    assert registry.default_embeddings_model_id == ""


@pytest.mark.parametrize("kind", ["openai", "openai-compatible", "openai_compatible"])
def test_kind_has_other_spellings(kind: str, load: Any) -> None:
    """They are read as the one kind."""
    text = provider("a", 'base_url = "https://api.openai.com/"', 'api_key_env = "K"', kind=kind) + model()
    entry = load(text).config.model_provider.registry.providers[0]
    assert (entry.kind, entry.flavor, entry.base_url) == (
        "openai_compatible",
        "openai",
        "https://api.openai.com/v1",
    )


@pytest.mark.parametrize("flavor", FLAVORS)
def test_each_flavor_brings_its_defaults(flavor: str, load: Any) -> None:
    """Address, limits, patience, disconnect policy and credential scheme come from the flavor's row."""
    row = FLAVORS[flavor]
    base = 'base_url = "https://x.example"' if not row.base_url else ""
    text = (
        provider("a", f'flavor = "{flavor}"', base, PRIVATE, kind="openai")
        + model()
        + model("v", "a", 'role = "embeddings"')
    )
    registry = load(text).config.model_provider.registry
    entry, chat, embeddings = registry.providers[0], *registry.models
    assert entry.base_url == (row.base_url or "https://x.example/v1")
    assert (entry.max_concurrency, entry.first_byte_timeout_ms) == (row.max_concurrency, row.first_byte_timeout_ms)
    assert entry.on_client_disconnect == row.on_client_disconnect
    assert entry.auth_scheme == ("bearer" if row.key == "required" else "none")
    assert entry.credential_ref == ""
    assert (embeddings.max_batch, embeddings.dimensions, chat.max_batch) == (row.max_batch, None, None)
    expected = row_of(flavor, "chat")
    assert chat.capabilities == expected.capabilities
    assert (chat.max_context_tokens, chat.cost_tier, chat.latency_tier) == (
        expected.max_context_tokens,
        expected.cost_tier,
        expected.latency_tier,
    )


def test_flavor_is_recognised_by_host_alone() -> None:
    """Loopback says nothing about what listens there."""
    assert flavor_of_host("api.groq.com") == "groq"
    assert flavor_of_host("127.0.0.1") == "generic"
    assert flavor_of_host("") == "generic"
    assert traits_of("deterministic", "").key == "none"


@pytest.mark.parametrize(
    ("written", "resolved"),
    [
        ("", "https://api.anthropic.com/v1"),
        ('base_url = "https://api.anthropic.com"', "https://api.anthropic.com/v1"),
        ('base_url = "https://api.anthropic.com/v1/"', "https://api.anthropic.com/v1"),
        ('base_url = "https://x.example/anthropic"', "https://x.example/anthropic/v1"),
    ],
)
def test_kind_anthropic_has_ways_of_its_own(load: Any, written: str, resolved: str) -> None:
    """Its address may lack the version, its key has a header of its own, its models speak messages and think."""
    text = provider("a", written, 'api_key_env = "K"', kind="anthropic") + model()
    registry = load(text).config.model_provider.registry
    entry, chat = registry.providers[0], registry.models[0]
    assert (entry.base_url, entry.flavor, entry.auth_scheme) == (resolved, "", "x-api-key")
    assert (chat.upstream_apis, chat.reasoning) == (["messages"], "effort")
    assert chat.capabilities == row_of("anthropic", "chat").capabilities
    assert chat.max_context_tokens == 200_000


def test_named_key_is_a_reference(load: Any) -> None:
    """A file is named like a variable; the value of neither is read."""
    text = provider("a", 'base_url = "https://x.example"', 'api_key_file = "~/k"', kind="openai") + model()
    entry = load(text).config.model_provider.registry.providers[0]
    assert entry.credential_ref.startswith("file:/")
    assert entry.credential_ref.endswith("/k")
    assert entry.auth_scheme == "bearer"


def test_a_profile_is_named_like_a_key(load: Any, problems: Problems) -> None:
    """It is the entry's one credential, sent as a key is; with a key beside it there are two."""
    text = remote("a").replace('api_key_env = "K"', 'auth_profile_id = "work"') + model()
    entry = load(text).config.model_provider.registry.providers[0]
    assert (entry.auth_profile_id, entry.credential_ref, entry.auth_scheme) == ("work", "", "bearer")
    (found,) = problems(remote("a", 'auth_profile_id = "work"') + model())
    assert (found.code, found.key) == ("credential_conflict", f"{P}.auth_profile_id")


@pytest.mark.parametrize(
    ("lines", "label", "audience"),
    [
        (['base_url = "https://api.openai.com"'], "openai", "https://api.openai.com:443"),
        (['base_url = "https://api.openai.com:8443/v1"'], "a", "https://api.openai.com:8443"),
        (['flavor = "groq"'], "a", "https://api.groq.com:443"),
        (['flavor = "groq"', 'auth_provider_kind = "groq"'], "groq", "https://api.groq.com:443"),
        (['base_url = "http://[::1]/v1"', PRIVATE], "a", "http://[::1]:80"),
        (['base_url = "http://[::1]:99"', PRIVATE], "a", "http://[::1]:99"),
    ],
)
def test_whose_credentials_an_entry_takes(lines: list[str], label: str, audience: str, load: Any) -> None:
    """OpenAI's at its own address; else those of a label of its own, bound to the origin with its port."""
    entry = load(provider("a", *lines, kind="openai") + model()).config.model_provider.registry.providers[0]
    assert (entry.auth_provider_kind, entry.audience) == (label, audience)


def test_a_kind_that_goes_nowhere_costs_nothing(load: Any) -> None:
    """Every other one costs what the catalogue says, unless something else is written."""
    registry: Registry = load(provider() + remote("b") + model() + model("m", "b")).config.model_provider.registry
    assert [entry.pricing for entry in registry.providers] == ["free", "catalogue"]


def test_recorded_exchanges_are_known_by_their_bytes(load: Any, write: Callable[..., Path]) -> None:
    """Other bytes are another configuration; what is recorded of it says so."""
    seen = set()
    for text in ("\n", "\n\n"):
        write(text, "heard.jsonl")
        loaded = load(provider("a", 'fixtures = "heard.jsonl"') + model())
        told = recordable_tree(loaded.config)["model_provider"]["providers"][0]["fixtures_digest"]
        assert told == hashlib.sha256(text.encode()).hexdigest()
        seen |= {loaded.digest, told}
    assert len(seen) == 4


def test_a_kind_that_goes_nowhere_takes_no_credential(load: Any) -> None:
    """It has neither label nor origin."""
    entry = load(provider() + model()).config.model_provider.registry.providers[0]
    assert (entry.auth_provider_kind, entry.audience) == ("", "")


def test_trust_root_is_kept_as_a_path(load: Any, tmp_path: Path) -> None:
    """An existing file is accepted."""
    (tmp_path / "ca.pem").touch()
    entry = load(remote("a", f'ca_file = "{tmp_path}/ca.pem"') + model()).config.model_provider.registry.providers[
        0
    ]
    assert entry.ca_file == f"{tmp_path}/ca.pem"


def test_rules_are_inline_ones_then_those_of_the_script(load: Any, write: Callable[..., Path]) -> None:
    """The script stands beside the file, and is a source with its own digest."""
    write('[[rules]]\nreply.text = "two"\n', "answers.toml")
    text = provider("a", 'script = "answers.toml"', 'rules = [{ reply = { text = "one" } }]') + model()
    loaded = load(text)
    assert loaded.config.model_provider.registry.providers[0].rules == [
        {"reply": {"text": "one"}},
        {"reply": {"text": "two"}},
    ]
    assert [Path(source.name).name for source in loaded.sources] == ["palyra.toml", "answers.toml"]
    only = load(provider("a", 'script = "answers.toml"') + model())
    assert only.config.model_provider.registry.providers[0].rules == [{"reply": {"text": "two"}}]
    assert str(only.origins[f"{P}.rules"]).endswith("palyra.toml:4")


def test_faults_of_rules_are_told_at_their_place(problems: Problems, write: Callable[..., Path]) -> None:
    """In the file and in the script, down to the key of the part."""
    write('[[rules]]\n[rules.match]\nregex = "("\n', "answers.toml")
    inline = ("[[model_provider.providers.rules]]", "times = 0", "[[model_provider.providers.rules]]")
    text = provider("a", 'script = "answers.toml"', *inline, 'match = { modle = "x" }')
    found = problems(text + model())
    assert [(Path(p.source.file).name, p.source.line, p.source.column, p.code, p.key) for p in found] == [
        ("answers.toml", 1, 1, "bad_script", "rules[0]"),
        ("answers.toml", 3, 1, "bad_script", "rules[0].match.regex"),
        ("palyra.toml", 6, 1, "bad_script", f"{P}.rules[0].times"),
        ("palyra.toml", 8, 11, "bad_script", f"{P}.rules[1].match.modle"),
    ]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("x = 1\n", "bad_script"),
        ("rules = 1\n", "bad_script"),
        ("rules = [1]\n", "bad_script"),
        ("rules = []\nx = 1\n", "bad_script"),
        ("rules = [\n", "toml_syntax"),
        ('rules = [{ reply = { text = "sk-canary0123456789" } }]\n', "inline_secret"),
    ],
)
def test_script_holds_rules_only(script: str, code: str, problems: Problems, write: Callable[..., Path]) -> None:
    """What is no script is told once, in the script."""
    write(script, "answers.toml")
    (found,) = problems(provider("a", 'script = "answers.toml"') + model())
    assert (found.code, Path(found.source.file).name) == (code, "answers.toml")


@pytest.mark.parametrize(
    ("written", "env"),
    [("missing.toml", {}), ("../x.toml", {}), ("", {"PALYRA_MODEL_PROVIDER_PROVIDERS__A__SCRIPT": "x.toml"})],
)
def test_script_must_be_there(written: str, env: dict[str, str], codes: Codes) -> None:
    """A relative name is beside the file that says it; a variable stands in no file."""
    line = f'script = "{written}"' if written else ""
    assert codes(provider("a", line) + model(), env=env) == [("bad_path", f"{P}.script")]


def test_an_entry_without_a_valid_name_is_judged_all_the_same(codes: Codes) -> None:
    """A provider whose id is refused still has its URL judged: all problems at once."""
    text = """
[[model_provider.providers]]
provider_id = "Not An Id"
kind = "openai_compatible"
base_url = "http://169.254.169.254/v1"
"""
    assert codes(text) == [
        ("out_of_range", "model_provider.providers[0].provider_id"),
        ("metadata_address_refused", "model_provider.providers[0].base_url"),
    ]
