"""Answers of providers, read with all their oddities, and the rare ends of streams in each dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dialect_cases import CASES, DIALECTS, THINKING, answer, call, channel, client_fold, client_read, reply, through

from palyra.errors import Refusal
from palyra.usage import TokenUsage
from palyra.wire.answer_reader import fold
from palyra.wire.answer_writer import written
from palyra.wire.cargo import fit_id, pack, seal, unpack, unseal
from palyra.wire.chat_answer import ChatReader, read_chat_answer
from palyra.wire.dialects import DIALECT_ROWS, stream_of_whole, whole_of_stream
from palyra.wire.errors import Malformed
from palyra.wire.freeform import Unwrapping
from palyra.wire.messages_answer import read_messages_answer
from palyra.wire.messages_errors import messages_error_envelope
from palyra.wire.messages_reply import MessagesWriter
from palyra.wire.neutral import (
    Blob,
    Call,
    Dialect,
    Foreign,
    Image,
    Message,
    NeutralRequest,
    Reasoning,
    Refused,
    Text,
)
from palyra.wire.neutral_answer import Delta, Finish, PartEnd, PartStart, Start, Usage, derive_stop, events_of
from palyra.wire.recall import with_recalled
from palyra.wire.reply_facts import facts_of
from palyra.wire.responses_answer import read_responses_answer
from palyra.wire.upstream_errors import UpstreamErrorInBody, read_upstream_error
from palyra.wire.usage import read_messages_usage

ENVELOPE: dict[str, Any] = {
    "error": {"message": "it broke", "type": "server_error", "param": None, "code": "stream_truncated"},
    "palyra": {"run_id": "01R"},
}


def sse(*events: dict[str, Any] | str) -> bytes:
    return b"".join(f"data: {one if isinstance(one, str) else json.dumps(one)}\n\n".encode() for one in events)


def chunk(delta: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "c", "model": "up-model", "choices": [{"index": 0, "delta": delta or {}, **more}]}


def parts_of(*events: dict[str, Any] | str) -> tuple[Any, ...]:
    """Return what a chat stream says."""
    return client_fold("chat", sse(*events)).parts


# -- chat, as many servers speak it


def test_calls_without_index_or_id_are_told_apart() -> None:
    """A name begins another call, arguments without one go on; ids are made of run and place."""
    read = parts_of(
        chunk({"tool_calls": [{"function": {"name": "a", "arguments": '{"x":'}}]}),
        chunk({"tool_calls": [{"function": {"arguments": "1}"}}]}),
        chunk({"tool_calls": [{"function": {"name": "b", "arguments": {"y": 2}}}]}),
        chunk(finish_reason="stop"),
        "[DONE]",
    )
    assert [(one.name, one.arguments) for one in read] == [("a", '{"x":1}'), ("b", '{"y":2}')]
    assert len({one.call_id for one in read}) == 2
    assert all(one.call_id.startswith("call_") for one in read)


def test_a_server_that_numbers_every_call_0() -> None:
    """Whole calls with ids of their own are calls of their own."""
    one = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}
    other = {"index": 0, "id": "b", "function": {"name": "f", "arguments": "{}"}}
    read = parts_of(chunk({"tool_calls": [one]}), chunk({"tool_calls": [other]}), chunk(finish_reason=""), "[DONE]")
    assert [said.call_id for said in read] == ["a", "b"]


def test_interleaved_calls_keep_their_arguments() -> None:
    """By index, whatever the order."""

    def piece(index: int, **function: str) -> dict[str, Any]:
        return chunk(
            {
                "tool_calls": [
                    {"index": index, "id": f"i{index}" if "name" in function else None, "function": function}
                ]
            }
        )

    events = [
        piece(0, name="a"),
        piece(1, name="b"),
        piece(0, arguments='{"a"'),
        piece(1, arguments="{}"),
        piece(0, arguments=":1}"),
        chunk(finish_reason="tool_calls"),
        "[DONE]",
    ]
    assert [(one.name, one.arguments) for one in parts_of(*events)] == [("a", '{"a":1}'), ("b", "{}")]
    stream = through(channel("messages", "chat").meter(None), sse(*events), [])
    assert [(one.name, one.arguments) for one in client_fold("messages", stream).parts] == [
        ("a", '{"a":1}'),
        ("b", "{}"),
    ]
    assert stream.count(b"event: content_block_start") == 2


def test_old_calls_custom_calls_and_content_in_parts() -> None:
    """A function call is a call, a custom one takes text, parts of content are one text."""
    whole = {
        "choices": [
            {
                "message": {
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, 3],
                    "function_call": {"name": "f", "arguments": "{}"},
                    "tool_calls": [{"id": "x", "custom": {"name": "sh", "input": "ls"}}],
                },
                "finish_reason": "function_call",
            },
            {"index": 1, "message": {"content": "other"}},
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "cost": 0.001},
    }
    read = read_chat_answer(json.dumps(whole).encode())
    text, custom, function = read.parts
    assert (text, read.stop, read.raw_stop) == (Text(text="ab"), "tool_calls", "function_call")
    assert isinstance(custom, Call)
    assert isinstance(function, Call)
    assert (custom.is_freeform, custom.arguments, function.name) == (True, "ls", "f")
    assert read.usage is not None
    assert read.usage.cost_nanousd == 1_000_000


def test_reasoning_of_other_names_and_of_other_gateways() -> None:
    """`reasoning` is kept under its own name; what another gateway sealed keeps its vendor."""
    read = parts_of(chunk({"reasoning": "Hm"}), chunk({"reasoning": "m."}), chunk({"content": "y"}), "[DONE]")
    assert read[0] == Reasoning(text="Hmm.", vendor="up", raw=b'{"reasoning":"Hmm."}')
    details = [{"type": "palyra.opaque", "vendor": v, "data": pack(b"{}")} for v in ("a", "b")]
    odd = [{"type": "palyra.opaque", "vendor": "c", "data": "?"}, {"type": "other"}, 3]
    sealed = parts_of(chunk({"reasoning_details": [*details, *odd]}), chunk({"content": "y"}), "[DONE]")
    assert [(one.vendor, one.raw) for one in sealed[:2]] == [("a", b"{}"), ("b", b"{}")]
    seen = parts_of(chunk({"reasoning_content": "Hm"}), chunk({"reasoning_details": details[:1]}), "[DONE]")
    assert seen == (Reasoning(text="Hm", vendor="a", raw=b"{}"),)


def test_usage_on_any_chunk_counts() -> None:
    """The last one holds, under whatever name; groq's too."""
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    for closing in (
        [chunk({"content": "y"}), {**chunk(finish_reason="stop"), "usage": usage}],
        [
            {**chunk({"content": "y"}), "usage": {"prompt_tokens": 7}},
            {**chunk(finish_reason="stop"), "x_groq": {"usage": usage}},
        ],
        [chunk({"content": "y"}), chunk(finish_reason="stop"), {"choices": [], "usage": usage}],
    ):
        read = client_fold("chat", sse(*closing, "[DONE]"))
        assert read.usage is not None
        assert read.usage.usage == TokenUsage(input_tokens=7, output_tokens=3)
    told_once = {**chunk({"content": "y"}), "service_tier": "flex"}
    tiered = client_fold("chat", sse(told_once, {**chunk(finish_reason="stop"), "usage": usage}, "[DONE]"))
    assert tiered.usage is not None
    assert tiered.usage.service_tier == "flex"
    nothing = client_fold(
        "chat", sse(chunk({"content": "y"}), {**chunk(), "usage": {"prompt_tokens": -1}}, "[DONE]")
    )
    assert nothing.usage == Usage(usage=TokenUsage(), anomalies=("usage_invalid_value",))


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        ("chat", b"<html>"),
        ("chat", b'{"id":"x"}'),
        ("messages", b"[]"),
        ("messages", b'{"type":"message"}'),
        ("responses", b"[]"),
        ("responses", b'{"object":"response"}'),
    ],
)
def test_what_is_no_answer_is_malformed(dialect: Dialect, body: bytes) -> None:
    """Whatever a provider sends behind a 200."""
    with pytest.raises(Malformed):
        DIALECT_ROWS[dialect].reader(vendor="", seed="").read_whole(body)
    with pytest.raises(Malformed):
        DIALECT_ROWS[dialect].reader(vendor="", seed="").read("", b"[1]")


