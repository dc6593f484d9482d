"""The table of keys as JSON Schema, for editors and programs that write configurations.

It says what a value alone must be. Rules across keys, and those of a shape, are checked by `palyra config check`.
"""

from __future__ import annotations

from typing import Any

from palyra.config.key import Key
from palyra.config.keys import KEYS

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the schema of a whole file; nothing but what the table has is allowed."""
    root = _table()
    for key in KEYS:
        *tables, name = key.path.split(".")
        place = root
        for table in tables:
            place = _inside(place, table)
        place["properties"][name] = _value(key)
        if key.required:
            place.setdefault("required", []).append(name)
    return {"$schema": DIALECT, "title": "Configuration of Palyra", **root}


def _table() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": {}}


def _inside(place: dict[str, Any], table: str) -> dict[str, Any]:
    """Return a table's schema inside another, made where it is not there: `name`, or `name[]` for its entries."""
    name = table.removesuffix("[]")
    if name == table:
        found: dict[str, Any] = place["properties"].setdefault(name, _table())
        return found
    entries: dict[str, Any] = place["properties"].setdefault(name, {"type": "array", "items": _table()})["items"]
    return entries


def _value(key: Key) -> dict[str, Any]:
    about: dict[str, Any] = {"description": key.meaning}
    # An empty text that may not be written stands for nothing being written.
    if key.default is not None and not (key.default == "" and key.low):
        about["default"] = key.default
    return about | _kind(key)


def _kind(key: Key) -> dict[str, Any]:
    """Return what a key takes."""
    if key.type == "bool":
        return {"type": "boolean"}
    if key.type == "int":
        bounds = _bounds("minimum", key.low, "maximum", key.high)
        return (
            {"type": "integer", "anyOf": [{"const": 0}, bounds]} if key.or_zero else {"type": "integer", **bounds}
        )
    if key.type in ("text", "path"):
        return _text(key) | ({} if key.choices else _bounds("minLength", key.low, "maxLength", key.high))
    if key.type == "map":
        sizes = _bounds("minProperties", key.low, "maxProperties", key.high)
        return {"type": "object", "additionalProperties": _text(key), **sizes}
    items = {"type": "object"} if key.type == "rules" else _text(key)
    return {"type": "array", "items": items, **_bounds("minItems", key.low, "maxItems", key.high)}


def _text(key: Key) -> dict[str, Any]:
    return {"type": "string", "enum": [*key.choices, *key.spellings]} if key.choices else {"type": "string"}


def _bounds(low_name: str, low: int | None, high_name: str, high: int | None) -> dict[str, Any]:
    return {name: bound for name, bound in ((low_name, low), (high_name, high)) if bound is not None}
