"""Writes a neutral request in OpenAI's older dialect, for a provider that speaks it.

Results of tools become messages of their own, which can hold text only; their images follow in a message of the
user's. JSON is compact and in the order of the source, so that equal histories give equal prefixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from palyra.wire.cargo import fit_id
from palyra.wire.decoding import MEMBERS, read_or_none
from palyra.wire.effort import effort_of
from palyra.wire.losses import changes_for
from palyra.wire.neutral import (
    Audio,
    Call,
    Document,
    Foreign,
    Format,
    Image,
    NeutralRequest,
    Part,
    Reasoning,
    Refused,
    Result,
    Text,
    Thinking,
    Tool,
)
from palyra.wire.target import Changes, Prepared, Target
from palyra.wire.turns import Turn, strict_turns

#: The highest effort that this dialect has a word for.
_HIGHEST = "xhigh"


def write_chat_call(request: NeutralRequest, target: Target) -> Prepared:
    """Return the body of a request."""
    changes = changes_for(request, "chat")
    body: dict[str, Any] = {"model": target.model, "messages": _messages(request, target, changes)}
    cap_tokens = target.output_cap_tokens or request.output_max_tokens
    if cap_tokens is not None:
        body[target.ways.cap_field] = cap_tokens
    if request.offered_tools:
        body["tools"] = [_tool(tool, target, changes) for tool in request.offered_tools]
        body.update(_choice(request, target))
    sampling = {"temperature": request.temperature, "top_p": request.top_p}
    body.update({name: value for name, value in sampling.items() if value is not None})
    if request.stop:
        body["stop"] = request.stop
    if request.format is not None:
        body["response_format"] = _format(request.format)
    if request.thinking is not None:
        body.update(_thinking(request.thinking, request, target, changes))
    if target.stream:
        body["stream"] = True
        if target.ask_usage:
            body["stream_options"] = {"include_usage": True}
    body.update({name: msgspec.Raw(raw) for name, raw in request.params.items() if name not in changes.dropped})
    return changes.prepared(msgspec.json.encode(body))


def _messages(request: NeutralRequest, target: Target, changes: Changes) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    if request.instructions:
        role = "developer" if target.ways.takes_developer else "system"
        written.append({"role": role, "content": "\n\n".join(request.instructions)})
    for turn in strict_turns(request.messages):
        if turn.role == "assistant":
            written.append(_assistant(turn, target, changes))
        else:
            written += _user(turn, changes)
    return written


def _user(turn: Turn, changes: Changes) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    content: list[dict[str, Any]] = []
    for part in turn.parts:
        if isinstance(part, Result):
            texts = [inner.text for inner in part.parts if isinstance(inner, Text)]
            content += _content([inner for inner in part.parts if not isinstance(inner, Text)], changes)
            if part.is_error:
                changes.drop("tool_result.is_error")
            result_id = fit_id("chat", part.call_id)
            written.append({"role": "tool", "tool_call_id": result_id, "content": "\n".join(texts)})
    content += _content([part for part in turn.parts if not isinstance(part, Result)], changes)
    if len(content) == 1 and content[0]["type"] == "text":
        written.append({"role": "user", "content": content[0]["text"]})
    elif content:
        written.append({"role": "user", "content": content})
    return written


def _content(parts: Sequence[Part], changes: Changes) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    for part in parts:
        match part:
            case Text(text=text) | Refused(text=text):
                content.append({"type": "text", "text": text})
            case Image(blob=blob, detail=detail):
                image = {"url": blob.data_url, **({"detail": detail} if detail else {})}
                content.append({"type": "image_url", "image_url": image})
            case Document():
                content.append(_document(part, changes))
            case Audio():
                content.append({"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}})
            case Foreign(label=label):
                changes.drop(f"content.{label}")
            case _:
                changes.drop(f"content.{type(part).__name__.lower()}")
    return content


def _document(part: Document, changes: Changes) -> dict[str, Any]:
    if part.text:
        changes.emulate("document=text")
        return {"type": "text", "text": part.text}
    if part.blob.file_id:
        return {"type": "file", "file": {"file_id": part.blob.file_id}}
    return {"type": "file", "file": {"filename": part.name or "document", "file_data": part.blob.data_url}}


def _assistant(turn: Turn, target: Target, changes: Changes) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None}
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for part in turn.parts:
        match part:
            case Text(text=text):
                texts.append(text)
            case Refused(text=text):
                message["refusal"] = text
            case Call():
                calls.append(_call(part, target))
            case Reasoning(vendor=vendor, raw=raw) if vendor == target.vendor and raw:
                message.update(_members(raw))
            case Reasoning():
                changes.drop("reasoning")
            case Foreign(label=label):
                changes.drop(f"content.{label}")
            case _:
                changes.drop(f"content.{type(part).__name__.lower()}")
    if texts or not (calls or "refusal" in message):
        message["content"] = "".join(texts)
    if calls:
        message["tool_calls"] = calls
    return message


def _members(raw: bytes) -> dict[str, msgspec.Raw]:
    return read_or_none(MEMBERS, raw) or {}


def _call(call: Call, target: Target) -> dict[str, Any]:
    call_id = fit_id("chat", call.call_id)
    if not call.is_freeform:
        function = {"name": call.name, "arguments": call.arguments or "{}"}
        return {"id": call_id, "type": "function", "function": function}
    if target.ways.takes_freeform:
        return {"id": call_id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    wrapped = msgspec.json.encode({"input": call.arguments}).decode()
    return {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": wrapped}}


def _tool(tool: Tool, target: Target, changes: Changes) -> dict[str, Any]:
    named = {"name": tool.name, **({"description": tool.description} if tool.description else {})}
    if tool.is_freeform and target.ways.takes_freeform:
        if tool.grammar:
            named["format"] = msgspec.Raw(tool.grammar)  # type: ignore[assignment]
        return {"type": "custom", "custom": named}
    if tool.grammar:
        changes.drop(f"tools.{tool.name}.format")
    function: dict[str, Any] = {**named, "parameters": tool.parameters}
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _choice(request: NeutralRequest, target: Target) -> dict[str, Any]:
    written: dict[str, Any] = {}
    choice = request.choice
    if choice is not None and choice.mode != "named":
        written["tool_choice"] = choice.mode
    elif choice is not None:
        is_freeform = any(tool.is_freeform for tool in request.tools if tool.name == choice.name)
        kind = "custom" if is_freeform and target.ways.takes_freeform else "function"
        written["tool_choice"] = {"type": kind, kind: {"name": choice.name}}
    if request.parallel_calls is not None:
        written["parallel_tool_calls"] = request.parallel_calls
    return written


def _format(wanted: Format) -> dict[str, Any]:
    if wanted.kind == "json_object":
        return {"type": "json_object"}
    schema: dict[str, Any] = {"name": wanted.name or "answer"}
    if wanted.description:
        schema["description"] = wanted.description
    schema["schema"] = msgspec.Raw(wanted.schema)
    if wanted.strict is not None:
        schema["strict"] = wanted.strict
    return {"type": "json_schema", "json_schema": schema}


def _thinking(thinking: Thinking, request: NeutralRequest, target: Target, changes: Changes) -> dict[str, Any]:
    if request.dialect == "messages" and thinking.is_off:
        return {}  # not to think is what a model does that is asked for nothing
    if target.reasoning == "none":
        changes.drop("thinking" if request.dialect == "messages" else "reasoning_effort")
        return {}
    effort = effort_of(thinking)
    if effort == "max":
        changes.adjust("reasoning_effort", _HIGHEST)
        effort = _HIGHEST
    return {"reasoning_effort": effort} if effort else {}
