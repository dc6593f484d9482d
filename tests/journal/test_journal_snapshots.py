"""`snapshots.db` is a cache: thinned, believed only where it fits the log, and never in the way."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_helpers import open_sqlite, rows, write_journal

from palyra.errors import JournalUnwritable
from palyra.journal.port import Snapshot
from palyra.journal.snapshots import SnapshotFile, positions_to_keep


def snapshot(position: int, digest: str = "shape", state: bytes = b"state") -> Snapshot:
    """Return a snapshot whose link is made from its position."""
    return Snapshot(position, link_at(position), digest, state)


def link_at(position: int) -> bytes:
    """Return the link that `snapshot` gives this position."""
    return b"%032d" % position


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=300))
@settings(max_examples=60)
def test_thinning_is_log_spaced(steps: list[int]) -> None:
    """The newest three stay, the first never goes, and few are kept: about one a power of two of distance."""
    kept: set[int] = set()
    position, made = 0, []
    for step in steps:
        position += step
        made.append(position)
        kept = positions_to_keep({*kept, position})
    assert set(made[-3:]) <= kept
    assert made[0] in kept
    assert len(kept) <= 3 + (position - made[0]).bit_length() + 1


def test_past_is_near_a_snapshot() -> None:
    """With regular snapshots, no past position is further behind a kept one than four times its age."""
    kept: set[int] = set()
    for position in range(100, 100_001, 100):
        kept = positions_to_keep({*kept, position})
    for past in range(200, 100_001, 100):
        nearest = max(each for each in kept if each <= past)
        assert 100_000 - nearest <= 4 * (100_000 - past) + 400


def test_save_and_load(tmp_path: Path) -> None:
    """States come back as they were, small and large, from a private file."""
    file = SnapshotFile(tmp_path / "snapshots.db")
    assert file.load("shape", 99, link_at) is None
    assert file.positions() == []
    large = bytes(range(256)) * 4_096
    file.save(snapshot(1, state=b""))
    file.save(snapshot(2, state=large))
    assert file.load("shape", 1, link_at) == snapshot(1, state=b"")
    assert file.load("shape", 99, link_at) == snapshot(2, state=large)
    assert file.path.stat().st_size < len(large) // 4
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert file.positions() == [1, 2]


def test_snapshot_of_another_history_is_not_believed(tmp_path: Path) -> None:
    """Where the link is not the log's, the next older one that fits is taken."""
    file = SnapshotFile(tmp_path / "snapshots.db")
    for position in (1, 2, 3):
        file.save(snapshot(position))
    found = file.load("shape", 99, lambda position: link_at(position) if position < 3 else b"other")
    assert found == snapshot(2)
    assert file.load("shape", 99, lambda _: None) is None


def test_save_drops_another_shape_and_a_lost_future(tmp_path: Path) -> None:
    """After an upgrade, or a restore to an earlier position, what cannot fit any more goes."""
    file = SnapshotFile(tmp_path / "snapshots.db")
    for position in (1, 5, 9):
        file.save(snapshot(position))
    file.save(snapshot(5, state=b"again"))
    assert file.positions() == [1, 5]
    file.save(snapshot(6, digest="other"))
    assert file.positions() == [6]


@pytest.mark.parametrize("size", [100, 200_000])
def test_state_with_a_wrong_byte_is_not_believed(tmp_path: Path, size: int) -> None:
    """A changed state is skipped, compressed or not."""
    file = SnapshotFile(tmp_path / "snapshots.db")
    file.save(snapshot(1))
    file.save(snapshot(2, state=random.Random(size).randbytes(size)))
    with contextlib.closing(sqlite3.connect(file.path, isolation_level=None)) as connection:
        stored = bytearray(connection.execute("SELECT state FROM snapshot WHERE position = 2").fetchone()[0])
        stored[len(stored) // 2] ^= 1
        connection.execute("UPDATE snapshot SET state = ? WHERE position = 2", (bytes(stored),))
    assert file.load("shape", 99, link_at) == snapshot(1)


def foreign_table(path: Path) -> None:
    """Make a database with a table of our name and another layout."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE snapshot (something)")


@pytest.mark.parametrize("make", [lambda path: path.write_bytes(b"garbage" * 999), foreign_table])
def test_unusable_file_is_made_again(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    """Damage and foreign layouts read as empty and are replaced at the next save."""
    file = SnapshotFile(tmp_path / "snapshots.db")
    make(file.path)
    before = file.path.read_bytes()
    assert file.load("shape", 99, link_at) is None
    assert file.positions() == []
    assert file.path.read_bytes() == before
    file.save(snapshot(3))
    assert file.load("shape", 99, link_at) == snapshot(3)


def test_disk_that_refuses_is_named(tmp_path: Path) -> None:
    """A snapshot that cannot be kept raises in words, and nothing is deleted for it."""
    with pytest.raises(JournalUnwritable, match="cannot be written"):
        SnapshotFile(tmp_path / "missing" / "snapshots.db").save(snapshot(1))


async def test_snapshots_survive_a_restart_and_may_be_deleted(tmp_path: Path) -> None:
    """A state is found after reopening; without the file there is simply none."""
    path = await write_journal(tmp_path / "journal.db", rows(1, 8))
    journal = await open_sqlite(path)
    await journal.save_snapshot(6, "shape", b"six")
    await journal.close()
    journal = await open_sqlite(path)
    found = await journal.load_snapshot("shape")
    assert found is not None
    assert (found.position, found.state) == (6, b"six")
    (tmp_path / "snapshots.db").unlink()
    assert await journal.load_snapshot("shape") is None
    await journal.save_snapshot(8, "shape", b"eight")
    assert await journal.load_snapshot("shape", 7) is None
    await journal.close()
