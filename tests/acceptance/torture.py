"""Kill a busy `palyra serve` at random instants, over and over, and audit what each kill leaves.

    python tests/acceptance/torture.py [--kills 200] [--seed N] [--keep DIR]

Sixteen clients mix plain answers, slow streams and requests whose first provider fails; the daemon is killed after
a random time and started again on what is left. Each start must find every acknowledged answer with its usage,
close every interrupted attempt once and release its hold; every tenth kill the journal is checked and replayed
whole, a second start must add nothing, and a new state begins. Prints its seed first; a failure keeps the state
directory and names it. `test_acceptance_torture.py` runs a few kills of it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from acceptance_kit import CHAT, Served, folded, serving, spawn, write_config

from palyra.auth.keyfiles import witness_key
from palyra.config.state import StatePaths
from palyra.engine.boot import open_work
from palyra.engine.codec import to_recorded
from palyra.events.attempts import AttemptAbandoned, AttemptFailed, AttemptStarted, AttemptSucceeded
from palyra.events.base import Recorded
from palyra.events.budgets import BudgetReleased, BudgetReserved
from palyra.events.daemon import DaemonReady, DaemonStarted
from palyra.events.runs import RunAdmitted, RunCancelled, RunCompleted, RunFailed, RunRefused
from palyra.events.usage import UsageRecorded
from palyra.journal.reader import JournalReader
from palyra.journal.verify import verify

CLIENTS_COUNT = 16
#: Kills on one state before a new one begins.
STATE_KILLS_COUNT = 10
#: From the first request to the kill.
LIFE_MAX_S = 1.5

SCRIPT = """
[[model_provider.providers]]
provider_id = "script"
kind = "deterministic"
max_concurrency = 64

