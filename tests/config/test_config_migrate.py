"""Files of the format before `version`: read as what they say, and written in the present one, comments too."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from palyra.config.edit import CannotEdit, edit_text
from palyra.config.load import LoadedConfig, load_given
from palyra.config.migrate import find_moves, migrated, migrating_edits
from palyra.config.problems import ConfigProblems

OLD = """\
# My gateway.
[daemon]
port = 8080  # free here

[model_provider]
# It runs on this machine.
kind = "openai_compatible"
  # Not the usual port.
base_url = "http://127.0.0.1:9000/v1"  # plain, it is near
allow_private_base_url = true
api_key_vault_ref = "global/near"
# The small one is enough.
model = "small"
max_request_bytes = 1_048_576
"""

NEW = """\
version = 1
# My gateway.
[daemon]
port = 8080  # free here

[model_provider]
max_request_bytes = 1_048_576
default_chat_model_id = "small"

[[model_provider.providers]]
provider_id = "openai_compatible"
# It runs on this machine.
kind = "openai_compatible"
# Not the usual port.
base_url = "http://127.0.0.1:9000/v1"  # plain, it is near
allow_private_base_url = true
api_key_vault_ref = "global/near"

[[model_provider.models]]
provider_id = "openai_compatible"
role = "chat"
metadata_source = "legacy_migration"
# The small one is enough.
model_id = "small"
"""


def load(tmp_path: Path, text: str) -> LoadedConfig:
    file = tmp_path / "palyra.toml"
    file.write_text(text)
    file.chmod(0o600)
    return load_given(file, {"HOME": str(tmp_path)}, {})


def migrate(text: str) -> str:
    tree = tomllib.loads(text)
    return edit_text(text, migrating_edits(tree, find_moves(tree)))


def test_the_pair(tmp_path: Path) -> None:
    """Both are the same configuration; comments went with their keys, and what stays is what it was."""
    assert migrate(OLD) == NEW
    old, new = load(tmp_path, OLD), load(tmp_path, NEW)
    assert old.digest == new.digest
    assert (old.sources[0].migrated_from, new.sources[0].migrated_from) == (0, None)
    (provider,) = old.config.model_provider.registry.providers
    assert (provider.provider_id, provider.base_url) == ("openai_compatible", "http://127.0.0.1:9000/v1")
    (model,) = old.config.model_provider.registry.models
    assert (model.model_id, model.role, model.metadata_source) == ("small", "chat", "legacy_migration")
    assert old.config.model_provider.registry.default_chat_model_id == "small"


def test_an_old_file_is_told_key_by_key(tmp_path: Path) -> None:
    """At the places where they stand in it; a file of the present format is not told."""
    loaded = load(tmp_path, OLD)
    told = [(one.code, one.key, one.source.line) for one in loaded.warnings]
    assert told == [
        ("retired_key", "model_provider.kind", 7),
        ("retired_key", "model_provider.base_url", 9),
        ("retired_key", "model_provider.allow_private_base_url", 10),
        ("retired_key", "model_provider.api_key_vault_ref", 11),
        ("retired_key", "model_provider.model", 13),
    ]
    assert "model_provider.providers[0].kind" in loaded.warnings[0].message
    origin = loaded.origins["model_provider.providers[0].base_url"]
    assert origin.line == 9
    assert load(tmp_path, NEW).warnings == ()


@pytest.mark.parametrize("text", [NEW, "", "[daemon]\nport = 1\n", "version = 1\n", "model_provider = 1\n"])
def test_what_is_not_old_is_left_as_it_is(text: str) -> None:
    """A file without `version` that has none of the old keys is written as files are by now."""
    assert find_moves(tomllib.loads(text)) == []


@pytest.mark.parametrize(
    "text",
    [
        '[model_provider]\nkind = "anthropic"\n',
        '[model_provider]\nkind = "anthropic"\nmodel = "m"\ndefault_chat_model_id = "m"\n',
        'model_provider.kind = "anthropic"\nmodel_provider.model = "m"\n',
        '[model_provider]\r\nkind = "anthropic"\r\nmodel = "m"\r\n',
        '[model_provider]\nkind = "anthropic"\nmodel = """\nm"""',
    ],
)
def test_other_ways_to_write_it(tmp_path: Path, text: str) -> None:
    """Without a model, with a default of its own, dotted, with other line ends, without a last one."""
    new = migrate(text)
    tree = tomllib.loads(text)
    assert tomllib.loads(new) == migrated(tree, find_moves(tree))
    assert find_moves(tomllib.loads(new)) == []
    assert load(tmp_path, text).digest == load(tmp_path, new).digest
    assert ("\r\n" in text) == ("\r\n" in new)
    assert "\r\n" not in text or "\n" not in new.replace("\r\n", "")


def test_what_cannot_be_moved_is_not_guessed_at() -> None:
    """A table in one line is for a person."""
    with pytest.raises(CannotEdit):
        migrate('model_provider = { kind = "anthropic" }\n')


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ('api_key = "sk-canary-0123456789"\n', "inline_secret"),
        ('colour = "red"\n', "unknown_key"),
        ('[[model_provider.providers]]\nprovider_id = "a"\nkind = "anthropic"\n', "unknown_key"),
    ],
)
def test_what_stops_it(tmp_path: Path, more: str, code: str) -> None:
    """A key in clear, a key that nobody knows, entries beside the old keys: errors, as everywhere."""
    with pytest.raises(ConfigProblems) as caught:
        load(tmp_path, f'[model_provider]\nkind = "anthropic"\n{more}')
    assert code in [one.code for one in caught.value.problems]
    assert "canary" not in str(caught.value)


def test_a_newer_format_is_not_guessed_at(tmp_path: Path) -> None:
    """Old keys beside a version are no old file."""
    with pytest.raises(ConfigProblems) as caught:
        load(tmp_path, f"version = 1\n{OLD}")
    assert {one.code for one in caught.value.problems} == {"unknown_key"}
