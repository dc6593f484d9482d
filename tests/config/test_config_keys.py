"""Every row of the table of keys, by file, variable and flag: default, limits, one beyond each, and wrong types."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import pytest

from palyra.config.effective import effective_tree
from palyra.config.key import Key, fold_env
from palyra.config.keys import ENTRY_TABLES, KEYS, OTHER_VARIABLES, SHORT_FLAGS
from palyra.config.load import LoadedConfig
from palyra.config.problems import ConfigProblems, Problem
from palyra.config.tree import Config, ModelProviderConfig
from palyra.events.registry import Capabilities, ModelEntry, ProviderEntry, Registry
from palyra.redaction import REDACTED

SCHEMA_CODES = {
    "wrong_type", "out_of_range", "bad_enum", "bad_path", "unsafe_bind", "bad_header", "invalid_vault_ref",
}  # fmt: skip
WRONG_TYPES: dict[str, list[Any]] = {
    "bool": [1, "yes"],
    "int": ["many", 1.5, True],
    "text": [1, False, ["x"]],
    "path": [1, ["/x"]],
    "texts": [1, [1]],
    "paths": [1, [1], ["relative"]],
    "map": [1, ["x"], {"a": 1}],
    "rules": [1, [1]],
}
SHAPED: dict[str, tuple[list[str], list[str]]] = {
    "provider_id": (["a", "a" * 64, "0a_.-"], ["", "A", "-a", "a" * 65]),
    "profile_id": (["a", "a" * 64, "0a_.-"], ["", "A", "-a", "a" * 65]),
    "model_id": (["a", "org/m:1", "x" * 256], ["", "a b", "a*", "é", "x" * 257]),
    "model_ref": (["a", "p/m"], ["", "a b", "a*"]),
    "line": (["a", "Zoë 1"], ["", "a\nb"]),
    "keyword": (["a", "prove", "migrat*", "x" * 64], ["", "*", "two words", "a-b", "x" * 65]),
    "linear_pattern": (["a", r"\bEMP-[0-9]{6,8}\b", "(?i:ab|c)d?"], ["", "a+", "(a|b){2}", r"(a)\1", "a" * 201]),
    "env_name": (["A", "_a1"], ["", "1A", "A-B"]),
    "host_name": (["palyra.example", "a"], ["", "A.example", "http://a", "a:1"]),
    "zone": (["Europe/Prague", "UTC"], ["local", "Mars/Olympus"]),
    "timezone": (["local", "Europe/Prague", "UTC"], ["", "Mars/Olympus", "../etc/passwd"]),
    "listener": (
        ["127.0.0.1", "127.9.9.9", "::1", "localhost"],
        ["", "example.com", "1.2.3", "fe80::1%eth0", "[::1]"],
    ),
    "network": (["10.0.0.1", "10.0.0.0/8", "fd00::/8"], ["", "10.0.0.1/8", "lan"]),
    "origin": (
        ["https://a.example", "http://localhost:3000", "http://[::1]:1"],
        ["", "a.example", "https://a.example/", "https://A.example", "https://a.example:0", "ftp://a", "null", "*"],
    ),
    "public_url": (
        ["https://a.example", "https://a.example:8443"],
        ["", "http://a.example", "https://a.example/x"],
    ),
    "vault_ref": (
        ["global/openai", "global/x-1"],
        [
            "",
            "openai",
            "Global/x",
            "global/X",
            " global/x",
            "agent:../x",
            "agent:a/x",
            "skill:a/x",
            "system/x",
            "global/auth.x",
        ],
    ),
    "endpoint": (
        ["https://a.example/token", "http://127.0.0.1:8080/cb", "http://localhost:1455/auth/callback"],
        [
            "",
            "https://a.example",
            "https://a.example/x?y=1",
            "http://a.example/x",
            "https://u@a.example/x",
            "ftp://a/x",
        ],
    ),
    "endpoint_or_none": (["", "https://a.example/revoke"], ["http://a.example/x", "https://10.0.0.1/x"]),
    "scope": (["openid", "a:b/c"], ["", "a b", 'a"']),
    "header_value": (["x", "a b"], ["", "a\nb", " a", "x" * 1025]),
}

#: Entries that exist so that keys of entries have a place: their tables' names, and what they say.
PROVIDERS: list[dict[str, Any]] = [
    {"provider_id": "main-1", "kind": "openai", "base_url": "https://api.example.com/v1", "api_key_env": "KEY"},
    {"provider_id": "fixed", "kind": "deterministic"},
]
MODELS: list[dict[str, Any]] = [
    {"model_id": "chat-1", "provider_id": "main-1"},
    {"model_id": "vector", "provider_id": "fixed", "role": "embeddings"},
]


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def entry_of(key: Key) -> int:
    """Return the entry for which the key means something."""
    return 1 if key.only in ("deterministic", "embeddings") else 0


def full_key(key: Key) -> str:
    return key.path.replace("[]", f"[{entry_of(key)}]")


def file_with(key: Key | None, value: Any = None) -> str:
    """Return a file with the entries and one key set to one value."""
    tables = {"providers": [dict(entry) for entry in PROVIDERS], "models": [dict(entry) for entry in MODELS]}
    lines = []
    if key is not None and "[]" in key.path:
        table, _, name = key.path.removeprefix("model_provider.").partition("[].")
        tables[table][entry_of(key)][name] = value
    elif key is not None:
        lines.append(f"{key.path} = {toml(value)}")
    for table, entries in tables.items():
        for entry in entries:
            lines.append(f"[[model_provider.{table}]]")
            lines += [f"{name} = {toml(item)}" for name, item in entry.items()]
    return "\n".join(lines)


def variable_of(key: Key) -> str:
    ids = {"model_provider.providers": PROVIDERS, "model_provider.models": MODELS}
    table = key.path.partition("[]")[0]
    if table not in ids:
        return key.env
    return key.env.format(fold_env(str(next(iter(ids[table][entry_of(key)].values())))))


def as_text(value: Any) -> str:
    """Return a value as a variable holds it."""
    return value if isinstance(value, str) else json.dumps(value)


def good_values(key: Key) -> Iterator[Any]:
    if key.type == "bool":
        yield from (True, False)
    elif key.type == "int":
        yield from (key.low, key.high, *([key.default] if key.default is not None else []))
    elif key.choices and key.type == "texts":
        yield from ([key.choices[0]], list(key.choices))
    elif key.choices and key.type == "map":
        yield from ({}, {word: word for word in (*key.choices, *key.spellings)})
    elif key.choices:
        yield from (*key.choices, *key.spellings)
    elif key.type == "path":
        yield from ("/a/b", "~/a")
    elif key.type == "paths":
        yield from ([], ["/a", "~/b"], ["/a"] * (key.high or 0))
    elif key.type == "texts":
        good = SHAPED[key.shape][0][0] if key.shape else "x-a"
        yield from ([], [good], [f"{good}{i}" for i in range(key.high or 0)])
    elif key.type == "map":
        yield from ({}, {"a": "b"}, {f"n{i}": "b" for i in range(key.high or 0)})
    elif key.type == "rules":
        yield from ([], [{"reply": {"text": "x"}}])
    elif key.shape:
        yield from SHAPED[key.shape][0]
    else:
        yield "x" * (key.high or 0)


def bad_values(key: Key) -> Iterator[Any]:
    yield from WRONG_TYPES[key.type]
    if key.type == "int" and key.low is not None and key.high is not None:
        yield from (key.low - 1, key.high + 1, 10**25)
    elif key.choices and key.type == "texts":
        yield from ([], ["nothing-like-it"])
    elif key.choices and key.type == "map":
        yield from ({"a": ""}, {"a": "nothing-like-it"})
    elif key.choices:
        yield from ("", "nothing-like-it")
    elif key.type == "path":
        yield from ("relative", "/a/../b", "/a\0b", "/" * 5_000)
    elif key.type in ("texts", "paths"):
        yield ["/a"] * ((key.high or 0) + 1)
        if key.shape:
            yield from ([bad] for bad in SHAPED[key.shape][1])
    elif key.type == "map":
        yield {f"n{i}": "b" for i in range((key.high or 0) + 1)}
        yield from ({"n": bad} for bad in SHAPED[key.shape][1])
    elif key.type == "text":
        yield "x" * ((key.high or 0) + 1)
        if key.shape:
            yield from SHAPED[key.shape][1]


def schema_problems(problems: list[Problem] | tuple[Problem, ...], key: Key) -> list[Problem]:
    full = full_key(key)
    return [p for p in problems if p.code in SCHEMA_CODES and p.key.partition(" ")[0].startswith(full)]


def value_at(tree: Any, full: str) -> Any:
    for part in full.replace("[", ".").replace("]", "").split("."):
        tree = tree[int(part)] if part.isdigit() else tree[part]
    return tree


#: `version` has rules of its own, tested with the loader.
TESTED = [key for key in KEYS if key.path != "version"]
#: Rules across keys that a value may break though it is a good one: a file that is not there.
ACROSS = {"there is no such file", "must be absolute, for it stands in no file"}


class Layer(NamedTuple):
    """A way to say a value, and how the value's origin is told."""

    name: str
    arguments: Callable[[Key, Any], dict[str, Any]]
    origin: Callable[[Key], str]
    #: Whether the layer has a way to say this value at all.
    can_say: Callable[[Key, Any], bool] = lambda key, value: True


