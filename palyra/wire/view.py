"""What the engine needs to know of a request that was read into the neutral form: its needs and its tokens."""

from __future__ import annotations

import msgspec

from palyra.wire.media import estimate_audio_tokens, estimate_document_tokens, estimate_image_tokens
from palyra.wire.neutral import (
    Audio,
    Call,
    Document,
    Image,
    NeutralRequest,
    Part,
    Reasoning,
    Refused,
    Result,
    Text,
    Tool,
)
from palyra.wire.tokens import estimate_token_count

#: The constants of gateway specification 5.1.
_REQUEST_TOKENS = 3
_MESSAGE_TOKENS = 4
_CALL_TOKENS = 8
_RESULT_TOKENS = 6
_TOOLS_TOKENS = 24
_TOOL_TOKENS = 12


class View(msgspec.Struct):
    """What the parts seen so far add up to."""

    tokens: int = _REQUEST_TOKENS
    images_count: int = 0
    has_documents: bool = False
    has_audio: bool = False


def view_of(request: NeutralRequest) -> View:
    """Return what a request amounts to."""
    view = View()
    if request.instructions:
        view.tokens += _MESSAGE_TOKENS + sum(map(estimate_token_count, request.instructions))
    for message in request.messages:
        view.tokens += _MESSAGE_TOKENS
        for part in message.parts:
            _add(view, part)
    if request.tools:
        view.tokens += _TOOLS_TOKENS + sum(map(_tool_tokens, request.tools))
    if request.format is not None:
        view.tokens += _json_tokens(request.format.schema)
    return view


def needs_of(request: NeutralRequest, view: View) -> tuple[str, ...]:
    """Return the names of the capabilities that a model must have, sorted."""
    kind = request.format.kind if request.format is not None else ""
    needs = {
        "audio_input": view.has_audio,
        "documents": view.has_documents,
        "json_mode": kind == "json_object",
        "json_schema": kind == "json_schema",
        "logprobs": "logprobs" in request.params or "top_logprobs" in request.params,
        "tool_choice": request.choice is not None and request.choice.mode in ("required", "named"),
        "tools": bool(request.tools),
        "vision": view.images_count > 0,
    }
    return tuple(name for name, is_needed in needs.items() if is_needed)


def last_text(request: NeutralRequest) -> str:
    """Return the text of the user's last message, which results of tools are not."""
    for message in reversed(request.messages):
        texts = [part.text for part in message.parts if isinstance(part, Text)]
        if message.role == "user" and texts:
            return "\n".join(texts)
    return ""


def _add(view: View, part: Part) -> None:
    match part:
        case Text(text=text) | Refused(text=text):
            view.tokens += estimate_token_count(text)
        case Call(name=name, arguments=arguments):
            view.tokens += _CALL_TOKENS + estimate_token_count(name) + estimate_token_count(arguments)
        case Result():
            view.tokens += _RESULT_TOKENS
            for inner in part.parts:
                _add(view, inner)
        case Image(blob=blob, detail=detail):
            view.images_count += 1
            view.tokens += estimate_image_tokens(blob.data_url, detail)
        case Document(blob=blob, text=text):
            view.has_documents = True
            view.tokens += estimate_token_count(text) if text else estimate_document_tokens(blob.data)
        case Audio(data=data):
            view.has_audio = True
            view.tokens += estimate_audio_tokens(data)
        case Reasoning(text=text, raw=raw):
            view.tokens += estimate_token_count(text or raw.decode("utf-8", "replace"))
        case _:
            view.tokens += _json_tokens(part.raw)


def _tool_tokens(tool: Tool) -> int:
    text = estimate_token_count(tool.name) + estimate_token_count(tool.description)
    return _TOOL_TOKENS + text + _json_tokens(tool.schema)


def _json_tokens(raw: bytes) -> int:
    """Return the tokens of JSON written compactly; escapes count as they are spelled."""
    return estimate_token_count(msgspec.json.format(raw, indent=-1).decode()) if raw else 0
