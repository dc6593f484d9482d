"""What a seed stands for: a configuration, requests with their clients, and accidents, each at its instant.

A plan is data. It prints as Python, so that a failing seed can be read, and it does not depend on what the engine
does with it: how a provider answers a request depends on the seed, the request and the number of the try alone.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec
from sim_loop import T0_US
from sim_money_plan import policies_of, policy_of, prices_of

from palyra.events.budgets import UsageBudgetPolicyRecord
from palyra.events.pricing import PriceEntry
from palyra.events.registry import Capabilities, ModelEntry, ProviderEntry, Registry

ALL = Capabilities(**dict.fromkeys(Capabilities.__struct_fields__, True))
PROVIDERS = "abcd"

#: How much of what a provider is asked goes well, in percent.
MOODS = {"sound": 95, "flaky": 60, "bad": 15}


class Arrival(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request, and how its client behaves."""

    at_ms: int
    number: int
    #: chat, stream, embed; refused and served are those that never become a run.
    kind: str
    model: str = "m"
    timeout_ms: int | None = None
    max_tokens: int | None = None
    inputs_count: int = 1
    words_count: int = 1
    failover: bool = True
    principal_id: str = "key:sim"
    session_id: str = ""
    agent_id: str = ""
    #: What it allows itself to cost.
    max_cost_nanousd: int | None = None
    #: What the response cache knows it by, "" where that has nothing to do with it, and whether it may be answered.
    alike: str = ""
    reads_cache: bool = True
    #: The client hangs up so long after it came.
    leaves_after_ms: int | None = None
    #: The client's connection breaks at this send; 0 is the head of the stream.
    breaks_at_send: int | None = None
    #: How long the client's socket takes for each send.
    send_ms: int = 0
    #: Its idempotency key, "" for none, and the digest of its body where it has one.
    key: str = ""
    body: str = ""


