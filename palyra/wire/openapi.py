"""The served API described in OpenAPI 3.1, made of the Structs that requests are read into.

What is checked here is what is described: members that only pass through are allowed and not listed. Statuses are
those of the table of codes, so an answer with another one is a mistake of the description or of the program.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from palyra.errors import CODES
from palyra.limits import (
    EMBEDDING_INPUTS_MAX_COUNT,
    MESSAGES_MAX_COUNT,
    MODEL_NAME_MAX_CHARS,
    TOOLS_MAX_COUNT,
)
from palyra.wire.chat_content import Message
from palyra.wire.messages_request import ROLES, MessagesBody
from palyra.wire.request import CHAT_ROLES, CHOICES_MAX_COUNT, ChatBody, EmbeddingsBody
from palyra.wire.responses_request import ResponsesBody
from palyra.wire.transcripts import CONTENT_TYPES, TranscriptFormat

#: Told to nobody: the client has gone.
_UNSEEN = (0, 499)
_EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}


class ErrorDetail(msgspec.Struct, kw_only=True):
    """What went wrong, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(msgspec.Struct, kw_only=True):
    """An error; Anthropic's places answer in Anthropic's envelope instead."""

    error: ErrorDetail
    #: Run, attempts, and when to come back.
    palyra: dict[str, Any]


class MessagesErrorDetail(msgspec.Struct, kw_only=True):
    """What went wrong, as Anthropic's clients read it; the message begins with the code."""

    type: str
    message: str


class MessagesErrorAnswer(msgspec.Struct, kw_only=True):
    """An error in Anthropic's envelope."""

    type: str
    error: MessagesErrorDetail
    request_id: str
    palyra: dict[str, Any]


class ModelAnswer(msgspec.Struct, kw_only=True):
    """One model."""

    id: str
    object: str
    created: int
    owned_by: str
    palyra: dict[str, Any]


class ModelsAnswer(msgspec.Struct, kw_only=True):
    """All models that the caller may use."""

    object: str
    data: list[ModelAnswer]


class TranscriptionForm(msgspec.Struct, kw_only=True):
    """The fields of a recording's form; others pass through."""

    file: bytes
    model: str | None = None
    language: str | None = None
    prompt: str | None = None
    response_format: TranscriptFormat = "json"
    temperature: float | None = None
    stream: bool = False


class Place(NamedTuple):
    """A route as far as it is described."""

    template: str
    surface: str
    #: Whether a client key is needed.
    is_guarded: bool
    methods: Iterable[str]


_BODIES: Mapping[str, type[msgspec.Struct]] = {
    "chat": ChatBody,
    "messages": MessagesBody,
    "count_tokens": MessagesBody,
    "responses": ResponsesBody,
    "embeddings": EmbeddingsBody,
    "audio_transcription": TranscriptionForm,
}
_COUNT = {"minimum": 1}
_MODEL = {"maxLength": MODEL_NAME_MAX_CHARS}
_TOOLS = {"maxItems": TOOLS_MAX_COUNT}
_TURNS = {"minItems": 1, "maxItems": MESSAGES_MAX_COUNT}
_TEXT = {"type": "string", "minLength": 1}
#: What is checked beyond the types, by component and member.
_BOUNDS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "ChatBody": {
        "messages": _TURNS,
        "model": _MODEL,
        "tools": _TOOLS,
        "n": {"minimum": 1, "maximum": CHOICES_MAX_COUNT},
        "max_tokens": _COUNT,
        "max_completion_tokens": _COUNT,
    },
    "Message": {"role": {"enum": list(CHAT_ROLES)}},
    "MessagesBody": {"messages": _TURNS, "model": _MODEL, "tools": _TOOLS, "max_tokens": _COUNT},
    "MessagesMessage": {"role": {"enum": list(ROLES)}},
    "ResponsesBody": {
        "input": {"maxItems": MESSAGES_MAX_COUNT},
        "model": _MODEL,
        "tools": _TOOLS,
        "max_output_tokens": _COUNT,
    },
    "EmbeddingsBody": {
        "input": {
            "anyOf": [
                _TEXT,
                {"type": "array", "minItems": 1, "maxItems": EMBEDDING_INPUTS_MAX_COUNT, "items": _TEXT},
                {"type": "array", "minItems": 1},
            ]
        },
        "model": _MODEL,
        "dimensions": _COUNT,
        "encoding_format": {"enum": ["float", "base64", None]},
    },
    "TranscriptionForm": {"model": _MODEL},
}
_STREAMED = ("chat", "messages", "responses", "audio_transcription")
_ANSWERS: Mapping[str, type[msgspec.Struct]] = {"/v1/models": ModelsAnswer, "/v1/models/{id}": ModelAnswer}
_PARTS: tuple[type[msgspec.Struct], ...] = (
    Message,
    *_BODIES.values(),
    *_ANSWERS.values(),
    ErrorAnswer,
    MessagesErrorAnswer,
)


