"""Streams that are cut at their maximum, and answers that nobody has counted."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from dialect_cases import DIALECTS, answer, call, channel, client_fold, client_read, reply, upstream_reply

from palyra.usage import TokenUsage
from palyra.wire.answer_writer import written
from palyra.wire.dialects import DIALECT_ROWS, Channel
from palyra.wire.neutral import Dialect, Text
from palyra.wire.neutral_answer import Usage, events_of
from palyra.wire.sse import SseSplitter, event_data


def events_in(stream: bytes) -> list[dict[str, Any]]:
    return [
        json.loads(event_data(block))
        for block in SseSplitter().feed(stream)
        if event_data(block) not in (b"", b"[DONE]")
    ]


def begun(dialect: Dialect, *parts: Any, upto: int = -3) -> bytes:
    """Return a stream as far as its last part is open: without the part's end, the usage and the end."""
    writer = DIALECT_ROWS[dialect].writer(reply(model="up-model"))
    return b"".join(map(writer.write, [*events_of(answer(*parts))][:upto]))


def estimating(client: Dialect, upstream: Dialect) -> Channel:
    """Return a way on which the input is taken to hold 40 tokens."""
    way = channel(client, upstream)
    return way._replace(reply=msgspec.structs.replace(way.reply, input_estimate_tokens=40))


@pytest.mark.parametrize("part", [Text(text="And then"), call(1, '{"ci')])
def test_what_was_being_written_is_told_as_cut(part: Any) -> None:
    """The provider's own items: the one that was open ends as incomplete, with what came of it, in order."""
    meter = channel("responses", "responses").meter(None)
    got = meter.feed(begun("responses", Text(text="Well."), part)) + meter.closing(is_cut=True)
    events = events_in(got)
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    last = events[-1]["response"]
    assert last["output"] == done
    assert [item["status"] for item in last["output"]] == ["completed", "incomplete"]
    assert (last["status"], last["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    said = client_read("responses", json.dumps(last).encode())
    assert said.parts[1] == part
    assert client_fold("responses", got).parts == said.parts


def test_what_nobody_saw_begin_is_not_told() -> None:
    """Deltas of an item that was never announced have no item to end."""
    meter = channel("responses", "responses").meter(None)
    head = begun("responses", upto=1)
    stray = b'data: {"type":"response.output_text.delta","output_index":0,"delta":"x"}\n\n'
    loose = b'data: {"type":"response.content_part.added","output_index":1,"part":{"type":"output_text"}}\n\n'
    events = events_in(meter.feed(head + stray + loose) + meter.closing(is_cut=True))
    assert events[-1]["response"]["output"] == []


@pytest.mark.parametrize("stop", ["max_tokens", "content_filter", "end_turn"])
def test_an_item_is_incomplete_where_the_answer_is(stop: str) -> None:
    """The last one was being written when the answer ended; a stream says so as a whole answer does."""
    said = answer(Text(text="Well."), Text(text="And then"), stop=stop)
    whole = json.loads(DIALECT_ROWS["responses"].write_reply(said, reply()))
    events = events_in(written(DIALECT_ROWS["responses"].writer(reply()), events_of(said)))
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == whole["output"] == events[-1]["response"]["output"]
    last = "completed" if stop == "end_turn" else "incomplete"
    assert [item["status"] for item in done] == ["completed", last]


@pytest.mark.parametrize("client", DIALECTS)
@pytest.mark.parametrize("upstream", DIALECTS)
def test_a_cut_stream_tells_what_was_counted_here(client: Dialect, upstream: Dialect) -> None:
    """Its provider never came to say; a client that asked gets the estimate, not zeros."""
    meter = estimating(client, upstream).meter(None)
    text = "word " * 50
    got = meter.feed(begun(upstream, Text(text=text))) + meter.closing(is_cut=True)
    read = client_fold(client, got)
    assert read.usage is not None
    assert read.usage.usage.output_tokens == meter.facts().output_tokens_estimate
    # Anthropic's says it at once: here nothing.
    assert read.usage.usage.input_tokens == (0 if upstream == "messages" else 40)


def test_every_choice_that_was_open_is_cut() -> None:
    """One that had ended keeps its end; the chunk names when the answer was made."""
    way = channel("chat", "chat")
    meter, incurious = way.meter(None), way._replace(reply=reply(wants_usage=False)).meter(None)
    head = '"id":"c","object":"chat.completion.chunk","created":7,"model":"up-model"'
    first = f'data: {{{head},"choices":[{{"index":0,"delta":{{"content":"a"}},"finish_reason":"stop"}}]}}\n\n'
    second = f'data: {{{head},"choices":[{{"index":1,"delta":{{"content":"b"}},"finish_reason":null}}]}}\n\n'
    assert meter.feed((first + second).encode()) == incurious.feed((first + second).encode())
    *cut, usage = events_in(meter.closing(is_cut=True))
    assert events_in(incurious.closing(is_cut=True)) == cut
    assert [(one["created"], one["choices"][0]["index"]) for one in cut] == [(7, 1)]
    assert (cut[0]["model"], cut[0]["choices"][0]["finish_reason"]) == ("public", "length")
    assert usage["usage"]["completion_tokens"] == meter.facts().output_tokens_estimate


PAIRS = [(client, upstream) for client in DIALECTS for upstream in DIALECTS if client != upstream]


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_an_answer_without_counts_is_counted_here(client: Dialect, upstream: Dialect) -> None:
    """In another dialect the counts have to stand there."""
    way = estimating(client, upstream)
    body = json.loads(upstream_reply(upstream, answer(Text(text="Hello there."))))
    del body["usage"]
    read = way.read_whole(json.dumps(body).encode())
    told = client_read(client, read.body).usage
    assert told is not None
    assert told.usage == TokenUsage(input_tokens=40, output_tokens=read.facts.output_tokens_estimate)
    assert read.facts.usage is None


@pytest.mark.parametrize("client", ["messages", "responses"])
def test_a_stream_without_counts_is_counted_here(client: Dialect) -> None:
    """As a whole answer is: many servers of the older dialect count no streams."""
    said = msgspec.structs.replace(answer(Text(text="Hello there.")), usage=None)
    stream = written(DIALECT_ROWS["chat"].writer(reply(model="up-model", wants_usage=False)), events_of(said))
    meter = estimating(client, "chat").meter(None)
    told = client_fold(client, meter.feed(stream) + meter.end() + meter.closing(is_cut=False)).usage
    assert told is not None
    assert told.usage == TokenUsage(input_tokens=40, output_tokens=meter.facts().output_tokens_estimate)
    assert meter.facts().usage is None


def test_thoughts_are_counted_in_anthropics_words() -> None:
    """Of the output; a client of that dialect is told of them, and of none where there were none."""
    body = json.loads(upstream_reply("messages", answer(Text(text="x"))))
    body["usage"]["output_tokens_details"] = {"thinking_tokens": 4}
    read = client_read("messages", json.dumps(body).encode())
    assert read.usage is not None
    assert read.usage.usage.reasoning_tokens == 4
    plain = Usage(usage=TokenUsage(input_tokens=1, output_tokens=1))
    silent = DIALECT_ROWS["messages"].write_reply(msgspec.structs.replace(read, usage=plain), reply())
    assert b"thinking_tokens" not in silent
