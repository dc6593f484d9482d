"""Answers from a journal file alone, and the proof that folds agree, shown also by one that does not."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from engine_fakes import ScriptedProvider, cut, error, stream
from engine_world import Taker, World, fold, two

from palyra.engine import replay
from palyra.engine.codec import state_digest
from palyra.engine.core import load_state
from palyra.engine.replay import LiveChapter, fold_file, run_history, run_view, verify_replay
from palyra.errors import JournalNewer
from palyra.journal.port import Row, Snapshot
from palyra.journal.reader import JournalReader
from palyra.journal.snapshots import SNAPSHOTS_FILE, SnapshotFile
from palyra.journal.sqlite import SqliteJournal
from palyra.projections.state import State, digest_in, encode_state


async def open_journal(path: Path) -> SqliteJournal:
    return await SqliteJournal.open(path, new_journal_id="01TEST", now_us=1)


async def write(path: Path, *, snapshots: bool = True) -> World:
    """Write some runs, with a snapshot after every other one; return the world, closed."""
    fake = ScriptedProvider(
        error(500), error(400), stream("One ", "two", ending=(cut(),)), stream("Three", ending=(cut(),))
    )
    world = await World.make(
        two(max_retries=1), journal=await open_journal(path), extra={"a": fake, "b": ScriptedProvider()}
    )
    for number in range(8):
        is_stream = number % 2 == 0
        await world.chat(**({"stream": True, "client": Taker()} if is_stream else {}))
        if snapshots and number in (1, 3, 5):
            await world.core.snapshot()
    await world.chat(model="unknown")
    world.audit()
    await world.close()
    return world


async def test_file_alone_tells_the_same_state(tmp_path: Path) -> None:
    """Live state, fold from the first event, and snapshot with tail are the same bytes."""
    path = tmp_path / "journal.db"
    world = await write(path)
    live = encode_state(world.state)
    assert encode_state(fold_file(path).state) == live
    assert encode_state(fold_file(path, use_snapshots=False).state) == live
    folded = fold_file(path)
    assert (folded.head.position, folded.journal_id) == (world.state.position, "01TEST")
    journal = await open_journal(path)
    assert encode_state(await load_state(journal)) == live
    await journal.close()


async def test_state_at_any_position(tmp_path: Path) -> None:
    """The state after each event is the fold of the events up to it, whichever snapshot it starts from."""
    path = tmp_path / "journal.db"
    world = await write(path)
    rows = world.rows()
    for position in range(0, len(rows) + 1, 5):
        folded = fold_file(path, upto=position)
        assert encode_state(folded.state) == encode_state(fold(rows[:position]))
        assert folded.head.position == len(rows)
    assert fold_file(path, upto=10**9).state.position == len(rows)


async def test_run_is_told_by_its_own_stream(tmp_path: Path) -> None:
    """A run's view has its attempts, what they used, and its end."""
    path = tmp_path / "journal.db"
    world = await write(path)
    run_id = next(row.stream[4:] for row in world.rows() if row.name == "run.completed")
    history = run_history(path, run_id)
    assert [one.version for one in history] == list(range(1, len(history) + 1))
    view = run_view(path, run_id)
    assert view is not None
    assert (view.state, view.usage.output_tokens) == ("completed", 5)
    assert view.attempts[-1].succeeded is not None
    assert view.attempts[-1].usage is not None
    assert run_view(path, "unknown") is None


async def test_replay_is_verified(tmp_path: Path) -> None:
    """A journal whose snapshots are true replays without a divergence."""
    path = tmp_path / "journal.db"
    world = await write(path)
    report = verify_replay(path)
    assert (report.events_count, report.snapshots_count, report.divergence) == (world.state.position, 3, None)
    SnapshotFile(path.with_name(SNAPSHOTS_FILE)).delete()
    assert verify_replay(path) == (world.state.position, 0, None, 0)


async def test_what_a_daemon_holds_is_compared(tmp_path: Path) -> None:
    """Each chapter at its own position, by its digest; the one that differs is named."""
    path = tmp_path / "journal.db"
    world = await write(path)
    held = [LiveChapter(world.state.position, each, digest_in(world.state, each)) for each in ("runs", "usage")]
    early = LiveChapter(3, "usage", digest_in(fold_file(path, upto=3).state, "usage"))
    assert verify_replay(path, live=[early, *held]).divergence is None
    world.state.runs.refusals["invented"] = 1
    wrong = LiveChapter(world.state.position, "runs", digest_in(world.state, "runs"))
    report = verify_replay(path, live=[early, wrong])
    assert (report.live_count, report.divergence) == (2, (world.state.position, ["runs"]))


