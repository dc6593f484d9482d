"""The surfaces that answer with text: one request and its answer between a client's dialect and a provider's.

Where both speak the same, the client's bytes go through but for the splices that are named; where they do not, the
request and the answer pass the neutral form. What was lost or changed on the way is told in headers and recorded.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from palyra.engine.apart import Apart
from palyra.engine.exchange import Ended
from palyra.engine.surfaces import Around, Part, passed_headers
from palyra.errors import Refusal
from palyra.events.registry import ModelEntry, ProviderEntry
from palyra.limits import APART_BYTES, OFF_LOOP_BYTES
from palyra.wire.answer_writer import Reply
from palyra.wire.apart import prepare_large, read_large_answer
from palyra.wire.cargo import fit_id
from palyra.wire.dialects import (
    DIALECT_ROWS,
    Channel,
    neutral_of,
    pass_through,
    stream_of_whole,
    whole_of_stream,
)
from palyra.wire.messages_errors import messages_error_envelope
from palyra.wire.neutral import Dialect, NeutralRequest, Reasoning
from palyra.wire.openai_chat_fold import cut_chat, fold_chat
from palyra.wire.openai_errors import error_envelope
from palyra.wire.recall import with_recalled
from palyra.wire.reply_facts import ReplyFacts
from palyra.wire.request import SurfaceRequest
from palyra.wire.responses_reply import ECHOED
from palyra.wire.stream_meter import EventMeter, StreamMeter
from palyra.wire.target import WAYS, Prepared, Target
from palyra.wire.upstream_errors import UpstreamError

#: The version of Anthropic's API that is spoken where the client's is not passed on.
_ANTHROPIC_VERSION = "2023-06-01"


class TextSurface:
    """See `palyra.engine.surfaces.Surface`."""

    dialect: ClassVar[Dialect]
    content_type = request_type = "application/json"

    def __init__(self, request: SurfaceRequest, headers: Mapping[str, str], around: Around | None = None) -> None:
        self.request = request
        self._headers = headers
        self._around = around or Around()
        self._parts = [Part()]
        self._attempts_count = 0
        self._neutral: NeutralRequest | None = None
        self._channel: Channel | None = None
        self._prepared = Prepared(body=b"")
        #: What stood in the answer and could not be said in the client's dialect.
        self._lost: tuple[str, ...] = ()
        self._meter: StreamMeter | None = None
        self._provider_id = ""

    @property
    def keepalive(self) -> bytes:
        """See `Surface.keepalive`."""
        return DIALECT_ROWS[self.dialect].keepalive

    def parts(self, entry: ModelEntry) -> list[Part]:
        """See `Surface.parts`."""
        return self._parts

    def prepare(
        self, part: Part, provider: ProviderEntry, entry: ModelEntry, output_cap_tokens: int | None
    ) -> None:
        """See `Surface.prepare`."""
        self._attempts_count += 1
        self._provider_id = provider.provider_id
        memory = self._around.memory
        target = Target(
            dialect=entry.api_for(self.dialect),
            model=entry.upstream_model,
            vendor=vendor_of(provider),
            ways=WAYS[provider.flavor],
            reasoning=entry.reasoning,
            output_cap_tokens=output_cap_tokens,
            output_default_tokens=min(
                entry.max_output_tokens or self._around.default_output_tokens, entry.max_tokens_per_event
            ),
            ask_usage=memory is None or provider.provider_id not in memory.without_stream_options,
            stream=self.request.stream and entry.capabilities.streaming,
        )
        self._meter = None
        self._channel = channel = self._channel_to(target, entry)
        if self._around.apart is not None and len(self.request.body) > APART_BYTES:
            self._prepared = self._prepare_apart(self._around.apart, target)
        elif channel.is_passthrough:
            self._prepared = pass_through(self.request, target)
        else:
            self._prepared = DIALECT_ROWS[target.dialect].write_call(self._read(), target)
        if self.request.stream and not target.stream:
            emulated = ("stream", *self._prepared.emulated)
            self._prepared = msgspec.structs.replace(self._prepared, emulated=emulated)
        part.api, part.passthrough = target.dialect, channel.is_passthrough
        part.path, part.stream = DIALECT_ROWS[target.dialect].path, target.stream
        part.body, part.edits, part.dropped = self._prepared.body, self._prepared.edits, self._prepared.dropped

    def _prepare_apart(self, apart: Apart, target: Target) -> Prepared:
        request, memory = self.request, self._around.memory
        small = msgspec.structs.replace(request, body=b"", neutral=None)
        recalled: dict[str, tuple[Reasoning, ...]] = {}
        if memory is not None and request.outline is not None:
            known = ((name, memory.reasoning(self._around.principal_id, name)) for name in request.outline.call_ids)
            recalled = {call_id: thoughts for call_id, thoughts in known if thoughts}
        return apart.ask(prepare_large, request.body, small, target, recalled)

    def _channel_to(self, target: Target, entry: ModelEntry) -> Channel:
        takes_freeform = target.dialect == "responses" or target.ways.takes_freeform
        wrapped: frozenset[str] = frozenset()
        if target.dialect != self.dialect:
            wrapped = (self.request.outline or self._read()).wrapped_tools(takes_freeform=takes_freeform)
        seed = f"{self._around.run_id}:{self._attempts_count}"
        return Channel(
            client=self.dialect, target=target, reply=self._reply(entry.model_id), seed=seed, wrapped=wrapped
        )

    def _read(self) -> NeutralRequest:
        """Return the request in no dialect, with the thoughts that its client has lost."""
        if self._neutral is None:
            neutral, memory = neutral_of(self.request), self._around.memory
            if memory is not None:
                neutral = with_recalled(neutral, functools.partial(memory.reasoning, self._around.principal_id))
            self._neutral = neutral
        return self._neutral

    def is_heavy(self, entry: ModelEntry) -> bool:
        """See `Surface.is_heavy`: a large body that is written anew, or a very large one that is only spliced."""
        size_bytes = len(self.request.body)
        return size_bytes > APART_BYTES or (
            size_bytes > OFF_LOOP_BYTES and entry.api_for(self.dialect) != self.dialect
        )

    def _reply(self, public_model: str) -> Reply:
        told = self.request.outline or self.request.neutral or _NOTHING_READ
        return Reply(
            run_id=self._around.run_id,
            created_s=self._around.now_s,
            model=public_model,
            wants_usage=self.request.wants_usage,
            input_estimate_tokens=self.request.raw_tokens,
            wants_cargo=told.wants_cargo,
            namespaces=told.namespaces,
            echo=self._echo() if self.dialect == "responses" else {},
        )

    def _echo(self) -> dict[str, Any]:
        body, spans = self.request.body, self.request.spans
        echoed = ((name, spans[name]) for name in ECHOED if name in spans)
        return {name: msgspec.Raw(body[span.start : span.end]) for name, span in echoed}

    def read(self, part: Part, entry: ModelEntry, body: bytes) -> ReplyFacts:
        """See `Surface.read`."""
        channel, apart = self._at_hand(), self._around.apart
        is_large = apart is not None and len(body) > APART_BYTES
        read = apart.ask(read_large_answer, body, channel) if apart and is_large else channel.read_whole(body)
        part.answer, self._lost = read.body, read.facts.dropped
        self._keep(read.facts, read.thoughts, read.call_ids)
        return read.facts

    def _keep(self, facts: ReplyFacts, thoughts: tuple[Reasoning, ...], call_ids: Sequence[str]) -> None:
        """Remember what a later request may want of this answer."""
        memory, principal_id = self._around.memory, self._around.principal_id
        if memory is None:
            return
        channel = self._at_hand()
        if self.dialect == "responses" and channel.is_passthrough and facts.response_id:
            memory.keep_response(principal_id, facts.response_id, self._provider_id)
        if thoughts and call_ids and not channel.is_passthrough:
            for call_id in call_ids[:1]:
                memory.keep_reasoning(principal_id, fit_id(self.dialect, call_id), thoughts)

    def meter(self, entry: ModelEntry, output_cap_tokens: int | None) -> StreamMeter:
        """See `Surface.meter`."""
        cap_tokens = min(output_cap_tokens or entry.max_tokens_per_event, entry.max_tokens_per_event)
        self._meter = self._at_hand().meter(cap_tokens)
        return self._meter

    async def public_reply(self) -> bytes:
        """See `Surface.public_reply`."""
        return self._parts[0].answer

    async def whole(self, sent: bytes | None, facts: ReplyFacts) -> bytes | None:
        """See `Surface.whole`."""
        if not self.request.stream or self._meter is None:
            return self._parts[0].answer
        if sent is None:
            return None
        if self.dialect == "chat":
            fold: Callable[[], bytes | None] = functools.partial(fold_chat, sent, facts.usage)
        else:
            stream = sent + self._meter.closing(is_cut=False)
            fold = functools.partial(whole_of_stream, self.dialect, stream, self._at_hand().reply)
        return await asyncio.to_thread(fold) if len(sent) > OFF_LOOP_BYTES else fold()

    def as_stream(self, whole: bytes) -> bytes:
        """See `Surface.as_stream`."""
        if self.dialect == "chat":
            return cut_chat(whole, wants_usage=self.request.wants_usage)
        return stream_of_whole(self.dialect, whole, self._reply)

    def stream_end(self, ended: Ended) -> bytes:
        """See `Surface.stream_end`."""
        meter = self._meter
        if meter is None:  # a model that does not stream gave the whole answer
            return self.as_stream(self._parts[0].answer)
        if isinstance(meter, EventMeter):
            self._keep(meter.facts(), tuple(meter.thoughts), meter.call_ids)
        return meter.closing(is_cut=ended.outgrown)

    def note_refusal(self, error: UpstreamError) -> bool:
        """See `Surface.note_refusal`: a server that does not know the flag is asked again without it."""
        memory = self._around.memory
        is_meant = error.status in (400, 422) and "stream_options" in f"{error.param} {error.message}"
        channel = self._at_hand()
        is_ours = channel.target.stream and not (channel.is_passthrough and self.request.wants_usage)
        if memory is None or not is_meant or not is_ours or not channel.target.ask_usage:
            return False
        memory.without_stream_options.add(self._provider_id)
        return True

    def stream_error(self, envelope: dict[str, Any], *, has_begun: bool) -> bytes:
        """See `Surface.stream_error`."""
        if has_begun and self._meter is not None:
            return self._meter.failing(envelope)
        return DIALECT_ROWS[self.dialect].writer(self._reply(self.request.model)).fail(envelope)

    def envelope(self, refusal: Refusal, *, run_id: str, attempts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """See `Surface.envelope`."""
        write = messages_error_envelope if self.dialect == "messages" else error_envelope
        failure_class = str(attempts[-1]["class"]) if attempts else ""
        return write(refusal, run_id=run_id, failure_class=failure_class, attempts=attempts)

    def headers_for(self, provider: ProviderEntry) -> Mapping[str, str]:
        """See `Surface.headers_for`."""
        channel = self._at_hand()
        is_same = channel.is_passthrough
        headers = passed_headers(provider, self._headers, self.dialect, is_same_dialect=is_same)
        if channel.target.dialect == "messages":
            headers.setdefault("anthropic-version", _ANTHROPIC_VERSION)
        return headers

    def answer_headers(self) -> Mapping[str, str]:
        """See `Surface.answer_headers`."""
        told = {
            "x-palyra-dropped-params": (*self._prepared.dropped, *self._lost),
            "x-palyra-adjusted": self._prepared.adjusted,
            "x-palyra-emulated": self._prepared.emulated,
        }
        return {name: ", ".join(values) for name, values in told.items() if values}

    def _at_hand(self) -> Channel:
        assert self._channel is not None
        return self._channel


_NOTHING_READ = NeutralRequest(dialect="chat")


class ChatSurface(TextSurface):
    """`POST /v1/chat/completions`."""

    dialect = "chat"


class MessagesSurface(TextSurface):
    """`POST /v1/messages`."""

    dialect = "messages"


class ResponsesSurface(TextSurface):
    """`POST /v1/responses`."""

    dialect = "responses"


def vendor_of(provider: ProviderEntry) -> str:
    """Return whose reasoning a provider's is: of its kind or flavor, or its own where others know nothing of it."""
    if provider.kind == "anthropic":
        return "anthropic"
    return provider.provider_id if provider.flavor in ("", "generic") else provider.flavor
