"""Writes a neutral request in OpenAI's newer dialect, for a provider that speaks it.

Nothing is left with the provider (`store` is false), so what was thought comes along as cargo and goes back with
the turn that it belongs to.
"""

from __future__ import annotations

from typing import Any

import msgspec

from palyra.wire.cargo import fit_id
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
    Tool,
)
from palyra.wire.responses_request import CARGO
from palyra.wire.target import Changes, Prepared, Target
from palyra.wire.turns import strict_turns

_HIGHEST = "xhigh"


def write_responses_call(request: NeutralRequest, target: Target) -> Prepared:
    """Return the body of a request."""
    changes = changes_for(request, "responses")
    body: dict[str, Any] = {"model": target.model}
    if request.instructions:
        body["instructions"] = "\n\n".join(request.instructions)
    body["input"] = _input(request, target, changes)
    cap_tokens = target.output_cap_tokens or request.output_max_tokens
    if cap_tokens is not None:
        body["max_output_tokens"] = cap_tokens
    if request.offered_tools:
        body["tools"] = [_tool(tool) for tool in request.offered_tools]
        body.update(_choice(request))
    sampling = {"temperature": request.temperature, "top_p": request.top_p}
    body.update({name: value for name, value in sampling.items() if value is not None})
    kept = {name: msgspec.Raw(raw) for name, raw in request.params.items() if name not in changes.dropped}
    text: dict[str, Any] = {} if request.format is None else {"format": _format(request.format)}
    if "verbosity" in kept:
        text["verbosity"] = kept.pop("verbosity")
    if text:
        body["text"] = text
    body.update(_thinking(request, target, changes))
    body["store"] = False
    if target.stream:
        body["stream"] = True
    body.update(kept)
    return changes.prepared(msgspec.json.encode(body))


def _input(request: NeutralRequest, target: Target, changes: Changes) -> list[Any]:
    items: list[Any] = []
    for turn in strict_turns(request.messages):
        content: list[dict[str, Any]] = []
        for part in turn.parts:
            if isinstance(part, Text | Refused | Image | Document | Audio):
                content += _content(part, turn.role, changes)
                continue
            if isinstance(part, Foreign):
                changes.drop(f"content.{part.label}")
                continue
            _flush(items, turn.role, content)
            items += _item(part, target, changes)
        _flush(items, turn.role, content)
    return items


def _flush(items: list[Any], role: str, content: list[dict[str, Any]]) -> None:
    """Add a message of the content so far."""
    if content:
        items.append({"type": "message", "role": role, "content": list(content)})
        content.clear()


def _content(part: Part, role: str, changes: Changes) -> list[dict[str, Any]]:
    match part:
        case Text(text=text):
            return [{"type": "output_text" if role == "assistant" else "input_text", "text": text}]
        case Refused(text=text):
            return [{"type": "refusal", "refusal": text}]
        case Image(blob=blob, detail=detail):
            image: dict[str, Any] = {"type": "input_image"}
            image.update({"file_id": blob.file_id} if blob.file_id else {"image_url": blob.data_url})
            return [{**image, **({"detail": detail} if detail else {})}]
        case Document():
            return [_document(part, changes)]
    changes.drop(f"content.{type(part).__name__.lower()}")
    return []


def _document(part: Document, changes: Changes) -> dict[str, Any]:
    if part.text:
        changes.emulate("document=text")
        return {"type": "input_text", "text": part.text}
    if part.blob.file_id:
        return {"type": "input_file", "file_id": part.blob.file_id}
    if part.blob.url:
        return {"type": "input_file", "file_url": part.blob.url}
    return {"type": "input_file", "filename": part.name or "document", "file_data": part.blob.data_url}


def _item(part: Call | Result | Reasoning, target: Target, changes: Changes) -> list[Any]:
    match part:
        case Call(call_id=call_id, name=name, arguments=arguments):
            head = {"call_id": fit_id("responses", call_id), "name": name}
            if part.is_freeform:
                return [{"type": "custom_tool_call", **head, "input": arguments}]
            return [{"type": "function_call", **head, "arguments": arguments or "{}"}]
        case Result():
            return [_result(part, changes)]
        case Reasoning(vendor=vendor, raw=raw) if vendor == target.vendor and raw:
            return [msgspec.Raw(raw)]
        case _:
            changes.drop("reasoning")
            return []


def _result(part: Result, changes: Changes) -> dict[str, Any]:
    if part.is_error:
        changes.drop("tool_result.is_error")
    kind = "custom_tool_call_output" if part.is_freeform else "function_call_output"
    output: Any = [one for inner in part.parts for one in _content(inner, "user", changes)]
    if all(isinstance(inner, Text) for inner in part.parts):
        output = "\n".join(inner.text for inner in part.parts if isinstance(inner, Text))
    return {"type": kind, "call_id": fit_id("responses", part.call_id), "output": output}


def _tool(tool: Tool) -> dict[str, Any]:
    named: dict[str, Any] = {"name": tool.name, **({"description": tool.description} if tool.description else {})}
    if tool.is_freeform:
        return {"type": "custom", **named, **({"format": msgspec.Raw(tool.grammar)} if tool.grammar else {})}
    # What is not said means strict here, and the contrary elsewhere.
    return {"type": "function", **named, "parameters": tool.parameters, "strict": bool(tool.strict)}


def _choice(request: NeutralRequest) -> dict[str, Any]:
    written: dict[str, Any] = {}
    choice = request.choice
    if choice is not None and choice.mode != "named":
        written["tool_choice"] = choice.mode
    elif choice is not None:
        is_freeform = any(tool.is_freeform for tool in request.tools if tool.name == choice.name)
        written["tool_choice"] = {"type": "custom" if is_freeform else "function", "name": choice.name}
    if request.parallel_calls is not None:
        written["parallel_tool_calls"] = request.parallel_calls
    return written


def _format(wanted: Format) -> dict[str, Any]:
    if wanted.kind == "json_object":
        return {"type": "json_object"}
    schema: dict[str, Any] = {"type": "json_schema", "name": wanted.name or "answer"}
    if wanted.description:
        schema["description"] = wanted.description
    return {**schema, "schema": msgspec.Raw(wanted.schema), "strict": bool(wanted.strict)}


def _thinking(request: NeutralRequest, target: Target, changes: Changes) -> dict[str, Any]:
    thinking = request.thinking
    if target.reasoning == "none":
        if thinking is not None and not thinking.is_off:
            changes.drop("thinking" if request.dialect == "messages" else "reasoning_effort")
        return {}
    written: dict[str, Any] = {"include": [CARGO]}
    if thinking is None or (request.dialect == "messages" and thinking.is_off):
        return written
    effort = effort_of(thinking)
    if effort == "max":
        changes.adjust("reasoning.effort", _HIGHEST)
        effort = _HIGHEST
    wanted: dict[str, str] = {"effort": effort} if effort else {}
    if request.dialect == "messages":
        wanted["summary"] = "auto"  # a client of that dialect gets to see what was thought
    return {"reasoning": wanted, **written} if wanted else written
