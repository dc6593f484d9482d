"""Finding, reading and layering a configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palyra.config.document import locate
from palyra.config.effective import effective_tree, recordable_registry, redact_provider_registry_secrets
from palyra.config.keys import KEYS
from palyra.config.load import load_config
from palyra.config.problems import ConfigProblems, Problem
from palyra.errors import ConfigInvalid
from palyra.limits import CONFIG_FILE_MAX_BYTES

Codes = Callable[..., list[tuple[str, str]]]
Problems = Callable[..., list[Problem]]
CANARY = "sk-canary-0123456789abcdef"
PROVIDER = """
[[model_provider.providers]]
provider_id = "main-1"
kind = "openai"
base_url = "https://api.example.com"
api_key_env = "EXAMPLE_KEY"
[[model_provider.models]]
model_id = "m"
provider_id = "main-1"
"""


def test_places_are_searched_in_order(tmp_path: Path) -> None:
    """The named file, the variable's, the user's, the system's; then none."""
    home = tmp_path / "home"
    user = home / ".config" / "palyra" / "palyra.toml"
    xdg = tmp_path / "xdg" / "palyra" / "palyra.toml"
    system = tmp_path / "etc" / "palyra.toml"
    other = tmp_path / "other.toml"
    env = {"HOME": str(home)}
    assert locate(env, system_file=system) is None
    for path in (user, xdg, system, other):
        path.parent.mkdir(parents=True, exist_ok=True)
    system.touch()
    assert locate(env, system_file=system) == system
    user.touch()
    assert locate(env, system_file=system) == user
    xdg.touch()
    env["XDG_CONFIG_HOME"] = str(tmp_path / "xdg")
    assert locate(env, system_file=system) == xdg
    other.touch()
    env["PALYRA_CONFIG"] = str(other)
    assert locate(env, system_file=system) == other
    assert locate(env, str(user), system) == user