@pytest.mark.parametrize(
    ("dialect", "name", "data", "status"),
    [
        ("chat", "", {"error": {"message": "x", "type": "rate_limit_error"}}, 429),
        ("chat", "error", {"message": "x", "code": 503}, 503),
        ("messages", "error", {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, 529),
        ("responses", "error", {"type": "error", "code": "rate_limit_exceeded", "message": "x"}, 429),
        (
            "responses",
            "",
            {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "x"}}},
            500,
        ),
    ],
)
def test_errors_behind_a_200_are_errors(dialect: Dialect, name: str, data: dict[str, Any], status: int) -> None:
    """In a stream and as the whole answer, with the status that they stand for."""
    with pytest.raises(UpstreamErrorInBody) as caught:
        DIALECT_ROWS[dialect].reader(vendor="", seed="").read(name, json.dumps(data).encode())
    assert caught.value.error.status == status
    for broken in DIALECTS:
        with pytest.raises(UpstreamErrorInBody):
            DIALECT_ROWS[broken].reader(vendor="", seed="").read("error", b"it broke")
    whole = {"chat": data, "messages": data, "responses": data.get("response", data)}[dialect]
    if dialect != "responses" or "error" in whole:
        body = whole if dialect != "chat" or "error" in whole else {"object": "error", **whole}
        with pytest.raises(UpstreamErrorInBody):
            DIALECT_ROWS[dialect].reader(vendor="", seed="").read_whole(json.dumps(body).encode())


