"""Reads a request in Anthropic's dialect (Messages API) into the neutral form.

Blocks and tools of a kind that only this dialect has are kept as they are and named; a provider of the same dialect
gets the client's bytes anyway, and is the one to refuse what is wrong with them.
"""

from __future__ import annotations

import msgspec

from palyra.limits import MESSAGES_MAX_COUNT, TOOLS_MAX_COUNT
from palyra.wire.cargo import unseal
from palyra.wire.decoding import (
    MEMBERS,
    NULL,
    check_count,
    check_positive,
    decode,
    kind_of,
    model_asked,
)
from palyra.wire.errors import WireError
from palyra.wire.known import Shape
from palyra.wire.neutral import (
    Blob,
    Call,
    Choice,
    Document,
    Foreign,
    Format,
    Image,
    Message,
    NeutralRequest,
    Part,
    Reasoning,
    Result,
    Text,
    Thinking,
    Tool,
)

#: Vendor of blocks whose signature is not ours.
VENDOR = "anthropic"
#: Members that have a place of their own in the neutral form; every other one is a parameter.
_KNOWN = frozenset(
    "model messages system max_tokens stream tools tool_choice stop_sequences temperature top_p thinking"
    " output_config output_format".split()
)
_NAMES = {"metadata": "metadata.user_id"}


class _Message(msgspec.Struct):
    role: str
    content: str | list[msgspec.Raw]


class MessagesBody(msgspec.Struct):
    """A request of the Messages API, as far as it is read."""

    messages: list[_Message]
    model: str | None = None
    system: str | list[msgspec.Raw] | None = None
    max_tokens: int | None = None
    stream: bool | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: msgspec.Raw = NULL
    stop_sequences: list[str] | None = None
    temperature: float | int | None = None
    top_p: float | int | None = None
    thinking: msgspec.Raw = NULL
    output_config: msgspec.Raw = NULL
    output_format: msgspec.Raw = NULL


class _Source(msgspec.Struct):
    type: str
    media_type: str = ""
    data: str = ""
    url: str = ""
    file_id: str = ""


class _Block(msgspec.Struct):
    type: str
    text: str = ""
    source: _Source | None = None
    title: str | None = None
    id: str = ""
    name: str = ""
    input: msgspec.Raw = NULL
    tool_use_id: str = ""
    content: str | list[msgspec.Raw] | None = None
    is_error: bool | None = None
    thinking: str = ""
    signature: str = ""
    data: str = ""
    cache_control: msgspec.Raw = NULL


class _Tool(msgspec.Struct):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: msgspec.Raw = NULL
    strict: bool | None = None
    cache_control: msgspec.Raw = NULL


class _Choice(msgspec.Struct):
    type: str
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class _Thinking(msgspec.Struct):
    type: str
    budget_tokens: int | None = None


class _Format(msgspec.Struct):
    type: str
    schema: msgspec.Raw = NULL


class _OutputConfig(msgspec.Struct):
    effort: str | None = None
    format: _Format | None = None


_REQUEST = msgspec.json.Decoder(MessagesBody)
#: A call names who made it, which is the model.
_BLOCK = Shape(
    _Block, types="text image document tool_use tool_result thinking redacted_thinking", ignored="caller"
)
_TOOL = Shape(_Tool)
_CHOICE = Shape(_Choice)
_THINKING = Shape(_Thinking)
_FORMAT = Shape(_Format)
_OUTPUT_CONFIG = Shape(_OutputConfig)
ROLES = ("user", "assistant", "system")
_MODES = {"auto": "auto", "any": "required", "none": "none", "tool": "named"}


def read_messages_request(body: bytes) -> NeutralRequest:
    """Read a checked JSON object; raises `WireError` with the field at fault."""
    asked = decode(_REQUEST, body)
    _check(asked)
    marks: dict[str, None] = {}
    instructions = _texts(asked.system, marks)
    messages: list[Message] = []
    for message in asked.messages:
        if message.role == "system":
            instructions += _texts(message.content, marks)
        else:
            messages.append(Message(role=message.role, parts=_parts(message.content, marks)))  # type: ignore[arg-type]
    tools, foreign_tools = _tools(asked.tools or [], marks)
    choice = _CHOICE.read(asked.tool_choice, marks, "tool_choice")
    config = _OUTPUT_CONFIG.read(asked.output_config, marks, "output_config") or _OutputConfig()
    wanted = config.format or _FORMAT.read(asked.output_format, marks, "output_format")
    thinking = _THINKING.read(asked.thinking, marks, "thinking")
    return NeutralRequest(
        dialect="messages",
        model=model_asked(asked.model),
        instructions=tuple(text for text in instructions if text),
        messages=tuple(messages),
        tools=tools,
        choice=_read_choice(choice),
        parallel_calls=None if choice is None or not choice.disable_parallel_tool_use else False,
        output_max_tokens=asked.max_tokens,
        stop=tuple(asked.stop_sequences or ()),
        temperature=asked.temperature,
        top_p=asked.top_p,
        format=Format(kind="json_schema", schema=bytes(wanted.schema)) if wanted is not None else None,
        thinking=_read_thinking(thinking, config.effort),
        stream=bool(asked.stream),
        params=_params(body),
        foreign_tools=foreign_tools,
        marks=tuple(marks),
    )


