"""Cancelled anywhere: after every number of turns of the loop, in every kind of run, whoever cancels it.

Nothing here waits for time or sockets, so a run takes the same turns each time, and all of its moments are tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from engine_fakes import (
    EVENTS,
    ROLE,
    ManualClock,
    Script,
    ScriptedProvider,
    cut,
    error,
    event,
    stream,
    turn,
)
from engine_world import RUN_ENDS, RunTask, Taker, World, house, model, one, provider, registry, two

from palyra.events.registry import Registry
from palyra.events.runs import RunCancelled
from palyra.events.usage import UsageRecorded

#: More turns than any of these runs takes.
TURNS_MAX = 80


class Scene:
    """A kind of run: what is configured, what the providers do, and how it is started."""

    def __init__(
        self,
        config: Registry,
        *scripts: Callable[[], Script],
        body: dict[str, Any] | None = None,
        prepare: Callable[[World], Any] | None = None,
    ) -> None:
        self.config = config
        self.scripts = scripts
        self.body = body or {}
        self.prepare = prepare


async def _occupy(world: World) -> list[RunTask]:
    """Take the one slot with a run of its own, which ends after some turns."""
    other = world.start_chat("first")
    await turn()
    return [other]


async def _break(world: World) -> list[RunTask]:
    """Open the circuit, and let its cooldown pass."""
    await world.chat()
    assert world.state.circuits.by_provider["a"].status == "open"
    world.core.clock.pass_ms(60_000)  # type: ignore[attr-defined]
    return []


STREAM = {"stream": True}
E = registry(provider("a"), model("e", "a", role="embeddings", max_batch=1), default_embeddings_model_id="e")
SCENES: dict[str, Scene] = {
    "unary": Scene(one()),
    "stream": Scene(one(), body=STREAM),
    "stream, cancel": Scene(one(on_client_disconnect="cancel"), body=STREAM),
    "failover": Scene(two(), lambda: error(500)),
    "failover of a stream": Scene(two(), lambda: Script(ROLE, cut(), headers=EVENTS), body=STREAM),
    "retry": Scene(one(max_retries=2, retry_backoff_ms=0), lambda: error(500), lambda: error(503)),
    "queue": Scene(one(max_concurrency=1), prepare=_occupy),
    "parts": Scene(E, body={"model": "e", "input": ["a", "b", "c"]}),
    "all fail": Scene(two(), lambda: error(500), lambda: error(500)),
    "fails after content": Scene(one(), lambda: stream("One ", "two", ending=(cut(),)), body=STREAM),
    "trial": Scene(
        one(circuit_breaker_failure_threshold=1, circuit_breaker_cooldown_ms=1), lambda: error(500), prepare=_break
    ),
    "trial of a stream": Scene(
        one(circuit_breaker_failure_threshold=1, circuit_breaker_cooldown_ms=1),
        lambda: error(500),
        lambda: Script(ROLE, event({"content": "One "}), event({"content": "two"}), headers=EVENTS),
        prepare=_break,
        body=STREAM,
    ),
    "refused": Scene(one(), body={"model": "unknown"}),
}


async def play(scene: Scene, stop: Callable[[RunTask], Any], turns_count: int) -> tuple[bool, list[str]]:
    """Play a scene and stop its run after so many turns; return whether it had ended before, and its story."""
    # Both candidates take their scripts from one list, in the order in which they are called.
    fake = ScriptedProvider(*[make() for make in scene.scripts])
    world = await World.make(scene.config, extra={"a": fake, "b": fake}, clock=ManualClock())
    others = await scene.prepare(world) if scene.prepare is not None else []
    run = world.start(scene.body) if "input" in scene.body else world.start_chat(**scene.body)
    await turn(turns_count)
    had_ended = run.task.done()
    stop(run)
    for other in [run, *others]:
        await asyncio.wait([other.task])
    await turn(2)
    assert len(asyncio.all_tasks()) == 2, "besides this one only the journal's writer"
    world.audit()
    assert run.task.cancelled() or run.task.exception() is None
    names = world.names(run.run_id)
    await world.close()
    return had_ended, names


STOPS: dict[str, Callable[[RunTask], Any]] = {
    "operator": lambda run: run.cancel("operator", "tester"),
    "client": lambda run: run.leave(),
    "task": lambda run: run.task.cancel(),
    "twice": lambda run: (run.leave(), run.task.cancel(), run.cancel("shutdown")),
}


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("scene", SCENES)
async def test_cancelled_after_every_turn(scene: str, stop: str) -> None:
    """There is one end or no run at all; no attempt, hold, slot or task is left, whenever it was."""
    ends: dict[str, None] = {}
    for turns_count in range(TURNS_MAX):
        had_ended, names = await play(SCENES[scene], STOPS[stop], turns_count)
        assert sum(name in RUN_ENDS or name == "run.refused" for name in names) == (1 if names else 0)
        assert names or (stop in ("task", "twice") and turns_count == 0)
        ends[names[-1] if names else ""] = None
        if had_ended:
            break
    else:
        pytest.fail("the run did not end by itself")
    if scene != "refused":
        assert "run.cancelled" in ends
        assert len(ends) > 1


async def test_cancelled_run_says_by_whom() -> None:
    """The end names reason and author; the client of a run that an operator cancels is told so."""
    gate = asyncio.Event()
    async with house(one(), extra={"a": ScriptedProvider(Script(head=gate))}) as world:
        run = world.start_chat()
        await turn(10)
        settled = run.cancel("operator", "operator:local")
        assert settled is not None
        assert run.cancel("shutdown") is settled
        reply = await run.task
        assert (reply.status, reply.refusal.code) == (499, "cancelled")
        (ended,) = world.facts(RunCancelled)
        assert (ended.reason, ended.by, ended.policy) == ("operator", "operator:local", "cancel")
        (row,) = world.facts(UsageRecorded)
        assert (row.source, row.billed) == ("estimated", "unknown")


async def test_shutdown_tells_the_client_within_its_stream() -> None:
    """A stream that a shutdown cuts ends with an error event and its end mark."""
    gate = asyncio.Event()
    script = Script(ROLE, event({"content": "One "}), gate, headers=EVENTS)
    async with house(one(), extra={"a": ScriptedProvider(script)}) as world:
        taker = Taker()
        run = world.start_chat(client=taker, stream=True)
        await taker.got(b"One ")
        assert await world.runs.cancel_all("shutdown") == 1
        reply = await run.task
        assert (reply.status, reply.body) == (503, None)
        assert taker.error is not None
        assert taker.error["error"]["code"] == "draining"
        assert taker.is_complete
        assert await world.runs.cancel_all("shutdown") == 0
        await world.runs.wait_until_idle()


async def test_slot_is_free_before_the_client_has_heard() -> None:
    """A client that takes nothing keeps nobody from the slot of its cancelled run."""

    class Stuck(Taker):
        async def send(self, data: bytes) -> None:
            if self.sends:
                await gate.wait()
            await super().send(data)

    gate = asyncio.Event()
    fake = ScriptedProvider(Script(ROLE, event({"content": "One "}), asyncio.Event(), headers=EVENTS))
    async with house(one(max_concurrency=1), extra={"a": fake}) as world:
        taker = Stuck()
        run = world.start_chat(client=taker, stream=True)
        await taker.got(b"One ")
        settled = run.cancel("operator")
        assert settled is not None
        await settled
        assert (await world.chat()).status == 200
        assert not run.task.done()
        gate.set()
        assert (await run.task).status == 499


async def test_bug_ends_the_run_and_is_told_by_its_id_alone() -> None:
    """An exception that nobody expected is reported once, settled, and answered with 500 without its text."""

    class Broken(ScriptedProvider):
        async def send(self, call: Any, secret: Any) -> Any:
            raise ZeroDivisionError("secret detail")

    world = await World.make(one(), extra={"a": Broken()})
    run = world.start_chat()
    reply = await run.task
    assert (reply.status, reply.refusal.code) == (500, "internal")
    assert b"secret detail" not in reply.body
    assert run.run_id.encode() in reply.body
    assert world.bugs == [run.run_id]
    world.bugs.clear()
    world.audit()
    assert world.names(run.run_id)[-1] == "run.failed"
    await world.close()
