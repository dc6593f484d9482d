"""The shape of a JSON document: every place in it, and what kinds of values stand there.

Programs read these documents, so a place may be added, but never renamed and never given another kind of value
(operations specification 3.3). `golden/shapes.json` holds what they were promised; what is new is written there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "golden" / "shapes.json"
_KINDS = {str: "text", int: "integer", bool: "yes or no", type(None): "nothing", float: "number"}


def shape_of(value: Any, place: str = "") -> dict[str, set[str]]:
    """Return the kinds of values by their places: `items[].model_id`."""
    found: dict[str, set[str]] = {}
    inner: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        inner = [(f"{place}.{name}".removeprefix("."), one) for name, one in value.items()]
        found[place] = {"object"}
    elif isinstance(value, list):
        inner = [(f"{place}[]", one) for one in value]
        found[place] = {"list"}
    else:
        found[place] = {_KINDS[type(value)]}
    for at, one in inner:
        for name, kinds in shape_of(one, at).items():
            found.setdefault(name, set()).update(kinds)
    return found


def promised(command: str) -> dict[str, str]:
    """Return what programs were promised of a command: the kinds at each place, several with bars between."""
    return json.loads(GOLDEN.read_text())[command]  # type: ignore[no-any-return]


def broken(command: str, data: Any) -> list[str]:
    """Return the places of an answer that are not as they were promised."""
    shape, golden = shape_of(data), promised(command)
    missing = [place for place in golden if place not in shape]
    other = [place for place in golden if not shape.get(place, set()) <= set(golden[place].split("|"))]
    return [*missing, *other]
