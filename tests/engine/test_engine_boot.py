"""The first facts of a process, and the end of whatever an older one left open."""

from __future__ import annotations

import asyncio
from typing import Any

from engine_fakes import BrittleJournal, GatedJournal, ManualClock, Script, ScriptedProvider, until
from engine_world import World, audit_runs, fold, one, two

from palyra.engine.adoptable import Adoptable
from palyra.engine.boot import boot, open_work
from palyra.engine.codec import to_recorded
from palyra.engine.core import Core, load_state
from palyra.engine.ids import SeededIds
from palyra.events.base import Draft
from palyra.events.config import ConfigAdopted
from palyra.events.daemon import DaemonStarted
from palyra.events.heartbeats import HeartbeatRecorded
from palyra.events.registry import Registry
from palyra.events.usage import UsageRecorded
from palyra.journal.memory import MemoryJournal
from palyra.projections.heartbeats import beat_stream
from palyra.projections.state import State, encode_state


def adoptable(registry: Registry, digest: str = "d1", **effective: Any) -> Adoptable:
    return Adoptable(digest=digest, effective=effective, registry=registry)


async def start(journal: MemoryJournal, boot_id: str, config: Adoptable) -> tuple[Core, dict[str, int]]:
    core = Core(journal, await load_state(journal), ids=SeededIds(5))
    return core, await boot(core, boot_id, config)


async def copy_of(journal: MemoryJournal, upto: int | None = None) -> MemoryJournal:
    """Return the journal as a crash would leave it."""
    crashed = MemoryJournal(journal_id="01TEST", now_us=1)
    for row in journal.rows[:upto]:
        await crashed.append([row])
    return crashed


def bodies(journal: MemoryJournal, kind: type) -> list[Any]:
    return [body for body in (to_recorded(row).body for row in journal.rows) if isinstance(body, kind)]


async def test_first_boot_makes_the_journal_and_adopts() -> None:
    """A new journal begins with its own making, the process, configuration and prices, in one commit."""
    journal = BrittleJournal()
    core, recovered = await start(journal, "boot-1", adoptable(one(), port=7142))
    assert recovered == {}
    assert [row.name for row in journal.rows] == [
        "journal.created",
        "daemon.started",
        "config.adopted",
        "price_list.adopted",
    ]
    assert journal.commits_count == 1
    (started,) = bodies(journal, DaemonStarted)
    assert (started.boot_id, started.config_generation) == ("boot-1", 1)
    (adopted,) = bodies(journal, ConfigAdopted)
    assert (adopted.generation, adopted.changed, adopted.effective) == (1, [], {"port": 7142})
    assert core.state.catalog.registry == one()
    await core.stop()


async def test_same_configuration_is_not_adopted_again() -> None:
    """A restart records a configuration only where it differs, and then which keys did."""
    journal = MemoryJournal(journal_id="01TEST", now_us=1)
    await start(journal, "boot-1", adoptable(one(), port=1, log={"level": "info", "file": ""}))
    await start(journal, "boot-2", adoptable(one(), port=1, log={"level": "info", "file": ""}))
    assert len(bodies(journal, ConfigAdopted)) == 1
    changed = adoptable(two(), "d2", port=2, log={"level": "info", "file": "x"})
    core, _ = await start(journal, "boot-3", changed)
    adopted = bodies(journal, ConfigAdopted)[1]
    assert (adopted.generation, adopted.changed) == (2, ["log.file", "port"])
    assert [started.config_generation for started in bodies(journal, DaemonStarted)] == [1, 1, 2]
    assert core.state.catalog.registry == two()
    await core.stop()


async def _busy(runs_count: int = 1) -> tuple[World, MemoryJournal, list[str]]:
    """Return a world with runs on the wire, and the ids of those."""
    journal, fake = MemoryJournal(journal_id="01TEST", now_us=1), ScriptedProvider()
    world = await World.make(one(max_concurrency=2_000), journal=journal, extra={"a": fake}, clock=ManualClock())
    fake.script(*[Script(head=asyncio.Event()) for _ in range(runs_count)])
    runs = [world.start_chat() for _ in range(runs_count)]
    await until(lambda: len(fake.calls) == runs_count and journal.pending_count == 0)
    return world, journal, [run.run_id for run in runs]


