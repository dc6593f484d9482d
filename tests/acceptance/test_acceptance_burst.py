"""A burst with everything in it: 200 requests at once on every surface, and kill -9 in the middle of them, twice.

Some are streamed, some clients leave, some calls fail, and the process dies with attempts open; who heard nothing
asks again. At no position is a limit passed, and the journal's sums are held against the provider's own ledger.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
from acceptance_kit import CONFIG, Served, folded, history, serving, write_config
from budget_kit import Audit
from upstream import CUT, HANG, RESET, Behaviour, Upstream

from palyra.events.attempts import AttemptAbandoned, AttemptFailed, AttemptStarted, AttemptSucceeded
from palyra.events.base import Recorded
from palyra.events.runs import RunRefused
from palyra.events.usage import UsageRecorded

REQUESTS_COUNT, KILLS_COUNT = 200, 2
#: So many answers have arrived when the process is killed.
ENOUGH_COUNT = 12
MONEY = """
[[model_provider.models]]
model_id = "vec"
provider_id = "up"
role = "embeddings"

[[budgets.policies]]
policy_id = "all"
scope_kind = "global"
metric_kind = "tokens"
interval_kind = "daily"
hard_limit = 5000

[[budgets.policies]]
policy_id = "session"
scope_kind = "session"
scope_id = "*"
metric_kind = "tokens"
interval_kind = "rolling"
rolling_hours = 24
hard_limit = 1400
"""
#: Failures are to be met, not to be kept away from.
WAYS = "max_concurrency = 300\nmax_retries = 1\ncircuit_breaker_failure_threshold = 1000"
_SURFACES = ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/embeddings")
_NUMBER = re.compile(rb"Number (\d+)\.")


class Burst:
    """Those who ask, and what they heard."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.waiting = list(range(REQUESTS_COUNT))
        self.leaving = {number for number in self.waiting if chance.random() < 0.1}
        #: Number -> run whose answer arrived whole.
        self.acknowledged: dict[int, str] = {}
        self.told: Counter[int] = Counter()
        self.enough = asyncio.Event()

    async def ask_all(self, daemon: Served) -> None:
        """Let everybody ask at once who has not heard yet; whose connection broke is left waiting."""
        self.enough.clear()
        heard_before = len(self.acknowledged)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers=daemon.headers, connector=connector) as session:

            async def one(number: int) -> bool:
                try:
                    async with asyncio.timeout(self.chance.uniform(0.01, 0.2) if number in self.leaving else 60):
                        await self._ask(session, daemon.url, number)
                except TimeoutError:
                    return True
                except (aiohttp.ClientError, OSError):
                    return False
                if len(self.acknowledged) - heard_before >= ENOUGH_COUNT:
                    self.enough.set()
                return True

            heard = await asyncio.gather(*(one(number) for number in self.waiting))
        self.waiting = [number for number, is_done in zip(self.waiting, heard, strict=True) if not is_done]
        self.enough.set()

    async def _ask(self, session: aiohttp.ClientSession, url: str, number: int) -> None:
        path = _SURFACES[number % len(_SURFACES)]
        stream = path != "/v1/embeddings" and number % 3 != 0
        headers = {"x-palyra-session": f"s{number % 5}"}
        async with session.post(url + path, json=_body(path, number, stream), headers=headers) as answer:
            data = await answer.read()
            self.told[answer.status] += 1
            is_whole = not stream or any(end in data[-400:] for end in _ENDS)
            if answer.status == 200 and is_whole:
                self.acknowledged[number] = answer.headers["x-palyra-run-id"]


#: How a stream of each dialect ends well.
_ENDS = (b"data: [DONE]", b"message_stop", b"response.completed")


def _body(path: str, number: int, stream: bool) -> dict[str, Any]:
    text, most = f"Number {number}.", 16 + number % 40
    if path == "/v1/embeddings":
        return {"model": "vec", "input": text}
    if path == "/v1/responses":
        return {"model": "gpt", "input": text, "max_output_tokens": most, "stream": stream}
    messages = [{"role": "user", "content": text}]
    return {"model": "gpt", "messages": messages, "max_tokens": most, "stream": stream}


def behaviours(chance: random.Random, count: int, name: str) -> list[Behaviour]:
    """Return what a moody provider does, each answer with an id of its own."""
    moods: list[dict[str, Any]] = [{}, {}, {}, {}, {"usage": "none"}, {"after": {1: CUT}}, {"head": RESET}]
    made = []
    for number in range(count):
        mood = chance.choice(moods)
        if chance.random() < 0.08:
            made.append(Behaviour.error(chance.choice([429, 500, 503])))
            continue
        figures = {"prompt_tokens": chance.randrange(1, 8), "completion_tokens": chance.randrange(1, 70)}
        headers = {"x-request-id": f"{name}-{number}"}
        made.append(Behaviour(headers=headers, keeps_cap=True, **figures, **mood))
    return made


