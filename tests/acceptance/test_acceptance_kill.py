"""kill -9 of the whole daemon under load: no acknowledged answer loses its usage, every open run is closed once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import aiohttp
import pytest
from acceptance_kit import CHAT, CONFIG, Served, chat, folded, history, loaded, serving, spawn, write_config
from upstream import HANG, Behaviour, Upstream

from palyra.app import Daemon
from palyra.auth.keyfiles import witness_key
from palyra.config.state import StatePaths, prepare_state_dir
from palyra.engine.boot import open_work
from palyra.events.attempts import AttemptAbandoned
from palyra.events.base import Recorded
from palyra.events.budgets import BudgetReleased, BudgetReserved
from palyra.events.daemon import DaemonStarted
from palyra.events.runs import RunAdmitted, RunFailed
from palyra.events.usage import UsageRecorded
from palyra.journal.sqlite import prepare_file

ROUNDS_COUNT = 3
CLIENTS_COUNT = 8


async def test_kill_at_random_instants_loses_no_money(tmp_path: Path) -> None:
    """Kills under load, each on the state that the one before left; the last start finds nothing more to do."""
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    acknowledged: list[str] = []
    left: dict[str, int] = {}
    async with Upstream() as up:
        config = str(write_config(tmp_path / "palyra.toml", CONFIG.format(url=up.url)))
        for _ in range(ROUNDS_COUNT):
            up.drop_replies()
            up.reply_with(*_behaviours(chance))
            async with serving(tmp_path, "--config", config) as daemon:
                _check_start(daemon, left, acknowledged)
                acknowledged += await _serve_until_killed(daemon, chance)
            left = open_work(folded(daemon.state_dir))
            assert left["attempts"] > 0
        for expected in (left, {}):
            async with serving(tmp_path, "--config", config) as daemon:
                _check_start(daemon, expected, acknowledged)
                await daemon.kill()
        verified = await spawn(tmp_path, "journal", "verify", "--replay")
        out, err = await verified.communicate()
        assert (verified.returncode, err) == (0, b""), out
        await up.connections_closed()


def _behaviours(chance: random.Random) -> list[Behaviour]:
    """Return answers of which a few never end, so that every kill meets attempts that are open."""
    hanging = Behaviour(after={chance.randrange(2): HANG})
    return [hanging, *(Behaviour(after={1: HANG}) if chance.random() < 0.05 else Behaviour() for _ in range(80))]


async def _serve_until_killed(daemon: Served, chance: random.Random) -> list[str]:
    """Ask from several clients at once, kill in the middle, and return the runs whose answers arrived whole."""
    acknowledged: list[str] = []
    enough = asyncio.Event()
    wanted_count = chance.randrange(1, 40)

    async def ask(session: aiohttp.ClientSession, number: int) -> None:
        is_stream = bool(number % 2)
        while True:
            async with session.post(f"{daemon.url}{CHAT}", json=chat(stream=is_stream)) as answer:
                assert answer.status == 200
                body = await answer.read()
                assert not is_stream or body.endswith(b"data: [DONE]\n\n")
                acknowledged.append(answer.headers["x-palyra-run-id"])
                if len(acknowledged) >= wanted_count:
                    enough.set()

    async with aiohttp.ClientSession(headers=daemon.headers) as session:
        clients = [asyncio.create_task(ask(session, number)) for number in range(CLIENTS_COUNT)]
        await enough.wait()
        await daemon.kill()
        ends = await asyncio.gather(*clients, return_exceptions=True)
    unexpected = [end for end in ends if not isinstance(end, (aiohttp.ClientError, ConnectionError))]
    assert [end for end in unexpected if not _is_torn_stream(end)] == []
    return acknowledged


def _is_torn_stream(end: object) -> bool:
    """Whether a stream ended without its end marker, which is how a kill looks to some clients."""
    return isinstance(end, AssertionError) and "endswith" in str(end)


def _check_start(daemon: Served, left: dict[str, int], acknowledged: list[str]) -> None:
    """The ready line tells what was closed, and the facts of this boot are exactly that."""
    is_first = not acknowledged
    assert daemon.ready["found"] == ("new" if is_first else "recovered" if left else "clean")
    assert daemon.ready["recovered"] == left
    facts = history(daemon.state_dir)
    boot = max(index for index, one in enumerate(facts) if isinstance(one.body, DaemonStarted))
    new = Counter(one.body.__struct_config__.tag for one in facts[boot:])
    assert new["attempt.abandoned"] == new["usage.recorded"] == left.get("attempts", 0)
    assert new["run.failed"] == left.get("runs", 0)
    if not left and not is_first:
        assert set(new) == {"daemon.started", "daemon.ready"}
    _audit(facts, acknowledged)
    state = folded(daemon.state_dir)
    assert (state.runs.open, state.budgets.holds) == ({}, {})


def _audit(facts: list[Recorded], acknowledged: list[str]) -> None:
    """Each admitted run has one end, each hold one release, each acknowledged run its usage."""
    ends = Counter(one.stream for one in facts if one.body.__struct_config__.tag in _ENDS)
    assert ends == Counter(one.stream for one in facts if isinstance(one.body, RunAdmitted))
    held, freed = (Counter(one.stream for one in facts if isinstance(one.body, kind)) for kind in _HOLDS)
    assert held == freed
    abandoned = {one.stream for one in facts if isinstance(one.body, AttemptAbandoned)}
    interrupted = {one.stream for one in facts if isinstance(one.body, RunFailed)}
    assert abandoned <= interrupted
    used = Counter(one.stream for one in facts if isinstance(one.body, UsageRecorded))
    assert all(used[f"run-{run_id}"] == 1 for run_id in acknowledged)
    assert not interrupted & {f"run-{run_id}" for run_id in acknowledged}


_ENDS = ("run.completed", "run.failed", "run.cancelled", "run.refused")
_HOLDS = (BudgetReserved, BudgetReleased)


@pytest.mark.parametrize("made", ["directory", "vault key", "empty file", "journal", "client key"])
async def test_a_first_start_that_was_killed_is_begun_again(made: str, tmp_path: Path) -> None:
    """Whatever a first start had made when it was killed, the next one takes it from there."""
    paths = StatePaths(tmp_path / "state")
    prepare_state_dir(paths)
    if made != "directory":
        witness_key(paths.vault_key, create=True)
    if made == "empty file":
        paths.journal.touch(0o600)
    if made in ("journal", "client key"):
        prepare_file(paths.journal, new_journal_id="01FIRST", now_us=1)
    if made == "client key":
        async with Daemon(loaded(tmp_path)):
            lost = paths.client_key.read_text()
        paths.journal.unlink()
        paths.head.unlink()
        prepare_file(paths.journal, new_journal_id="01SECOND", now_us=1)
    async with Daemon(loaded(tmp_path)) as daemon, aiohttp.ClientSession() as session:
        assert daemon.found == "new"
        if made == "client key":
            assert paths.client_key.read_text() != lost
        headers = {"authorization": f"Bearer {paths.client_key.read_text().strip()}"}
        async with session.get(f"{daemon.url}/v1/models", headers=headers) as answer:
            assert answer.status == 200
