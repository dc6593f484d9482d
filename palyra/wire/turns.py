"""Turns in the order that a strict dialect demands: roles alternate, and a turn's calls are answered in the next.

Anthropic refuses a conversation in which neighbours have one role, a call has no result, or a result does not come
first; the other dialects allow all of it. Nothing is taken away here but empty texts (gateway specification 12.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from palyra.wire.neutral import Call, Message, Part, Refused, Result, Text

#: What a call is answered with that its client left open.
NO_RESULT = "no result"


class Turn(msgspec.Struct):
    role: Literal["user", "assistant"]
    parts: list[Part]


def strict_turns(messages: Sequence[Message]) -> list[Turn]:
    """Return the messages as alternating turns with every call answered first thing in the turn behind it."""
    turns: list[Turn] = []
    for message in messages:
        parts = [part for part in message.parts if not _is_empty(part)]
        if not parts:
            continue
        if turns and turns[-1].role == message.role:
            turns[-1].parts += parts
        else:
            turns.append(Turn(role=message.role, parts=parts))
    for index, turn in enumerate(turns):
        calls = [part for part in turn.parts if isinstance(part, Call)]
        if turn.role != "assistant" or not calls:
            continue
        if index + 1 == len(turns):
            turns.append(Turn(role="user", parts=[]))
        turns[index + 1].parts = _answered(calls, turns[index + 1].parts)
    return turns


def _is_empty(part: Part) -> bool:
    return isinstance(part, Text | Refused) and not part.text


def _answered(calls: Sequence[Call], parts: Sequence[Part]) -> list[Part]:
    """Return a user's turn: the results of the calls in their order, then everything else."""
    results: dict[str, Part] = {}
    rest: list[Part] = []
    open_ids = {call.call_id: None for call in calls}
    for part in parts:
        if isinstance(part, Result) and part.call_id in open_ids and part.call_id not in results:
            results[part.call_id] = part
        else:
            rest.append(part)
    missing = (Text(text=NO_RESULT),)
    answered = [results.get(call_id, Result(call_id=call_id, parts=missing, is_error=True)) for call_id in open_ids]
    return [*answered, *rest]
