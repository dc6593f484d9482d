"""Answers to translate: one of each kind of content, and any mixture of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import strategies as st

from palyra.usage import TokenUsage
from palyra.wire.answer_reader import fold
from palyra.wire.answer_writer import Reply
from palyra.wire.dialects import DIALECT_ROWS, Channel
from palyra.wire.neutral import Call, Dialect, Part, Reasoning, Refused, Text
from palyra.wire.neutral_answer import Answer, Usage
from palyra.wire.sse import SseSplitter, event_data, event_name
from palyra.wire.stream_meter import StreamMeter
from palyra.wire.target import Target

DIALECTS: list[Dialect] = [*DIALECT_ROWS]  # type: ignore[list-item]
USAGE = Usage(
    usage=TokenUsage(
        input_tokens=40, output_tokens=9, cached_input_tokens=12, cache_write_5m_tokens=5, reasoning_tokens=3
    )
)
THINKING = b'{"type":"thinking","thinking":"Hm.","signature":"c2ln"}'


def call(number: int = 1, arguments: str = '{"city":"Paris"}') -> Call:
    return Call(call_id=f"call_{number}", name=f"tool_{number}", arguments=arguments)


def answer(*parts: Part, stop: str = "end_turn", **more: Any) -> Answer:
    """Return what a model says; a call that was made is why it stopped."""
    if stop == "end_turn" and any(isinstance(part, Call) for part in parts):
        stop = "tool_calls"
    return Answer(response_id="up_1", model="up-model", parts=parts, stop=stop, usage=USAGE, **more)


#: Kinds of content, by name.
CASES: dict[str, Answer] = {
    "text": answer(Text(text="Hello, wörld 👋.")),
    "one_tool": answer(call()),
    "parallel_tools": answer(call(1), call(2), call(3, '{"a":[1,{"b":null}]}')),
    "zero_arguments": answer(call(1, "{}")),
    "text_and_tool": answer(Text(text="Look:"), call()),
    "thinking": answer(Reasoning(text="Hm.", vendor="other", raw=b'{"x":1}'), Text(text="Yes.")),
    "thinking_and_tool": answer(Reasoning(text="Hm.", vendor="other", raw=b'{"x":1}'), call()),
    "refusal": answer(Refused(text="I will not."), stop="refusal"),
    "filtered": answer(Text(text="Well"), stop="content_filter"),
    "length": answer(Text(text="And then"), stop="max_tokens"),
    "length_in_a_call": answer(call(1, '{"ci'), stop="max_tokens"),
    "empty": answer(),
}

texts = st.text(min_size=1, max_size=30)
calls = st.builds(
    lambda number, value: call(number, msgspec.json.encode({"v": value}).decode()), st.integers(1, 99), texts
)
answers = st.builds(
    lambda thoughts, said, made: answer(
        *(Reasoning(text=one, vendor="other", raw=b'{"x":1}') for one in thoughts),
        *(Text(text=one) for one in said),
        *{one.call_id: one for one in made}.values(),
    ),
    st.lists(texts, max_size=1),
    st.lists(texts, max_size=1),
    st.lists(calls, max_size=3),
)


def reply(**changes: Any) -> Reply:
    defaults: dict[str, Any] = {"run_id": "01R", "created_s": 1_700_000_000, "model": "public", "wants_usage": True}
    return Reply(**{**defaults, **changes})


def channel(client: Dialect, upstream: Dialect) -> Channel:
    target = Target(dialect=upstream, model="up-model", vendor="up")
    return Channel(client=client, target=target, reply=reply(), seed="s")


def upstream_reply(dialect: Dialect, said: Answer) -> bytes:
    """Return a whole answer as a provider of a dialect gives it."""
    return DIALECT_ROWS[dialect].write_reply(said, reply(model="up-model"))


def through(meter: StreamMeter, stream: bytes, cuts: list[int]) -> bytes:
    """Return what a client gets of a stream that arrives cut at these places."""
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    out = [meter.feed(stream[start:end]) for start, end in pairwise(places)]
    return b"".join([*out, meter.end(), meter.closing(is_cut=False)])


def client_fold(dialect: Dialect, stream: bytes) -> Answer:
    """Return what a client makes of a stream of its dialect."""
    reader = DIALECT_ROWS[dialect].reader(vendor="up", seed="s")
    events = [
        event
        for block in SseSplitter().feed(stream)
        if event_data(block)
        for event in reader.read(event_name(block), event_data(block))
    ]
    return fold([*events, *reader.finish()])


def client_read(dialect: Dialect, body: bytes) -> Answer:
    """Return what a client makes of a whole answer."""
    return fold(DIALECT_ROWS[dialect].reader(vendor="up", seed="s").read_whole(body))
