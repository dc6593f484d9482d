"""OpenAI's newer wire format for the upstream on loopback: a `upstream.Behaviour` as that provider would say it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upstream import Behaviour

#: What reasoning is sealed with here; it must come back as it was given out.
ENCRYPTED = "gAAAAABupstream-encrypted=="


def response(behaviour: Behaviour, asked: dict[str, Any]) -> dict[str, Any]:
    """Return a whole answer."""
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(behaviour.finish_reason or "")
    return {
        "id": "resp_upstream",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": "incomplete" if reason else "completed",
        "error": None,
        "incomplete_details": {"reason": reason} if reason else None,
        "model": asked["model"],
        "output": list(_items(behaviour)),
        "parallel_tool_calls": True,
        "service_tier": behaviour.service_tier or None,
        "tool_choice": "auto",
        "tools": asked.get("tools", []),
        "usage": {
            "input_tokens": behaviour.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": behaviour.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": behaviour.prompt_tokens + behaviour.completion_tokens,
            **behaviour.usage_details,
        },
    }


def _items(behaviour: Behaviour) -> Iterator[dict[str, Any]]:
    if behaviour.reasoning:
        summary = [{"type": "summary_text", "text": behaviour.reasoning}]
        yield {"type": "reasoning", "id": "rs_1", "summary": summary, "encrypted_content": ENCRYPTED}
    if behaviour.text:
        part = {"type": "output_text", "text": behaviour.text, "annotations": [], "logprobs": []}
        yield {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    for call_id, name, arguments in behaviour.tool_calls:
        head = {"type": "function_call", "id": f"fc_{call_id}", "call_id": call_id, "status": "completed"}
        yield {**head, "name": name, "arguments": arguments or "{}"}


def events(behaviour: Behaviour, asked: dict[str, Any]) -> Iterator[bytes]:
    """Yield the events of a stream."""
    numbers = count()

    def event(name: str, **members: Any) -> bytes:
        data = json.dumps({"type": name, "sequence_number": next(numbers), **members})
        return f"event: {name}\ndata: {data}\n\n".encode()

    whole = response(behaviour, asked)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    begun["service_tier"] = asked.get("service_tier", "auto")
    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    for index, item in enumerate(whole["output"]):
        at = {"item_id": item["id"], "output_index": index}
        if item["type"] == "message":
            part = item["content"][0]
            yield event("response.output_item.added", output_index=index, item={**item, "content": []})
            empty = {**part, "text": ""}
            yield event("response.content_part.added", **at, content_index=0, part=empty)
            words = part["text"].split(" ")
            for piece in behaviour.chunks or [*(f"{word} " for word in words[:-1]), words[-1]]:
                yield event("response.output_text.delta", **at, content_index=0, delta=piece, logprobs=[])
            yield event("response.output_text.done", **at, content_index=0, text=part["text"], logprobs=[])
            yield event("response.content_part.done", **at, content_index=0, part=part)
        elif item["type"] == "reasoning":
            yield event("response.output_item.added", output_index=index, item={**item, "summary": []})
            text = item["summary"][0]["text"]
            yield event("response.reasoning_summary_part.added", **at, summary_index=0, part=item["summary"][0])
            yield event("response.reasoning_summary_text.delta", **at, summary_index=0, delta=text)
            yield event("response.reasoning_summary_text.done", **at, summary_index=0, text=text)
            yield event("response.reasoning_summary_part.done", **at, summary_index=0, part=item["summary"][0])
        else:
            yield event("response.output_item.added", output_index=index, item={**item, "arguments": ""})
            half = len(item["arguments"]) // 2
            for piece in (item["arguments"][:half], item["arguments"][half:]):
                yield event("response.function_call_arguments.delta", **at, delta=piece)
            yield event("response.function_call_arguments.done", **at, arguments=item["arguments"])
        yield event("response.output_item.done", output_index=index, item=item)
    if behaviour.done:
        yield event(f"response.{whole['status']}", response=whole)
