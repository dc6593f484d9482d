"""What disks do to a journal: a write-ahead log that ends anywhere, a bit that turned anywhere.

Every case is counted into what became of it, and the figures are printed (`pytest -s`):

- complete: every acknowledged row is there;
- named: `verify` names the damage, or the file is refused with a sentence;
- harmless: the bit lay where nothing is kept; every row, link and lookup is as before.

A case that is none of these would be a silent loss, and fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import sqlite3
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from journal_helpers import JOURNAL_ID, NOW_US, open_sqlite, row

from palyra.errors import JournalDamaged, JournalError
from palyra.journal.port import Row
from palyra.journal.reader import JournalReader, StoredRow
from palyra.journal.verify import verify
from palyra.journal.witness import WITNESS_FILE, make_witness, write_witness
from palyra.journal.writer import JournalOptions

KEY = b"k" * 32
#: SQLite's smallest: many pages, so many ways to break, in few bytes.
PAGE_BYTES = 512
WAL_HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
#: Two rows a commit; those after the checkpoint are in the log only.
ROWS_COUNT, CHECKPOINTED_COUNT = 40, 34
STREAMS_COUNT = 3


class Made(NamedTuple):
    """A journal as a crash would find it: the last commits in the log, the head witnessed."""

    folder: Path
    rows: list[StoredRow]
    #: Length of the log after each commit in it, and the position that was acknowledged by then.
    acknowledged: list[tuple[int, int]]

    def copy(self, target: Path) -> Path:
        """Return the journal file of a copy."""
        shutil.copytree(self.folder, target)
        return target / "journal.db"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Twenty commits, the last three of them in the log only."""
    return asyncio.run(_make(tmp_path))


async def _make(tmp_path: Path) -> Made:
    live, folder = tmp_path / "live", tmp_path / "made"
    live.mkdir()
    path, wal = live / "journal.db", live / "journal.db-wal"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("VACUUM")
    journal = await open_sqlite(path, options=JournalOptions(wal_checkpoint_bytes=1 << 30))
    acknowledged = []
    for position in range(1, ROWS_COUNT, 2):
        if position == CHECKPOINTED_COUNT + 1:
            await journal.checkpoint("TRUNCATE")
        await journal.append([_row(position), _row(position + 1)])
        if position > CHECKPOINTED_COUNT:
            acknowledged.append((wal.stat().st_size, position + 1))
    write_witness(live / WITNESS_FILE, make_witness(JOURNAL_ID, journal.head, NOW_US, KEY))
    folder.mkdir()
    for name in ("journal.db", "journal.db-wal", WITNESS_FILE):
        shutil.copy(live / name, folder)
    rows = _rows(path)
    await journal.close()
    assert len(rows) == ROWS_COUNT
    return Made(folder, rows, acknowledged)


def _row(position: int) -> Row:
    stream = f"run-{position % STREAMS_COUNT}"
    version = (position + STREAMS_COUNT - 1) // STREAMS_COUNT
    return row(position, stream, version, body=b'{"text":"%s"}' % (b"%03d " % position * 12))


def _rows(path: Path) -> list[StoredRow]:
    with JournalReader(path) as reader:
        return list(itertools.chain.from_iterable(reader.stored_rows()))


def _by_streams(path: Path) -> list[int]:
    """Return the positions that the index leads to."""
    with JournalReader(path) as reader:
        names = [f"run-{number}" for number in range(STREAMS_COUNT)]
        return sorted(each.position for name in names for batch in reader.stream(name) for each in batch)


def _codes(path: Path) -> list[str]:
    return [each.code for each in verify(path, witness_key=KEY).findings if each.severity != "info"]


def test_a_log_torn_at_every_length_keeps_what_was_acknowledged(made: Made, tmp_path: Path) -> None:
    """However short the log is, the rows are a prefix that holds everything acknowledged before the tear.

    What a crash tears off was not acknowledged. What was acknowledged and is gone all the same is missed by the
    witness, at every single length.
    """
    path = made.copy(tmp_path / "torn")
    wal, shm = Path(f"{path}-wal"), Path(f"{path}-shm")
    outcomes: Counter[str] = Counter()
    whole, last = wal.stat().st_size, -1
    for length in range(whole, -1, -1):
        os.truncate(wal, length)
        shm.unlink(missing_ok=True)
        with JournalReader(path) as reader:
            head = reader.head()
        before_tear = max([CHECKPOINTED_COUNT, *(at for size, at in made.acknowledged if size <= length)])
        assert head.position == before_tear, "not a row more or less than what was acknowledged"
        assert head.link == made.rows[head.position - 1].link
        if head.position != last:
            # Where another commit is lost everything is looked at; in between it is the same commit.
            assert _rows(path) == made.rows[: head.position]
            codes, last = _codes(path), head.position
        outcomes["complete" if head.position == ROWS_COUNT else "named" if "tail_cut" in codes else "silent"] += 1
    print(f"torn log: {whole + 1} lengths, {dict(outcomes)}; none lost a row acknowledged before the tear")
    assert outcomes.keys() == {"complete", "named"}


