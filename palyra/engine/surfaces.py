"""A served surface seen from the engine: how its request is prepared for a candidate and its answer read.

One class a surface; all of them answer the same questions, so that the way of a run has no branches for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from palyra.engine.exchange import Ended
from palyra.errors import Refusal
from palyra.events.registry import ModelEntry, ProviderEntry
from palyra.limits import OFF_LOOP_BYTES
from palyra.wire.openai_chat import (
    DONE,
    ChatStreamMeter,
    prepare_chat,
    public_chat_reply,
    read_chat_reply,
)
from palyra.wire.openai_chat_fold import cut_chat, fold_chat
from palyra.wire.openai_chat_reply import ReplyFacts
from palyra.wire.openai_embeddings import (
    convert_encoding,
    join_embeddings,
    prepare_embeddings,
    public_embeddings_reply,
    read_embeddings_reply,
)
from palyra.wire.openai_errors import error_body
from palyra.wire.request import SurfaceRequest
from palyra.wire.sse import comment, encode_event


class Part(msgspec.Struct, kw_only=True):
    """What one call carries: the request, or a part of it where it is too long for one."""

    items: slice | None = None
    items_count: int = 0
    #: Made for the candidate of the attempt by `Surface.prepare`.
    body: bytes = b""
    edits: tuple[str, ...] = ()
    #: The answer in the form that the client gets, kept by `Surface.read`.
    answer: bytes = b""


class Surface(Protocol):
    """What a run asks of the surface that it came in by."""

    request: SurfaceRequest
    #: Below a provider's base URL.
    path: str
    #: A sign of life for the client of a silent stream.
    keepalive: bytes

    def parts(self, entry: ModelEntry) -> list[Part]:
        """Return the calls that the request takes, the same objects each time."""
        ...

    def prepare(self, part: Part, entry: ModelEntry, output_cap_tokens: int | None) -> None:
        """Make the part's body for a candidate."""
        ...

    def read(self, part: Part, entry: ModelEntry, body: bytes) -> ReplyFacts:
        """Check a unary answer and keep it as the client gets it; raises `Malformed` or `UpstreamErrorInBody`.

        Large answers are read in a worker thread.
        """
        ...

    def meter(self, entry: ModelEntry, output_cap_tokens: int | None) -> ChatStreamMeter: ...

    async def public_reply(self) -> bytes:
        """Return the client's answer, made of the answers to all parts."""
        ...

    async def whole(self, sent: bytes | None, facts: ReplyFacts) -> bytes | None:
        """Return the answer whole, made of what was sent of a stream if there was one; None where it cannot be."""
        ...

    def as_stream(self, whole: bytes) -> bytes:
        """Return a whole answer as the client of a stream gets it, to its last byte."""
        ...

    def stream_end(self, ended: Ended) -> bytes:
        """Return the last bytes of a stream, sent once its usage is durable."""
        ...

    def stream_error(self, body: bytes) -> bytes:
        """Return the last bytes of a stream that failed."""
        ...

    def error_body(self, refusal: Refusal, *, run_id: str, attempts: Sequence[dict[str, Any]]) -> bytes: ...

    def headers_for(self, provider: ProviderEntry) -> Mapping[str, str]:
        """Return what a provider gets beside its own headers: of the client's only what its entry lets through."""
        ...


class _OpenAI:
    """What the surfaces of OpenAI's dialect share."""

    keepalive = comment("")

    def __init__(self, request: SurfaceRequest, headers: Mapping[str, str]) -> None:
        self.request = request
        self._headers = headers
        self._parts: list[Part] = []
        self._public_model = ""

    def stream_error(self, body: bytes) -> bytes:
        return encode_event(body) + DONE

    def error_body(self, refusal: Refusal, *, run_id: str, attempts: Sequence[dict[str, Any]]) -> bytes:
        failure_class = str(attempts[-1]["class"]) if attempts else ""
        return error_body(refusal, run_id=run_id, failure_class=failure_class, attempts=attempts)

    def headers_for(self, provider: ProviderEntry) -> Mapping[str, str]:
        names = ["openai-beta", *provider.forward_headers]
        if provider.kind == "deterministic":
            names.append("x-palyra-session")  # a script may tell sessions apart
        headers = {name: self._headers[name] for name in map(str.lower, names) if name in self._headers}
        if provider.allow_private_base_url:
            # What listens on a private address may be a gateway as well; a loop of them ends at the third.
            headers["x-palyra-hop"] = str(int(self._headers.get("x-palyra-hop", "0")) + 1)
        return headers


