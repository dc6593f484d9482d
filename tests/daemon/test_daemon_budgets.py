"""The one gate, from outside: every surface that spends, every scope, in the client's own dialect."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError
from anthropic import APIStatusError as AnthropicStatusError
from anthropic import AsyncAnthropic
from budget_kit import Audit, rule
from daemon_house import House, chat, open_house, raw_client
from dialect_house import DIALECTS, asked
from openai import APIStatusError as OpenAIStatusError
from openai import AsyncOpenAI, RateLimitError
from recordings import CONTENT_TYPE, transcription
from registries import model, provider, registry
from upstream import CUT, RESET, Behaviour

from palyra.engine.budgets import adopt_file_policies
from palyra.engine.codec import to_recorded
from palyra.engine.text_surface import ResponsesSurface
from palyra.events.attempts import AttemptStarted
from palyra.events.base import Recorded
from palyra.events.runs import RunRefused
from palyra.limits import APART_BYTES, OFF_LOOP_BYTES

#: What may be sent to each place that can spend, by its path.
SPENDING: dict[str, list[Any]] = {
    "/v1/chat/completions": [chat(max_tokens=5), chat(max_tokens=5, stream=True)],
    "/v1/messages": [asked(model="gpt", max_tokens=5), asked(model="gpt", max_tokens=5, stream=True)],
    "/v1/responses": [
        {"model": "gpt", "input": "Say hi.", "max_output_tokens": 16},
        {"model": "gpt", "input": "Say hi.", "max_output_tokens": 16, "stream": True},
    ],
    "/v1/embeddings": [{"model": "vec", "input": "Say hi."}],
    "/v1/audio/transcriptions": [transcription(model="ear")],
}
#: Places that spend nothing.
FREE = ("/v1/models", "/v1/openapi.json", "/v1", "/", "/healthz", "/readyz")
#: One that is asked by POST all the same.
COUNTING = "/v1/messages/count_tokens"
OFFER = registry(
    provider(
        "up",
        max_retries=0,
        credential_ref="",
        auth_scheme="none",
        max_concurrency=300,
        circuit_breaker_failure_threshold=1_000,
    ),
    model("gpt", "up", upstream_model="gpt-x"),
    model("vec", "up", upstream_model="vec-x", role="embeddings"),
    model("ear", "up", upstream_model="ear-x", role="audio_transcription", max_context_tokens=None),
    default_embeddings_model_id="vec",
)
SCOPES: list[dict[str, Any]] = [
    {"scope_kind": "global"},
    {"scope_kind": "principal"},
    {"scope_kind": "session"},
    {"scope_kind": "agent"},
    {"scope_kind": "provider"},
    {"scope_kind": "model"},
]


async def limit(house: House, *records: Any) -> None:
    """Put rules in force."""
    await adopt_file_policies(house.core, [rule(managed_by="file", **record) for record in records])


def history(house: House) -> list[Recorded]:
    return [to_recorded(row) for row in house.core.journal.rows]  # type: ignore[attr-defined]


@pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: str(scope["scope_kind"]))
async def test_every_place_that_spends_passes_the_gate(tmp_path: Path, scope: dict[str, Any]) -> None:
    """Whatever the router serves and however it is asked: one use is let through, the next is stopped."""
    async with open_house(tmp_path, offer=OFFER, max_audio_bytes=1 << 20) as house, raw_client(house) as raw:
        places = {path for path, route in house.gateway._routes.items() if "POST" in route.methods}
        assert places == {*SPENDING, COUNTING}, "a place that spends has to be tried here"
        assert set(house.gateway._routes) - places == set(FREE)
        for path, bodies in SPENDING.items():
            for body in bodies:
                await limit(house)
                headers = {"content-type": CONTENT_TYPE} if isinstance(body, bytes) else {}
                assert (await raw(path=path, body=body, headers=headers)).status == 200
                await limit(house, {**scope, "hard_limit": 1})
                started_count = len(house.facts(AttemptStarted))
                refused = await raw(path=path, body=body, headers=headers)
                assert refused.status == 402, (path, body, refused.body)
                assert refused.headers["x-should-retry"] == "false"
                assert len(house.facts(AttemptStarted)) == started_count
        for path in FREE:
            assert (await raw("GET", path)).status == 200
        counted = {"model": "gpt", "messages": [{"role": "user", "content": "Say hi."}]}
        assert (await raw(path=COUNTING, body=counted)).status == 200
        assert {fact.code for fact in house.facts(RunRefused)} == {"budget_request_too_large"}


async def test_official_clients_raise_their_own_errors_and_do_not_loop(tmp_path: Path) -> None:
    """Both would repeat a 429 on their own; this one is asked once, and says when it has room again."""
    async with open_house(tmp_path, offer=DIALECTS) as house:
        await limit(house, {"hard_limit": 400})
        house.upstream.reply_with(Behaviour(prompt_tokens=11, completion_tokens=300))
        async with AsyncOpenAI(base_url=house.url, api_key=house.client_key, max_retries=2) as openai:
            ask: Any = openai.chat.completions.create
            messages: Any = chat()["messages"]
            await ask(model="gpt", messages=messages, max_tokens=300)
            with pytest.raises(RateLimitError) as limited:
                await ask(model="gpt", messages=messages, max_tokens=300)
            assert (limited.value.code, limited.value.type) == ("budget_blocked", "insufficient_quota")
            assert int(limited.value.response.headers["retry-after"]) >= 1
            with pytest.raises(OpenAIStatusError) as too_large:
                await ask(model="gpt", messages=messages, max_tokens=5_000)
            assert too_large.value.status_code == 402
        async with AsyncAnthropic(base_url=house.server.url, api_key=house.client_key, max_retries=2) as anthropic:
            with pytest.raises(AnthropicStatusError) as blocked:
                await anthropic.messages.create(**asked(max_tokens=300))
            assert blocked.value.status_code == 429
            with pytest.raises(AnthropicStatusError) as paid:
                await anthropic.messages.create(**asked(max_tokens=5_000))
            assert paid.value.status_code == 402
        assert len(house.facts(RunRefused)) == 4


async def test_more_rules_than_may_apply_are_told_and_spend_nothing(tmp_path: Path) -> None:
    """In both dialects, with the way out; nothing is sent, and nobody asks again by itself."""
    async with open_house(tmp_path, offer=DIALECTS) as house:
        await limit(house, *({"policy_id": f"p{number}", "scope_kind": "global"} for number in range(33)))
        async with AsyncOpenAI(base_url=house.url, api_key=house.client_key, max_retries=2) as openai:
            ask: Any = openai.chat.completions.create
            with pytest.raises(OpenAIStatusError) as told:
                await ask(model="gpt", messages=chat()["messages"])
            assert (told.value.status_code, told.value.code) == (402, "limit_applicable_policies")
            assert "palyra budgets list" in str(told.value)
        async with AsyncAnthropic(base_url=house.server.url, api_key=house.client_key, max_retries=2) as anthropic:
            with pytest.raises(AnthropicStatusError) as same:
                await anthropic.messages.create(**asked(max_tokens=5))
            assert same.value.status_code == 402
        assert len(house.facts(RunRefused)) == 2
        assert house.facts(AttemptStarted) == []


async def test_a_refusal_names_rule_window_and_figures(tmp_path: Path) -> None:
    """What is the caller's own; of a rule about everybody no figures are told."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        await limit(house, {"policy_id": "mine", "hard_limit": 3})
        budget = (await raw(body=chat(max_tokens=9))).json["palyra"]["budget"]
        assert (budget["policy_id"], budget["scope_kind"], budget["limit"]) == ("mine", "principal", 3)
        assert budget["requested"] > 9
        assert (budget["consumed"], budget["reserved"], budget["blocked_by"]) == (0, 0, "request")
        assert budget["window_end_us"] > house.core.clock.now_us()
        await limit(house, {"policy_id": "all", "scope_kind": "global", "hard_limit": 3})
        assert "limit" not in (await raw(body=chat(max_tokens=9))).json["palyra"]["budget"]


