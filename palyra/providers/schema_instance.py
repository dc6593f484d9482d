"""The smallest JSON value that a JSON Schema takes, for answers that nobody thought of.

It follows what schemas of tools and structured outputs use. A keyword it does not know is ignored, one of the
wrong shape counts as absent: a client's schema can neither fail it nor, refer to itself as it may, keep it busy.
"""

from __future__ import annotations

from typing import Any

#: Schemas visited for one instance; what comes after them is null.
_VISITS_MAX_COUNT = 2_000
_DEPTH_MAX = 32
_TEXT_MAX_CHARS = 4_096


def smallest_instance(schema: Any) -> Any:
    """Return an instance: required properties only, "", 0, false, [], the first value of an enumeration."""
    return _Builder(schema).build(schema, 0)


class _Builder:
    """Builds one instance within a bound of work."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._visits_left = _VISITS_MAX_COUNT

    def build(self, given: Any, depth: int) -> Any:
        schema = self._resolve(given, depth)
        if "const" in schema:
            return schema["const"]
        if values := _list(schema.get("enum")):
            return values[0]
        if options := _list(schema.get("anyOf")) or _list(schema.get("oneOf")):
            return self.build(options[0], depth + 1)
        kind = _kind(schema)
        if kind == "object":
            properties = _table(schema.get("properties"))
            names = [name for name in _list(schema.get("required")) if isinstance(name, str)]
            return {name: self.build(properties.get(name), depth + 1) for name in names}
        if kind == "array":
            wanted = range(min(int(_number(schema.get("minItems"))), self._visits_left))
            return [self.build(schema.get("items"), depth + 1) for _ in wanted]
        return _scalar(kind, schema)

    def _resolve(self, given: Any, depth: int) -> dict[str, Any]:
        """Return a schema with its reference followed and the parts of `allOf` merged into it."""
        self._visits_left -= 1
        if self._visits_left < 0 or depth > _DEPTH_MAX:
            return {}
        schema = _table(given)
        if isinstance(reference := schema.get("$ref"), str):
            return self._resolve(self._referred(reference), depth + 1)
        for part in _list(schema.get("allOf")):
            added = self._resolve(part, depth + 1)
            properties = {**_table(schema.get("properties")), **_table(added.get("properties"))}
            required = [*_list(schema.get("required")), *_list(added.get("required"))]
            schema = {**added, **schema, "properties": properties, "required": required}
        return schema

    def _referred(self, reference: str) -> Any:
        """Return what a reference within the document leads to; None for one that leads nowhere, or out."""
        target: Any = self._root if reference.startswith("#") else None
        for step in reference.split("/")[1:]:
            target = _table(target).get(step.replace("~1", "/").replace("~0", "~"))
        return target


def _kind(schema: dict[str, Any]) -> str:
    named = schema.get("type")
    if isinstance(named, list) and named:
        named = named[0]
    if isinstance(named, str):
        return named
    return "object" if schema.get("properties") else "null"


def _scalar(kind: str, schema: dict[str, Any]) -> Any:
    if kind == "string":
        return "x" * min(int(_number(schema.get("minLength"))), _TEXT_MAX_CHARS)
    if kind in ("integer", "number"):
        minimum = _number(schema.get("minimum"))
        return minimum if minimum > 0 else min(0, _number(schema.get("maximum")))
    return False if kind == "boolean" else None


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> int | float:
    return value if isinstance(value, (int, float)) else 0