# -- messages and responses


def test_blocks_that_only_anthropic_has() -> None:
    """They are kept whole, mean nothing elsewhere, and pass through where the client speaks the dialect."""
    block = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    whole = {
        "id": "m",
        "model": "up-model",
        "content": [block, 3, {"type": "text", "text": "y"}],
        "stop_reason": "pause_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1, "server_tool_use": {"web_search_requests": 2}},
    }
    read = read_messages_answer(json.dumps({"type": "message", **whole}).encode())
    assert [type(part).__name__ for part in read.parts] == ["Foreign", "Foreign", "Text"]
    assert read.stop == "pause"
    assert read.usage is not None
    assert read.usage.usage.search_count == 2
    assert facts_of(read).output_tokens_estimate > 5
    body = DIALECT_ROWS["messages"].write_reply(read, reply())
    assert json.loads(body)["content"][0] == block
    for dialect in DIALECTS:
        stream = written(DIALECT_ROWS[dialect].writer(reply()), events_of(read))
        assert (b"server_tool_use" in stream) == (dialect != "chat")
    assert whole_of_stream("messages", stream_of_whole("messages", body, lambda model: reply()), reply()) is None


def test_a_block_that_begins_with_its_text() -> None:
    """What stands in the start of a block is said; a delta for no block is malformed, an unknown one is nothing."""
    reader = DIALECT_ROWS["messages"].reader(vendor="", seed="s")

    def event(**members: Any) -> list[Any]:
        return reader.read("", json.dumps(members).encode())

    assert event(type="content_block_start", index=0, content_block={"type": "text", "text": "a"})[1] == Delta(
        index=0, text="a"
    )
    assert event(type="content_block_delta", index=0, delta={"type": "citations_delta"}) == []
    assert event(type="content_block_stop", index=9) == []
    assert event(type="vnew") == []
    with pytest.raises(Malformed):
        event(type="content_block_delta", index=4, delta={"type": "text_delta", "text": "x"})
    (start,) = event(
        type="content_block_start", index=1, content_block={"type": "tool_use", "name": "f", "input": {"a": 1}}
    )
    assert start.call_id.startswith("toolu_")
    assert event(type="content_block_stop", index=1)[0] == Delta(index=1, text='{"a":1}')
    assert event(type="message_delta", delta={}, usage={"output_tokens": 3})[0].usage.output_tokens == 3
    assert reader.finish() == []
    ends = event(type="message_stop")
    assert ends[-1] == Finish(stop="tool_calls", raw_stop="", dropped=("citations",))
    assert reader.finish() == []


def test_redacted_thoughts_are_cargo_alone() -> None:
    """Nothing is to be seen of them, and they go back as they came."""
    block = {"type": "redacted_thinking", "data": "cmVk"}
    read = read_messages_answer(
        json.dumps({"type": "message", "content": [block], "stop_reason": "end_turn"}).encode()
    )
    (thoughts,) = read.parts
    assert isinstance(thoughts, Reasoning)
    assert (thoughts.text, json.loads(thoughts.raw)) == ("", block)
    stream = written(MessagesWriter(reply()), events_of(read))
    assert b'"content_block":{"type":"redacted_thinking","data":"cmVk"}' in stream
    again = client_fold("messages", stream)
    assert (
        again.parts == read_messages_answer(DIALECT_ROWS["messages"].write_reply(read, reply()), vendor="up").parts
    )
    own = answer(Reasoning(text="Hm.", vendor="anthropic", raw=THINKING), Text(text="y"))
    assert b'"signature":"c2ln"' in written(MessagesWriter(reply()), events_of(own))
    assert json.loads(DIALECT_ROWS["messages"].write_reply(own, reply()))["content"][0]["signature"] == "c2ln"
    bare = answer(Reasoning(text="Hm."))
    assert b'"signature":""' in written(MessagesWriter(reply()), events_of(bare))
    assert json.loads(DIALECT_ROWS["messages"].write_reply(bare, reply()))["content"][0]["signature"] == ""


