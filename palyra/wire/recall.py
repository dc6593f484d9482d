"""Thoughts that a client has lost are put back where they belong: first in the turn whose calls they led to."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from palyra.wire.neutral import Call, Message, NeutralRequest, Reasoning

#: Returns what was thought before a call, () where it is not known.
Recall = Callable[[str], tuple[Reasoning, ...]]


def with_recalled(request: NeutralRequest, recall: Recall) -> NeutralRequest:
    """Return a request with the reasoning of its turns of tool calls, where the client left it out."""
    messages: list[Message] = []
    turn_start: int | None = None
    has_thoughts = has_recalled = False
    for message in request.messages:
        if message.role == "user":
            turn_start, has_thoughts = None, False
            messages.append(message)
            continue
        if turn_start is None:
            turn_start = len(messages)
        messages.append(message)
        has_thoughts = has_thoughts or any(isinstance(part, Reasoning) for part in message.parts)
        first = next((part for part in message.parts if isinstance(part, Call)), None)
        if first is None or has_thoughts:
            continue
        blocks = recall(first.call_id)
        has_thoughts = True
        if blocks:
            has_recalled = True
            messages.insert(turn_start, Message(role="assistant", parts=blocks))
    return msgspec.structs.replace(request, messages=tuple(messages)) if has_recalled else request
