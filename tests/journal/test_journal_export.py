"""A journal as lines: what is imported is what was exported, to the byte and link, or it is refused by its line."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import tempfile
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_helpers import JOURNAL_ID, NOW_US, rows, tampering, write_journal

from palyra.errors import JournalDamaged, JournalUnwritable, PalyraError
from palyra.journal.build import RowRefused, copy_rows
from palyra.journal.export import LINE_MAX_BYTES, Export, export_rows, import_rows
from palyra.journal.port import Row
from palyra.journal.reader import JournalReader, StoredRow
from palyra.journal.verify import verify

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def journals(draw: st.DrawFn) -> list[Row]:
    """Return the rows of any journal: any streams, texts and bodies, instants in any order."""
    versions: dict[str, int] = {}
    made = []
    for position in range(1, draw(st.integers(0, 12)) + 1):
        stream = draw(st.sampled_from(["run-a", "daemon", "q\n\0é", ""]))
        versions[stream] = versions.get(stream, 0) + 1
        made.append(
            Row(
                position=position,
                stream=stream,
                version=versions[stream],
                name=draw(TEXTS),
                schema=draw(st.integers(1, 9)),
                recorded_at_us=draw(st.integers(0, 2**60)),
                actor=draw(TEXTS),
                correlation=draw(TEXTS),
                causation=draw(st.integers(0, position - 1)),
                command_key=draw(TEXTS),
                body=msgspec.json.encode(draw(st.dictionaries(TEXTS, JSON, max_size=3))),
            )
        )
    return made


def stored(path: Path) -> list[StoredRow]:
    """Return all rows of a journal file as bytes."""
    with JournalReader(path) as reader:
        return list(itertools.chain.from_iterable(reader.stored_rows()))


def exported(path: Path, **arguments: object) -> tuple[bytes, Export]:
    """Return the lines of a journal file, and what was said about them."""
    out = io.BytesIO()
    with JournalReader(path) as reader:
        done = export_rows(reader, out, **arguments)  # type: ignore[arg-type]
    return out.getvalue(), done


def refusal(text: bytes, path: Path) -> PalyraError:
    """Return the error of an import, of which nothing may be left."""
    with pytest.raises(PalyraError) as caught:
        import_rows(io.BytesIO(text), path, now_us=NOW_US)
    assert not path.exists()
    return caught.value


@settings(max_examples=20)
@given(journals())
def test_what_is_imported_is_what_was_exported(all_rows: list[Row]) -> None:
    """Rows, links, head and identity come back to the byte; a second export is the same file."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "a.db"), Path(folder, "b.db")
        asyncio.run(write_journal(source, all_rows))
        text, done = exported(source)
        head = import_rows(io.BytesIO(text), target, now_us=NOW_US)
        with JournalReader(source) as reader, JournalReader(target) as other:
            assert (other.journal_id, other.head().link) == (reader.journal_id, reader.head().link)
            assert head.link == other.head().link
        assert stored(target) == stored(source)
        assert exported(target) == (text, done)
        assert {finding.code for finding in verify(target).findings} - {"time_backwards"} == {"witness_missing"}


async def test_the_lines_are_what_the_format_says(tmp_path: Path) -> None:
    """A header, a line a row with its body as it is stored, and an end with count, link and SHA-256."""
    path = await write_journal(tmp_path / "journal.db", rows(1, 3))
    text, done = exported(path)
    lines = text.splitlines(keepends=True)
    first, *events, last = map(json.loads, lines)
    assert first == {
        "format": "palyra.journal",
        "version": 1,
        "journal_id": JOURNAL_ID,
        "first": 1,
        "last": 3,
        "previous_link": done.header.previous_link,
        "partial": False,
    }
    assert [event["position"] for event in events] == [1, 2, 3]
    assert b'"body":{"n":2}' in lines[2]
    assert last == {
        "count": 3,
        "head_link": events[-1]["link"],
        "sha256": sha256(b"".join(lines[:-1])).hexdigest(),
    }


async def test_a_part_says_so_and_cannot_be_imported(tmp_path: Path) -> None:
    """Events that are left out make an export partial; one that only ends earlier is whole up to there."""
    path = await write_journal(tmp_path / "journal.db", rows(1, 9))
    text, done = exported(path, takes=lambda row: row.position % 2 == 0)
    assert (done.header.partial, done.footer.count, done.header.last) == (True, 4, 9)
    assert refusal(text, tmp_path / "new.db").code == "import_partial"
    text, done = exported(path, first=4, last=6)
    assert (done.header.partial, done.footer.count) == (True, 3)
    with JournalReader(path) as reader:
        assert bytes.fromhex(done.header.previous_link) == reader.link(3)
    text, done = exported(path, last=6)
    assert not done.header.partial
    assert import_rows(io.BytesIO(text), tmp_path / "new.db", now_us=NOW_US).position == 6
    with pytest.raises(PalyraError, match="ends at position 9"):
        exported(path, first=10)


async def test_an_export_ends_where_the_head_was(tmp_path: Path) -> None:
    """Rows that are appended meanwhile are not in it, and memory is needed for one batch only."""
    path = tmp_path / "journal.db"
    await write_journal(path, rows(1, 2_500))
    seen: list[tuple[int, int]] = []
    text, done = exported(path, progress=lambda *figures: seen.append(figures))
    assert seen == [(1_000, 2_500), (2_000, 2_500), (2_500, 2_500)]
    assert (done.footer.count, text.count(b"\n")) == (2_500, 2_502)
    seen.clear()
    import_rows(
        io.BytesIO(text), tmp_path / "new.db", now_us=NOW_US, progress=lambda *figures: seen.append(figures)
    )
    assert seen[-1] == (2_500, 2_500)
    assert len(seen) > 2


