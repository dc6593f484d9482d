"""The whole program as its users have it: a process with a state directory, a port and signals."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

import palyra
from palyra.auth.keyfiles import read_key_file
from palyra.config.load import LoadedConfig, load_config
from palyra.config.state import StatePaths
from palyra.engine.codec import to_recorded
from palyra.engine.replay import fold_file
from palyra.events.base import Recorded
from palyra.journal.reader import JournalReader
from palyra.projections.state import State

CHECKOUT = Path(palyra.__file__).parents[1]
CHAT = "/v1/chat/completions"

#: A model `gpt` at a provider `up` with its ways written out; `{url}` is the upstream's.
CONFIG = """
[[model_provider.providers]]
provider_id = "up"
kind = "openai_compatible"
base_url = "{url}"
allow_private_base_url = true
auth_scheme = "none"
max_concurrency = 64

[[model_provider.models]]
model_id = "gpt"
provider_id = "up"
max_output_tokens = 1000
"""


def machine(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a machine on which nothing of ours has ever been."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    return {**kept, "HOME": str(home), "LANG": "C.UTF-8", "PYTHONPATH": str(CHECKOUT), **more}


def write_config(path: Path, text: str) -> Path:
    """Write a configuration file that only its owner can change."""
    path.write_text(text)
    path.chmod(0o600)
    return path


def chat(text: str = "Say hi.", **changes: Any) -> dict[str, Any]:
    """Return the body of a chat request."""
    return {"model": "gpt", "messages": [{"role": "user", "content": text}], **changes}


def loaded(home: Path, *sets: str, config_file: Path | None = None) -> LoadedConfig:
    """Return the configuration of a daemon in this process: any free port, state below `home`."""
    own = ["daemon.port=0", f'daemon.state_dir="{home}/state"', *sets]
    return load_config({"HOME": str(home)}, config_file=config_file and str(config_file), sets=own)


def history(state_dir: Path) -> list[Recorded]:
    """Return every fact of a journal, beside a live daemon or without one."""
    with JournalReader(state_dir / "journal.db") as reader:
        return [to_recorded(row) for rows in reader.rows() for row in rows]


def folded(state_dir: Path) -> State:
    """Return the state at the head of a journal."""
    return fold_file(state_dir / "journal.db").state


class Served:
    """A daemon as a process that has said it is ready."""

    def __init__(self, process: asyncio.subprocess.Process, ready: dict[str, Any], log: Path) -> None:
        self.process = process
        self.ready = ready
        self._log = log
        self.state_dir = Path(ready["state_dir"])
        self.url = str(ready["url"])

    @property
    def key(self) -> str:
        secret = read_key_file(StatePaths(self.state_dir).client_key)
        assert secret is not None
        return secret.reveal()

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def log_lines(self) -> list[dict[str, Any]]:
        """Return what was logged so far; every line is JSON."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return await self.process.wait()

    async def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        await self.process.wait()

    async def wait_until_draining(self, session: aiohttp.ClientSession) -> None:
        """Ask until the daemon says that it is going."""
        status = 200
        while status != 503:
            async with session.get(f"{self.url}/readyz") as answer:
                status, said = answer.status, await answer.json()
        assert said == {"status": "draining"}


async def spawn(
    home: Path,
    *arguments: str,
    environ: Mapping[str, str] | None = None,
    program: tuple[str, ...] = ("-m", "palyra"),
    **streams: Any,
) -> asyncio.subprocess.Process:
    """Start `palyra` with these arguments on an empty machine whose home is `home`."""
    streams = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE, **streams}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *program,
        *arguments,
        cwd=home,
        env={**machine(home), **(environ or {})},
        # A job in the background of a shell ignores interrupts, and hands that down.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        **streams,
    )


@asynccontextmanager
async def serving(home: Path, *arguments: str, **how: Any) -> AsyncIterator[Served]:
    """Run `palyra serve` on a free port; a process that the block leaves running is killed."""
    log = home / "log.jsonl"
    with log.open("ab") as errors:
        process = await spawn(home, "serve", "--port", "0", *arguments, stderr=errors, **how)
    try:
        assert process.stdout is not None
        line = await process.stdout.readline()
        assert line, log.read_text()
        yield Served(process, json.loads(line), log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