def _check(asked: MessagesBody) -> None:
    if not asked.messages:
        raise WireError("invalid_request", "messages must hold at least one message.", "messages")
    check_count("messages", len(asked.messages), MESSAGES_MAX_COUNT)
    check_count("tools", len(asked.tools or ()), TOOLS_MAX_COUNT)
    for index, message in enumerate(asked.messages):
        if message.role not in ROLES:
            place = f"messages[{index}].role"
            raise WireError("invalid_request", f"{place} must be one of {', '.join(ROLES)}.", place)
    check_positive("max_tokens", asked.max_tokens)


def _texts(content: str | list[msgspec.Raw] | None, marks: dict[str, None]) -> list[str]:
    return [part.text for part in _parts(content or [], marks) if isinstance(part, Text)]


def _params(body: bytes) -> dict[str, bytes]:
    members = MEMBERS.decode(body)
    return {
        _NAMES.get(name, name): bytes(value)
        for name, value in members.items()
        if name not in _KNOWN and bytes(value) != b"null"
    }


def _parts(content: str | list[msgspec.Raw], marks: dict[str, None]) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Text(text=content),) if content else ()
    return tuple(_part(raw, marks) for raw in content)


def _part(raw: msgspec.Raw, marks: dict[str, None]) -> Part:
    block = _BLOCK.read(raw, marks, "content")
    if block is None:
        return Foreign(label="unknown", raw=bytes(raw))
    if bytes(block.cache_control) != b"null":
        marks["cache_control"] = None
    match block.type:
        case "text":
            return Text(text=block.text)
        case "image" if block.source is not None:
            if block.source.url:
                marks["image_url"] = None
            return Image(blob=_blob(block.source, marks))
        case "document" if block.source is not None:
            source = block.source
            if source.type == "text":
                return Document(blob=Blob(), name=block.title or "", text=source.data)
            if source.url:
                marks["document_url"] = None
            return Document(blob=_blob(source, marks), name=block.title or "")
        case "tool_use":
            return Call(call_id=block.id, name=block.name, arguments=_compact(block.input))
        case "tool_result":
            parts = _parts(block.content or [], marks)
            return Result(call_id=block.tool_use_id, parts=parts, is_error=bool(block.is_error))
        case "thinking":
            return _reasoning(block.thinking, block.signature, {"thinking": block.thinking})
        case "redacted_thinking":
            return _reasoning("", block.data, {})
    return Foreign(label=block.type, raw=bytes(raw))


def _compact(raw: msgspec.Raw) -> str:
    return "{}" if bytes(raw) == b"null" else msgspec.json.format(bytes(raw), indent=-1).decode()


def _blob(source: _Source, marks: dict[str, None]) -> Blob:
    if source.file_id:
        marks["file_id"] = None
    return Blob(url=source.url, media_type=source.media_type, data=source.data, file_id=source.file_id)


def _reasoning(text: str, signature: str, visible: dict[str, str]) -> Reasoning:
    """Return a block: another vendor's that we sealed, or one of this dialect's own."""
    sealed = unseal(signature)
    if sealed is not None:
        return Reasoning(text=text, vendor=sealed[0], raw=sealed[1])
    return Reasoning(text=text, vendor=VENDOR, raw=thinking_block(visible.get("thinking"), signature))


def thinking_block(thinking: str | None, signature: str) -> bytes:
    """Return a block of this dialect's vendor as it is kept and given back; None for one that was redacted."""
    if thinking is None:
        return msgspec.json.encode({"type": "redacted_thinking", "data": signature})
    return msgspec.json.encode({"type": "thinking", "thinking": thinking, "signature": signature})


def _tools(raws: list[msgspec.Raw], marks: dict[str, None]) -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    tools, foreign = [], []
    for raw in raws:
        kind = kind_of(raw)
        tool = _TOOL.read(raw, marks, "tools") if kind in ("unknown", "custom") else None
        if tool is None:
            foreign.append(kind)
            continue
        if bytes(tool.cache_control) != b"null":
            marks["cache_control"] = None
        schema = bytes(tool.input_schema)
        tools.append(
            Tool(
                name=tool.name,
                description=tool.description or "",
                schema=b"" if schema == b"null" else schema,
                strict=tool.strict,
            )
        )
    return tuple(tools), tuple(dict.fromkeys(foreign))


def _read_choice(choice: _Choice | None) -> Choice | None:
    if choice is None or choice.type not in _MODES:
        return None
    return Choice(mode=_MODES[choice.type], name=choice.name)  # type: ignore[arg-type]


def _read_thinking(thinking: _Thinking | None, effort: str | None) -> Thinking | None:
    if thinking is not None and thinking.type == "disabled":
        return Thinking(effort="none")
    if thinking is not None and thinking.type == "enabled":
        return Thinking(effort=effort or "", budget_tokens=thinking.budget_tokens)
    if effort or thinking is not None:
        return Thinking(effort=effort or "high")
    return None
