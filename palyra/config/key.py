"""One key of the configuration: what a row of the table says, and the short ways in which rows are written.

A row is data; what is done with it stands in `schema.py` (values), `layers.py` (where they come from) and `keys.py`
(which keys there are).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

PATH_MAX_CHARS = 4_096
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
HOUR_MS, DAY_MS = 3_600_000, 86_400_000

KeyType = Literal["bool", "int", "text", "texts", "path", "paths", "map", "rules"]


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One key: what may be written, and what holds if nothing is."""

    #: `daemon.port`; a key of an entry is `model_provider.providers[].base_url`.
    path: str
    type: KeyType
    #: None: unset, or taken from elsewhere as `derived` says.
    default: Any = None
    #: Where the value comes from when nothing is written: "the flavor's".
    derived: str = ""
    required: bool = False
    #: Inclusive bounds of the number, of a text's characters, or of a list's or a map's items.
    low: int | None = None
    high: int | None = None
    #: 0 is taken as well, and turns something off.
    or_zero: bool = False
    choices: tuple[str, ...] = ()
    #: Other spellings that are read as a choice.
    spellings: Mapping[str, str] = {}
    #: Name of the rule that each text follows (`schema.SHAPES`).
    shape: str = ""
    #: Kinds of provider, or role of model, for which the key means something; "" = any.
    only: str = ""
    #: The part of the program that obeys it.
    owner: str = ""
    #: One line for `palyra config keys`.
    meaning: str
    #: A change acts when the configuration is read again; that of any other key at the next start.
    is_live: bool = False
    #: Environment variable; "" = none. In an entry's variable `{}` is the folded id of the entry.
    env: str = ""


def fold_env(text: str) -> str:
    """Return `text` as it stands in a variable's name: upper case, everything but letters and digits `_`."""
    return re.sub(r"[^A-Z0-9]", "_", text.upper())


def bool_(path: str, default: bool | None, meaning: str, **more: Any) -> Key:
    """A switch."""
    return Key(path=path, type="bool", default=default, meaning=meaning, **more)


def int_(path: str, default: int | None, low: int, high: int, meaning: str, **more: Any) -> Key:
    """A number, with its inclusive bounds."""
    return Key(path=path, type="int", default=default, low=low, high=high, meaning=meaning, **more)


def choice(path: str, default: str | None, choices: str, meaning: str, **more: Any) -> Key:
    """One of the words in `choices`."""
    return Key(path=path, type="text", default=default, choices=tuple(choices.split()), meaning=meaning, **more)


def text(path: str, default: str | None, high: int, meaning: str, **more: Any) -> Key:
    """A text of 1 to `high` characters."""
    return Key(path=path, type="text", default=default, low=1, high=high, meaning=meaning, **more)


def texts(path: str, high: int, meaning: str, **more: Any) -> Key:
    """A list of at most `high` texts."""
    return Key(path=path, type="texts", **{"default": [], "high": high, "meaning": meaning, **more})


def path(path: str, default: str | None, meaning: str, **more: Any) -> Key:
    """A place in the file system."""
    return Key(path=path, type="path", default=default, high=PATH_MAX_CHARS, meaning=meaning, **more)


def table(prefix: str, owner: str, *rows: Key, env: bool = True) -> Iterator[Key]:
    """Yield the rows with their place: full path, owner, and variable where their type can have one."""
    for row in rows:
        place = f"{prefix}.{row.path}" if prefix else row.path
        changes: dict[str, Any] = {"path": place, "owner": owner}
        if env and not row.env and row.type not in ("map", "rules"):
            above, entry, name = place.partition("[].")
            changes["env"] = f"PALYRA_{fold_env(above)}" + (f"__{{}}__{fold_env(name)}" if entry else "")
        yield msgspec.structs.replace(row, **changes)
