"""Admission under many rules: how long it takes to judge a request and the start of its attempt.

    python bench/admission.py [--rules 50] [--rounds 2000]

Fifty rules of all scopes and intervals in several zones are in force, thirty-two of them apply to the request. Each
round admits it and plans its start, as the request path does between its body and its commit; no disk, no socket.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from palyra.decisions.attempts import StartAttempt, start_attempt
from palyra.decisions.pricing import with_id
from palyra.decisions.runs import AdmitRun, admit
from palyra.events.base import Fact, Recorded
from palyra.events.budgets import BudgetPolicySet, UsageBudgetPolicyRecord
from palyra.events.config import ConfigAdopted
from palyra.events.pricing import PriceEntry, PriceListAdopted
from palyra.events.registry import Capabilities, ModelEntry, ProviderEntry, Registry
from palyra.projections.state import State, evolve

NOW_US = 1_800_000_000_000_000
APPLY_COUNT = 32
SCOPES = ("global", "principal", "session", "agent", "provider", "model")
INTERVALS = ("daily", "weekly", "monthly", "rolling")
ZONES = ("UTC", "Europe/Prague", "America/New_York")


def registry() -> Registry:
    provider: dict[str, Any] = {
        "request_timeout_ms": 600_000,
        "connect_timeout_ms": 5_000,
        "first_byte_timeout_ms": 120_000,
        "idle_timeout_ms": 120_000,
        "max_retries": 2,
        "retry_backoff_ms": 150,
        "retry_after_cap_ms": 10_000,
        "circuit_breaker_failure_threshold": 5,
        "circuit_breaker_cooldown_ms": 30_000,
        "max_concurrency": 32,
        "max_queue": 256,
        "queue_timeout_ms": 30_000,
        "on_client_disconnect": "drain",
        "drain_max_ms": 30_000,
        "drain_max_tokens": 4_096,
    }
    return Registry(
        default_chat_model_id="m",
        providers=[ProviderEntry(provider_id="p", display_name="p", kind="openai_compatible", **provider)],
        models=[
            ModelEntry(
                model_id="m",
                provider_id="p",
                upstream_model="m",
                capabilities=Capabilities(streaming=True),
                max_tokens_per_event=128_000,
                request_timeout_ms=600_000,
                first_byte_timeout_ms=120_000,
            )
        ],
    )


def rule(number: int, *, applies: bool) -> UsageBudgetPolicyRecord:
    kind, interval = SCOPES[number % len(SCOPES)], INTERVALS[number % len(INTERVALS)]
    scope_id = "" if kind == "global" else "*" if applies else "nobody"
    return UsageBudgetPolicyRecord(
        policy_id=f"rule-{number}",
        scope_kind=kind,  # type: ignore[arg-type]
        scope_id=scope_id,
        match={} if applies else {"endpoint": "embeddings"},
        metric_kind="usd_cost" if number % 2 else "tokens",
        interval_kind=interval,  # type: ignore[arg-type]
        rolling_hours=24 if interval == "rolling" else None,
        timezone=ZONES[number % len(ZONES)],
        soft_limit=10**12,
        hard_limit=10**13,
        on_unpriced="deny",
    )


def state_with(rules_count: int) -> State:
    state = State()

    def record(stream: str, body: Fact) -> None:
        version = state.streams.get(stream, 0) + 1
        evolve(state, Recorded(state.position + 1, stream, version, NOW_US, "", "", 0, "", body))

    record("config", ConfigAdopted(generation=1, digest="", effective={}, registry=registry()))
    price = with_id(
        PriceEntry(
            price_id="",
            provider_id="p",
            model_id="m",
            input_nanousd_per_mtok=3_000_000_000,
            output_nanousd_per_mtok=15_000_000_000,
        )
    )
    record("pricing", PriceListAdopted(price_version=1, digest="", config_generation=1, entries=[price]))
    for number in range(rules_count):
        record(
            f"budget-rule-{number}",
            BudgetPolicySet(revision=1, policy=rule(number, applies=number < APPLY_COUNT), by="bench"),
        )
    return state


def once(state: State, number: int) -> tuple[int, int]:
    """Admit a request and start it; return how long each took, in nanoseconds."""
    command = AdmitRun(
        run_id=f"r{number}",
        principal_id="key:bench",
        session_id="key:bench/s",
        agent_id="agent",
        endpoint="chat",
        model="m",
        raw_tokens=800,
        output_max_tokens=500,
        body_digest="0" * 64,
        body_bytes=3_000,
    )
    begun = time.perf_counter_ns()
    decision = admit(state, command, NOW_US)
    admitted = time.perf_counter_ns()
    assert decision.refusal is None
    for version, draft in enumerate(decision.drafts, 1):
        evolve(state, Recorded(state.position + 1, draft.stream, version, NOW_US, "", "", 0, "", draft.body))
    run = state.runs.open[command.run_id]
    starting = time.perf_counter_ns()
    start_attempt(state, run, StartAttempt(candidate=0, deadline_ms=1_000), NOW_US)
    started = time.perf_counter_ns()
    del state.runs.open[command.run_id]
    return admitted - begun, started - starting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rules", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=2_000)
    options = parser.parse_args()
    for rules_count in (0, options.rules):
        state = state_with(rules_count)
        rounds = [once(state, number) for number in range(options.rounds)]
        admitted, started = (statistics.median(one) / 1_000 for one in zip(*rounds, strict=True))
        print(f"{rules_count:3} rules: admission {admitted:6.0f} us, start {started:6.0f} us")


if __name__ == "__main__":
    main()
