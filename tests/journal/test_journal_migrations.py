"""Making and upgrading the file: one transaction a migration, and no byte changed of what is newer."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from pathlib import Path

import pytest
from journal_helpers import JOURNAL_ID, NOW_US, open_sqlite, row, rows, write_journal

from palyra.errors import JournalDamaged, JournalNewer, JournalUnreadable, JournalUnwritable
from palyra.journal.migrations import Migration, migrations_folder, read_migrations, released_migrations, upgrade
from palyra.journal.reader import JournalReader
from palyra.journal.sqlite import prepare_file

SECOND = "CREATE TABLE note (text TEXT NOT NULL) STRICT;\nINSERT INTO note VALUES ('made by the second');"


@pytest.fixture
def two(tmp_path: Path) -> tuple[Migration, ...]:
    """The released migrations and a synthetic one after them, read from a folder."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    for migration in released_migrations():
        (folder / migration.name).write_text(migration.sql)
    (folder / f"{len(released_migrations()) + 1:04}_note.sql").write_text(SECOND)
    (folder / "README.md").write_text("not a migration")
    return read_migrations(folder)


def count_notes(path: Path) -> int:
    """Return what the second migration made."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM note").fetchone()[0])


def test_released_migrations_are_found_and_numbered() -> None:
    """The folder is there, and its files are 0001, 0002, ..."""
    assert migrations_folder().is_dir()
    assert [each.number for each in released_migrations()] == list(range(1, len(released_migrations()) + 1))


def test_gap_in_the_numbers_is_a_bug(tmp_path: Path) -> None:
    """A folder with 0002 and no 0001, or with nothing, is refused."""
    with pytest.raises(ValueError, match="numbered"):
        read_migrations(tmp_path)
    (tmp_path / "0002_b.sql").write_text("")
    with pytest.raises(ValueError, match="0002_b"):
        read_migrations(tmp_path)


async def test_new_file_is_private_and_marked(tmp_path: Path) -> None:
    """A journal is made 0600 under any umask, its log too, in WAL mode, with our application id."""
    path = tmp_path / "journal.db"
    umask = os.umask(0)
    try:
        journal = await open_sqlite(path)
        await journal.append([row(1)])
        for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        await journal.close()
    finally:
        os.umask(umask)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone()[0].to_bytes(4, "big") == b"PALY"
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


async def test_identity_is_given_once(tmp_path: Path) -> None:
    """Opening again keeps the id and the birth that the journal was made with."""
    path = await write_journal(tmp_path / "journal.db", rows(1, 2))
    journal = await open_sqlite(path, new_journal_id="01JOTHER", now_us=1)
    assert journal.journal_id == JOURNAL_ID
    assert journal.head.position == 2
    await journal.close()


async def test_upgrade_keeps_every_row(tmp_path: Path, two: tuple[Migration, ...]) -> None:
    """An older journal is upgraded at opening and goes on with the same chain."""
    path = await write_journal(tmp_path / "journal.db", rows(1, 5))
    with JournalReader(path) as reader:
        head = reader.head()
    journal = await open_sqlite(path, migrations=two)
    assert journal.head == head
    await journal.append([row(6)])
    await journal.close()
    assert count_notes(path) == 1
    with JournalReader(path) as reader:
        assert reader.schema == len(two)


def test_prepare_says_what_it_did(tmp_path: Path, two: tuple[Migration, ...]) -> None:
    """The numbers before and after are returned; the second time nothing happens."""
    path = tmp_path / "journal.db"
    one = released_migrations()
    assert prepare_file(path, new_journal_id="a", now_us=NOW_US) == (0, len(one))
    assert prepare_file(path, new_journal_id="b", now_us=NOW_US) == (len(one), len(one))
    assert prepare_file(path, new_journal_id="b", now_us=NOW_US, migrations=two) == (len(one), len(two))
    assert prepare_file(path, new_journal_id="b", now_us=NOW_US, migrations=two) == (len(two), len(two))
    assert count_notes(path) == 1


async def test_failing_migration_leaves_the_old_number_usable(tmp_path: Path, two: tuple[Migration, ...]) -> None:
    """A migration that fails is rolled back, those before it stay, and the journal opens as it was."""
    path = await write_journal(tmp_path / "journal.db", rows(1, 5))
    bad = Migration(len(two) + 1, "bad.sql", "CREATE TABLE half (a ANY) STRICT; INSERT INTO nowhere VALUES (1);")
    with pytest.raises(JournalUnwritable, match="no such table: nowhere"):
        await open_sqlite(path, migrations=[*two, bad])
    with JournalReader(path) as reader:
        assert reader.schema == len(two)
        assert reader.query("SELECT count(*) FROM sqlite_schema WHERE name = 'half'") == [(0,)]
    journal = await open_sqlite(path, migrations=two)
    await journal.append([row(6)])
    await journal.close()


@pytest.mark.parametrize("is_crashed", [False, True])
async def test_newer_journal_is_refused_untouched(
    tmp_path: Path, two: tuple[Migration, ...], is_crashed: bool
) -> None:
    """An older program changes no byte of a newer journal, nor of the log that a crash left beside it."""
    path = tmp_path / "journal.db"
    journal = await open_sqlite(path, migrations=two)
    await journal.append(rows(1, 5))
    if not is_crashed:
        await journal.close()
    names = ["journal.db", "journal.db-wal"] if is_crashed else ["journal.db"]
    before = {name: (tmp_path / name).read_bytes() for name in names}
    with pytest.raises(JournalNewer, match=f"schema {len(two)}"):
        await open_sqlite(path)
    assert {name: (tmp_path / name).read_bytes() for name in names} == before
    await journal.close()


def test_foreign_database_is_refused_untouched(tmp_path: Path) -> None:
    """Another program's SQLite file does not become a journal."""
    path = tmp_path / "journal.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE precious (a)")
    before = path.read_bytes()
    with pytest.raises(JournalUnreadable, match="not a journal"):
        prepare_file(path, new_journal_id="a", now_us=NOW_US)
    assert path.read_bytes() == before


