"""What dies inside a daemon, and what that means: for a loop, for work that fell silent, for the whole tree."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import aiohttp
import pytest
from acceptance_kit import CHAT, CONFIG, chat, history, loaded, write_config
from test_acceptance_adapters import HandClock
from upstream import Behaviour, Upstream

import palyra.app
from palyra.app import Daemon
from palyra.engine import upkeep
from palyra.engine.codec import to_recorded
from palyra.events.base import Recorded
from palyra.events.daemon import DaemonDraining, DaemonStopped
from palyra.events.incidents import IncidentOpened, IncidentResolved, IncidentSeverityChanged
from palyra.events.loops import LoopCrashed, LoopRestarted
from palyra.journal.witness import Witness, write_witness
from palyra.service import serve
from palyra.supervisor import pace

FactT = TypeVar("FactT")


async def next_fact(daemon: Daemon, kind: type[FactT]) -> tuple[Recorded, FactT]:
    """Wait for the first fact of a kind."""
    async for rows in daemon.core.journal.follow():
        for row in rows:
            recorded = to_recorded(row)
            if isinstance(recorded.body, kind):
                return recorded, recorded.body
    raise AssertionError


async def test_a_loop_that_crashes_is_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in a chore crashes its loop alone, recorded by type and place; what was due is done afterwards."""
    async with Daemon(loaded(tmp_path)) as daemon:
        note = daemon.paths.head
    old = note.read_bytes()

    def broken(path: Path, witness: Witness) -> None:
        monkeypatch.setattr(upkeep, "write_witness", write_witness)
        raise ValueError("sk-abcdefghijklmnopqrstuvwx")

    monkeypatch.setattr(upkeep, "write_witness", broken)
    async with Daemon(loaded(tmp_path)) as daemon:
        _, crashed = await next_fact(daemon, LoopCrashed)
        assert (crashed.boot_id, crashed.loop_name) == (daemon.boot_id, "witness")
        assert (crashed.error_code, crashed.error_place.partition(":")[0]) == ("ValueError", __name__)
        assert (crashed.crashes_count, crashed.backoff_ms, crashed.slow_lane) == (1, 1_000, False)
        async with aiohttp.ClientSession() as session, session.get(f"{daemon.url}/readyz") as answer:
            assert answer.status == 200
        _, restarted = await next_fact(daemon, LoopRestarted)
        assert (restarted.boot_id, restarted.loop_name) == (daemon.boot_id, "witness")
    assert note.read_bytes() != old
    async with Daemon(loaded(tmp_path)) as again:
        assert again.found == "clean"


async def test_a_note_that_cannot_be_copied_does_not_spoil_the_end(tmp_path: Path) -> None:
    """A disk that went away before the end costs the copy and nothing else."""
    disk = tmp_path / "disk"
    disk.mkdir()
    async with Daemon(loaded(tmp_path, f'journal.witness_copies=["{disk / "copy.head"}"]')) as daemon:
        for file in disk.iterdir():
            file.unlink()
        disk.rmdir()
    assert isinstance(history(daemon.paths.directory)[-1].body, DaemonStopped)
    async with Daemon(loaded(tmp_path)) as again:
        assert again.found == "clean"


async def _die() -> None:
    raise ValueError("the tree is broken, sk-abcdefghijklmnopqrstuvwx")


def _kill_guest(daemon: Daemon) -> None:
    daemon.guest.start_soon(_die)


def test_the_end_of_the_tree_ends_the_process(tmp_path: Path) -> None:
    """When supervision dies the daemon drains for a fault, closes its books, logs where it died, and exits 1."""
    log = tmp_path / "log"
    sets = [f'observability.log_file="{log}"', 'observability.log_format="json"']
    assert serve(lambda: loaded(tmp_path, *sets), _kill_guest) == 1
    bodies = [recorded.body for recorded in history(tmp_path / "state")]
    (draining,) = (body for body in bodies if isinstance(body, DaemonDraining))
    assert draining.reason == "fault"
    assert isinstance(bodies[-1], DaemonStopped)
    stopping, line = (json.loads(text) for text in log.read_text().splitlines())
    assert (stopping["event"], stopping["open_runs"]) == ("stopping", 0)
    assert (line["level"], line["event"], line["error_type"]) == ("error", "daemon_failed", "ValueError")
    assert line["error_text"] == "the tree is broken, <redacted>"
    assert line["error_trace"].startswith(f"{Path(__file__).name}:")


async def test_an_embedded_daemon_says_that_its_tree_died(tmp_path: Path) -> None:
    """`finished` is done when the tree has died, and stopping raises what it died of."""
    daemon = Daemon(loaded(tmp_path))
    await daemon.start()
    _kill_guest(daemon)
    await daemon.finished
    with pytest.raises(ExceptionGroup) as caught:
        await daemon.stop()
    assert caught.group_contains(ValueError, match="the tree is broken")
    async with Daemon(loaded(tmp_path)) as again:
        assert again.found == "clean"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    """The wall clock of every daemon that the test makes, moved by hand; its loops need not rest between steps."""
    hand = HandClock()
    monkeypatch.setattr(pace, "STEP_SPACING_MS", 1)
    monkeypatch.setattr(palyra.app, "SystemClock", lambda: hand)
    return hand


async def test_a_silent_run_is_an_incident(tmp_path: Path, clock: HandClock) -> None:
    """Suspect after its deadline and a grace, hung after twice that, resolved when it has ended."""
    gate = asyncio.Event()
    async with Upstream() as up:
        config = write_config(tmp_path / "palyra.toml", CONFIG.format(url=up.url))
        up.reply_with(Behaviour(head=gate))
        async with Daemon(loaded(tmp_path, config_file=config)) as daemon:
            ask = asyncio.create_task(_ask(daemon))
            await up.request_arrived()
            (run_id,) = daemon.core.state.runs.open
            opened = await _after(daemon, clock, 631, IncidentOpened)
            assert (opened.kind, opened.severity, opened.subject_id) == ("run_stalled", "warning", run_id)
            changed = await _after(daemon, clock, 631, IncidentSeverityChanged)
            assert (changed.before, changed.after) == ("warning", "danger")
            gate.set()
            assert await ask == 200
            _, resolved = await next_fact(daemon, IncidentResolved)
            assert resolved.because == "subject_gone"
            assert resolved.open_for_ms == 631_000
        kinds = (IncidentOpened, IncidentSeverityChanged, IncidentResolved)
        told = [one.body for one in history(daemon.paths.directory) if isinstance(one.body, kinds)]
        assert told == [opened, changed, resolved]


async def _ask(daemon: Daemon) -> int:
    headers = {"authorization": f"Bearer {daemon.paths.client_key.read_text().strip()}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.post(f"{daemon.url}{CHAT}", json=chat()) as answer:
            return answer.status


async def _after(daemon: Daemon, clock: HandClock, seconds: int, kind: Callable[..., FactT]) -> FactT:
    """Let time pass, tell the loops that the clock has moved, and wait for a fact."""
    clock.pass_s(seconds)
    daemon.tree.ring("clock")
    _, fact = await next_fact(daemon, kind)  # type: ignore[arg-type]
    return fact
