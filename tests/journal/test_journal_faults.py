"""A disk that fails: at every statement, when full, when read-only. Nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from journal_helpers import NOW_US, FailurePlan, open_sqlite, row, rows, tampering, write_journal

import palyra
from palyra.errors import JournalDamaged, JournalUnwritable
from palyra.journal.reader import JournalReader
from palyra.journal.verify import verify
from palyra.journal.witness import WITNESS_FILE, make_witness, write_witness
from palyra.journal.writer import JournalOptions

CHECKOUT = Path(palyra.__file__).parents[1]


def stored(path: Path) -> list[Any]:
    """Return all rows of a file after proving that it is sound."""
    with JournalReader(path) as reader:
        write_witness(path.with_name(WITNESS_FILE), make_witness(reader.journal_id, reader.head(), NOW_US, None))
        assert verify(path).is_sound
        return [each for batch in reader.rows() for each in batch]


async def run_scenario(path: Path, plan: FailurePlan) -> int:
    """Open, append ten calls, checkpoint and close, recovering once; return the last acknowledged position."""
    acknowledged, is_recovered = 0, False
    journal = await open_sqlite(path, connection_factory=plan.connection_factory())
    try:
        while acknowledged < 20:
            try:
                await journal.append(rows(acknowledged + 1, acknowledged + 2))
                acknowledged += 2
                if acknowledged == 10:
                    await journal.checkpoint("TRUNCATE")
            except JournalUnwritable:
                assert not is_recovered
                is_recovered = True
                head = await journal.recover()
                assert head.position in (acknowledged, acknowledged + 2)
                acknowledged = head.position
    finally:
        await journal.close()
    return acknowledged


@pytest.mark.parametrize("is_done_before", [False, True])
async def test_nth_statement_fails_for_every_n(tmp_path: Path, is_done_before: bool) -> None:
    """Whichever statement fails, with or without effect, the file is sound and has what was acknowledged."""
    plan = FailurePlan(0)
    assert await run_scenario(tmp_path / "count.db", plan) == 20
    assert plan.count > 20
    refusals = []
    for nth in range(1, plan.count + 1):
        path = tmp_path / f"{nth}.db"
        try:
            acknowledged = await run_scenario(path, FailurePlan(nth, is_done_before=is_done_before))
        except JournalUnwritable as exc:
            refusals.append(str(exc))
            acknowledged = await run_scenario(path, FailurePlan(0))
        assert stored(path) == rows(1, acknowledged)
    assert refusals
    assert all("cannot be opened: disk I/O error" in each for each in refusals)


async def test_recover_that_fails_can_be_tried_again(tmp_path: Path) -> None:
    """While the disk still refuses, `recover` raises and the journal stays failed; later it succeeds."""

    class Disk:
        is_broken = False

    class Connection(sqlite3.Connection):
        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            if Disk.is_broken:
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(*arguments)

    journal = await open_sqlite(tmp_path / "journal.db", connection_factory=Connection)
    await journal.append([row(1)])
    Disk.is_broken = True
    with pytest.raises(JournalUnwritable):
        await journal.append([row(2)])
    for _ in range(2):
        with pytest.raises(JournalUnwritable, match="disk I/O error"):
            await journal.recover()
        with pytest.raises(JournalUnwritable):
            journal.append([row(2)])
    Disk.is_broken = False
    assert (await journal.recover()).position == 1
    await journal.append([row(2)])
    await journal.close()
    assert stored(tmp_path / "journal.db") == rows(1, 2)


async def test_failed_journal_closes(tmp_path: Path) -> None:
    """A journal whose disk is gone closes without a hang and without losing what it had."""
    path = tmp_path / "journal.db"
    count = FailurePlan(0)
    journal = await open_sqlite(path, connection_factory=count.connection_factory())
    await journal.append([row(1)])
    count.nth = count.count + 1
    with pytest.raises(JournalUnwritable):
        await journal.append([row(2)])
    await journal.close()
    assert stored(path) == [row(1)]


async def test_full_disk_is_named_and_service_returns_with_space(tmp_path: Path) -> None:
    """SQLite's own 'disk is full' refuses appends; with space again the journal goes on without a gap."""

    class Disk:
        pages_count = 24

    class SmallConnection(sqlite3.Connection):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.execute(f"PRAGMA max_page_count = {Disk.pages_count}")

    path = tmp_path / "journal.db"
    journal = await open_sqlite(path, connection_factory=SmallConnection)
    acknowledged = 0

    async def append_until_full() -> None:
        nonlocal acknowledged
        while acknowledged < 1_000:
            await journal.append(rows(acknowledged + 1, acknowledged + 20))
            acknowledged += 20

    with pytest.raises(JournalUnwritable, match="the disk is full"):
        await append_until_full()
    assert 0 < acknowledged < 1_000
    with pytest.raises(JournalUnwritable, match="the disk is full"):
        journal.append([row(acknowledged + 1)])
    assert [each async for batch in journal.read() for each in batch] == rows(1, acknowledged)
    Disk.pages_count = 10_000
    assert (await journal.recover()).position == acknowledged
    await journal.append([row(acknowledged + 1)])
    await journal.close()
    assert stored(path) == rows(1, acknowledged + 1)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Take the right to write from a folder and its files, and be somebody whom that binds."""
    user = os.geteuid()
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    try:
        if user == 0:
            os.seteuid(65_534)
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


async def test_read_only_file_is_refused_at_open() -> None:
    """A file that cannot be written is refused before anything relies on it; reading it works, without a trace."""
    # Not tmp_path: nobody else may enter that.
    with tempfile.TemporaryDirectory() as folder:
        path = await write_journal(Path(folder) / "journal.db", rows(1, 3))
        with read_only(path.parent):
            with pytest.raises(JournalUnwritable, match=r"read-only|denied"):
                await open_sqlite(path)
            with JournalReader(path) as reader:
                assert [each for batch in reader.rows() for each in batch] == rows(1, 3)
            assert os.listdir(folder) == ["journal.db"]


async def test_missing_directory_is_named(tmp_path: Path) -> None:
    """A journal in a directory that does not exist is refused in words."""
    with pytest.raises(JournalUnwritable, match="cannot be made ready"):
        await open_sqlite(tmp_path / "missing" / "journal.db")


async def test_disk_that_forgot_is_damage(tmp_path: Path) -> None:
    """If acknowledged rows are gone when `recover` looks, it says so and takes nothing."""
    plan = FailurePlan(0)
    path = tmp_path / "journal.db"
    journal = await open_sqlite(path, connection_factory=plan.connection_factory())
    await journal.append(rows(1, 4))
    plan.nth = plan.count + 1
    with pytest.raises(JournalUnwritable):
        await journal.append([row(5)])
    with tampering(path) as connection:
        connection.execute("DELETE FROM event WHERE position > 2")
    with pytest.raises(JournalDamaged, match="was acknowledged"):
        await journal.recover()
    with pytest.raises(JournalUnwritable):
        journal.append([row(3)])
    await journal.close()


async def test_options_reach_sqlite(tmp_path: Path) -> None:
    """Durability, checkpoint size and log size are what the connection runs with, and can be changed."""
    journal = await open_sqlite(tmp_path / "journal.db", options=JournalOptions(durability="relaxed"))

    async def pragma(name: str) -> int:
        (answer,) = await journal._file.connection.execute_fetchall(f"PRAGMA {name}")
        return int(answer[0])

    assert await pragma("synchronous") == 1
    await journal.set_options(
        JournalOptions(wal_checkpoint_bytes=8 << 20, wal_max_bytes=9 << 20, commit_max_count=1)
    )
    assert [await pragma(name) for name in ("synchronous", "wal_autocheckpoint", "journal_size_limit")] == [
        2,
        2_048,
        9 << 20,
    ]
    await journal.close()


async def test_log_is_checkpointed_and_truncated(tmp_path: Path) -> None:
    """The write-ahead log stays near its size, shrinks on order, and is gone after closing."""
    path = tmp_path / "journal.db"
    wal = tmp_path / "journal.db-wal"
    journal = await open_sqlite(path, options=JournalOptions(wal_checkpoint_bytes=64 * 1024))
    for first in range(1, 2_001, 20):
        await journal.append(rows(first, first + 19))
    assert wal.stat().st_size < 256 * 1024
    assert not (await journal.checkpoint("TRUNCATE")).is_busy
    assert wal.stat().st_size == 0
    await journal.append([row(2_001)])
    await journal.close()
    assert sorted(os.listdir(tmp_path)) == ["journal.db"]


async def test_reader_between_batches_holds_no_checkpoint_up(tmp_path: Path) -> None:
    """A reader that paused after a batch does not keep the log from being truncated."""
    path = tmp_path / "journal.db"
    journal = await open_sqlite(path)
    await journal.append(rows(1, 2_500))
    with JournalReader(path) as reader:
        batches = reader.rows()
        seen = list(next(batches))
        await journal.append(rows(2_501, 2_600))
        assert not (await journal.checkpoint("TRUNCATE")).is_busy
        seen += [each for batch in batches for each in batch]
    assert seen == rows(1, 2_500)
    await journal.close()


TORN_DOWN = """
import asyncio, sys
from pathlib import Path
from journal_helpers import open_sqlite, rows

async def main():
    global journal
    journal = await open_sqlite(Path(sys.argv[1]))
    await journal.append(rows(1, 3))
    journal.append(rows(4, 4), lazy=True)

if sys.argv[2] == "cancelled":
    asyncio.run(main())
else:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
"""


@pytest.mark.parametrize("manner", ["cancelled", "abandoned"])
def test_loop_that_is_torn_down_does_not_hang(tmp_path: Path, manner: str) -> None:
    """A program that forgets to close the journal ends all the same, and what was acknowledged is there."""
    path = tmp_path / "journal.db"
    result = subprocess.run(
        [sys.executable, "-c", TORN_DOWN, path, manner],
        env={**os.environ, "PYTHONPATH": f"{CHECKOUT}:{Path(__file__).parent}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    if manner == "cancelled":
        assert result.stderr == ""
        assert not path.with_name("journal.db-wal").exists()
    assert stored(path)[:3] == rows(1, 3)