async def test_a_burst_with_kills_in_it_passes_no_limit_and_loses_nothing(tmp_path: Path) -> None:
    """Books that know the facts alone, the provider's ledger, and what the clients were told agree."""
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    burst = Burst(chance)
    async with Upstream() as up:
        text = CONFIG.format(url=up.url).replace("max_concurrency = 64", WAYS) + MONEY
        config = str(write_config(tmp_path / "palyra.toml", text))
        for kill in range(KILLS_COUNT + 1):
            up.drop_replies()
            hanging = [Behaviour(after={1: HANG})] * (3 if kill < KILLS_COUNT else 0)  # a kill meets open attempts
            up.reply_with(*hanging, *behaviours(chance, 2 * REQUESTS_COUNT, f"day-{kill}"))
            async with serving(tmp_path, "--config", config) as daemon:
                asking = asyncio.create_task(burst.ask_all(daemon))
                if kill < KILLS_COUNT:
                    await burst.enough.wait()
                    await daemon.kill()
                    await asking
                    assert burst.waiting, "nobody was cut off"
                    continue
                await asking
                assert await too_much(daemon) == "budget_blocked"
                await daemon.stop()
        facts = history(daemon.state_dir)
        state = folded(daemon.state_dir)
    audit = Audit().enter(facts)
    assert audit.holds == {}
    assert state.runs.open == {}
    assert state.budgets.holds == {}
    assert any(isinstance(one.body, AttemptAbandoned) for one in facts)
    assert any(isinstance(one.body, AttemptFailed) for one in facts)
    assert {one.body.code for one in facts if isinstance(one.body, RunRefused)} & {"budget_blocked"}
    assert burst.told[200] > ENOUGH_COUNT
    compare(facts, up, burst)
    print(f"told {dict(burst.told)}, settled {audit.settled}")


async def too_much(daemon: Served) -> str:
    """Ask for nearly all of a session's limit, of which the burst has used a part; return the code."""
    messages = [{"role": "user", "content": "too much " * 100}]
    body = {"model": "gpt", "messages": messages, "max_tokens": 1_000}
    async with aiohttp.ClientSession(headers={**daemon.headers, "x-palyra-session": "s0"}) as session:
        async with session.post(daemon.url + _SURFACES[0], json=body) as answer:
            document = await answer.json()
            return str(document.get("error", {}).get("code"))


def compare(facts: list[Recorded], up: Upstream, burst: Burst) -> None:
    """Hold the journal against the provider's ledger, call by call and as a whole."""
    rows = {(one.stream, one.body.attempt): one.body for one in facts if isinstance(one.body, UsageRecorded)}
    assert len(rows) == sum(isinstance(one.body, UsageRecorded) for one in facts), "an attempt was counted twice"
    named = [(received, one) for received, one in up.served if "x-request-id" in one.headers]
    ledger = {one.headers["x-request-id"]: (received, one) for received, one in named}
    seen: Counter[str] = Counter()
    for one in facts:
        if isinstance(one.body, AttemptSucceeded):
            request_id = one.body.upstream_request_id
            seen[request_id] += 1
            received, behaviour = ledger[request_id]
            row = rows[one.stream, one.body.attempt]
            if behaviour.usage != "none":
                assert row.source == "provider"
                assert (row.usage.input_tokens, row.usage.output_tokens) == _billed(received, behaviour)
    assert all(count == 1 for count in seen.values())
    # Whoever has an answer has paid for it, once.
    succeeded = {one.stream[4:] for one in facts if isinstance(one.body, AttemptSucceeded)}
    assert set(burst.acknowledged.values()) <= succeeded
    assert len(set(burst.acknowledged.values())) == len(burst.acknowledged)
    # Nothing arrived there that no start stands for, and nothing was billed there that is not counted here: what
    # a kill cut off counts as much as it could have used.
    assert len(up.requests) <= sum(isinstance(one.body, AttemptStarted) for one in facts)
    stayed = [one for one in ledger.values() if _number(one[0].body) not in burst.leaving]
    billed = sum(sum(_billed(*one)) for one in stayed if one[1].usage != "none")
    counted = sum(row.usage.total_tokens for row in rows.values())
    assert billed <= counted


def _billed(received: Any, behaviour: Behaviour) -> tuple[int, int]:
    if received.path == "/v1/embeddings":
        return behaviour.prompt_tokens, 0
    return behaviour.prompt_tokens, min(behaviour.completion_tokens, received.json["max_tokens"])


def _number(body: bytes) -> int:
    found = _NUMBER.search(body)
    assert found is not None
    return int(found[1])