def test_working_directory_is_never_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither directly nor through a relative XDG directory."""
    (tmp_path / "palyra.toml").touch()
    (tmp_path / "palyra").mkdir()
    (tmp_path / "palyra" / "palyra.toml").touch()
    monkeypatch.chdir(tmp_path)
    env = {"HOME": "/nowhere", "XDG_CONFIG_HOME": "."}
    assert locate(env, system_file=tmp_path / "none") is None


@pytest.mark.parametrize(("named", "env"), [("/nowhere/x.toml", {}), (None, {"PALYRA_CONFIG": "/nowhere/x.toml"})])
def test_named_file_that_is_missing_ends_the_search(named: str | None, env: dict[str, str]) -> None:
    """There is no falling back to another file than the one that was named."""
    with pytest.raises(ConfigInvalid) as caught:
        load_config(env, config_file=named)
    assert caught.value.code == "config_not_found"
    assert caught.value.exit_code == 8


def test_nothing_configured_answers_all_the_same(tmp_path: Path) -> None:
    """Without any file there is a deterministic provider with a chat and an embeddings model."""
    loaded = load_config({"HOME": str(tmp_path)}, system_file=tmp_path / "none")
    registry = loaded.config.model_provider.registry
    assert [(p.provider_id, p.kind) for p in registry.providers] == [("deterministic", "deterministic")]
    assert [(m.model_id, m.role, m.dimensions) for m in registry.models] == [
        ("deterministic", "chat", None),
        ("hash-embedding-v1", "embeddings", 64),
    ]
    assert registry.default_chat_model_id == "deterministic"
    assert registry.default_embeddings_model_id == "hash-embedding-v1"
    assert (loaded.warnings, loaded.sources) == ((), [])


@pytest.mark.parametrize(
    ("data", "code", "line", "column"),
    [
        (b"a = 1\nb = \xff\n", "toml_syntax", 2, 1),
        (b"a = 1\nb =\n", "toml_syntax", 2, 4),
        (b"a = [1,", "toml_syntax", 1, 1),
        (b"a = 1\na = 2\n", "toml_syntax", 2, 6),
        (b"a = " + b"9" * 5_000, "toml_syntax", 0, 0),
        (b"a = " + b"[" * 5_000, "toml_syntax", 0, 0),
        (b"#" * (CONFIG_FILE_MAX_BYTES + 1), "too_large", 0, 0),
    ],
)
def test_text_that_cannot_be_read_ends_the_search(
    tmp_path: Path, data: bytes, code: str, line: int, column: int
) -> None:
    """One problem, with the place where the parser has one."""
    path = tmp_path / "palyra.toml"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(ConfigProblems) as caught:
        load_config({"HOME": "/nowhere"}, config_file=str(path))
    (problem,) = caught.value.problems
    assert (problem.code, problem.source.line, problem.source.column) == (code, line, column)


def test_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    """Editors of some systems write one; columns do not count it."""
    path = tmp_path / "palyra.toml"
    path.write_bytes(b"\xef\xbb\xbfversion = 1\r\n[daemon]\r\nport = 1\r\n")
    path.chmod(0o600)
    loaded = load_config({"HOME": "/nowhere"}, config_file=str(path))
    assert loaded.origins["version"].column == 1
    assert loaded.origins["daemon.port"].line == 3


def test_a_path_whose_bytes_are_no_text_is_refused() -> None:
    """It could be opened, but neither recorded nor shown."""
    with pytest.raises(ConfigProblems, match="must be UTF-8") as caught:
        load_config({"HOME": "/nowhere", "PALYRA_STATE_DIR": "/tmp/\udcfc"})
    assert [problem.code for problem in caught.value.problems] == ["bad_path"]


@pytest.mark.parametrize("kind", ["directory", "pipe"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    """A pipe would hang the start; a directory has no text."""
    path = tmp_path / "palyra.toml"
    path.mkdir() if kind == "directory" else os.mkfifo(path)
    with pytest.raises(ConfigProblems) as caught:
        load_config({"HOME": "/nowhere"}, config_file=str(path))
    assert [problem.code for problem in caught.value.problems] == ["bad_path"]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_file_that_others_may_write_is_refused(write: Callable[..., Path], mode: int) -> None:
    """Who can write it decides where keys are sent; everything else that is wrong is told too."""
    path = write("[daemon]\nport = -1\n")
    path.chmod(mode)
    with pytest.raises(ConfigProblems) as caught:
        load_config({"HOME": "/nowhere"}, config_file=str(path))
    assert [problem.code for problem in caught.value.problems] == ["insecure_mode", "out_of_range"]
    assert "chmod go-w" in caught.value.problems[0].suggestion


@pytest.mark.parametrize("version", ["0", "-1", "'1'", "1.0", "true"])
def test_version_must_be_a_number_of_a_format(version: str, codes: Codes) -> None:
    """What is no version is refused, and the search goes on."""
    assert codes(f"version = {version}\nx = 1\n") == [("wrong_type", "version"), ("unknown_key", "x")]


def test_newer_file_is_not_guessed_at(load: Any) -> None:
    """A newer version is the only problem that is told, with an exit status of its own."""
    with pytest.raises(ConfigProblems) as caught:
        load("version = 2\nx = 1\n")
    assert [problem.code for problem in caught.value.problems] == ["unsupported_version"]
    assert caught.value.code == "unsupported_version"
    assert caught.value.exit_code == 5


def test_flag_beats_variable_beats_file_beats_default(load: Any) -> None:
    """Each layer hides the ones below it, and what is hidden is known."""
    text = "[daemon]\nport = 1\nidle_timeout_ms = 101\ndrain_timeout_ms = 1\n"
    env = {"PALYRA_DAEMON_PORT": "2", "PALYRA_DAEMON_IDLE_TIMEOUT_MS": "102"}
    loaded = load(text, env=env, sets=["daemon.port=3"])
    daemon = loaded.config.daemon
    assert (daemon.port, daemon.idle_timeout_ms, daemon.drain_timeout_ms) == (3, 102, 1)
    assert daemon.max_connections_count == 1_024
    assert str(loaded.origins["daemon.port"]) == "flag:--set daemon.port"
    assert str(loaded.origins["daemon.idle_timeout_ms"]) == "env:PALYRA_DAEMON_IDLE_TIMEOUT_MS"
    assert str(loaded.origins["daemon.drain_timeout_ms"]).endswith("palyra.toml:4")
    assert [source.kind for source in loaded.hidden["daemon.port"]] == ["env", "file"]
    assert [(source.kind, source.name) for source in loaded.sources[1:]] == [
        ("env", "PALYRA_DAEMON_IDLE_TIMEOUT_MS"),
        ("env", "PALYRA_DAEMON_PORT"),
        ("flag", "--set daemon.port"),
    ]
    assert loaded.sources[0].kind == "file"
    assert len(loaded.sources[0].digest) == 64


def test_hidden_values_are_checked_too(codes: Codes) -> None:
    """A fault in the file is not excused by a flag."""
    assert codes("[daemon]\nport = -1\n", sets=["daemon.port=1"]) == [("out_of_range", "daemon.port")]


def test_variables_of_entries_need_the_entry(load: Any, problems: Problems) -> None:
    """An entry of the file is named by its id; another id is an unknown variable with a suggestion."""
    good = "PALYRA_MODEL_PROVIDER_PROVIDERS__MAIN_1__BASE_URL"
    loaded = load(PROVIDER, env={good: "https://b.example.com/v2/"})
    assert loaded.config.model_provider.registry.providers[0].base_url == "https://b.example.com/v2"
    assert str(loaded.origins["model_provider.providers[0].base_url"]) == f"env:{good}"
    (warning,) = problems(PROVIDER, env={good.replace("MAIN", "MIAN"): "https://b.example.com"})
    assert (warning.code, warning.severity) == ("unknown_env", "warning")
    assert warning.suggestion == f"did you mean {good}?"


def test_ids_that_fold_alike_have_no_variable(codes: Codes) -> None:
    """One variable for two entries sets neither."""
    text = PROVIDER + PROVIDER.replace("main-1", "main.1")
    variable = "PALYRA_MODEL_PROVIDER_PROVIDERS__MAIN_1__MAX_QUEUE"
    assert codes(text, env={variable: "1"}) == [("bad_env", "model_provider.providers[0].max_queue")]


def test_unknown_variables_are_warned_about(problems: Problems) -> None:
    """Except blank ones, those of the command line, and those that hold a provider's key."""
    env = {
        "PALYRA_DAEMON_PRT": "1",
        "PALYRA_BLANK": " ",
        "PALYRA_CONFIG": "",
        "PALYRA_KEY": CANARY,
        "PALYRA_OTHER_THING": "x",
        "OTHER": "x",
    }
    found = problems(PROVIDER.replace("EXAMPLE_KEY", "PALYRA_KEY"), env=env)
    assert [(p.code, p.source.name) for p in found] == [
        ("unknown_env", "PALYRA_DAEMON_PRT"),
        ("unknown_env", "PALYRA_OTHER_THING"),
    ]
    assert found[0].suggestion == "did you mean PALYRA_DAEMON_PORT?"