[[model_provider.providers.rules]]
match = { contains = "stream" }
reply = { text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen" }
pace = { first_byte_ms = 20, chunk = { by = "word", size = 1, interval_ms = 25 } }

[[model_provider.providers.rules]]
match = { contains = "long" }
reply = { text = "This takes longer than any daemon of this test lives." }
pace = { first_byte_ms = 10, chunk = { by = "word", size = 1, interval_ms = 2000 } }

[[model_provider.providers.rules]]
reply = { text = "At once." }
pace = { latency_ms = 5 }

[[model_provider.providers]]
provider_id = "broken"
kind = "deterministic"
max_concurrency = 64
max_retries = 1
retry_backoff_ms = 10
circuit_breaker_failure_threshold = 20

[[model_provider.providers.rules]]
error = { status = 503 }

[[model_provider.models]]
model_id = "gpt"
provider_id = "script"
max_output_tokens = 1000

[[model_provider.models]]
model_id = "flaky"
provider_id = "broken"
max_output_tokens = 1000
fallbacks = ["gpt"]

[[budgets.policies]]
policy_id = "watched"  # so that every attempt is held and released
scope_kind = "global"
metric_kind = "tokens"
interval_kind = "monthly"
hard_limit = 1_000_000_000_000
"""


@dataclass
class Figures:
    """What was done and seen."""

    kills: int = 0
    events: int = 0
    acknowledged: int = 0
    acknowledged_streams: int = 0
    interrupted_runs: int = 0
    abandoned_attempts: int = 0
    idle_kills: int = 0
    replays: int = 0

    def __str__(self) -> str:
        return (
            f"{self.kills} kills ({self.idle_kills} with nothing open), {self.events:,} events,"
            f" {self.acknowledged:,} acknowledged answers ({self.acknowledged_streams:,} streams),"
            f" {self.interrupted_runs:,} runs interrupted and closed, {self.abandoned_attempts:,} attempts"
            f" abandoned once each, {self.replays} journals verified and replayed whole"
        )


@dataclass
class Books:
    """What one state's journal has told so far, kept apart from the program's own projections."""

    #: Position up to which the journal has been read.
    position: int = 0
    runs: dict[str, str] = field(default_factory=dict)
    attempts: dict[tuple[str, int], str] = field(default_factory=dict)
    holds: Counter[tuple[str, int]] = field(default_factory=Counter)
    usage: Counter[tuple[str, int]] = field(default_factory=Counter)
    boots: int = 0

    def add(self, fact: Recorded) -> None:
        """Take one more fact; raises `AssertionError` for the first that cannot follow those before it."""
        assert fact.position == self.position + 1, f"position {self.position + 1} is missing"
        self.position = fact.position
        run = fact.stream.removeprefix("run-")
        match fact.body:
            case DaemonStarted():
                self.boots += 1
            case RunAdmitted():
                assert run not in self.runs, f"{run} was admitted twice"
                self.runs[run] = "open"
            case RunCompleted() | RunFailed() | RunCancelled():
                assert self.runs[run] == "open", f"{run} ended twice"
                self.runs[run] = type(fact.body).__name__
            case RunRefused():
                self.runs[run] = "RunRefused"
            case AttemptStarted(attempt=attempt):
                assert self.runs[run] == "open"
                assert (run, attempt) not in self.attempts
                self.attempts[run, attempt] = "open"
            case (
                AttemptSucceeded(attempt=attempt)
                | AttemptFailed(attempt=attempt)
                | AttemptAbandoned(attempt=attempt)
            ):
                assert self.attempts[run, attempt] == "open", f"attempt {attempt} of {run} ended twice"
                self.attempts[run, attempt] = type(fact.body).__name__
            case BudgetReserved(attempt=attempt):
                self.holds[run, attempt] += 1
            case BudgetReleased(attempt=attempt):
                self.holds[run, attempt] -= 1
                assert self.holds[run, attempt] == 0, f"attempt {attempt} of {run} released what it did not hold"
            case UsageRecorded(attempt=attempt):
                self.usage[run, attempt] += 1
                assert self.usage[run, attempt] == 1, f"attempt {attempt} of {run} was billed twice"

    def open_runs(self) -> list[str]:
        return [run for run, state in self.runs.items() if state == "open"]

    def open_attempts(self) -> list[tuple[str, int]]:
        return [attempt for attempt, state in self.attempts.items() if state == "open"]

    def check_closed(self, acknowledged: list[str]) -> None:
        """Nothing is open, no hold is left, and each acknowledged answer has its end and its usage."""
        assert self.open_runs() == []
        assert self.open_attempts() == []
        assert +self.holds == Counter(), f"holds are left: {+self.holds}"
        billed = {run for run, _ in self.usage}
        for run in acknowledged:
            assert self.runs.get(run) == "RunCompleted", f"{run} was acknowledged and is {self.runs.get(run)}"
            assert run in billed, f"{run} was acknowledged and has no usage"
        abandoned = {key for key, state in self.attempts.items() if state == "AttemptAbandoned"}
        assert abandoned <= self.usage.keys(), "an abandoned attempt has no settlement"


def read_on(state_dir: Path, books: Books) -> list[Recorded]:
    """Bring the books up to the head of the journal; return what is new."""
    with JournalReader(state_dir / "journal.db") as reader:
        facts = [to_recorded(row) for rows in reader.rows(books.position) for row in rows]
    for fact in facts:
        books.add(fact)
    return facts


class Torture:
    """Kills on one state after another."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home = home
        self.figures = Figures()
        self._chance = random.Random(seed)
        self._config = str(write_config(home / "palyra.toml", SCRIPT))

    async def run(self, kills_count: int) -> None:
        """Kill so many times."""
        while self.figures.kills < kills_count:
            await self._one_state(min(STATE_KILLS_COUNT, kills_count - self.figures.kills))
            shutil.rmtree(self.home / "state")

    async def _one_state(self, kills_count: int) -> None:
        books, acknowledged = Books(), list[str]()
        state_dir = self.home / "state"
        left: dict[str, int] = {}
        for _ in range(kills_count):
            async with self._serving() as daemon:
                self._check_start(daemon, books, left, acknowledged)
                acknowledged += await self._load_until_killed(daemon)
            self.figures.kills += 1
            read_on(state_dir, books)
            left = self._check_left(state_dir, books)
        for expected in (left, {}):
            async with self._serving() as daemon:
                self._check_start(daemon, books, expected, acknowledged)
                await daemon.kill()
        self.figures.events += books.position
        await self._verify_whole()

    def _serving(self) -> Any:
        return serving(self.home, "--config", self._config, "--set", f'daemon.state_dir="{self.home}/state"')

    def _check_start(self, daemon: Served, books: Books, left: dict[str, int], acknowledged: list[str]) -> None:
        """The ready line says what was closed, and the facts of this boot are exactly that."""
        assert daemon.ready["recovered"] == left, (daemon.ready["recovered"], left)
        new = Counter(type(fact.body) for fact in read_on(daemon.state_dir, books))
        assert new[AttemptAbandoned] == new[BudgetReleased] == new[UsageRecorded] == left.get("attempts", 0)
        assert new[RunFailed] == left.get("runs", 0)
        if not left and books.boots > 1:
            assert set(new) == {DaemonStarted, DaemonReady}, new
        self.figures.interrupted_runs += left.get("runs", 0)
        self.figures.abandoned_attempts += left.get("attempts", 0)
        books.check_closed(acknowledged)

    def _check_left(self, state_dir: Path, books: Books) -> dict[str, int]:
        """What the program takes for open is what the books have open; rows, links and witness hold."""
        left = open_work(folded(state_dir))
        assert left.get("runs", 0) == len(books.open_runs())
        assert left.get("attempts", 0) == len(books.open_attempts()) == (+books.holds).total()
        self.figures.idle_kills += not left
        key = witness_key(StatePaths(state_dir).vault_key, create=False)
        report = verify(state_dir / "journal.db", witness_key=key)
        assert report.is_sound, report.findings
        return left

    async def _verify_whole(self) -> None:
        verified = await spawn(
            self.home, "journal", "verify", "--replay", "--state-dir", str(self.home / "state"), "--json"
        )
        out, err = await verified.communicate()
        assert (verified.returncode, err) == (0, b""), out
        self.figures.replays += 1

    async def _load_until_killed(self, daemon: Served) -> list[str]:
        """Ask from all clients, kill after a random time; return the runs whose answers had arrived whole."""
        acknowledged: list[str] = []
        async with aiohttp.ClientSession(headers=daemon.headers) as session:
            clients = [
                asyncio.create_task(
                    self._ask(session, daemon.url, random.Random(self._chance.random()), acknowledged)
                )
                for _ in range(CLIENTS_COUNT)
            ]
            await asyncio.sleep(self._chance.uniform(0.02, LIFE_MAX_S))
            await daemon.kill()
            ends = await asyncio.gather(*clients, return_exceptions=True)
        for end in ends:
            assert isinstance(end, (aiohttp.ClientError, ConnectionError)), end
        return acknowledged

    async def _ask(
        self, session: aiohttp.ClientSession, url: str, chance: random.Random, acknowledged: list[str]
    ) -> None:
        while True:
            kind = chance.choices(("plain", "stream", "long", "flaky"), (5, 6, 1, 2))[0]
            is_stream = kind in ("stream", "long")
            body = {
                "model": "flaky" if kind == "flaky" else "gpt",
                "messages": [{"role": "user", "content": f"A {kind} one."}],
                "stream": is_stream,
            }
            async with session.post(f"{url}{CHAT}", json=body) as answer:
                assert answer.status == 200, await answer.text()
                text = await answer.read()
                if is_stream and not text.endswith(b"data: [DONE]\n\n"):
                    raise ConnectionError("the stream was torn")
                acknowledged.append(answer.headers["x-palyra-run-id"])
                self.figures.acknowledged += 1
                self.figures.acknowledged_streams += is_stream


async def _main(options: argparse.Namespace) -> int:
    home = Path(options.keep or tempfile.mkdtemp(prefix="palyra-torture-")).absolute()
    home.mkdir(exist_ok=True)
    print("seed", options.seed, flush=True)
    torture, started = Torture(home, options.seed), time.monotonic()
    try:
        await torture.run(options.kills)
    except BaseException:
        print(f"FAILED after {torture.figures}; the state is in {home}", file=sys.stderr)
        raise
    print(f"{torture.figures}; {time.monotonic() - started:.0f} s")
    shutil.rmtree(home)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--keep", help="an empty directory to work in, instead of a temporary one")
    return asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