def test_responses_are_read_without_deltas() -> None:
    """Items that come whole, pieces that were not announced, summaries in paragraphs, kinds that nobody knows."""

    def event(name: str, **members: Any) -> dict[str, Any]:
        return {"type": f"response.{name}", **members}

    message = {
        "type": "message",
        "content": [
            {"type": "output_text", "text": "a"},
            {"type": "refusal", "refusal": "no"},
            {"type": "output_text", "text": ""},
        ],
    }
    reasoning = {"type": "reasoning", "summary": [{"text": "One."}, {"text": "Two."}], "encrypted_content": "g"}
    stream = sse(
        event("created", response={"id": "r", "model": "up-model"}),
        event("in_progress", response={"id": "r"}),
        event("output_item.done", output_index=0, item=reasoning),
        event("output_item.added", output_index=1, item=message),
        event("output_item.done", output_index=1, item=message),
        event("output_text.delta", output_index=2, content_index=0, delta="b"),
        event("refusal.delta", output_index=2, content_index=1, delta="c"),
        event("content_part.done", output_index=2, content_index=0, part={"text": "b"}),
        event("output_item.done", output_index=2, item={**message, "content": message["content"][:1]}),
        event("output_item.done", output_index=3, item={"type": "web_search_call"}),
        event("output_item.added", output_index=4, item={"type": "function_call", "name": "f", "namespace": "n"}),
        event("function_call_arguments.delta", output_index=4, delta=""),
        event("output_item.done", output_index=4, item={"type": "function_call", "arguments": "{}"}),
        event("output_item.done", output_index=5, item={"type": "custom_tool_call", "call_id": "x", "input": "ls"}),
        event("reasoning_summary_text.delta", output_index=6, summary_index=0, delta="1"),
        event("reasoning_summary_text.delta", output_index=6, summary_index=1, delta="2"),
        event(
            "output_item.done", output_index=6, item={"type": "reasoning", "encrypted_content": seal("v", b"{}")}
        ),
        event("completed", response={"id": "r", "status": "completed", "usage": {"input_tokens": 1}}),
    )
    read = client_fold("responses", stream)
    kinds = [type(part).__name__ for part in read.parts]
    assert kinds == ["Reasoning", "Text", "Refused", "Text", "Refused", "Foreign", "Call", "Call", "Reasoning"]
    assert read.parts[0].text == "One.\n\nTwo."  # type: ignore[union-attr]
    assert read.parts[8] == Reasoning(text="1\n\n2", vendor="v", raw=b"{}")
    assert read.parts[6].name == "n__f"  # type: ignore[union-attr]
    assert read.stop == "tool_calls"
    assert read.usage is not None
    assert read.usage.anomalies == ("usage_output_missing",)
    incomplete = {"output": [], "status": "incomplete", "incomplete_details": {"reason": "odd"}}
    assert read_responses_answer(json.dumps(incomplete).encode()).stop == "unknown"
    assert read_responses_answer(json.dumps({**incomplete, "incomplete_details": None}).encode()).stop == "unknown"
    assert DIALECT_ROWS["responses"].reader(vendor="", seed="").finish() == []


# -- writing


@pytest.mark.parametrize("client", DIALECTS)
@pytest.mark.parametrize("upstream", DIALECTS)
def test_an_answer_that_outgrows_its_maximum_is_cut(client: Dialect, upstream: Dialect) -> None:
    """What was open is closed, and the client reads that it is not all."""
    said = answer(Text(text="word " * 2_000))
    stream = written(DIALECT_ROWS[upstream].writer(reply(model="up-model")), events_of(said))
    meter = channel(client, upstream).meter(10)
    cut_at = stream.rindex(b"word ")
    got = meter.feed(stream[: cut_at if b"delta" in stream[:cut_at] else len(stream)])
    end = stream.find(b"\n\n", stream.find(b"word word")) + 2
    meter = channel(client, upstream).meter(10)
    got = meter.feed(stream[:end])
    assert meter.outgrown
    assert not meter.finished
    read = client_fold(client, got + meter.closing(is_cut=True))
    assert read.stop == "max_tokens"
    assert meter.facts().stop == "unknown"


