"""The places that can spend: a body becomes a request, a request a command, and a command a run.

What becomes of the run is decided behind this; what its client is told, in front of it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from palyra.daemon.answers import JSON
from palyra.daemon.bodies import FORM, Bodies, Body, decode_body
from palyra.daemon.caching import with_cache
from palyra.daemon.requests import Route, Visit
from palyra.daemon.stream import StreamClient
from palyra.decisions.arrivals import session_of
from palyra.decisions.naming import resolve
from palyra.decisions.pricing import variant_of
from palyra.decisions.repeats import command_name
from palyra.decisions.runs import AdmitRun
from palyra.engine.client import Reply
from palyra.engine.core import Core
from palyra.engine.counting import count_upstream
from palyra.engine.runs import Runs
from palyra.engine.surfaces import Around, EmbeddingsSurface
from palyra.engine.text_surface import ChatSurface, MessagesSurface, ResponsesSurface, TextSurface
from palyra.engine.throttle import Passage
from palyra.engine.transcription_surface import TranscriptionSurface
from palyra.errors import Refusal, Refused
from palyra.events.registry import Registry
from palyra.events.routing import Features
from palyra.projections.runs import summary_of
from palyra.redaction import hide_keys
from palyra.units import US_PER_S
from palyra.wire.dialects import DIALECT_ROWS, read_in_full
from palyra.wire.keywords import count_keywords
from palyra.wire.read_surfaces import decode_messages, decode_responses
from palyra.wire.request import SurfaceRequest, decode_chat, decode_embeddings
from palyra.wire.target import WAYS
from palyra.wire.transcription import decode_transcription


class Spending:
    """Takes requests that were let in, and returns what they are answered; raises `Refused` and `WireError`."""

    def __init__(self, core: Core, runs: Runs, bodies: Bodies, *, stall_ms: int) -> None:
        self._core = core
        self._runs = runs
        self._bodies = bodies
        self._stall_ms = stall_ms
        #: The registry of which it was last asked what its chat models need.
        self._registry_seen: Registry | None = None
        self._chat_is_translated = False

    # -- the places

    def chat(self, visit: Visit) -> Awaitable[Reply]:
        """`POST /v1/chat/completions`."""
        if not self._translates_chat():
            return self._run(visit, decode_chat, ChatSurface)
        return self._run_text(visit, decode_chat, ChatSurface)

    def messages(self, visit: Visit) -> Awaitable[Reply]:
        """`POST /v1/messages`."""
        return self._run_text(visit, decode_messages, MessagesSurface)

    def responses(self, visit: Visit) -> Awaitable[Reply]:
        """`POST /v1/responses`."""
        return self._run_text(visit, decode_responses, ResponsesSurface)

    def embeddings(self, visit: Visit) -> Awaitable[Reply]:
        """`POST /v1/embeddings`."""
        return self._run(visit, decode_embeddings, EmbeddingsSurface)

    def transcribe(self, visit: Visit) -> Awaitable[Reply]:
        """`POST /v1/audio/transcriptions`."""
        decode = functools.partial(decode_transcription, visit.headers.get("content-type", ""))
        return self._run(visit, decode, TranscriptionSurface, media_type=FORM)

    async def count_tokens(self, visit: Visit) -> tuple[int, bool]:
        """Return how long a message is and whether its provider said so, for free; else it is our estimate."""
        body = await self._bodies.read(visit.request, visit.headers)
        try:
            request, digest = await decode_body(decode_messages, body.data, self._runs.apart)
            command = _admission(visit, request, body, digest)
            count = await count_upstream(self._runs, command, request, visit.headers)
        finally:
            body.release()
        return (request.raw_tokens, False) if count is None else (count, True)

    # -- the way of a request

    def _translates_chat(self) -> bool:
        """Return whether a chat request may have to be read in full: some model is asked otherwise, or is picky."""
        registry = self._core.state.catalog.registry
        if registry is not self._registry_seen:
            self._registry_seen = registry
            picky = {one.provider_id for one in registry.providers if WAYS[one.flavor].is_picky}
            models = [model for model in registry.models if model.role == "chat"]
            self._chat_is_translated = any(
                model.api_for("chat") != "chat" or model.provider_id in picky for model in models
            )
        return self._chat_is_translated

    def _run_text(
        self, visit: Visit, decode: Callable[[bytes], SurfaceRequest], surface: type[TextSurface]
    ) -> Awaitable[Reply]:
        policy = visit.attribution.unsupported
        return self._run(visit, functools.partial(read_in_full, decode, policy), surface)

    async def _run(
        self,
        visit: Visit,
        decode: Callable[[bytes], SurfaceRequest],
        surface: type[TextSurface] | type[EmbeddingsSurface] | type[TranscriptionSurface],
        *,
        media_type: str = JSON["content-type"],
    ) -> Reply:
        """Start a run and wait for its end; the run goes on if its client does not wait."""
        body = await self._bodies.read(visit.request, visit.headers, media_type)
        try:
            request, digest = await decode_body(decode, body.data, self._runs.apart, media_type)
            if request.stream:
                visit.client = StreamClient(visit.request, stall_ms=self._stall_ms, headers=visit.more)
            self._charge(visit, request)
            keywords = self._core.state.config.routing.keywords
            command = self._continued(_admission(visit, request, body, digest, keywords), request)
            registry = self._core.state.catalog.registry
            if registry.response_cache_enabled and request.recording is None:
                wish = (visit.attribution, request, visit.headers, registry)
                command = await with_cache(command, *wish, self._runs.apart)
            around = Around(
                run_id=visit.run_id,
                principal_id=command.principal_id,
                now_s=self._core.clock.now_us() // US_PER_S,
                default_output_tokens=self._core.state.config.accounting.default_output_cap_tokens,
                memory=self._runs.memory,
                apart=self._runs.apart,
            )
            run = self._runs.start(command, surface(request, visit.headers, around), visit.client)
        except BaseException:
            body.release()
            raise
        visit.is_recorded = True
        run.on_end.append(body.release)
        if visit.passage is not None:
            run.on_end.append(functools.partial(self._settle, visit.passage, visit.run_id))
            visit.passage = None
        try:
            return await run.reply()
        except asyncio.CancelledError:
            run.leave()
            raise

    def _continued(self, command: AdmitRun, request: SurfaceRequest) -> AdmitRun:
        """Return a request that goes on from a response, asked of whoever made that one."""
        previous = request.previous_response_id
        if not previous:
            return command
        resolution = resolve(self._core.state, command.endpoint, command.model)
        if isinstance(resolution, Refusal) or "responses" not in resolution.entries[0].upstream_apis:
            return command  # refused for another reason
        provider_id = self._runs.memory.provider_of(command.principal_id, previous)
        if provider_id is None:
            message = "This response is not known here, or not any more; send the whole input instead."
            refusal = Refusal(code="previous_response_unknown", message=message, param="previous_response_id")
            raise Refused(refusal)
        return msgspec.structs.replace(command, model=f"{provider_id}/{resolution.model_id}", may_pin=True)

    def _charge(self, visit: Visit, request: SurfaceRequest) -> None:
        """Count a request's tokens against the limit of its key; raises `Refused`."""
        if visit.passage is not None:
            tokens = request.raw_tokens + (request.output_max_tokens or 0)
            refusal = visit.passage.charge(tokens, self._core.clock.now_us())
            if refusal is not None:
                raise Refused(refusal)

    def _settle(self, passage: Passage, run_id: str) -> None:
        """Correct what an ended run was charged by what it used; one that left no line of its own used nothing."""
        passage.end()
        if passage.counts_tokens:
            summary = summary_of(self._core.state, run_id)
            used = 0 if summary is None else summary.input_tokens + summary.output_tokens
            passage.settle(used, self._core.clock.now_us())


