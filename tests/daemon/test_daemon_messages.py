"""Anthropic's official client against a real gateway, with a provider of either dialect behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import pytest
from daemon_house import chat, open_house, raw_client
from dialect_house import APIS, DIALECTS, MODELS, PATHS, anthropic_of, asked
from registries import model, provider, registry
from upstream import CUT, Behaviour
from upstream_messages import SIGNATURE

from palyra.decisions.naming import VIRTUAL_NAMES
from palyra.events.attempts import AttemptStarted
from palyra.events.runs import RunAdmitted, RunCompleted, RunFailed
from palyra.events.usage import UsageRecorded

WEATHER = {
    "name": "weather",
    "description": "Tell the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALLS = (("toolu_1", "weather", '{"city": "Paris"}'), ("toolu_2", "weather", '{"city": "Rome"}'))


@pytest.mark.parametrize("name", MODELS)
async def test_a_message_is_answered(tmp_path: Path, name: str) -> None:
    """The answer is a message, whoever gave it; the run says how it was asked for and passed on."""
    async with open_house(tmp_path, offer=DIALECTS) as house, anthropic_of(house) as sdk:
        raw = await sdk.messages.with_raw_response.create(**asked(model=name, system="Be kind."))
        answer = await raw.parse()
        assert (answer.type, answer.role, answer.model) == ("message", "assistant", name)
        assert [block.text for block in answer.content] == ["Hello from upstream."]  # type: ignore[union-attr]
        assert answer.stop_reason == "end_turn"
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (11, 5)
        assert raw.headers["request-id"] == raw.headers["x-palyra-run-id"]
        sent = house.upstream.requests[0]
        assert sent.path == PATHS[name]
        (admitted,), (started,) = house.facts(RunAdmitted), house.facts(AttemptStarted)
        assert (admitted.endpoint, admitted.dialect) == ("chat", "messages")
        assert (started.api, started.passthrough) == (APIS[name], name == "claude")
        assert len(house.facts(RunCompleted)) == 1
        assert house.facts(UsageRecorded)[0].usage.input_tokens == 11


@pytest.mark.parametrize("name", MODELS)
async def test_a_message_is_streamed(tmp_path: Path, name: str) -> None:
    """The helper of the official client puts the same message together that a unary answer is."""
    async with open_house(tmp_path, offer=DIALECTS) as house, anthropic_of(house) as sdk:
        behaviour = Behaviour(text="Look.", reasoning="Hm, ", tool_calls=CALLS)
        house.upstream.reply_with(behaviour, behaviour)
        arguments = asked(model=name, tools=[WEATHER])
        async with sdk.messages.stream(**arguments) as stream:
            texts = [text async for text in stream.text_stream]
            folded = await stream.get_final_message()
        unary = await sdk.messages.create(**arguments)
        assert "".join(texts) == "Look."
        ours = json.loads(folded.model_dump_json(exclude={"id"}, exclude_none=True))
        assert without_parsed(ours) == json.loads(unary.model_dump_json(exclude={"id"}, exclude_none=True))
        assert [block.type for block in unary.content] == ["thinking", "text", "tool_use", "tool_use"]
        assert unary.stop_reason == "tool_use"
        await house.wait_until_idle()
        assert len(house.facts(RunCompleted)) == 2


def without_parsed(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without what only the client's helper adds."""
    for block in message["content"]:
        block.pop("parsed_output", None)
    return message


async def test_bytes_pass_untouched_between_equals(tmp_path: Path) -> None:
    """Key order, spacing, `cache_control` and unknown fields reach a provider of the same dialect."""
    body = (
        b'{ "max_tokens":7, "zzz": [1.50, 1e3], "messages":[{"content":[{"cache_control":{"type":"ephemeral"},'
        b'"type":"text","text":"\\u0068i"}],"role":"user"}],"model" : "claude"}'
    )
    async with open_house(tmp_path, offer=DIALECTS) as house, raw_client(house) as raw:
        headers = {"anthropic-version": "2099-01-01", "anthropic-beta": "b1"}
        answer = await raw(path="/v1/messages?beta=true", body=body, headers=headers)
        assert answer.status == 200
        (sent,) = house.upstream.requests
        assert sent.body == body.replace(b'"claude"', b'"claude-x"')
        assert (sent.headers["anthropic-version"], sent.headers["anthropic-beta"]) == ("2099-01-01", "b1")
        assert house.facts(AttemptStarted)[0].edits == ["model"]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_chat_is_answered_by_messages(tmp_path: Path, is_streamed: bool) -> None:
    """A client of chat completions gets tools, reasoning and usage from a provider that speaks messages."""
    async with open_house(tmp_path, offer=DIALECTS) as house, house.sdk() as sdk:
        details = {"cache_read_input_tokens": 4, "cache_creation": {"ephemeral_1h_input_tokens": 2}}
        house.upstream.reply_with(
            Behaviour(text="Look.", reasoning="Hm.", tool_calls=CALLS, usage_details={
                **details, "cache_creation_input_tokens": 5,
            })
        )  # fmt: skip
        arguments = chat(model="claude", seed=7)
        if is_streamed:
            manager = sdk.chat.completions.stream(**arguments, stream_options={"include_usage": True})
            async with manager as stream:
                answer: Any = await stream.get_final_completion()
        else:
            answer = await sdk.chat.completions.create(**arguments)
        choice = answer.choices[0]
        assert (choice.message.content, choice.finish_reason) == ("Look.", "tool_calls")
        assert choice.message.reasoning_content == "Hm."
        calls = [
            (one.id, one.function.name, json.loads(one.function.arguments)) for one in choice.message.tool_calls
        ]
        assert calls == [(one, name, json.loads(arguments)) for one, name, arguments in CALLS]
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (20, 5)
        assert answer.usage.prompt_tokens_details.cached_tokens == 4
        await house.wait_until_idle()
        (row,) = house.facts(UsageRecorded)
        assert (row.usage.cache_write_5m_tokens, row.usage.cache_write_1h_tokens) == (3, 2)
        assert house.facts(AttemptStarted)[0].dropped == ["seed"]
        assert house.upstream.requests[0].headers["anthropic-version"] == "2023-06-01"


