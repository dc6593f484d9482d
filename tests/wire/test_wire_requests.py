"""Requests from one dialect into another: what each says, in the words of each."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dialect_cases import DIALECTS

from palyra.wire.cargo import pack, seal
from palyra.wire.dialects import DIALECT_ROWS, read_in_full
from palyra.wire.errors import WireError
from palyra.wire.neutral import Dialect, NeutralRequest
from palyra.wire.read_surfaces import decode_messages, decode_responses
from palyra.wire.request import decode_chat
from palyra.wire.target import WAYS, Prepared, Target, Ways
from palyra.wire.view import needs_of, view_of

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PNG = "iVBORw0KGgo="
DECODE = {"chat": decode_chat, "messages": decode_messages, "responses": decode_responses}

#: One conversation in three dialects: instructions, an image, two calls with their results, and a question.
CONVERSATION: dict[Dialect, dict[str, Any]] = {
    "chat": {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look."},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                ],
            },
            {
                "role": "assistant",
                "content": "I will.",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"Paris"}'},
                    },
                    {
                        "id": "c2",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"Rome"}'},
                    },
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
            {"role": "tool", "tool_call_id": "c2", "content": "sun"},
            {"role": "user", "content": "So?"},
        ],
        "tools": [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": SCHEMA}}],
        "max_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
    },
    "messages": {
        "model": "m",
        "system": "Be brief.",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look."},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I will."},
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Paris"}},
                    {"type": "tool_use", "id": "c2", "name": "weather", "input": {"city": "Rome"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "rain"},
                    {"type": "tool_result", "tool_use_id": "c2", "content": "sun"},
                    {"type": "text", "text": "So?"},
                ],
            },
        ],
        "tools": [{"name": "weather", "description": "d", "input_schema": SCHEMA}],
        "max_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
    },
    "responses": {
        "model": "m",
        "instructions": "Be brief.",
        "input": [
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Look."},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
                ],
            },
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I will."}]},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Paris"}'},
            {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": '{"city":"Rome"}'},
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
            {"type": "function_call_output", "call_id": "c2", "output": "sun"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "So?"}]},
        ],
        "tools": [
            {"type": "function", "name": "weather", "description": "d", "parameters": SCHEMA, "strict": False}
        ],
        "max_output_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
    },
}


def read(dialect: Dialect, body: dict[str, Any]) -> NeutralRequest:
    return DIALECT_ROWS[dialect].read_request(json.dumps(body).encode())


def write(request: NeutralRequest, dialect: Dialect, **more: Any) -> Prepared:
    defaults: dict[str, Any] = {"model": "m", "vendor": "up", "reasoning": "effort"}
    return DIALECT_ROWS[dialect].write_call(request, Target(dialect=dialect, **{**defaults, **more}))


def said(prepared: Prepared) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(prepared.body)
    return body


def chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [*messages], **more}


USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize("target", DIALECTS)
@pytest.mark.parametrize("source", DIALECTS)
def test_a_conversation_is_the_same_in_every_dialect(source: Dialect, target: Dialect) -> None:
    """Whatever it came in, it leaves in the words of the target, with nothing lost."""
    prepared = write(read(source, CONVERSATION[source]), target, reasoning="none")
    expected = dict(CONVERSATION[target])
    if target == "responses":
        expected["store"] = False
    if (source, target) == ("responses", "chat"):  # what is said of it there is said here
        function = {**expected["tools"][0]["function"], "strict": False}
        expected["tools"] = [{"type": "function", "function": function}]
    assert said(prepared) == expected
    assert (prepared.dropped, prepared.adjusted, prepared.emulated) == ((), (), ())


@pytest.mark.parametrize("source", DIALECTS)
def test_a_request_is_sized_and_its_needs_are_known(source: Dialect) -> None:
    """The three ways to say one thing need the same of a model, and about the same tokens."""
    request = DECODE[source](json.dumps(CONVERSATION[source]).encode())
    assert request.needs == ("tools", "vision")
    assert request.output_max_tokens == 100
    assert request.model == "m"
    assert 1_700 < request.raw_tokens < 1_800


SETTINGS: dict[Dialect, dict[str, Any]] = {
    "chat": {
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "a", "description": "b", "schema": SCHEMA, "strict": True},
        },
        "reasoning_effort": "low",
        "stream": True,
    },
    "messages": {
        "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
        "stream": True,
    },
    "responses": {
        "tool_choice": {"type": "function", "name": "weather"},
        "parallel_tool_calls": False,
        "text": {
            "format": {"type": "json_schema", "name": "a", "description": "b", "schema": SCHEMA, "strict": True}
        },
        "reasoning": {"effort": "low"},
        "stream": True,
    },
}


@pytest.mark.parametrize("target", DIALECTS)
@pytest.mark.parametrize("source", DIALECTS)
def test_settings_are_said_in_the_words_of_the_target(source: Dialect, target: Dialect) -> None:
    """Choice of tool, calls one by one, a schema of the answer, effort, and the stream."""
    body = said(write(read(source, {**CONVERSATION[source], **SETTINGS[source]}), target, stream=True))
    schema = {"name": "answer" if source == "messages" else "a", "schema": SCHEMA, "strict": True}
    if source != "messages":
        schema["description"] = "b"
    if target == "chat":
        assert body["tool_choice"] == SETTINGS["chat"]["tool_choice"]
        assert body["parallel_tool_calls"] is False
        found = body["response_format"]["json_schema"]
        assert {"strict": True, **found} == schema
        assert body["reasoning_effort"] == "low"
        assert body["stream_options"] == {"include_usage": True}
    elif target == "messages":
        assert body["tool_choice"] == SETTINGS["messages"]["tool_choice"]
        assert body["output_config"]["format"]["schema"] == SCHEMA
        assert "thinking" not in body  # a forced tool forbids it
    else:
        assert body["tool_choice"] == SETTINGS["responses"]["tool_choice"]
        assert body["parallel_tool_calls"] is False
        schema["strict"] = source != "messages"
        assert body["text"]["format"] == {"type": "json_schema", **schema}
        assert body["reasoning"]["effort"] == "low"
    assert body["stream"] is True


@pytest.mark.parametrize(
    ("choice", "messages", "responses"),
    [
        ("auto", None, "auto"),
        ("none", {"type": "none"}, "none"),
        ("required", {"type": "any"}, "required"),
    ],
)
def test_choices_of_tools(choice: str, messages: Any, responses: Any) -> None:
    """The three words, there and back."""
    request = read("chat", {**CONVERSATION["chat"], "tool_choice": choice})
    assert said(write(request, "messages")).get("tool_choice") == messages
    there = said(write(request, "responses"))
    assert there["tool_choice"] == responses
    assert said(write(read("responses", there), "chat"))["tool_choice"] == choice


def test_towards_messages_turns_are_strict() -> None:
    """Neighbours merge, results come first and in the order of the calls, an open call is answered, ids fit."""
    long_id = "x" * 70
    call = {"id": long_id, "type": "function", "function": {"name": "f", "arguments": ""}}
    other = {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}
    body = chat(
        {"role": "developer", "content": "One."},
        USER,
        {"role": "user", "content": ""},
        {"role": "user", "content": "y"},
        {"role": "assistant", "tool_calls": [call, other]},
        {"role": "user", "content": "wait"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "done"}]},
        {"role": "system", "content": "Two."},
        {"role": "assistant", "content": "", "tool_calls": [{**other, "id": "c"}]},
    )
    found = said(write(read("chat", body), "messages"))
    assert found["system"] == "One.\n\nTwo."
    first, second, third, fourth, fifth = found["messages"]
    assert [block["text"] for block in first["content"]] == ["x", "y"]
    ids = [block["id"] for block in second["content"]]
    assert len(ids[0]) == 30
    assert second["content"][0]["input"] == {}
    assert [block["type"] for block in third["content"]] == ["tool_result", "tool_result", "text"]
    assert [block["tool_use_id"] for block in third["content"][:2]] == ids
    assert third["content"][1]["content"] == "done"
    assert (third["content"][0]["content"], third["content"][0]["is_error"]) == ("no result", True)
    assert fourth["content"][0]["id"] == "c"
    assert fifth["content"] == [
        {"type": "tool_result", "tool_use_id": "c", "content": "no result", "is_error": True}
    ]


def test_images_in_results_follow_them_in_chat() -> None:
    """A chat's result holds text only; the image comes in a message of the user's, after all results."""
    image = {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}}
    body = {
        "model": "m",
        "max_tokens": 5,
        "messages": [
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]},
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "a",
                        "is_error": True,
                        "content": [{"type": "text", "text": "see"}, image],
                    }
                ],
            },
        ],
    }
    prepared = write(read("messages", body), "chat")
    _, result, user = said(prepared)["messages"]
    assert result == {"role": "tool", "tool_call_id": "a", "content": "see"}
    assert user["content"] == [{"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}]
    assert prepared.dropped == ("tool_result.is_error",)
    output = said(write(read("messages", body), "responses"))["input"][-1]["output"]
    assert [part["type"] for part in output] == ["input_text", "input_image"]
    back = said(write(read("messages", body), "messages"))["messages"][1]["content"][0]
    assert back["content"] == [{"type": "text", "text": "see"}, image]


def test_documents_and_sounds() -> None:
    """Bytes, text and addresses where they can be said; what cannot is named, or keeps a candidate out."""
    pdf = {
        "type": "document",
        "title": "t",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "AA"},
    }
    text = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}}
    url = {"type": "document", "source": {"type": "url", "url": "https://x.example/a.pdf"}}
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": [pdf, text]}]}
    request = read("messages", body)
    in_chat = write(request, "chat")
    assert said(in_chat)["messages"][0]["content"] == [
        {"type": "file", "file": {"filename": "t", "file_data": "data:application/pdf;base64,AA"}},
        {"type": "text", "text": "words"},
    ]
    assert in_chat.emulated == ("document=text",)
    in_responses = said(write(request, "responses"))
    assert in_responses["input"][0]["content"][0]["filename"] == "t"
    assert said(write(read("responses", in_responses), "messages"))["messages"][0]["content"][0] == pdf
    assert said(write(request, "messages"))["messages"][0]["content"] == [pdf, text]
    at_url = read("messages", {**body, "messages": [{"role": "user", "content": [url]}]})
    assert said(write(at_url, "responses"))["input"][0]["content"] == [
        {"type": "input_file", "file_url": "https://x.example/a.pdf"}
    ]
    sound = chat(
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}]}
    )
    heard = read("chat", sound)
    assert said(write(heard, "chat"))["messages"] == sound["messages"]
    assert write(heard, "messages").dropped == ("input_audio",)
    assert write(heard, "responses").dropped == ("content.audio",)
    assert decode_chat(json.dumps(sound).encode()).needs == ("audio_input",)


def test_file_ids_stay_with_openai() -> None:
    """An id of a file store means nothing elsewhere, so such a request goes nowhere else."""
    content = [{"type": "file", "file": {"file_id": "f1"}}]
    request = read("chat", chat({"role": "user", "content": content}))
    found = said(write(request, "responses"))["input"][0]["content"]
    assert found == [{"type": "input_file", "file_id": "f1"}]
    again = read("responses", {"model": "m", "input": [{"role": "user", "content": found}]})
    assert said(write(again, "chat"))["messages"][0]["content"] == content
    image = [{"type": "input_image", "file_id": "f2", "detail": "low"}]
    seen = read("responses", {"model": "m", "input": [{"role": "user", "content": image}]})
    assert said(write(seen, "responses"))["input"][0]["content"] == image
    full = read_in_full(decode_chat, "rule", json.dumps(chat({"role": "user", "content": content})).encode())
    assert full.losses["messages"] == ("file_id",)


def test_reasoning_goes_back_to_its_vendor_alone() -> None:
    """Sealed cargo is opened for who made it; for another it is dropped by name, and never becomes text."""
    raw = b'{"reasoning_content":"Hm."}'
    sealed = seal("up", raw)
    sources: dict[Dialect, dict[str, Any]] = {
        "chat": chat(
            USER,
            {
                "role": "assistant",
                "content": "y",
                "reasoning_details": [{"type": "palyra.opaque", "vendor": "up", "data": pack(raw)}],
            },
        ),
        "messages": {
            "model": "m",
            "max_tokens": 5,
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hm.", "signature": sealed},
                        {"type": "text", "text": "y"},
                    ],
                },
            ],
        },
        "responses": {
            "model": "m",
            "input": [
                {"role": "user", "content": "x"},
                {
                    "type": "reasoning",
                    "summary": [{"type": "summary_text", "text": "Hm."}],
                    "encrypted_content": sealed,
                },
                {"role": "assistant", "content": "y"},
            ],
        },
    }
    for source, body in sources.items():
        request = read(source, body)
        kept = said(write(request, "chat"))["messages"][1]
        assert kept == {"role": "assistant", "content": "y", "reasoning_content": "Hm."}
        for target in DIALECTS:
            lost = write(request, target, vendor="other")
            assert lost.dropped == ("reasoning",), (source, target)
            assert "Hm." not in lost.body.decode()


def test_own_blocks_survive_byte_for_byte() -> None:
    """Anthropic's thinking and OpenAI's items, native in their dialect, come through the neutral form unchanged."""
    blocks = [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln/+="},
        {"type": "redacted_thinking", "data": "cmVk"},
        {"type": "text", "text": "y"},
    ]
    body = {"model": "m", "max_tokens": 5, "messages": [USER, {"role": "assistant", "content": blocks}]}
    assert said(write(read("messages", body), "messages"))["messages"][1]["content"] == blocks
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
    asked = {"model": "m", "input": [{"role": "user", "content": "x"}, item]}
    assert said(write(read("responses", asked), "responses", vendor="openai"))["input"][1] == item


THINKS = [
    ({"reasoning_effort": "none"}, "effort", {}, ()),
    ({"reasoning_effort": "minimal"}, "budget", {}, ()),
    ({"reasoning_effort": "high"}, "effort", {"thinking": {"type": "adaptive"}}, ()),
    ({"reasoning_effort": "high"}, "budget", {"thinking": {"type": "enabled", "budget_tokens": 24_576}}, ()),
    ({"reasoning_effort": "low"}, "budget", {"thinking": {"type": "enabled", "budget_tokens": 2_048}}, ()),
    ({"reasoning_effort": "high"}, "none", {}, ("reasoning_effort",)),
]


@pytest.mark.parametrize(("asked", "mode", "expected", "dropped"), THINKS)
def test_effort_becomes_thinking(asked: Any, mode: Any, expected: dict[str, Any], dropped: tuple[str, ...]) -> None:
    """By a word or a budget, as the model takes it; the maximum lies above the budget."""
    prepared = write(read("chat", chat(USER, max_tokens=50, **asked)), "messages", reasoning=mode)
    body = said(prepared)
    assert {name: body[name] for name in expected} == expected
    assert ("thinking" in body) == ("thinking" in expected)
    assert prepared.dropped == dropped
    budget = expected.get("thinking", {}).get("budget_tokens", 0)
    assert body["max_tokens"] > budget
    assert prepared.adjusted == ((f"max_tokens={budget + 1_024}",) if budget else ())


@pytest.mark.parametrize(
    ("budget", "effort"), [(1_024, "low"), (2_048, "low"), (9_000, "medium"), (30_000, "high")]
)
def test_a_budget_becomes_an_effort(budget: int, effort: str) -> None:
    """The nearest lower step; towards another budget it stays as it is."""
    asked = {"thinking": {"type": "enabled", "budget_tokens": budget}, "max_tokens": 50_000}
    request = read("messages", {"model": "m", "messages": [USER], **asked})
    assert said(write(request, "chat"))["reasoning_effort"] == effort
    wanted = said(write(request, "responses"))["reasoning"]
    assert wanted == {"effort": effort, "summary": "auto"}
    assert said(write(request, "messages", reasoning="budget"))["thinking"]["budget_tokens"] == budget


def test_thinking_elsewhere() -> None:
    """Off is off, the highest word is the highest there is, and what a model cannot do is dropped by name."""
    off = read("messages", {"model": "m", "max_tokens": 5, "messages": [USER], "thinking": {"type": "disabled"}})
    assert "reasoning_effort" not in said(write(off, "chat"))
    assert "reasoning" not in said(write(off, "responses"))
    assert write(off, "chat", reasoning="none").dropped == ()
    top = read("messages", {"model": "m", "max_tokens": 5, "messages": [USER], "output_config": {"effort": "max"}})
    assert write(top, "chat").adjusted == ("reasoning_effort=xhigh",)
    assert write(top, "responses").adjusted == ("reasoning.effort=xhigh",)
    assert write(top, "chat", reasoning="none").dropped == ("thinking",)
    assert write(top, "responses", reasoning="none").dropped == ("thinking",)
    adaptive = read(
        "messages", {"model": "m", "max_tokens": 5, "messages": [USER], "thinking": {"type": "adaptive"}}
    )
    assert said(write(adaptive, "chat"))["reasoning_effort"] == "high"
    hard = read("responses", {"model": "m", "input": "x", "reasoning": {"effort": "high", "summary": "auto"}})
    assert write(hard, "responses", reasoning="none").dropped == ("reasoning_effort",)
    assert write(hard, "chat").dropped == ("reasoning.summary",)
    only = read("responses", {"model": "m", "input": "x", "reasoning": {"summary": "auto"}})
    assert "reasoning" not in said(write(only, "responses"))
    assert "reasoning_effort" not in said(write(only, "chat"))
    assert read("responses", {"model": "m", "input": "x", "reasoning": {}}).thinking is None


def test_sampling_that_a_target_refuses() -> None:
    """A temperature above one is cut by name; a model that thinks takes none at all."""
    warm = read("chat", chat(USER, temperature=1.7, top_p=1))
    prepared = write(warm, "messages")
    assert (said(prepared)["temperature"], said(prepared)["top_p"]) == (1, 1)
    assert prepared.adjusted == ("temperature=1",)
    thinking = {"model": "m", "max_tokens": 5, "messages": [USER], "top_k": 4, "temperature": 1}
    request = read("messages", {**thinking, "thinking": {"type": "adaptive"}})
    assert write(request, "messages").dropped == ("temperature", "top_k")
    assert write(read("messages", thinking), "chat").dropped == ("top_k",)
    assert said(write(read("messages", thinking), "messages"))["top_k"] == 4


def test_json_mode_is_a_line_of_instructions_for_messages() -> None:
    """What is done in the provider's place is named."""
    request = read("chat", chat(USER, response_format={"type": "json_object"}))
    prepared = write(request, "messages")
    assert said(prepared)["system"] == "Answer with one JSON object and nothing else."
    assert prepared.emulated == ("response_format=json_object",)
    assert said(write(request, "responses"))["text"] == {"format": {"type": "json_object"}}
    again = read("responses", {"model": "m", "input": "x", "text": {"format": {"type": "json_object"}}})
    assert said(write(again, "chat"))["response_format"] == {"type": "json_object"}
    assert read("chat", chat(USER, response_format={"type": "text"})).format is None
    assert read("responses", {"model": "m", "input": "x", "text": {"format": {"type": "text"}}}).format is None


