"""Agents that work in turns of tools, through official clients, in front of a provider of each dialect.

The upstream asks for one tool a turn and checks that it gets the whole history back, in its own words, with what it
thought itself where it gave that out.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from anthropic import beta_async_tool
from daemon_house import House, open_house
from dialect_house import DIALECTS, MODELS, anthropic_of
from pydantic import BaseModel
from registries import model, provider, registry
from upstream import Behaviour
from upstream_messages import SIGNATURE
from upstream_responses import ENCRYPTED

from palyra.events.runs import RunCompleted
from palyra.providers.deterministic import DeterministicProvider, DeterministicSettings
from palyra.wire.script import Match, Reply, Rule, ToolCall

TURNS = 5


def script() -> list[Behaviour]:
    """Return what the provider says: a thought and a call a turn, then an answer."""
    calls = [
        Behaviour(
            text="", reasoning=f"Step {turn}.", tool_calls=((f"call_{turn}", "add", f'{{"a": {turn}, "b": 1}}'),)
        )
        for turn in range(TURNS)
    ]
    return [*calls, Behaviour(text="Done.")]


def check(house: House, name: str) -> None:
    """The last request held all calls and results, in the provider's own words."""
    assert len(house.upstream.requests) == TURNS + 1
    last = house.upstream.requests[-1].json
    results = [str(turn + 1) for turn in range(TURNS)]
    match name:
        case "gpt":
            told = [one["content"] for one in last["messages"] if one["role"] == "tool"]
            thoughts = [one["reasoning_content"] for one in last["messages"] if one["role"] == "assistant"]
            assert thoughts == [f"Step {turn}." for turn in range(TURNS)]
        case "claude":
            blocks = [
                block for one in last["messages"] if isinstance(one["content"], list) for block in one["content"]
            ]
            told = [_text(block["content"]) for block in blocks if block["type"] == "tool_result"]
            thoughts = [block for block in blocks if block["type"] == "thinking"]
            assert [(one["thinking"], one["signature"]) for one in thoughts] == [
                (f"Step {turn}.", SIGNATURE) for turn in range(TURNS)
            ]
        case _:
            told = [_text(one["output"]) for one in last["input"] if one.get("type") == "function_call_output"]
            thoughts = [one for one in last["input"] if one.get("type") == "reasoning"]
            assert [one["encrypted_content"] for one in thoughts] == [ENCRYPTED] * TURNS
    assert told == results


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@pytest.mark.parametrize("name", MODELS)
async def test_the_tool_runner_of_anthropics_client(tmp_path: Path, name: str) -> None:
    """Five turns of tools by its own runner, whoever answers."""

    @beta_async_tool
    async def add(a: int, b: int) -> str:
        """Add two numbers.

        Args:
            a: One.
            b: The other.
        """
        return str(a + b)

    async with open_house(tmp_path, offer=DIALECTS) as house, anthropic_of(house) as sdk:
        if name == "claude":  # it keeps no histories; the client sends the whole one then, as it does to others
            refusal = Behaviour.anthropic_error(400, "invalid_request_error", code="thread_unsupported_request")
            house.upstream.reply_with(refusal)
        house.upstream.reply_with(*script())
        runner = sdk.beta.messages.tool_runner(
            model=name, max_tokens=100, tools=[add], messages=[{"role": "user", "content": "Count."}]
        )
        final = await runner.until_done()
        assert final.content[-1].text == "Done."  # type: ignore[union-attr]
        del house.upstream.requests[: name == "claude"]
        check(house, name)
        await house.wait_until_idle()
        assert len(house.facts(RunCompleted)) == TURNS + 1


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("name", MODELS)
async def test_a_loop_of_chat_completions(tmp_path: Path, name: str, is_streamed: bool) -> None:
    """Five turns by a client that keeps no thoughts: they are put back for the provider that wants them."""
    tools: Any = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    messages: list[Any] = [{"role": "user", "content": "Count."}]
    async with open_house(tmp_path, offer=DIALECTS) as house, house.sdk() as sdk:
        house.upstream.reply_with(*script())
        while True:
            if is_streamed:
                async with sdk.chat.completions.stream(model=name, messages=messages, tools=tools) as stream:
                    message: Any = (await stream.get_final_completion()).choices[0].message
            else:
                answer = await sdk.chat.completions.create(model=name, messages=messages, tools=tools)
                message = answer.choices[0].message
            if not message.tool_calls:
                break
            calls = [
                {
                    "id": c.id,
                    "type": "function",
                    "function": {"name": c.function.name, "arguments": c.function.arguments},
                }
                for c in message.tool_calls
            ]
            said = {"role": "assistant", "tool_calls": calls}
            if name == "gpt":
                said["reasoning_content"] = message.reasoning_content  # between equals nothing is put back
            messages.append(said)
            for call in message.tool_calls:
                arguments = json.loads(call.function.arguments)
                result = str(arguments["a"] + arguments["b"])
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        assert message.content == "Done."
        check(house, name)


