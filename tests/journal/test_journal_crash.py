"""kill -9 at random instants: every acknowledged row is there, and the chain holds."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import palyra
from palyra.journal.reader import JournalReader
from palyra.journal.verify import verify

CHECKOUT = Path(palyra.__file__).parents[1]
ROUNDS_COUNT = 12

#: Eight appenders that print a position once it is durable, from the head that the last round left.
CHILD = """
import asyncio, os, sys
from pathlib import Path
from journal_helpers import open_sqlite, row
from palyra.journal.writer import JournalOptions

async def main():
    options = JournalOptions(wal_checkpoint_bytes=32 * 1024)
    journal = await open_sqlite(Path(sys.argv[1]), options=options)
    position = journal.head.position

    async def appender():
        nonlocal position
        while True:
            first = position + 1
            position += 3
            await journal.append([row(first), row(first + 1), row(first + 2)])
            os.write(1, b"%d\\n" % (first + 2))

    await asyncio.gather(*(appender() for _ in range(8)))

asyncio.run(main())
"""


def test_kill_at_random_instants_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """A dozen kills of a busy writer, each on the journal that the one before left behind."""
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    path = tmp_path / "journal.db"
    for _ in range(ROUNDS_COUNT):
        acknowledged = _append_until_killed(path, lines_count=chance.randrange(1, 400))
        with JournalReader(path) as reader:
            assert reader.head().position >= acknowledged
        report = verify(path)
        assert {each.code for each in report.findings} <= {"witness_missing"}
        assert report.rows_count == report.head.position
        assert report.rows_count % 3 == 0, "a call was split"


def _append_until_killed(path: Path, *, lines_count: int) -> int:
    """Run the child, kill it after so many acknowledgements, return the highest position that it acknowledged."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, path],
        env={**os.environ, "PYTHONPATH": f"{CHECKOUT}:{Path(__file__).parent}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(lines_count)]
    process.kill()
    rest, _ = process.communicate()
    acknowledged += [int(line) for line in rest.split("\n")[:-1]]
    return max(acknowledged)
