"""Reads a request in OpenAI's newer dialect (Responses) into the neutral form.

Its input is a flat list of items; each becomes a message of its own, and whoever writes turns puts neighbours
together again. Tools that the provider would run itself are kept by name; nobody else has them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from palyra.limits import MESSAGES_MAX_COUNT, TOOLS_MAX_COUNT
from palyra.wire.cargo import unseal
from palyra.wire.chat_request import blob_of_url
from palyra.wire.decoding import (
    MEMBERS,
    NULL,
    check_count,
    check_positive,
    decode,
    kind_of,
    model_asked,
    read_or_none,
)
from palyra.wire.known import NOTHING, Shape
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
    Refused,
    Result,
    Text,
    Thinking,
    Tool,
    choice_among,
)

#: Vendor of items of reasoning that are not sealed by us.
VENDOR = "openai"
#: What a client asks for to be given the cargo of reasoning.
CARGO = "reasoning.encrypted_content"
#: Between the name of a group of tools and the name of one of them, where groups are unknown.
SEPARATOR = "__"
_KNOWN = frozenset(
    "model input instructions max_output_tokens stream stream_options tools tool_choice parallel_tool_calls"
    " temperature top_p text reasoning include".split()
)
_USUAL = (("truncation", b'"disabled"'), ("top_logprobs", b"0"))
_INSTRUCTING = ("system", "developer")


class _Content(msgspec.Struct):
    type: str
    text: str = ""
    refusal: str = ""
    image_url: str | None = None
    file_url: str | None = None
    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None
    detail: str | None = None


class _Summary(msgspec.Struct):
    text: str = ""


class _Item(msgspec.Struct):
    type: str = "message"
    role: str = ""
    content: str | list[msgspec.Raw] | None = None
    call_id: str = ""
    name: str = ""
    namespace: str | None = None
    arguments: str = ""
    input: str = ""
    output: str | list[msgspec.Raw] | None = None
    summary: list[_Summary] | None = None
    encrypted_content: str | None = None


class _Tool(msgspec.Struct):
    type: str
    name: str = ""
    description: str | None = None
    parameters: msgspec.Raw = NULL
    strict: bool | None = None
    format: msgspec.Raw = NULL
    tools: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    type: str
    name: str = ""
    mode: str = ""
    #: Of a choice among some tools.
    tools: list[_Choice] = []


class _Format(msgspec.Struct):
    type: str
    name: str = ""
    description: str | None = None
    schema: msgspec.Raw = NULL
    strict: bool | None = None


class _Text(msgspec.Struct):
    format: _Format | None = None
    verbosity: msgspec.Raw = NULL


class _Reasoning(msgspec.Struct):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponsesBody(msgspec.Struct):
    """A request of the Responses API, as far as it is read."""

    input: str | list[msgspec.Raw] | None = None
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    stream: bool | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: msgspec.Raw = NULL
    parallel_tool_calls: bool | None = None
    temperature: float | int | None = None
    top_p: float | int | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    include: list[str] | None = None


_REQUEST = msgspec.json.Decoder(ResponsesBody)
_CONTENT = Shape(_Content, types="input_text output_text text refusal input_image input_file")
#: What was answered before comes with ids of its own, and with how it ended.
_ITEM = Shape(
    _Item,
    types="message function_call custom_tool_call function_call_output custom_tool_call_output",
    ignored="id status created_by",
)
_TOOL = Shape(_Tool)
_TOOL_KINDS = ("function", "custom", "namespace")
#: Members whose own members have places in the neutral form, or none.
_SHAPES: dict[str, Shape[Any]] = {"text": Shape(_Text), "reasoning": Shape(_Reasoning)}
_WORD = msgspec.json.Decoder(str)
_CHOICE = msgspec.json.Decoder(_Choice)


def read_responses_request(body: bytes) -> NeutralRequest:
    """Read a checked JSON object; raises `WireError` with the field at fault."""
    asked = decode(_REQUEST, body)
    _check(asked)
    reader = _Reader()
    if isinstance(asked.input, str):
        reader.messages.append(Message(role="user", parts=(Text(text=asked.input),)))
    for raw in asked.input if isinstance(asked.input, list) else ():
        reader.take(raw)
    for raw in asked.tools or ():
        reader.take_tool(raw)
    text, reasoning = asked.text or _Text(), asked.reasoning
    return NeutralRequest(
        dialect="responses",
        model=model_asked(asked.model),
        instructions=tuple(one for one in (asked.instructions, *reader.instructions) if one),
        messages=tuple(reader.messages),
        tools=tuple(reader.tools),
        choice=_read_choice(asked.tool_choice),
        parallel_calls=asked.parallel_tool_calls,
        output_max_tokens=asked.max_output_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        format=_read_format(text.format),
        thinking=None if reasoning is None else _read_thinking(reasoning),
        stream=bool(asked.stream),
        params=_params(body, text, asked.include or [], reader.marks),
        foreign_tools=tuple(reader.foreign_tools),
        marks=tuple(reader.marks),
        namespaces=reader.namespaces,
        wants_cargo=CARGO in (asked.include or ()),
    )


def _check(asked: ResponsesBody) -> None:
    check_count("input", len(asked.input) if isinstance(asked.input, list) else 0, MESSAGES_MAX_COUNT)
    check_count("tools", len(asked.tools or ()), TOOLS_MAX_COUNT)
    check_positive("max_output_tokens", asked.max_output_tokens)


def _params(body: bytes, text: _Text, include: list[str], marks: dict[str, None]) -> dict[str, bytes]:
    found = {}
    for name, value in MEMBERS.decode(body).items():
        raw = bytes(value)
        if name in _SHAPES:
            _SHAPES[name].read(value, marks, name)
        elif name not in _KNOWN and raw not in NOTHING and (name, raw) not in _USUAL:
            found[name] = raw
    if bytes(text.verbosity) != b"null":
        found["verbosity"] = bytes(text.verbosity)
    others = [one for one in include if one != CARGO]
    if others:
        found["include"] = msgspec.json.encode(others)
    return found


class _Reader:
    """Takes the items and tools of one request."""

    def __init__(self) -> None:
        self.instructions: list[str] = []
        self.messages: list[Message] = []
        self.tools: list[Tool] = []
        self.foreign_tools: dict[str, None] = {}
        self.marks: dict[str, None] = {}
        #: Flat name -> (group, name in it).
        self.namespaces: dict[str, tuple[str, str]] = {}

    def take(self, raw: msgspec.Raw) -> None:
        """Add one item of the input."""
        item = _ITEM.read(raw, self.marks, "input")
        if item is None:
            self._say("assistant", Foreign(label="unknown", raw=bytes(raw)))
            return
        match item.type:
            case "message" if item.role in _INSTRUCTING:
                texts = [part.text for part in self._parts(item.content) if isinstance(part, Text)]
                self.instructions.append("".join(texts))
            case "message":
                parts = self._parts(item.content)
                self._say("assistant" if item.role == "assistant" else "user", *parts)
            case "function_call":
                name = item.name if not item.namespace else f"{item.namespace}{SEPARATOR}{item.name}"
                self._say("assistant", Call(call_id=item.call_id, name=name, arguments=item.arguments))
            case "custom_tool_call":
                call = Call(call_id=item.call_id, name=item.name, arguments=item.input, is_freeform=True)
                self._say("assistant", call)
            case "function_call_output" | "custom_tool_call_output":
                is_freeform = item.type == "custom_tool_call_output"
                parts = self._parts(item.output)
                self._say("user", Result(call_id=item.call_id, parts=parts, is_freeform=is_freeform))
            case "reasoning":
                self._say("assistant", _reasoning(item, raw))
            case "item_reference":
                self.marks["item_reference"] = None
            case _:
                self._say("assistant", Foreign(label=item.type, raw=bytes(raw)))

    def _say(self, role: str, *parts: Part) -> None:
        self.messages.append(Message(role=role, parts=parts))  # type: ignore[arg-type]

    def _parts(self, content: str | list[msgspec.Raw] | None) -> tuple[Part, ...]:
        if not content:
            return ()
        if isinstance(content, str):
            return (Text(text=content),)
        return tuple(self._part(raw) for raw in content)

    def _part(self, raw: msgspec.Raw) -> Part:
        part = _CONTENT.read(raw, self.marks, "content")
        if part is None:
            return Foreign(label="unknown", raw=bytes(raw))
        if part.file_id:
            self.marks["file_id"] = None
        match part.type:
            case "input_text" | "output_text" | "text":
                return Text(text=part.text)
            case "refusal":
                return Refused(text=part.refusal)
            case "input_image":
                blob = blob_of_url(part.image_url or "")
                if blob.url:
                    self.marks["image_url"] = None
                blob = msgspec.structs.replace(blob, file_id=part.file_id or "")
                return Image(blob=blob, detail=part.detail or "")
            case "input_file":
                if part.file_url:
                    self.marks["document_url"] = None
                blob = blob_of_url(part.file_data or part.file_url or "")
                blob = msgspec.structs.replace(blob, file_id=part.file_id or "")
                return Document(blob=blob if blob != Blob(url="") else Blob(), name=part.filename or "")
        return Foreign(label=part.type, raw=bytes(raw))

    def take_tool(self, raw: msgspec.Raw, group: str = "") -> None:
        """Add one tool; those of a group get its name in front of theirs."""
        kind = kind_of(raw)
        tool = _TOOL.read(raw, self.marks, "tools") if kind in _TOOL_KINDS else None
        if tool is None:
            self.foreign_tools[kind] = None
            return
        if tool.type == "namespace":
            for inner in tool.tools or ():
                self.take_tool(inner, tool.name)
            return
        name = tool.name
        if group:
            name = f"{group}{SEPARATOR}{tool.name}"
            self.namespaces[name] = (group, tool.name)
        schema, grammar = bytes(tool.parameters), bytes(tool.format)
        self.tools.append(
            Tool(
                name=name,
                description=tool.description or "",
                schema=b"" if schema == b"null" else schema,
                strict=tool.strict,
                is_freeform=tool.type == "custom",
                grammar=b"" if grammar == b"null" else grammar,
            )
        )


def _reasoning(item: _Item, raw: msgspec.Raw) -> Reasoning:
    text = "\n\n".join(one.text for one in item.summary or ())
    sealed = unseal(item.encrypted_content or "")
    if sealed is not None:
        return Reasoning(text=text, vendor=sealed[0], raw=sealed[1])
    return Reasoning(text=text, vendor=VENDOR, raw=msgspec.json.format(bytes(raw), indent=-1))


def _read_choice(raw: msgspec.Raw) -> Choice | None:
    word = read_or_none(_WORD, raw)
    choice = read_or_none(_CHOICE, raw)
    if choice is not None and choice.type == "allowed_tools":
        return choice_among(choice.mode, [one.name for one in choice.tools])
    if word in ("auto", "none", "required"):
        return Choice(mode=word)  # type: ignore[arg-type]
    return Choice(mode="named", name=choice.name) if choice is not None and choice.name else None


def _read_format(wanted: _Format | None) -> Format | None:
    if wanted is None or wanted.type not in ("json_object", "json_schema"):
        return None
    if wanted.type == "json_object":
        return Format(kind="json_object")
    return Format(
        kind="json_schema",
        name=wanted.name,
        description=wanted.description or "",
        schema=bytes(wanted.schema),
        strict=wanted.strict,
    )


def _read_thinking(reasoning: _Reasoning) -> Thinking | None:
    summary = reasoning.summary or reasoning.generate_summary or ""
    if not reasoning.effort and not summary:
        return None
    return Thinking(effort=reasoning.effort or "", summary=summary)