def test_file_that_is_no_database_is_refused_untouched(tmp_path: Path) -> None:
    """A text file does not become a journal either."""
    path = tmp_path / "journal.db"
    path.write_bytes(b"dear diary, " * 100)
    with pytest.raises(JournalDamaged, match="not a SQLite database"):
        prepare_file(path, new_journal_id="a", now_us=NOW_US)
    assert path.read_bytes() == b"dear diary, " * 100


async def test_making_that_was_interrupted_is_finished(tmp_path: Path) -> None:
    """A crash between creating the file, its tables and its id leaves something that the next start completes."""
    path = tmp_path / "journal.db"
    path.touch(mode=0o600)
    await write_journal(path, rows(1, 1))
    other = tmp_path / "tables-only.db"
    with contextlib.closing(sqlite3.connect(other, isolation_level=None)) as connection:
        upgrade(connection, released_migrations())
    with pytest.raises(JournalUnreadable, match="never finished"):
        JournalReader(other)
    await write_journal(other, rows(1, 1))
    with JournalReader(other) as reader:
        assert reader.journal_id == JOURNAL_ID


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE event SET body = '{}' WHERE position = 1",
        "DELETE FROM event WHERE position = 3",
        "INSERT INTO event SELECT 9, stream, 9, name, schema, 0, actor, '', 0, '', body, link FROM event LIMIT 1",
        "INSERT OR REPLACE INTO event SELECT * FROM event WHERE position = 2",
        "UPDATE journal SET journal_id = 'x'",
        "DELETE FROM journal",
        "INSERT INTO journal VALUES (2, 'x', 0)",
    ],
)
async def test_guards_stop_a_slip_of_the_hand(tmp_path: Path, sql: str) -> None:
    """In a SQL shell nothing can be changed, removed, or put anywhere but at the end."""
    path = await write_journal(tmp_path / "journal.db", rows(1, 3))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(sql)


async def test_any_sqlite_tool_reads_the_journal(tmp_path: Path) -> None:
    """Bodies are JSON text, and what is empty is NULL."""
    path = await write_journal(tmp_path / "journal.db", [row(1, causation=0, body=b'{"tokens":7}')])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        sql = "SELECT typeof(body), json_extract(body, '$.tokens'), correlation, causation, command_key FROM event"
        assert connection.execute(sql).fetchall() == [("text", 7, None, None, None)]
