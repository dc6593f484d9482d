"""`verify` finds each kind of edit, names it and its place, and goes on to the next one."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from journal_helpers import NOW_US, open_sqlite, row, rows, tampering, write_journal

from palyra.errors import JournalDamaged, JournalUnreadable
from palyra.journal import verify as verify_module
from palyra.journal.chain import row_link
from palyra.journal.migrations import Migration, released_migrations
from palyra.journal.reader import JournalReader
from palyra.journal.verify import verify
from palyra.journal.witness import WITNESS_FILE, make_witness, write_witness

KEY = b"k" * 32


async def witnessed(path: Path, count: int = 12) -> Path:
    """Make a journal of two interleaved streams and note its head."""
    made = [row(n, f"run-{n % 2}", (n + 1) // 2) for n in range(1, count + 1)]
    await write_journal(path, made)
    with JournalReader(path) as reader:
        write_witness(path.with_name(WITNESS_FILE), make_witness(reader.journal_id, reader.head(), NOW_US, KEY))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Return what a folder's files hold."""
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def codes(path: Path, **arguments: Any) -> list[tuple[str, int | None]]:
    """Return code and position of all findings."""
    return [(each.code, each.position) for each in verify(path, witness_key=KEY, **arguments).findings]


async def test_sound_journal_has_no_finding(tmp_path: Path) -> None:
    """Every row is counted, progress reaches the head, nothing is found and nothing is written."""
    path = await witnessed(tmp_path / "journal.db", 2_500)
    before = contents(tmp_path)
    seen: list[tuple[int, int]] = []
    report = verify(path, witness_key=KEY, progress=lambda position, end: seen.append((position, end)))
    assert report.findings == []
    assert report.is_sound
    assert (report.rows_count, report.head.position, report.schema) == (2_500, 2_500, len(released_migrations()))
    assert seen == [(1_000, 2_500), (2_000, 2_500), (2_500, 2_500)]
    assert contents(tmp_path) == before


EDITS: dict[str, tuple[str, list[tuple[str, int | None]]]] = {
    "byte in a body": ("UPDATE event SET body = '{\"n\":9}' WHERE position = 4", [("link_mismatch", 4)]),
    "header field": ("UPDATE event SET actor = 'key:other' WHERE position = 4", [("link_mismatch", 4)]),
    "empty field filled": ("UPDATE event SET command_key = 'k' WHERE position = 4", [("link_mismatch", 4)]),
    "cause": ("UPDATE event SET causation = NULL WHERE position = 4", [("link_mismatch", 4)]),
    "link": (
        "UPDATE event SET link = zeroblob(32) WHERE position = 4",
        [("link_mismatch", 4), ("link_mismatch", 5)],
    ),
    "instant": (
        "UPDATE event SET recorded_at_us = 5 WHERE position = 4",
        [("link_mismatch", 4), ("time_backwards", 4)],
    ),
    "two edits": (
        "UPDATE event SET body = '{}' WHERE position IN (3, 9)",
        [("link_mismatch", 3), ("link_mismatch", 9)],
    ),
    "row deleted": (
        "DELETE FROM event WHERE position = 4",
        [("position_gap", 4), ("stream_version_gap", 6)],
    ),
    "first row deleted": (
        "DELETE FROM event WHERE position = 1",
        [("position_gap", 1), ("stream_version_gap", 3)],
    ),
    "row appended by hand": (
        "INSERT INTO event SELECT 13, stream, 99, name, schema, recorded_at_us, actor, correlation, causation,"
        " command_key, body, link FROM event WHERE position = 12",
        [("link_mismatch", 13), ("stream_version_gap", 13)],
    ),
    "rows exchanged": (
        "UPDATE event SET position = -3 WHERE position = 3; UPDATE event SET position = 3 WHERE position = 5;"
        "UPDATE event SET position = 5 WHERE position = -3",
        [
            ("link_mismatch", 3),
            ("stream_version_gap", 3),
            ("time_backwards", 4),
            ("link_mismatch", 4),
            ("link_mismatch", 5),
            ("stream_version_gap", 5),
            ("time_backwards", 5),
            ("link_mismatch", 6),
            ("stream_version_gap", 7),
        ],
    ),
    "identity": ("UPDATE journal SET journal_id = 'other'", [("link_mismatch", 1), ("witness_mismatch", None)]),
    "tail cut": ("DELETE FROM event WHERE position > 9", [("tail_cut", 9)]),
}


