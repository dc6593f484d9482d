"""Reading the client's requests."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra.limits import EMBEDDING_INPUTS_MAX_COUNT, MESSAGES_MAX_COUNT, TOOLS_MAX_COUNT
from palyra.wire.errors import WireError
from palyra.wire.request import SurfaceRequest, decode_chat, decode_embeddings
from palyra.wire.tokens import estimate_token_count

_USER = {"role": "user", "content": "one two three four"}
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
_FRAME_TOKENS = 3 + 4


def chat(**members: Any) -> SurfaceRequest:
    """Decode a chat request with these members; `messages` is there unless given."""
    return decode_chat(json.dumps({"messages": [_USER], **members}).encode())


def message_tokens(message: dict[str, Any]) -> int:
    """The tokens of a message beyond the frame."""
    return chat(messages=[{"role": "assistant", **message}]).raw_tokens - _FRAME_TOKENS


def embeddings(**members: Any) -> SurfaceRequest:
    """Decode an embeddings request with these members."""
    return decode_embeddings(json.dumps(members).encode())


@pytest.mark.parametrize(
    ("members", "tier"), [({}, ""), ({"service_tier": "flex"}, "flex"), ({"service_tier": 7}, "")]
)
def test_the_tier_that_is_asked_for(members: dict[str, Any], tier: str) -> None:
    """It is what the body says in words; what is no word is left for the provider to refuse."""
    assert chat(**members).service_tier == tier


def test_a_plain_chat_request() -> None:
    """The view holds figures and the body as it came."""
    body = b' {"model" : "gpt-4o","messages":[{"role":"user","content":"one two three four"}]}\n'
    request = decode_chat(body)
    assert request.body is body
    assert body[request.spans["model"].start : request.spans["model"].end] == b'"gpt-4o"'
    assert (request.surface, request.model, request.stream, request.needs) == ("chat", "gpt-4o", False, ())
    assert (request.output_max_tokens, request.choices_count, request.prompt_cache_key) == (None, 1, "")
    assert request.raw_tokens == _FRAME_TOKENS + 5


@pytest.mark.parametrize("model", [None, "", "  "])
def test_a_blank_model_is_an_absent_one(model: str | None) -> None:
    """The default model is asked for in three ways."""
    assert chat(model=model).model == chat().model == ""


@pytest.mark.parametrize(
    ("members", "wants_usage"),
    [
        ({}, False),
        ({"stream_options": None}, False),
        ({"stream_options": {}}, False),
        ({"stream_options": {"include_usage": False}}, False),
        ({"stream_options": {"include_usage": "yes"}}, False),
        ({"stream_options": 1}, False),
        ({"stream_options": {"include_usage": True}}, True),
    ],
)
def test_the_client_asks_for_usage_only_with_true(members: dict[str, Any], wants_usage: bool) -> None:
    """Anything else passes untouched; without a stream there is nothing to ask for."""
    assert chat(stream=True, **members).wants_usage is wants_usage
    assert not chat(**members).wants_usage


def test_the_output_maximum() -> None:
    """Either name counts, null is none, and an absurd one is cut in the view alone."""
    assert chat(max_tokens=5).output_max_tokens == 5
    assert chat(max_completion_tokens=6, max_tokens=None).output_max_tokens == 6
    assert chat(max_completion_tokens=7, max_tokens=7).output_max_tokens == 7
    assert chat(max_tokens=10**30).output_max_tokens == 1_000_000_000


@pytest.mark.parametrize(
    ("members", "needs"),
    [
        ({"tools": [_TOOL]}, ("tools",)),
        ({"tools": [], "functions": []}, ()),
        ({"functions": [{"name": "f"}], "function_call": {"name": "f"}}, ("tool_choice", "tools")),
        ({"tools": [_TOOL], "tool_choice": "auto", "parallel_tool_calls": False}, ("tools",)),
        ({"tools": [_TOOL], "tool_choice": "required"}, ("tool_choice", "tools")),
        ({"response_format": {"type": "json_object"}}, ("json_mode",)),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, ("json_schema",)),
        ({"response_format": {"type": "text"}}, ()),
        ({"response_format": 7}, ()),
        ({"logprobs": True}, ("logprobs",)),
        ({"top_logprobs": 3}, ("logprobs",)),
        ({"logprobs": False, "top_logprobs": 0}, ()),
        ({"n": 2}, ("multi_choice",)),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
            ("vision",),
        ),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}, ("documents",)),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": ""}}]}]},
            ("audio_input",),
        ),
    ],
)
def test_what_a_request_needs(members: dict[str, Any], needs: tuple[str, ...]) -> None:
    """Each feature names one capability; what leaves it to the model names none."""
    assert chat(**members).needs == needs


def test_the_session_hint() -> None:
    """A hint is a text; anything else passes unread."""
    assert chat(prompt_cache_key="s1").prompt_cache_key == "s1"
    assert chat(prompt_cache_key=5).prompt_cache_key == ""


def test_the_tokens_of_messages() -> None:
    """Texts count wherever they stand; calls and results add their frame."""
    five = "one two three four"
    assert message_tokens({"content": five}) == 5
    assert message_tokens({"content": None, "name": five, "refusal": five, "reasoning_content": five}) == 15
    assert message_tokens({"content": [{"type": "text", "text": five}, {"type": "refusal", "refusal": five}]}) == 10
    assert message_tokens({"role": "tool", "content": five}) == 6 + 5
    call = {"id": "c", "function": {"name": five, "arguments": five}}
    assert message_tokens({"tool_calls": [call, call]}) == 2 * (8 + 10)
    assert message_tokens({"function_call": call["function"]}) == 8 + 10


def test_the_tokens_of_what_is_not_known() -> None:
    """A part, call or function of another shape counts as its compact JSON."""
    for odd in ({"type": "new", "x": [1, 2]}, 7, {"type": "text", "text": 7}):
        compact = json.dumps(odd, separators=(",", ":"))
        assert message_tokens({"content": [odd]}) == estimate_token_count(compact)
        assert message_tokens({"tool_calls": [odd]}) == 8 + estimate_token_count(compact)
        assert message_tokens({"function_call": odd}) == 8 + estimate_token_count(compact)
    assert message_tokens({"tool_calls": 7, "name": 7}) == 0


def test_parts_past_the_bound_count_as_text() -> None:
    """A request of thousands of parts is not looked through; its rest counts as the JSON it is."""
    part = {"type": "text", "text": "a"}
    compact = json.dumps([part] * 10, separators=(",", ":"))
    assert message_tokens({"content": [part] * 4106}) == 4096 + estimate_token_count(compact)


def test_the_tokens_of_tools_and_schemas() -> None:
    """Definitions count as compact JSON, with a frame for all and one for each."""
    tool_tokens = estimate_token_count(json.dumps(_TOOL, separators=(",", ":")))
    assert chat(tools=[_TOOL, _TOOL]).raw_tokens - chat().raw_tokens == 24 + 2 * (12 + tool_tokens)
    schema = {"name": "s", "schema": {"type": "object"}}
    schema_tokens = estimate_token_count(json.dumps(schema, separators=(",", ":")))
    asked = chat(response_format={"type": "json_schema", "json_schema": schema})
    assert asked.raw_tokens - chat().raw_tokens == schema_tokens
    unused = chat(response_format={"type": "json_object", "json_schema": schema})
    assert unused.raw_tokens == chat(response_format={"type": "json_object"}).raw_tokens == chat().raw_tokens


def test_the_tokens_of_media() -> None:
    """Images, documents and audio count by their rules, an image also when its URL stands alone."""
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 750, 200)
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    assert message_tokens({"content": [{"type": "image_url", "image_url": {"url": url, "detail": "high"}}]}) == 200
    assert message_tokens({"content": [{"type": "image_url", "image_url": {"url": url, "detail": "low"}}]}) == 85
    assert message_tokens({"content": [{"type": "image_url", "image_url": url}]}) == 200
    assert message_tokens({"content": [{"type": "image_url"}]}) == 1600
    assert message_tokens({"content": [{"type": "file", "file": {"file_data": "A" * 90_000}}]}) == 3000
    assert message_tokens({"content": [{"type": "input_audio", "input_audio": {"data": "A" * 8000}}]}) == 2


@pytest.mark.parametrize(
    ("members", "param", "sentence"),
    [
        ({"messages": []}, "messages", "messages must hold at least one message."),
        ({"messages": {}}, "messages", "messages must be a list, not an object."),
        ({"messages": [_USER, 1]}, "messages[1]", "messages[1] must be an object, not an integer."),
        ({"messages": [{}]}, "messages[0].role", "messages[0].role is missing."),
        ({"messages": [{"role": "boss"}]}, "messages[0].role", "must be one of system, developer, user"),
        (
            {"messages": [_USER, _USER, {"role": "user", "content": 5}]},
            "messages[2].content",
            "messages[2].content must be a string or a list or null, not an integer.",
        ),
        ({"model": 3}, "model", "model must be a string or null, not an integer."),
        ({"stream": "true"}, "stream", "stream must be true or false or null, not a string."),
        ({"n": 0}, "n", "n must be from 1 to 128."),
        ({"n": 129}, "n", "n must be from 1 to 128."),
        ({"n": 1.5}, "n", "n must be an integer or null, not a number."),
        ({"tools": "f"}, "tools", "tools must be a list or null, not a string."),
        ({"tools": [_TOOL] * (TOOLS_MAX_COUNT + 1)}, "tools", "1024 are allowed"),
        ({"functions": [{}] * (TOOLS_MAX_COUNT + 1)}, "functions", "1024 are allowed"),
        ({"messages": [_USER] * (MESSAGES_MAX_COUNT + 1)}, "messages", "10000 are allowed"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens must be 1 or more."),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "must be 1 or more."),
        ({"max_completion_tokens": 1, "max_tokens": 2}, "max_tokens", "differ"),
    ],
)
def test_a_wrong_chat_request_is_told_what_is_wrong(members: dict[str, Any], param: str, sentence: str) -> None:
    """The sentence names the field, what was expected and what came."""
    with pytest.raises(WireError) as caught:
        chat(**members)
    assert (caught.value.code, caught.value.param) == ("invalid_request", param)
    assert sentence in caught.value.message
    assert str(caught.value) == caught.value.message


def test_what_msgspec_says_in_other_words_is_passed_on() -> None:
    """A number that is out of range has a place too."""
    with pytest.raises(WireError, match="out of range") as caught:
        decode_chat(b'{"messages":[{"role":"user"}],"n":' + b"9" * 5000 + b"}")
    assert caught.value.param == "n"


def test_unknown_fields_and_big_numbers_pass() -> None:
    """What the gateway does not act on is not looked at."""
    body = b'{"messages":[{"role":"user","content":"x","y":1e999}],"seed":' + b"9" * 5000 + b',"stop":{"a":0}}'
    assert decode_chat(body).body == body


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        ("one two three four", [5]),
        (["one two three four", "a"], [5, 1]),
        ([1, 2, 3], [3]),
        ([[1, 2], [3]], [2, 1]),
    ],
)
def test_embeddings_inputs(value: Any, tokens: list[int]) -> None:
    """Four forms of input; texts are estimated and tokens counted."""
    request = embeddings(input=value, model="m", dimensions=8, encoding_format="base64")
    assert (request.inputs_count, request.raw_tokens) == (len(tokens), sum(tokens))
    assert (request.surface, request.model, request.dimensions) == ("embeddings", "m", 8)
    assert request.encoding_format == "base64"
    assert embeddings(input=value, encoding_format=None).encoding_format == "float"


@pytest.mark.parametrize(
    ("members", "param", "sentence"),
    [
        ({}, "input", "input is missing."),
        ({"input": None}, "input", "input must be a string"),
        ({"input": ""}, "input", "input is empty."),
        ({"input": []}, "input", "at least one item"),
        ({"input": ["a", ""]}, "input[1]", "input[1] is empty."),
        ({"input": [[1], []]}, "input[1]", "input[1] is empty."),
        ({"input": ["a", 1]}, "input[1]", "input[1] must be a string, not an integer."),
        ({"input": [1, "a"]}, "input[1]", "input[1] must be an integer, not a string."),
        ({"input": [True]}, "input[0]", "input[0] must be an integer, not true or false."),
        ({"input": [[1], [1.5]]}, "input[1][0]", "input[1][0] must be an integer, not a number."),
        ({"input": ["a"] * (EMBEDDING_INPUTS_MAX_COUNT + 1)}, "input", "2048 are allowed"),
        ({"input": "a", "dimensions": 0}, "dimensions", "must be 1 or more"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "float or base64"),
    ],
)
def test_a_wrong_embeddings_request_is_told_what_is_wrong(
    members: dict[str, Any], param: str, sentence: str
) -> None:
    """An empty item is refused with its index, never dropped."""
    with pytest.raises(WireError) as caught:
        embeddings(**members)
    assert (caught.value.code, caught.value.param) == ("invalid_request", param)
    assert sentence in caught.value.message


def test_a_body_that_is_no_object_has_no_param() -> None:
    """There is no field to name."""
    with pytest.raises(WireError) as caught:
        decode_chat(b"[]")
    assert caught.value.param is None


_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(["user", "text", ""])
)
_NAMES = st.sampled_from(
    "messages role content type text image_url url detail file file_data input_audio data tool_calls function name"
    " arguments tools functions model stream n max_tokens stream_options include_usage response_format json_schema"
    " input dimensions encoding_format tool_choice logprobs prompt_cache_key".split()
)
_SHAPES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=10,
)
_BODIES = st.one_of(
    st.binary(max_size=60),
    st.dictionaries(_NAMES, _SHAPES, max_size=5).map(lambda value: json.dumps(value).encode()),
    _SHAPES.map(lambda content: json.dumps({"messages": [{"role": "user", "content": [content]}]}).encode()),
    _SHAPES.map(lambda calls: json.dumps({"messages": [{"role": "user", "tool_calls": [calls]}]}).encode()),
    st.text(st.sampled_from('{}[]",:\\u0d8aé1.e-')).map(lambda text: text.encode()),
)


@given(_BODIES)
@settings(max_examples=300)
def test_any_bytes_give_a_request_or_a_wire_error(body: bytes) -> None:
    """No input of a client raises anything else."""
    for read in (decode_chat, decode_embeddings):
        code, request = "", None
        try:
            request = read(body)
        except WireError as exc:
            code = exc.code
        if request is None:
            assert code in ("invalid_json", "invalid_request")
        else:
            assert request.body == body
            assert request.raw_tokens >= 0
