"""A program that asks a daemon for one change of a credential and is killed in the middle, at each step in turn.

It reads what to do from standard input and prints a line for each step: its place, before or after, and how the
process ended. Each step has a copy of the state of its own, and a process of its own that kills itself by SIGKILL.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from console_house import open_console

from palyra.auth.keysource import FileSource
from palyra.auth.vault import Vault
from palyra.auth.vaultdb import VaultDb
from palyra.journal.sqlite import SqliteStore

#: What a change does to the disk, in order. In `insert` a transaction is open, and closed behind `put`.
PLACES: dict[str, tuple[type, str]] = {
    "begin": (VaultDb, "begin"),
    "promote": (FileSource, "promote"),
    "insert": (VaultDb, "insert"),
    "put": (Vault, "put"),
    "write": (SqliteStore, "write"),
    "delete": (Vault, "delete"),
    "put_next": (FileSource, "put_next"),
    "replace_key": (VaultDb, "replace_key"),
    "rekey": (Vault, "rekey"),
}


def die_at(name: str, armed: asyncio.Event, *, is_before: bool) -> None:
    """Let this process be killed before or after a step, once it is armed."""
    kind, method = PLACES[name]
    real = getattr(kind, method)

    def die() -> None:
        if armed.is_set():
            os.kill(os.getpid(), signal.SIGKILL)

    async def fatal_async(*arguments: Any, **named: Any) -> Any:
        if is_before:
            die()
        done = await real(*arguments, **named)
        die()
        return done

    def fatal(*arguments: Any, **named: Any) -> Any:
        if is_before:
            die()
        done = real(*arguments, **named)
        die()
        return done

    setattr(kind, method, fatal_async if asyncio.iscoroutinefunction(real) else fatal)


async def change(state_dir: Path, told: dict[str, Any], armed: asyncio.Event) -> None:
    async with open_console(state_dir, told["config"]) as ask:
        armed.set()
        answer = await ask(told["path"], method=told["method"], body=told["body"])
        armed.clear()
        assert answer.status in (200, 201), answer.body


def main() -> None:
    told = json.load(sys.stdin)
    folder = Path(told["folder"])
    for name in (*told["places"], ""):
        for is_before in (True, False) if name else (True,):
            case = folder / f"{name}-{'before' if is_before else 'after'}"
            shutil.copytree(told["original"], case)
            child = os.fork()
            if child == 0:
                armed = asyncio.Event()
                if name:
                    die_at(name, armed, is_before=is_before)
                asyncio.run(change(case, told, armed))
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            print(case.name, status, flush=True)


if __name__ == "__main__":
    main()
