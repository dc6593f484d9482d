"""Members of requests that only their own dialect knows: they are named, wherever they stand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dialect_cases import DIALECTS

from palyra.limits import NAME_TOLD_MAX_CHARS, NAMES_TOLD_MAX_COUNT
from palyra.wire.dialects import DIALECT_ROWS, read_in_full
from palyra.wire.errors import WireError
from palyra.wire.known import told
from palyra.wire.neutral import Dialect, NeutralRequest
from palyra.wire.read_surfaces import decode_messages, decode_responses
from palyra.wire.request import decode_chat
from palyra.wire.target import Prepared, Target

DECODE = {"chat": decode_chat, "messages": decode_messages, "responses": decode_responses}


def read(dialect: Dialect, **members: Any) -> NeutralRequest:
    return DIALECT_ROWS[dialect].read_request(json.dumps({"model": "m", **members}).encode())


def write(request: NeutralRequest, dialect: Dialect) -> Prepared:
    return DIALECT_ROWS[dialect].write_call(request, Target(dialect=dialect, model="m", reasoning="effort"))


TEXT = {"type": "text", "text": "x"}
FUNCTION = {"name": "f", "parameters": {"type": "object"}}

UNKNOWN: list[tuple[Dialect, dict[str, Any], list[str]]] = [
    ("chat", {"messages": [{"role": "assistant", "content": "x", "audio": {"id": "a"}}]}, ["messages.audio"]),
    (
        "chat",
        {"messages": [{"role": "user", "content": [{**TEXT, "prompt_cache_breakpoint": {"mode": "explicit"}}]}]},
        ["content.prompt_cache_breakpoint"],
    ),
    (
        "chat",
        {
            "messages": [{"role": "user", "content": "x"}],
            "tools": [{"type": "function", "defer": True, "function": {**FUNCTION, "examples": [1]}}],
        },
        ["tools.defer", "tools.function.examples"],
    ),
    (
        "messages",
        {
            "max_tokens": 9,
            "messages": [{"role": "user", "content": [{**TEXT, "citations": [{"type": "char_location"}]}]}],
            "tools": [
                {"name": "f", "input_schema": {}, "defer_loading": True, "cache_control": {"type": "ephemeral"}}
            ],
            "tool_choice": {"type": "auto", "odd": 1},
            "thinking": {"type": "adaptive", "display": "omitted"},
            "output_config": {"effort": "low", "task_budget": {"total": 1}},
        },
        [
            "content.citations",
            "tools.defer_loading",
            "cache_control",
            "tool_choice.odd",
            "output_config.task_budget",
            "thinking.display",
        ],
    ),
    (
        "responses",
        {
            "input": [
                {"role": "assistant", "content": "x", "phase": "commentary"},
                {
                    "role": "user",
                    "content": [{"type": "input_text", "text": "x", "prompt_cache_breakpoint": {"a": 1}}],
                },
            ],
            "tools": [{"type": "function", **FUNCTION, "defer_loading": True}],
            "text": {"odd": 1},
            "reasoning": {"effort": "low", "context": "all_turns", "mode": "pro"},
        },
        [
            *("input.phase", "content.prompt_cache_breakpoint", "tools.defer_loading", "text.odd"),
            *("reasoning.context", "reasoning.mode"),
        ],
    ),
]


@pytest.mark.parametrize(("source", "members", "names"), UNKNOWN)
def test_members_that_nobody_knows_are_named(source: Dialect, members: dict[str, Any], names: list[str]) -> None:
    """A provider of another dialect goes without them; its client hears of it, or is refused if it wants that."""
    request = read(source, **members)
    assert sorted(request.marks) == sorted(names)
    for target in DIALECTS:
        if target != source:
            assert sorted(write(request, target).dropped) == sorted(names)
            body = json.dumps({"model": "m", **members}).encode()
            refusing = read_in_full(DECODE[source], "refuse", body)
            assert set(names) <= set(refusing.losses[target])


QUIET: list[tuple[Dialect, dict[str, Any]]] = [
    (
        "chat",
        {
            "messages": [
                {"role": "user", "content": "x"},
                {
                    "role": "assistant",
                    "content": "y",
                    "refusal": None,
                    "annotations": [],
                    "audio": None,
                    "function_call": None,
                    "tool_calls": None,
                },
            ]
        },
    ),
    (
        "messages",
        {
            "max_tokens": 9,
            "messages": [
                {"role": "user", "content": "x"},
                {
                    "role": "assistant",
                    "content": [
                        {**TEXT, "citations": None},
                        {"type": "tool_use", "id": "t", "name": "f", "input": {}, "caller": {"type": "direct"}},
                    ],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "z"}]},
            ],
            "tools": [{"name": "f", "input_schema": {}}],
        },
    ),
    (
        "responses",
        {
            "input": [
                {
                    "type": "message",
                    "id": "msg_1",
                    "status": "completed",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "x", "annotations": [], "logprobs": []}],
                },
                {"type": "web_search_call", "id": "w", "status": "completed", "action": {"type": "search"}},
            ],
            "text": {"format": {"type": "text"}, "verbosity": None},
        },
    ),
]


@pytest.mark.parametrize(("source", "members"), QUIET)
def test_what_an_answer_said_goes_back_without_a_word(source: Dialect, members: dict[str, Any]) -> None:
    """Clients send back what they were given: ids, states and empty places say nothing."""
    assert read(source, **members).marks == ()


def test_instructions_among_the_messages_are_instructions() -> None:
    """Anthropic's dialect has them there too; each target has its own place for them."""
    turns = [
        {"role": "user", "content": "x"},
        {"role": "system", "content": [{**TEXT, "text": "Be brief."}]},
        {"role": "system", "content": "Be kind."},
    ]
    request = read("messages", max_tokens=9, system="Be good.", messages=turns)
    assert request.instructions == ("Be good.", "Be brief.", "Be kind.")
    assert len(request.messages) == 1
    with pytest.raises(WireError) as caught:
        read("messages", max_tokens=9, messages=[{"role": "tool", "content": "x"}])
    assert caught.value.param == "messages[0].role"


