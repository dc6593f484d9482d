"""Chores: when they are due, what they leave, and that an idle engine comes to rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_fakes import T0_US, BrittleJournal, ManualClock, ScriptedProvider
from engine_world import World, one

from palyra.engine.codec import state_digest
from palyra.engine.core import load_state
from palyra.engine.upkeep import CheckpointChore, SnapshotChore, WitnessChore
from palyra.errors import JournalUnwritable
from palyra.journal.reader import JournalReader
from palyra.journal.sqlite import SqliteJournal
from palyra.journal.witness import check_witness, read_witness
from palyra.projections.state import encode_state

MINUTE_US = 60_000_000


async def make(path: Path, clock: ManualClock) -> World:
    journal = await SqliteJournal.open(path, new_journal_id="01TEST", now_us=clock.now_us())
    return await World.make(one(), journal=journal, extra={"a": ScriptedProvider()}, clock=clock)


async def test_snapshot_is_due_by_count_or_by_time(tmp_path: Path) -> None:
    """Never without news; with some after a while; with many at once; and what it keeps is used."""
    clock = ManualClock()
    world = await make(tmp_path / "journal.db", clock)
    chore = SnapshotChore(world.core, world.core.snapshot, every_count=15, every_ms=60_000)
    assert chore.due_at_us() is None
    await world.chat()
    assert chore.due_at_us() == T0_US + MINUTE_US
    await world.chat()
    await world.chat()
    assert chore.due_at_us() == T0_US
    clock.pass_ms(5_000)
    await chore.do()
    assert chore.due_at_us() is None
    kept = await world.core.journal.load_snapshot(state_digest())
    assert kept is not None
    assert (kept.position, kept.state) == (world.state.position, encode_state(world.state))
    await world.chat()
    assert chore.due_at_us() == T0_US + 5_000_000 + MINUTE_US
    assert encode_state(await load_state(world.core.journal)) == encode_state(world.state)
    await world.close()


async def test_snapshot_waits_for_what_it_holds() -> None:
    """A state whose last facts do not reach the disk is not kept."""
    journal = BrittleJournal(2)
    world = await World.make(one(), journal=journal, extra={"a": ScriptedProvider()})
    chore = SnapshotChore(world.core, world.core.snapshot, every_count=1, every_ms=1)
    world.runs.served(endpoint="models", principal_id="key:test", http_status=200)
    journal._make_due()
    with pytest.raises(JournalUnwritable):
        await chore.do()
    assert await journal.load_snapshot(state_digest()) is None
    await world.core.wait_until_rebuilt()
    await world.close()


async def test_witness_is_written_when_the_head_has_moved(tmp_path: Path) -> None:
    """The note and its copies name the head under the key; without news there is nothing to note."""
    clock, path, copy = ManualClock(), tmp_path / "journal.head", tmp_path / "elsewhere.head"
    world = await make(tmp_path / "journal.db", clock)
    chore = WitnessChore(world.core, path, key=b"k" * 32, every_ms=60_000, copies=[copy])
    assert chore.due_at_us() == MINUTE_US
    await chore.do()
    assert chore.due_at_us() is None
    assert path.read_bytes() == copy.read_bytes()
    witness = read_witness(path)
    assert witness is not None
    assert (witness.position, witness.at_us) == (world.core.journal.head.position, T0_US)
    await world.chat()
    assert chore.due_at_us() == T0_US + MINUTE_US
    await chore.do()
    await world.close()
    with JournalReader(tmp_path / "journal.db") as reader:
        assert check_witness(path, reader, b"k" * 32) == []


async def test_log_is_emptied_once_the_journal_is_quiet(tmp_path: Path) -> None:
    """A minute after the last event the write-ahead log is truncated, once."""
    clock = ManualClock()
    world = await make(tmp_path / "journal.db", clock)
    journal = world.core.journal
    assert isinstance(journal, SqliteJournal)
    chore = CheckpointChore(world.core, journal)
    assert chore.due_at_us() is None
    await world.chat()
    assert chore.due_at_us() == T0_US + MINUTE_US
    log = tmp_path / "journal.db-wal"
    assert log.stat().st_size > 0
    await chore.do()
    assert log.stat().st_size == 0
    assert chore.due_at_us() is None
    await world.close()
