"""Both doors say the same: what a daemon answers and what a command reads in the file are the same bytes."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from registries import model, provider, registry
from story import (
    T0_US,
    World,
    admit,
    boot,
    break_down,
    complete,
    fail,
    given,
    go_on,
    record,
    recover,
    serve,
    start,
    succeed,
    wait,
)

from palyra.engine.codec import state_digest, to_row
from palyra.engine.console.child import Answered, Asked, _answer
from palyra.engine.console.file import ask_file
from palyra.engine.console.frame import JournalFiles, Params, Question, Sight, Told, ask
from palyra.engine.console.table import QUESTIONS
from palyra.engine.moments import lock_then
from palyra.errors import PalyraError
from palyra.events.daemon import DaemonReady
from palyra.journal.lock import Holder, LockState
from palyra.journal.reader import JournalReader
from palyra.journal.sqlite import SqliteJournal
from palyra.projections.state import State, encode_state, evolve

REGISTRY = registry(
    provider("a", circuit_breaker_failure_threshold=2, max_retries=1),
    provider("b"),
    model("gpt", "a", priority=1),
    model("gpt", "b", priority=2),
)
LOCK = LockState(True, Holder(pid=7, release="0", started_at_us=T0_US))
#: After everything that happens in a journal.
NOW_US = T0_US + 10**12


def random_world(dice: random.Random) -> World:
    """Return a history of a few runs of every kind, of starts and of crashes, some of it in one microsecond."""
    world = given(REGISTRY, record("daemon", DaemonReady(boot_id="boot-1", took_ms=1)))
    for number in range(dice.randint(1, 8)):
        run_id = f"01K{dice.choice('ABC')}{number:022}"
        kind = dice.randrange(6)
        if kind == 0:
            steps = [serve(run_id, stream=dice.random() < 0.5)]
        elif kind == 1:
            steps = [admit(run_id, "nobody")]
        elif kind == 2:
            steps = [admit(run_id), start(run_id), fail(run_id, "overloaded", status=503, may_retry=False)]
            steps += [go_on(run_id), start(run_id, candidate=1), wait(ms=5), succeed(run_id)]
            steps += [complete(run_id, candidate=1)]
        elif kind == 3:
            steps = [break_down(run_id, "client_disconnected")]
        elif kind == 4:
            steps = [boot(), recover()]
        else:
            steps = [admit(run_id)]
        try:
            world.do(wait(ms=dice.choice([0, 0, 1, 60_000])), *steps)
        except (AssertionError, KeyError, IndexError):
            break  # the circuit leaves this run another way; what came so far is history enough
    return world


async def write(path: Path, world: World, dice: random.Random) -> None:
    """Write a history with a few snapshots."""
    journal = await SqliteJournal.open(path, new_journal_id="01DOORS", now_us=T0_US)
    state, rows = State(), []
    for recorded in world.history:
        rows.append(to_row(recorded))
        evolve(state, recorded)
        if dice.random() < 0.1:
            await journal.append(rows)
            await journal.save_snapshot(state.position, state_digest(), encode_state(state))
            rows = []
    await journal.append(rows)
    await journal.close()


def some_params(question: Question[Any, Any], dice: random.Random, world: World) -> Params:
    """Return something that can be asked."""
    given: dict[str, Any] = {}
    fields = question.params.__struct_fields__
    if "run" in fields and "{run}" in question.path:
        runs = [one.stream[4:] for one in world.history if one.stream.startswith("run-")]
        given["run"] = dice.choice(["last", *runs])
    if "event" in fields:
        given["event"] = dice.choice(["daemon", "config", "1", "daemon:1"])
    if any(field.name == "state" and field.type is bool for field in msgspec.structs.fields(question.params)):
        given["state"] = True
    if "limit" in fields:
        given["limit"] = dice.choice([1, 3, 500])
    for name in ("a", "b"):
        if name in fields:
            given[name] = dice.choice([1, 2])
    for field in msgspec.structs.fields(question.params):
        if field.required and field.name not in given:
            given[field.name] = "runs"  # a chapter of the state; of anything else a name that nothing has
    params: Params = question.params(**given)
    return params


def by_file(files: JournalFiles, question: Question[Any, Any], params: Params, at: str | None) -> bytes | str:
    """Return what a command gets."""
    try:
        return ask_file(question, params, files=files, lock=LOCK, at=at, zone="Europe/Prague", now_us=NOW_US).data
    except PalyraError as error:
        return error.code


def by_child(files: JournalFiles, question: Question[Any, Any], params: Params, at: str | None) -> bytes | str:
    """Return what the daemon gets of its child."""
    asked = Asked(
        path=question.path,
        params=msgspec.Raw(msgspec.json.encode(params)),
        at=at,
        zone="Europe/Prague",
        now_us=NOW_US,
        is_locked=LOCK.is_locked,
        holder=LOCK.holder,
    )
    out = io.BytesIO()
    _answer(files, msgspec.json.decode(msgspec.json.encode(asked), type=Asked), out)
    line, _, data = out.getvalue().partition(b"\n")
    answered = msgspec.json.decode(line, type=Answered)
    return data if answered.refusal is None else answered.refusal.code


def by_memory(
    question: Question[Any, Any], params: Params, state: State, files: JournalFiles, now_us: int, *, is_past: bool
) -> bytes | str:
    """Return what a daemon answers whose memory has come so far."""
    from palyra.engine.replay import fold_file
    from palyra.engine.zones import find_zone

    with JournalReader(files.path, upto=state.position) as rows:
        sight = Sight(
            journal_id=rows.journal_id,
            position=state.position,
            now_us=now_us,
            zone=find_zone("Europe/Prague"),
            lock=lock_then if is_past else LOCK,
            state=state,
            rows=rows,
            fold=lambda upto: fold_file(files.path, upto=upto, use_snapshots=False).state,
            files=files,
        )
        try:
            told: Told = ask(question, sight, params)
        except PalyraError as error:
            return error.code
    return told.data


@pytest.mark.parametrize("seed", range(20))
async def test_every_door_gives_the_same_bytes(seed: int, tmp_path: Path) -> None:
    """At ten moments of each of twenty random journals: file, child and live memory agree on every question."""
    dice = random.Random(seed)
    world = random_world(dice)
    files = JournalFiles(tmp_path / "journal.db", tmp_path / "vault.key")
    await write(files.path, world, dice)
    history, head = world.history, len(world.history)
    moments = {0, 1, head, *(dice.randint(0, head) for _ in range(7))}
    live = State()
    for position in range(head + 1):
        if position:
            evolve(live, history[position - 1])
        if position not in moments:
            continue
        now_us = history[position - 1].recorded_at_us if position else T0_US
        for question in QUESTIONS:
            params = some_params(question, dice, world)
            found = by_file(files, question, params, str(position))
            assert found == by_child(files, question, params, str(position)), (seed, position, question.path)
            memory = by_memory(question, params, live, files, now_us, is_past=True)
            assert found == memory, (seed, position, question.path)
    for question in QUESTIONS:
        params = some_params(question, dice, world)
        found = by_file(files, question, params, None)
        assert found == by_memory(question, params, live, files, NOW_US, is_past=False)
        assert found == by_child(files, question, params, None)


async def test_moments_at_the_edges(tmp_path: Path) -> None:
    """0, 1, the head, one past it, between equal microseconds, before the first event: no door differs."""
    world = given(REGISTRY)
    world.do(serve("01KONE"))  # all of it in one microsecond
    world.do(wait(ms=1), serve("01KTWO"))
    files = JournalFiles(tmp_path / "journal.db", tmp_path / "vault.key")
    await write(files.path, world, random.Random(0))
    head, instants = len(world.history), [one.recorded_at_us for one in world.history]
    twins = [number for number in range(1, head) if instants[number] == instants[number - 1]]
    assert twins, "no two events share a microsecond"
    edges = {"0": 0, "1": 1, str(head): head, str(head + 1): None, str(twins[0]): twins[0]}
    same_us = max(number + 1 for number in range(head) if instants[number] == instants[twins[0]])
    edges[_text(instants[twins[0]])] = same_us
    edges[_text(instants[0] - 1)] = 0
    edges[_text(instants[-1])] = head
    for at, position in edges.items():
        for question in QUESTIONS:
            params = some_params(question, random.Random(1), world)
            found = by_file(files, question, params, at)
            assert found == by_child(files, question, params, at)
            if position is None:
                assert found == "position_not_found"
            elif isinstance(found, bytes):
                assert msgspec.json.decode(found)["at"]["position"] == position


def _text(instant_us: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(instant_us // 10**6, UTC).strftime(f"%Y-%m-%dT%H:%M:%S.{instant_us % 10**6:06}Z")
