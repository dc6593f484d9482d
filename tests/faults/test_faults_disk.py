"""A disk that fills under a daemon: nothing is sent unrecorded, nothing acknowledged is lost, service returns."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from faults_kit import MIB, Served, fill, history, names, needs_root, served, small_disk
from upstream import Behaviour

from palyra.auth.keyfiles import witness_key
from palyra.engine.machine import LOOK_MS, ROOM_AGAIN_MS, MachineChore, Room, free_bytes
from palyra.engine.upkeep import WitnessChore
from palyra.errors import JournalUnwritable
from palyra.events.daemon import DaemonResourceLow
from palyra.events.incidents import IncidentOpened, IncidentReopened, IncidentResolved
from palyra.journal.port import Head, Row
from palyra.journal.sqlite import SqliteStore
from palyra.journal.verify import verify

MARK_MIB = 64


class Disk:
    """What `statvfs` would say."""

    def __init__(self, left_mib: int) -> None:
        self.left_mib = left_mib

    def __call__(self) -> int:
        return self.left_mib * MIB


def room(house: Served, ballast: Path, disk: Disk) -> Room:
    return Room(house.daemon.core, ballast, disk, min_free_bytes=MARK_MIB * MIB, ballast_bytes=MIB)


@needs_root
async def test_full_disk_stops_what_could_not_be_recorded_and_nothing_else(tmp_path: Path) -> None:
    """Filled to the last byte during a call: 503, no call unrecorded; the ballast closes what was open."""
    with small_disk(tmp_path / "disk", 96) as disk:
        state_dir, gate = disk / "state", asyncio.Event()
        async with served(state_dir, min_free_bytes=MARK_MIB * MIB, ballast_bytes=2 * MIB) as house:
            ballast = state_dir / "ballast"
            assert ballast.stat().st_blocks * 512 == 2 * MIB
            assert (await house.chat())[0] == 200
            house.up.reply_with(Behaviour(head=gate))
            on_the_wire = asyncio.ensure_future(house.chat())
            await house.up.request_arrived(2)
            filler = fill(disk)
            acknowledged = 1
            while (answer := await house.chat())[0] == 200:  # what the log still has room for
                acknowledged += 1
            assert (answer[0], answer[1]["error"]["code"]) == (503, "journal_unwritable")
            assert (await on_the_wire)[1]["error"]["code"] == "journal_unwritable"
            assert (await house.ask("GET", "/healthz"))[0] == 200
            assert await house.ask("GET", "/readyz") == (503, {"status": "journal_unwritable"})

            await house.daemon.core.wait_until_rebuilt()
            assert not ballast.exists()
            status, refused = await house.chat()
            assert (status, refused["error"]["code"]) == (503, "journal_unwritable")
            assert "less than 64 MiB" in refused["error"]["message"]
            assert (await house.ask("GET", "/v1/models"))[0] == 200
            await house.look()
            assert await house.ask("GET", "/readyz") == (503, {"status": "journal_unwritable"})

            filler.unlink()
            await house.look()
            assert (await house.chat())[0] == 503
            house.clock.pass_s(ROOM_AGAIN_MS // 1_000)
            await house.look()
            assert await house.ask("GET", "/readyz") == (200, {"status": "ready"})
            assert (await house.chat())[0] == 200
            assert ballast.stat().st_size == 2 * MIB
            gate.set()
            sent = len(house.up.requests)
        counted = names(state_dir)
        assert sent == counted["attempt.started"] == acknowledged + 2
        assert counted["run.completed"] == counted["attempt.succeeded"] == acknowledged + 1
        assert counted["attempt.abandoned"] == counted["run.failed"] == 1
        assert counted["usage.recorded"] == acknowledged + 2
        low = [one.body for one in history(state_dir) if isinstance(one.body, DaemonResourceLow)]
        assert [(one.resource, one.floor_count) for one in low] == [("disk", MARK_MIB * MIB)]
        assert counted["run.refused"] == 2
        key = witness_key(state_dir / "vault.key", create=False)
        assert verify(state_dir / "journal.db", witness_key=key).findings == []


async def test_below_the_mark_no_run_is_taken_while_reading_goes_on(tmp_path: Path) -> None:
    """The crossing is told once, refusals are recorded, open runs end; only room for a minute brings runs back."""
    async with served(tmp_path / "state") as house:
        disk, ballast, gate = Disk(MARK_MIB), tmp_path / "ballast", asyncio.Event()
        watch = room(house, ballast, disk)
        await watch.look()
        assert not ballast.exists()
        disk.left_mib = 2 * MARK_MIB
        await watch.look()
        assert ballast.stat().st_size == MIB
        house.up.reply_with(Behaviour(head=gate))
        running = asyncio.ensure_future(house.chat())
        await house.up.request_arrived()

        disk.left_mib = MARK_MIB - 1
        for _ in range(3):
            await watch.look()
        assert (await house.chat())[1]["error"]["code"] == "journal_unwritable"
        assert (await house.ask("GET", "/v1/models"))[0] == 200
        assert (await house.ask("GET", "/readyz"))[0] == 503
        assert ballast.exists()
        gate.set()
        assert (await running)[0] == 200

        for left_mib, seconds in ((128, 59), (MARK_MIB + 1, 60), (128, 0), (128, 59)):
            disk.left_mib = left_mib
            house.clock.pass_s(seconds)
            await watch.look()
            assert (await house.chat())[0] == 503, (left_mib, seconds)
        house.clock.pass_s(1)
        await watch.look()
        assert (await house.chat())[0] == 200
        assert len(house.up.requests) == 2
        disk.left_mib = 0
        await watch.look()
        assert (await house.chat())[0] == 503
    facts = [one.body for one in history(tmp_path / "state")]
    kinds = (DaemonResourceLow, IncidentOpened, IncidentResolved, IncidentReopened)
    told = [type(fact) for fact in facts if isinstance(fact, kinds)]
    assert told == [DaemonResourceLow, IncidentOpened, IncidentResolved, DaemonResourceLow, IncidentReopened]
    opened = next(fact for fact in facts if isinstance(fact, IncidentOpened))
    assert (opened.kind, opened.severity) == ("disk_low", "critical")


async def test_disk_that_is_low_at_the_start_is_seen_before_anybody_asks(tmp_path: Path) -> None:
    """A daemon comes up, says that it is not ready, and takes no run."""
    mark_bytes = 1 << 40
    if free_bytes(tmp_path) >= mark_bytes:
        pytest.skip("this disk has more room than can be asked for")
    async with served(tmp_path / "state", min_free_bytes=mark_bytes) as house:
        assert (await house.ask("GET", "/readyz"))[0] == 503
        assert (await house.chat())[0] == 503
        assert house.up.requests == []
    assert names(tmp_path / "state")["daemon.resource_low"] == 1


async def test_no_ballast_where_none_is_wanted_or_none_fits(tmp_path: Path) -> None:
    """A size of 0 takes it away; a directory that is gone costs nothing but the ballast."""
    async with served(tmp_path / "state", ballast_bytes=0) as house:
        assert not (tmp_path / "state" / "ballast").exists()
        ballast, core = tmp_path / "ballast", house.daemon.core
        await room(house, ballast, Disk(1_000)).look()
        assert ballast.exists()
        await Room(core, ballast, Disk(1_000), min_free_bytes=1, ballast_bytes=0).look()
        assert not ballast.exists()
        await room(house, tmp_path / "gone" / "ballast", Disk(1_000)).look()
        await room(house, tmp_path / "gone" / "ballast", Disk(0)).make_room()
        assert free_bytes(tmp_path / "gone") == 0


async def test_machine_is_looked_at_again_and_again(tmp_path: Path) -> None:
    """Every fifteen seconds, also after the clock was set back a day; while nothing can be recorded it waits."""
    async with served(tmp_path / "state") as house:
        core, clock = house.daemon.core, house.clock
        chore = MachineChore(core, room(house, tmp_path / "ballast", disk := Disk(0)))
        assert chore.due_at_us() < clock.now_us()
        core._failed = True
        await chore.do()
        core._failed = False
        assert names(tmp_path / "state")["daemon.resource_low"] == 0
        await chore.do()
        assert names(tmp_path / "state")["daemon.resource_low"] == 1
        left_us = chore.due_at_us() - clock.now_us()
        assert 0 < left_us <= LOOK_MS * 1_000
        clock.step_s(-86_400)
        assert chore.due_at_us() <= clock.now_us()
        disk.left_mib = 1_000
        await chore.do()
        core._failed = True
        clock.pass_s(100)
        await chore.do()
        core._failed = False
        assert core.shortage is not None


@pytest.mark.parametrize(
    "said", ["attempt to write a readonly database", "disk I/O error", "unable to open the file"]
)
async def test_disk_that_refuses_any_commit_of_a_scenario(tmp_path: Path, said: str) -> None:
    """From the n-th commit on, for every n: 200 with durable usage or 503, and no call that was not recorded."""
    async with served(tmp_path / "state") as house:
        core, state_dir = house.daemon.core, tmp_path / "state"
        core._pause = lambda seconds: asyncio.sleep(0)
        disk = RefusingDisk(core.journal._file, said)  # type: ignore[attr-defined]
        answered = refused = 0
        for nth in range(1, 8):
            disk.commits_left = nth - 1
            answers = [await house.chat() for _ in range(3)]
            assert {status for status, _ in answers} <= {200, 503}
            assert {body["error"]["code"] for status, body in answers if status == 503} <= {"journal_unwritable"}
            assert len(house.up.requests) <= names(state_dir)["attempt.started"]
            answered += sum(status == 200 for status, _ in answers)
            refused += sum(status == 503 for status, _ in answers)
            disk.commits_left = None
            await core.wait_until_rebuilt()
            assert await house.ask("GET", "/readyz") == (200, {"status": "ready"})
            assert (core.state.runs.open, core.state.budgets.holds) == ({}, {})
        counted = names(state_dir)
        assert answered == counted["run.completed"] >= 3
        assert refused > 7
        assert counted["attempt.started"] == counted["attempt.succeeded"] + counted["attempt.abandoned"]
        assert counted["usage.recorded"] == counted["attempt.started"]


class RefusingDisk:
    """Lets a store have so many commits more (None: all), and then neither takes one nor opens again."""

    def __init__(self, store: SqliteStore, said: str) -> None:
        self.commits_left: int | None = None
        self._write, self._reopen = store.write, store.reopen
        self._said = said
        store.write, store.reopen = self.write, self.reopen  # type: ignore[method-assign]

    async def write(self, rows: list[Row], links: list[bytes]) -> None:
        if self.commits_left is not None:
            if not self.commits_left:
                raise sqlite3.OperationalError(self._said)
            self.commits_left -= 1
        await self._write(rows, links)

    async def reopen(self) -> Head:
        if self.commits_left == 0:
            raise sqlite3.OperationalError(self._said)
        return await self._reopen()


async def test_note_that_cannot_be_written_is_waited_for(tmp_path: Path) -> None:
    """The witness on a disk that refuses is an answer to be patient with, not a crash of its loop."""
    async with served(tmp_path / "state") as house:
        chore = WitnessChore(house.daemon.core, tmp_path / "gone" / "journal.head", key=None, every_ms=1)
        with pytest.raises(JournalUnwritable, match="cannot be written"):
            await chore.do()
        assert chore.due_at_us() is not None