def _admission(
    visit: Visit, request: SurfaceRequest, body: Body, digest: str, keywords: Sequence[str] = ()
) -> AdmitRun:
    caller, attribution = visit.caller, visit.attribution
    assert caller is not None
    return AdmitRun(
        run_id=visit.run_id,
        principal_id=caller.principal_id,
        key_id=caller.key_id,
        session_id=hide_keys(attribution.session_id) or session_of(caller, request.prompt_cache_key),
        agent_id=hide_keys(attribution.agent_id),
        tags={hide_keys(name): hide_keys(tag) for name, tag in attribution.tags.items()},
        endpoint=role_of(visit.route),
        dialect=dialect_of(visit.route),
        losses=request.losses,
        model=hide_keys(request.model),
        stream=request.stream,
        needs=request.needs,
        raw_tokens=request.raw_tokens,
        output_max_tokens=request.output_max_tokens,
        choices_count=request.choices_count,
        dimensions=request.dimensions,
        body_digest=digest,
        body_bytes=len(body.data),
        audio_ms=0 if request.recording is None else request.recording.length_ms,
        audio_guessed=request.recording is not None and request.recording.is_guessed,
        variant=variant_of(request.service_tier),
        timeout_ms=attribution.timeout_ms,
        failover=attribution.failover,
        routing_mode=attribution.routing_mode,
        task_class=attribution.task_class,
        may_pin=attribution.may_pin,
        features=_features(request, keywords),
        max_cost_nanousd=attribution.max_cost_nanousd,
        wait_approval_ms=attribution.wait_approval_ms,
        command_name=command_name(caller.principal_id, visit.route.template, attribution.idempotency_key)
        if attribution.idempotency_key
        else "",
        models=() if "*" in caller.models else caller.models,
    )


def _features(request: SurfaceRequest, keywords: Sequence[str]) -> Features:
    """Return what the score of a request is made of; its text goes no further than this."""
    form = 2 if "json_schema" in request.needs else 1 if "json_mode" in request.needs else 0
    hits = count_keywords(request.last_text, keywords)
    return Features(tools=request.tools_count, images=request.images_count, json=form, keywords=hits)


def role_of(route: Route) -> str:
    """Return the role of the models that a place needs; another place is counted under its own name."""
    return "chat" if route.surface in DIALECT_ROWS else route.surface


def dialect_of(route: Route) -> str:
    """Return the dialect of a place, "" for one that has none."""
    return route.surface if route.surface in DIALECT_ROWS else ""
