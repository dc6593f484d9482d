"""A served surface seen from the engine: how its request is prepared for a candidate and its answer read.

One class a surface; all of them answer the same questions, so that the way of a run has no branches for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from palyra.engine.apart import Apart
from palyra.engine.exchange import Ended
from palyra.engine.wire_memory import WireMemory
from palyra.errors import Refusal
from palyra.events.registry import ModelEntry, ProviderEntry
from palyra.limits import APART_BYTES, DEFAULT_OUTPUT_CAP_TOKENS, OFF_LOOP_BYTES
from palyra.wire.apart import join_large, prepare_large_embeddings
from palyra.wire.openai_embeddings import (
    AskedVectors,
    items_of,
    join_embeddings,
    prepare_embeddings,
    read_embeddings,
)
from palyra.wire.openai_errors import error_envelope
from palyra.wire.reply_facts import ReplyFacts
from palyra.wire.request import SurfaceRequest
from palyra.wire.stream_meter import StreamMeter
from palyra.wire.target import WAYS
from palyra.wire.upstream_errors import UpstreamError


class Part(msgspec.Struct, kw_only=True):
    """What one call carries: the request, or a part of it where it is too long for one."""

    items: slice | None = None
    items_count: int = 0
    #: Made for the candidate of the attempt by `Surface.prepare`.
    #: Below the provider's base URL.
    path: str = ""
    #: The dialect that the provider is asked in, and whether the client's own bytes go there.
    api: str = ""
    passthrough: bool = True
    #: The provider is asked for a stream.
    stream: bool = False
    body: bytes = b""
    #: What was spliced, and what the provider's dialect has no place for.
    edits: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    #: The answer in the form that the client gets, kept by `Surface.read`.
    answer: bytes = b""


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """What a surface needs to know of the run that it belongs to."""

    run_id: str = ""
    principal_id: str = ""
    now_s: int = 0
    #: What a provider that demands a maximum is told where neither client nor model names one.
    default_output_tokens: int = DEFAULT_OUTPUT_CAP_TOKENS
    memory: WireMemory | None = None
    #: Who reads and writes what is large; None: it is done on the spot.
    apart: Apart | None = None


class Surface(Protocol):
    """What a run asks of the surface that it came in by."""

    request: SurfaceRequest

    @property
    def keepalive(self) -> bytes:
        """A sign of life for the client of a silent stream."""
        ...

    @property
    def content_type(self) -> str:
        """What a whole answer is."""
        ...

    @property
    def request_type(self) -> str:
        """What the request's body is."""
        ...

    def parts(self, entry: ModelEntry) -> list[Part]:
        """Return the calls that the request takes, the same list each time; it may grow behind the part at hand."""
        ...

    def prepare(
        self, part: Part, provider: ProviderEntry, entry: ModelEntry, output_cap_tokens: int | None
    ) -> None:
        """Make the part's body for a candidate; what is too much for it becomes a part of its own."""
        ...

    def is_heavy(self, entry: ModelEntry) -> bool:
        """Return whether preparing for this candidate takes too long to be done on the loop."""
        ...

    def read(self, part: Part, entry: ModelEntry, body: bytes) -> ReplyFacts:
        """Check a unary answer and keep it as the client gets it; raises `Malformed` or `UpstreamErrorInBody`.

        A large answer is read in a thread, and so is a large part prepared; see `palyra.engine.apart.Apart.do`.
        """
        ...

    def meter(self, entry: ModelEntry, output_cap_tokens: int | None) -> StreamMeter: ...

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

    def stream_error(self, envelope: dict[str, Any], *, has_begun: bool) -> bytes:
        """Return the last bytes of a stream that failed, before anything of the answer was sent or after it."""
        ...

    def envelope(self, refusal: Refusal, *, run_id: str, attempts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return an error answer in the client's dialect as plain data."""
        ...

    def note_refusal(self, error: UpstreamError) -> bool:
        """Take a provider's refusal of the request; return whether another try would be another request."""
        ...

    def headers_for(self, provider: ProviderEntry) -> Mapping[str, str]:
        """Return what a provider gets beside its own headers: of the client's only what its entry lets through."""
        ...

    def answer_headers(self) -> Mapping[str, str]:
        """Return what the client is told of how its request was changed for the candidate at hand."""
        ...


#: Headers of the client's that a provider of its own dialect gets to see, by the surface that it came in by.
PASSED_HEADERS: Mapping[str, Sequence[str]] = {
    "chat": ("openai-beta",),
    "responses": ("openai-beta",),
    "messages": ("anthropic-version", "anthropic-beta"),
    "embeddings": ("openai-beta",),
    "audio_transcription": ("openai-beta",),
}


def passed_headers(
    provider: ProviderEntry, headers: Mapping[str, str], surface: str, *, is_same_dialect: bool = True
) -> dict[str, str]:
    """Return what a provider gets of the client's headers: its dialect's own, and what its entry lets through."""
    names = PASSED_HEADERS[surface] if is_same_dialect else ()
    found = named_headers(headers, [*names, *provider.forward_headers])
    if provider.kind == "deterministic":
        # A script may tell surfaces and sessions apart, and is asked in one dialect only.
        found |= {"x-palyra-surface": surface, **named_headers(headers, ["x-palyra-session"])}
    if provider.allow_private_base_url:
        # What listens on a private address may be a gateway as well; a loop of them ends at the third.
        found["x-palyra-hop"] = str(int(headers.get("x-palyra-hop", "0")) + 1)
    return found


def named_headers(headers: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return the headers of these names, as far as they were sent; the names are found in lower case."""
    return {name: headers[name] for name in map(str.lower, names) if name in headers}


class EmbeddingsSurface:
    """`POST /v1/embeddings`."""

    keepalive = b""
    content_type = request_type = "application/json"

    def __init__(self, request: SurfaceRequest, headers: Mapping[str, str], around: Around | None = None) -> None:
        self.request = request
        self._headers = headers
        self._apart = None if around is None else around.apart
        self._parts: list[Part] = []
        #: Those of a request that takes more than one call.
        self._items: list[msgspec.Raw] | None = None

    def parts(self, entry: ModelEntry) -> list[Part]:
        if not self._parts:
            count = self.request.inputs_count
            self._parts = [Part(items_count=count)]
            self._cut(self._parts[0], entry)
        return self._parts

    def _cut(self, part: Part, entry: ModelEntry) -> None:
        """Leave a part no more than one call of a candidate takes; the rest goes into parts behind it."""
        size, count = entry.max_batch or part.items_count, part.items_count
        if count <= size:
            return
        begin = 0 if part.items is None else part.items.start
        cuts = [slice(begin + start, begin + min(start + size, count)) for start in range(0, count, size)]
        part.items, part.items_count = cuts[0], size
        place = self._parts.index(part) + 1
        self._parts[place:place] = [Part(items=cut, items_count=cut.stop - cut.start) for cut in cuts[1:]]

    def prepare(
        self, part: Part, provider: ProviderEntry, entry: ModelEntry, output_cap_tokens: int | None
    ) -> None:
        self._cut(part, entry)  # another candidate may take less than the one that the parts were made for
        ways = WAYS[provider.flavor]
        if self._apart is not None and len(self.request.body) > APART_BYTES:
            small = msgspec.structs.replace(self.request, body=b"")
            bounds = None if part.items is None else (part.items.start, part.items.stop)
            asked = (entry.upstream_model, ways, bounds)
            prepared = self._apart.ask(prepare_large_embeddings, self.request.body, small, *asked)
        else:
            if part.items is not None:
                self._items = self._items or items_of(self.request)
            items = None if part.items is None or self._items is None else self._items[part.items]
            prepared = prepare_embeddings(self.request, upstream_model=entry.upstream_model, ways=ways, items=items)
        part.api, part.path = "embeddings", "/embeddings"
        part.body, part.edits = prepared.body, prepared.edits

    def is_heavy(self, entry: ModelEntry) -> bool:
        return len(self.request.body) > OFF_LOOP_BYTES

    def read(self, part: Part, entry: ModelEntry, body: bytes) -> ReplyFacts:
        asked = AskedVectors(
            vectors_count=part.items_count,
            dimensions=self.request.dimensions,
            encoding_format=self.request.encoding_format,
            upstream_model=entry.upstream_model,
            public_model=entry.model_id,
        )
        if self._apart is not None and len(body) > APART_BYTES:
            facts, part.answer = self._apart.ask(read_embeddings, body, asked)
        else:
            facts, part.answer = read_embeddings(body, asked)
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

    def meter(self, entry: ModelEntry, output_cap_tokens: int | None) -> StreamMeter:
        raise TypeError("embeddings are not streamed")

    async def public_reply(self) -> bytes:
        answers = [part.answer for part in self._parts]
        size_bytes = sum(map(len, answers))
        if self._apart is None or len(answers) == 1:
            return join_embeddings(answers)
        if size_bytes <= APART_BYTES:
            return await self._apart.do(size_bytes, join_embeddings, answers)
        sizes = [len(answer) for answer in answers]
        return await self._apart.do(size_bytes, self._apart.ask, join_large, b"".join(answers), sizes)

    async def whole(self, sent: bytes | None, facts: ReplyFacts) -> bytes | None:
        return await self.public_reply()

    def as_stream(self, whole: bytes) -> bytes:
        raise TypeError("embeddings are not streamed")

    def stream_end(self, ended: Ended) -> bytes:
        raise TypeError("embeddings are not streamed")

    def stream_error(self, envelope: dict[str, Any], *, has_begun: bool) -> bytes:
        raise TypeError("embeddings are not streamed")

    def envelope(self, refusal: Refusal, *, run_id: str, attempts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        failure_class = str(attempts[-1]["class"]) if attempts else ""
        return error_envelope(refusal, run_id=run_id, failure_class=failure_class, attempts=attempts)

    def headers_for(self, provider: ProviderEntry) -> Mapping[str, str]:
        return passed_headers(provider, self._headers, "embeddings")

    def answer_headers(self) -> Mapping[str, str]:
        return {}

    def note_refusal(self, error: UpstreamError) -> bool:
        return False