@pytest.mark.parametrize("client", DIALECTS)
@pytest.mark.parametrize("upstream", DIALECTS)
def test_a_stream_that_breaks_ends_in_the_clients_words(client: Dialect, upstream: Dialect) -> None:
    """An error event of the dialect, behind what was said so far."""
    stream = written(DIALECT_ROWS[upstream].writer(reply(model="up-model")), events_of(CASES["text_and_tool"]))
    meter = channel(client, upstream).meter(None)
    got = meter.feed(stream[: len(stream) // 2]) + meter.end()
    envelope = ENVELOPE
    if client == "messages":
        envelope = messages_error_envelope(Refusal(code="stream_truncated", message="it broke"), run_id="01R")
    with pytest.raises(UpstreamErrorInBody) as caught:
        client_fold(client, got + meter.failing(envelope))
    assert "it broke" in caught.value.error.message
    fresh = DIALECT_ROWS[client].writer(reply()).fail(envelope)
    with pytest.raises(UpstreamErrorInBody):
        client_fold(client, fresh)


@pytest.mark.parametrize("client", DIALECTS)
def test_an_error_event_ends_the_relay(client: Dialect) -> None:
    """It and all that follows is withheld; the engine tells the client."""
    for upstream in DIALECTS:
        meter = channel(client, upstream).meter(None)
        stream = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x"}}\n\n'
        assert meter.feed(stream + stream) == b""
        assert meter.end() == b""
        assert meter.error is not None
        assert meter.error.status == 529


@pytest.mark.parametrize("dialect", ["messages", "responses"])
def test_what_cannot_be_read_passes_or_is_counted(dialect: Dialect) -> None:
    """The client of the same dialect may understand it; another one cannot be told. A cut event is neither."""
    odd = b": hello\n\nevent: odd\ndata: {not json\n\n"
    same = channel(dialect, dialect).meter(None)
    assert same.feed(odd) == odd
    other = channel("chat", dialect).meter(None)
    assert other.feed(odd) == b""
    assert (same.unparsed_count, other.unparsed_count) == (1, 1)
    assert same.feed(b'event: odd\ndata: {"cut') == b""
    assert same.end() == b""
    stream = written(DIALECT_ROWS[dialect].writer(reply(model="up-model")), events_of(CASES["text"]))
    done = channel(dialect, dialect).meter(None)
    whole = done.feed(stream + stream) + done.closing(is_cut=False)
    assert whole == stream.replace(b'"up-model"', b'"public"')
    assert done.feed(b": late\n\n") == b""


def test_a_model_that_is_not_the_sent_one_keeps_its_name() -> None:
    """Only the name that was sent becomes the public one; what has no model is left alone."""
    for dialect in ("messages", "responses"):
        stream = written(DIALECT_ROWS[dialect].writer(reply(model="other")), events_of(CASES["text"]))
        meter = channel(dialect, dialect).meter(None)  # type: ignore[arg-type]
        assert meter.feed(stream) + meter.closing(is_cut=False) == stream
    bare = b'event: message_start\ndata: {"type":"message_start"}\n\n'
    assert channel("messages", "messages").meter(None).feed(bare) == bare


def test_a_cut_in_the_middle_of_a_tool_closes_it() -> None:
    """Blocks and items that are open are ended before the end, in each dialect that has them."""
    events = [*events_of(answer(call(1, '{"city":"Paris"}')))][:3]
    for dialect in ("messages", "responses"):
        writer = DIALECT_ROWS[dialect].writer(reply())
        out = b"".join(map(writer.write, events)) + writer.cut()
        assert out.count(b"content_block_start") == out.count(b"content_block_stop")
        assert out.count(b"output_item.added") == out.count(b"output_item.done")
    upstream = b"".join(map(DIALECT_ROWS["messages"].writer(reply(model="up-model")).write, events))
    meter = channel("messages", "messages").meter(None)
    closed = meter.feed(upstream) + meter.closing(is_cut=True)
    assert b"event: content_block_stop" in closed
    assert closed.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')


def test_too_much_out_of_order_is_refused() -> None:
    """What waits for its turn is bounded."""
    writer = MessagesWriter(reply())
    for index in (0, 1):
        writer.write(PartStart(index=index, kind="call", call_id=f"c{index}", name="f"))
    with pytest.raises(Malformed):
        writer.write(Delta(index=1, text="x" * (9 << 20)))


def test_calls_that_are_no_json_in_a_whole_message() -> None:
    """Half a call is kept as a text inside the object that there has to be; none at all is an empty one."""
    body = json.loads(DIALECT_ROWS["messages"].write_reply(answer(call(1, '{"a'), call(2, " ")), reply()))
    assert [block["input"] for block in body["content"]] == [{"input": '{"a'}, {}]


def test_freeform_calls_in_each_dialect() -> None:
    """A custom call has an input; one that was wrapped is unwrapped when it is whole."""
    said = answer(Call(call_id="c", name="sh", arguments="ls", is_freeform=True))
    for dialect in ("chat", "responses"):
        body = DIALECT_ROWS[dialect].write_reply(said, reply())
        stream = written(DIALECT_ROWS[dialect].writer(reply()), events_of(said))
        whole = fold(DIALECT_ROWS[dialect].reader(vendor="", seed="").read_whole(body))
        assert whole.parts == client_fold(dialect, stream).parts == said.parts  # type: ignore[arg-type]
    wrapped = answer(call(1, '{"input":"ls"}'), call(2, "odd"), call(3, '{"input":""}'), call(4))
    reader = Unwrapping(ChatReader(), frozenset({"tool_1", "tool_2", "tool_3"}))
    unwrapped = fold(reader.read_whole(DIALECT_ROWS["chat"].write_reply(wrapped, reply())))
    assert [one.arguments for one in unwrapped.parts] == ["ls", "odd", "", '{"city":"Paris"}']  # type: ignore[union-attr]
    assert not reader.is_done
    assert reader.finish() == []
    grouped = reply(namespaces={"tool_1": ("files", "open")}, wants_cargo=False)
    told = json.loads(
        DIALECT_ROWS["responses"].write_reply(answer(Reasoning(text="", vendor="v", raw=b"{}"), call(1)), grouped)
    )
    assert "encrypted_content" not in told["output"][0]
    assert (told["output"][1]["namespace"], told["output"][1]["name"]) == ("files", "open")
    own = answer(Reasoning(text="", vendor="openai", raw=b'{"type":"reasoning","id":"x"}'))
    assert json.loads(DIALECT_ROWS["responses"].write_reply(own, reply()))["output"][0]["id"] == "x"


def test_whole_answers_and_streams_turn_into_each_other() -> None:
    """For an answer that is kept: cut it for the client of a stream, or fold what was streamed."""
    for dialect in ("messages", "responses"):
        body = DIALECT_ROWS[dialect].write_reply(CASES["text_and_tool"], reply())
        stream = stream_of_whole(dialect, body, lambda model: reply(model=model))  # type: ignore[arg-type]
        assert whole_of_stream(dialect, stream, reply()) == body  # type: ignore[arg-type]


def test_only_models_words_can_be_written() -> None:
    """A picture is no answer of a model."""
    picture = answer(Image(blob=Blob(url="x")))
    for dialect in ("messages", "responses"):
        with pytest.raises(TypeError):
            DIALECT_ROWS[dialect].write_reply(picture, reply())
    with pytest.raises(TypeError):
        list(events_of(picture))
    assert b'"content":""' in DIALECT_ROWS["chat"].write_reply(picture, reply())


def test_an_answer_without_usage_is_written_with_zeros() -> None:
    """The stream's head has the estimate, while nothing better is known."""
    import msgspec

    bare = msgspec.structs.replace(CASES["text"], usage=None)
    for dialect in DIALECTS:
        assert (
            b'"total_tokens":0' in (body := DIALECT_ROWS[dialect].write_reply(bare, reply()))
            or b'"output_tokens":0' in body
        )
    stream = written(MessagesWriter(reply(input_estimate_tokens=77)), events_of(bare))
    assert b'"usage":{"input_tokens":77' in stream
    assert facts_of(bare).usage is None
    assert b'"usage"' not in written(DIALECT_ROWS["chat"].writer(reply(wants_usage=False)), events_of(bare))
    unfinished = MessagesWriter(reply())
    unfinished.write(Start())
    assert b'"stop_reason":"end_turn"' in unfinished.end()


# -- small things


def test_cargo_is_sealed_and_opened() -> None:
    """Vendors may have dots; what is not ours is not opened."""
    assert unseal(seal("a.b-c", b"\x00\xff")) == ("a.b-c", b"\x00\xff")
    for text in ("", "EqQB", "palyra1.", "palyra1.x", "palyra1..AA", "palyra1.v.A", "palyra1.v.ä"):
        assert unseal(text) is None
    assert unpack("?") is None
    assert unpack("ä") is None
    assert unpack(pack(b"x")) == b"x"


def test_ids_fit_or_are_replaced() -> None:
    """The same id gives the same other one, always."""
    assert fit_id("messages", "toolu_1") == "toolu_1"
    assert fit_id("chat", "c d") == fit_id("chat", "c d") != fit_id("chat", "c e")
    assert fit_id("chat", "x" * 41).startswith("call_")
    assert fit_id("responses", "x" * 65).startswith("call_")


def test_lost_thoughts_are_recalled_once() -> None:
    """Before the first call of a turn whose thoughts are missing; a turn that has them is left alone."""
    block = Reasoning(vendor="v", raw=b"{}")
    known = {"call_1": (block,)}
    user = Message(role="user", parts=(Text(text="x"),))
    says = Message(role="assistant", parts=(Text(text="y"),))
    calls = Message(role="assistant", parts=(call(1), call(2)))
    thinks = Message(role="assistant", parts=(block,))
    other = Message(role="assistant", parts=(call(3),))

    def recalled(*messages: Message) -> list[Message]:
        request = NeutralRequest(dialect="responses", messages=messages)
        return list(with_recalled(request, lambda call_id: known.get(call_id, ())).messages)

    assert recalled(user, says, calls, other) == [user, thinks, says, calls, other]
    assert recalled(user, thinks, calls) == [user, thinks, calls]
    assert recalled(user, other, user, says) == [user, other, user, says]


def test_anthropics_usage_leaves_the_cache_out() -> None:
    """All of it is input; what is not told apart was kept for five minutes; garbage is named."""
    usage, anomalies = read_messages_usage(
        {
            "input_tokens": 1,
            "cache_read_input_tokens": 2,
            "cache_creation_input_tokens": 7,
            "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 1},
            "output_tokens": 0,
        },
        output_seen=True,
    )
    assert usage == TokenUsage(
        input_tokens=10, cached_input_tokens=2, cache_write_5m_tokens=6, cache_write_1h_tokens=1
    )
    assert anomalies == ("usage_zero_reported",)
    assert read_messages_usage({}) == (None, ())
    assert read_messages_usage({"output_tokens": 1})[1] == ("usage_input_missing",)
    assert read_messages_usage({"input_tokens": "1"}) == (None, ("usage_invalid_value",))
    assert read_messages_usage({"input_tokens": 1})[1] == ("usage_output_missing",)


def test_facts_count_what_was_said() -> None:
    """Of a whole answer: texts, thoughts, calls, and the bytes of what nobody knows."""
    said = answer(Text(text="a"), Refused(text="b"), Reasoning(text="c"), call(1), Foreign(label="x", raw=b"d"))
    assert facts_of(said).output_tokens_estimate > 5
    assert PartEnd(index=0).raw == b""


def test_ends_that_only_the_envelope_knows() -> None:
    """A provider's code one level down reaches the client there; a thread that is kept nowhere has a code too."""
    told = Refusal(code="invalid_request", message="x", details={"upstream_code": "thread_not_found"})
    error = messages_error_envelope(told, run_id="01R")["error"]
    assert error["details"] == {"error_code": "thread_not_found"}
    thread = Refusal(code="unsupported_parameter", message="x", param="thread")
    details = messages_error_envelope(thread, run_id="01R")["error"]["details"]
    assert details == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    body = b'{"type":"error","error":{"type":"rate_limit_error","message":"x","details":{"error_code":"odd"}}}'
    read = read_upstream_error(500, body)
    assert (read.status, read.code) == (429, "odd")
    assert read_upstream_error(413, body.replace(b"rate_limit_error", b"invalid_request_error")).status == 413


def test_unwrapping_in_a_stream_waits_for_the_whole_input() -> None:
    """The text is said when it is known."""
    reader = Unwrapping(ChatReader(), frozenset({"sh"}))
    events = reader.read(
        "",
        json.dumps(
            chunk({"tool_calls": [{"id": "a", "function": {"name": "sh", "arguments": '{"input":"l'}}]})
        ).encode(),
    )
    assert [type(one).__name__ for one in events] == ["Start", "PartStart"]
    assert reader.read("", json.dumps(chunk({"tool_calls": [{"function": {"arguments": 's"}'}}]})).encode()) == []
    assert not reader.is_done
    ends = reader.read("", b"[DONE]")
    assert ends[0] == Delta(index=0, text="ls")
    assert reader.is_done


@pytest.mark.parametrize("dialect", DIALECTS)
def test_unwrapping_changes_calls_alone(dialect: Dialect) -> None:
    """Whatever else is asked of a reader is answered by the one that is wrapped."""
    plain = DIALECT_ROWS[dialect].reader(vendor="", seed="")
    assert Unwrapping(plain, frozenset({"sh"})).keeps_text == plain.keeps_text


def test_empty_texts_are_no_items() -> None:
    """A text that nobody filled is not written; one of nothing else is an empty answer."""
    hollow = answer(Text(text=""), call())
    for dialect in ("messages", "responses"):
        stream = written(DIALECT_ROWS[dialect].writer(reply()), events_of(hollow))
        whole = DIALECT_ROWS[dialect].write_reply(hollow, reply())
        assert client_fold(dialect, stream).parts == client_read(dialect, whole).parts  # type: ignore[arg-type]
        assert len(client_fold(dialect, stream).parts) == 1  # type: ignore[arg-type]


def test_thoughts_without_words_and_freeform_calls_are_cut_well() -> None:
    """What has no text ends all the same, and an item that is cut keeps what it had."""
    silent = answer(
        Reasoning(vendor="v", raw=b"{}"), Call(call_id="c", name="sh", arguments="ls", is_freeform=True)
    )
    writer = DIALECT_ROWS["responses"].writer(reply())
    events = [*events_of(silent)]
    out = b"".join(map(writer.write, events[:5])) + writer.cut()
    assert out.count(b"event: response.output_item.done") == 2
    assert b"reasoning_summary_part" not in out
    assert b'"input":"ls"' in out
    same = channel("responses", "responses")._replace(reply=reply(model="up-model")).meter(None)
    stream = written(DIALECT_ROWS["responses"].writer(reply(model="up-model")), events_of(silent))
    assert same.feed(stream) + same.closing(is_cut=False) == stream
    picture = answer(Image(blob=Blob(url="x")), Text(text="y"))
    assert facts_of(picture).output_tokens_estimate == 1


@pytest.mark.parametrize(
    ("end", "stop"),
    [
        ({"status": "completed"}, "end_turn"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "max_tokens"),
        ({"incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ({"status": "incomplete"}, "unknown"),
    ],
)
def test_how_responses_end(end: dict[str, Any], stop: str) -> None:
    """By the reason where one is told, whatever the status; cut short for none is no end of a turn."""
    said = {
        "object": "response",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "y"}]}],
    }
    assert client_read("responses", json.dumps({**said, **end}).encode()).stop == stop


