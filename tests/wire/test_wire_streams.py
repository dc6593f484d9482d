"""fold(stream) == unary: whatever speaks behind the gateway, a stream says what the unary answer says."""

from __future__ import annotations

import json
import random

import msgspec
import pytest
from dialect_cases import (
    CASES,
    DIALECTS,
    answer,
    answers,
    call,
    channel,
    client_fold,
    client_read,
    reply,
    through,
    upstream_reply,
)
from golden_streams import ENDS, path_of, stream_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from palyra.errors import CODES
from palyra.wire.answer_writer import written
from palyra.wire.dialects import DIALECT_ROWS
from palyra.wire.errors import Malformed, WireError
from palyra.wire.neutral import Dialect, Reasoning, Text
from palyra.wire.neutral_answer import Answer, Delta, Event, Fold, PartEnd, PartStart, events_of
from palyra.wire.target import Target
from palyra.wire.upstream_errors import UpstreamErrorInBody

#: Members that readers look for.
KEYS = (
    "type role content messages input model tools tool_choice text image_url url function name arguments id call_id"
    " choices delta message finish_reason index usage error response item part output output_index stop_reason"
    " content_block thinking signature system reasoning include summary encrypted_content tool_calls"
).split()
PAIRS = [(client, upstream) for client in DIALECTS for upstream in DIALECTS]
cuts = st.lists(st.integers(0, 100_000), max_size=12)


def check(client: Dialect, upstream: Dialect, said: Answer, places: list[int], name: str = "") -> None:
    stream = written(DIALECT_ROWS[upstream].writer(reply(model="up-model")), events_of(said))
    meter = channel(client, upstream).meter(None)
    got = through(meter, stream, places)
    read = channel(client, upstream).read_whole(upstream_reply(upstream, said))
    facts, body = read.facts, read.body
    streamed, whole = client_fold(client, got), client_read(client, body)
    if name == "length_in_a_call" and "messages" in (client, upstream):
        # A whole message holds arguments as an object, so half of one is kept as a text inside.
        assert streamed.stop == whole.stop == "max_tokens"
        return
    assert streamed == whole
    assert meter.finished
    assert meter.error is None
    assert meter.unparsed_count == 0
    assert meter.facts() == facts


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
@settings(max_examples=8)
@given(places=cuts)
def test_a_stream_folds_to_the_unary_answer(
    client: Dialect, upstream: Dialect, name: str, places: list[int]
) -> None:
    """For each pair of dialects and each kind of content, wherever the bytes are cut."""
    check(client, upstream, CASES[name], places, name)


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
@settings(max_examples=40)
@given(said=answers, places=cuts)
@example(said=answer(Reasoning(text="0", vendor="other", raw=b'{"x":1}'), Text(text=" "), call()), places=[])
def test_any_mixture_folds_to_the_unary_answer(
    client: Dialect, upstream: Dialect, said: Answer, places: list[int]
) -> None:
    """Thoughts, text and calls in any mixture, with any characters."""
    check(client, upstream, said, places)


def interleaved(said: Answer, order: random.Random) -> list[Event]:
    """Return the events of an answer whose parts are said piece by piece, one beside the other."""
    starts, ends, rest = [], [], []
    pieces: dict[int, list[Event]] = {}
    for event in events_of(said):
        match event:
            case PartStart():
                starts.append(event)
            case PartEnd():
                ends.append(event)
            case Delta(index=index, text=text):
                pieces.setdefault(index, []).extend(msgspec.structs.replace(event, text=char) for char in text)
            case _:
                rest.append(event)
    deltas = []
    while pieces:
        index = order.choice(sorted(pieces))
        deltas.append(pieces[index].pop(0))
        if not pieces[index]:
            del pieces[index]
    head, *tail = rest
    return [head, *starts, *deltas, *ends, *tail]


@pytest.mark.parametrize("client", DIALECTS)
@pytest.mark.parametrize("upstream", ["chat", "responses"])
@settings(max_examples=20)
@given(order=st.randoms(use_true_random=False), places=cuts)
def test_interleaved_calls_fold_to_the_unary_answer(
    client: Dialect, upstream: Dialect, order: random.Random, places: list[int]
) -> None:
    """Two dialects may say the arguments of several calls at once; each client gets them in its own way."""
    said = CASES["parallel_tools"]
    stream = written(DIALECT_ROWS[upstream].writer(reply(model="up-model")), interleaved(said, order))
    meter = channel(client, upstream).meter(None)
    streamed = client_fold(client, through(meter, stream, places))
    assert streamed == client_read(
        client, channel(client, upstream).read_whole(upstream_reply(upstream, said)).body
    )
    assert (meter.finished, meter.unparsed_count) == (True, 0)