class ChatSurface(_OpenAI):
    """`POST /v1/chat/completions`."""

    path = "/chat/completions"

    def parts(self, entry: ModelEntry) -> list[Part]:
        self._parts = self._parts or [Part()]
        return self._parts

    def prepare(self, part: Part, entry: ModelEntry, output_cap_tokens: int | None) -> None:
        prepared = prepare_chat(
            self.request,
            upstream_model=entry.upstream_model,
            output_cap_tokens=output_cap_tokens,
        )
        part.body, part.edits = prepared.body, prepared.edits

    def read(self, part: Part, entry: ModelEntry, body: bytes) -> ReplyFacts:
        facts = read_chat_reply(body)
        part.answer = public_chat_reply(body, upstream_model=entry.upstream_model, public_model=entry.model_id)
        return facts

    def meter(self, entry: ModelEntry, output_cap_tokens: int | None) -> ChatStreamMeter:
        self._public_model = entry.model_id
        return ChatStreamMeter(
            upstream_model=entry.upstream_model,
            public_model=entry.model_id,
            wants_usage=self.request.wants_usage,
            output_cap_tokens=min(output_cap_tokens or entry.max_tokens_per_event, entry.max_tokens_per_event),
        )

    async def public_reply(self) -> bytes:
        return self._parts[0].answer

    async def whole(self, sent: bytes | None, facts: ReplyFacts) -> bytes | None:
        if not self.request.stream:
            return self._parts[0].answer
        if sent is None:
            return None
        if len(sent) > OFF_LOOP_BYTES:
            return await asyncio.to_thread(fold_chat, sent, facts.usage)
        return fold_chat(sent, facts.usage)

    def as_stream(self, whole: bytes) -> bytes:
        return cut_chat(whole, wants_usage=self.request.wants_usage)

    def stream_end(self, ended: Ended) -> bytes:
        if not ended.outgrown or ended.facts is None:
            return DONE
        cut = {
            "id": ended.facts.response_id,
            "object": "chat.completion.chunk",
            "model": self._public_model,
            "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}],
        }
        return encode_event(msgspec.json.encode(cut)) + DONE


class EmbeddingsSurface(_OpenAI):
    """`POST /v1/embeddings`."""

    path = "/embeddings"

    def parts(self, entry: ModelEntry) -> list[Part]:
        if not self._parts:
            count = self.request.inputs_count
            size = entry.max_batch or count
            self._parts = [
                Part(
                    items=None if count <= size else slice(start, start + size),
                    items_count=min(size, count - start),
                )
                for start in range(0, count, size)
            ]
        return self._parts

    def prepare(self, part: Part, entry: ModelEntry, output_cap_tokens: int | None) -> None:
        prepared = prepare_embeddings(self.request, upstream_model=entry.upstream_model, items=part.items)
        part.body, part.edits = prepared.body, prepared.edits

    def read(self, part: Part, entry: ModelEntry, body: bytes) -> ReplyFacts:
        facts = read_embeddings_reply(body, expected_count=part.items_count, dimensions=self.request.dimensions)
        renamed = public_embeddings_reply(body, upstream_model=entry.upstream_model, public_model=entry.model_id)
        part.answer = convert_encoding(renamed, self.request.encoding_format)
        return ReplyFacts(
            stop="end_turn",
            raw_stop="",
            usage=facts.usage,
            anomalies=facts.anomalies,
            upstream_model=facts.upstream_model,
            response_id="",
            output_tokens_estimate=0,
            provider_cost_nanousd=None,
        )

    def meter(self, entry: ModelEntry, output_cap_tokens: int | None) -> ChatStreamMeter:
        raise TypeError("embeddings are not streamed")

    async def public_reply(self) -> bytes:
        answers = [part.answer for part in self._parts]
        if sum(map(len, answers)) > OFF_LOOP_BYTES:
            return await asyncio.to_thread(join_embeddings, answers)
        return join_embeddings(answers)

    async def whole(self, sent: bytes | None, facts: ReplyFacts) -> bytes | None:
        return await self.public_reply()

    def as_stream(self, whole: bytes) -> bytes:
        raise TypeError("embeddings are not streamed")

    def stream_end(self, ended: Ended) -> bytes:
        raise TypeError("embeddings are not streamed")
