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

from palyra.engine.exchange import Ended
from palyra.engine.surfaces import Part, passed_headers
from palyra.errors import Refusal
from palyra.events.registry import ModelEntry, ProviderEntry
from palyra.limits import DEFAULT_OUTPUT_CAP_TOKENS, OFF_LOOP_BYTES
from palyra.wire.answer_writer import Reply
from palyra.wire.dialects import (
    DIALECT_ROWS,
    Channel,
    neutral_of,
    pass_through,
    stream_of_whole,
    whole_of_stream,
)
from palyra.wire.messages_errors import messages_error_envelope
from palyra.wire.neutral import Dialect, NeutralRequest
from palyra.wire.openai_chat import public_chat_reply, read_chat_reply
from palyra.wire.openai_chat_fold import cut_chat, fold_chat
from palyra.wire.openai_errors import error_envelope
from palyra.wire.reply_facts import ReplyFacts
from palyra.wire.request import SurfaceRequest
from palyra.wire.stream_meter import StreamMeter
from palyra.wire.target import WAYS, Prepared, Target

#: The version of Anthropic's API that is spoken where the client's is not passed on.
_ANTHROPIC_VERSION = "2023-06-01"
#: Headers of the client's that a provider of its own dialect gets to see.
_SAME_DIALECT_HEADERS: Mapping[Dialect, Sequence[str]] = {
    "chat": ("openai-beta",),
    "responses": ("openai-beta",),
    "messages": ("anthropic-version", "anthropic-beta"),
}


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """What a surface needs to know of the run that it belongs to."""

    run_id: str = ""
    principal_id: str = ""
    now_s: int = 0


class TextSurface:
    """See `palyra.engine.surfaces.Surface`."""

    dialect: ClassVar[Dialect]

    def __init__(self, request: SurfaceRequest, headers: Mapping[str, str], around: Around | None = None) -> None:
        self.request = request
        self._headers = headers
        self._around = around or Around()
        self._parts = [Part()]
        self._attempts_count = 0
        self._neutral: NeutralRequest | None = None
        self._channel: Channel | None = None
        self._prepared = Prepared(body=b"")
        self._meter: StreamMeter | None = None

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
        target = Target(
            dialect=entry.api_for(self.dialect),
            model=entry.upstream_model,
            vendor=vendor_of(provider),
            ways=WAYS[provider.flavor],
            reasoning=entry.reasoning,
            output_cap_tokens=output_cap_tokens,
            output_default_tokens=entry.max_output_tokens or DEFAULT_OUTPUT_CAP_TOKENS,
            stream=self.request.stream,
        )
        self._channel = channel = Channel(
            client=self.dialect, target=target, reply=self._reply(entry.model_id), seed=self._seed()
        )
        self._meter = None
        if channel.is_passthrough:
            self._prepared = pass_through(self.request, target)
        else:
            self._neutral = self._neutral or neutral_of(self.request)
            self._prepared = DIALECT_ROWS[target.dialect].write_call(self._neutral, target)
        part.api, part.passthrough = target.dialect, channel.is_passthrough
        part.path = DIALECT_ROWS[target.dialect].path
        part.body, part.edits, part.dropped = self._prepared.body, self._prepared.edits, self._prepared.dropped

    def is_heavy(self, entry: ModelEntry) -> bool:
        """See `Surface.is_heavy`: a large body that is written anew."""
        return len(self.request.body) > OFF_LOOP_BYTES and entry.api_for(self.dialect) != self.dialect

    def _reply(self, public_model: str) -> Reply:
        return Reply(
            run_id=self._around.run_id,
            created_s=self._around.now_s,
            model=public_model,
            wants_usage=self.request.wants_usage,
            input_estimate_tokens=self.request.raw_tokens,
        )

    def _seed(self) -> str:
        return f"{self._around.run_id}:{self._attempts_count}"

    def read(self, part: Part, entry: ModelEntry, body: bytes) -> ReplyFacts:
        """See `Surface.read`."""
        channel = self._at_hand()
        if channel.is_passthrough and self.dialect == "chat":
            part.answer = public_chat_reply(body, upstream_model=entry.upstream_model, public_model=entry.model_id)
            return read_chat_reply(body)
        facts, _, part.answer = channel.read_whole(body)
        return facts

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
        if not self.request.stream:
            return self._parts[0].answer
        if sent is None or self._meter is None:
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
        assert self._meter is not None
        return self._meter.closing(is_cut=ended.outgrown)

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
        names = _SAME_DIALECT_HEADERS[self.dialect] if channel.is_passthrough else ()
        headers = passed_headers(provider, self._headers, names)
        if channel.target.dialect == "messages":
            headers.setdefault("anthropic-version", _ANTHROPIC_VERSION)
        return headers

    def answer_headers(self) -> Mapping[str, str]:
        """See `Surface.answer_headers`."""
        told = {
            "x-palyra-dropped-params": self._prepared.dropped,
            "x-palyra-adjusted": self._prepared.adjusted,
            "x-palyra-emulated": self._prepared.emulated,
        }
        return {name: ", ".join(values) for name, values in told.items() if values}

    def _at_hand(self) -> Channel:
        assert self._channel is not None
        return self._channel


class ChatSurface(TextSurface):
    """`POST /v1/chat/completions`."""

    dialect = "chat"


class MessagesSurface(TextSurface):
    """`POST /v1/messages`."""

    dialect = "messages"


def vendor_of(provider: ProviderEntry) -> str:
    """Return whose reasoning a provider's is: of its kind or flavor, or its own where others know nothing of it."""
    if provider.kind == "anthropic":
        return "anthropic"
    return provider.provider_id if provider.flavor in ("", "generic") else provider.flavor
