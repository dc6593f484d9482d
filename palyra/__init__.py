"""Palyra: a local-first gateway for large language models whose journal is the system.

`Daemon` runs a gateway inside an asyncio program; `open_journal` reads a journal's events and what was true after
each of them; `mount_fixtures` makes a configuration of recorded exchanges. Everything that can go wrong is a
`PalyraError`. Importing the package loads none of it: each name is fetched when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from palyra.api import LiveJournal, OpenedJournal, open_journal
    from palyra.app import Daemon
    from palyra.engine.mounting import mount_fixtures
    from palyra.errors import PalyraError
    from palyra.events.base import Recorded, UnknownEvent

__version__ = "0.1.0"
__all__ = [
    "Daemon",
    "LiveJournal",
    "OpenedJournal",
    "PalyraError",
    "Recorded",
    "UnknownEvent",
    "__version__",
    "mount_fixtures",
    "open_journal",
]

_HOMES = {
    "Daemon": "palyra.app",
    "LiveJournal": "palyra.api",
    "OpenedJournal": "palyra.api",
    "PalyraError": "palyra.errors",
    "Recorded": "palyra.events.base",
    "UnknownEvent": "palyra.events.base",
    "mount_fixtures": "palyra.engine.mounting",
    "open_journal": "palyra.api",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
