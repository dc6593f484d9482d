"""When two request bodies ask the same: a digest that order and spacing of JSON do not change.

Fractions keep their spelling and a member that stands twice stays twice, so that bodies which a provider may read
differently are never taken for one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from operator import itemgetter
from typing import Any

_dumps = json.JSONEncoder(separators=(",", ":"), sort_keys=True, default=lambda number: number.told).encode


def body_digest(body: bytes, *, without: Collection[str]) -> str:
    """Return the SHA-256 of a JSON object, hex; members of the top level in `without` do not count."""
    try:
        value = json.loads(body, object_pairs_hook=_members, parse_float=_Number)
    except (_Odd, ValueError):  # Python makes no number of thousands of digits
        # Of such an object a list is made, which is what the text of no other body begins with.
        value = json.loads(body, object_pairs_hook=_pairs, parse_float=_Number, parse_int=_Number)
        text = _dumps([pair for pair in value["object"] if pair[0] not in without])
    else:
        text = _dumps({name: held for name, held in value.items() if name not in without})
    return hashlib.sha256(text.encode()).hexdigest()


class _Number:
    """A number as it is spelt."""

    def __init__(self, spelling: str) -> None:
        self.told = {"number": spelling}


class _Odd(Exception):
    """An object that no dict can hold, or that could be taken for a number here."""


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs) or "number" in members:
        raise _Odd
    return members


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {"object": sorted(pairs, key=itemgetter(0))}