@pytest.mark.parametrize("name", MODELS)
async def test_a_loop_of_responses(tmp_path: Path, name: str) -> None:
    """Five turns by a stateless client that gives every item back as it got it."""
    tools: Any = [{"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": False}]
    items: list[Any] = [{"role": "user", "content": "Count."}]
    async with open_house(tmp_path, offer=DIALECTS) as house, house.sdk() as sdk:
        house.upstream.reply_with(*script())
        while True:
            include: Any = ["reasoning.encrypted_content"]
            stream = await sdk.responses.create(
                model=name, input=items, tools=tools, include=include, store=False, stream=True
            )
            last: Any = [event async for event in stream][-1]
            calls = [item for item in last.response.output if item.type == "function_call"]
            items += [item.model_dump(exclude_none=True) for item in last.response.output]
            if not calls:
                break
            for call in calls:
                arguments = json.loads(call.arguments)
                result = str(arguments["a"] + arguments["b"])
                items.append({"type": "function_call_output", "call_id": call.call_id, "output": result})
        assert last.response.output_text == "Done." if hasattr(last.response, "output_text") else True
        check(house, name)


class City(BaseModel):
    name: str
    people: int


CITY = '{"name": "Paris", "people": 2000000}'


@pytest.mark.parametrize("name", MODELS)
async def test_structured_answers_are_parsed(tmp_path: Path, name: str) -> None:
    """The helpers of both clients send their schema and get their object, whoever answers."""
    async with open_house(tmp_path, offer=DIALECTS) as house, house.sdk() as sdk, anthropic_of(house) as ant:
        house.upstream.reply_with(*[Behaviour(text=CITY)] * 3)
        chat = await sdk.chat.completions.parse(
            model=name, messages=[{"role": "user", "content": "Which?"}], response_format=City
        )
        responses = await sdk.responses.parse(model=name, input="Which?", text_format=City)
        message = await ant.messages.parse(
            model=name, max_tokens=50, messages=[{"role": "user", "content": "Which?"}], output_format=City
        )
        expected = City(name="Paris", people=2_000_000)
        assert chat.choices[0].message.parsed == expected
        assert responses.output_parsed == expected
        assert message.parsed_output == expected
        for request in house.upstream.requests:
            assert '"people"' in request.body.decode()


FRESH = registry(
    provider("det", kind="deterministic", flavor="", base_url="", credential_ref="", auth_scheme="none"),
    model("det", "det", upstream_model="det"),
    default_chat_model_id="det",
)
#: What a script says to a client with tools: a call, and an answer once it has the result.
CALLS = (
    Rule(
        match=Match(has_tools=True, has_tool_result=False),
        reply=Reply(tool_calls=[ToolCall(name="add", arguments={"a": 1, "b": 1})]),
    ),
    Rule(match=Match(has_tool_result=True), reply=Reply(text="Done.")),
)