def test_messages_tell_which_text_stopped_them() -> None:
    """null where none did; an empty text would be one that the client never sent."""
    for stopped_by, told in (("END", "END"), ("", None)):
        said = DIALECT_ROWS["messages"].write_reply(answer(Text(text="y"), stop_text=stopped_by), reply())
        assert json.loads(said)["stop_sequence"] == told


def test_thoughts_that_come_in_pieces() -> None:
    """One summary, however many deltas."""
    pieces = [Start(), PartStart(index=0, kind="reasoning"), Delta(index=0, text="a"), Delta(index=0, text="b")]
    events = [*pieces, PartEnd(index=0, vendor="v", raw=b"{}"), Finish(stop="end_turn")]
    stream = written(DIALECT_ROWS["responses"].writer(reply()), events)
    assert stream.count(b"event: response.reasoning_summary_part.added") == 1
    assert client_fold("responses", stream).parts == (Reasoning(text="ab", vendor="v", raw=b"{}"),)


def test_deltas_that_do_not_fit_their_part_are_nothing() -> None:
    """Text for a tool, arguments for a thought: nobody could say what they mean."""
    reader = DIALECT_ROWS["messages"].reader(vendor="", seed="s")
    reader.read("", b'{"type":"content_block_start","index":0,"content_block":{"type":"odd"}}')
    assert reader.read("", b'{"type":"content_block_delta","delta":{"type":"text_delta","text":"x"}}') == []
    other = DIALECT_ROWS["responses"].reader(vendor="", seed="s")
    other.read("", b'{"type":"response.output_item.added","item":{"type":"odd"}}')
    assert other.read("", b'{"type":"response.function_call_arguments.delta","delta":"x"}') == []


