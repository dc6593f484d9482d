"""Anthropic's wire format for the upstream on loopback: a `upstream.Behaviour` as that provider would say it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upstream import Behaviour

#: What signs reasoning here; it must come back as it was given out.
SIGNATURE = "EqQBCgIYAhIM+signature/of==upstream"
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def message(behaviour: Behaviour, asked: dict[str, Any]) -> dict[str, Any]:
    """Return a whole answer."""
    content: list[dict[str, Any]] = []
    if behaviour.reasoning:
        content.append({"type": "thinking", "thinking": behaviour.reasoning, "signature": SIGNATURE})
    if behaviour.text:
        content.append({"type": "text", "text": behaviour.text})
    for call_id, name, arguments in behaviour.tool_calls:
        content.append({"type": "tool_use", "id": call_id, "name": name, "input": json.loads(arguments or "{}")})
    return {
        "id": "msg_upstream",
        "type": "message",
        "role": "assistant",
        "model": asked["model"],
        "content": content,
        "stop_reason": _stop_reason(behaviour),
        "stop_sequence": None,
        "usage": _usage(behaviour, behaviour.completion_tokens),
    }


def _stop_reason(behaviour: Behaviour) -> str:
    natural = "tool_use" if behaviour.tool_calls else "end_turn"
    reason = behaviour.finish_reason
    return natural if reason is None else _STOP_REASONS.get(reason, reason)


def _usage(behaviour: Behaviour, output_tokens: int) -> dict[str, Any]:
    counts = {"input_tokens": behaviour.prompt_tokens, "output_tokens": output_tokens}
    tier = {"service_tier": behaviour.service_tier} if behaviour.service_tier else {}
    return {**counts, **tier, **behaviour.usage_details}


def _event(name: str, **members: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **members})}\n\n".encode()


def events(behaviour: Behaviour, asked: dict[str, Any]) -> Iterator[bytes]:
    """Yield the events of a stream."""
    whole = message(behaviour, asked)
    head = {**whole, "content": [], "stop_reason": None, "usage": _usage(behaviour, 1)}
    yield _event("message_start", message=head)
    yield _event("ping")
    for index, block in enumerate(whole["content"]):
        yield from _block(index, block, behaviour)
    delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield _event("message_delta", delta=delta, usage={"output_tokens": behaviour.completion_tokens})
    if behaviour.done:
        yield _event("message_stop")


def _block(index: int, block: dict[str, Any], behaviour: Behaviour) -> Iterator[bytes]:
    deltas: list[dict[str, Any]] = []
    match block["type"]:
        case "thinking":
            deltas.append({"type": "thinking_delta", "thinking": block["thinking"]})
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
            start = {"type": "thinking", "thinking": "", "signature": ""}
        case "text":
            words = block["text"].split(" ")
            pieces = behaviour.chunks or [*(f"{word} " for word in words[:-1]), words[-1]]
            deltas += [{"type": "text_delta", "text": piece} for piece in pieces]
            start = {"type": "text", "text": ""}
        case _:
            arguments = json.dumps(block["input"]) if block["input"] else ""
            half = len(arguments) // 2
            pieces = ["", arguments[:half], arguments[half:]] if arguments else []
            deltas += [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
            start = {"type": "tool_use", "id": block["id"], "name": block["name"], "input": {}}
    yield _event("content_block_start", index=index, content_block=start)
    for delta in deltas:
        yield _event("content_block_delta", index=index, delta=delta)
    yield _event("content_block_stop", index=index)