def ask_with_every_helper(url: str, key: str, name: str) -> list[Any]:
    """Return what the helpers of both synchronous clients make of ten answers, in order."""

    @anthropic.beta_tool
    def add(a: int, b: int) -> str:
        """Add two numbers.

        Args:
            a: One.
            b: The other.
        """
        return str(a + b)

    turns: Any = [{"role": "user", "content": "x"}]
    said: list[Any] = []
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as sdk:
        said.append(sdk.chat.completions.create(model=name, messages=turns).choices[0].message.content)
        with sdk.chat.completions.stream(model=name, messages=turns) as chat:
            said.append(chat.get_final_completion().choices[0].message.content)
        said.append(sdk.responses.create(model=name, input="x").output_text)
        with sdk.responses.stream(model=name, input="x") as response:
            said.append(response.get_final_response().output_text)
        parsed = sdk.chat.completions.parse(model=name, messages=turns, response_format=City)
        said.append(parsed.choices[0].message.parsed)
        said.append(sdk.responses.parse(model=name, input="x", text_format=City).output_parsed)
    with anthropic.Anthropic(base_url=url, api_key=key, max_retries=0) as ant:
        said.append(ant.messages.create(model=name, max_tokens=50, messages=turns).content[0].text)  # type: ignore[union-attr]
        with ant.messages.stream(model=name, max_tokens=50, messages=turns) as stream:
            said.append("".join(stream.text_stream))
        message = ant.messages.parse(model=name, max_tokens=50, messages=turns, output_format=City)
        said.append(message.parsed_output)
        runner = ant.beta.messages.tool_runner(model=name, max_tokens=100, tools=[add], messages=turns)
        said.append(runner.until_done().content[-1].text)  # type: ignore[union-attr]
    return said


@pytest.mark.parametrize("name", [*MODELS, "det"])
async def test_the_synchronous_clients_work_as_well(tmp_path: Path, name: str) -> None:
    """In a thread of their own, with every helper that they have, whoever answers."""
    async with open_house(tmp_path, offer=FRESH if name == "det" else DIALECTS) as house:
        house._providers["det"] = DeterministicProvider(DeterministicSettings(rules=CALLS))
        told, city = Behaviour(), Behaviour(text=CITY)
        call = Behaviour(text="", tool_calls=(("call_1", "add", '{"a": 1, "b": 1}'),))
        house.upstream.reply_with(*[told] * 4, city, city, told, told, city)
        if name == "claude":  # it keeps no histories; the client sends the whole one then
            refusal = Behaviour.anthropic_error(400, "invalid_request_error", code="thread_unsupported_request")
            house.upstream.reply_with(refusal)
        house.upstream.reply_with(call, Behaviour(text="Done."))
        said = await asyncio.to_thread(ask_with_every_helper, house.server.url, house.client_key, name)
        text = "x" if name == "det" else "Hello from upstream."
        paris = City(name="", people=0) if name == "det" else City(name="Paris", people=2_000_000)
        assert said == [text, text, text, text, paris, paris, text, text, paris, "Done."]


async def test_the_provider_without_a_network_answers_every_client(tmp_path: Path) -> None:
    """A fresh install serves all three dialects, tools and streams included."""
    tool: Any = {"name": "add", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}
    async with open_house(tmp_path, offer=FRESH) as house, house.sdk() as sdk, anthropic_of(house) as ant:
        house._providers["det"] = DeterministicProvider(DeterministicSettings())
        asked: Any = {
            "model": "palyra/default",
            "max_tokens": 50,
            "messages": [{"role": "user", "content": "Hello?"}],
        }
        async with ant.messages.stream(**asked) as stream:
            assert await stream.get_final_text() == "Hello?"
        called = await ant.messages.create(**asked, tools=[tool], tool_choice={"type": "any"})
        assert [(block.type, block.name) for block in called.content] == [("tool_use", "add")]  # type: ignore[union-attr]
        assert (await sdk.responses.create(input="Hello?")).output_text == "Hello?"
        await house.wait_until_idle()
        assert len(house.facts(RunCompleted)) == 3
