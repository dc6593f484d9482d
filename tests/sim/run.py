"""Hunt: `python tests/sim/run.py --seeds 20000 --from 1000`. Prints each failing seed and the rate."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time

from sim_plan import plan_of
from sim_world import explain, failure_of


def hunt(seed: int) -> str:
    """Return what is wrong with a seed, "" if nothing is."""
    plan = plan_of(seed)
    return "" if failure_of(plan) is None else explain(plan)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000, help="how many")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--stop", action="store_true", help="stop at the first that fails")
    asked = parser.parse_args()
    seeds = range(asked.first, asked.first + asked.seeds)
    failed_count, done_count, began_s = 0, 0, time.monotonic()
    with multiprocessing.Pool(asked.jobs) as pool:
        for seed, report in zip(seeds, pool.imap(hunt, seeds, chunksize=20), strict=True):
            done_count += 1
            if report:
                failed_count += 1
                print(report, end="\n\n", flush=True)
                if asked.stop:
                    print(f"stopped at seed {seed}")
                    break
    took_s = time.monotonic() - began_s
    print(f"{done_count} seeds, {failed_count} failed, {60 * done_count / took_s:,.0f} a minute")
    return min(failed_count, 1)


if __name__ == "__main__":
    sys.exit(main())