def test_lists_come_by_comma_or_as_json(load: Any, codes: Codes) -> None:
    """Both spellings mean the same; what begins like JSON must be JSON."""
    for text in ("a.example, b.example,", '["a.example", "b.example"]'):
        assert load("", env={"PALYRA_AUTH_EXTRA_HOSTS": text}).config.auth.extra_hosts == ["a.example", "b.example"]
    assert codes("", env={"PALYRA_AUTH_EXTRA_HOSTS": "[x"}) == [("wrong_type", "auth.extra_hosts")]


@pytest.mark.parametrize(
    ("flag", "code", "key"),
    [
        ("daemon.port", "toml_syntax", "daemon.port"),
        ("daemon.port=", "toml_syntax", "daemon.port"),
        ("daemon.port=1\ndaemon.host='x'", "toml_syntax", "daemon.port"),
        ("observability.log_level=debug", "toml_syntax", "observability.log_level"),
        ("daemon.prt=1", "unknown_key", "daemon.prt"),
        ("model_provider.providers=[]", "unknown_key", "model_provider.providers"),
        ("model_provider.providers[5].max_queue=1", "unknown_key", "model_provider.providers[5].max_queue"),
        ("model_provider.providers[0].max_que=1", "unknown_key", "model_provider.providers[0].max_que"),
        ("nothing[0].x=1", "unknown_key", "nothing[0].x"),
    ],
)
def test_flags_that_say_nothing_are_refused(flag: str, code: str, key: str, codes: Codes) -> None:
    """A flag is one known key and one TOML value; arrays of tables come from the file only."""
    assert codes(PROVIDER, sets=[flag]) == [(code, key)]


