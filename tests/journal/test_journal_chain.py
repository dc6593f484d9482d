"""The chain's layout is frozen, covers every field, and any prefix of a journal is a journal."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from journal_helpers import JOURNAL_ID, open_sqlite, row, rows, tampering, write_journal

from palyra.journal.chain import genesis_link, row_link
from palyra.journal.port import Row
from palyra.journal.reader import JournalReader
from palyra.journal.verify import verify

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ROW = st.builds(
    Row,
    position=st.integers(1, 1 << 62),
    stream=TEXT,
    version=st.integers(1, 1 << 62),
    name=TEXT,
    schema=st.integers(0, 1 << 31),
    recorded_at_us=st.integers(-(1 << 62), 1 << 62),
    actor=TEXT,
    correlation=TEXT,
    causation=st.integers(0, 1 << 62),
    command_key=TEXT,
    body=TEXT.map(str.encode),
)


def test_golden_links() -> None:
    """Links of stored journals never change; if this fails, the layout did."""
    genesis = genesis_link("01JGOLDEN")
    assert genesis.hex() == "f40e2ae0b95e769408e332deb923c3d5385feb8f053a952e3d6c278774b8d3c3"
    plain = Row(1, "daemon", 1, "daemon.started", 1, 1_795_000_000_000_000, "system:daemon", "", 0, "", b"{}")
    first = row_link(genesis, plain)
    assert first.hex() == "5937c22869502d1bac865ee0888f996d1c08d961c6fe261aaedf6c8f900f51fb"
    full = Row(2, "run-ü", 7, "run.admitted", 3, -1, "key:☃", "run-x", 1, "k-1", '{"text":"é"}'.encode())
    assert row_link(first, full).hex() == "af6e74d08f91a4e8c7cd93d078b08cce45547be2f5476ffc37de2135fe8c4b2c"


@given(ROW, ROW)
@settings(max_examples=200)
def test_different_rows_have_different_links(one: Row, other: Row) -> None:
    """No two rows share their bytes, however their texts are cut."""
    previous = genesis_link("x")
    assert (row_link(previous, one) == row_link(previous, other)) == (one == other)


@given(ROW, TEXT, st.integers(1, 5))
def test_text_that_moves_to_the_next_field_changes_the_link(one: Row, text: str, count: int) -> None:
    """Moving characters between neighbouring fields is seen, because lengths are covered."""
    moved = text + "x" * count
    left = one._replace(actor=one.actor + moved, correlation="")
    right = one._replace(actor=one.actor, correlation=moved)
    assert row_link(b"", left) != row_link(b"", right)


@given(st.lists(ROW, max_size=12), st.integers(0, 12))
@settings(max_examples=25)
def test_any_prefix_is_a_valid_journal(made: list[Row], length: int) -> None:
    """Rows of any content read back equal and verify; so does every prefix, as without a witness it must."""
    stored = [each._replace(position=n, version=n, stream="s", recorded_at_us=n) for n, each in enumerate(made, 1)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"
        asyncio.run(write_journal(path, stored))
        with tampering(path) as connection:
            connection.execute("DELETE FROM event WHERE position > ?", (length,))
        with JournalReader(path) as reader:
            assert [each for batch in reader.rows() for each in batch] == stored[:length]
        report = verify(path)
        assert [each.code for each in report.findings] == ["witness_missing"]
        assert report.rows_count == min(length, len(stored))


async def test_links_are_the_same_however_rows_were_grouped(tmp_path: Path) -> None:
    """Commits leave no trace: one call of ten and ten calls of one end in one link."""
    journal = await open_sqlite(tmp_path / "single.db")
    for position in range(1, 11):
        await journal.append([row(position)])
    await journal.close()
    path = await write_journal(tmp_path / "grouped.db", rows(1, 10))
    with JournalReader(path) as reader:
        assert reader.head() == journal.head
        assert reader.journal_id == JOURNAL_ID
