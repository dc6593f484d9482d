"""The description of the API: from routes and Structs, whatever these are."""

from __future__ import annotations

import msgspec
from msgspec import inspect

from palyra.errors import CODES
from palyra.wire.openapi import Place, _schema, describe


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
    paths = describe(places, "1")["paths"]
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
