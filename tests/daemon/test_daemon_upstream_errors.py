"""What a provider refuses, told to clients of each dialect: its meaning stays, and whose fault it was is plain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
from anthropic import APIStatusError as AnthropicStatusError
from daemon_house import open_house, raw_client
from dialect_house import anthropic_of, asked
from registries import model, provider, registry
from upstream import HANG, Behaviour

from palyra.events.attempts import AttemptFailed
from palyra.events.registry import Registry
from palyra.wire.neutral import Dialect

APIS: list[Dialect] = ["chat", "messages", "responses"]
CLIENTS: dict[Dialect, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    "messages": ("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}),
    "responses": ("/v1/responses", {"input": "x"}),
}
#: Something that looks like a key, in a message of a provider.
KEY = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"
OPENAI_TYPES = {429: "rate_limit_error", 502: "server_error", 503: "server_error", 504: "server_error"}
ANTHROPIC_TYPES = {429: "rate_limit_error", 502: "api_error", 503: "overloaded_error", 504: "timeout_error"}


class Case(NamedTuple):
    """What a provider answers, and what becomes of it."""

    status: int
    openai: tuple[str, str | None]
    anthropic: str
    http: int
    code: str
    failure: str
    headers: dict[str, str] = {}


CASES = [
    Case(400, ("invalid_request_error", None), "invalid_request_error", 400, "invalid_request", "invalid_request"),
    Case(
        401,
        ("authentication_error", "invalid_api_key"),
        "authentication_error",
        502,
        "upstream_auth",
        "auth_invalid",
    ),
    Case(402, ("billing", "insufficient_quota"), "billing_error", 502, "upstream_quota", "quota_exceeded"),
    Case(403, ("permission_error", None), "permission_error", 502, "upstream_permission", "permission_denied"),
    Case(
        404,
        ("invalid_request_error", "model_not_found"),
        "not_found_error",
        502,
        "model_unavailable",
        "model_unavailable",
    ),
    Case(409, ("conflict", None), "invalid_request_error", 409, "conflict", "conflict"),
    Case(422, ("invalid_request_error", None), "invalid_request_error", 400, "invalid_request", "invalid_request"),
    Case(429, ("rate_limit_error", "rate_limit_exceeded"), "rate_limit_error", 429, "rate_limited", "rate_limited"),
    Case(500, ("server_error", None), "api_error", 502, "transient_upstream", "transient_upstream"),
    Case(503, ("server_error", None), "overloaded_error", 503, "overloaded", "overloaded", {"retry_after": "7"}),
    Case(529, ("overloaded_error", None), "overloaded_error", 503, "overloaded", "overloaded"),
]


def offer(api: Dialect) -> Registry:
    """Return a provider for each case, each with a model of its name: what one did is held against no other."""
    entries: list[Any] = []
    for case in CASES:
        is_anthropic = api == "messages"
        entries.append(
            provider(
                f"p{case.status}",
                kind="anthropic" if is_anthropic else "openai_compatible",
                flavor="" if is_anthropic else "generic",
                max_retries=0,
                credential_ref="",
                auth_scheme="none",
            )
        )
        entries.append(model(f"m{case.status}", f"p{case.status}", upstream_apis=[api], fallbacks=[]))
    return registry(*entries, default_chat_model_id="m400")


def refusal(case: Case, api: Dialect, message: str) -> Behaviour:
    kind, code = case.openai
    if api == "messages":
        return Behaviour.anthropic_error(case.status, case.anthropic, message, **case.headers)
    return Behaviour.error(case.status, code, message, kind=kind, **case.headers)


@pytest.mark.parametrize("client", APIS)
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_an_error_keeps_its_meaning(tmp_path: Path, client: Dialect, api: Dialect, is_streamed: bool) -> None:
    """Status, type and code by the rule; provider and attempt are named; no 401 is the client's, no key shown."""
    path, body = CLIENTS[client]
    async with open_house(tmp_path, offer=offer(api)) as house, raw_client(house) as raw:
        for case in CASES:
            house.upstream.reply_with(refusal(case, api, f"No way, {KEY} said.\nReally"))
            sent = {**body, "model": f"m{case.status}", "stream": is_streamed}
            answer = await raw(path=path, body=sent)
            expected = (case.http, case.code, case.failure)
            assert answer.headers["content-type"] == "application/json"
            error, told = answer.json["error"], answer.json["palyra"]
            (attempt,) = told["attempts"]
            is_anthropic = client == "messages"
            code = error["message"].partition("]")[0].strip("[") if is_anthropic else error["code"]
            assert (answer.status, code, attempt["class"]) == expected, answer.body
            kinds = ANTHROPIC_TYPES if is_anthropic else OPENAI_TYPES
            assert error["type"] == kinds.get(answer.status, "invalid_request_error")
            assert (attempt["provider_id"], attempt["model_id"]) == (f"p{case.status}", f"m{case.status}")
            assert attempt["status"] == (529 if api == "messages" and case.failure == "overloaded" else case.status)
            assert answer.headers["x-palyra-provider"] == f"p{case.status}"
            assert answer.headers["x-palyra-attempts"] == "1"
            assert KEY not in answer.body.decode()
            assert told["class"] == expected[2]
            if case.http == 400:
                assert "No way" in error["message"]
            if case.headers:
                assert answer.headers["retry-after"] == "7"
        await house.wait_until_idle()
        failed = house.facts(AttemptFailed)
        assert len(failed) == len(CASES)
        assert KEY not in repr(failed)


async def test_the_clients_of_the_vendors_raise_their_own_errors(tmp_path: Path) -> None:
    """A provider that refuses our key is a fault behind the gateway, never a reason to ask the user for another."""
    async with open_house(tmp_path, offer=offer("chat")) as house, house.sdk() as sdk, anthropic_of(house) as ant:
        by_status = {400: openai.BadRequestError, 401: openai.InternalServerError, 429: openai.RateLimitError}
        for case in CASES:
            if case.status not in by_status:
                continue
            house.upstream.reply_with(*[refusal(case, "chat", "No.")] * 3)
            name = f"m{case.status}"
            with pytest.raises(by_status[case.status]):
                await sdk.chat.completions.create(model=name, messages=[{"role": "user", "content": "x"}])
            with pytest.raises(openai.APIStatusError) as raised:
                await sdk.responses.create(model=name, input="x")
            assert raised.value.status_code != 401
            with pytest.raises(AnthropicStatusError) as also:
                await ant.messages.create(**asked(model=name))
            assert also.value.status_code != 401


@pytest.mark.parametrize("client", APIS)
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_silence_is_a_timeout(tmp_path: Path, client: Dialect, api: Dialect, is_streamed: bool) -> None:
    """A provider that says nothing is 504 in every dialect, and the attempt tells in which phase it was."""
    path, body = CLIENTS[client]
    quiet = offer(api)
    quiet.models[0] = model(
        "m400", "p400", upstream_apis=[api], fallbacks=[], request_timeout_ms=150, first_byte_timeout_ms=100
    )
    async with open_house(tmp_path, offer=quiet) as house, raw_client(house) as raw:
        house.upstream.reply_with(Behaviour(head=HANG))
        answer = await raw(path=path, body={**body, "model": "m400", "stream": is_streamed})
        assert answer.status == 504
        (attempt,) = answer.json["palyra"]["attempts"]
        assert attempt["class"] == ("timeout_first_byte" if is_streamed else "timeout_total")
        assert json.dumps(answer.json).count(attempt["class"]) >= 2
