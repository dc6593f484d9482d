"""The smallest instance of a schema: what the keywords give, and that no schema can fail it or keep it busy."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra.providers.schema_instance import smallest_instance

NODE = {
    "type": "object",
    "properties": {"next": {"$ref": "#"}, "other": {"$ref": "#"}},
    "required": ["next", "other"],
}


@pytest.mark.parametrize(
    ("schema", "instance"),
    [
        ({"type": "string"}, ""),
        ({"type": "string", "minLength": 3}, "xxx"),
        ({"type": "integer"}, 0),
        ({"type": "number", "minimum": 1.5}, 1.5),
        ({"type": "integer", "maximum": -2}, -2),
        ({"type": "integer", "minimum": -5, "maximum": 5}, 0),
        ({"type": "boolean"}, False),
        ({"type": "null"}, None),
        ({"type": ["string", "null"]}, ""),
        ({"type": []}, None),
        ({"type": "array", "items": {"type": "integer"}}, []),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [0, 0]),
        ({"enum": ["b", "a"]}, "b"),
        ({"const": {"x": 1}, "type": "string"}, {"x": 1}),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, 0),
        ({"oneOf": [{"const": 7}]}, 7),
        ({"properties": {"a": {"type": "string"}}, "required": ["a"]}, {"a": ""}),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, {}),
        ({"type": "object", "required": ["unknown"]}, {"unknown": None}),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "string"}}}, ""),
        ({"$ref": "#/$defs/missing"}, None),
        ({"$ref": "https://elsewhere.example/schema"}, None),
        (
            {
                "allOf": [{"$ref": "#/$defs/a"}, {"properties": {"b": {"type": "integer"}}, "required": ["b"]}],
                "$defs": {"a": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}},
            },
            {"a": "", "b": 0},
        ),
        (True, None),
        (None, None),
    ],
)
def test_what_the_keywords_give(schema: Any, instance: Any) -> None:
    """Each keyword that schemas of tools use gives its smallest value."""
    assert smallest_instance(schema) == instance


@pytest.mark.parametrize(
    "schema",
    [
        NODE,
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"type": "array", "minItems": 10**12, "items": {"type": "array", "minItems": 10**12}},
        {"type": "string", "minLength": 10**12},
        {"anyOf": [{"$ref": "#"}]},
    ],
)
def test_schemas_without_an_end(schema: Any) -> None:
    """A schema that refers to itself, or wants too much, gets something small."""
    assert len(json.dumps(smallest_instance(schema))) < 100_000


keywords = st.sampled_from(
    "type properties required items enum const anyOf oneOf allOf $ref minItems minLength minimum maximum a".split()
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["object", "array", "string", "#", "#/a", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keywords, inner, max_size=4),
    max_leaves=12,
)


@given(values)
@settings(max_examples=200)
def test_any_json_is_taken_for_a_schema(schema: Any) -> None:
    """Whatever a client sends for a schema, an instance comes back that is JSON."""
    json.dumps(smallest_instance(schema))
