"""Signs of life: beats of runs that last, comments on silent streams, and silence about all others."""

from __future__ import annotations

import asyncio

import pytest
from engine_fakes import (
    EVENTS,
    ROLE,
    GatedJournal,
    ManualClock,
    Script,
    ScriptedProvider,
    error,
    event,
    turn,
    unary,
    until,
)
from engine_world import HAPPY, Taker, house, one

from palyra.engine.beats import clear_beat
from palyra.engine.exchange import ClientGone
from palyra.engine.run import RunSettings
from palyra.events.heartbeats import HeartbeatCleared, HeartbeatRecorded
from palyra.journal.memory import MemoryJournal
from palyra.journal.writer import JournalOptions

NEVER_MS = 3_600_000
COMMENT = b": \n\n"
STOP = event({}, "stop")


def quick() -> MemoryJournal:
    """Return a journal whose lazy rows wait for next to nothing."""
    return MemoryJournal(journal_id="01TEST", now_us=1, options=JournalOptions(lazy_append_ms=1))


def keepalive(duration_ms: int) -> RunSettings:
    return RunSettings(sse_keepalive_ms=duration_ms, beat_every_ms=NEVER_MS)


def beats(duration_ms: int) -> RunSettings:
    return RunSettings(sse_keepalive_ms=NEVER_MS, beat_every_ms=duration_ms)


async def test_short_run_gives_no_sign() -> None:
    """A run that ends before the first look leaves no beat and no comment, and the looking ends by itself."""
    async with house(one(), extra={"a": ScriptedProvider()}, settings=RunSettings(sse_keepalive_ms=8)) as world:
        run = world.start_chat()
        await run.task
        assert world.names(run.run_id) == HAPPY
        watch = world.runs.watch
        while watch._timer is not None:
            await asyncio.sleep(0)
        assert watch._marks == {}


async def test_client_of_a_silent_stream_gets_comments() -> None:
    """Silence before the answer's head begins the stream with comments; then the answer follows."""
    gate = asyncio.Event()
    fake = ScriptedProvider(Script(ROLE, event({"content": "At last."}), STOP, headers=EVENTS, head=gate))
    async with house(one(), extra={"a": fake}, settings=keepalive(16)) as world:
        taker = Taker()
        run = world.start_chat(client=taker, stream=True)
        await taker.got(COMMENT * 2)
        assert taker.begun_count == 1
        assert run.client.sends_count == 0
        gate.set()
        assert (await run.task).status == 200
        assert taker.text == "At last."
        assert taker.begun_count == 1


async def test_failure_after_a_comment_is_an_error_event() -> None:
    """Once the stream has begun, a failure cannot have a status of its own; failover was still tried."""
    gate = asyncio.Event()
    async with house(
        one(), extra={"a": ScriptedProvider(Script(b"{}", status=500, head=gate))}, settings=keepalive(16)
    ) as world:
        taker = Taker()
        run = world.start_chat(client=taker, stream=True)
        await taker.got(COMMENT)
        gate.set()
        reply = await run.task
        assert (reply.status, reply.body) == (502, None)
        assert taker.error is not None
        assert taker.error["error"]["code"] == "transient_upstream"
        assert taker.is_complete


async def test_comments_go_on_between_candidates() -> None:
    """A run in a backoff is as silent as one on the wire, and its client is told the same way."""
    fake = ScriptedProvider(error(500), Script(ROLE, event({"content": "x"}), STOP, headers=EVENTS))
    config = one(max_retries=1, retry_backoff_ms=60)
    async with house(config, extra={"a": fake}, settings=keepalive(8)) as world:
        taker = Taker()
        run = world.start_chat(client=taker, stream=True)
        await taker.got(COMMENT)
        assert (await run.task).status == 200
        assert taker.headers["x-palyra-attempts"] == "1"


async def test_stream_that_speaks_gets_no_comment() -> None:
    """Only silence is broken."""
    gate = asyncio.Event()
    fake = ScriptedProvider(Script(ROLE, event({"content": "One"}), gate, STOP, headers=EVENTS))
    async with house(one(), extra={"a": fake}, settings=keepalive(NEVER_MS)) as world:
        taker = Taker()
        run = world.start_chat(client=taker, stream=True)
        await taker.got(b"One")
        gate.set()
        await run.task
        assert COMMENT not in taker.data


async def test_unary_client_gets_no_comment() -> None:
    """There is nothing to comment on before a whole answer."""
    gate = asyncio.Event()
    fake = ScriptedProvider(Script(*unary().pieces, head=gate))
    journal = quick()
    async with house(
        one(), journal=journal, extra={"a": fake}, settings=RunSettings(sse_keepalive_ms=4, beat_every_ms=40)
    ) as world:
        run = world.start_chat()
        await until(lambda: "heartbeat.recorded" in world.names())
        gate.set()
        assert (await run.task).status == 200


async def test_client_that_is_gone_when_a_comment_comes() -> None:
    """A hang-up that shows at a comment is a hang-up."""

    class Gone(Taker):
        async def begin(self, headers):  # type: ignore[no-untyped-def]
            raise ClientGone

    gate = asyncio.Event()
    fake = ScriptedProvider(Script(head=gate))
    async with house(one(on_client_disconnect="cancel"), extra={"a": fake}, settings=keepalive(8)) as world:
        run = world.start_chat(client=Gone(), stream=True)
        assert (await run.task).status == 499