@pytest.mark.parametrize("edit", EDITS)
async def test_edit_is_found(tmp_path: Path, edit: str) -> None:
    """Each edit gives its findings at their positions, and no other."""
    sql, expected = EDITS[edit]
    path = await witnessed(tmp_path / "journal.db")
    with tampering(path) as connection:
        connection.executescript(sql)
    assert sorted(codes(path), key=str) == sorted(expected, key=str)
    report = verify(path, witness_key=KEY)
    assert not report.is_sound
    assert all(each.meaning and each.next_step for each in report.findings)


async def test_complete_rewrite_is_found_by_the_witness(tmp_path: Path) -> None:
    """A chain that was computed anew is consistent in itself; only the note of the head tells."""
    path = await witnessed(tmp_path / "journal.db")
    with JournalReader(path) as reader:
        link = reader.link(3)
        later = [each for batch in reader.rows(3) for each in batch]
    assert link is not None
    with tampering(path) as connection:
        for each in later:
            changed = each._replace(body=b'{"n":"rewritten"}')
            link = row_link(link, changed)
            connection.execute(
                "UPDATE event SET body = ?, link = ? WHERE position = ?",
                (changed.body.decode(), link, each.position),
            )
    assert codes(path) == [("witness_mismatch", 12)]


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TRIGGER event_is_never_deleted",
        "DROP INDEX event_stream_version",
        "CREATE TABLE stranger (a)",
        "CREATE TRIGGER mine AFTER INSERT ON event BEGIN SELECT 1; END",
    ],
)
async def test_altered_schema_is_found(tmp_path: Path, sql: str) -> None:
    """A guard or index that is gone, or an object that nobody migrated, is named."""
    path = await witnessed(tmp_path / "journal.db")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(sql)
    found = verify(path, witness_key=KEY).findings
    assert [each.code for each in found] == ["schema_altered"]
    assert sql.split()[2] in found[0].expected + found[0].found


async def test_schema_of_a_newer_journal_is_not_judged(tmp_path: Path) -> None:
    """A journal of a newer release is verified row by row; its tables are taken as they are."""
    newer = (
        *released_migrations(),
        Migration(2, "0002_more.sql", "CREATE TABLE more (a) STRICT;".replace("(a)", "(a ANY)")),
    )
    path = tmp_path / "journal.db"
    journal = await open_sqlite(path, migrations=newer)
    await journal.append(rows(1, 3))
    await journal.close()
    assert [each.code for each in verify(path).findings] == ["witness_missing"]
    assert verify(path, migrations=newer).rows_count == 3


@pytest.mark.parametrize("bounds", [(0, 5), (5, 12), (6, 9), (12, 12)])
async def test_range(tmp_path: Path, bounds: tuple[int, int]) -> None:
    """A part of a sound journal is sound, whichever streams began before it; damage outside is not seen."""
    path = await witnessed(tmp_path / "journal.db")
    after, upto = bounds
    report = verify(path, after=after, upto=upto, witness_key=KEY, is_structure_checked=False)
    assert report.findings == []
    assert report.rows_count == upto - after
    with tampering(path) as connection:
        connection.execute("UPDATE event SET body = '{}' WHERE position = 6")
    expected = [("link_mismatch", 6)] if after < 6 <= upto else []
    assert codes(path, after=after, upto=upto) == expected


