"""The alarm: rings once, at the last deadline it was given."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest
import uvloop

from palyra.providers.alarm import Alarm


class Rung:
    """What an alarm does in these tests: notes the instants."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.event = asyncio.Event()

    def __call__(self) -> None:
        self.at.append(asyncio.get_running_loop().time())
        self.event.set()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loops(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    return request.param  # type: ignore[no-any-return]


def test_it_rings_at_the_last_deadline(loops: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Moved later it rings later, moved earlier it rings earlier, and each time once."""

    async def story() -> None:
        now = asyncio.get_running_loop().time
        for moves_s in ((0.01,), (0.005, 0.02), (60.0, 0.01), (0.01, 60.0, 0.02)):
            rung = Rung()
            alarm = Alarm(rung)
            started = now()
            for move_s in moves_s:
                alarm.set(started + move_s)
            await rung.event.wait()
            assert len(rung.at) == 1
            assert rung.at[0] >= started + moves_s[-1] - 0.002
            assert alarm.at == math.inf

    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(story())


def test_cleared_and_cancelled_alarms_are_silent(loops: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A deadline that was taken back does not ring; the alarm can be set again."""

    async def story() -> None:
        now = asyncio.get_running_loop().time
        cleared, cancelled, last = Rung(), Rung(), Rung()
        alarms = Alarm(cleared), Alarm(cancelled), Alarm(last)
        for alarm in alarms:
            alarm.set(now() + 0.005)
        alarms[0].clear()
        alarms[1].cancel()
        alarms[1].cancel()
        alarms[2].set(now() + 0.02)
        await last.event.wait()
        assert cleared.at == cancelled.at == []
        alarms[0].set(now())
        await cleared.event.wait()

    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(story())
