"""Snapshots made by a process of its own: the same bytes as the live state, and no trouble for whoever waits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest
import pytest_asyncio
from engine_fakes import ManualClock, ScriptedProvider
from engine_world import World, one

from palyra.engine.codec import state_digest
from palyra.engine.core import _FROM_OUTSIDE, load_state
from palyra.engine.replay import fold_file, verify_replay
from palyra.engine.snapshotting import keep_snapshot, keep_snapshot_aside, main
from palyra.engine.upkeep import SnapshotChore
from palyra.errors import JournalUnwritable
from palyra.events.base import Draft
from palyra.events.config import ConfigAdopted
from palyra.events.vocabulary import VOCABULARY
from palyra.journal.snapshots import SNAPSHOTS_FILE
from palyra.journal.sqlite import SqliteJournal
from palyra.projections.state import encode_state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest_asyncio.fixture
async def world(path: Path) -> AsyncIterator[World]:
    journal = await SqliteJournal.open(path, new_journal_id="01TEST", now_us=1)
    world = await World.make(one(), journal=journal, extra={"a": ScriptedProvider()}, clock=ManualClock())
    yield world
    await world.close()


async def kept_state(world: World) -> bytes:
    kept = await world.core.journal.load_snapshot(state_digest())
    assert kept is not None
    assert kept.position == world.state.position
    return kept.state


async def test_it_keeps_what_the_live_fold_holds(world: World, path: Path) -> None:
    """A process that folds on from the snapshot before it writes the very bytes of the live state."""
    for _ in range(3):
        await world.chat()
        await world.core.durable()
        assert await keep_snapshot_aside(path) == world.state.position
        assert await kept_state(world) == encode_state(world.state)
        assert encode_state(await load_state(world.core.journal)) == encode_state(world.state)
    report = verify_replay(path)
    assert (report.snapshots_count, report.divergence) == (3, None)


async def test_it_goes_on_from_the_newest_snapshot(world: World, path: Path) -> None:
    """What is older is not folded again: a state that was planted there is in what is kept next."""
    await world.chat()
    planted = await load_state(world.core.journal)
    planted.runs.refusals["planted"] = 7
    await world.core.durable()
    await world.core.journal.save_snapshot(planted.position, state_digest(), encode_state(planted))
    await world.chat()
    await world.core.durable()
    assert keep_snapshot(path) == world.state.position
    assert (await load_state(world.core.journal)).runs.refusals["planted"] == 7


async def test_a_refusal_is_told_in_its_own_words(
    world: World, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the snapshots cannot be written the daemon learns why, and goes on without them."""
    await world.chat()
    await world.core.durable()
    path.with_name(SNAPSHOTS_FILE).mkdir()
    with pytest.raises(JournalUnwritable, match=r"No snapshot was kept: The snapshots .* cannot be written"):
        await keep_snapshot_aside(path)
    assert main(str(path)) == 1
    assert "cannot be written" in capsys.readouterr().err
    assert (await world.chat()).status == 200


async def test_a_process_that_dies_is_told_by_its_end(
    world: World, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed from outside, it has said nothing; what is known is how it ended."""
    monkeypatch.setattr("palyra.engine.snapshotting._CHILD", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(JournalUnwritable, match="exit -9"):
        await keep_snapshot_aside(path)


async def test_who_stops_waiting_ends_it(
    world: World, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that stops leaves no process behind that would go on by itself."""
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)
    hanging = f"import os, time; open({str(fifo)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    monkeypatch.setattr("palyra.engine.snapshotting._CHILD", hanging)
    keeping = asyncio.create_task(keep_snapshot_aside(path))
    pid = int(await asyncio.to_thread(fifo.read_text))
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_busy_journal_is_kept_less_often(world: World) -> None:
    """Snapshots get a twentieth of the time at most, however fast the journal grows."""
    clock = world.core.clock
    assert isinstance(clock, ManualClock)

    async def slowly() -> int:
        clock.pass_ms(1_000)
        return world.state.position

    chore = SnapshotChore(world.core, slowly, every_count=1, every_ms=60_000)
    await world.chat()
    assert chore.due_at_us() == clock.now_us()
    await chore.do()
    assert chore.due_at_us() is None
    await world.chat()
    assert chore.due_at_us() == clock.now_us() + 20_000_000


def test_only_its_own_palyra_is_imported(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `palyra` in the working directory is not what the process runs."""
    (tmp_path / "palyra").mkdir()
    (tmp_path / "palyra" / "__init__.py").write_text("raise SystemExit('somebody else')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JournalUnwritable, match="There is no journal at"):
        asyncio.run(keep_snapshot_aside(path))


async def test_a_text_that_equals_a_default_is_no_other_state(world: World, path: Path) -> None:
    """Live, a word that came from outside is not the one of the default; read back it is. Nobody can tell."""
    registry = world.state.catalog.registry
    spelt = "".join(["no", "ne"])
    providers = [msgspec.structs.replace(one, auth_scheme=spelt) for one in registry.providers]
    changed = msgspec.structs.replace(registry, providers=providers)
    adopted = ConfigAdopted(generation=2, digest="other", effective={}, registry=changed)
    await world.core.record([Draft("config", adopted)])
    assert encode_state(world.state) == encode_state(fold_file(path).state)
    await world.core.snapshot()
    assert verify_replay(path).divergence is None


def _words_with_defaults(kind: Any) -> Iterator[str]:
    """Yield the fields at any depth that are one of some words, of which one is left out."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for field in msgspec.structs.fields(kind):
            if isinstance(field.default, str) and field.default and get_origin(field.type) is Literal:
                yield f"{kind.__name__}.{field.name}"
            yield from _words_with_defaults(field.type)
    for part in get_args(kind):
        yield from _words_with_defaults(part)


def test_every_word_that_may_come_from_outside_is_known() -> None:
    """A fact whose words have defaults is folded as it is read back, unless they are our own or not kept."""
    own = ["routing.decided", "usage.recorded", "usage.corrected", "budget.released", "loop.restarted"]
    names = [name for name, entry in VOCABULARY.entries.items() if any(_words_with_defaults(entry.struct))]
    assert [name for name in names if not name.startswith(_FROM_OUTSIDE) and name not in own] == []
