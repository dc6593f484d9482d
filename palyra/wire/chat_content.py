"""What the content of a chat request asks of a model: its tokens, and whether it can see, hear and read documents.

A part or a tool call of an unknown shape is not refused: it counts as its JSON text, and so does one past the
bound on how many are looked into.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from palyra.wire.decoding import ITEMS, NULL, read_or_none
from palyra.wire.media import estimate_audio_tokens, estimate_document_tokens, estimate_image_tokens
from palyra.wire.tokens import estimate_token_count

_MESSAGE_TOKENS = 4
_TOOL_CALL_TOKENS = 8
_TOOL_RESULT_TOKENS = 6
_TOOLS_TOKENS = 24
_TOOL_TOKENS = 12
_RESULT_ROLES = ("tool", "function")
#: Parts and tool calls of one request that are looked into, so that no body holds the loop.
_LOOKED_INTO_MAX_COUNT = 4_096


class Message(msgspec.Struct):
    """A message as far as it is read; only role and the kind of content are the gateway's to check."""

    role: str
    content: str | list[msgspec.Raw] | None = None
    name: Any = None
    refusal: Any = None
    reasoning_content: Any = None
    tool_calls: msgspec.Raw = NULL
    function_call: msgspec.Raw = NULL


class Tally(msgspec.Struct):
    """What the messages seen so far add up to."""

    tokens: int
    images_count: int = 0
    has_documents: bool = False
    has_audio: bool = False
    #: Parts and tool calls that may still be looked into.
    room_count: int = _LOOKED_INTO_MAX_COUNT

    def take(self, items: list[msgspec.Raw]) -> list[msgspec.Raw]:
        """Return the items to look into; the others are counted as they are."""
        taken, rest = items[: self.room_count], items[self.room_count :]
        self.room_count -= len(taken)
        if rest:
            self.tokens += _json_tokens(b"[" + b",".join(rest) + b"]")
        return taken


class _Image(msgspec.Struct, frozen=True):
    url: str = ""
    detail: Any = None


class _File(msgspec.Struct, frozen=True):
    file_data: str = ""


class _Audio(msgspec.Struct, frozen=True):
    data: str = ""


class _Part(msgspec.Struct):
    type: str
    text: str = ""
    refusal: str = ""
    image_url: _Image | str = ""
    file: _File = _File()
    input_audio: _Audio = _Audio()


class _Function(msgspec.Struct):
    name: str
    arguments: str


class _ToolCall(msgspec.Struct):
    function: _Function


class _Format(msgspec.Struct):
    type: str
    json_schema: msgspec.Raw = NULL


_PART = msgspec.json.Decoder(_Part)
_FUNCTION = msgspec.json.Decoder(_Function)
_TOOL_CALL = msgspec.json.Decoder(_ToolCall)
_FORMAT = msgspec.json.Decoder(_Format)


def tally_message(tally: Tally, message: Message) -> None:
    """Add one message of a checked body."""
    tally.tokens += _MESSAGE_TOKENS
    for text in (message.name, message.refusal, message.reasoning_content):
        if isinstance(text, str):
            tally.tokens += estimate_token_count(text)
    if message.role in _RESULT_ROLES:
        tally.tokens += _TOOL_RESULT_TOKENS
    if isinstance(message.content, str):
        tally.tokens += estimate_token_count(message.content)
    else:
        for raw in tally.take(message.content or []):
            _tally_part(tally, raw)
    for raw in tally.take(read_or_none(ITEMS, message.tool_calls) or []):
        call = read_or_none(_TOOL_CALL, raw)
        tally.tokens += _call_tokens(call.function if call else None, raw)
    if bytes(message.function_call) != b"null":
        tally.tokens += _call_tokens(read_or_none(_FUNCTION, message.function_call), message.function_call)


def tally_tools(tally: Tally, tools: Sequence[msgspec.Raw]) -> None:
    """Add the tool definitions."""
    if tools:
        tally.tokens += _TOOLS_TOKENS + sum(_TOOL_TOKENS + _json_tokens(tool) for tool in tools)


def tally_format(tally: Tally, response_format: msgspec.Raw) -> str:
    """Add a schema the answer must keep to, which providers put into the prompt; return the format's type."""
    wanted = read_or_none(_FORMAT, response_format)
    if wanted is None:
        return ""
    if wanted.type == "json_schema":
        tally.tokens += _json_tokens(wanted.json_schema)
    return wanted.type


def last_text(messages: Sequence[Message]) -> str:
    """Return the text of the user's last message."""
    for message in reversed(messages):
        if message.role != "user":
            continue
        if isinstance(message.content, str):
            return message.content
        parts = (read_or_none(_PART, raw) for raw in (message.content or [])[:_LOOKED_INTO_MAX_COUNT])
        return "\n".join(part.text for part in parts if part is not None and part.type == "text")
    return ""


def _tally_part(tally: Tally, raw: msgspec.Raw) -> None:
    part = read_or_none(_PART, raw)
    if part is None:
        tally.tokens += _json_tokens(raw)
        return
    match part.type:
        case "text" | "refusal":
            tally.tokens += estimate_token_count(part.text) + estimate_token_count(part.refusal)
        case "image_url":
            image = _Image(url=part.image_url) if isinstance(part.image_url, str) else part.image_url
            tally.images_count += 1
            tally.tokens += estimate_image_tokens(image.url, image.detail)
        case "file":
            tally.has_documents = True
            tally.tokens += estimate_document_tokens(part.file.file_data)
        case "input_audio":
            tally.has_audio = True
            tally.tokens += estimate_audio_tokens(part.input_audio.data)
        case _:
            tally.tokens += _json_tokens(raw)


def _call_tokens(function: _Function | None, raw: msgspec.Raw) -> int:
    if function is None:
        return _TOOL_CALL_TOKENS + _json_tokens(raw)
    return _TOOL_CALL_TOKENS + estimate_token_count(function.name) + estimate_token_count(function.arguments)


def _json_tokens(raw: bytes | msgspec.Raw) -> int:
    """Return the tokens of JSON written compactly; escapes count as they are spelled."""
    return estimate_token_count(msgspec.json.format(bytes(raw), indent=-1).decode())
