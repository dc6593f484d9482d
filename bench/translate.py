"""What translating costs: `python bench/translate.py` prints the best of several rounds.

A history of 100 messages with 20 tools is read and written between each two dialects, and a stream of one-word
events is read and written anew, beside the same stream passed through.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from typing import Any

import msgspec

from palyra.wire.answer_writer import Reply, written
from palyra.wire.dialects import DIALECT_ROWS, Channel
from palyra.wire.neutral import Dialect, Text
from palyra.wire.neutral_answer import Answer, Delta, PartEnd, PartStart, Start, events_of
from palyra.wire.target import Target

_ROUNDS = 5
_SENTENCE = 'The quick brown fox jumps over the lazy dog, says "why not?"\n'
_EVENTS_COUNT = 500


def best_us(run: Callable[[], object], times: int) -> float:
    """Return the time of one call of `run`."""
    return min(timeit.repeat(run, number=times, repeat=_ROUNDS)) / times * 1e6


def history() -> bytes:
    """Return a chat of 100 messages, every fourth one a result of a tool, with 20 tools."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": _SENTENCE}]
    for turn in range(33):
        call = {
            "id": f"call_{turn}",
            "type": "function",
            "function": {"name": f"tool_{turn % 20}", "arguments": '{"city":"Paris","days":3}'},
        }
        messages.append({"role": "user", "content": _SENTENCE * 4})
        messages.append({"role": "assistant", "content": _SENTENCE, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"call_{turn}", "content": _SENTENCE * 2})
    schema = {
        "type": "object",
        "properties": {f"field_{number}": {"type": "string", "description": _SENTENCE} for number in range(5)},
    }
    tools = [
        {
            "type": "function",
            "function": {"name": f"tool_{number}", "description": _SENTENCE, "parameters": schema},
        }
        for number in range(20)
    ]
    return msgspec.json.encode({"model": "m", "messages": messages, "tools": tools, "max_tokens": 1_000})


def target(dialect: Dialect) -> Target:
    return Target(dialect=dialect, model="m", vendor="v")


def reply() -> Reply:
    return Reply(run_id="01R", created_s=1, model="public", wants_usage=True)


def stream(dialect: Dialect) -> bytes:
    """Return a stream of one-word events."""
    whole = Answer(parts=(Text(text="x"),), stop="end_turn")
    head, *_, last = events_of(whole)
    words = [Delta(index=0, text=" word") for _ in range(_EVENTS_COUNT)]
    assert isinstance(head, Start)
    events = [head, PartStart(index=0, kind="text"), *words, PartEnd(index=0), last]
    return written(DIALECT_ROWS[dialect].writer(reply()), events)


def relay(body: bytes, client: Dialect, upstream: Dialect) -> None:
    """Take a whole stream in reads of 4 KiB."""
    meter = Channel(client=client, target=target(upstream), reply=reply(), seed="s").meter(128_000)
    for start in range(0, len(body), 4096):
        meter.feed(body[start : start + 4096])


def main() -> None:
    chat = history()
    neutral = DIALECT_ROWS["chat"].read_request(chat)
    bodies = {dialect: row.write_call(neutral, target(dialect)).body for dialect, row in DIALECT_ROWS.items()}
    names: list[Dialect] = ["chat", "messages", "responses"]
    for source in names:
        body, read = bodies[source], DIALECT_ROWS[source].read_request
        for other in names:
            if other != source:
                write = DIALECT_ROWS[other].write_call
                us = best_us(lambda: write(read(body), target(other)), 20)  # noqa: B023
                print(f"{len(body):>7} bytes, {source} to {other}: {us / 1_000:.2f} ms")
    for upstream in names:
        events = stream(upstream)
        for client in names:
            us = best_us(lambda: relay(events, client, upstream), 5) / _EVENTS_COUNT  # noqa: B023
            print(f"stream of {upstream} for {client}: {us:.2f} us an event")


if __name__ == "__main__":
    main()
