"""OpenAI's official client for responses against a real gateway, with a provider of each dialect behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from daemon_house import chat, open_house, raw_client
from dialect_house import APIS, DIALECTS, MODELS, PATHS
from registries import model, provider, registry
from upstream import CUT, Behaviour
from upstream_responses import ENCRYPTED

from palyra.events.attempts import AttemptStarted
from palyra.events.runs import RunCompleted, RunFailed
from palyra.events.usage import UsageRecorded

CALLS = (("call_1", "weather", '{"city": "Paris"}'), ("call_2", "weather", '{"city": "Rome"}'))
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}


@pytest.mark.parametrize("name", MODELS)
async def test_a_response_is_answered(tmp_path: Path, name: str) -> None:
    """The answer is a response, whoever gave it."""
    async with open_house(tmp_path, offer=DIALECTS) as house, house.sdk() as sdk:
        answer = await sdk.responses.create(model=name, instructions="Be kind.", input="Say hi.")
        assert (answer.object, answer.model, answer.status) == ("response", name, "completed")
        assert answer.output_text == "Hello from upstream."
        assert answer.usage is not None
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (11, 5)
        assert house.upstream.requests[0].path == PATHS[name]
        (started,) = house.facts(AttemptStarted)
        assert (started.api, started.passthrough) == (APIS[name], name == "oai")
        assert house.facts(UsageRecorded)[0].usage.output_tokens == 5


@pytest.mark.parametrize("name", MODELS)
async def test_a_response_is_streamed(tmp_path: Path, name: str) -> None:
    """The client's helper folds the stream to the unary answer; the events are numbered without a gap."""
    async with open_house(tmp_path, offer=DIALECTS) as house, house.sdk() as sdk:
        behaviour = Behaviour(text="Look.", reasoning="Hm, ", tool_calls=CALLS)
        house.upstream.reply_with(behaviour, behaviour)
        arguments: dict[str, Any] = {
            "model": name,
            "input": "Weather?",
            "tools": [WEATHER],
            "include": ["reasoning.encrypted_content"],
        }
        async with sdk.responses.stream(**arguments) as stream:
            numbers = [event.sequence_number async for event in stream]
            folded = await stream.get_final_response()
        unary = await sdk.responses.create(**arguments)
        assert numbers == list(range(len(numbers)))
        assert [item.type for item in unary.output] == ["reasoning", "message", "function_call", "function_call"]
        assert told(folded) == told(unary)
        await house.wait_until_idle()
        assert len(house.facts(RunCompleted)) == 2


def told(response: Any) -> list[dict[str, Any]]:
    """Return what a response says, ids of items aside."""
    items = []
    for item in json.loads(response.model_dump_json(exclude_none=True))["output"]:
        item.pop("id", None)
        item.pop("parsed_arguments", None)
        for part in item.get("content", []):
            part.pop("parsed", None)
        if "arguments" in item:
            item["arguments"] = json.loads(item["arguments"])
        items.append(item)
    return items


async def test_bytes_pass_untouched_between_equals(tmp_path: Path) -> None:
    """Key order, spacing and unknown members reach a provider of the same dialect."""
    body = b'{ "zzz": [1.50, 1e3], "input":[{"content":"\\u0068i","role":"user"}],"model" : "oai","store":true}'
    async with open_house(tmp_path, offer=DIALECTS) as house, raw_client(house) as raw:
        answer = await raw(path="/v1/responses", body=body)
        assert (answer.status, answer.json["model"]) == (200, "oai")
        assert house.upstream.requests[0].body == body.replace(b'"oai"', b'"oai-x"')


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_chat_is_answered_by_responses(tmp_path: Path, is_streamed: bool) -> None:
    """A client of chat completions gets tools and reasoning from a provider that speaks responses."""
    async with open_house(tmp_path, offer=DIALECTS) as house, house.sdk() as sdk:
        house.upstream.reply_with(Behaviour(text="Look.", reasoning="Hm.", tool_calls=CALLS))
        arguments = chat(model="oai")
        if is_streamed:
            async with sdk.chat.completions.stream(**arguments) as stream:
                answer: Any = await stream.get_final_completion()
        else:
            answer = await sdk.chat.completions.create(**arguments)
        message = answer.choices[0].message
        assert (message.content, answer.choices[0].finish_reason) == ("Look.", "tool_calls")
        assert message.reasoning_content == "Hm."
        assert [call.id for call in message.tool_calls] == ["call_1", "call_2"]
        sent = house.upstream.requests[0].json
        assert (sent["store"], sent["include"]) == (False, ["reasoning.encrypted_content"])


