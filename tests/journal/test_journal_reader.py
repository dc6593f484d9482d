"""The synchronous reader: every question it answers, beside a writer and on a file at rest."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_helpers import JOURNAL_ID, NOW_US, open_sqlite, row, rows, write_journal

from palyra.errors import JournalUnreadable
from palyra.journal.chain import genesis_link, row_link
from palyra.journal.migrations import released_migrations
from palyra.journal.port import Head, NameSize, Row
from palyra.journal.reader import JournalReader, unpacked


def mixed(count: int) -> list[Row]:
    """Return rows of three streams and two names."""
    streams = ("run-a", "run-b", "provider-openai")
    names = ("attempt.failed", "attempt.started")
    return [row(n, streams[n % 3], (n + 2) // 3, name=names[n % 2]) for n in range(1, count + 1)]


async def test_identity_and_head(tmp_path: Path) -> None:
    """Id, birth, schema and head are those of the writer."""
    path = tmp_path / "journal.db"
    await write_journal(path, [])
    with JournalReader(path) as reader:
        assert (reader.journal_id, reader.created_at_us) == (JOURNAL_ID, NOW_US)
        assert reader.schema == len(released_migrations())
        assert reader.head() == Head(0, genesis_link(JOURNAL_ID), NOW_US)
        assert list(reader.rows()) == []
        assert reader.sizes_by_name() == {}
        assert reader.position_at(NOW_US * 2) == 0
    journal = await open_sqlite(path)
    await journal.append(rows(1, 3))
    with JournalReader(path) as reader:
        assert reader.head() == journal.head
    await journal.close()


async def test_rows_by_position_and_name(tmp_path: Path) -> None:
    """Ranges and names select; batches come in order and none is empty."""
    made = mixed(2_500)
    with JournalReader(await write_journal(tmp_path / "journal.db", made)) as reader:
        batches = list(reader.rows())
        assert [len(batch) for batch in batches] == [1_000, 1_000, 500]
        assert [each for batch in batches for each in batch] == made
        assert [each for batch in reader.rows(3, 8) for each in batch] == made[3:8]
        failed = [each for batch in reader.rows(10, names={"attempt.failed"}) for each in batch]
        assert failed == [each for each in made[10:] if each.name == "attempt.failed"]
        assert list(reader.rows(names=["unknown"])) == []
        assert list(reader.rows(names=[])) == []


async def test_packed_rows_are_the_rows(tmp_path: Path) -> None:
    """What a fold is given says the same in fewer values, whatever seldom column a row has."""
    made = [
        row(1, "run-ü", causation=0),
        row(2, "run-ü", causation=0, schema=12),
        row(3, "run-ü", causation=2),
        row(4, "run-ü", causation=0, correlation='run-"a"'),
        row(5, "run-ü", causation=0, command_key="ü#1", schema=2),
    ]
    with JournalReader(await write_journal(tmp_path / "journal.db", made)) as reader:
        (packed,) = reader.packed_rows(0, 5)
        assert [unpacked(each) for each in packed] == made
        assert [(each[3], each[6]) for each in packed[:2]] == [
            ("attempt.failed", None),
            ("attempt.failed/12", None),
        ]


async def test_stored_rows_carry_the_chain(tmp_path: Path) -> None:
    """Stored rows are the bytes that the links cover, in the order of `Row`."""
    made = [row(1, "run-ü", causation=0), row(2, "run-ü", correlation="x", command_key="k")]
    with JournalReader(await write_journal(tmp_path / "journal.db", made)) as reader:
        (stored,) = reader.stored_rows()
        link = genesis_link(JOURNAL_ID)
        for each, original in zip(stored, made, strict=True):
            link = row_link(link, original)
            assert each.link == link == reader.link(each.position)
            assert (each.stream, each.command_key) == (original.stream.encode(), original.command_key.encode())
        assert reader.link(0) == genesis_link(JOURNAL_ID)
        assert reader.link(3) is None


async def test_rows_by_stream(tmp_path: Path) -> None:
    """A stream, or all that a GLOB pattern names, comes in order of position; the pattern is case-sensitive."""
    made = mixed(3_000)
    with JournalReader(await write_journal(tmp_path / "journal.db", made)) as reader:

        def found(*arguments: object) -> list[Row]:
            return [each for batch in reader.stream(*arguments) for each in batch]  # type: ignore[arg-type]

        assert found("run-b") == [each for each in made if each.stream == "run-b"]
        assert found("run-*") == [each for each in made if each.stream != "provider-openai"]
        assert found("run-?", 100, 200) == [each for each in made[100:200] if each.stream != "provider-openai"]
        assert found("RUN-*") == []
        plan = reader.query("EXPLAIN QUERY PLAN SELECT position FROM event WHERE stream GLOB 'run-*'")
        assert "SEARCH" in plan[0][3]
        assert reader.position_of(b"run-b", 1) == 1
        assert reader.position_of(b"run-b", 1_001) is None
        assert reader.row(7) == made[6]
        assert reader.row(3_001) is None


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(-2, 40))
@settings(max_examples=25)
def test_position_at_an_instant(steps_us: list[int], offset_us: int) -> None:
    """The answer is the last position at or before the instant, equal microseconds included."""
    import asyncio
    import tempfile

    instants, now = [], NOW_US
    for step_us in steps_us:
        now += step_us
        instants.append(now)
    made = [row(n, recorded_at_us=instant) for n, instant in enumerate(instants, 1)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"
        asyncio.run(write_journal(path, made))
        with JournalReader(path) as reader:
            expected = sum(instant <= NOW_US + offset_us for instant in instants)
            assert reader.position_at(NOW_US + offset_us) == expected


async def test_sizes_by_name(tmp_path: Path) -> None:
    """Counts and bytes of bodies, in bytes and not in characters."""
    made = [row(1, body=b"{}"), row(2, name="b", body='"é"'.encode()), row(3, name="a", body=b"[]")]
    made.append(row(4, name="b", body=b"[1]"))
    with JournalReader(await write_journal(tmp_path / "journal.db", made)) as reader:
        sizes = reader.sizes_by_name()
    assert list(sizes.items()) == [
        ("a", NameSize(1, 2)),
        ("attempt.failed", NameSize(1, 2)),
        ("b", NameSize(2, 7)),
    ]


async def test_reading_at_rest_makes_no_files(tmp_path: Path) -> None:
    """A cleanly closed journal is read without leaving -wal or -shm behind."""
    path = await write_journal(tmp_path / "journal.db", rows(1, 3))
    with JournalReader(path) as reader:
        assert len(next(reader.rows())) == 3
        assert os.listdir(tmp_path) == ["journal.db"]
    assert os.listdir(tmp_path) == ["journal.db"]


async def test_writer_that_starts_under_a_reader_is_noticed(tmp_path: Path) -> None:
    """A reader opened on a file at rest goes on correctly when a writer comes, writes, and leaves again."""
    path = await write_journal(tmp_path / "journal.db", rows(1, 3))
    with JournalReader(path) as reader:
        assert reader.head().position == 3
        journal = await open_sqlite(path)
        await journal.append(rows(4, 1_500))
        assert reader.head().position == 1_500
        await journal.close()
        assert [each for batch in reader.rows() for each in batch] == rows(1, 1_500)
        await write_to_end(path)
        assert reader.head().position == 1_501


async def write_to_end(path: Path) -> None:
    """Append one row in a writer that comes and goes."""
    journal = await open_sqlite(path)
    await journal.append([row(journal.head.position + 1)])
    await journal.close()


async def test_reader_cannot_write(tmp_path: Path) -> None:
    """The connection itself refuses."""
    with JournalReader(await write_journal(tmp_path / "journal.db", rows(1, 3))) as reader:
        with pytest.raises(JournalUnreadable, match="read-only"):
            reader.query("DELETE FROM event")


async def test_path_with_odd_characters(tmp_path: Path) -> None:
    """A `?`, `#` or `%` in a path is a character like any other."""
    folder = tmp_path / "a?b#c%20d"
    folder.mkdir()
    with JournalReader(await write_journal(folder / "journal.db", rows(1, 2))) as reader:
        assert reader.head().position == 2


def test_foreign_database_is_no_journal(tmp_path: Path) -> None:
    """Another program's SQLite file is refused in words, and so is a path with nothing there."""
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    with pytest.raises(JournalUnreadable, match="no such table"):
        JournalReader(path)
    with pytest.raises(JournalUnreadable, match="There is no journal at"):
        JournalReader(tmp_path / "missing.db")