async def test_one_changed_byte_anywhere_is_refused_by_its_line(tmp_path: Path) -> None:
    """Every byte of an export, changed to another one, is found, and the line it stands in is named."""
    made = [rows(1, 1)[0], rows(2, 2)[0]._replace(correlation="run-é", command_key="k", body=b'{"t":"\\u00e9"}')]
    path = await write_journal(tmp_path / "journal.db", made)
    text, _ = exported(path)
    line = 1
    for at, byte in enumerate(text):
        other = (byte ^ 0x01, byte ^ 0x20, 0x20 if byte != 0x20 else 0x0A)[at % 3]
        error = refusal(text[:at] + bytes([other]) + text[at + 1 :], tmp_path / "new.db")
        assert error.code == "import_damaged"
        assert str(error).startswith(f"Line {line} "), (at, bytes([byte]), bytes([other]), str(error))
        line += byte == 0x0A


async def test_a_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    """However much is missing at the end, nothing is made of it; nor of a file that goes on."""
    path = await write_journal(tmp_path / "journal.db", rows(1, 2))
    text, _ = exported(path)
    for length in [*range(0, len(text), 7), len(text) - 1]:
        assert refusal(text[:length], tmp_path / "new.db").code == "import_damaged"
    assert str(refusal(text + b"{}\n", tmp_path / "new.db")).startswith("Line 5 stands behind")
    assert refusal(b"x" * (LINE_MAX_BYTES + 10), tmp_path / "new.db").code == "import_damaged"


async def test_lines_that_are_missing_twice_or_exchanged_are_refused(tmp_path: Path) -> None:
    """Whole lines are as safe as bytes; the first one that does not fit is named."""
    path = await write_journal(tmp_path / "journal.db", rows(1, 4))
    lines = exported(path)[0].splitlines(keepends=True)
    for number, changed in {
        3: [*lines[:2], *lines[3:]],
        4: [*lines[:3], lines[2], *lines[3:]],
        2: [lines[0], lines[2], lines[1], *lines[3:]],
        5: [*lines[:4], *lines[5:]],
    }.items():
        error = refusal(b"".join(changed), tmp_path / "new.db")
        assert str(error).startswith(f"Line {number} "), str(error)


async def test_a_forged_export_is_still_checked_as_a_journal(tmp_path: Path) -> None:
    """Who computes every link and digest anew still cannot bring in rows that no journal has."""
    path = tmp_path / "journal.db"
    await write_journal(path, [rows(1, 1)[0], rows(2, 2)[0]._replace(version=7)])
    error = refusal(exported(path)[0], tmp_path / "new.db")
    assert str(error) == "Line 3 (position 2) fails its check (stream_version_gap)."


async def test_rows_that_are_no_lines_are_not_exported(tmp_path: Path) -> None:
    """Damage that would break the format is named by its position, and what is before it can be exported."""
    path = await write_journal(tmp_path / "journal.db", rows(1, 5))
    for body in ("'oops'", "'{\n}'", "CAST(x'7b22ff223a317d' AS TEXT)"):
        with tampering(path) as connection:
            connection.execute(f"UPDATE event SET body = {body} WHERE position = 4")
        with pytest.raises(JournalDamaged, match="Position 4 cannot be exported") as caught:
            exported(path)
        assert str(caught.value.hint).endswith("--to 3")
    assert exported(path, last=3)[1].footer.count == 3


async def test_a_copy_up_to_a_position(tmp_path: Path) -> None:
    """The same rows under the same identity, but never across damage, and never over a file that exists."""
    path = await write_journal(tmp_path / "journal.db", rows(1, 2_100))
    with JournalReader(path) as reader:
        head = copy_rows(reader, 1_234, tmp_path / "copy.db")
        assert (head.position, head.link) == (1_234, reader.link(1_234))
        assert stored(tmp_path / "copy.db") == stored(path)[:1_234]
        with pytest.raises(JournalUnwritable):
            copy_rows(reader, 5, tmp_path / "copy.db")
        with pytest.raises(RowRefused, match="Position 2101 is missing"):
            copy_rows(reader, 2_101, tmp_path / "other.db")
    with tampering(path) as connection:
        connection.execute("DELETE FROM event WHERE position = 700")
        connection.execute("UPDATE event SET body = '{}' WHERE position = 1500")
    with JournalReader(path) as reader:
        with pytest.raises(RowRefused, match="Position 700 is missing"):
            copy_rows(reader, 1_234, tmp_path / "other.db")
        assert copy_rows(reader, 699, tmp_path / "other.db").position == 699
    content = bytearray(path.read_bytes())
    page = content.rindex(b'{"n":450}') // 4_096
    content[page * 4_096 : page * 4_096 + 64] = b"\xff" * 64
    path.write_bytes(content)
    with JournalReader(path) as reader:
        with pytest.raises(RowRefused, match="Position 1 or one of the next cannot be read"):
            copy_rows(reader, 699, tmp_path / "again.db")
        assert copy_rows(reader, 300, tmp_path / "again.db").position == 300
