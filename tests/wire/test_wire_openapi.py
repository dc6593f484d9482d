"""The description of the API: from routes and Structs, whatever these are."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from msgspec import inspect

from palyra.errors import CODES
from palyra.limits import MESSAGES_MAX_COUNT, TOOLS_MAX_COUNT
from palyra.wire.errors import WireError
from palyra.wire.openapi import Place, _schema, describe
from palyra.wire.read_surfaces import decode_messages, decode_responses
from palyra.wire.request import decode_chat, decode_embeddings


class Tree(msgspec.Struct):
    """Has parts of its own kind."""

    children: list[Tree]
    names: dict[str, int] = {}
    raw: msgspec.Raw = msgspec.Raw(b"null")


def test_a_struct_may_hold_itself() -> None:
    """It stands once among the components, and is referred to."""
    components: dict[str, object] = {}
    assert _schema(inspect.type_info(Tree), components) == {"$ref": "#/components/schemas/Tree"}
    assert components["Tree"] == {
        "type": "object",
        "description": "Has parts of its own kind.",
        "properties": {
            "children": {"type": "array", "items": {"$ref": "#/components/schemas/Tree"}},
            "names": {"type": "object", "additionalProperties": {"type": "integer"}},
            "raw": {},
        },
        "required": ["children"],
    }


def test_places_are_operations() -> None:
    """Each method but HEAD; a key where one is needed; every status of the table of codes; the place's own form."""
    places = [
        Place("/", "service", False, ["GET", "HEAD"]),
        Place("/v1/models/{id}", "models", True, ["GET"]),
        Place("/v1/audio/transcriptions", "audio_transcription", True, ["POST"]),
        Place("/v1/messages", "messages", True, ["POST"]),
    ]
    document = describe(places, "1")
    assert (document["openapi"], document["info"]["version"]) == ("3.1.0", "1")
    paths = document["paths"]
    assert set(paths["/"]) == {"get"}
    assert "security" not in paths["/"]["get"]
    assert paths["/"]["get"]["operationId"] == "get_root"
    assert paths["/v1/models/{id}"]["get"]["parameters"][0]["name"] == "id"
    sound = paths["/v1/audio/transcriptions"]["post"]
    assert set(sound["requestBody"]["content"]) == {"multipart/form-data"}
    assert {"text/vtt", "text/plain", "text/event-stream", "application/json"} == set(
        sound["responses"]["200"]["content"]
    )
    statuses = {str(code.http_status) for code in CODES.values() if code.http_status not in (0, 499)}
    assert set(paths["/v1/messages"]["post"]["responses"]) == {"200", *statuses}


DOCUMENT = describe(
    [Place(f"/{name}", name, True, ["POST"]) for name in ("chat", "messages", "responses", "embeddings")], "1"
)
TURN = {"role": "user", "content": "x"}
#: By component, a body that passes, and those that miss one bound each.
BODIES: dict[str, tuple[Any, dict[str, Any], list[dict[str, Any]]]] = {
    "ChatBody": (
        decode_chat,
        {"messages": [TURN], "model": "m" * 512, "n": 128, "max_tokens": 1, "tools": []},
        [{"messages": []}, {"messages": [{"role": "boss"}]}, {"n": 129}, {"max_completion_tokens": 0}],
    ),
    "MessagesBody": (
        decode_messages,
        {"messages": [TURN], "model": "m" * 512, "max_tokens": 1, "tools": []},
        [{"messages": []}, {"messages": [{"role": "tool", "content": "x"}]}, {"max_tokens": 0}],
    ),
    "ResponsesBody": (
        decode_responses,
        {"input": [TURN], "model": "m" * 512, "max_output_tokens": 1, "tools": []},
        [{"max_output_tokens": 0}, {"input": [TURN] * (MESSAGES_MAX_COUNT + 1)}],
    ),
    "EmbeddingsBody": (
        decode_embeddings,
        {"input": ["x"], "model": "m" * 512, "dimensions": 1, "encoding_format": "base64"},
        [{"input": ""}, {"input": []}, {"dimensions": 0}, {"encoding_format": "int8"}],
    ),
}
EVERYWHERE: list[dict[str, Any]] = [{"model": "m" * 513}, {"model": 1}]
TOO_MANY = [{"type": "function", "name": "f"}] * (TOOLS_MAX_COUNT + 1)
TOOLS: list[dict[str, Any]] = [{"tools": TOO_MANY}, {"tools": {}}]


@pytest.mark.parametrize("name", BODIES)
def test_what_is_described_is_what_is_checked(name: str) -> None:
    """A body that the description allows is read, and one that it does not allow is refused."""
    read, good, bad = BODIES[name]
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    judge = jsonschema_rs.Draft202012Validator(schema)
    assert judge.is_valid(good)
    read(json.dumps(good).encode())
    for change in (*bad, *EVERYWHERE, *(TOOLS if name != "EmbeddingsBody" else [])):
        body = {**good, **change}
        assert not judge.is_valid(body), change
        with pytest.raises(WireError):
            read(json.dumps(body).encode())
