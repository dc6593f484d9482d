"""The files of the configuration, watched where `daemon.watch_config` wants it: one that has changed is read again.

They are looked at, and not listened to, because that works the same on every file system. A file that is being
written is left alone until it stays the same for a moment.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

from palyra.config.load import LoadedConfig
from palyra.engine.clock import Clock
from palyra.units import ms_to_us

LOOK_EVERY_MS = 2_000
#: What has changed must stay as it is for so long.
STABLE_MS = 500

#: Path of a file -> digest of its bytes, "" where there is none that can be read.
Digests = Mapping[str, str]


def digests_of(loaded: LoadedConfig) -> dict[str, str]:
    """Return the files that a configuration was made of, as they were read."""
    files = {source.name: source.digest for source in loaded.sources if source.digest and source.name}
    providers = loaded.config.model_provider.registry.providers
    return files | {entry.fixtures: entry.fixtures_digest for entry in providers if entry.fixtures}


class ConfigWatch:
    """The chore that looks at the files."""

    def __init__(
        self,
        clock: Clock,
        is_wanted: Callable[[], bool],
        read: Callable[[], Digests],
        reload: Callable[[], Awaitable[object]],
    ) -> None:
        """`read` returns the files as they were read last; `reload` has them read again, and raises nothing."""
        self._clock = clock
        self._is_wanted = is_wanted
        self._read = read
        self._reload = reload
        #: What was found otherwise at the last look, and what was tried last: it may have been refused.
        self._seen: Digests | None = None
        self._tried: Digests = {}
        self._due_us = 0

    def due_at_us(self) -> int | None:
        """Return when to look, None where nobody wants it or there is no file."""
        return self._due_us if self._is_wanted() and self._read() else None

    async def do(self) -> None:
        """Look; have what has changed and stays so read again."""
        known = self._read()
        found = await asyncio.to_thread(_look_at, known)
        self._due_us = self._clock.now_us() + ms_to_us(LOOK_EVERY_MS)
        if found in (known, self._tried):
            self._seen = None
        elif found != self._seen:
            self._seen = found
            self._due_us = self._clock.now_us() + ms_to_us(STABLE_MS)
        else:
            self._tried, self._seen = found, None
            await self._reload()


def _look_at(files: Iterable[str]) -> dict[str, str]:
    return {file: _digest_of(Path(file)) for file in files}


def _digest_of(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""
