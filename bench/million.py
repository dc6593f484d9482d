"""A million events on the disk: how long the commands take that look at all of them, in what memory, and a start.

    python bench/million.py [--runs 125000] [--rounds 3] [--keep DIR]

The journal is made once, of plain requests, six events each. Every command is the program's own, in a process of
its own; "memory" is the most that it ever had resident.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from replay import record

import palyra
from palyra.auth.keyfiles import witness_key
from palyra.config.state import StatePaths, prepare_state_dir
from palyra.engine.offline import witness_offline
from palyra.engine.snapshotting import keep_snapshot
from palyra.journal.reader import JournalReader
from palyra.journal.snapshots import SNAPSHOTS_FILE

CHECKOUT = Path(palyra.__file__).parents[1]


class Took(NamedTuple):
    """What a process needed."""

    seconds: float
    #: Of processor time, which a busy machine does not stretch.
    cpu_seconds: float
    memory_bytes: int


class Machine:
    """A home in which commands are run."""

    def __init__(self, home: Path) -> None:
        self.paths = StatePaths(home / "state")
        self._home = home
        self._environ = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(CHECKOUT)}
        self._environ["PALYRA_STATE_DIR"] = str(self.paths.directory)

    def make(self, runs_count: int) -> None:
        prepare_state_dir(self.paths)
        witness_key(self.paths.vault_key, create=True)
        asyncio.run(record(self.paths.journal, runs_count))
        self.paths.journal.chmod(0o600)
        witness_offline(self.paths)

    def run(self, *arguments: str) -> Took:
        """Run a command to its end; it must succeed."""
        began = time.perf_counter()
        process = self._start(*arguments, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{arguments} ended with {process.returncode}")
        return Took(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)

    def ready(self) -> Took:
        """Start a daemon, wait for its line, and stop it."""
        began = time.perf_counter()
        process = self._start("serve", "--port", "0", "--log-level", "error", stdout=subprocess.PIPE)
        assert process.stdout is not None
        json.loads(process.stdout.readline())
        seconds = time.perf_counter() - began
        status = Path(f"/proc/{process.pid}/status").read_text()
        memory_kib = int(status.partition("VmRSS:")[2].split()[0])
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        process.terminate()
        process.communicate()
        return Took(seconds, sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), memory_kib * 1024)

    def _start(self, *arguments: str, stdout: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "palyra", *arguments], cwd=self._home, env=self._environ, stdout=stdout
        )


def median(tries: list[Took]) -> Took:
    return Took(
        statistics.median(each.seconds for each in tries),
        statistics.median(each.cpu_seconds for each in tries),
        max(each.memory_bytes for each in tries),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=125_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", help="a directory to work in that is kept; a journal that is there is used again")
    options = parser.parse_args()
    home = Path(options.keep or tempfile.mkdtemp(prefix="palyra-million-")).absolute()
    home.mkdir(exist_ok=True)
    machine = Machine(home)
    if not machine.paths.journal.exists():
        machine.make(options.runs)
    with JournalReader(machine.paths.journal) as reader:
        events = reader.head().position

    def show(what: str, *tries: Took) -> None:
        took = median(list(tries))
        rate = f"{events / took.cpu_seconds:>12,.0f}" if events / took.seconds < 1_000_000 else ""
        memory_mib = took.memory_bytes / 2**20
        print(f"{what:<36} {took.seconds:>8.2f} {took.cpu_seconds:>10.2f} {memory_mib:>8.0f} {rate}", flush=True)

    print(f"events {events:,}, {machine.paths.journal.stat().st_size / 2**20:,.0f} MiB")
    print(f"{'':<36} {'s':>8} {'cpu s':>10} {'MiB':>8} {'events/cpu s':>12}")
    rounds = range(options.rounds)
    machine.paths.journal.with_name(SNAPSHOTS_FILE).unlink(missing_ok=True)
    show("journal verify", *(machine.run("journal", "verify") for _ in rounds))
    show("journal verify --quick", *(machine.run("journal", "verify", "--quick") for _ in rounds))
    show("status, folded from the first event", *(machine.run("status") for _ in rounds))
    show("ready, without a snapshot", machine.ready())
    keep_snapshot(machine.paths.journal)
    show("ready, behind a snapshot", *(machine.ready() for _ in rounds))
    show("status, behind a snapshot", *(machine.run("status") for _ in rounds))
    show("journal verify --replay", *(machine.run("journal", "verify", "--replay") for _ in rounds))
    show(
        "usage report --group-by day,model",
        *(machine.run("usage", "report", "--group-by", "day,model") for _ in rounds),
    )
    export, copy = home / "export.jsonl", home / "copy"
    show("journal export", *(machine.run("journal", "export", "-o", str(export)) for _ in rounds))
    for _ in rounds:
        shutil.rmtree(copy, ignore_errors=True)
        took = machine.run("journal", "import", str(export), "--into", str(copy))
    show("journal import", took)
    if options.keep is None:
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
