"""The loops themselves, and the table of those that run: what wakes each, and what it does then.

A loop holds no truth. It asks, sleeps until the answer's deadline or the bell, and orders what is due; killing it
at any `await` loses nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

import msgspec

from palyra.errors import PalyraError
from palyra.supervisor.pace import Pace
from palyra.supervisor.ports import Chore, Clock, LoopLog, StallWatch, Topic


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the loops get from outside."""

    clock: Clock
    log: LoopLog
    stalls: StallWatch
    #: None where the journal has no file.
    snapshots: Chore | None
    witness: Chore | None
    checkpoints: Chore | None
    machine: Chore
    health: Chore
    discovery: Chore
    credentials: Chore
    tokens: Chore
    sweeps: Chore
    alerts: Chore
    contents: Chore
    config_files: Chore


class Loop(NamedTuple):
    """A row of the table. `main` runs until it is cancelled, or returns when its pace retires."""

    name: str
    topics: tuple[Topic, ...]
    main: Callable[[Pace], Awaitable[None]]


def loop_table(ports: Ports) -> tuple[Loop, ...]:
    """Return the loops in start order. The watchdog starts first and ends last: it sees what the others do."""

    def chore(name: str, port: Chore) -> Loop:
        return Loop(name, ("journal", "clock"), partial(keep_doing, chore=port, clock=ports.clock))

    chores = {"snapshots": ports.snapshots, "witness": ports.witness, "checkpoints": ports.checkpoints}
    return (
        Loop("watchdog", ("beats", "clock"), partial(watch, port=ports.stalls, clock=ports.clock)),
        *(chore(name, port) for name, port in chores.items() if port is not None),
        chore("machine", ports.machine),
        chore("health", ports.health),
        chore("discovery", ports.discovery),
        chore("credentials", ports.credentials),
        chore("tokens", ports.tokens),
        chore("sweeps", ports.sweeps),
        chore("alerts", ports.alerts),
        chore("contents", ports.contents),
        chore("config_files", ports.config_files),
    )


async def keep_doing(pace: Pace, chore: Chore, clock: Clock) -> None:
    """Do the chore whenever it is due."""

    async def step() -> int | None:
        due_at_us = chore.due_at_us()
        if due_at_us is None or due_at_us > clock.now_us():
            return due_at_us
        await chore.do()
        return chore.due_at_us()

    await pace.run(step)


async def watch(pace: Pace, port: StallWatch, clock: Clock) -> None:
    """Report work that fell silent, and work that came back; one verdict that is refused holds up no other."""

    async def step() -> int | None:
        answer = port.stalls(clock.now_us())
        failure: PalyraError | None = None
        for stall in answer.verdicts:
            tell = port.resolve_stall if stall.stage == "recovered" else port.report_stall
            try:
                await tell(stall)
            except PalyraError as exc:
                failure = exc
        if failure is not None:
            raise failure
        return answer.next_deadline_us

    await pace.run(step)
