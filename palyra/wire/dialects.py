"""The dialects, and what is made of a request or an answer that comes in one of them and leaves in another.

A row for each dialect holds its reader and its writer; no function here or elsewhere knows a pair of them. Where
both sides speak the same, bytes go through instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import msgspec

from palyra.wire.answer_reader import WholeReader, fold
from palyra.wire.answer_writer import Reply, StreamWriter, written
from palyra.wire.chat_answer import ChatReader
from palyra.wire.chat_call import write_chat_call
from palyra.wire.chat_reply import ChatWriter, write_chat_reply
from palyra.wire.chat_request import read_chat_request
from palyra.wire.freeform import Unwrapping
from palyra.wire.losses import losses_by_target
from palyra.wire.messages_answer import MessagesReader
from palyra.wire.messages_call import write_messages_call
from palyra.wire.messages_relay import MessagesOutlet
from palyra.wire.messages_reply import PING, MessagesWriter, write_messages_reply
from palyra.wire.messages_request import read_messages_request
from palyra.wire.neutral import Call, Dialect, Foreign, NeutralRequest, Reasoning
from palyra.wire.neutral_answer import Answer, Usage, events_of
from palyra.wire.openai_chat import prepare_chat
from palyra.wire.openai_chat_reply import read_chat_reply
from palyra.wire.openai_chat_stream import ChatStreamMeter
from palyra.wire.openai_edits import rename_model
from palyra.wire.parameters import Policy
from palyra.wire.passing import Passage, spliced
from palyra.wire.reply_facts import ReplyFacts, estimated_usage, facts_of
from palyra.wire.request import SurfaceRequest
from palyra.wire.responses_answer import ResponsesReader
from palyra.wire.responses_call import write_responses_call
from palyra.wire.responses_relay import ResponsesOutlet
from palyra.wire.responses_reply import ResponsesWriter, write_responses_reply
from palyra.wire.responses_request import read_responses_request
from palyra.wire.sse import blocks_of, comment, event_data, event_name
from palyra.wire.stream_meter import EventMeter, Outlet, StreamMeter, Translation
from palyra.wire.target import Prepared, Target


class MakeReader(Protocol):
    def __call__(self, *, vendor: str, seed: str) -> WholeReader: ...


class DialectRow(NamedTuple):
    """What one dialect needs: the request in and out, the answer in and out, and the bytes passed through."""

    #: Below a provider's base URL.
    path: str
    read_request: Callable[[bytes], NeutralRequest]
    write_call: Callable[[NeutralRequest, Target], Prepared]
    reader: MakeReader
    writer: Callable[[Reply], StreamWriter]
    write_reply: Callable[[Answer, Reply], bytes]
    #: A sign of life for the client of a silent stream.
    keepalive: bytes


DIALECT_ROWS: Mapping[str, DialectRow] = MappingProxyType(
    {
        "chat": DialectRow(
            "/chat/completions",
            read_chat_request,
            write_chat_call,
            ChatReader,
            ChatWriter,
            write_chat_reply,
            comment(""),
        ),
        "messages": DialectRow(
            "/messages",
            read_messages_request,
            write_messages_call,
            MessagesReader,
            MessagesWriter,
            write_messages_reply,
            PING,
        ),
        "responses": DialectRow(
            "/responses",
            read_responses_request,
            write_responses_call,
            ResponsesReader,
            ResponsesWriter,
            write_responses_reply,
            comment(""),
        ),
    }
)


def neutral_of(request: SurfaceRequest) -> NeutralRequest:
    """Return a request in no dialect; raises `WireError` with the field at fault."""
    return request.neutral or DIALECT_ROWS[request.surface].read_request(request.body)


def read_in_full(decode: Callable[[bytes], SurfaceRequest], policy: Policy, body: bytes) -> SurfaceRequest:
    """Decode a request, read it into the neutral form, and note where it cannot be sent."""
    request = decode(body)
    neutral = neutral_of(request)
    return msgspec.structs.replace(request, neutral=neutral, losses=losses_by_target(neutral, policy))


def pass_through(request: SurfaceRequest, target: Target) -> Prepared:
    """Return the client's own body, spliced for a provider of its dialect."""
    if request.surface == "messages":
        return spliced(request, target, "max_tokens", Passage.messages)
    if request.surface == "responses":
        return spliced(request, target, "max_output_tokens", Passage.responses)
    return prepare_chat(request, target)


class ReadAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer: its facts, it as the client gets it, and what a later request may want of it."""

    facts: ReplyFacts
    body: bytes
    thoughts: tuple[Reasoning, ...] = ()
    call_ids: tuple[str, ...] = ()


class Channel(NamedTuple):
    """One attempt's way between a client and a provider."""

    client: Dialect
    target: Target
    reply: Reply
    #: What ids are made of that the provider leaves out.
    seed: str
    #: Freeform tools that were declared as functions.
    wrapped: frozenset[str] = frozenset()

    @property
    def is_passthrough(self) -> bool:
        return self.client == self.target.dialect

    def reader(self) -> WholeReader:
        reader = DIALECT_ROWS[self.target.dialect].reader(vendor=self.target.vendor, seed=self.seed)
        return Unwrapping(reader, self.wrapped) if self.wrapped else reader

    def read_whole(self, body: bytes) -> ReadAnswer:
        """Return what a whole answer comes to; raises `Malformed` or `UpstreamErrorInBody`."""
        if self.is_passthrough and self.client == "chat":
            facts = read_chat_reply(body)
            return ReadAnswer(facts=facts, body=rename_model(body, self.target.model, self.reply.model))
        answer = fold(self.reader().read_whole(body))
        facts = facts_of(answer, is_translated=not self.is_passthrough)
        if self.is_passthrough:
            told = rename_model(body, self.target.model, self.reply.model)
        else:
            told = DIALECT_ROWS[self.client].write_reply(self._counted(answer, facts), self.reply)
        return ReadAnswer(
            facts=facts,
            body=told,
            thoughts=tuple(said for said in answer.parts if isinstance(said, Reasoning)),
            call_ids=tuple(said.call_id for said in answer.parts if isinstance(said, Call)),
        )

    def _counted(self, answer: Answer, facts: ReplyFacts) -> Answer:
        """Return an answer with our count of it where its provider gave none."""
        if answer.usage is not None:
            return answer
        usage = estimated_usage(None, self.reply.input_estimate_tokens, facts.output_tokens_estimate)
        return msgspec.structs.replace(answer, usage=Usage(usage=usage))

    def meter(self, output_cap_tokens: int | None) -> StreamMeter:
        """Return what a stream goes through."""
        if self.is_passthrough and self.client == "chat":
            return ChatStreamMeter(
                upstream_model=self.target.model,
                public_model=self.reply.model,
                wants_usage=self.reply.wants_usage,
                input_estimate_tokens=self.reply.input_estimate_tokens,
                output_cap_tokens=output_cap_tokens,
            )
        return EventMeter(
            self.reader(),
            self._outlet(),
            input_estimate_tokens=self.reply.input_estimate_tokens,
            output_cap_tokens=output_cap_tokens,
        )

    def _outlet(self) -> Outlet:
        if self.is_passthrough:
            outlet = MessagesOutlet if self.client == "messages" else ResponsesOutlet
            return outlet(upstream_model=self.target.model, public_model=self.reply.model)
        return Translation(DIALECT_ROWS[self.client].writer(self.reply))


def whole_of_stream(dialect: Dialect, stream: bytes, reply: Reply) -> bytes | None:
    """Return the whole answer that a client makes of a stream; None where it holds what only its dialect knows."""
    reader = DIALECT_ROWS[dialect].reader(vendor="", seed="")
    events = [
        event
        for block in blocks_of(stream)
        if (data := event_data(block))
        for event in reader.read(event_name(block), data)
    ]
    answer = fold([*events, *reader.finish()])
    if any(isinstance(part, Foreign) for part in answer.parts):
        return None
    return DIALECT_ROWS[dialect].write_reply(answer, reply)


def stream_of_whole(dialect: Dialect, whole: bytes, reply: Callable[[str], Reply]) -> bytes:
    """Return a whole answer as the stream that says the same; `reply` is asked with the answer's model."""
    row = DIALECT_ROWS[dialect]
    answer = fold(row.reader(vendor="", seed="").read_whole(whole))
    return written(row.writer(reply(answer.model)), events_of(answer))