async def test_crash_is_recovered_before_anything_else() -> None:
    """An open attempt is abandoned and billed as reserved; its run is interrupted; a second boot finds nothing."""
    world, journal, (run_id,) = await _busy()
    attempt = world.state.runs.open[run_id].attempt
    assert attempt is not None
    crashed = await copy_of(journal)
    await world.close()
    core, recovered = await start(crashed, "boot-2", adoptable(one()))
    assert recovered == {"runs": 1, "attempts": 1, "reserved_tokens": attempt.max_tokens}
    names = [row.name for row in crashed.rows if row.stream == f"run-{run_id}"]
    assert names[-3:] == ["attempt.abandoned", "usage.recorded", "run.failed"]
    (row,) = bodies(crashed, UsageRecorded)
    assert (row.usage.input_tokens, row.usage.output_tokens) == (
        attempt.input_max_tokens,
        attempt.output_max_tokens,
    )
    assert (row.source, row.billed) == ("estimated", "unknown")
    audit_runs(crashed.rows)
    assert open_work(core.state) == {}
    again, recovered = await start(crashed, "boot-3", adoptable(one()))
    assert recovered == {}
    assert [row.name for row in crashed.rows[-2:]] == ["run.failed", "daemon.started"]
    assert encode_state(fold(crashed.rows)) == encode_state(again.state)


async def test_crash_after_every_commit_is_recovered() -> None:
    """Wherever the log of a run ends, the run has one end afterwards and the state is the fold."""
    journal = GatedJournal()
    fakes = {"a": ScriptedProvider(Script(status=500)), "b": ScriptedProvider()}
    world = await World.make(two(max_concurrency=1), journal=journal, extra=fakes)
    await asyncio.gather(world.start_chat().task, world.start_chat(stream=True).task)
    upto = 0
    for commit in journal.commits:
        upto += len(commit)
        crashed = await copy_of(journal, upto)
        core, _ = await start(crashed, "boot-2", adoptable(two()))
        audit_runs(crashed.rows)
        assert open_work(core.state) == {}
        assert encode_state(fold(crashed.rows)) == encode_state(core.state)
    assert len(journal.commits) > 5
    await world.close()


async def test_many_open_runs_are_closed_in_commits_of_bounded_size() -> None:
    """A thousand interrupted runs with their beats are no commit that could not be made."""
    world, journal, run_ids = await _busy(1_000)
    crashed = await copy_of(journal)
    await world.close()
    beating = Core(crashed, await load_state(crashed))
    for run_id in run_ids:
        beat = HeartbeatRecorded(work_kind="run", work_id=run_id, beat_no=1, stalls_after_ms=1)
        with beating.batch() as batch:
            batch.add([Draft(beat_stream("run", run_id), beat)])
    await beating.durable()
    core, recovered = await start(crashed, "boot-2", adoptable(one()))
    assert (recovered["runs"], recovered["heartbeats"]) == (1_000, 1_000)
    assert open_work(core.state) == {}
    audit_runs(crashed.rows)


async def test_boot_sees_to_failures_that_come_later() -> None:
    """From the boot on, what a failed commit leaves open is closed when the disk is back."""
    journal = BrittleJournal()
    core = Core(journal, State(), ids=SeededIds(1))
    await boot(core, "boot-1", adoptable(one()))
    world = World(core, one(), {"a": ScriptedProvider()})
    await boot(core, "boot-2", adoptable(one()))
    journal._nth = journal.commits_count + 2
    assert (await world.chat()).status == 503
    await core.wait_until_rebuilt()
    world.audit()
    abandoned = next(row for row in journal.rows if row.name == "attempt.abandoned")
    assert b'"boot_id":"boot-2"' in abandoned.body
    await world.close()
