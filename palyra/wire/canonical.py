"""When two request bodies ask the same: a digest that order and spacing of JSON do not change.

Numbers keep their spelling and a member that stands twice stays twice, so that bodies which a provider may read
differently are never taken for one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any


def body_digest(body: bytes, *, without: Collection[str]) -> str:
    """Return the SHA-256 of a JSON object, hex; members of the top level in `without` do not count."""
    value = json.loads(body, object_pairs_hook=_object, parse_float=_Number, parse_int=_Number)
    members = [pair for pair in value["object"] if pair[0] not in without]
    text = json.dumps(members, separators=(",", ":"), default=_spelling)
    return hashlib.sha256(text.encode()).hexdigest()


class _Number:
    """A number as it is spelt."""

    def __init__(self, spelling: str) -> None:
        self.spelling = spelling


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {"object": sorted(pairs, key=lambda pair: pair[0])}


def _spelling(number: _Number) -> dict[str, str]:
    return {"number": number.spelling}