def test_what_only_shares_its_name_is_not_passed_on() -> None:
    """A file of Anthropic's store means nothing to OpenAI, nor does its tier."""
    source = {"type": "file", "file_id": "file_1"}
    turns = [{"role": "user", "content": [{"type": "document", "source": source}]}]
    body = {"model": "m", "max_tokens": 9, "messages": turns, "service_tier": "standard_only"}
    request = read_in_full(decode_messages, "rule", json.dumps(body).encode())
    assert request.losses["chat"] == request.losses["responses"] == ("file_id",)
    assert request.neutral is not None
    prepared = write(request.neutral, "chat")
    assert prepared.dropped == ("file_id", "service_tier")
    assert b"service_tier" not in prepared.body


def test_how_closely_a_picture_is_looked_at_is_not_said_to_anthropic() -> None:
    """It has no word for it; what is left to the model needs none."""
    for detail, dropped in (("high", ("image.detail",)), ("auto", ())):
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD", "detail": detail}}
        request = read("chat", messages=[{"role": "user", "content": [picture]}])
        assert write(request, "messages").dropped == dropped


def allowed(dialect: Dialect, mode: str) -> NeutralRequest:
    """Return a request with three tools, of which two may be called."""
    names = ["f", "g", "h"]
    if dialect == "chat":
        tools = [{"type": "function", "function": {**FUNCTION, "name": name}} for name in names]
        among = [{"type": "function", "function": {"name": name}} for name in names[:2]]
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": among}}
        return read("chat", messages=[{"role": "user", "content": "x"}], tools=tools, tool_choice=choice)
    tools = [{"type": "function", **FUNCTION, "name": name} for name in names]
    among = [{"type": "function", "name": name} for name in names[:2]]
    return read(
        "responses", input="x", tools=tools, tool_choice={"type": "allowed_tools", "mode": mode, "tools": among}
    )


@pytest.mark.parametrize("source", ["chat", "responses"])
@pytest.mark.parametrize(("mode", "chosen"), [("auto", None), ("required", {"type": "any"})])
def test_a_choice_among_some_tools_offers_these_alone(source: Dialect, mode: str, chosen: Any) -> None:
    """Where a dialect cannot say it: the model cannot call what it does not know of."""
    prepared = write(allowed(source, mode), "messages")
    body = json.loads(prepared.body)
    assert [tool["name"] for tool in body["tools"]] == ["f", "g"]
    assert body.get("tool_choice") == chosen
    assert prepared.emulated == ("tool_choice.allowed_tools",)


def test_what_is_told_of_names_is_bounded() -> None:
    """They are others' to make up: each is cut, and after so many the rest is one word."""
    assert told(["a", "b", "a"]) == ("a", "b")
    assert told(["x" * 500]) == ("x" * NAME_TOLD_MAX_CHARS,)
    assert told(["sk-" + "a1B2c3D4" * 5]) == ("<redacted>",)
    many = told(f"n{number}" for number in range(1_000))
    assert (len(many), many[-1]) == (NAMES_TOLD_MAX_COUNT + 1, "others")
    tools = [{"type": f"{'t' * 70}{number}"} for number in range(1_000)]
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": tools, "max_tokens": 9}
    request = read_in_full(decode_messages, "rule", json.dumps(body).encode())
    assert request.losses["chat"] == (f"tools.{'t' * (NAME_TOLD_MAX_CHARS - 6)}",)


def test_a_message_of_another_shape_is_refused_by_its_place() -> None:
    """What the frame of a chat cannot be is named where it stands."""
    with pytest.raises(WireError) as caught:
        read("chat", messages=[{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": 5}])
    assert caught.value.param == "messages[1].tool_calls"