def test_flags_reach_entries_and_tables_of_names(load: Any) -> None:
    """Entries are named by index as in messages; the last flag of a key wins."""
    key = "model_provider.providers[0].max_queue"
    loaded = load(PROVIDER, sets=[f"{key}=1", f"{key}=2", 'model_provider.model_aliases={"g*"="m"}'])
    registry = loaded.config.model_provider.registry
    assert registry.providers[0].max_queue == 2
    assert registry.model_aliases == {"g*": "m"}


def test_empty_path_means_none(load: Any) -> None:
    """Where the default is no path, saying so is allowed."""
    loaded = load('[daemon]\nstate_dir = ""\n[observability]\nlog_file = ""\n')
    assert (loaded.config.daemon.state_dir, loaded.config.observability.log_file) == ("", "")


def test_home_is_filled_in(load: Any, tmp_path: Path) -> None:
    """A path may begin with ~/; the effective one is absolute."""
    text = '[daemon]\nstate_dir = "~/s"\n[journal]\nwitness_copies = ["~/w", "/w"]\n'
    config = load(text).config
    assert config.daemon.state_dir == f"{tmp_path}/s"
    assert config.journal.witness_copies == [f"{tmp_path}/w", "/w"]


def test_state_directory_has_the_short_variable(load: Any) -> None:
    """`PALYRA_STATE_DIR` is the variable of `daemon.state_dir`."""
    loaded = load('[daemon]\nstate_dir = "/file"\n', env={"PALYRA_STATE_DIR": "/env"})
    assert loaded.config.daemon.state_dir == "/env"
    assert load("", env={"PALYRA_STATE_DIR": "/env"}, short={"--state-dir": "/f"}).config.daemon.state_dir == "/f"


def test_digest_follows_meaning_not_spelling(load: Any) -> None:
    """Comments, order and written defaults do not change it; any effective value does, whatever layer says it."""
    plain = load(PROVIDER).digest
    assert load(f"# hello\n[daemon]\nport = 7142\n{PROVIDER}").digest == plain
    assert load(PROVIDER.replace("https://api.example.com", "HTTPS://api.example.com:443/v1/")).digest == plain
    changed = load(f"[daemon]\nport = 1\n{PROVIDER}").digest
    assert changed != plain
    assert load(PROVIDER, env={"PALYRA_DAEMON_PORT": "1"}).digest == changed
    assert load(PROVIDER.replace("EXAMPLE_KEY", "OTHER_KEY")).digest != plain


def test_size_of_one_request_fits_into_all(codes: Codes) -> None:
    """A request that could never be admitted is a contradiction."""
    text = "[model_provider]\nmax_request_bytes = 104857600\nmax_inflight_bytes = 16777216\n"
    assert codes(text) == [("conflicting_keys", "model_provider.max_request_bytes")]


