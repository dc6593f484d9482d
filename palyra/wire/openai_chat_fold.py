"""A chat answer in its two forms: the events of a stream folded into a whole answer, and cut into events again.

Fields that are not known here come along: a text goes on, an object is merged, anything else replaces what was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from palyra.usage import TokenUsage
from palyra.wire.chat_reply import DONE
from palyra.wire.decoding import read_or_none
from palyra.wire.sse import blocks_of, encode_event, event_data
from palyra.wire.usage_written import chat_usage

_CHUNK = msgspec.json.Decoder(dict[str, Any])
_OF_CHOICES = ("choices", "usage", "object")
#: Parts of a tool call that are said once, however often they are repeated.
_NOT_CONTINUED = ("role", "id", "type", "name")


def fold_chat(stream: bytes, usage: TokenUsage | None) -> bytes | None:
    """Return the whole answer that a relayed stream makes up; None where an event of it cannot be read.

    `usage` is written where the stream itself, whose client did not ask for it, has none.
    """
    head: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    reported: Any = None if usage is None else chat_usage(usage)
    for block in blocks_of(stream):
        data = event_data(block)
        if not data or data == b"[DONE]":
            continue
        chunk = read_or_none(_CHUNK, data)
        if chunk is None:
            return None
        head.update({name: value for name, value in chunk.items() if name not in _OF_CHOICES})
        reported = chunk.get("usage") or reported
        for choice in chunk.get("choices") or ():
            if not isinstance(choice, dict) or not isinstance(choice.get("index", 0), int):
                return None
            _fold_choice(choices, choice)
    if not choices:
        return None
    whole = {**head, "object": "chat.completion", "choices": [choices[index] for index in sorted(choices)]}
    return msgspec.json.encode(whole if reported is None else {**whole, "usage": reported})


def _fold_choice(choices: dict[int, dict[str, Any]], choice: dict[str, Any]) -> None:
    index = choice.get("index", 0)
    whole = choices.setdefault(
        index, {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None}
    )
    for name, value in choice.items():
        if name == "delta":
            if isinstance(value, dict):
                _merge(whole["message"], value)
        elif name != "index" and value is not None:
            whole[name] = _joined(whole.get(name), value) if name == "logprobs" else value


def _merge(whole: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls" and isinstance(value, list):
            whole[name] = _with_calls(whole.get(name) or [], value)
        elif name in _NOT_CONTINUED:
            whole[name] = value or whole.get(name)
        else:
            whole[name] = _joined(whole.get(name), value)


def _joined(before: Any, after: Any) -> Any:
    if before is None or after is None:
        return before if after is None else after
    if isinstance(before, dict) and isinstance(after, dict):
        joined = dict(before)
        _merge(joined, after)
        return joined
    if type(before) is type(after) and isinstance(after, (str, list)):
        return before + after
    return after


def _with_calls(calls: list[Any], deltas: list[Any]) -> list[Any]:
    """Return tool calls with what an event adds; a call without a number goes on the last one, or is a new one."""
    calls = list(calls)
    for delta in deltas:
        if not isinstance(delta, dict):
            continue
        more = {name: value for name, value in delta.items() if name != "index"}
        number = delta.get("index", len(calls) if "id" in delta else max(len(calls) - 1, 0))
        if isinstance(number, int) and 0 <= number < len(calls):
            calls[number] = _joined(calls[number], more)
        else:
            calls.append(more)
    return calls


def cut_chat(whole: bytes, *, wants_usage: bool) -> bytes:
    """Return a whole answer as the events of a stream, to the last."""
    return b"".join(_events(msgspec.json.decode(whole), wants_usage)) + DONE


def _events(whole: dict[str, Any], wants_usage: bool) -> Iterator[bytes]:
    head = {name: value for name, value in whole.items() if name not in _OF_CHOICES}
    head["object"] = "chat.completion.chunk"

    def event(index: int, delta: dict[str, Any], **more: Any) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": None, **more}
        return encode_event(msgspec.json.encode({**head, "choices": [choice]}))

    for choice in whole["choices"]:
        message = dict(choice["message"])
        said = {name: value for name, value in message.items() if name != "role" and value is not None}
        if isinstance(calls := said.get("tool_calls"), list):
            said["tool_calls"] = [{"index": number, **call} for number, call in enumerate(calls)]
        yield event(choice["index"], {"role": message.get("role", "assistant"), "content": ""})
        logprobs = {} if choice.get("logprobs") is None else {"logprobs": choice["logprobs"]}
        if said:
            yield event(choice["index"], said, **logprobs)
        yield event(choice["index"], {}, finish_reason=choice["finish_reason"])
    if wants_usage and whole.get("usage") is not None:
        yield encode_event(msgspec.json.encode({**head, "choices": [], "usage": whole["usage"]}))
