"""Reads a request in OpenAI's older dialect (Chat Completions) into the neutral form.

The body has passed `request.decode_chat`, so its frame is right; what stands in it is read tolerantly, for the many
servers and clients that speak this dialect have ways of their own.
"""

from __future__ import annotations

from typing import Any

import msgspec

from palyra.wire.cargo import OPAQUE, unpack
from palyra.wire.decoding import MEMBERS, NULL, decode, read_or_none
from palyra.wire.known import NOTHING, Shape
from palyra.wire.neutral import (
    Audio,
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
    Refused,
    Result,
    Text,
    Thinking,
    Tool,
    choice_among,
)

#: Members that have a place of their own in the neutral form; every other one is a parameter.
_KNOWN = frozenset(
    "model messages max_tokens max_completion_tokens stream stream_options tools functions tool_choice"
    " function_call parallel_tool_calls stop temperature top_p response_format reasoning_effort".split()
)
_ONE_CHOICE, _TEXT_ONLY = b"1", b'["text"]'


class _Function(msgspec.Struct):
    name: str
    arguments: Any = ""


class _Custom(msgspec.Struct):
    name: str
    input: str = ""


class _Call(msgspec.Struct):
    id: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[msgspec.Raw] | None = None
    name: Any = None
    refusal: str | None = None
    reasoning_content: Any = None
    reasoning_details: msgspec.Raw = NULL
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None
    tool_call_id: str | None = None


class _Chat(msgspec.Struct):
    messages: list[msgspec.Raw]
    model: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool | None = None
    tools: list[msgspec.Raw] | None = None
    functions: list[msgspec.Raw] | None = None
    tool_choice: msgspec.Raw = NULL
    function_call: msgspec.Raw = NULL
    parallel_tool_calls: bool | None = None
    stop: str | list[str] | None = None
    temperature: float | int | None = None
    top_p: float | int | None = None
    response_format: msgspec.Raw = NULL
    reasoning_effort: str | None = None


class _ImageUrl(msgspec.Struct):
    url: str = ""
    detail: str | None = None


class _File(msgspec.Struct):
    file_data: str | None = None
    filename: str | None = None
    file_id: str | None = None


class _Sound(msgspec.Struct):
    data: str = ""
    format: str = ""


class _Part(msgspec.Struct):
    type: str
    text: str = ""
    refusal: str = ""
    image_url: _ImageUrl | str | None = None
    file: _File | None = None
    input_audio: _Sound | None = None


class _Detail(msgspec.Struct):
    type: str
    vendor: str = ""
    data: str = ""