def variable_can_say(key: Key, value: Any) -> bool:
    """A variable is one text without NUL; blank means not set, and a text that a type reads is no wrong type."""
    text = as_text(value)
    if not key.env or text != text.strip() or not text or "\0" in text or value == [""]:
        return False
    if key.type in ("texts", "paths"):
        return isinstance(value, list)
    return isinstance(value, str) if key.type in ("text", "path") else not (key.type == "bool" and text == "1")


LAYERS = [
    Layer("file", lambda key, value: {"text": file_with(key, value)}, lambda key: "file:"),
    Layer(
        "variable",
        lambda key, value: {"text": file_with(None), "env": {variable_of(key): as_text(value)}},
        lambda key: f"env:{variable_of(key)}",
        variable_can_say,
    ),
    Layer(
        "flag",
        lambda key, value: {"text": file_with(None), "sets": [f"{full_key(key)}={toml(value)}"]},
        lambda key: f"flag:--set {full_key(key)}",
    ),
]


def outcome(load: Any, arguments: dict[str, Any]) -> tuple[LoadedConfig | None, tuple[Problem, ...]]:
    try:
        loaded: LoadedConfig = load(**arguments)
    except ConfigProblems as exc:
        return None, exc.problems
    return loaded, loaded.warnings


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("key", TESTED, ids=lambda key: key.path)
def test_good_values_are_taken(key: Key, layer: Layer, load: Any) -> None:
    """Both limits, every choice and every shape are accepted, and the origin names the layer."""
    for value in good_values(key):
        if not layer.can_say(key, value):
            continue
        loaded, problems = outcome(load, layer.arguments(key, value))
        assert {problem.message for problem in schema_problems(problems, key)} <= ACROSS
        if loaded and key.type in ("bool", "int") and full_key(key) in loaded.origins:
            assert value_at(effective_tree(loaded.config), full_key(key)) == value
            assert str(loaded.origins[full_key(key)]).startswith(layer.origin(key))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("key", TESTED, ids=lambda key: key.path)
