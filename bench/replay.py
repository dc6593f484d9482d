"""A journal of plain requests: its size, how fast it is folded, and how fast a daemon's state is there.

    python bench/replay.py [--runs 25000] [--rounds 5]

The runs are recorded by the program's own decisions, six events each, eight under a budget. "fold" is rows from
the file through every projection to a state; "verify" checks every row and link; "start" is the newest snapshot and
the tail of 5,000 events behind it.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from palyra.decisions.attempts import AnswerEnd, StartAttempt, start_attempt, succeed_attempt
from palyra.decisions.runs import AdmitRun, admit, complete_run
from palyra.decisions.usage import Metered
from palyra.engine.codec import state_digest
from palyra.engine.core import Core, load_state
from palyra.engine.replay import fold_file
from palyra.events.base import Draft
from palyra.events.budgets import BudgetPolicySet, UsageBudgetPolicyRecord
from palyra.events.config import ConfigAdopted
from palyra.events.registry import Capabilities, ModelEntry, ProviderEntry, Registry
from palyra.journal.sqlite import SqliteJournal
from palyra.journal.verify import verify
from palyra.projections.state import State, encode_state
from palyra.usage import TokenUsage

TAIL_COUNT = 5_000
RUN_EVENTS_COUNT = 6
#: Runs of the journal that shows what a budget adds.
BUDGET_RUNS_COUNT = 2_000
BUDGET = UsageBudgetPolicyRecord(
    policy_id="each-day",
    scope_kind="principal",
    scope_id="*",
    metric_kind="tokens",
    interval_kind="daily",
    hard_limit=1 << 50,
)


def registry() -> Registry:
    provider = ProviderEntry(
        provider_id="openai",
        display_name="openai",
        kind="openai_compatible",
        request_timeout_ms=600_000,
        connect_timeout_ms=5_000,
        first_byte_timeout_ms=120_000,
        idle_timeout_ms=120_000,
        max_retries=2,
        retry_backoff_ms=150,
        retry_after_cap_ms=10_000,
        circuit_breaker_failure_threshold=5,
        circuit_breaker_cooldown_ms=30_000,
        max_concurrency=32,
        max_queue=256,
        queue_timeout_ms=30_000,
        on_client_disconnect="drain",
        drain_max_ms=30_000,
        drain_max_tokens=4_096,
    )
    model = ModelEntry(
        model_id="gpt-x",
        provider_id="openai",
        upstream_model="gpt-x",
        capabilities=Capabilities(streaming=True),
        max_context_tokens=128_000,
        max_tokens_per_event=128_000,
        request_timeout_ms=600_000,
        first_byte_timeout_ms=120_000,
    )
    return Registry(default_chat_model_id="gpt-x", providers=[provider], models=[model])


def record_run(core: Core) -> asyncio.Future[None] | None:
    """Record one plain request as the engine does: two commits."""
    key_id = "0123456789ab"
    with core.batch(f"key:{key_id}") as batch:
        run_id = core.ids.ulid(batch.now_us)
        command = AdmitRun(
            run_id=run_id,
            principal_id=f"key:{key_id}",
            key_id=key_id,
            endpoint="chat",
            model="gpt-x",
            raw_tokens=120,
            body_digest="ab" * 32,
            body_bytes=430,
        )
        batch.add(admit(core.state, command, batch.now_us).drafts)
        run = core.state.runs.open[run_id]
        batch.add(start_attempt(core.state, run, StartAttempt(candidate=0, deadline_ms=600_000), batch.now_us))
    with core.batch(f"key:{key_id}") as batch:
        end = AnswerEnd(
            stop="end_turn",
            raw_stop="stop",
            duration_us=812_345,
            first_byte_us=345_678,
            upstream_request_id="req_0123456789abcdef0123",
            upstream_response_id="chatcmpl-0123456789abcdefghij",
            upstream_model="gpt-x",
            output_bytes=760,
        )
        metered = Metered(reported=TokenUsage(input_tokens=118, output_tokens=45))
        batch.add(succeed_attempt(core.state, run, end, metered, batch.now_us))
        batch.add(complete_run(run, stop="end_turn", step=run.plan[0], now_us=batch.now_us))
    return core.last_commit


async def record(path: Path, runs_count: int, *, has_budget: bool = False) -> tuple[float, int]:
    """Make the journal; return events a second and the size of the state in bytes."""
    journal = await SqliteJournal.open(path, new_journal_id="01BENCH", now_us=1)
    core = Core(journal, State())
    await core.record([Draft("config", ConfigAdopted(generation=1, digest="", effective={}, registry=registry()))])
    if has_budget:
        await core.record([Draft("budget-each-day", BudgetPolicySet(revision=1, policy=BUDGET, by="bench"))])
    started = time.perf_counter()
    for number in range(runs_count):
        durable = record_run(core)
        if number % 64 == 63 and durable is not None:
            await durable
        if core.state.position == 1 + RUN_EVENTS_COUNT * (runs_count - TAIL_COUNT // RUN_EVENTS_COUNT):
            await core.snapshot()
    if durable is not None:
        await durable
    rate = core.state.position / (time.perf_counter() - started)
    size = len(encode_state(core.state))
    await core.stop()
    return rate, size


async def start(path: Path) -> None:
    journal = await SqliteJournal.open(path, new_journal_id="", now_us=1)
    await load_state(journal)
    await journal.close()


def median(work: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=25_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    state_digest()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"
        rate, state_bytes = asyncio.run(record(path, options.runs))
        events = 1 + RUN_EVENTS_COUNT * options.runs
        budgeted = Path(folder) / "budgeted.db"
        asyncio.run(record(budgeted, BUDGET_RUNS_COUNT, has_budget=True))
        fold_s = median(lambda: fold_file(path, use_snapshots=False), options.rounds)
        verify_s = median(lambda: verify(path), options.rounds)
        start_s = median(lambda: asyncio.run(start(path)), options.rounds)
        print(f"events                     {events:>12,}")
        print(f"journal, bytes a request   {path.stat().st_size / options.runs:>12,.0f}")
        print(f"  the same under a budget  {budgeted.stat().st_size / BUDGET_RUNS_COUNT:>12,.0f}")
        print(f"state, bytes               {state_bytes:>12,}")
        print(f"decide, fold and append    {rate:>12,.0f} events/s")
        print(f"fold                       {events / fold_s:>12,.0f} events/s")
        print(f"verify                     {events / verify_s:>12,.0f} events/s")
        print(f"start with a snapshot      {start_s * 1000:>12,.1f} ms")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak memory of all that    {peak:>12,.0f} MiB")


if __name__ == "__main__":
    main()
