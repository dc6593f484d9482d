"""A whole daemon over a disk that can be filled, beside a real upstream that counts what reaches it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from upstream import Upstream

from palyra.app import Daemon
from palyra.engine.clock import SystemClock
from palyra.engine.codec import to_recorded
from palyra.events.base import Recorded
from palyra.journal.reader import JournalReader

CHAT = "/v1/chat/completions"
MIB = 1 << 20
NOBODY = 65_534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk takes root")


class MovedClock(SystemClock):
    """The machine's clocks, moved: time passes on both, a step moves the wall clock alone."""

    def __init__(self) -> None:
        self.passed_us = self.stepped_us = 0

    def now_us(self) -> int:
        return super().now_us() + self.passed_us + self.stepped_us

    def monotonic_us(self) -> int:
        return super().monotonic_us() + self.passed_us

    def pass_s(self, seconds: int) -> None:
        self.passed_us += seconds * 1_000_000

    def step_s(self, seconds: int) -> None:
        self.stepped_us += seconds * 1_000_000


class Served:
    """A daemon that runs, its client and its upstream."""

    def __init__(self, daemon: Daemon, up: Upstream, session: aiohttp.ClientSession) -> None:
        self.daemon = daemon
        self.up = up
        self.clock = MovedClock()
        daemon.core.clock = self.clock
        self._session = session

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request under the client's key; return status and JSON of the answer."""
        headers = {"authorization": f"Bearer {self.daemon.client_key}"}
        async with self._session.request(method, self.daemon.url + path, json=body, headers=headers) as answer:
            return answer.status, json.loads(await answer.read())

    async def chat(self, **changes: Any) -> tuple[int, Any]:
        return await self.ask("POST", CHAT, {"messages": [{"role": "user", "content": "Hi"}], **changes})

    async def wait_for(self, holds: Callable[[], object]) -> None:
        """Wait until something holds; looks again after each commit."""
        changed, ring = asyncio.Event(), self.daemon.core.on_commit
        assert ring is not None
        self.daemon.core.on_commit = lambda: (ring(), changed.set())[0]
        while not holds():
            changed.clear()
            await changed.wait()

    async def look(self) -> None:
        """Have the daemon look at its machine now."""
        await self.daemon._machine.do()


def settings(url: str, **journal: Any) -> dict[str, Any]:
    """Return a configuration with one model at the upstream."""
    return {
        "journal": journal,
        "model_provider": {
            "providers": [
                {
                    "provider_id": "up",
                    "kind": "openai_compatible",
                    "base_url": url,
                    "allow_private_base_url": True,
                    "auth_scheme": "none",
                    "max_retries": 0,
                    "circuit_breaker_failure_threshold": 1,
                    "circuit_breaker_cooldown_ms": 30_000,
                }
            ],
            "models": [{"model_id": "gpt", "provider_id": "up"}],
        },
    }


@contextlib.asynccontextmanager
async def served(state_dir: Path, **journal: Any) -> AsyncIterator[Served]:
    """Run a daemon over a state directory, and stop it."""
    async with Upstream() as up, aiohttp.ClientSession() as session:
        async with Daemon(settings(up.url, **journal), state_dir=state_dir) as daemon:
            yield Served(daemon, up, session)


@contextlib.contextmanager
def small_disk(place: Path, size_mib: int) -> Iterator[Path]:
    """Mount a file system of this size in memory."""
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=700", "none", place],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@contextlib.contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Mount a directory over itself so that nothing in it can be changed, not even by root."""
    mounted = subprocess.run(["mount", "--bind", directory, directory], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.decode().strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", directory], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


@contextlib.contextmanager
def somebody_without_rights(directory: Path) -> Iterator[None]:
    """Be the owner of a directory in which nothing may be written."""
    for path in (directory, *directory.iterdir()):
        os.chown(path, NOBODY, NOBODY)
        path.chmod(0o500 if path.is_dir() else 0o400)
    directory.parent.chmod(0o755)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def listed(directory: Path) -> set[str]:
    """Return the names in a directory."""
    return {path.name for path in directory.iterdir()}


def fill(disk: Path) -> Path:
    """Take all the room that is left; return the file that has it."""
    filler = disk / "filler"
    with open(filler, "wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(64 * 1024))
            file.flush()
    with open(filler, "ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024))
    return filler


def history(state_dir: Path) -> list[Recorded]:
    """Return every fact of a journal."""
    with JournalReader(state_dir / "journal.db") as reader:
        return [to_recorded(row) for rows in reader.rows() for row in rows]


def names(state_dir: Path) -> Counter[str]:
    """Return how often each event is in the journal."""
    with JournalReader(state_dir / "journal.db") as reader:
        return Counter(row.name for rows in reader.rows() for row in rows)
