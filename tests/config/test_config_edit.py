"""Changes to the text of a configuration: what was wanted is what is read, and not a byte besides is another."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from palyra.config.edit import Append, CannotEdit, Edit, Put, Remove, Rename, edit_text, read_path, render
from palyra.config.problems import Path

FIRST = ("model_provider", "providers", 0)
WHOLE = """# My gateway.
version = 1 # the format

[daemon]
port = 8080   # not the usual one
# how long runs may finish

drain_timeout_ms = 10_000

# where the models are
[[model_provider.providers]]
provider_id = "main" # the first
kind = "openai"
api_key = 'sk-old' # paste
headers = { a = "b" }

# spare
[[model_provider.providers]]
provider_id = "spare"

[[model_provider.models]]
model_id = "m"
capabilities.tools = true
# the end
"""


@pytest.mark.parametrize(
    ("edit", "old", "new"),
    [
        (Put(path=("daemon", "port"), value=1), "port = 8080   #", "port = 1   #"),
        (Put(path=("version",), value=2), "version = 1 #", "version = 2 #"),
        (Put(path=("daemon", "host"), value="::1"), "10_000\n", '10_000\nhost = "::1"\n'),
        (
            Put(path=("model_provider", "providers", 0, "headers", "c"), value="d"),
            '{ a = "b" }',
            '{ a = "b", c = "d" }',
        ),
        (
            Put(path=("model_provider", "providers", 1, "enabled"), value=False),
            'provider_id = "spare"\n',
            'provider_id = "spare"\nenabled = false\n',
        ),
        (
            Put(path=("model_provider", "models", 0, "capabilities", "vision"), value=True),
            "capabilities.tools = true\n",
            "capabilities.tools = true\ncapabilities.vision = true\n",
        ),
        (
            Put(path=("model_provider", "providers", 1, "headers", "x-a"), value="y"),
            'provider_id = "spare"\n',
            'provider_id = "spare"\nheaders.x-a = "y"\n',
        ),
        (
            Put(path=("model_provider", "default_chat_model_id"), value="m"),
            "# where the models are\n",
            '[model_provider]\ndefault_chat_model_id = "m"\n\n# where the models are\n',
        ),
        (
            Put(path=("self_healing", "stalls_after_ms", "run"), value=20_000),
            "# the end\n",
            "# the end\n\n[self_healing.stalls_after_ms]\nrun = 20000\n",
        ),
        (Remove(path=("daemon", "port")), "port = 8080   # not the usual one\n", ""),
        (Remove(path=("model_provider", "providers", 0, "headers", "a")), '{ a = "b" }', "{ }"),
        (
            Rename(
                path=("model_provider", "providers", 0, "api_key"), name="api_key_vault_ref", value="global/main"
            ),
            "api_key = 'sk-old' #",
            'api_key_vault_ref = "global/main" #',
        ),
        (
            Append(path=("model_provider", "providers"), entry={"provider_id": "third", "headers": {"a": "b"}}),
            'provider_id = "spare"\n',
            'provider_id = "spare"\n\n[[model_provider.providers]]\nprovider_id = "third"\nheaders = { a = "b" }\n',
        ),
        (
            Append(path=("model_provider", "models"), entry={"model_id": "n"}),
            "capabilities.tools = true\n",
            'capabilities.tools = true\n\n[[model_provider.models]]\nmodel_id = "n"\n',
        ),
    ],
    ids=lambda value: "-".join(map(str, getattr(value, "path", ()))) if not isinstance(value, str) else "",
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_only_what_is_changed_is_touched(edit: Edit, old: str, new: str, newline: str) -> None:
    """Comments, order, spacing and line ends of everything else stay."""
    assert WHOLE.count(old) == 1 or isinstance(edit, Append)
    expected = WHOLE.replace(old, new, 1).replace("\n", newline)
    assert edit_text(WHOLE.replace("\n", newline), [edit]) == expected


@pytest.mark.parametrize(
    ("text", "edit", "expected"),
    [
        ("", Put(path=("daemon", "port"), value=1), "[daemon]\nport = 1\n"),
        ("", Put(path=("version",), value=1), "version = 1\n"),
        ("# x\n[daemon]\n", Put(path=("version",), value=1), "version = 1\n# x\n[daemon]\n"),
        ("version = 1", Put(path=("daemon", "port"), value=1), "version = 1\n\n[daemon]\nport = 1\n"),
        ("[daemon]", Put(path=("daemon", "port"), value=1), "[daemon]\nport = 1\n"),
        ("daemon = {}\n", Put(path=("daemon", "port"), value=1), "daemon = { port = 1 }\n"),
        ("daemon.port = 1\n", Put(path=("daemon", "host"), value="a"), 'daemon.port = 1\ndaemon.host = "a"\n'),
        ("daemon.port = 1\n", Remove(path=("daemon", "port")), ""),
        ("a = 1\nb = 2", Remove(path=("b",)), "a = 1\n"),
        ("d = { a = 1, b = 2 }\n", Remove(path=("d", "a")), "d = { b = 2 }\n"),
        ("d = { a = 1, b = 2 }\n", Remove(path=("d", "b")), "d = { a = 1 }\n"),
        ('a."b.c" = 1\n', Rename(path=("a", "b.c"), name="d", value=2), "a.d = 2\n"),
        ("x = [1, 2]\n", Put(path=("x",), value=["a", "b\x7f"]), 'x = ["a", "b\\u007f"]\n'),
        ("", Append(path=("a", "b"), entry={"c": True}), "[[a.b]]\nc = true\n"),
    ],
)
def test_small_and_strange_files(text: str, edit: Edit, expected: str) -> None:
    """Nothing there, no line end, tables in every spelling."""
    assert edit_text(text, [edit]) == expected


@pytest.mark.parametrize(
    ("text", "edit", "code"),
    [
        ("x = 1\n", Remove(path=("y",)), "unknown_field"),
        ("[d]\na = 1\n", Remove(path=("d",)), "config_not_editable"),
        ("x = 1\n", Put(path=("x", "y"), value=1), "unknown_field"),
        ("x = [1]\n", Put(path=("x", 0), value=2), "config_not_editable"),
        ("x = [1]\n", Put(path=("x", 3), value=2), "unknown_field"),
        ("p = [{a = 1}]\n", Append(path=("p",), entry={"a": 2}), "config_not_editable"),
        ("x = 1\n", Put(path=("p", 0, "a"), value=2), "unknown_field"),
    ],
)
def test_what_cannot_be_done_is_refused(text: str, edit: Edit, code: str) -> None:
    """Nothing is guessed at."""
    with pytest.raises(CannotEdit) as caught:
        edit_text(text, [edit])
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("daemon.port", ("daemon", "port")),
        ("model_provider.providers[0].api_key_env", ("model_provider", "providers", 0, "api_key_env")),
        ('model_provider.model_aliases."gpt*"', ("model_provider", "model_aliases", "gpt*")),
        ("a[0][1]", ("a", 0, 1)),
    ],
)
def test_a_key_is_read_as_it_is_shown(key: str, path: Path) -> None:
    """With numbers of entries in brackets, and quotes where a name needs them."""
    assert read_path(key) == path


@pytest.mark.parametrize("key", ["", "[0]", "a..b", "a b", "a.[0]x!"])
def test_what_is_no_key_is_refused(key: str) -> None:
    """It is not repeated."""
    with pytest.raises(CannotEdit):
        read_path(key)


@pytest.mark.parametrize("value", [True, 1, 'a"\n\\é\x7f', ["a", 1], [{"a": [True]}], {"a b": {"c": []}}, {}, []])
def test_a_value_is_rendered_as_toml(value: Any) -> None:
    """Read again it is the same."""
    assert tomllib.loads(f"v = {render(value)}")["v"] == value