def test_freeform_tools() -> None:
    """A tool of one text is one where that is known, and a function of one text elsewhere."""
    grammar = {"type": "grammar", "syntax": "lark", "definition": "x"}
    body = {
        "model": "m",
        "input": [
            {"role": "user", "content": "x"},
            {"type": "custom_tool_call", "call_id": "a", "name": "sh", "input": "ls"},
            {"type": "custom_tool_call_output", "call_id": "a", "output": "ok"},
        ],
        "tools": [{"type": "custom", "name": "sh", "description": "d", "format": grammar}],
        "tool_choice": {"type": "custom", "name": "sh"},
    }
    request = read("responses", body)
    same = said(write(request, "responses"))
    assert same["tools"] == body["tools"]
    assert same["tool_choice"] == body["tool_choice"]
    assert same["input"][1:] == body["input"][1:]
    knows = write(request, "chat", ways=Ways(takes_freeform=True))
    assert said(knows)["tools"] == [
        {"type": "custom", "custom": {"name": "sh", "description": "d", "format": grammar}}
    ]
    assert said(knows)["tool_choice"] == {"type": "custom", "custom": {"name": "sh"}}
    ordinary = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    told = write(read("chat", chat(USER, tools=[ordinary])), "chat", ways=Ways(takes_freeform=True))
    assert said(told)["tools"] == [ordinary]
    call = said(knows)["messages"][1]["tool_calls"][0]
    assert call == {"id": "a", "type": "custom", "custom": {"name": "sh", "input": "ls"}}
    assert read("chat", said(knows)).tools == request.tools
    assert said(write(read("chat", said(knows)), "responses"))["tool_choice"] == body["tool_choice"]
    plain = write(request, "chat")
    assert plain.dropped == ("tools.sh.format",)
    assert json.loads(said(plain)["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {"input": "ls"}
    assert said(plain)["tools"][0]["function"]["parameters"]["required"] == ["input"]
    there = write(request, "messages")
    assert there.dropped == ("tools.sh.format",)
    assert said(there)["messages"][1]["content"][0]["input"] == {"input": "ls"}
    assert request.wrapped_tools(takes_freeform=False) == {"sh"}
    assert not request.wrapped_tools(takes_freeform=True)


def test_groups_of_tools_are_flattened() -> None:
    """A tool in a group has the group's name before its own."""
    inner = {"type": "function", "name": "open", "parameters": SCHEMA}
    body = {
        "model": "m",
        "input": [
            {"type": "function_call", "call_id": "a", "namespace": "files", "name": "open", "arguments": "{}"}
        ],
        "tools": [{"type": "namespace", "name": "files", "tools": [inner]}, {"type": "web_search"}, {"x": 1}],
    }
    request = read("responses", body)
    assert [tool.name for tool in request.tools] == ["files__open"]
    assert request.namespaces == {"files__open": ("files", "open")}
    assert said(write(request, "chat"))["messages"][0]["tool_calls"][0]["function"]["name"] == "files__open"
    assert request.foreign_tools == ("web_search", "unknown")


def test_old_functions_become_tools() -> None:
    """Functions, their call and their answer are tools by another name."""
    body = chat(
        USER,
        {"role": "assistant", "function_call": {"name": "f", "arguments": {"a": 1}}},
        {"role": "function", "name": "f", "content": "done"},
        functions=[{"name": "f"}, 3],
        function_call={"name": "f"},
    )
    found = said(write(read("chat", body), "messages"))
    assert found["tools"] == [{"name": "f", "input_schema": {"type": "object", "properties": {}}}]
    assert found["tool_choice"] == {"type": "tool", "name": "f"}
    call, result = found["messages"][1]["content"][0], found["messages"][2]["content"][0]
    assert (call["input"], result["content"]) == ({"a": 1}, "done")
    assert call["id"] == result["tool_use_id"]


def test_unknown_content_is_named_where_it_goes_missing() -> None:
    """Content and tools that nobody else has, and shapes that nobody knows, are kept by their own dialect alone."""
    blocks = [
        {"type": "search_result", "x": 1},
        7,
        {"type": "text", "text": "t", "cache_control": {"type": "ephemeral"}},
    ]
    body = {
        "model": "m",
        "max_tokens": 5,
        "messages": [
            {"role": "user", "content": blocks},
            {"role": "assistant", "content": [{"type": "server_tool_use"}]},
        ],
        "tools": [{"type": "bash_20250124", "name": "bash"}, {"type": 3}],
        "mcp_servers": [{}],
        "metadata": {"user_id": "u"},
        "container": "c",
    }
    request = read("messages", body)
    lost = ("content.search_result", "content.unknown", "content.server_tool_use")
    prepared = write(request, "chat")
    assert prepared.dropped == (
        "mcp_servers",
        "tools.bash_20250124",
        "tools.unknown",
        "metadata.user_id",
        "container",
        "cache_control",
        *lost,
    )
    assert write(request, "responses").dropped[-3:] == lost
    full = read_in_full(decode_messages, "rule", json.dumps(body).encode())
    assert full.losses["chat"] == ("mcp_servers", "tools.bash_20250124", "tools.unknown")
    own = write(request, "messages")
    assert said(own)["metadata"] == {"user_id": "u"}
    assert own.dropped == ("tools.bash_20250124", "tools.unknown", *lost)
    odd = {
        "model": "m",
        "input": [
            3,
            {"type": "web_search_call"},
            {"role": "user", "content": [5, {"type": "odd"}]},
            {"type": "item_reference", "id": "i"},
        ],
    }
    asked = read("responses", odd)
    assert asked.marks == ("item_reference",)
    assert write(asked, "chat").dropped == (
        "item_reference",
        "content.unknown",
        "content.web_search_call",
        "content.odd",
    )
    part = read(
        "chat",
        chat(
            {"role": "user", "content": [5, {"type": "odd"}]},
            {
                "role": "assistant",
                "content": [{"type": "odd"}, {"type": "image_url", "image_url": "https://x.example"}],
            },
        ),
    )
    assert write(part, "chat").dropped == ("content.unknown", "content.odd", "content.image")
    assert write(part, "responses").dropped == ("content.unknown", "content.odd")


def test_refusals_are_carried() -> None:
    """What a model said in place of an answer stays what it is, or becomes its text."""
    body = chat(USER, {"role": "assistant", "refusal": "No."}, {"role": "user", "content": "why"})
    request = read("chat", body)
    assert said(write(request, "chat"))["messages"][1] == {"role": "assistant", "content": None, "refusal": "No."}
    there = said(write(request, "responses"))
    assert there["input"][1]["content"] == [{"type": "refusal", "refusal": "No."}]
    assert said(write(read("responses", there), "messages"))["messages"][1]["content"] == [
        {"type": "text", "text": "No."}
    ]
    parts = read("chat", chat(USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}))
    assert said(write(parts, "chat"))["messages"][1]["refusal"] == "No."


PARAMETERS: list[tuple[Dialect, dict[str, Any], Dialect, str, tuple[str, ...]]] = [
    ("chat", {"seed": 1, "user": "u"}, "messages", "rule", ()),
    ("chat", {"seed": 1}, "responses", "refuse", ("seed",)),
    ("chat", {"n": 2, "logit_bias": {"1": 2}}, "messages", "rule", ("n", "logit_bias")),
    ("chat", {"n": 1, "modalities": ["text"], "logprobs": False, "top_logprobs": 0}, "messages", "rule", ()),
    ("chat", {"logprobs": True}, "responses", "rule", ("logprobs",)),
    ("chat", {"stop": "x"}, "responses", "rule", ("stop",)),
    ("chat", {"stop": ["x"]}, "messages", "rule", ()),
    ("chat", {"modalities": ["text", "audio"], "n": 2}, "messages", "drop", ("modalities",)),
    ("chat", {"web_search_options": {"x": 1}}, "responses", "rule", ("web_search_options",)),
    ("responses", {"background": True, "truncation": "auto"}, "chat", "rule", ("background",)),
    ("responses", {"truncation": "disabled", "top_logprobs": 0}, "chat", "refuse", ()),
    ("responses", {"previous_response_id": "r"}, "chat", "drop", ("previous_response_id",)),
    ("messages", {"top_k": 3}, "chat", "refuse", ("top_k",)),
    ("messages", {"stop_sequences": ["x"]}, "responses", "rule", ("stop",)),
    ("messages", {"service_tier": "standard_only"}, "chat", "rule", ()),
    ("messages", {"service_tier": "standard_only"}, "responses", "refuse", ("service_tier",)),
]


@pytest.mark.parametrize(("source", "more", "target", "policy", "refused"), PARAMETERS)
def test_no_parameter_vanishes_unnamed(
    source: Dialect, more: dict[str, Any], target: Dialect, policy: Any, refused: tuple[str, ...]
) -> None:
    """Each is refused, or dropped by name, or said; by the table, or as the client wants it."""
    base: dict[Dialect, dict[str, Any]] = {
        "chat": chat(USER),
        "messages": {"model": "m", "max_tokens": 5, "messages": [USER]},
        "responses": {"model": "m", "input": "x"},
    }
    body = json.dumps({**base[source], **more}).encode()
    request = read_in_full(DECODE[source], policy, body)
    assert request.losses.get(target, ()) == refused
    assert request.neutral is not None
    prepared = write(request.neutral, target)
    written = said(prepared)
    for name in request.neutral.params:
        assert name in written or name in prepared.dropped


def test_each_parameter_has_its_place() -> None:
    """What two dialects have in common is said in both."""
    shared = {"metadata": {"a": "b"}, "user": "u", "service_tier": "auto", "prompt_cache_key": "k"}
    request = read("chat", chat(USER, verbosity="low", store=True, **shared))
    prepared = write(request, "responses")
    found = said(prepared)
    assert {name: found[name] for name in shared} == shared
    assert (found["text"], found["store"], prepared.dropped) == ({"verbosity": "low"}, False, ("store",))
    asked = {
        "model": "m",
        "input": "x",
        "text": {"verbosity": "low"},
        "include": ["reasoning.encrypted_content", "a"],
    }
    back = write(read("responses", asked), "chat")
    assert said(back)["verbosity"] == "low"
    assert back.dropped == ("include",)
    assert read("responses", asked).wants_cargo


def test_a_server_with_ways_keeps_requests_out() -> None:
    """Groq takes no bias of tokens, Ollama no address of an image; that is known before anything is sent."""
    url = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    body = json.dumps(chat({"role": "user", "content": [url]}, logit_bias={"1": 2})).encode()
    losses = read_in_full(decode_chat, "rule", body).losses
    assert losses["flavor:groq"] == ("logit_bias",)
    assert losses["flavor:ollama"] == ("image_url",)
    own = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    body_of_own = json.dumps(chat({"role": "user", "content": [own]})).encode()
    assert "flavor:ollama" not in read_in_full(decode_chat, "rule", body_of_own).losses
    loose = read_in_full(decode_chat, "drop", body).losses
    assert "flavor:groq" not in loose
    assert loose["flavor:ollama"] == ("image_url",)


def test_arguments_that_are_no_object_keep_messages_out() -> None:
    """They would be refused there, so the request is not sent; written all the same they are an error."""
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "[1]"}}
    body = chat(USER, {"role": "assistant", "tool_calls": [call]})
    assert read_in_full(decode_chat, "rule", json.dumps(body).encode()).losses["messages"] == (
        "tool_arguments_not_json",
    )
    with pytest.raises(WireError) as caught:
        write(read("chat", body), "messages")
    assert caught.value.code == "tool_arguments_not_json"


