"""Customers with a small daily cap each, all at once, with a kill in the middle: none over the cap, none lost.

Twenty requests at the same instant per customer, one of them far too large, default settings, kill -9 while answers
are on their way, a start on what it left, and the same again until nobody is told to come again soon.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp
from acceptance_kit import CHAT, CONFIG, Served, chat, history, serving, write_config
from budget_kit import Audit
from upstream import HANG, Behaviour, Upstream

from palyra.auth.keyfiles import read_key_file
from palyra.config.state import StatePaths
from palyra.events.attempts import AttemptAbandoned
from palyra.events.runs import RunRefused
from palyra.events.usage import UsageRecorded

CUSTOMERS_COUNT = 3
REQUESTS_COUNT = 20
#: What is counted beside the status of an answer.
COME_AGAIN = 0
CAP_NANOUSD = 50_000_000
#: $1 in and $5 out per million tokens; each answer takes 700 tokens, so 14 of them fit under the cap.
MONEY = """
[[pricing.overrides]]
provider_id = "up"
model_id = "gpt"
input_usd_per_mtok = "1.00"
output_usd_per_mtok = "5.00"

[[budgets.policies]]
policy_id = "customer-day"
scope_kind = "principal"
scope_id = "*"
metric_kind = "usd_cost"
interval_kind = "daily"
hard_limit = "0.05"
"""
ANSWER = Behaviour(prompt_tokens=5, completion_tokens=700, keeps_cap=True)


async def test_no_customer_passes_the_cap_and_nothing_is_lost(tmp_path: Path) -> None:
    """Checked by books that know the facts alone, at every position, and by what the clients were told."""
    acknowledged: list[str] = []
    told: Counter[int] = Counter()
    async with Upstream() as up:
        config = str(write_config(tmp_path / "palyra.toml", CONFIG.format(url=up.url) + MONEY))
        up.default = ANSWER
        async with serving(tmp_path, "--config", config) as daemon:
            keys = [await _key(daemon, f"customer-{number}") for number in range(CUSTOMERS_COUNT)]
            enough = asyncio.Event()
            up.reply_with(*[Behaviour(after={1: HANG})] * 2)  # so that the kill meets open attempts
            asking = asyncio.gather(*(_ask_all(daemon, key, acknowledged, told, enough) for key in keys))
            await enough.wait()
            await daemon.kill()
            await asking
        async with serving(tmp_path, "--config", config) as daemon:
            # Some find the queue full, or all that is left held by others: they come again when they are told to.
            before = None
            while before != told[COME_AGAIN]:
                before = told[COME_AGAIN]
                await asyncio.gather(*(_ask_all(daemon, key, acknowledged, told, enough) for key in keys))
            await daemon.stop()
            facts = history(daemon.state_dir)
    audit = Audit().enter(facts)
    spent = {subject: amount for (_, subject, _), amount in audit.settled.items()}
    assert len(spent) == CUSTOMERS_COUNT
    assert all(amount <= CAP_NANOUSD for amount in spent.values()), spent
    assert audit.beyond == dict.fromkeys(audit.beyond, 0)
    # The cap is used, not only kept: not even the shortest answer, of 256 tokens, fits into what is left.
    assert all(CAP_NANOUSD - amount < 1_300_000 for amount in spent.values()), spent
    rows = Counter(one.stream[4:] for one in facts if isinstance(one.body, UsageRecorded))
    assert all(rows[run_id] == 1 for run_id in acknowledged)
    assert any(isinstance(one.body, AttemptAbandoned) for one in facts)
    refused = Counter(one.body.code for one in facts if isinstance(one.body, RunRefused))
    assert refused["budget_request_too_large"] >= CUSTOMERS_COUNT
    assert refused["budget_blocked"] > CUSTOMERS_COUNT
    assert set(told) <= {200, 402, 429, 503, COME_AGAIN}
    print(f"spent {spent}, told {dict(told)}, refused {dict(refused)}")


async def _key(daemon: Served, name: str) -> str:
    """Issue a client key."""
    admin = read_key_file(StatePaths(daemon.state_dir).admin_token)
    assert admin is not None
    headers = {"authorization": f"Bearer {admin.reveal()}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.post(f"{daemon.url}/console/v1/keys", json={"name": name}) as answer:
            return str((await answer.json())["secret"])


async def _ask_all(
    daemon: Served, key: str, acknowledged: list[str], told: Counter[int], enough: asyncio.Event
) -> None:
    """Ask for everything at once; note whose answer arrived whole."""

    async def ask(session: aiohttp.ClientSession, number: int) -> None:
        body = chat(f"Customer {number}.", stream=bool(number % 2))
        if number == 0:
            body = chat("word " * 60_000)
        try:
            async with session.post(f"{daemon.url}{CHAT}", json=body) as answer:
                data = await answer.read()
                told[answer.status] += 1
                told[COME_AGAIN] += int(answer.headers.get("retry-after", "60")) <= 2
                if answer.status == 200 and (number % 2 == 0 or data.endswith(b"data: [DONE]\n\n")):
                    acknowledged.append(answer.headers["x-palyra-run-id"])
                    if len(acknowledged) >= CUSTOMERS_COUNT:
                        enough.set()
        except (aiohttp.ClientError, ConnectionError):
            return

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}, connector=connector) as session:
        await asyncio.gather(*(ask(session, number) for number in range(REQUESTS_COUNT)))