async def test_a_torn_journal_goes_on_from_what_it_has(made: Made, tmp_path: Path) -> None:
    """The writer opens it at every commit's edge, goes on behind the last whole row, and it is sound again."""
    edges = [size + change for size, _ in made.acknowledged for change in (-FRAME_HEADER_BYTES, -1, 0)]
    for number, length in enumerate([0, WAL_HEADER_BYTES, *edges]):
        path = made.copy(tmp_path / f"{number}")
        os.truncate(f"{path}-wal", length)
        journal = await open_sqlite(path)
        position = journal.head.position
        assert position >= max([CHECKPOINTED_COUNT, *(at for size, at in made.acknowledged if size <= length)])
        await journal.append([_row(position + 1)])
        await journal.close()
        assert set(_codes(path)) <= {"tail_cut", "witness_mismatch"}
        assert _rows(path)[:position] == made.rows[:position]


def _flips(size: int, first: int, piece: int, chance: random.Random, each: int) -> list[tuple[int, int]]:
    """Return byte and bit of so many flips in each piece of a file."""
    return [
        (chance.randrange(start, min(start + piece, size)), chance.randrange(8))
        for start in range(first, size, piece)
        for _ in range(each)
    ]


def _outcome(path: Path, made: Made) -> str:
    """Return what became of a journal in which a bit turned."""
    try:
        if _codes(path):
            return "named"
    except JournalError:
        return "named"
    if _rows(path) == made.rows and _by_streams(path) == list(range(1, ROWS_COUNT + 1)):
        return "harmless"
    return "silent"


def _flip_everywhere(made: Made, folder: Path, name: str, flips: list[tuple[int, int]], seed: int) -> Counter[str]:
    """Turn one bit at a time in a file of the journal in `folder`; return what became of it how often."""
    path, file = folder / "journal.db", folder / name
    original, outcomes = file.read_bytes(), Counter[str]()
    for at, bit in flips:
        content = bytearray(original)
        content[at] ^= 1 << bit
        file.write_bytes(content)
        Path(f"{path}-shm").unlink(missing_ok=True)
        outcome = _outcome(path, made)
        assert outcome != "silent", f"{name} byte {at} bit {bit}, seed {seed}"
        outcomes[outcome] += 1
    return outcomes


def test_a_flipped_bit_in_the_log_is_named(made: Made, tmp_path: Path) -> None:
    """One bit in every frame of the log and in its head, several times over: commits fall away, and are missed."""
    seed = random.SystemRandom().randrange(1 << 32)
    path = made.copy(tmp_path / "flipped")
    size, frame = Path(f"{path}-wal").stat().st_size, FRAME_HEADER_BYTES + PAGE_BYTES
    flips = _flips(WAL_HEADER_BYTES, 0, 4, random.Random(seed), each=2)
    flips += _flips(size, WAL_HEADER_BYTES, frame, random.Random(seed), each=12)
    outcomes = _flip_everywhere(made, path.parent, "journal.db-wal", flips, seed)
    print(f"flipped bits in the log: {len(flips)} in {(size - WAL_HEADER_BYTES) // frame} frames, {dict(outcomes)}")
    assert outcomes.keys() == {"named"}


def test_a_flipped_bit_in_the_file_is_named_or_harmless(made: Made, tmp_path: Path) -> None:
    """One bit in every page of the closed file, several times over; only free space can turn unnoticed."""
    seed = random.SystemRandom().randrange(1 << 32)
    path = made.copy(tmp_path / "flipped")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = path.stat().st_size
    flips = _flips(size, 0, PAGE_BYTES, random.Random(seed), each=20)
    outcomes = _flip_everywhere(made, path.parent, "journal.db", flips, seed)
    print(f"flipped bits in the file: {len(flips)} in {size // PAGE_BYTES} pages, {dict(outcomes)}")
    assert outcomes["named"] > outcomes["harmless"]


def test_a_file_that_leads_in_a_circle_ends(made: Made, tmp_path: Path) -> None:
    """A row number that turned in the tree makes a search find earlier rows for ever; reading stops and says so."""
    path = made.copy(tmp_path / "circle")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'event'").fetchone()[0]
    original, start = path.read_bytes(), (root - 1) * PAGE_BYTES
    page = original[start : start + PAGE_BYTES]
    assert page[0] == 5, "an inner page: cells of a child's number and the last row in it"
    cells_count = int.from_bytes(page[3:5])
    cells = [int.from_bytes(page[at : at + 2]) for at in range(12, 12 + 2 * cells_count, 2)]
    said = []
    for cell in cells:
        for bit in range(7):
            content = bytearray(original)
            content[start + cell + 4] ^= 1 << bit
            path.write_bytes(content)
            try:
                _rows(path)
            except JournalDamaged as error:
                said.append(str(error))
            assert _codes(path)
    assert any("is out of order after position" in each for each in said)