class _Declared(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: msgspec.Raw = NULL
    strict: bool | None = None
    format: msgspec.Raw = NULL


class _Tool(msgspec.Struct):
    type: str = "function"
    function: msgspec.Raw = NULL
    custom: msgspec.Raw = NULL


class _Named(msgspec.Struct):
    name: str = ""


class _Choice(msgspec.Struct):
    type: str = ""
    name: str = ""
    function: _Named | None = None
    custom: _Named | None = None
    allowed_tools: _Allowed | None = None

    @property
    def named(self) -> str:
        return (self.function or self.custom or self).name


class _Allowed(msgspec.Struct):
    mode: str = "auto"
    tools: list[_Choice] = []


class _Schema(msgspec.Struct):
    name: str = ""
    description: str | None = None
    schema: msgspec.Raw = NULL
    strict: bool | None = None


class _Format(msgspec.Struct):
    type: str
    json_schema: _Schema | None = None


_REQUEST = msgspec.json.Decoder(_Chat)
_MESSAGE = Shape(_Message)
_PART = Shape(_Part, types="text refusal image_url file input_audio")
_DETAILS = msgspec.json.Decoder(list[_Detail])
_TOOL = Shape(_Tool, types="function custom")
_DECLARED = Shape(_Declared)
_WORD = msgspec.json.Decoder(str)
_CHOICE = msgspec.json.Decoder(_Choice)
_FORMAT = msgspec.json.Decoder(_Format)


def read_chat_request(body: bytes) -> NeutralRequest:
    """Read a checked JSON object; raises `WireError` with the field at fault."""
    asked = decode(_REQUEST, body)
    marks: dict[str, None] = {}
    instructions: list[str] = []
    messages: list[Message] = []
    for index, raw in enumerate(asked.messages):
        message = _MESSAGE.demand(raw, marks, "messages", f"messages[{index}]")
        if message.role in ("system", "developer"):
            texts = [part.text for part in _parts(message.content, marks) if isinstance(part, Text)]
            instructions.append("".join(texts))
        else:
            messages.append(_message(message, marks))
    tools, foreign_tools = _tools(asked, marks)
    stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    effort = asked.reasoning_effort
    return NeutralRequest(
        dialect="chat",
        model=asked.model if asked.model and asked.model.strip() else "",
        instructions=tuple(text for text in instructions if text),
        messages=tuple(messages),
        tools=tools,
        choice=_read_choice(asked),
        parallel_calls=asked.parallel_tool_calls,
        output_max_tokens=asked.max_completion_tokens or asked.max_tokens,
        stop=tuple(stop),
        temperature=asked.temperature,
        top_p=asked.top_p,
        format=_read_format(read_or_none(_FORMAT, asked.response_format)),
        thinking=Thinking(effort=effort) if effort else None,
        stream=bool(asked.stream),
        params=_params(body),
        foreign_tools=foreign_tools,
        marks=tuple(marks),
    )


def _params(body: bytes) -> dict[str, bytes]:
    found = {}
    for name, value in MEMBERS.decode(body).items():
        raw = bytes(value)
        if name in _KNOWN or raw in NOTHING:
            continue
        if (name, raw) not in (("n", _ONE_CHOICE), ("modalities", _TEXT_ONLY), ("top_logprobs", b"0")):
            found[name] = raw
    return found


def _message(message: _Message, marks: dict[str, None]) -> Message:
    if isinstance(message.name, str) and message.name and message.role != "function":
        marks["messages.name"] = None
    parts = _parts(message.content, marks)
    if message.role in ("tool", "function"):
        # A function's answer knows its function, not its call; the two are paired by name.
        call_id = message.tool_call_id or f"function_{message.name}"
        return Message(role="user", parts=(Result(call_id=call_id, parts=parts),))
    if message.role == "user":
        return Message(role="user", parts=parts)
    said: list[Part] = [*_reasoning(message), *parts]
    if message.refusal:
        said.append(Refused(text=message.refusal))
    for call in message.tool_calls or ():
        if call.custom is not None:
            said.append(
                Call(call_id=call.id or "", name=call.custom.name, arguments=call.custom.input, is_freeform=True)
            )
        elif call.function is not None:
            said.append(_call(call.id or "", call.function))
    if message.function_call is not None:
        said.append(_call(f"function_{message.function_call.name}", message.function_call))
    return Message(role="assistant", parts=tuple(said))


def _call(call_id: str, function: _Function) -> Call:
    return Call(call_id=call_id, name=function.name, arguments=arguments_text(function.arguments))


def arguments_text(arguments: Any) -> str:
    """Return arguments as JSON text; some servers give them as the object."""
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments or {}).decode()


def _reasoning(message: _Message) -> list[Part]:
    """Return the cargo of an assistant's message, or where there is none what is visible of it."""
    details = read_or_none(_DETAILS, message.reasoning_details) or []
    cargo = [
        Reasoning(vendor=detail.vendor, raw=raw)
        for detail in details
        if detail.type == OPAQUE and (raw := unpack(detail.data)) is not None
    ]
    text = message.reasoning_content
    if cargo or not isinstance(text, str) or not text:
        return list(cargo)
    return [Reasoning(text=text)]


