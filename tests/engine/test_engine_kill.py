"""kill -9 of a busy engine at random instants: acknowledged answers have their usage, open runs are closed once."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

from engine_world import World, audit_runs, one
from upstream import HANG, Behaviour, Upstream

import palyra
from palyra.engine.boot import open_work, recover
from palyra.events.attempts import AttemptAbandoned
from palyra.events.runs import RunFailed
from palyra.events.usage import UsageRecorded
from palyra.journal.sqlite import SqliteJournal
from palyra.journal.verify import verify

CHECKOUT = Path(palyra.__file__).parents[1]
ROUNDS_COUNT = 6

#: Twelve clients of an engine; each prints the id of a run once it has the whole answer.
CHILD = """
import asyncio, os, sys
from pathlib import Path
from engine_world import Taker, World, one
from palyra.engine.boot import recover
from palyra.journal.sqlite import SqliteJournal

async def client(world, number):
    while True:
        is_stream = bool(number % 2)
        taker = Taker()
        run = world.start_chat(client=taker if is_stream else None, **({"stream": True} if is_stream else {}))
        reply = await run.task
        if reply.status == 200 and (reply.body or taker.is_complete):
            os.write(1, run.run_id.encode() + b"\\n")

async def main():
    journal = await SqliteJournal.open(Path(sys.argv[1]), new_journal_id="01TEST", now_us=1)
    world = await World.make(one(sys.argv[2], max_concurrency=10), journal=journal, seed=int(sys.argv[3]))
    await recover(world.core, "boot-child")
    await asyncio.gather(*(client(world, number) for number in range(12)))

asyncio.run(main())
"""


async def test_kill_at_random_instants_loses_no_money(tmp_path: Path) -> None:
    """Six kills under load, each on the journal that the one before left behind."""
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    path = tmp_path / "journal.db"
    abandoned_count = 0
    async with Upstream() as up:
        for _ in range(ROUNDS_COUNT):
            up.reply_with(*_behaviours(chance))
            acknowledged = await _serve_until_killed(path, up.url, chance)
            abandoned_count += await _check(path, acknowledged)
            up._queue.clear()
        await up.connections_closed()
    assert abandoned_count > 0


def _behaviours(chance: random.Random) -> list[Behaviour]:
    """Return answers of which a few never end, so that every kill meets attempts that are open."""
    return [
        Behaviour(after={chance.randrange(4): HANG}) if chance.random() < 0.04 else Behaviour() for _ in range(120)
    ]


async def _serve_until_killed(path: Path, url: str, chance: random.Random) -> list[str]:
    """Run the child until it has acknowledged some runs, kill it, and return those."""
    paths = [CHECKOUT, CHECKOUT / "tests", CHECKOUT / "tests" / "engine"]
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD,
        path,
        url,
        str(chance.randrange(1 << 30)),
        env={**os.environ, "PYTHONPATH": ":".join(map(str, paths))},
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    acknowledged = [await child.stdout.readline() for _ in range(chance.randrange(1, 40))]
    child.kill()
    acknowledged += (await child.stdout.read()).splitlines(keepends=True)
    await child.wait()
    return [line.decode().strip() for line in acknowledged if line.endswith(b"\n")]


async def _check(path: Path, acknowledged: list[str]) -> int:
    """Recover twice; return how many attempts were abandoned in this round."""
    journal = await SqliteJournal.open(path, new_journal_id="01OTHER", now_us=1)
    world = await World.make(one(), journal=journal)
    before = journal.head.position
    counts = open_work(world.state)
    assert await recover(world.core, "boot-1") == counts
    after = journal.head.position
    assert await recover(world.core, "boot-2") == {}
    assert journal.head.position == after
    assert (after > before) == bool(counts)
    world.audit()
    audit_runs(world.rows())
    rows = world.rows()[before:]
    assert sum(row.name == "run.failed" for row in rows) == counts.get("runs", 0)
    abandoned_count = sum(row.name == "attempt.abandoned" for row in rows)
    assert abandoned_count == counts.get("attempts", 0)
    for run_id in acknowledged:
        assert world.names(run_id)[-1] == "run.completed"
        assert len(world.facts(UsageRecorded, run_id)) == 1
    for failed in world.facts(RunFailed):
        assert failed.code == "interrupted"
    abandoned_in_all = len(world.facts(AttemptAbandoned))
    assert sum(row.billed == "unknown" for row in world.facts(UsageRecorded)) == abandoned_in_all
    await world.close()
    assert {finding.code for finding in verify(path).findings} <= {"witness_missing"}
    return abandoned_count
