"""What a daemon keeps in memory after a million runs, and for how long keeping a snapshot of it holds the loop.

    python bench/state.py [--runs 1000000] [--sessions 100000]

The facts of one plain request, as the program decides them, are folded again and again: other runs, sessions and
callers, over thirty days, every tenth with an idempotency key. "resident" is what the process grew by, after the
allocator gave back what it could. "held by a snapshot" is the longest turn of a loop beside which the snapshot is
made: by encoding the state in the loop, and by the process that the daemon starts for it.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from replay import record_run, registry

from palyra.engine.codec import state_digest, to_recorded
from palyra.engine.core import Core
from palyra.engine.ids import SystemIds
from palyra.engine.snapshotting import keep_snapshot_aside
from palyra.events.base import Draft, Recorded
from palyra.events.config import ConfigAdopted
from palyra.events.runs import RunAdmitted
from palyra.events.usage import UsageRecorded
from palyra.journal.memory import MemoryJournal
from palyra.journal.sqlite import SqliteJournal
from palyra.projections.state import State, decode_state, encode_state, evolve

DAYS_COUNT = 30
CALLERS_COUNT = 20
MODELS_COUNT = 5
KEYED_EVERY = 10
T0_US = 1_800_000_000_000_000


def resident_bytes() -> int:
    """Return what the process holds, garbage and free pages left out as far as that can be had."""
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
    pages_count = int(Path("/proc/self/statm").read_text().split()[1])
    return pages_count * 4_096


async def facts_of_one_request() -> list[Recorded]:
    """Return what the program records about one plain request."""
    journal = MemoryJournal(journal_id="01BENCH", now_us=1)
    core = Core(journal, State())
    await core.record([Draft("config", ConfigAdopted(generation=1, digest="", effective={}, registry=registry()))])
    first = core.state.position
    durable = record_run(core)
    assert durable is not None
    await durable
    return [to_recorded(row) async for rows in journal.read(first) for row in rows]


def fold(runs_count: int, sessions_count: int) -> State:
    """Return the state after so many runs."""
    template = asyncio.run(facts_of_one_request())
    state, chance, ids = State(), random.Random(7), SystemIds()
    evolve(state, Recorded(1, "config", 1, T0_US, "", "", 0, "", _adopted()))
    position = 1
    step_us = DAYS_COUNT * 86_400_000_000 // runs_count
    sessions = [ids.ulid(T0_US + number) for number in range(sessions_count)]
    for number in range(runs_count):
        now_us = T0_US + number * step_us
        run_id = ids.ulid(now_us)
        stream, caller, model = f"run-{run_id}", chance.randrange(CALLERS_COUNT), chance.randrange(MODELS_COUNT)
        for version, fact in enumerate(template, 1):
            position += 1
            body, key = fact.body, ""
            who = {"session_id": sessions[number % sessions_count], "principal_id": f"key:{caller:012}"}
            if type(body) is RunAdmitted:
                body = msgspec.structs.replace(body, **who)
                key = "" if number % KEYED_EVERY else f"idempotency|key:{caller:012}|{run_id}"
            elif type(body) is UsageRecorded:
                what = {"model_id": f"gpt-{model}", "upstream_model": f"gpt-{model}", "cost_nanousd": 1_234_567}
                body = msgspec.structs.replace(body, effective_at_us=now_us, **what, **who)
            evolve(state, Recorded(position, stream, version, now_us, fact.actor, "", 0, key, body))
    return state


def _adopted() -> ConfigAdopted:
    return ConfigAdopted(generation=1, digest="", effective={}, registry=registry())


async def longest_turn_s(work: Callable[[], Awaitable[object]]) -> float:
    """Return the longest time that a loop was held while work went on."""
    longest_s, is_done = 0.0, False

    async def watch() -> None:
        nonlocal longest_s
        while not is_done:
            began_s = time.perf_counter()
            await asyncio.sleep(0.001)
            longest_s = max(longest_s, time.perf_counter() - began_s - 0.001)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.01)
    await work()
    is_done = True
    await watching
    return longest_s


async def held_s(data: bytes, folder: Path) -> tuple[float, float]:
    """Return the longest turns beside a snapshot of this state: encoded in the loop, and by a process."""
    path = folder / "journal.db"
    journal = await SqliteJournal.open(path, new_journal_id="01BENCH", now_us=1)
    core = Core(journal, State())
    await core.record([Draft("config", _adopted())])
    for _ in range(1_000):
        record_run(core)
        await core.durable()
    # The large state stands where the journal's own was half-way; the rest is the tail that is folded on.
    large = decode_state(data)
    large.position = core.state.position // 2
    await journal.save_snapshot(large.position, state_digest(), encode_state(large))

    async def in_the_loop() -> None:
        encode_state(large)

    inside_s = await longest_turn_s(in_the_loop)
    aside_s = await longest_turn_s(lambda: keep_snapshot_aside(path))
    await core.stop()
    return inside_s, aside_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--sessions", type=int, default=100_000)
    options = parser.parse_args()
    state_digest()
    before = resident_bytes()
    state = fold(options.runs, options.sessions)
    grown = resident_bytes() - before
    encode = msgspec.msgpack.Encoder().encode
    print(f"runs, sessions             {options.runs:>12,} {options.sessions:>10,}")
    print(f"resident                   {grown / 2**20:>12,.1f} MiB")
    sizes = {name: len(encode(getattr(state, name))) for name in State.__struct_fields__}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:6]:
        print(f"  {name:<24} {size / 2**20:>12,.2f} MiB encoded")
    data = encode_state(state)
    del state
    began = resident_bytes()
    again = decode_state(data)
    print(f"resident, from a snapshot  {(resident_bytes() - began) / 2**20:>12,.1f} MiB")
    del again
    with tempfile.TemporaryDirectory() as folder:
        inside_s, aside_s = asyncio.run(held_s(data, Path(folder)))
    print(f"held by a snapshot, loop   {inside_s * 1000:>12,.1f} ms")
    print(f"held by a snapshot, aside  {aside_s * 1000:>12,.1f} ms")


if __name__ == "__main__":
    main()
