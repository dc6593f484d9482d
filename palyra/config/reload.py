"""A configuration that is read again while a daemon runs: what acts at once, and what waits for the next start."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import msgspec

from palyra.config.keys import KEYS
from palyra.config.tree import Config
from palyra.events.registry import Registry

_LIVE = frozenset(key.path for key in KEYS if key.is_live)

TableT = TypeVar("TableT", bound=msgspec.Struct)


class Merged(NamedTuple):
    """What is in force after a reload."""

    config: Config
    #: Keys whose new value waits, sorted.
    pending: list[str]


def merge(running: Config, wanted: Config) -> Merged:
    """Return what is wanted, but with the value that runs for every key that acts at a start."""
    pending: list[str] = []
    return Merged(_merge_table(running, wanted, "", pending), sorted(pending))


def _merge_table(running: TableT, wanted: TableT, path: str, pending: list[str]) -> TableT:
    kept: dict[str, object] = {}
    for name in running.__struct_fields__:
        old, new, key = getattr(running, name), getattr(wanted, name), f"{path}{name}"
        if isinstance(new, msgspec.Struct) and not isinstance(new, Registry):
            kept[name] = _merge_table(old, new, f"{key}.", pending)
        elif old != new and not isinstance(new, Registry) and key not in _LIVE:
            pending.append(key)
            kept[name] = old
    return msgspec.structs.replace(wanted, **kept)
