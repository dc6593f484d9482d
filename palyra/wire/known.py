"""What of a client's JSON has a place in the neutral form, and the names of what has none.

An object is read as far as it is known. Members that nobody here knows are named, so that a provider of another
dialect does not go without them in silence; names are others' to make up, so what is told of them is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import msgspec

from palyra.limits import NAME_TOLD_MAX_CHARS, NAMES_TOLD_MAX_COUNT
from palyra.redaction import hide_keys
from palyra.wire.decoding import MEMBERS, NULL, decode, read_or_none

T = TypeVar("T")

#: Values that ask for nothing.
NOTHING = (b"null", b"false", b"[]", b"{}", b'""')
#: Stands for the names behind the last one that is told.
_OTHERS = "others"


class Shape(Generic[T]):
    """Objects of one kind."""

    def __init__(self, kind: type[T], *, types: str = "", ignored: str = "") -> None:
        """`types`: those of whose members something is read, where that is not all of them.

        `ignored`: members that say nothing beyond what is read. Both are set apart by blanks.
        """
        extra = [(name, msgspec.Raw, NULL) for name in ignored.split()]
        base: Any = kind
        strict = msgspec.defstruct(kind.__name__, extra, bases=(base,), forbid_unknown_fields=True)
        self._types = types.split()
        self._known = frozenset(strict.__struct_encode_fields__)
        self._strict = msgspec.json.Decoder(strict)
        self._tolerant = msgspec.json.Decoder(kind)

    def read(self, raw: msgspec.Raw, unknown: dict[str, None], place: str) -> T | None:
        """Return an object, None for what is none; what it holds that is not known is named as `place.member`."""
        if raw is NULL:
            return None
        try:
            return self._strict.decode(raw)  # type: ignore[return-value]
        except (ValueError, RecursionError):
            found = read_or_none(self._tolerant, raw)
        if found is not None and (not self._types or getattr(found, "type", None) in self._types):
            for name, value in MEMBERS.decode(raw).items():
                if name not in self._known and bytes(value) not in NOTHING:
                    unknown[f"{place}.{name}"] = None
        return found

    def demand(self, raw: msgspec.Raw, unknown: dict[str, None], place: str, where: str) -> T:
        """Return an object; raises `WireError` with the field at fault, which is at or below `where`."""
        found = self.read(raw, unknown, place)
        return decode(self._tolerant, raw, where) if found is None else found


def told(names: Iterable[str]) -> tuple[str, ...]:
    """Return names as they are told in headers and facts: each cut, without a key's shape, and so many of them."""
    kept: dict[str, None] = {}
    for name in names:
        if len(kept) == NAMES_TOLD_MAX_COUNT:
            return (*kept, _OTHERS)
        kept[hide_keys(name[:NAME_TOLD_MAX_CHARS])] = None
    return tuple(kept)