async def test_a_hard_limit_sends_a_maximum_and_a_soft_one_warns(tmp_path: Path) -> None:
    """The cap that was held is in the provider's body and in a header; a warning says how far it is."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        await limit(house, {"hard_limit": 1_000, "soft_limit": 1})
        answer = await raw(body=chat())
        assert answer.status == 200
        sent = house.upstream.requests[-1].json
        [started] = house.facts(AttemptStarted)
        assert sent["max_tokens"] == started.output_max_tokens < 1_000
        assert answer.headers["x-palyra-adjusted"] == f"max_tokens={sent['max_tokens']}"
        assert answer.headers["x-palyra-warning"].startswith("budget_soft_limit;policy=day;used_bp=")
        answer = await raw(body=chat(max_tokens=7))
        assert house.upstream.requests[-1].json["max_tokens"] == 7
        assert "x-palyra-adjusted" not in answer.headers


@pytest.mark.parametrize("size_bytes", [1_000, OFF_LOOP_BYTES, APART_BYTES])
async def test_a_body_that_a_budget_lowers_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_bytes: int
) -> None:
    """However large it is, with the maximum that the budget leaves; a large one away from the loop."""
    threads: list[int] = []
    prepare = ResponsesSurface.prepare

    def noting(self: ResponsesSurface, *arguments: Any) -> None:
        threads.append(threading.get_ident())
        prepare(self, *arguments)

    monkeypatch.setattr(ResponsesSurface, "prepare", noting)
    picture = {"type": "input_image", "image_url": f"data:image/png;base64,{'QUJD' * (size_bytes // 3)}"}
    body = {"model": "gpt", "input": [{"role": "user", "content": [picture]}]}
    async with open_house(tmp_path, offer=DIALECTS) as house, raw_client(house) as raw:
        house.gateway.bodies.bound(max_request_bytes=16 << 20, max_inflight_bytes=64 << 20)
        await limit(house, {"hard_limit": 4_000})
        answer = await raw(path="/v1/responses", body=body)
        assert answer.status == 200, answer.body
        sent = house.upstream.requests[-1].json
        [started] = house.facts(AttemptStarted)
        assert sent["max_tokens"] == started.output_max_tokens < 4_000
        assert len(json.dumps(sent)) > size_bytes
        assert len(threads) == 1
        assert (threads[0] == threading.get_ident()) == (size_bytes == 1_000)
        assert (house.runs.apart.pid is not None) == (size_bytes == APART_BYTES)


async def test_a_request_may_limit_itself(tmp_path: Path) -> None:
    """`x-palyra-max-cost-usd` stops what has no known price, and is read exactly."""
    async with open_house(tmp_path) as house, raw_client(house) as raw:
        answer = await raw(body=chat(), headers={"x-palyra-max-cost-usd": "0.05"})
        assert (answer.status, answer.code) == (402, "budget_unpriced")
        answer = await raw(body=chat(), headers={"x-palyra-max-cost-usd": "free"})
        assert (answer.status, answer.code) == (400, "invalid_header")


async def test_a_burst_of_all_kinds_passes_no_limit(tmp_path: Path) -> None:
    """200 requests at once, streamed or not, some given up, some failing: at no position is a limit passed."""
    chance = random.Random(7)
    async with open_house(tmp_path, offer=OFFER) as house, raw_client(house) as raw:
        await limit(
            house,
            {"policy_id": "all", "scope_kind": "global", "hard_limit": 1_500},
            {"policy_id": "each", "scope_kind": "session", "hard_limit": 500},
        )
        house.upstream.reply_with(
            *(
                chance.choice(
                    [
                        Behaviour(completion_tokens=40),
                        Behaviour(completion_tokens=1),
                        Behaviour(usage="none"),
                        Behaviour.error(500),
                        Behaviour(after={1: CUT}),
                        Behaviour(head=RESET),
                    ]
                )
                for _ in range(400)
            )
        )

        async def ask(number: int) -> int:
            body = chat(f"Say {number}.", max_tokens=chance.randrange(1, 60), stream=bool(number % 3))
            headers = {"x-palyra-session": f"s{number % 7}"}
            try:
                async with asyncio.timeout(chance.choice([0.05, 30, 30, 30])):
                    return (await raw(body=body, headers=headers)).status
            except (TimeoutError, OSError, ClientError):
                return 0

        statuses = await asyncio.gather(*(ask(number) for number in range(200)))
        await house.wait_until_idle()
        await house.core.durable()
        audit = Audit().enter(history(house))
        assert audit.holds == {}
        assert statuses.count(200) > 10
        assert statuses.count(429) > 10
        counters = {(one.policy_id, one.subject): one.settled for one in house.core.state.budgets.counters.values()}
        assert {key[:2]: amount for key, amount in audit.settled.items()} == counters
        assert all(one.reserved == 0 for one in house.core.state.budgets.counters.values())
