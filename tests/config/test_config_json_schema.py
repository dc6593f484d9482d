"""The JSON Schema of the configuration takes what the table of keys takes, and names every key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from palyra.config.json_schema import DIALECT, json_schema
from palyra.config.keys import KEYS
from palyra.config.load import load_given
from palyra.config.problems import ConfigProblems

SCHEMA = json_schema()
VALID = jsonschema_rs.validator_for(SCHEMA)
ROOT = Path(__file__).parents[2]


def test_every_key_stands_at_its_place_with_its_default() -> None:
    """A key of the table is a property below its tables; what a file must not hold is none."""
    for key in KEYS:
        place: dict[str, Any] = SCHEMA
        for part in key.path.replace("[]", "").split("."):
            place = place["items"]["properties"][part] if place["type"] == "array" else place["properties"][part]
        assert place["description"] == key.meaning
        # A text that is empty where nothing is written, and may not be written so, has none.
        assert place.get("default") == (None if key.default == "" and key.low else key.default)
    assert SCHEMA["$schema"] == DIALECT
    assert SCHEMA["properties"]["model_provider"]["properties"]["providers"]["items"]["required"] == [
        key.path.rpartition(".")[2] for key in KEYS if key.required and "providers[]" in key.path
    ]


def test_the_defaults_and_the_documentation_are_taken() -> None:
    """What the documentation shows as a file is one to the schema as well."""
    documents = "".join(file.read_text() for file in sorted((ROOT / "palyra" / "docs").glob("*.md")))
    shown = re.findall(r"```toml\n(.*?)```", documents, re.DOTALL)
    assert shown
    for text in shown:
        VALID.validate(tomllib.loads(text))
    for key in KEYS:
        if key.default is not None and "[]" not in key.path and not (key.default == "" and key.low):
            tree: dict[str, Any] = {}
            *tables, name = key.path.split(".")
            place = tree
            for table in tables:
                place = place.setdefault(table, {})
            place[name] = key.default
            VALID.validate(tree)


@pytest.mark.parametrize(
    "tree",
    [
        {"daemon": {"prt": 1}},
        {"daemon": {"port": 65_536}},
        {"daemon": {"port": "7142"}},
        {"version": 2},
        {"cli": {"color": "blue"}},
        {"privacy": {"extra_patterns": ["x"] * 33}},
        {"routing": {"agents": {"a": "blue"}}},
        {"budgets": {"policies": ["x"]}},
        {"model_provider": {"providers": [{"kind": "deterministic"}]}},
    ],
)
def test_what_the_schema_refuses_is_refused(tree: dict[str, Any]) -> None:
    assert not VALID.is_valid(tree)
    with pytest.raises(ConfigProblems):
        load_given(tree, {}, {})