def test_bad_values_are_refused(key: Key, layer: Layer, load: Any) -> None:
    """One beyond each limit, wrong types and wrong shapes are refused, at the key's own place in its layer."""
    for value in bad_values(key):
        if not layer.can_say(key, value):
            continue
        with pytest.raises(ConfigProblems) as caught:
            load(**layer.arguments(key, value))
        found = schema_problems(caught.value.problems, key)
        assert found, (key.path, value)
        assert all(str(problem.source).startswith(layer.origin(key)) for problem in found) or layer.name == "file"
        assert all(problem.source.line > 0 for problem in found if layer.name == "file")


def test_defaults_are_those_of_the_table(load: Any) -> None:
    """An empty file gives every root key its default, and says so."""
    loaded = load("")
    tree = effective_tree(loaded.config)
    for key in KEYS:
        if "[]" not in key.path and key.default is not None:
            is_hidden = key.path.endswith("_vault_ref")  # redacted, also when empty
            assert value_at(tree, key.path) == (REDACTED if is_hidden else key.default)
            assert str(loaded.origins[key.path]) == "default"


def test_defaults_of_entries_are_those_of_the_table(load: Any) -> None:
    """An entry that says only what it must has the defaults of its rows."""
    loaded = load(file_with(None))
    tree = effective_tree(loaded.config)
    for key in KEYS:
        if "[]" in key.path and key.default is not None and full_key(key) in loaded.origins:
            assert value_at(tree, full_key(key)) == key.default