@pytest.mark.parametrize(
    "text",
    [
        f'[daemon]\nhost = "{CANARY}"\n',
        f'[daemon]\nport = "{CANARY}"\n',
        f'"{CANARY}" = 1\n',
        f'[journal]\ndurability = "{CANARY}"\nwitness_copies = ["/{CANARY}", {{ a = "{CANARY}" }}]\n',
        f'model_provider = "{CANARY}"\n',
        f'[model_provider]\nproviders = ["{CANARY}"]\ndefault_chat_model_id = "{CANARY}"\n',
        f'[model_provider]\nmodel_aliases = {{ "{CANARY}" = "m", x = "{CANARY}" }}\n',
        f'[[model_provider.providers]]\nprovider_id = "{CANARY}"\nkind = "{CANARY}"\n',
        f'[[model_provider.providers]]\nprovider_id = "a"\nkind = "openai"\nbase_url = "https://{CANARY}.example"\n',
        f'[[model_provider.providers]]\nprovider_id = "a"\nkind = "openai"\napi_key_env = "{CANARY}"\n',
        f'[[model_provider.providers]]\nprovider_id = "a"\nkind = "openai"\nheaders = {{ X = "{CANARY}" }}\n',
        f'[[model_provider.providers]]\nprovider_id = "a"\nkind = "deterministic"\n'
        f'rules = [{{ reply = {{ json = [{{ a = "{CANARY}" }}] }} }}]\n',
        f'[[model_provider.models]]\nmodel_id = "{CANARY}"\naliases = ["{CANARY}"]\nx.y = ["{CANARY}"]\n',
        f'[nothing.known]\nhere = {{ either = "{CANARY}" }}\n',
    ],
)
def test_secret_is_refused_and_never_echoed(text: str, load: Any) -> None:
    """Wherever a value of a secret's shape stands, it is told where, and never shown."""
    with pytest.raises(ConfigProblems) as caught:
        load(text)
    told = str(caught.value) + repr(caught.value.problems)
    assert "inline_secret" in told
    assert CANARY not in told
    assert CANARY[3:] not in told


def test_secret_in_variable_or_flag_is_never_echoed(load: Any) -> None:
    """The name of the layer is told, not its text."""
    variable = "PALYRA_MODEL_PROVIDER_PROVIDERS__MAIN_1__API_KEY_ENV"
    flags = [f"daemon.host='{CANARY}'", f"{CANARY}=1", f"daemon.port={CANARY}"]
    with pytest.raises(ConfigProblems) as caught:
        load(PROVIDER, env={variable: CANARY}, sets=flags, short={"--host": CANARY})
    told = str(caught.value) + repr(caught.value.problems)
    assert CANARY not in told
    codes = [problem.code for problem in caught.value.problems]
    assert codes.count("inline_secret") == 4


@pytest.mark.parametrize("key", ["api_key", "password", "token", "client_secret"])
def test_key_that_would_hold_a_secret_is_refused_by_name(key: str, problems: Problems) -> None:
    """Also when it is empty or looks harmless: the habit is what is refused."""
    found = problems(PROVIDER.replace("api_key_env", f'{key} = ""\napi_key_env'))
    assert [(p.code, p.key, p.source.line) for p in found] == [
        ("inline_secret", f"model_provider.providers[0].{key}", 6)
    ]
    assert "api_key_env" in found[0].suggestion


def test_effective_tree_is_redacted_by_schema(load: Any) -> None:
    """References to credentials and telling headers are hidden, counts and plain headers are not."""
    text = PROVIDER.replace("api_key_env", 'headers = { X-Team-Token = "abc", X-Org = "me" }\napi_key_env')
    loaded = load(text)
    tree = effective_tree(loaded.config)
    provider = tree["model_provider"]["providers"][0]
    assert provider["credential_ref"] == "<redacted>"
    assert provider["headers"] == {"X-Team-Token": "<redacted>", "X-Org": "me"}
    assert tree["model_provider"]["max_model_tokens_per_event"] == 128_000
    recorded = recordable_registry(loaded.config.model_provider.registry).providers[0]
    assert recorded.headers == provider["headers"]
    assert recorded.credential_ref == "env:EXAMPLE_KEY"
    assert loaded.config.model_provider.registry.providers[0].headers["X-Team-Token"] == "abc"


@pytest.mark.parametrize(
    "text", ["daemon = 1\n", "self_healing = { stalls_after_ms = 1 }\n", "model_provider = []\n"]
)
def test_table_must_be_a_table(text: str, problems: Problems) -> None:
    """A value where a table belongs is told once."""
    assert [problem.code for problem in problems(text)] == ["wrong_type"]