async def test_thoughts_come_back_as_they_were_given(tmp_path: Path) -> None:
    """A chat client that returns the opaque details gives the provider its signed block again."""
    async with open_house(tmp_path, offer=DIALECTS) as house, house.sdk() as sdk:
        house.upstream.reply_with(Behaviour(text="", reasoning="Hm.", tool_calls=CALLS[:1]))
        first = await sdk.chat.completions.create(**chat(model="claude", reasoning_effort="high"))
        said = first.choices[0].message.model_dump(exclude_none=True)
        history = [
            {"role": "user", "content": "Weather?"},
            said,
            {"role": "tool", "tool_call_id": "toolu_1", "content": "rain"},
        ]
        await sdk.chat.completions.create(**chat(model="claude", messages=history, reasoning_effort="high"))
        sent = house.upstream.requests[1].json
        assert sent["messages"][1]["content"][0] == {"type": "thinking", "thinking": "Hm.", "signature": SIGNATURE}
        assert sent["thinking"] == {"type": "adaptive"}


@pytest.mark.parametrize(
    ("behaviour", "error", "kind"),
    [
        (Behaviour.error(429), anthropic.RateLimitError, "rate_limit_error"),
        (Behaviour.error(401), anthropic.InternalServerError, "api_error"),
        (Behaviour.anthropic_error(401, "authentication_error"), anthropic.InternalServerError, "api_error"),
        (Behaviour.anthropic_error(529, "overloaded_error"), anthropic.InternalServerError, "overloaded_error"),
        (Behaviour.anthropic_error(500, "overloaded_error"), anthropic.InternalServerError, "overloaded_error"),
        (
            Behaviour.anthropic_error(400, "invalid_request_error"),
            anthropic.BadRequestError,
            "invalid_request_error",
        ),
        (Behaviour.anthropic_error(400, "billing_error"), anthropic.InternalServerError, "api_error"),
    ],
)
@pytest.mark.parametrize("name", MODELS)
async def test_failures_are_typed(
    tmp_path: Path, behaviour: Behaviour, error: type[anthropic.APIStatusError], kind: str, name: str
) -> None:
    """A provider's failure is the exception that the client knows, in Anthropic's envelope, with the run's id."""
    async with open_house(tmp_path, offer=DIALECTS) as house, anthropic_of(house) as sdk:
        house.upstream.reply_with(behaviour)
        with pytest.raises(error) as caught:
            await sdk.messages.create(**asked(model=name))
        body: Any = caught.value.body
        assert body["error"]["type"] == kind
        assert body["error"]["message"].startswith(f"[{house.facts(RunFailed)[0].code}] ")
        assert body["request_id"] == body["palyra"]["run_id"] == caught.value.request_id


async def test_refusals_are_in_the_envelope_of_the_route(tmp_path: Path) -> None:
    """Before the body is read and after it, by the place or by `anthropic-version`."""
    async with open_house(tmp_path, offer=DIALECTS) as house, raw_client(house) as raw:
        wrong = await raw(path="/v1/messages", key="palyra_client_0_x", body=b"{")
        assert (wrong.status, wrong.json["error"]["type"]) == (401, "authentication_error")
        nameless = await raw(path="/v1/messages", body=asked(model="gtp"))
        assert (nameless.status, nameless.json["type"]) == (404, "error")
        assert nameless.json["error"]["type"] == "not_found_error"
        versioned = await raw("GET", "/v1/nowhere", headers={"anthropic-version": "2023-06-01"})
        assert (versioned.status, versioned.json["error"]["type"]) == (404, "not_found_error")


