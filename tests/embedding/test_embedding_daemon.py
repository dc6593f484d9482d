"""`palyra.Daemon` inside a program: whatever loop, however many, whenever cancelled, nothing is left of it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
import trio
from embedding_host import HANGS, Run, ask, says, script, wait_until

import palyra
from palyra.errors import JournalError, JournalLocked, StateError
from palyra.projections.state import encode_state
from palyra.supervisor.bridge import CrossingClosed


def test_defaults_need_nothing(run: Run, machine: Path) -> None:
    """Without any configuration it answers on a free port, over a private directory that is gone afterwards."""

    async def main() -> None:
        async with palyra.Daemon() as daemon:
            assert daemon.base_url == f"{daemon.url}/v1"
            assert (await ask(daemon)).text == "Hello?"
            assert daemon.paths.directory.parent == machine
            assert stat.S_IMODE(daemon.paths.directory.stat().st_mode) == 0o700
            assert daemon.paths.journal.exists()

    run(main())


def test_in_memory_nothing_is_written(run: Run, machine: Path) -> None:
    """Keys, journal and snapshots are in memory: no file appears while it runs, and none is kept open."""

    async def main() -> None:
        async with palyra.Daemon(says("Yes."), journal=":memory:") as daemon:
            answer = await ask(daemon)
            assert answer.text == "Yes."
            view = await daemon.journal.run(answer.run_id)
            assert view.state == "completed"
            assert _files(machine) == []
            with pytest.raises(ValueError, match="no files"):
                _ = daemon.paths
        assert [recorded.name async for recorded in daemon.journal][-2:] == ["daemon.draining", "daemon.stopped"]

    run(main())


def test_two_live_side_by_side(run: Run) -> None:
    """In one loop at the same time: each has its own port, key, script and journal, and ends alone."""

    async def main() -> None:
        async with palyra.Daemon(says("one")) as one:
            async with palyra.Daemon(says("two"), journal=":memory:") as two:
                answers = await asyncio.gather(ask(one), ask(two))
                assert [answer.text for answer in answers] == ["one", "two"]
                assert one.client_key != two.client_key
                with pytest.raises(JournalError, match="There is no run"):
                    await one.journal.run(answers[1].run_id)
            assert (await ask(one)).text == "one"

    run(main())


def test_the_death_of_one_is_not_that_of_the_other(run: Run) -> None:
    """A supervision tree that dies ends its own daemon, with its own error; the neighbour's goes on."""

    async def main() -> None:
        async def crashes() -> None:
            raise ZeroDivisionError

        async with palyra.Daemon(says("alive"), journal=":memory:") as healthy:
            broken = palyra.Daemon(journal=":memory:")
            await broken.start()
            broken.guest.start_soon(crashes)
            await broken.finished
            with pytest.RaisesGroup(ZeroDivisionError):
                await broken.stop("fault")
            with pytest.raises(CrossingClosed):
                await broken.guest.run_trio(trio.sleep, 0)
            assert not healthy.finished.done()
            assert (await ask(healthy)).text == "alive"

    run(main())


