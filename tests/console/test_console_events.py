"""The stream of events: in order, each once, only what is on the disk, for those alone who may see it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from console_house import CONSOLE, Operator, open_console

from palyra.events.base import Draft
from palyra.events.heartbeats import HeartbeatRecorded
from palyra.events.keys import ClientKeyRevoked

BEAT = HeartbeatRecorded(work_kind="loop", work_id="x", beat_no=1, stalls_after_ms=60_000)


class Event(NamedTuple):
    """One event of the stream."""

    id: int
    name: str
    data: dict[str, Any]


class Reader:
    """Reads a stream piece by piece."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.content = response.content

    async def event(self) -> Event | None:
        """Return the next event, None at the end; comments are passed over."""
        fields: dict[str, str] = {}
        while line := (await self.content.readline()).decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif line == "\n" and "event" in fields:
                return Event(int(fields.get("id", 0)), fields["event"], json.loads(fields["data"]))
        return None

    async def events(self, count: int) -> list[Event]:
        """Return so many events."""
        found = [await self.event() for _ in range(count)]
        return [one for one in found if one is not None]


@contextlib.asynccontextmanager
async def listening(ask: Operator, *, last: int | None = None, **query: Any) -> AsyncIterator[Reader]:
    """Open a stream; it has begun when this returns."""
    headers = {"authorization": f"Bearer {ask.key}"} | ({} if last is None else {"last-event-id": str(last)})
    async with aiohttp.ClientSession() as session:
        url = f"{ask.daemon.url}{CONSOLE}events"
        async with session.get(url, params=query, headers=headers) as response:
            assert response.status == 200, await response.text()
            assert response.headers["content-type"].startswith("text/event-stream")
            yield Reader(response)


async def test_everything_comes_once_and_in_order(tmp_path: Path) -> None:
    """From a position on, over a cut: what the journal has, each position once."""
    async with open_console(tmp_path) as ask:
        await ask.say()
        async with listening(ask, after=0) as reader:
            first = await reader.events(4)
        await ask.say()
        async with listening(ask, last=first[-1].id) as reader:
            rest = await reader.events(len(ask.daemon.journal) - 4)
        got = [*first, *rest]
        assert [one.id for one in got] == list(range(1, len(got) + 1))
        names = [recorded.name async for recorded in ask.daemon.journal]
        assert [one.name for one in got] == names[: len(got)]
        assert got[0].data["body"]["journal_id"] == ask.daemon.journal.journal_id
        assert {"position", "stream", "version", "recorded_at_us", "actor", "correlation"} <= set(got[0].data)


async def test_what_comes_is_sent_as_it_comes(tmp_path: Path) -> None:
    """Without a position a stream begins at the head; patterns choose; signs of life come to who names them."""
    async with open_console(tmp_path) as ask:
        async with listening(ask) as plain, listening(ask, names="heartbeat.*,run.*") as chosen:
            await ask.daemon.core.record([Draft("beat-loop-x", BEAT)])
            run_id = await ask.say()
            events = await plain.events(2)
            assert [one.name for one in events] == ["run.admitted", "routing.decided"]
            beat, admitted, completed = await chosen.events(3)
            assert (beat.name, admitted.name) == ("heartbeat.recorded", "run.admitted")
            assert completed.name == "run.completed"
            assert admitted.data["stream"] == f"run-{run_id}"
        async with listening(ask, stream=f"run-{run_id}", after=0) as one_run:
            assert (await one_run.events(1))[0].name == "run.admitted"


async def test_where_a_stream_cannot_begin(tmp_path: Path) -> None:
    """Past the head, with a query nobody knows, without a key."""
    async with open_console(tmp_path) as ask:
        past = await ask("events", after=10**9)
        assert (past.status, past.code) == (412, "position_not_reached")
        assert (await ask("events", since=1)).error["field"] == "since"
        assert (await ask("events", key="")).status == 401
        assert (await ask("events", key=ask.daemon.client_key)).code == "missing_scope"


async def test_no_more_than_configured(tmp_path: Path) -> None:
    """One stream too many is refused, and there is room again when one has gone."""
    config = {"console": {"event_clients_max_count": 1}}
    async with open_console(tmp_path, config) as ask:
        feed = ask.daemon._feed
        async with listening(ask):
            refused = await ask("events")
            assert (refused.status, refused.code) == (429, "too_many_streams")
            assert refused.headers["retry-after"] == "5"
        while feed.open_count:
            await asyncio.sleep(0.01)
        async with listening(ask, after=0) as reader:
            assert (await reader.events(1))[0].id == 1


async def test_whoever_is_not_welcome_any_more_is_told(tmp_path: Path) -> None:
    """A key that is revoked ends its streams."""
    async with open_console(tmp_path) as ask:
        async with listening(ask) as reader:
            key_id = ask.key.split("_")[2]
            await ask.daemon.core.record([Draft(f"key-{key_id}", ClientKeyRevoked(reason="operator"))])
            ended = await reader.event()
            assert ended is not None
            assert ended.name == "session_ended"
            assert await reader.event() is None


async def test_silence_is_filled(tmp_path: Path) -> None:
    """A comment now and then keeps the connection open."""
    async with open_console(tmp_path) as ask:
        ask.daemon._feed._ping_s = 0.01
        async with listening(ask) as reader:
            lines = [await reader.content.readline() for _ in range(6)]
            assert lines.count(b": ping\n") >= 2


async def test_a_stream_ends_with_the_daemon(tmp_path: Path) -> None:
    """Stopping waits for no reader; what was recorded until then is sent."""
    async with open_console(tmp_path) as ask:
        async with listening(ask) as reader:
            await ask.daemon.stop()
            event = await reader.event()
            assert event is not None
            assert event.name == "daemon.draining"
            while event is not None:
                event = await reader.event()