# -- what no other dialect can say

_CITED: dict[Dialect, bytes] = {
    "chat": json.dumps(
        {
            "id": "c",
            "model": "up-model",
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": "Paris.",
                        "annotations": [{"type": "url_citation"}],
                    },
                    "logprobs": {"content": [{"token": "Paris", "logprob": 0}]},
                    "finish_reason": "stop",
                }
            ],
        }
    ).encode(),
    "messages": json.dumps(
        {
            "type": "message",
            "id": "m",
            "model": "up-model",
            "content": [
                {"type": "text", "text": "Paris.", "citations": [{"type": "char_location"}]},
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            ],
            "stop_reason": "end_turn",
            "container": {"id": "c"},
            "context_management": {"applied_edits": []},
        }
    ).encode(),
    "responses": json.dumps(
        {
            "id": "r",
            "model": "up-model",
            "status": "completed",
            "output": [
                {
                    "type": "message",
                    "content": [
                        {"type": "output_text", "text": "Paris.", "annotations": [{}], "logprobs": [{"token": "P"}]}
                    ],
                },
                {"type": "web_search_call", "id": "w"},
            ],
        }
    ).encode(),
}
_LOST: dict[Dialect, tuple[str, ...]] = {
    "chat": ("citations", "logprobs"),
    "messages": ("citations", "container", "context_management", "server_tool_use"),
    "responses": ("citations", "logprobs", "web_search_call"),
}


