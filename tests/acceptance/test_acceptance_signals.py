"""What signals do to a daemon that serves: drain, hurry, end at once, show where everything stands."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from acceptance_kit import CHAT, CONFIG, Served, chat, folded, history, serving, write_config
from upstream import HANG, Behaviour, Upstream

from palyra.events.daemon import DaemonDraining, DaemonStopped
from palyra.events.runs import RunCancelled, RunCompleted
from palyra.events.usage import UsageRecorded


@asynccontextmanager
async def busy(
    home: Path, step: asyncio.Event | object, *arguments: str
) -> AsyncIterator[tuple[Served, aiohttp.ClientSession, aiohttp.ClientResponse]]:
    """Run a daemon with one stream open, whose upstream has sent two pieces and then does `step`."""
    async with Upstream() as up:
        config = write_config(home / "palyra.toml", CONFIG.format(url=up.url))
        up.reply_with(Behaviour(after={2: step}))  # type: ignore[dict-item]
        async with serving(home, "--config", str(config), *arguments) as daemon:
            async with aiohttp.ClientSession(headers=daemon.headers) as session:
                async with session.post(f"{daemon.url}{CHAT}", json=chat(stream=True)) as stream:
                    assert stream.status == 200
                    await stream.content.readline()
                    yield daemon, session, stream
            if daemon.process.returncode is None:
                await daemon.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains(number: signal.Signals, tmp_path: Path) -> None:
    """At once nothing new is taken and readiness is gone; what is open ends well; then the process ends with 0."""
    gate = asyncio.Event()
    async with busy(tmp_path, gate) as (daemon, session, stream):
        daemon.process.send_signal(number)
        await daemon.wait_until_draining(session)
        async with session.post(f"{daemon.url}{CHAT}", json=chat()) as refused:
            assert (refused.status, refused.headers["retry-after"]) == (503, "5")
            assert (await refused.json())["error"]["code"] == "draining"
        gate.set()
        assert (await stream.read()).endswith(b"data: [DONE]\n\n")
        assert await daemon.process.wait() == 0
    bodies = [recorded.body for recorded in history(daemon.state_dir)]
    ends = [
        body for body in bodies if isinstance(body, (DaemonDraining, RunCompleted, UsageRecorded, DaemonStopped))
    ]
    draining, usage, completed, stopped = ends
    assert isinstance(draining, DaemonDraining)
    assert draining.reason == "signal"
    assert isinstance(usage, UsageRecorded)
    assert isinstance(completed, RunCompleted)
    assert isinstance(stopped, DaemonStopped)
    assert stopped.forced_count == 0


@pytest.mark.parametrize("end", ["a second signal", "the deadline"])
async def test_what_does_not_end_is_cancelled_and_settled(end: str, tmp_path: Path) -> None:
    """A second signal, or the drain's deadline, ends open runs with their usage recorded; the exit is still 0."""
    arguments = ["--set", "daemon.drain_timeout_ms=20"] if end == "the deadline" else []
    async with busy(tmp_path, HANG, *arguments) as (daemon, session, stream):
        daemon.process.send_signal(signal.SIGTERM)
        if end == "a second signal":
            await daemon.wait_until_draining(session)
            daemon.process.send_signal(signal.SIGTERM)
        tail = await stream.read()
        assert b'"code":"draining"' in tail.replace(b" ", b"")
        assert await daemon.process.wait() == 0
    bodies = [recorded.body for recorded in history(daemon.state_dir)]
    (cancelled,) = (body for body in bodies if isinstance(body, RunCancelled))
    assert cancelled.reason == "shutdown"
    assert sum(isinstance(body, UsageRecorded) for body in bodies) == 1
    assert isinstance(bodies[-1], DaemonStopped)
    assert bodies[-1].forced_count == 1
    state = folded(daemon.state_dir)
    assert not state.runs.open
    assert not state.budgets.holds