@pytest.mark.parametrize("is_failing", [False, True])
async def test_stream_that_begins_with_a_comment_begins_once(is_failing: bool) -> None:
    """While the head is on its way with a comment, neither content nor an error overtakes it."""

    class Slow(Taker):
        async def begin(self, headers):  # type: ignore[no-untyped-def]
            await super().begin(headers)
            begun.set()
            await gates[1].wait()

    begun, gates = asyncio.Event(), [asyncio.Event(), asyncio.Event()]
    answer = (b"{}",) if is_failing else (ROLE, event({"content": "x"}), STOP)
    script = Script(*answer, status=500 if is_failing else 200, headers=EVENTS, head=gates[0])
    async with house(one(), extra={"a": ScriptedProvider(script)}, settings=keepalive(8)) as world:
        taker = Slow()
        run = world.start_chat(client=taker, stream=True)
        await begun.wait()
        gates[0].set()
        await turn(20)
        assert taker.data == b""
        gates[1].set()
        reply = await run.task
        assert reply.body is None
        assert taker.begun_count == 1
        assert (taker.error is not None) == is_failing
        assert taker.is_complete


async def test_comment_that_nobody_takes_is_not_repeated() -> None:
    """A client that takes nothing gets no second comment, and the first ends with its run."""

    class Stuck(Taker):
        async def send(self, data: bytes) -> None:
            self.sends += 1
            await asyncio.Event().wait()

    gate = asyncio.Event()
    fake = ScriptedProvider(Script(head=gate))
    async with house(one(), extra={"a": fake}, settings=keepalive(4)) as world:
        taker = Stuck()
        run = world.start_chat(client=taker, stream=True)
        await until(lambda: taker.sends)
        looks = world.runs.watch
        mark = looks._marks[run.run_id]
        since_us = mark.silent_since_us
        await until(lambda: mark.silent_since_us > since_us)
        assert taker.sends == 1
        run.client.is_gone = True
        run.cancel("operator")
        await run.task
        await turn(2)
        assert mark.sign is not None
        assert mark.sign.cancelled()


async def test_run_that_lasts_beats() -> None:
    """It says that it is there, then that it advances; when it ends, the beat is cleared in the same commit."""
    gates = [asyncio.Event() for _ in range(2)]
    fake = ScriptedProvider(
        Script(ROLE, gates[0], event({"content": "One"}), gates[1], STOP, headers=EVENTS), unary()
    )
    async with house(one(), journal=quick(), extra={"a": fake}, settings=beats(16)) as world:
        taker = Taker()
        run = world.start_chat(client=taker, stream=True)
        await until(lambda: world.facts(HeartbeatRecorded))
        (first,) = world.facts(HeartbeatRecorded)
        assert (first.work_kind, first.work_id, first.beat_no) == ("run", run.run_id, 1)
        assert (first.stage_code, first.progress_count) == ("waiting", 0)
        assert first.stalls_after_ms == 120_000
        assert world.state.heartbeats.board
        gates[0].set()
        await until(lambda: len(world.facts(HeartbeatRecorded)) == 2)
        second = world.facts(HeartbeatRecorded)[1]
        assert (second.beat_no, second.stage_code, second.progress_count) == (2, "streaming", 1)
        gates[1].set()
        await run.task
        assert world.names()[-3:] == ["run.completed", "heartbeat.cleared", "health.changed"]
        assert clear_beat(world.state, run.run_id) == []


async def test_run_that_stands_still_beats_once() -> None:
    """Without progress there is no second beat: silence is what the watchdog looks for."""
    clock, gate = ManualClock(), asyncio.Event()
    fake = ScriptedProvider(Script(head=gate, status=500))
    async with house(one(), clock=clock, extra={"a": fake}, settings=beats(10_000)) as world:
        run = world.start_chat()
        await until(lambda: fake.calls)
        for _ in range(5):
            world.runs.watch._look()
            clock.pass_ms(10_000)
        assert world.runs.watch._marks[run.run_id].beats_count == 1
        gate.set()
        await run.task
        assert len(world.facts(HeartbeatRecorded)) == len(world.facts(HeartbeatCleared)) == 1


async def test_cancelled_run_clears_its_beat() -> None:
    """However a run ends, its work is taken off the board."""
    fake = ScriptedProvider(Script(head=asyncio.Event()))
    async with house(one(), journal=quick(), extra={"a": fake}, settings=beats(8)) as world:
        run = world.start_chat()
        await until(lambda: world.facts(HeartbeatRecorded))
        run.cancel("operator")
        await run.task
        assert len(world.facts(HeartbeatCleared)) == 1


async def test_no_beat_while_nothing_can_be_recorded() -> None:
    """A beat is not worth a failure: while the journal is away there is none."""
    journal = GatedJournal()
    fake = ScriptedProvider(Script(head=asyncio.Event()))
    async with house(one(), journal=journal, extra={"a": fake}, settings=beats(NEVER_MS)) as world:
        run = world.start_chat()
        await until(lambda: fake.calls)
        watch = world.runs.watch
        watch._look()
        mark = watch._marks[run.run_id]
        world.core._failed = True
        watch._record_beat(run.run_id, mark)
        world.core._failed = False
        watch._record_beat("unknown", mark)
        assert world.state.heartbeats.board == {}
        run.cancel("operator")
        await run.task
