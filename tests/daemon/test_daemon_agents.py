"""Agents that work in turns of tools, through official clients, in front of a provider of each dialect.

The upstream asks for one tool a turn and checks that it gets the whole history back, in its own words, with what it
thought itself where it gave that out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def test_the_synchronous_clients_work_as_well(tmp_path: Path) -> None:
    """In a thread of their own, since the gateway lives in this one's loop."""
    import asyncio

    import anthropic
    import openai

    def ask(url: str, key: str) -> list[str]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as sdk:
            chat = sdk.chat.completions.create(model="claude", messages=[{"role": "user", "content": "x"}])
            response = sdk.responses.create(model="claude", input="x")
        with anthropic.Anthropic(base_url=url, api_key=key, max_retries=0) as ant:
            with ant.messages.stream(
                model="gpt", max_tokens=5, messages=[{"role": "user", "content": "x"}]
            ) as stream:
                streamed = "".join(stream.text_stream)
        return [chat.choices[0].message.content or "", response.output_text, streamed]

    async def main() -> list[str]:
        async with open_house(tmp_path, offer=DIALECTS) as house:
            return await asyncio.to_thread(ask, house.server.url, house.client_key)

    assert asyncio.run(main()) == ["Hello from upstream."] * 3


async def test_the_provider_without_a_network_answers_every_client(tmp_path: Path) -> None:
    """A fresh install serves all three dialects, tools and streams included."""
    fresh = registry(
        provider("det", kind="deterministic", flavor="", base_url="", credential_ref="", auth_scheme="none"),
        model("det", "det", upstream_model="det"),
        default_chat_model_id="det",
    )
    tool: Any = {"name": "add", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}
    async with open_house(tmp_path, offer=fresh) as house, house.sdk() as sdk, anthropic_of(house) as ant:
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
