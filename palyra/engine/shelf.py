"""Things kept in memory for a while: each until its time, all together within a number and a number of bytes.

What was asked for last is kept longest. Nothing here is remembered across a restart.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class _Kept(NamedTuple, Generic[T]):
    value: T
    size_bytes: int
    until_us: int


class Shelf(Generic[T]):
    """Values by key."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Kept[T]] = OrderedDict()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: str, value: T, size_bytes: int, until_us: int) -> None:
        """Keep a value, instead of the one before it."""
        self.drop(key)
        self._kept[key] = _Kept(value, size_bytes, until_us)
        self.held_bytes += size_bytes

    def get(self, key: str, now_us: int) -> T | None:
        """Return a value whose time is not over."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until_us <= now_us:
            self.drop(key)
            return None
        self._kept.move_to_end(key)
        return kept.value

    def drop(self, key: str) -> None:
        """Let go of a value, if there is one."""
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.held_bytes -= kept.size_bytes

    def trim(self, *, max_count: int, max_bytes: int) -> None:
        """Let go of what was not asked for longest, until the rest is within these bounds."""
        while len(self._kept) > max_count or self.held_bytes > max_bytes:
            self.drop(next(iter(self._kept)))

    def clear(self) -> int:
        """Let go of everything; returns how much it was."""
        count = len(self._kept)
        self._kept.clear()
        self.held_bytes = 0
        return count