async def test_planted_snapshot_is_found(tmp_path: Path) -> None:
    """A stored state that its log does not give is named with its position and the chapter that differs."""
    path = tmp_path / "journal.db"
    world = await write(path, snapshots=False)
    position = 20
    false = fold(world.rows()[:position])
    false.budgets.overshoot_tokens += 1
    _plant(path, position, false)
    report = verify_replay(path)
    assert report.divergence == (position, ["budgets"])
    assert report.events_count == position


async def test_fold_that_resumes_otherwise_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that reads back as another one is found at the first event that shows it."""
    path = tmp_path / "journal.db"
    world = await write(path, snapshots=False)
    rows = world.rows()
    position = next(row.position for row in rows if row.name == "attempt.started")
    _plant(path, position, fold(rows[:position]))
    decode = replay.decode_state

    def lossy(data: bytes) -> State:
        state = decode(data)
        state.runs.open.clear()
        return state

    monkeypatch.setattr(replay, "decode_state", lossy)
    report = verify_replay(path)
    assert report.divergence is not None
    assert report.divergence.position == position + 1
    assert "runs" in report.divergence.chapters


def _plant(path: Path, position: int, state: State) -> None:
    with JournalReader(path) as reader:
        link = reader.link(position)
    assert link is not None
    SnapshotFile(path.with_name(SNAPSHOTS_FILE)).save(Snapshot(position, link, state_digest(), encode_state(state)))


async def test_snapshot_of_other_code_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was folded by other code is folded again."""
    path = tmp_path / "journal.db"
    world = await write(path)
    monkeypatch.setattr("palyra.engine.replay.state_digest", lambda: "other")
    assert encode_state(fold_file(path).state) == encode_state(world.state)
    assert verify_replay(path).snapshots_count == 0


async def test_progress_is_told(tmp_path: Path) -> None:
    """Whoever waits for a long fold is told how far it is, every ten thousand events."""
    path = tmp_path / "journal.db"
    journal = await open_journal(path)
    rows = [_served(position) for position in range(1, 20_001)]
    for first in range(0, len(rows), 2_500):
        await journal.append(rows[first : first + 2_500])
    await journal.close()
    told: list[tuple[int, int]] = []
    fold_file(path, progress=lambda done, of: told.append((done, of)))
    verify_replay(path, progress=lambda done, of: told.append((done, of)))
    assert told == [(10_000, 20_000), (20_000, 20_000)] * 2


def _served(position: int, **changes: Any) -> Row:
    values: dict[str, Any] = {
        "position": position,
        "stream": "requests",
        "version": position,
        "name": "request.served",
        "schema": 1,
        "recorded_at_us": 1,
        "actor": "key:test",
        "correlation": "",
        "causation": 0,
        "command_key": "",
        "body": b'{"endpoint":"models","principal_id":"key:test","http_status":200}',
    }
    return Row(**{**values, **changes})


async def test_event_of_a_newer_release_is_neither_folded_nor_written_past(tmp_path: Path) -> None:
    """Its run can be listed, but no state is made of a log that is only partly understood."""
    path = tmp_path / "journal.db"
    journal = await open_journal(path)
    unknown = _served(2, stream="run-x", version=1, name="run.teleported", body=b'{"to":1}')
    await journal.append([_served(1), unknown])
    with pytest.raises(JournalNewer, match=r"position 2 holds 'run\.teleported'"):
        await load_state(journal)
    await journal.close()
    with pytest.raises(JournalNewer):
        fold_file(path)
    assert len(run_history(path, "x")) == 1


async def test_reading_changes_nothing(tmp_path: Path) -> None:
    """All of it works on a file that cannot be written, and leaves its bytes alone."""
    path = tmp_path / "journal.db"
    await write(path, snapshots=False)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    before = path.read_bytes()
    verify_replay(path)
    fold_file(path)
    assert path.read_bytes() == before