@pytest.mark.parametrize("value", ["1", "{}", "[1]"])
def test_entries_must_be_an_array_of_tables(value: str, codes: Codes) -> None:
    """And nothing is made up in their place."""
    assert codes(f"[model_provider]\nproviders = {value}\n") == [("wrong_type", "model_provider.providers")]


WORDS = sorted({part for key in KEYS for part in key.path.replace("[]", "").split(".")} | {"", "x y", "nonsense"})
texts = st.sampled_from([*WORDS, "openai", "deterministic", "chat", "/a", "~/b", "https://a.example", "a\nb", "é"])
values = st.recursive(
    st.one_of(st.integers(-5, 10**7), st.booleans(), texts, st.just(float("nan"))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=25,
)
tables = st.dictionaries(st.sampled_from(WORDS), values, max_size=8)
entries = st.lists(tables, max_size=3)
documents = st.fixed_dictionaries(
    {},
    optional={
        "daemon": tables,
        "version": values,
        "model_provider": st.fixed_dictionaries({"providers": entries, "models": entries}, optional={"x": values}),
        "journal": tables,
    },
)


@given(documents, st.lists(st.tuples(texts, texts), max_size=3))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_document_loads_or_is_refused_with_problems(
    write: Callable[..., Path], document: dict[str, Any], pairs: list[tuple[str, str]]
) -> None:
    """No document, flag or variable makes the loader fall over; what it refuses it explains, in order."""
    text = "".join(f"{name} = {toml(value)}\n" for name, value in document.items())
    env = {f"PALYRA_{name.upper()}": value for name, value in pairs if name != "config"}
    try:
        problems = load_config(env, config_file=str(write(text)), sets=[f"{a}={b}" for a, b in pairs]).warnings
        refused = False
    except ConfigProblems as exc:
        problems, refused = exc.problems, True
    assert refused == any(problem.severity == "error" for problem in problems)
    assert all(str(problem) for problem in problems)
    lines = [(p.source.line, p.source.column) for p in problems if p.source.kind == "file"]
    assert lines == sorted(lines)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return "nan" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def test_a_tree_is_redacted_by_its_keys() -> None:
    """Credentials, telling headers and what a URL holds beside its place; empty ones too, and no counter."""
    tree = {
        "max_model_tokens_per_event": 5,
        "providers": [
            {
                "api_key": "",
                "api_key_env": "X",
                "api_key_vault_ref": "global/x",
                "headers": {"X-Team-Token": "t", "X-Org": "me"},
                "base_url": "https://user:pass@host/v1?key=k",
                "max_retries": 2,
            }
        ],
        "auth": {"oauth": {"openai": {"client_secret_vault_ref": "global/s", "token_url": "https://h/t"}}},
    }
    assert redact_provider_registry_secrets(tree) == {
        "max_model_tokens_per_event": 5,
        "providers": [
            {
                "api_key": "<redacted>",
                "api_key_env": "<redacted>",
                "api_key_vault_ref": "<redacted>",
                "headers": {"X-Team-Token": "<redacted>", "X-Org": "me"},
                "base_url": "https://<redacted>@host/v1?<redacted>",
                "max_retries": 2,
            }
        ],
        "auth": {"oauth": {"openai": {"client_secret_vault_ref": "<redacted>", "token_url": "https://h/t"}}},
    }


def test_a_list_says_how_many_it_takes(problems: Problems) -> None:
    """Too few and too many are told with both bounds, where there are two."""
    models = '[[model_provider.models]]\nmodel_id = "m"\nprovider_id = "deterministic"\nupstream_apis = []\n'
    (few,) = [one for one in problems(models) if one.code == "out_of_range"]
    assert few.message == "must have 1 to 3 items"
    (many,) = problems(f"[daemon]\ntrusted_proxies = {['10.0.0.1'] * 65}\n")
    assert many.message == "must have at most 64 items"
