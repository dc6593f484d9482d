"""Writes a neutral request in Anthropic's dialect, for a provider that speaks it.

JSON is compact and in the order of the source, so that equal histories give equal prefixes and a provider's prompt
cache keeps hitting. What cannot be said here is dropped and named, never put into words of our own, with one
exception: JSON mode becomes a line of instructions, and is named as emulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from palyra.wire.cargo import fit_id
from palyra.wire.decoding import MEMBERS, read_or_none
from palyra.wire.effort import budget_of, effort_of
from palyra.wire.errors import WireError
from palyra.wire.losses import changes_for
from palyra.wire.messages_request import VENDOR
from palyra.wire.neutral import (
    Audio,
    Blob,
    Call,
    Document,
    Foreign,
    Image,
    Message,
    NeutralRequest,
    Part,
    Reasoning,
    Refused,
    Result,
    Text,
    Tool,
)
from palyra.wire.target import Changes, Prepared, Target
from palyra.wire.turns import Turn, strict_turns

_JSON_LINE = "Answer with one JSON object and nothing else."
#: Room for the answer itself, above what may be thought.
_ANSWER_TOKENS = 1_024
_MODES = {"auto": "auto", "none": "none", "required": "any", "named": "tool"}
_NAMES = {"metadata.user_id": "metadata"}


def write_messages_call(request: NeutralRequest, target: Target) -> Prepared:
    """Return the body of a request; raises `WireError` for arguments of a call that are no JSON object."""
    changes = changes_for(request, "messages")
    body: dict[str, Any] = {"model": target.model}
    turns = strict_turns([_kept(message, changes) for message in request.messages])
    thinking = _thinking(request, target, turns, changes)
    body["max_tokens"] = _output_max(request, target, thinking, changes)
    instructions = list(request.instructions)
    if request.format is not None and request.format.kind == "json_object":
        changes.emulate("response_format=json_object")
        instructions.append(_JSON_LINE)
    if instructions:
        body["system"] = "\n\n".join(instructions)
    body["messages"] = [{"role": turn.role, "content": [_block(part) for part in turn.parts]} for turn in turns]
    if request.offered_tools:
        body["tools"] = [_tool(tool, changes) for tool in request.offered_tools]
        body.update(_choice(request))
    body.update(_sampling(request, is_thinking=bool(thinking), changes=changes))
    if request.stop:
        body["stop_sequences"] = request.stop
    body.update(thinking)
    if request.format is not None and request.format.kind == "json_schema":
        schema = msgspec.Raw(request.format.schema)
        body.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": schema}
    if target.stream:
        body["stream"] = True
    body.update(
        {
            _NAMES.get(name, name): msgspec.Raw(raw)
            for name, raw in request.params.items()
            if name not in changes.dropped
        }
    )
    return changes.prepared(msgspec.json.encode(body))


def _output_max(request: NeutralRequest, target: Target, thinking: dict[str, Any], changes: Changes) -> int:
    """Return the maximum, which this dialect demands; a budget of thoughts lies below it."""
    wanted = target.output_cap_tokens or request.output_max_tokens or target.output_default_tokens
    budget: int = thinking.get("thinking", {}).get("budget_tokens", 0)
    if wanted > budget:
        return wanted
    changes.adjust("max_tokens", budget + _ANSWER_TOKENS)
    return budget + _ANSWER_TOKENS


def _thinking(request: NeutralRequest, target: Target, turns: Sequence[Turn], changes: Changes) -> dict[str, Any]:
    """Return the members that have the model think, {} where it shall not or cannot."""
    thinking = request.thinking
    if thinking is None or thinking.is_off:
        return {}
    if target.reasoning == "none":
        changes.drop("thinking" if request.dialect == "messages" else "reasoning_effort")
        return {}
    if _forbids_thinking(request, turns):
        changes.adjust("thinking", "off")
        return {}
    if target.reasoning == "budget":
        return {"thinking": {"type": "enabled", "budget_tokens": budget_of(thinking)}}
    return {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort_of(thinking)}}


def _forbids_thinking(request: NeutralRequest, turns: Sequence[Turn]) -> bool:
    """Return whether the provider would refuse to think: a tool is forced, or the thoughts of a turn are lost."""
    if request.choice is not None and request.choice.mode in ("required", "named"):
        return True
    # While tools are at work, the turn that called them must begin with what was thought.
    last = next((turn for turn in reversed(turns) if turn.role == "assistant"), None)
    if last is None or not any(isinstance(part, Call) for part in last.parts):
        return False
    return not (isinstance(last.parts[0], Reasoning) and last.parts[0].vendor == VENDOR)


def _sampling(request: NeutralRequest, *, is_thinking: bool, changes: Changes) -> dict[str, Any]:
    sampling: dict[str, Any] = {}
    for name, value in (("temperature", request.temperature), ("top_p", request.top_p)):
        if value is None:
            continue
        if is_thinking:
            changes.drop(name)
        elif value > 1:
            changes.adjust(name, 1)
            sampling[name] = 1
        else:
            sampling[name] = value
    if is_thinking and "top_k" in request.params:
        changes.drop("top_k")
    return sampling


def _kept(message: Message, changes: Changes) -> Message:
    """Return a message without what cannot be said here."""
    return Message(role=message.role, parts=_kept_parts(message.parts, changes))


def _kept_parts(parts: Sequence[Part], changes: Changes) -> tuple[Part, ...]:
    kept: list[Part] = []
    for part in parts:
        match part:
            case Reasoning() if part.vendor != VENDOR or not part.raw:
                changes.drop("reasoning")
            case Audio():
                changes.drop("input_audio")
            case Foreign(label=label):
                changes.drop(f"content.{label}")
            case Image(detail="low" | "high"):
                changes.drop("image.detail")
                kept.append(part)
            case Result():
                kept.append(msgspec.structs.replace(part, parts=_kept_parts(part.parts, changes)))
            case _:
                kept.append(part)
    return tuple(kept)


def _block(part: Part) -> Any:
    match part:
        case Text(text=text) | Refused(text=text):
            return {"type": "text", "text": text}
        case Image(blob=blob):
            return {"type": "image", "source": _source(blob)}
        case Document():
            return _document(part)
        case Call():
            arguments = _arguments(part)
            return {
                "type": "tool_use",
                "id": fit_id("messages", part.call_id),
                "name": part.name,
                "input": arguments,
            }
        case Result():
            return _result(part)
    assert isinstance(part, Reasoning), "everything else was taken out"
    return msgspec.Raw(part.raw)


def _source(blob: Blob) -> dict[str, str]:
    if blob.url:
        return {"type": "url", "url": blob.url}
    return {"type": "base64", "media_type": blob.media_type, "data": blob.data}


def _document(part: Document) -> dict[str, Any]:
    source = _source(part.blob)
    if part.text:
        source = {"type": "text", "media_type": "text/plain", "data": part.text}
    return {"type": "document", "source": source, **({"title": part.name} if part.name else {})}


def _arguments(call: Call) -> Any:
    """Return a call's arguments as an object, their members in the order in which they were written."""
    if call.is_freeform:
        return {"input": call.arguments}
    if not call.arguments.strip():
        return {}
    arguments = read_or_none(MEMBERS, call.arguments.encode())
    if arguments is None:
        message = f"The arguments of the call {call.name[:64]!r} are not a JSON object."
        raise WireError("tool_arguments_not_json", message, "messages")
    return msgspec.Raw(msgspec.json.format(call.arguments.encode(), indent=-1))


def _result(part: Result) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": fit_id("messages", part.call_id)}
    only = part.parts[0] if len(part.parts) == 1 else None
    block["content"] = only.text if isinstance(only, Text) else [_block(inner) for inner in part.parts]
    if part.is_error:
        block["is_error"] = True
    return block


def _tool(tool: Tool, changes: Changes) -> dict[str, Any]:
    if tool.grammar:
        changes.drop(f"tools.{tool.name}.format")
    written: dict[str, Any] = {"name": tool.name}
    if tool.description:
        written["description"] = tool.description
    written["input_schema"] = tool.parameters
    if tool.strict:
        written["strict"] = True
    return written


def _choice(request: NeutralRequest) -> dict[str, Any]:
    choice = request.choice
    written: dict[str, Any] = {"type": "auto" if choice is None else _MODES[choice.mode]}
    if choice is not None and choice.mode == "named":
        written["name"] = choice.name
    if request.parallel_calls is False and written["type"] != "none":
        written["disable_parallel_tool_use"] = True
    return {} if written == {"type": "auto"} else {"tool_choice": written}
