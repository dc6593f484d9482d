"""The note of the head: what it vouches for, and every way in which it does not."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest
from journal_helpers import NOW_US, rows, tampering, write_journal

from palyra.journal.port import Head
from palyra.journal.reader import JournalReader
from palyra.journal.witness import (
    WITNESS_FILE,
    Witness,
    check_witness,
    make_witness,
    read_witness,
    write_witness,
)

KEY = b"k" * 32


async def journal_and_note(folder: Path, key: bytes | None, *, count: int = 5) -> tuple[JournalReader, Path]:
    """Make a journal and the note of its head."""
    reader = JournalReader(await write_journal(folder / "journal.db", rows(1, count)))
    note = folder / WITNESS_FILE
    write_witness(note, make_witness(reader.journal_id, reader.head(), NOW_US, key))
    return reader, note


def codes(note: Path, reader: JournalReader, key: bytes | None) -> list[str]:
    """Return the codes that a check gives."""
    return [each.code for each in check_witness(note, reader, key)]


async def test_note_vouches_for_its_journal(tmp_path: Path) -> None:
    """Under the right key there is no finding, also when the journal has grown since."""
    reader, note = await journal_and_note(tmp_path, KEY)
    with reader:
        assert codes(note, reader, KEY) == []
        older = Head(3, reader.link(3) or b"", NOW_US)
        write_witness(note, make_witness(reader.journal_id, older, NOW_US, KEY))
        assert codes(note, reader, KEY) == []


async def test_note_of_an_empty_journal(tmp_path: Path) -> None:
    """Position 0 is witnessed by the genesis link."""
    reader, note = await journal_and_note(tmp_path, KEY, count=0)
    with reader:
        assert codes(note, reader, KEY) == []


def test_note_is_pinned(tmp_path: Path) -> None:
    """Form and HMAC of a note never change; copies of it lie elsewhere."""
    note = tmp_path / WITNESS_FILE
    write_witness(note, make_witness("01JGOLDEN", Head(7, b"\x01" * 32, 0), 1_795_000_000_000_000, KEY))
    assert note.read_text() == (
        '{"journal_id":"01JGOLDEN","position":7,"link":"' + "01" * 32 + '","at_us":1795000000000000,'
        '"mac":"17990d056b987f533361b387a2d8d659bb7e55b48e532c475e460cbfd6bec425"}\n'
    )


def test_note_is_replaced_whole_and_private(tmp_path: Path) -> None:
    """The file is 0600, nothing is left beside it, and a failed write leaves the old note."""
    note = tmp_path / WITNESS_FILE
    first, second = (make_witness("a", Head(n, b"", 0), 0, KEY) for n in (1, 2))
    umask = os.umask(0)
    try:
        write_witness(note, first)
        write_witness(note, second)
    finally:
        os.umask(umask)
    assert read_witness(note) == second
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == [WITNESS_FILE]
    folder = tmp_path / "is-a-directory"
    folder.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_witness(folder, second)
    assert sorted(os.listdir(tmp_path)) == ["is-a-directory", WITNESS_FILE]


async def test_missing_note(tmp_path: Path) -> None:
    """No note is a finding, and reading it gives nothing."""
    reader, note = await journal_and_note(tmp_path, KEY)
    note.unlink()
    with reader:
        assert read_witness(note) is None
        assert codes(note, reader, KEY) == ["witness_missing"]


async def test_cut_tail(tmp_path: Path) -> None:
    """A head behind the note is a cut tail, at the head that is left."""
    reader, note = await journal_and_note(tmp_path, KEY)
    with tampering(reader.path) as connection:
        connection.execute("DELETE FROM event WHERE position > 3")
    with reader:
        (found,) = check_witness(note, reader, KEY)
        assert (found.code, found.position, found.expected, found.found) == ("tail_cut", 3, "5", "3")


@pytest.mark.parametrize("field", ["position", "link", "at_us", "journal_id", "mac"])
async def test_forged_note(tmp_path: Path, field: str) -> None:
    """A note that was changed in any field is none of ours."""
    reader, note = await journal_and_note(tmp_path, KEY)
    forged = {"position": 4, "link": "00" * 32, "at_us": 1, "journal_id": "other", "mac": "00" * 32}[field]
    witness = read_witness(note)
    assert witness is not None
    write_witness(note, msgspec.structs.replace(witness, **{field: forged}))
    with reader:
        assert codes(note, reader, KEY) == ["witness_mismatch"]


@pytest.mark.parametrize("text", [b"", b"not json", b"{}", b'{"position":"x"}', b"\xff"])
async def test_note_that_is_no_note(tmp_path: Path, text: bytes) -> None:
    """A damaged note is a mismatch, not an accident."""
    reader, note = await journal_and_note(tmp_path, KEY)
    note.write_bytes(text)
    with reader:
        assert codes(note, reader, KEY) == ["witness_mismatch"]


async def test_note_without_an_hmac_is_a_forgery_where_there_is_a_key(tmp_path: Path) -> None:
    """Whoever takes the HMAC off a note, or writes one without the key, is found out."""
    reader, note = await journal_and_note(tmp_path, None)
    with reader:
        (found,) = check_witness(note, reader, KEY)
        assert (found.code, found.found) == ("witness_mismatch", "no HMAC")


async def test_a_key_that_is_put_back_vouches_for_what_it_signed(tmp_path: Path) -> None:
    """What was noted while it was away holds by its links; a row before that which was changed is found."""
    reader, note = await journal_and_note(tmp_path, KEY, count=3)
    reader.close()
    (tmp_path / "more").mkdir()
    with JournalReader(await write_journal(tmp_path / "more" / "journal.db", rows(1, 5))) as grown:
        write_witness(note, make_witness(grown.journal_id, Head(3, grown.link(3) or b"", NOW_US), NOW_US, KEY))
        for _ in range(2):  # one note without a key after another carries the same signed one
            write_witness(note, make_witness(grown.journal_id, grown.head(), NOW_US, None))
        assert codes(note, grown, KEY) == ["witness_unkeyed"]
        witness = read_witness(note)
        assert witness is not None
        assert witness.signed is not None
        forged = msgspec.structs.replace(witness.signed, link="00" * 32)
        write_witness(note, msgspec.structs.replace(witness, signed=forged))
        note.write_bytes(msgspec.json.encode(msgspec.structs.replace(witness, signed=forged)))
        assert codes(note, grown, KEY) == ["witness_mismatch"]
        note.write_bytes(msgspec.json.encode(msgspec.structs.replace(witness, link="00" * 32)))
        assert codes(note, grown, KEY) == ["witness_unkeyed", "witness_mismatch"]
        other = make_witness("another journal", grown.head(), NOW_US, None)
        write_witness(note, other)
        assert read_witness(note) == other
        assert codes(note, grown, KEY) == ["witness_mismatch"]


@pytest.mark.parametrize("written", [None, KEY])
async def test_without_a_key_the_links_are_compared(tmp_path: Path, written: bytes | None) -> None:
    """A lost key costs the HMAC and not the log: `witness_unkeyed`, and damage is found all the same."""
    reader, note = await journal_and_note(tmp_path, written)
    with reader:
        (found,) = check_witness(note, reader, None)
        assert (found.code, found.severity) == ("witness_unkeyed", "info")
        witness = read_witness(note)
        assert isinstance(witness, Witness)
        write_witness(note, msgspec.structs.replace(witness, link="00" * 32))
        assert codes(note, reader, None) == ["witness_unkeyed", "witness_mismatch"]