@pytest.mark.parametrize("name", MODELS)
async def test_a_stream_that_breaks_says_so(tmp_path: Path, name: str) -> None:
    """A provider that breaks off mid-stream ends the client's stream with an error event."""
    async with open_house(tmp_path, offer=DIALECTS) as house, anthropic_of(house) as sdk:
        house.upstream.reply_with(Behaviour(after={5: CUT}))
        with pytest.raises(anthropic.APIStatusError) as caught:
            async with sdk.messages.stream(**asked(model=name)) as stream:
                await stream.get_final_message()
        assert "[stream_truncated]" in str(caught.value.body)
        assert [fact.code for fact in house.facts(RunFailed)] == ["stream_truncated"]


async def test_what_cannot_be_said_is_refused_or_dropped_by_name(tmp_path: Path) -> None:
    """A bias of tokens leads to no provider that knows none; a seed is left out and named, or refused on demand."""
    async with open_house(tmp_path, offer=DIALECTS) as house, raw_client(house) as raw:
        refused = await raw(body=chat(model="claude", logit_bias={"1": 2}))
        assert (refused.status, refused.code, refused.json["error"]["param"]) == (
            400,
            "unsupported_parameter",
            "logit_bias",
        )
        strict = await raw(body=chat(model="claude", seed=1), headers={"x-palyra-unsupported": "refuse"})
        assert strict.json["error"]["param"] == "seed"
        loose = await raw(body=chat(model="claude", logit_bias={"1": 2}), headers={"x-palyra-unsupported": "drop"})
        assert loose.status == 200
        assert loose.headers["x-palyra-dropped-params"] == "logit_bias"
        bad = await raw(
            body=chat(
                model="claude",
                messages=[
                    {"role": "user", "content": "x"},
                    {
                        "role": "assistant",
                        "tool_calls": [
                            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "[1"}}
                        ],
                    },
                ],
            )
        )
        assert bad.code == "tool_arguments_not_json"


@pytest.mark.parametrize(("name", "is_told"), [("claude", True), ("gpt", False)])
async def test_tokens_are_counted_for_free(tmp_path: Path, name: str, is_told: bool) -> None:
    """A provider that can tell is asked, another's input is estimated; no run begins and nothing is reserved."""
    async with open_house(tmp_path, offer=DIALECTS) as house, anthropic_of(house) as sdk:
        raw = await sdk.messages.with_raw_response.count_tokens(
            model=name, messages=[{"role": "user", "content": "one two three four"}]
        )
        counted = await raw.parse()
        assert counted.input_tokens == (11 if is_told else 12)
        assert ("x-palyra-estimated" in raw.headers) is not is_told
        assert [one.path for one in house.upstream.requests] == ["/v1/messages/count_tokens"] * is_told
        house.upstream.reply_with(Behaviour.anthropic_error(500, "api_error"))
        again = await sdk.messages.count_tokens(model=name, messages=[{"role": "user", "content": "one two"}])
        assert again.input_tokens == 9
        with pytest.raises(anthropic.NotFoundError):
            await sdk.messages.count_tokens(model="gtp", messages=[{"role": "user", "content": "x"}])
        assert house.counted("run.admitted") == 0


async def test_models_are_listed_by_pages(tmp_path: Path) -> None:
    """The client walks over all pages, and finds one model by its name."""
    async with open_house(tmp_path, offer=DIALECTS) as house, anthropic_of(house) as sdk:
        page = await sdk.models.list(limit=2)
        assert [one.id for one in page.data] == ["claude", "gpt"]
        assert page.has_more
        assert [one.id async for one in page] == ["claude", "gpt", "oai", *VIRTUAL_NAMES]
        one = await sdk.models.retrieve("claude")
        assert (one.type, one.id, one.display_name) == ("model", "claude", "claude")
        before = await sdk.models.list(limit=1, before_id="oai")
        assert ([one.id for one in before.data], before.has_more) == (["gpt"], True)
        with pytest.raises(anthropic.BadRequestError):
            await sdk.models.list(limit=0)


@pytest.mark.parametrize(
    ("changes", "asked_for", "sent"),
    [
        ({}, {}, 8_192),
        ({"max_output_tokens": 500}, {}, 500),
        ({"max_tokens_per_event": 90}, {}, 90),
        ({"max_output_tokens": 500}, {"max_tokens": 700}, 700),
    ],
)
async def test_a_maximum_is_demanded_and_found(
    tmp_path: Path, changes: dict[str, Any], asked_for: dict[str, Any], sent: int
) -> None:
    """The client's own, else the model's, else the usual one; never more than one event may hold."""
    ant = provider("ant", kind="anthropic", flavor="", max_retries=0, credential_ref="", auth_scheme="none")
    entry = model("claude", "ant", upstream_model="claude-x", upstream_apis=["messages"], **changes)
    async with open_house(tmp_path, offer=registry(ant, entry, default_chat_model_id="claude")) as house:
        async with house.sdk() as sdk:
            await sdk.chat.completions.create(**chat(model="claude", **asked_for))
        assert house.upstream.requests[0].json["max_tokens"] == sent