@pytest.mark.parametrize("client", DIALECTS)
@pytest.mark.parametrize("upstream", DIALECTS)
def test_what_a_client_cannot_be_told_is_named(client: Dialect, upstream: Dialect) -> None:
    """Citations, probabilities and content of one dialect alone: passed on untouched, or named when translated."""
    read = channel(client, upstream).read_whole(_CITED[upstream])
    facts, told = read.facts, read.body
    assert b"Paris." in told
    assert facts.dropped == (() if client == upstream else _LOST[upstream])


_CITED_STREAMS: dict[Dialect, bytes] = {
    "chat": sse(
        chunk({"content": "Paris."}, logprobs={"content": [{}]}),
        chunk({"annotations": [{}]}, finish_reason="stop"),
        "[DONE]",
    ),
    "messages": b"".join(
        f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode()
        for one in (
            {"type": "message_start", "message": {"id": "m", "model": "up-model"}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Paris."}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": {}}},
            {"type": "content_block_stop", "index": 0},
            {"type": "content_block_start", "index": 1, "content_block": {"type": "server_tool_use", "id": "s"}},
            {"type": "content_block_stop", "index": 1},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "container": {"id": "c"}, "stop_details": None},
                "context_management": {"applied_edits": []},
            },
            {"type": "message_stop"},
        )
    ),
}


@pytest.mark.parametrize("upstream", _CITED_STREAMS)
@pytest.mark.parametrize("client", DIALECTS)
def test_what_a_stream_cannot_say_is_named(client: Dialect, upstream: Dialect) -> None:
    """The same of streams, of which the journal is the only place where it can still be said."""
    meter = channel(client, upstream).meter(None)
    assert b"Paris." in meter.feed(_CITED_STREAMS[upstream]) + meter.end() + meter.closing(is_cut=False)
    assert meter.facts().dropped == (() if client == upstream else _LOST[upstream])


@pytest.mark.parametrize(
    ("has_call", "has_refusal", "stop", "derived"),
    [
        (False, True, "end_turn", "refusal"),
        (True, True, "end_turn", "tool_calls"),
        (False, False, "tool_calls", "end_turn"),
        (False, False, "unknown", "unknown"),
        (True, False, "max_tokens", "max_tokens"),
    ],
)
def test_the_stop_is_derived_from_what_was_said(has_call: bool, has_refusal: bool, stop: str, derived: str) -> None:
    """A call that was made beats the provider's word, a refusal comes next; a cut answer stays cut."""
    assert derive_stop(stop, has_call=has_call, has_refusal=has_refusal) == derived