class Accident(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happens to the program or its surroundings."""

    at_ms: int
    #: crash restart commit_fails reopen_fails slow_disk clock suspend snapshot cancel outage rotate rest clear
    #: set_rule retire_rule; see `sim_world`.
    kind: str
    provider_id: str = ""
    profile_id: str = ""
    policy: UsageBudgetPolicyRecord | None = None
    count: int = 1
    duration_ms: int = 0
    #: Rows of the commit that fails, or is in flight in a crash, are on the disk all the same; in an outage the
    #: provider says nothing instead of refusing.
    is_kept: bool = False
    #: Snapshots survive; the configuration of the next life.
    with_snapshots: bool = True
    registry: int = 0


class SimProfile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An auth profile that is connected before anything else happens."""

    profile_id: str
    provider_id: str
    agent_id: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All of a simulation."""

    seed: int
    #: Callbacks that are ready at the same moment run in a random order.
    is_shuffled: bool
    registries: list[Registry]
    #: Of each registry: what its models cost, and the rules of its configuration.
    prices: list[list[PriceEntry]]
    policies: list[list[UsageBudgetPolicyRecord]]
    moods: dict[str, str]
    sse_keepalive_ms: int
    beat_every_ms: int
    lazy_append_ms: int
    run_stalls_after_ms: int
    #: How long a drain waits for open runs.
    drain_ms: int
    profiles: list[SimProfile]
    #: Credentials that are not where they should be.
    gone: list[str]
    arrivals: list[Arrival]
    accidents: list[Accident]


def plan_of(seed: int) -> Plan:
    """Return the plan of a seed."""
    rng = random.Random(seed)
    duration_ms = rng.choice([20, 300, 3_000, 20_000, 300_000])
    names = PROVIDERS[: rng.choice([1, 2, 2, 3, 3, 4])]
    registries = [_registry(rng, names) for _ in range(2)]
    arrivals = _with_keys(random.Random(~seed), _arrivals(rng, duration_ms))
    chance = random.Random(f"{seed}/credentials")
    registries = [_with_credentials(chance, registry) for registry in registries]
    profiles = [
        SimProfile(profile_id=f"{name}-{number}", provider_id=name, agent_id=chance.choice(["", "", "me"]))
        for name in names
        for number in range(chance.choice([0, 1, 2, 4]))
    ]
    money = random.Random(f"{seed}/money")
    registries = [_with_money(money, registry) for registry in registries]
    changes_us = T0_US + 500 * duration_ms
    return Plan(
        seed=seed,
        is_shuffled=rng.random() < 0.5,
        registries=registries,
        prices=[prices_of(money, names, changes_us) for _ in registries],
        policies=[policies_of(money) for _ in registries],
        moods={name: rng.choice([*MOODS, "sound", "flaky"]) for name in PROVIDERS},
        sse_keepalive_ms=rng.choice([100, 1_500, 15_000]),
        beat_every_ms=rng.choice([100, 1_000, 10_000]),
        lazy_append_ms=rng.choice([1, 250]),
        run_stalls_after_ms=rng.choice([10, 10, 10, 120_000]),
        drain_ms=rng.choice([0, 100, 5_000]),
        profiles=profiles,
        gone=chance.sample([one.profile_id for one in profiles] + [f"config:{name}" for name in names], 1),
        arrivals=[_with_allowance(money, arrival) for arrival in arrivals],
        accidents=sorted(
            [
                *_accidents(rng, names, duration_ms),
                *_changes(chance, profiles, duration_ms),
                *_rule_changes(money, duration_ms),
            ],
            key=lambda accident: accident.at_ms,
        ),
    )


def _registry(rng: random.Random, names: str) -> Registry:
    slowness_ms = rng.choice([200, 2_000, 40_000])
    models = [_model(rng, "m", name, slowness_ms, priority=rng.choice([100, 200])) for name in names]
    for model_id, role in (("n", "chat"), ("tiny", "chat"), ("e", "embeddings")):
        places = [name for name in names if rng.random() < 0.6] or names[:1]
        models += [_model(rng, model_id, name, slowness_ms, role=role) for name in places]
    return Registry(
        default_chat_model_id="m",
        default_embeddings_model_id="e",
        failover_enabled=rng.random() < 0.9,
        failover_scope=rng.choice(["compatible", "compatible", "same_model", "declared"]),
        failover_max_candidates=rng.choice([1, 2, 4, 8]),
        health_ttl_ms=rng.choice([10, 60_000]),
        run_timeout_ms=rng.choice([50, 3_000, 30_000, 30_000, 900_000, 900_000]),
        providers=[_provider(rng, name, slowness_ms) for name in names],
        models=models,
    )


def _with_credentials(rng: random.Random, registry: Registry) -> Registry:
    """Return a registry whose providers are asked without a key, with one of their own, or with profiles."""
    ways: list[dict[str, Any]] = [
        {"auth_scheme": "none"},
        {"auth_scheme": "bearer", "credential_ref": "env:KEY"},
        {"auth_scheme": "bearer"},
    ]
    providers = [
        msgspec.structs.replace(entry, auth_provider_kind=entry.provider_id, **rng.choices(ways, [50, 25, 25])[0])
        for entry in registry.providers
    ]
    return msgspec.structs.replace(registry, providers=providers)


def _with_money(rng: random.Random, registry: Registry) -> Registry:
    """Return a registry with a response cache, now and then, and providers that say what they cost."""
    providers = [
        msgspec.structs.replace(entry, cost_source=rng.choice(["price_book", "price_book", "provider"]))
        for entry in registry.providers
    ]
    return msgspec.structs.replace(
        registry,
        providers=providers,
        response_cache_enabled=rng.random() < 0.5,
        response_cache_ttl_ms=rng.choice([1, 300, 600_000, 600_000]),
        response_cache_max_entries=rng.choice([1, 2, 128]),
        response_cache_isolation=rng.choice(["principal", "session", "shared"]),
        response_cache_tool_calls=rng.random() < 0.5,
    )


def _provider(rng: random.Random, name: str, slowness_ms: int) -> ProviderEntry:
    return ProviderEntry(
        provider_id=name,
        display_name=name,
        kind="openai_compatible",
        flavor="generic",
        base_url=f"https://{name}.example/v1",
        enabled=rng.random() < 0.95,
        request_timeout_ms=slowness_ms,
        connect_timeout_ms=slowness_ms,
        first_byte_timeout_ms=slowness_ms,
        idle_timeout_ms=rng.choice([30, slowness_ms // 2, slowness_ms, slowness_ms]),
        max_retries=rng.choice([0, 1, 1, 2]),
        retry_backoff_ms=rng.choice([0, 1, 50]),
        retry_after_cap_ms=rng.choice([0, 100, 10_000]),
        circuit_breaker_failure_threshold=rng.choice([1, 2, 2, 3, 5]),
        circuit_breaker_cooldown_ms=rng.choice([1, 20, 200, 200, 5_000]),
        max_concurrency=rng.choice([1, 1, 1, 2, 3]),
        max_queue=rng.choice([0, 2, 20, 20]),
        queue_timeout_ms=rng.choice([1, 500, 5_000, 120_000]),
        on_client_disconnect=rng.choice(["drain", "cancel"]),
        drain_max_ms=rng.choice([1, 50, 2_000]),
        drain_max_tokens=rng.choice([1, 20, 4_096]),
    )


def _model(rng: random.Random, model_id: str, name: str, slowness_ms: int, **more: Any) -> ModelEntry:
    values: dict[str, Any] = {
        "model_id": model_id,
        "provider_id": name,
        "enabled": rng.random() < 0.97,
        "upstream_model": rng.choice([model_id, f"{model_id}-{name}"]),
        "fallbacks": rng.choice([None, None, [], ["n"], ["tiny", "n"]]) if model_id == "m" else None,
        "capabilities": ALL if rng.random() < 0.97 else Capabilities(),
        "max_context_tokens": rng.choice([None, 1_000, 128_000]),
        "max_output_tokens": rng.choice([None, 50, 4_096]),
        "max_tokens_per_event": 60 if model_id == "tiny" else 128_000,
        "max_batch": rng.choice([None, 1, 2]),
        "request_timeout_ms": slowness_ms,
        "first_byte_timeout_ms": rng.choice([slowness_ms // 2, slowness_ms]),
    }
    return ModelEntry(**{**values, **more})


def _arrivals(rng: random.Random, duration_ms: int) -> list[Arrival]:
    """Requests in bursts."""
    arrivals: list[Arrival] = []
    for _ in range(rng.randint(1, 5)):
        at_ms, spread_ms = rng.randrange(duration_ms), rng.choice([0, 0, 5, 500])
        for _ in range(rng.choice([1, 2, 4, 8, 12])):
            arrivals.append(_arrival(rng, len(arrivals), at_ms + rng.randint(0, spread_ms)))
    return sorted(arrivals, key=lambda arrival: arrival.at_ms)


def _with_keys(rng: random.Random, arrivals: list[Arrival]) -> list[Arrival]:
    """Let some requests be repeats of others, now and then with another body."""
    keyed = []
    for arrival in arrivals:
        key = rng.choice(["", "", "", "k", "l"])
        body = rng.choice(["same", "same", "same", "same", "other"])
        if key and arrival.kind in ("chat", "stream", "embed"):
            arrival = msgspec.structs.replace(arrival, key=f"{key}-{arrival.kind}", body=body)
        keyed.append(arrival)
    return keyed


def _with_allowance(rng: random.Random, arrival: Arrival) -> Arrival:
    """Return a request of somebody, with what it may cost, and like others for the cache."""
    return msgspec.structs.replace(
        arrival,
        principal_id=rng.choice(["key:sim", "key:sim", "key:sim", "key:other"]),
        session_id=rng.choice(["", "", "s", "t"]),
        max_cost_nanousd=rng.choice([None] * 16 + [0, 300_000, 20_000_000, 10**12]),
        alike=rng.choice(["", "x", "x", "x"]),
        reads_cache=rng.random() < 0.9,
    )


def _arrival(rng: random.Random, number: int, at_ms: int) -> Arrival:
    kind = rng.choices(["chat", "stream", "embed", "refused", "served"], [35, 45, 12, 4, 4])[0]
    leaves = rng.random()
    return Arrival(
        at_ms=at_ms,
        number=number,
        kind=kind,
        model="e" if kind == "embed" else rng.choices(["m", "n", "tiny", "nobody", ""], [62, 15, 15, 1, 7])[0],
        timeout_ms=rng.choices([None, 1, 100, 1_000, 10_000], [80, 2, 4, 7, 7])[0],
        max_tokens=rng.choice([None, None, 1, 30, 1_000]),
        inputs_count=rng.choice([1, 2, 3, 5]),
        words_count=rng.choice([1, 1, 40, 200, 600]),
        failover=rng.random() < 0.9,
        agent_id=["", "", "me"][number % 3],
        leaves_after_ms=rng.choice([0, 1, 10, 100, 1_000]) if leaves < 0.15 else None,
        breaks_at_send=rng.randint(0, 5) if kind == "stream" and 0.15 <= leaves < 0.3 else None,
        send_ms=rng.choice([0, 0, 0, 0, 1, 30, 400]),
    )


def _changes(rng: random.Random, profiles: list[SimProfile], duration_ms: int) -> list[Accident]:
    """What somebody does to profiles meanwhile."""
    return [
        Accident(
            at_ms=rng.randrange(duration_ms),
            kind=rng.choice(["rotate", "rest", "clear"]),
            profile_id=rng.choice(profiles).profile_id,
        )
        for _ in range(rng.choice([0, 0, 1, 3]) if profiles else 0)
    ]


def _rule_changes(rng: random.Random, duration_ms: int) -> list[Accident]:
    """What somebody does to rules meanwhile: they are set, with other limits or anew, and taken out of force."""
    changes = []
    for _ in range(rng.choice([0, 0, 0, 0, 1, 2, 4])):
        policy = policy_of(rng, rng.choice(["journal-0", "journal-0", "journal-1"]), managed_by="journal")
        before = [change.policy for change in changes if change.policy is not None]
        if before and rng.random() < 0.5:
            policy = msgspec.structs.replace(before[-1], soft_limit=None, hard_limit=rng.choice([1, 900, 10**7]))
        kind = rng.choice(["set_rule", "set_rule", "retire_rule"])
        changes.append(Accident(at_ms=rng.randrange(duration_ms), kind=kind, policy=policy))
    return changes


def _accidents(rng: random.Random, names: str, duration_ms: int) -> list[Accident]:
    kinds = {
        "crash": 3, "restart": 1, "commit_fails": 4, "reopen_fails": 1, "slow_disk": 2, "clock": 2, "snapshot": 4,
        "cancel": 4, "outage": 5, "suspend": 1,
    }  # fmt: skip
    durations_ms = {
        "clock": [-86_400_000, -3_600_000, -2_000, -10, 10, 3_000, 3_600_000, 172_800_000],
        "suspend": [10, 3_000, 3_600_000],
        "outage": [20, 3_000, 300_000],
    }
    accidents = []
    for _ in range(rng.choice([0, 0, 1, 2, 3, 5, 8])):
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        accidents.append(
            Accident(
                at_ms=rng.randrange(duration_ms * 3 // 2),
                kind=kind,
                provider_id=rng.choice(names) if kind == "outage" else "",
                count=rng.choice([1, 1, 2, 5]),
                duration_ms=rng.choice(durations_ms.get(kind, [0, 1, 20, 300, 3_000])),
                is_kept=rng.random() < 0.5,
                with_snapshots=rng.random() < 0.8,
                registry=int(rng.random() < 0.3),
            )
        )
    return sorted(accidents, key=lambda accident: accident.at_ms)