@pytest.mark.parametrize("keeps", [False, True])
async def test_lost_thoughts_are_put_back(tmp_path: Path, keeps: bool) -> None:
    """A client that loses the opaque part of a tool turn, or keeps it, gives the provider its item again."""
    async with open_house(tmp_path, offer=DIALECTS) as house, house.sdk() as sdk:
        house.upstream.reply_with(Behaviour(text="", reasoning="Hm.", tool_calls=CALLS[:1]))
        first = await sdk.chat.completions.create(**chat(model="oai"))
        said = first.choices[0].message.model_dump(exclude_none=True)
        if not keeps:
            said = {name: said[name] for name in ("role", "tool_calls")}
        history = [
            {"role": "user", "content": "Weather?"},
            said,
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        ]
        await sdk.chat.completions.create(**chat(model="oai", messages=history))
        items = house.upstream.requests[1].json["input"]
        assert [item["type"] for item in items] == [
            "message",
            "reasoning",
            "function_call",
            "function_call_output",
        ]
        assert items[1]["encrypted_content"] == ENCRYPTED


async def test_what_only_this_dialect_has_is_refused_elsewhere(tmp_path: Path) -> None:
    """State that a provider keeps, and tools that it runs itself, cannot be asked of another."""
    async with open_house(tmp_path, offer=DIALECTS) as house, house.sdk() as sdk:
        for lost, more in (
            ("previous_response_id", {"previous_response_id": "resp_1"}),
            ("background", {"background": True}),
            ("tools.web_search", {"tools": [{"type": "web_search"}]}),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                await sdk.responses.create(model="gpt", input="x", **more)  # type: ignore[call-overload]
            assert caught.value.param == lost
            assert caught.value.code == "unsupported_parameter"


@pytest.mark.parametrize("name", MODELS)
async def test_a_stream_that_breaks_says_so(tmp_path: Path, name: str) -> None:
    """A provider that breaks off mid-stream ends the client's stream with `response.failed`, numbered on."""
    async with open_house(tmp_path, offer=DIALECTS) as house, house.sdk() as sdk:
        house.upstream.reply_with(Behaviour(after={6: CUT}))
        stream = await sdk.responses.create(model=name, input="x", stream=True)
        events = [event async for event in stream]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        last: Any = events[-1]
        assert (last.type, last.response.status) == ("response.failed", "failed")
        assert last.response.error.code == "stream_truncated"
        assert [fact.code for fact in house.facts(RunFailed)] == ["stream_truncated"]


@pytest.mark.parametrize("name", ["gpt", "claude"])
async def test_freeform_and_grouped_tools_come_back_as_they_were_declared(tmp_path: Path, name: str) -> None:
    """A tool of one text and a tool of a group are functions elsewhere, and none any more in the answer."""
    async with open_house(tmp_path, offer=DIALECTS) as house, house.sdk() as sdk:
        behaviour = Behaviour(
            text="",
            tool_calls=(("call_1", "shell", '{"input": "ls -l"}'), ("call_2", "files__open", '{"path": "x"}')),
        )
        house.upstream.reply_with(behaviour, behaviour)
        group = {"type": "namespace", "name": "files", "description": "", "tools": [{**WEATHER, "name": "open"}]}
        arguments: Any = {"model": name, "input": "x", "tools": [{"type": "custom", "name": "shell"}, group]}
        unary = await sdk.responses.create(**arguments)
        stream = await sdk.responses.create(**arguments, stream=True)
        last: Any = [event async for event in stream][-1]
        for output in (unary.output, last.response.output):
            shell, opened = (item.model_dump() for item in output)
            assert (shell["type"], shell["name"], shell["input"]) == ("custom_tool_call", "shell", "ls -l")
            assert (opened["type"], opened["namespace"], opened["name"]) == ("function_call", "files", "open")


async def test_a_response_goes_on_where_it_was_made(tmp_path: Path) -> None:
    """The provider that made it is asked, and no other; what nobody remembers is refused before it is sent."""
    two = registry(
        provider("up", max_retries=0, credential_ref="", auth_scheme="none"),
        provider("other", max_retries=0, credential_ref="", auth_scheme="none"),
        model("oai", "up", upstream_model="oai-x", upstream_apis=["responses"]),
        model("oai", "other", upstream_model="oai-y", upstream_apis=["responses"], priority=200),
        default_chat_model_id="oai",
    )
    async with open_house(tmp_path, offer=two) as house, house.sdk() as sdk:
        with pytest.raises(openai.BadRequestError) as caught:
            await sdk.responses.create(model="oai", input="x", previous_response_id="resp_upstream")
        assert caught.value.code == "previous_response_unknown"
        house.upstream.reply_with(Behaviour.error(500))
        first = await sdk.responses.create(model="oai", input="x", store=True)
        assert house.upstream.requests[-1].json["model"] == "oai-y"
        await sdk.responses.create(model="oai", input="y", previous_response_id=first.id)
        assert house.upstream.requests[-1].json["model"] == "oai-y"
        assert house.upstream.requests[-1].json["previous_response_id"] == "resp_upstream"
