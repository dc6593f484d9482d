"""What choosing a model costs, and deciding a long journal again.

    python bench/routing.py [--runs 20000]

Processor time of one admission: with one model, with three in each mode, with fifty rules; and how many recorded
requests a second `palyra replay --what-if` decides again, under the recorded rules and under others.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from budget_kit import put, rule
from registries import model, provider, registry
from routing_kit import routed
from story import World, admission, given, serve

from palyra.decisions.runs import admit
from palyra.decisions.what_if import OtherRules, WhatIf


def best_of(work: Callable[[], None], rounds: int = 5) -> float:
    """Return the least processor time that a piece of work took, in seconds."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def admission_us(world: World, count: int = 2_000) -> float:
    command = admission("r1")

    def work() -> None:
        for _ in range(count):
            admit(world.state, command, world.now_us)

    return best_of(work) / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20_000)
    options = parser.parse_args()
    one = registry(provider("a"), model("gpt", "a"))
    fifty = [put(rule(f"p{number}")) for number in range(50)]
    for name, world in (
        ("one model", given(one)),
        ("three models, suggest", routed()),
        ("three models, dry_run", routed(mode="dry_run")),
        ("three models, enforced", routed(mode="enforced")),
        ("one model, fifty rules", given(one, *fifty)),
    ):
        print(f"admission, {name:24}{admission_us(world):8.1f} us")
    world = routed(put(rule(hard_limit=1 << 50)))
    for number in range(options.runs):
        world.do(serve(f"r{number}"))
    for name, other in (
        ("the recorded rules", OtherRules()),
        ("a rule more", OtherRules(added=[rule("all", scope_kind="global", hard_limit=1 << 20)])),
    ):

        def work(other: OtherRules = other) -> None:
            folding = WhatIf(other)
            for recorded in world.history:
                folding.add(recorded)
            folding.report()

        taken = best_of(work, 1)
        print(f"what-if, {name:22}{options.runs / taken:8.0f} runs/s ({len(world.history) / taken:,.0f} events/s)")


if __name__ == "__main__":
    main()