def describe(places: Iterable[Place], version: str) -> dict[str, Any]:
    """Return the document as plain data."""
    components: dict[str, Any] = {}
    refs = {part: _schema(inspect.type_info(part), components) for part in _PARTS}
    paths: dict[str, Any] = {}
    for place in places:
        paths[place.template] = {
            method.lower(): _operation(place, method, refs) for method in place.methods if method != "HEAD"
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Palyra", "version": version, "description": "A gateway for large language models."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(place: Place, method: str, refs: Mapping[type[msgspec.Struct], Any]) -> dict[str, Any]:
    name = place.template.strip("/").replace("/", "_").replace("{", "").replace("}", "") or "root"
    described: dict[str, Any] = {
        "operationId": f"{method.lower()}_{name}",
        "responses": {"200": _answer(place, refs), **_errors(place, refs)},
    }
    if "{id}" in place.template:
        described["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
    body = _BODIES.get(place.surface)
    if body is not None:
        media_type = "multipart/form-data" if body is TranscriptionForm else "application/json"
        described["requestBody"] = {"required": True, "content": {media_type: {"schema": refs[body]}}}
    if place.is_guarded:
        described["security"] = [{"bearer": []}, {"key": []}]
    return described


def _answer(place: Place, refs: Mapping[type[msgspec.Struct], Any]) -> dict[str, Any]:
    answer = _ANSWERS.get(place.template)
    content: dict[str, Any] = {
        "application/json": {"schema": {"type": "object"} if answer is None else refs[answer]}
    }
    if place.surface in _STREAMED:
        content |= _EVENTS
    if place.surface == "audio_transcription":
        content |= {kind.partition(";")[0]: {"schema": {"type": "string"}} for kind in CONTENT_TYPES.values()}
    return {"description": "The answer.", "content": content}


def _errors(place: Place, refs: Mapping[type[msgspec.Struct], Any]) -> dict[str, Any]:
    envelope = MessagesErrorAnswer if place.surface in ("messages", "count_tokens") else ErrorAnswer
    content = {"application/json": {"schema": {"anyOf": [refs[envelope], refs[ErrorAnswer]]}}}
    codes: dict[int, list[str]] = {}
    for code, meaning in CODES.items():
        if meaning.http_status not in _UNSEEN:
            codes.setdefault(meaning.http_status, []).append(code)
    return {
        str(status): {"description": f"One of: {', '.join(sorted(codes[status]))}.", "content": content}
        for status in sorted(codes)
    }


_SIMPLE: Mapping[type[inspect.Type], dict[str, Any]] = {
    inspect.AnyType: {},
    inspect.RawType: {},  # judged elsewhere, or only carried
    inspect.NoneType: {"type": "null"},
    inspect.BoolType: {"type": "boolean"},
    inspect.IntType: {"type": "integer"},
    inspect.FloatType: {"type": "number"},
    inspect.StrType: {"type": "string"},
    inspect.BytesType: {"type": "string", "format": "binary"},
}


def _schema(told: inspect.Type, components: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a type; a Struct goes to the components and is referred to."""
    match told:
        case inspect.StructType():
            return _reference(told, components)
        case inspect.ListType(item_type=item):
            return {"type": "array", "items": _schema(item, components)}
        case inspect.DictType(value_type=value):
            return {"type": "object", "additionalProperties": _schema(value, components)}
        case inspect.UnionType(types=types):
            return {"anyOf": [_schema(one, components) for one in types]}
        case inspect.LiteralType(values=values):
            return {"enum": list(values)}
    return dict(_SIMPLE[type(told)])


def _reference(told: inspect.StructType, components: dict[str, Any]) -> dict[str, Any]:
    name = told.cls.__name__
    if name.startswith("_"):  # known in its module alone, so called by both
        name = told.cls.__module__.rpartition(".")[2].partition("_")[0].title() + name.lstrip("_")
    if name not in components:
        bounds = _BOUNDS.get(name, {})
        components[name] = {}  # a part of itself, should it be one
        components[name] = {
            "type": "object",
            "description": (told.cls.__doc__ or "").strip(),
            "properties": {
                field.encode_name: _schema(field.type, components) | bounds.get(field.encode_name, {})
                for field in told.fields
            },
            "required": [field.encode_name for field in told.fields if field.required],
        }
    return {"$ref": f"#/components/schemas/{name}"}