def _parts(content: str | list[msgspec.Raw] | None, marks: dict[str, None]) -> tuple[Part, ...]:
    if not content:
        return ()
    if isinstance(content, str):
        return (Text(text=content),)
    return tuple(_part(raw, marks) for raw in content)


def _part(raw: msgspec.Raw, marks: dict[str, None]) -> Part:
    part = _PART.read(raw, marks, "content")
    if part is None:
        return Foreign(label="unknown", raw=bytes(raw))
    match part.type:
        case "text":
            return Text(text=part.text)
        case "refusal":
            return Refused(text=part.refusal)
        case "image_url" if part.image_url is not None:
            image = _ImageUrl(url=part.image_url) if isinstance(part.image_url, str) else part.image_url
            blob = blob_of_url(image.url)
            if blob.url:
                marks["image_url"] = None
            return Image(blob=blob, detail=image.detail or "")
        case "file" if part.file is not None:
            if part.file.file_id:
                marks["file_id"] = None
            blob = blob_of_url(part.file.file_data or "")
            blob = msgspec.structs.replace(blob, file_id=part.file.file_id or "")
            return Document(blob=blob, name=part.file.filename or "")
        case "input_audio" if part.input_audio is not None:
            return Audio(data=part.input_audio.data, format=part.input_audio.format)
    return Foreign(label=part.type, raw=bytes(raw))


def blob_of_url(url: str) -> Blob:
    """Return what a URL stands for; a data URL carries its bytes."""
    head, comma, data = url.partition(",")
    if comma and head.startswith("data:") and head.endswith(";base64"):
        return Blob(media_type=head.removeprefix("data:").removesuffix(";base64").partition(";")[0], data=data)
    return Blob(url=url)


def _tools(asked: _Chat, marks: dict[str, None]) -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    tools: list[Tool] = []
    foreign: list[str] = []
    for raw in asked.tools or ():
        tool = _TOOL.read(raw, marks, "tools") or _Tool(type="unknown")
        custom = _DECLARED.read(tool.custom, marks, "tools.custom")
        declared = custom or _DECLARED.read(tool.function, marks, "tools.function")
        if declared is None:
            foreign.append(tool.type)
        else:
            tools.append(_tool(declared, is_freeform=custom is not None))
    for raw in asked.functions or ():
        function = _DECLARED.read(raw, marks, "functions")
        if function is not None:
            tools.append(_tool(function, is_freeform=False))
    return tuple(tools), tuple(dict.fromkeys(foreign))


def _tool(declared: _Declared, *, is_freeform: bool) -> Tool:
    schema, grammar = bytes(declared.parameters), bytes(declared.format)
    return Tool(
        name=declared.name,
        description=declared.description or "",
        schema=b"" if schema == b"null" else schema,
        strict=declared.strict,
        is_freeform=is_freeform,
        grammar=b"" if grammar == b"null" else grammar,
    )


def _read_choice(asked: _Chat) -> Choice | None:
    raw = asked.tool_choice if bytes(asked.tool_choice) != b"null" else asked.function_call
    word = read_or_none(_WORD, raw)
    if word in ("auto", "none", "required"):
        return Choice(mode=word)  # type: ignore[arg-type]
    choice = read_or_none(_CHOICE, raw)
    if choice is None:
        return None
    if choice.allowed_tools is not None:
        allowed = choice.allowed_tools
        return choice_among(allowed.mode, [one.named for one in allowed.tools])
    return Choice(mode="named", name=choice.named) if choice.named else None


def _read_format(wanted: _Format | None) -> Format | None:
    if wanted is None or wanted.type not in ("json_object", "json_schema"):
        return None
    if wanted.type == "json_object":
        return Format(kind="json_object")
    schema = wanted.json_schema or _Schema()
    return Format(
        kind="json_schema",
        name=schema.name,
        description=schema.description or "",
        schema=bytes(schema.schema),
        strict=schema.strict,
    )