async def test_a_third_signal_ends_at_once(tmp_path: Path) -> None:
    """130 without clean-up; the next start closes what was open."""
    async with busy(tmp_path, HANG) as (daemon, session, _):
        daemon.process.send_signal(signal.SIGTERM)
        await daemon.wait_until_draining(session)
        # Held still, so that the second and the third are both waiting when it goes on. They have to be two kinds:
        # of one kind a process has never more than one waiting.
        daemon.process.send_signal(signal.SIGSTOP)
        await asyncio.to_thread(os.waitid, os.P_PID, daemon.process.pid, os.WSTOPPED | os.WNOWAIT)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
            daemon.process.send_signal(number)
        assert await daemon.process.wait() == 130
    assert len(folded(daemon.state_dir).runs.open) == 1
    async with serving(tmp_path) as again:
        assert again.ready["found"] == "recovered"
        assert again.ready["recovered"]["runs"] == again.ready["recovered"]["attempts"] == 1
        assert await again.stop() == 0


_HIT_EARLY = """
import os, signal, sys
from palyra.app import Daemon
start = Daemon.start
async def start_hit(daemon):
    os.kill(os.getpid(), signal.SIGTERM)
    await start(daemon)
Daemon.start = start_hit
from palyra.cli.main import main
sys.exit(main())
"""


async def test_a_signal_while_starting_is_honoured(tmp_path: Path) -> None:
    """A signal that comes before the daemon is ready stops it as soon as it is, with 0 and a whole journal."""
    async with serving(tmp_path, program=("-c", _HIT_EARLY)) as daemon:
        assert await daemon.process.wait() == 0
    assert isinstance(history(daemon.state_dir)[-1].body, DaemonStopped)


async def test_sigusr1_shows_where_everything_stands(tmp_path: Path) -> None:
    """The stacks of the tasks of both loops go to the log, a line each, and what is open goes on."""
    gate = asyncio.Event()
    async with busy(tmp_path, gate) as (daemon, session, stream):
        daemon.process.send_signal(signal.SIGUSR1)
        daemon.process.send_signal(signal.SIGTERM)
        await daemon.wait_until_draining(session)
        gate.set()
        assert (await stream.read()).endswith(b"data: [DONE]\n\n")
        assert await daemon.process.wait() == 0
    stacks = [line for line in daemon.log_lines() if line["event"] == "task_stack"]
    loops = {line["task"] for line in stacks if line["loop"] == "trio"}
    assert {"watchdog", "snapshots", "witness", "checkpoints"} <= loops
    assert any("exchange.py" in line["stack"] for line in stacks if line["loop"] == "asyncio")


async def test_sighup_has_the_configuration_read_again(tmp_path: Path) -> None:
    """What it changes is adopted and logged while everything goes on; one with problems is logged and left."""
    config = write_config(tmp_path / "palyra.toml", "[daemon]\ndrain_timeout_ms = 5\n")
    async with serving(tmp_path, "--config", str(config)) as daemon:
        write_config(config, "[daemon]\ndrain_timeout_ms = 6\nmax_connections_count = 500\n")
        daemon.process.send_signal(signal.SIGHUP)
        adopted = await _logged(daemon, "config_adopted")
        assert (adopted["generation"], adopted["pending_restart_keys"]) == (2, "daemon.max_connections_count")
        write_config(config, "[daemon]\ndrain = 6\n")
        daemon.process.send_signal(signal.SIGHUP)
        refused = await _logged(daemon, "config_not_adopted")
        assert refused["error_code"] == "config_invalid"
        assert await daemon.stop() == 0
    names = [recorded.name for recorded in history(daemon.state_dir)]
    assert (names.count("config.adopted"), names.count("config.rejected")) == (2, 1)


async def _logged(daemon: Served, event: str) -> dict[str, object]:
    while True:
        for line in daemon.log_lines():
            if line["event"] == event:
                return line
        await asyncio.sleep(0.02)
