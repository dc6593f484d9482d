"""Durable appends a second, and how long one takes: `python bench/journal_append.py [SECONDS]`.

Each appender awaits its own append of one row before the next. Rounds of the variants are interleaved, so that a
busy minute of the machine hits all of them; the table shows medians over the rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

from palyra.journal.port import Row
from palyra.journal.sqlite import SqliteJournal
from palyra.journal.writer import JournalOptions

APPENDERS = (1, 16, 64, 256)
ROUNDS_COUNT = 3
BODY = b'{"provider_id":"openai","model_id":"gpt-5-mini","input_tokens":812,"output_tokens":164,"cost":48210000}'


async def measure(
    path: Path, options: JournalOptions, appenders_count: int, duration_s: float
) -> tuple[float, ...]:
    """Return appends a second, and the median and the 99th percentile of one append in milliseconds."""
    journal = await SqliteJournal.open(path, options=options, new_journal_id="01JBENCH", now_us=0)
    position, end, latencies_s = 0, time.perf_counter() + duration_s, list[float]()

    async def appender(number: int) -> None:
        nonlocal position
        version = 0
        while (began := time.perf_counter()) < end:
            position, version = position + 1, version + 1
            stream = f"run-01JABCDEFGHJKMNPQRSTVWX{number:03}"
            row = Row(position, stream, version, "usage.recorded", 1, position, "key:01JABC", "", 0, "", BODY)
            await journal.append([row])
            latencies_s.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*map(appender, range(appenders_count)))
    rate = len(latencies_s) / (time.perf_counter() - began)
    await journal.close()
    latencies_s.sort()
    return rate, statistics.median(latencies_s) * 1e3, latencies_s[len(latencies_s) * 99 // 100] * 1e3


def main() -> None:
    duration_s = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    variants = [(durability, count) for durability in ("full", "relaxed") for count in APPENDERS]
    results: dict[tuple[str, int], list[tuple[float, ...]]] = {variant: [] for variant in variants}
    for _ in range(ROUNDS_COUNT):
        for durability, count in variants:
            options = JournalOptions(durability=durability)  # type: ignore[arg-type]
            with (
                tempfile.TemporaryDirectory(dir=Path.cwd()) as folder,
                asyncio.Runner(loop_factory=factory) as runner,
            ):
                figures = runner.run(measure(Path(folder) / "journal.db", options, count, duration_s))
                results[durability, count].append(figures)
    print("| durability | appenders | appends/s | p50 ms | p99 ms |\n|---|---|---|---|---|")
    for (durability, count), rounds in results.items():
        rate, p50_ms, p99_ms = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"| {durability} | {count} | {rate:,.0f} | {p50_ms:.2f} | {p99_ms:.2f} |")


if __name__ == "__main__":
    main()