def test_origins_name_exactly_the_effective_keys(load: Any) -> None:
    """Whatever is shown has an origin, and nothing else has one."""

    def leaves(value: Any, path: str) -> Iterator[str]:
        if isinstance(value, dict) and not path.endswith(("headers", "model_aliases", "_params", "routing.agents")):
            for name, item in value.items():
                yield from leaves(item, f"{path}.{name}" if path else name)
        elif isinstance(value, list) and path in ENTRY_TABLES:
            for index, item in enumerate(value):
                yield from leaves(item, f"{path}[{index}]")
        else:
            yield path

    for text in ("", file_with(None)):
        loaded = load(text)
        assert set(loaded.origins) == set(leaves(effective_tree(loaded.config), ""))


def test_variable_names_are_unique() -> None:
    """No two keys share a variable, none is the command line's own, and no entry's can be read in two ways."""
    names = [key.env for key in KEYS if key.env]
    assert len(names) == len(set(names))
    assert not set(names) & OTHER_VARIABLES
    assert all("__" not in fold_env(key.path.rpartition(".")[2]) for key in KEYS)
    assert all(key.env for key in KEYS if key.type not in ("map", "rules") and key.path not in NAMES_OF_ENTRIES)


NAMES_OF_ENTRIES = {"version", "model_provider.providers[].provider_id", "model_provider.models[].model_id"}


def test_typed_tree_has_exactly_the_rows() -> None:
    """What a program reads and what a person can write are the same keys."""

    def fields(struct: type[msgspec.Struct], prefix: str) -> Iterator[str]:
        for field in msgspec.structs.fields(struct):
            if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
                inner = prefix if field.type is Registry else f"{prefix}{field.name}."
                yield from fields(field.type, inner)
            else:
                yield f"{prefix}{field.name}"

    rows = {key.path for key in KEYS}
    root = {path for path in rows if "[]" not in path}
    kept_elsewhere = {f"model_provider.{name}" for name in ("providers", "models", "max_profiles_per_candidate")}
    assert root == set(fields(Config, "")) - kept_elsewhere
    providers = {path.partition("[].")[2] for path in rows if path.startswith("model_provider.providers[]")}
    written_otherwise = {"api_key_env", "api_key_file", "api_key_vault_ref", "script"}
    assert providers - written_otherwise == set(ProviderEntry.__struct_fields__) - {
        "credential_ref",
        "discovers",
        "fixtures_digest",
    }
    models = {path.partition("[].")[2] for path in rows if path.startswith("model_provider.models[]")}
    assert models == set(fields(ModelEntry, "")) - {"left_open"}
    assert {name for name in models if "." in name} == {f"capabilities.{n}" for n in Capabilities.__struct_fields__}
    assert "registry" in ModelProviderConfig.__struct_fields__


def test_every_row_is_complete() -> None:
    """Each row says what it means, who obeys it, and what holds if nothing is written."""
    for key in KEYS:
        assert key.meaning
        assert key.owner
        assert not (key.required and key.default is not None)
        assert key.type != "int" or (key.low is not None and key.high is not None)
        assert key.type not in ("texts", "paths", "map") or key.high is not None
        assert key.type != "text" or key.choices or key.high is not None


def test_short_flags_set_their_keys(load: Any) -> None:
    """A short flag is its key's value as plain text."""
    assert set(SHORT_FLAGS.values()) <= {key.path for key in KEYS}
    short = {"--host": "::1", "--port": "0", "--state-dir": "/s", "--log-level": "debug"}
    loaded = load("", short=short)
    assert (loaded.config.daemon.host, loaded.config.daemon.port) == ("::1", 0)
    assert loaded.config.daemon.state_dir == "/s"
    assert loaded.config.observability.log_level == "debug"
    assert str(loaded.origins["daemon.port"]) == "flag:--port"