def test_signals_stay_the_program_s(run: Run) -> None:
    """Handlers that the program has are called while the daemon runs, and none is added or taken away."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        got: asyncio.Queue[str] = asyncio.Queue()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
        before = [signal.getsignal(number) for number in numbers]
        loop.add_signal_handler(signal.SIGTERM, got.put_nowait, "terminate")
        own = signal.getsignal(signal.SIGTERM)
        async with palyra.Daemon(journal=":memory:") as daemon:
            os.kill(os.getpid(), signal.SIGTERM)
            assert await got.get() == "terminate"
            assert (await ask(daemon)).status == 200
            assert signal.getsignal(signal.SIGTERM) == own
        os.kill(os.getpid(), signal.SIGTERM)
        assert await got.get() == "terminate"
        loop.remove_signal_handler(signal.SIGTERM)
        assert [signal.getsignal(number) for number in numbers] == before

    run(main())


@pytest.mark.parametrize("journal", [None, ":memory:"])
def test_cancelled_at_any_moment_of_its_start_nothing_is_left(run: Run, journal: Any) -> None:
    """Whenever the program is cancelled, the daemon is down and its directory gone before it goes on."""

    async def main() -> None:
        for turns_count in [*range(0, 40, 3), 60, 100, 200]:
            port = _free_port()

            async def host(port: int) -> None:
                async with palyra.Daemon({"daemon": {"port": port}}, journal=journal):
                    await asyncio.Event().wait()

            hosting = asyncio.create_task(host(port))
            for _ in range(turns_count):
                await asyncio.sleep(0)
            hosting.cancel()
            await asyncio.sleep(0)
            hosting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await hosting
            assert asyncio.all_tasks() == {asyncio.current_task()}
            with socket.socket() as again:
                assert again.connect_ex(("127.0.0.1", port)) != 0

    run(main())


def test_a_program_that_is_cancelled_does_not_wait_for_open_runs(run: Run, tmp_path: Path) -> None:
    """They are cancelled and settled at once, and the program learns of its cancellation after that."""

    async def main() -> None:
        state_dir = tmp_path / "state"
        hanging: list[asyncio.Task[Any]] = []

        async def host() -> None:
            async with palyra.Daemon(HANGS, state_dir=state_dir) as daemon:
                hanging.append(asyncio.create_task(ask(daemon)))
                await wait_until(daemon, "attempt.started")
                stopping.set()
                await asyncio.Event().wait()

        stopping = asyncio.Event()
        hosting = asyncio.create_task(host())
        await stopping.wait()
        hosting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hosting
        await asyncio.gather(*hanging, return_exceptions=True)
        with palyra.open_journal(state_dir) as journal:
            names = [recorded.name for recorded in journal]
        assert "run.cancelled" in names
        assert names[-1] == "daemon.stopped"

    run(main())


def test_a_stop_that_is_cancelled_is_a_stop(run: Run) -> None:
    """Cancelling somebody who waits for open runs ends the wait, not the order of the end."""

    async def main() -> None:
        daemon = palyra.Daemon(HANGS, journal=":memory:")
        await daemon.start()
        hanging = asyncio.create_task(ask(daemon))
        await wait_until(daemon, "attempt.started")
        stopping = asyncio.create_task(daemon.stop())
        await wait_until(daemon, "daemon.draining")
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        await asyncio.gather(hanging, return_exceptions=True)
        assert [recorded.name async for recorded in daemon.journal][-1] == "daemon.stopped"
        await daemon.stop()

    run(main())


def test_a_start_that_fails_leaves_nothing(run: Run) -> None:
    """A port that somebody has is an error that says so, and takes everything down that was up."""

    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            daemon = palyra.Daemon({"daemon": {"port": taken.getsockname()[1]}})
            with pytest.raises(StateError, match=r"cannot listen on port \d+ of 127\.0\.0\.1: Address already"):
                await daemon.start()
            await daemon.stop()

    run(main())


def test_a_state_directory_is_kept(run: Run, tmp_path: Path) -> None:
    """The next daemon over it goes on where the one before has stopped; two at once are refused."""

    async def main() -> None:
        state_dir = tmp_path / "state"
        async with palyra.Daemon(state_dir=state_dir) as first:
            assert first.found == "new"
            with pytest.raises(JournalLocked):
                await palyra.Daemon(state_dir=state_dir).start()
            key, position = first.client_key, first.journal.head.position
        async with palyra.Daemon({"daemon": {"state_dir": str(state_dir)}}) as second:
            assert second.found == "clean"
            assert second.client_key == key
            assert second.journal.head.position > position

    run(main())


def test_the_past_is_the_same_from_inside_and_outside(run: Run, tmp_path: Path) -> None:
    """`state_at` of the daemon and of the opened file agree byte for byte at every position, while it runs."""

    async def main() -> None:
        async with palyra.Daemon(state_dir=tmp_path / "state") as daemon:
            for _ in range(3):
                await ask(daemon)
            with palyra.open_journal(daemon.paths.journal) as journal:
                for position in range(len(journal) + 1):
                    inside, outside = await daemon.state_at(position), journal.state_at(position)
                    assert inside.position == position
                    assert encode_state(inside) == encode_state(outside)
            now = await daemon.state_at()
            assert now is not daemon.core.state
            assert encode_state(now) == encode_state(daemon.core.state)
            with pytest.raises(JournalError, match="There is no position"):
                await daemon.state_at(now.position + 1)

    run(main())


def test_the_live_journal_is_read_and_followed(run: Run) -> None:
    """Events by position and in order, and each new one until the daemon stops."""

    async def main() -> None:
        async with palyra.Daemon(script({"error": {"status": 400}}), journal=":memory:") as daemon:
            journal = daemon.journal

            async def follow() -> list[str]:
                return [recorded.name async for recorded in journal.follow(len(journal))]

            following = asyncio.create_task(follow())
            await asyncio.sleep(0)
            assert (await ask(daemon)).status == 400
            everything = [recorded async for recorded in journal]
            assert [recorded.position for recorded in everything] == list(range(1, len(journal) + 1))
            assert await journal.at(1) == everything[0]
            assert journal.journal_id == everything[0].body.journal_id  # type: ignore[union-attr]
            for position in (0, -1, len(journal) + 1):
                with pytest.raises(JournalError, match="There is no position"):
                    await journal.at(position)
        names = await following
        assert names[0] == "run.admitted"
        assert names[-1] == "daemon.stopped"

    run(main())


async def test_a_daemon_starts_once() -> None:
    """A second start of the same object is a mistake that is named, and so is asking before the first."""
    daemon = palyra.Daemon(journal=":memory:")
    for name in ("url", "base_url", "client_key", "journal"):
        with pytest.raises(RuntimeError, match="has not started"):
            getattr(daemon, name)
    async with daemon:
        with pytest.raises(RuntimeError, match="started before"):
            await daemon.start()


def _files(directory: Path) -> list[Path]:
    return list(directory.rglob("*"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