@given(said=answers)
def test_events_fold_to_their_answer(said: Answer) -> None:
    """Cutting a whole answer up and putting it together again loses nothing."""
    folded = Fold()
    for event in events_of(said):
        folded.add(event)
    assert folded.answer() == said


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_golden_stream_is_written_and_read(dialect: Dialect, name: str) -> None:
    """Byte for byte what clients have been given so far; read as a provider's, it says what it said."""
    golden = path_of(dialect, name).read_bytes()
    assert stream_of(dialect, name) == golden
    body = upstream_reply(dialect, CASES[name]).replace(b'"up-model"', b'"public"')
    if (dialect, name) != ("messages", "length_in_a_call"):
        assert client_fold(dialect, golden) == client_read(dialect, body)


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_golden_end_is_written(dialect: Dialect, name: str) -> None:
    """A stream that broke, or was cut at its maximum, ends in its dialect's words, to the byte."""
    assert stream_of(dialect, name) == path_of(dialect, name).read_bytes()


#: What each dialect's streams are made of; a chat has no names for its events.
EVENTS = {
    "chat": {
        *("role", "content", "reasoning_content", "reasoning_details", "refusal", "tool_calls"),
        *("finish_reason", "usage", "error", "[DONE]"),
    },
    "messages": {
        *("message_start", "content_block_start", "content_block_delta", "content_block_stop"),
        *("text_delta", "thinking_delta", "signature_delta", "input_json_delta"),
        *("message_delta", "message_stop", "error"),
    },
    "responses": {
        *("response.created", "response.in_progress", "response.completed", "response.incomplete"),
        *("response.failed", "response.output_item.added", "response.output_item.done"),
        *("response.content_part.added", "response.content_part.done"),
        *("response.output_text.delta", "response.output_text.done"),
        *("response.refusal.delta", "response.refusal.done"),
        *("response.reasoning_summary_part.added", "response.reasoning_summary_part.done"),
        *("response.reasoning_summary_text.delta", "response.reasoning_summary_text.done"),
        *("response.function_call_arguments.delta", "response.function_call_arguments.done"),
    },
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_goldens_hold_every_event(dialect: Dialect) -> None:
    """Each kind of event that a client may get is in one of them, and no other kind is."""
    golden = b"".join(path_of(dialect, name).read_bytes() for name in (*CASES, *ENDS))
    assert {name for name in EVENTS[dialect] if name.encode() not in golden} == set()
    named = {line.removeprefix("event: ") for line in golden.decode().split("\n") if line.startswith("event: ")}
    assert named <= EVENTS[dialect]


@pytest.mark.parametrize("dialect", DIALECTS)
@settings(max_examples=150)
@given(noise=st.binary(max_size=200), place=st.integers(0, 3_000), name=st.sampled_from(sorted(CASES)))
def test_noise_in_a_stream_breaks_nothing(dialect: Dialect, noise: bytes, place: int, name: str) -> None:
    """Whatever arrives: events, an error of the provider's, or a refusal to read on; never anything else."""
    stream = path_of(dialect, name).read_bytes()
    place %= len(stream)
    for client in DIALECTS:
        meter = channel(client, dialect).meter(None)
        try:
            meter.feed(stream[:place] + noise + stream[place:])
            meter.end()
        except Malformed:
            continue
        meter.facts()


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("dialect", DIALECTS)
@settings(max_examples=300)
@given(value=values)
def test_any_json_is_an_answer_or_is_malformed(dialect: Dialect, value: object) -> None:
    """Members of the right names with anything in them, as a whole answer and as an event."""
    body = json.dumps(value).encode()
    for read in (
        lambda reader: reader.read_whole(body),
        lambda reader: reader.read("", body) + reader.finish(),
    ):
        reader = DIALECT_ROWS[dialect].reader(vendor="v", seed="s")
        try:
            list(read(reader))
        except (Malformed, UpstreamErrorInBody):
            continue


@pytest.mark.parametrize("dialect", DIALECTS)
@settings(max_examples=300)
@given(value=st.dictionaries(st.sampled_from(KEYS), values, max_size=6), url=st.text(max_size=30))
def test_any_json_is_a_request_or_is_refused(dialect: Dialect, value: dict[str, object], url: str) -> None:
    """And what was read can be written in every dialect, or is refused by name."""
    said = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:{url}"}}]}
    base = {"input": "x"} if dialect == "responses" else {"messages": [said]}
    codes = []
    try:
        request = DIALECT_ROWS[dialect].read_request(json.dumps({**base, **value}).encode())
        for target in DIALECTS:
            DIALECT_ROWS[target].write_call(request, Target(dialect=target, model="m"))
    except WireError as error:
        codes.append(error.code)
    assert set(codes) <= set(CODES)