async def test_versions_are_checked_with_few_streams_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams that are not held are looked up, so that memory stays bounded and no gap is missed."""
    monkeypatch.setattr(verify_module, "_STREAMS_HELD_COUNT", 2)
    made = [row(n, f"run-{n % 5}", (n + 4) // 5) for n in range(1, 51)]
    path = await write_journal(tmp_path / "journal.db", made)
    assert codes(path) == [("witness_missing", None)]
    with tampering(path) as connection:
        connection.execute("UPDATE event SET version = 77 WHERE position = 30")
    assert ("stream_version_gap", 30) in codes(path)


async def test_findings_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that is damaged everywhere names the first findings and counts the rest."""
    monkeypatch.setattr(verify_module, "FINDINGS_MAX_COUNT", 3)
    path = await witnessed(tmp_path / "journal.db")
    with tampering(path) as connection:
        connection.execute("UPDATE event SET body = '{}'")
    report = verify(path, witness_key=KEY)
    assert [each.position for each in report.findings] == [1, 2, 3]
    assert report.omitted_count == 9
    assert not report.is_sound


def flip_in_file(path: Path, needle: bytes) -> None:
    """Change one byte of the file where these bytes stand."""
    content = bytearray(path.read_bytes())
    at = content.rindex(needle)
    content[at] ^= 0x01
    path.write_bytes(content)


async def test_flipped_byte_in_the_file_is_found(tmp_path: Path) -> None:
    """A byte of a stored body, changed behind SQLite's back, breaks that row's link."""
    path = await witnessed(tmp_path / "journal.db")
    flip_in_file(path, b'{"n":7}')
    assert codes(path) == [("link_mismatch", 7)]


async def test_text_that_is_no_text_is_found(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 any more are a wrong link, not a crash of the check."""
    path = await witnessed(tmp_path / "journal.db")
    with tampering(path) as connection:
        connection.execute("UPDATE event SET stream = CAST(x'ff41' AS TEXT) WHERE position = 7")
    assert codes(path)[0] == ("link_mismatch", 7)
    with JournalReader(path) as reader, pytest.raises(JournalDamaged):
        list(reader.rows())


async def test_value_of_another_type_is_found(tmp_path: Path) -> None:
    """A NULL that the table's rules forbid is a wrong link."""
    path = await witnessed(tmp_path / "journal.db")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        was = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'event'").fetchone()[0]
        sql = "UPDATE sqlite_schema SET sql = ? WHERE name = 'event'"
        connection.execute(sql, (was.replace("actor           TEXT    NOT NULL", "actor           TEXT"),))
        connection.execute("PRAGMA writable_schema = RESET")
        connection.execute("DROP TRIGGER event_is_never_changed")
        connection.execute("UPDATE event SET actor = NULL WHERE position = 7")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(sql, (was,))
    assert ("link_mismatch", 7) in codes(path)


async def test_damaged_page_is_found(tmp_path: Path) -> None:
    """A page that SQLite cannot read is a finding about the structure, and names where reading stopped."""
    path = await witnessed(tmp_path / "journal.db", 3_000)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'event'").fetchone()[0]
    content = bytearray(path.read_bytes())
    page = content.rindex(b'{"n":1500}') // 4_096
    assert page + 1 != root
    content[page * 4_096 : page * 4_096 + 64] = b"\xff" * 64
    path.write_bytes(content)
    found = [each for each in verify(path, witness_key=KEY).findings if each.code == "structure"]
    assert len(found) >= 2
    assert found[-1].position is not None


@pytest.mark.parametrize("content", [None, b"", b"no database at all" * 500])
def test_file_that_is_no_journal_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """A missing, empty or foreign file raises; there is nothing to report on."""
    path = tmp_path / "journal.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((JournalUnreadable, JournalDamaged)):
        verify(path)


async def test_verify_beside_a_live_writer(tmp_path: Path) -> None:
    """The rows up to the head at the beginning are checked while more are appended."""
    path = tmp_path / "journal.db"
    journal = await open_sqlite(path)
    await journal.append(rows(1, 2_000))
    write_witness(tmp_path / WITNESS_FILE, make_witness(journal.journal_id, journal.head, NOW_US, KEY))
    appended: list[Any] = []
    progress: Callable[[int, int], None] = lambda position, _: appended.append(  # noqa: E731
        journal.append([row(journal.head.position + 1 + len(appended))])
    )
    report = verify(path, witness_key=KEY, progress=progress)
    assert report.findings == []
    assert report.rows_count == 2_000
    assert len(appended) == 2
    await journal.close()