FAULTS: list[tuple[Dialect, dict[str, Any], str]] = [
    ("messages", {"messages": []}, "messages"),
    ("messages", {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ("messages", {"messages": [USER], "max_tokens": 0}, "max_tokens"),
    ("messages", {"messages": [USER] * 10_001}, "messages"),
    ("messages", {"messages": [USER], "tools": [{}] * 1_025}, "tools"),
    ("responses", {"input": [USER] * 10_001}, "input"),
    ("responses", {"input": "x", "tools": [{}] * 1_025}, "tools"),
    ("responses", {"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
    ("responses", {"input": 3}, "input"),
]


@pytest.mark.parametrize(("source", "body", "param"), FAULTS)
def test_a_request_that_cannot_be_read_names_its_fault(source: Dialect, body: dict[str, Any], param: str) -> None:
    """Bounds and shapes, as far as the gateway has to rely on them."""
    with pytest.raises(WireError) as caught:
        DECODE[source](json.dumps(body).encode())
    assert caught.value.param == param


def test_blank_names_mean_the_default() -> None:
    """A model that is not named is the default's; no limit is no limit."""
    for source, body in (("messages", {"messages": [USER]}), ("responses", {"input": "x"})):
        request = DECODE[source](json.dumps({**body, "model": " "}).encode())
        assert (request.model, request.output_max_tokens) == ("", None)
    hinted = decode_responses(json.dumps({"input": "x", "prompt_cache_key": "k"}).encode())
    assert hinted.prompt_cache_key == "k"


def test_what_is_rare() -> None:
    """Calls inside results, stops, a server that is not asked for usage, images by id, tools of old."""
    inner = [{"type": "tool_use", "id": "z", "name": "f", "input": {}}, {"type": "text", "text": "t"}]
    body = {
        "model": "m",
        "max_tokens": 5,
        "stop_sequences": ["x"],
        "messages": [
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": inner}]},
        ],
    }
    prepared = write(read("messages", body), "chat", stream=True, ask_usage=False)
    assert prepared.dropped == ("content.call",)
    assert said(prepared)["stop"] == ["x"]
    assert "stream_options" not in said(prepared)
    assert write(read("messages", body), "responses").dropped == ("stop", "content.call")
    image = {"type": "image", "source": {"type": "file", "file_id": "f"}}
    seen = read("messages", {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": [image]}]})
    assert seen.marks == ("file_id",)
    bare = read("responses", {"model": "m", "input": "x", "tools": [{"type": "custom", "name": "sh"}]})
    assert said(write(bare, "chat", ways=Ways(takes_freeform=True)))["tools"] == [
        {"type": "custom", "custom": {"name": "sh"}}
    ]
    strict = read("chat", chat(USER, tools=[{"type": "function", "function": {"name": "f", "strict": True}}]))
    assert said(write(strict, "messages"))["tools"][0]["strict"] is True
    odd = chat(USER, {"role": "assistant", "content": "y", "tool_calls": [{"id": "a"}]}, tools=[{"type": "web"}, 3])
    odd["messages"].append(
        {"role": "user", "name": "ada", "content": [{"type": "file", "file": {"file_data": "AA"}}]}
    )
    asked = read("chat", odd)
    assert asked.foreign_tools == ("web", "unknown")
    assert asked.marks == ("messages.name",)
    assert (
        read("chat", chat(USER, {"role": "assistant", "reasoning_content": "Hm."})).messages[1].parts[0].text
        == "Hm."
    )  # type: ignore[union-attr]


def test_instructions_and_choices_of_responses() -> None:
    """Messages of system and developer are instructions; a choice among allowed tools is its mode."""
    items = [
        {"role": "system", "content": "One."},
        {"role": "developer", "content": [{"type": "input_text", "text": "Two."}]},
        {"role": "user", "content": []},
        {"role": "user", "content": [{"type": "input_image", "image_url": "https://x.example/a.png"}]},
        {"role": "user", "content": [{"type": "input_file", "file_url": "https://x.example/a.pdf"}]},
    ]
    choice = {"type": "allowed_tools", "mode": "required", "tools": []}
    request = read("responses", {"model": "m", "input": items, "tool_choice": choice})
    assert request.instructions == ("One.", "Two.")
    assert request.choice is not None
    assert request.choice.mode == "required"
    assert request.marks == ("image_url", "document_url")
    assert read("responses", {"model": "m", "input": "x", "tool_choice": {"type": "web_search"}}).choice is None


def test_sizes_of_what_is_no_text() -> None:
    """Documents, sounds, thoughts, schemas and unknown blocks count as well."""
    sealed = {"type": "thinking", "thinking": "Hm.", "signature": "x"}
    blocks = [
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "one two"}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA"}},
        {"type": "search_result", "x": 1},
    ]
    messages = [{"role": "user", "content": blocks}, {"role": "assistant", "content": [sealed]}]
    config = {"format": {"type": "json_schema", "schema": SCHEMA}}
    body = {"model": "m", "max_tokens": 5, "messages": messages, "output_config": config}
    request = decode_messages(json.dumps(body).encode())
    assert request.needs == ("documents", "json_schema")
    assert 1_500 < request.raw_tokens < 1_600
    sound = chat(
        {
            "role": "user",
            "content": [{"type": "input_audio", "input_audio": {"data": "A" * 8_000, "format": "wav"}}],
        }
    )
    neutral = read("chat", sound)
    view = view_of(neutral)
    assert needs_of(neutral, view) == ("audio_input",)
    assert view.tokens == 9


def test_ways_say_who_is_picky() -> None:
    """A server that refuses or drops something has its requests read before they can go there."""
    assert WAYS["groq"].is_picky
    assert not WAYS["generic"].is_picky


def test_a_model_may_think_where_no_tools_are_at_work() -> None:
    """Thoughts of turns that are over are not missed."""
    body = chat(USER, {"role": "assistant", "content": "y"}, USER, reasoning_effort="low")
    assert "thinking" in said(write(read("chat", body), "messages"))


def test_lost_thoughts_turn_thinking_off() -> None:
    """While tools are at work the provider demands its block; with it thinking goes on, without it not, by name."""
    block = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    details = [{"type": "palyra.opaque", "vendor": "anthropic", "data": pack(json.dumps(block).encode())}]
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    kept = {"role": "assistant", "tool_calls": [call], "reasoning_details": details}
    lost = {"role": "assistant", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "a", "content": "x"}
    goes_on = write(read("chat", chat(USER, kept, result, reasoning_effort="high")), "messages")
    assert said(goes_on)["thinking"] == {"type": "adaptive"}
    assert said(goes_on)["messages"][1]["content"][0] == block
    stops = write(read("chat", chat(USER, lost, result, reasoning_effort="high")), "messages")
    assert "thinking" not in said(stops)
    assert stops.adjusted == ("thinking=off",)
