"""The served API: requests in, answers out. What is answered is decided elsewhere.

Whatever happens, a client gets an answer in its dialect, and every request leaves a trace: a run, a refusal, a
served request, or, where nobody was known yet, a count.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
from aiohttp import web

import palyra
from palyra.daemon.answers import EVERY_ANSWER, JSON, STRICT, refusal_answer
from palyra.daemon.bodies import FORM, Bodies, Body, decode_body
from palyra.daemon.caching import with_cache
from palyra.daemon.console import PREFIX, Console
from palyra.daemon.health import ALIVE, readiness
from palyra.daemon.models import find_model, list_models
from palyra.daemon.request_lines import RequestLine
from palyra.daemon.requests import NOWHERE, Entrance, GatewayLimits, Route, Visit
from palyra.daemon.stream import StreamClient, write_watched
from palyra.decisions.arrivals import session_of
from palyra.decisions.keys import Caller
from palyra.decisions.naming import resolve
from palyra.decisions.pricing import variant_of
from palyra.decisions.repeats import command_name
from palyra.decisions.runs import AdmitRun
from palyra.engine.access import Access
from palyra.engine.client import Reply
from palyra.engine.core import Core
from palyra.engine.counting import count_upstream
from palyra.engine.exchange import ClientGone
from palyra.engine.runs import Runs
from palyra.engine.surfaces import Around, EmbeddingsSurface
from palyra.engine.text_surface import ChatSurface, MessagesSurface, ResponsesSurface, TextSurface
from palyra.engine.throttle import Passage
from palyra.engine.transcription_surface import TranscriptionSurface
from palyra.errors import EngineStopped, JournalUnwritable, Refusal, Refused
from palyra.events.registry import Registry
from palyra.events.routing import Features
from palyra.projections.runs import summary_of
from palyra.redaction import hide_keys
from palyra.units import US_PER_S, ms_to_s, us_to_ms
from palyra.wire.dialects import DIALECT_ROWS, read_in_full
from palyra.wire.errors import WireError
from palyra.wire.keywords import count_keywords
from palyra.wire.messages_surface import decode_messages
from palyra.wire.request import SurfaceRequest, decode_chat, decode_embeddings
from palyra.wire.responses_surface import decode_responses
from palyra.wire.target import WAYS
from palyra.wire.transcription import decode_transcription

_MODEL = "/v1/models/"
_MESSAGES = "/v1/messages"
_SERVICE = b'{"object":"service","name":"palyra"}'
_GONE = Refusal(code="client_disconnected", message="The client has gone.")


class Gateway:
    """Answers every request of the web server."""

    def __init__(
        self,
        *,
        core: Core,
        runs: Runs,
        access: Access,
        limits: GatewayLimits,
        log: Callable[[RequestLine], None],
        on_bug: Callable[[str], None],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        #: Set by whoever stops the daemon: nothing new is taken, what is open goes on.
        self.is_draining = False
        #: What answers below `/console/v1/`; None where there is nothing to ask.
        self.console: Console | None = None
        self._core = core
        self._runs = runs
        self._access = access
        self._stall_ms = limits.client_stall_ms
        self._log = log
        #: Called with the run's id inside the handler of an exception that nobody expected.
        self._on_bug = on_bug
        self._pause = pause
        self._more = STRICT if limits.is_strict else {}
        self.entrance = Entrance(core, access, limits)
        #: The registry of which it was last asked what its chat models need.
        self._registry_seen: Registry | None = None
        self._chat_is_translated = False
        self.bodies = Bodies(
            max_request_bytes=limits.max_request_bytes,
            max_inflight_bytes=limits.max_inflight_bytes,
            max_audio_bytes=limits.max_audio_bytes,
            read_ms=limits.body_read_ms,
        )
        places = [
            Route("/v1/chat/completions", "chat", "v1:chat", {"POST": self._chat}),
            Route("/v1/messages", "messages", "v1:messages", {"POST": self._messages}),
            Route("/v1/messages/count_tokens", "count_tokens", "v1:messages", {"POST": self._count_tokens}),
            Route("/v1/responses", "responses", "v1:responses", {"POST": self._responses}),
            Route("/v1/embeddings", "embeddings", "v1:embeddings", {"POST": self._embeddings}),
            Route(
                "/v1/audio/transcriptions",
                "audio_transcription",
                "v1:audio",
                {"POST": self._transcribe},
            ),
            Route("/v1/models", "models", "v1:models", {"GET": self._list_models}),
            Route("/v1/openapi.json", "openapi", "", {"GET": self._openapi}),
            Route("/v1", "service", "", {"GET": self._service, "HEAD": self._service}),
            Route("/", "service", "", {"GET": self._service, "HEAD": self._service}),
            Route("/healthz", "health", "", {"GET": self._alive, "HEAD": self._alive}),
            Route("/readyz", "health", "", {"GET": self._ready, "HEAD": self._ready}),
        ]
        self._routes = {route.template: route for route in places}
        #: The API as it describes itself, once somebody has asked.
        self._described = b""
        self._model_route = Route("/v1/models/{id}", "models", "v1:models", {"GET": self._find_model})

    @property
    def places(self) -> list[Route]:
        """Every place that is served."""
        return [*self._routes.values(), self._model_route]

    def adopt(self, limits: GatewayLimits) -> None:
        """Let these limits hold for requests that come from now on."""
        self.entrance.adopt(limits)
        self.bodies.bound(
            max_request_bytes=limits.max_request_bytes,
            max_inflight_bytes=limits.max_inflight_bytes,
            max_audio_bytes=limits.max_audio_bytes,
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; raises nothing but cancellation, which means that its client has gone."""
        clock = self._core.clock
        started_us = clock.monotonic_us()
        visit = Visit(request, self._core.ids.ulid(clock.now_us()))
        visit.more = self._more
        status = _GONE.http_status
        try:
            response = await self._answer(visit)
            status = response.status
            return response
        except ClientGone:
            await self._record_gone(visit)
            return web.Response(status=_GONE.http_status)
        except asyncio.CancelledError:
            await self._record_gone(visit)
            raise
        finally:
            if visit.passage is not None:
                visit.passage.end()
            if visit.client is not None:
                visit.sent_bytes += visit.client.sent_bytes
            self._log(
                RequestLine(
                    method=request.method,
                    route=visit.route.template,
                    status=status,
                    duration_ms=us_to_ms(clock.monotonic_us() - started_us),
                    sent_bytes=visit.sent_bytes,
                    run_id=visit.run_id,
                )
            )

    def reject(self, request: web.BaseRequest, refusal: Refusal) -> web.Response:
        """Answer what could not be read as a request at all."""
        visit = Visit(request, self._core.ids.ulid(self._core.clock.now_us()))
        self._count_denied(visit, refusal)
        status, headers, body = refusal_answer(refusal, visit.run_id, is_anthropic=_speaks_anthropic(request))
        return web.Response(status=status, headers={**EVERY_ANSWER, **headers}, body=body)

    # -- the way in

    async def _answer(self, visit: Visit) -> web.StreamResponse:
        try:
            if self.console is not None and visit.request.path.startswith(PREFIX):
                answer = await self.console.answer(visit)
                return answer if isinstance(answer, web.StreamResponse) else await self._send(visit, *answer)
            return await self._serve(visit)
        except Refused as refused:
            return await self._refuse(visit, refused.refusal)
        except WireError as error:
            refusal = Refusal(code=error.code, message=error.message, param=error.param)
            return await self._refuse(visit, refusal)
        except (JournalUnwritable, EngineStopped) as error:
            return await self._refuse(visit, _unwritable(error))
        except ClientGone:
            raise
        except Exception:
            self._on_bug(visit.run_id)
            if visit.client is not None and visit.client.response is not None:
                visit.client.abort()
                return visit.client.response
            return await self._refuse(visit, Refusal(code="internal", message="Something went wrong here."))

    async def _serve(self, visit: Visit) -> web.StreamResponse:
        """Pass the checks in their order, then do what is asked."""
        request = visit.request
        visit.route = route = self._find(request)
        if route.scope or route is NOWHERE:
            self.entrance.check_state(
                is_draining=self.is_draining, is_surplus=getattr(request.protocol, "is_surplus", False)
            )
        self.entrance.check_host(visit)
        if route.surface != "health":
            self.entrance.check_origin(visit)
        if route is NOWHERE:
            raise Refused(Refusal(code="route_not_found", message="There is nothing here; the API is below /v1."))
        if request.method == "OPTIONS" and "Access-Control-Allow-Origin" in visit.more:
            return await self._send(visit, 204, _preflight(route), b"")
        handler = route.methods.get(request.method)
        if handler is None:
            message = f"{route.template} takes {' and '.join(route.methods)} only."
            raise Refused(Refusal(code="method_not_allowed", message=message))
        if route.scope:
            self.entrance.let_in(visit, route.scope)
        return await handler(visit)

    def _find(self, request: web.BaseRequest) -> Route:
        route = self._routes.get(request.raw_path) or self._routes.get(request.path)
        if route is not None:
            return route
        return self._model_route if request.path.startswith(_MODEL) and request.path != _MODEL else NOWHERE

    # -- the places

    async def _chat(self, visit: Visit) -> web.StreamResponse:
        if not self._translates_chat():
            return await self._run(visit, decode_chat, ChatSurface)
        return await self._run_text(visit, decode_chat, ChatSurface)

    async def _messages(self, visit: Visit) -> web.StreamResponse:
        return await self._run_text(visit, decode_messages, MessagesSurface)

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

    async def _count_tokens(self, visit: Visit) -> web.StreamResponse:
        """Tell how long a message is: by its provider where that can tell for free, else by our estimate."""
        body = await self.bodies.read(visit.request, visit.headers)
        try:
            request, digest = await decode_body(decode_messages, body.data, self._runs.apart)
            command = _admission(visit, request, body, digest)
            count = await count_upstream(self._runs, command, request, visit.headers)
        finally:
            body.release()
        self._note_served(visit, 200)
        headers = {**JSON, **_named(visit.run_id), **({"x-palyra-estimated": "true"} if count is None else {})}
        counted = {"input_tokens": request.raw_tokens if count is None else count}
        return await self._send(visit, 200, headers, msgspec.json.encode(counted))

    async def _responses(self, visit: Visit) -> web.StreamResponse:
        return await self._run_text(visit, decode_responses, ResponsesSurface)

    async def _embeddings(self, visit: Visit) -> web.StreamResponse:
        return await self._run(visit, decode_embeddings, EmbeddingsSurface)

    async def _transcribe(self, visit: Visit) -> web.StreamResponse:
        decode = functools.partial(decode_transcription, visit.headers.get("content-type", ""))
        return await self._run(visit, decode, TranscriptionSurface, media_type=FORM)

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

    async def _run_text(
        self, visit: Visit, decode: Callable[[bytes], SurfaceRequest], surface: type[TextSurface]
    ) -> web.StreamResponse:
        policy = visit.attribution.unsupported
        return await self._run(visit, functools.partial(read_in_full, decode, policy), surface)

    async def _run(
        self,
        visit: Visit,
        decode: Callable[[bytes], SurfaceRequest],
        surface: type[TextSurface] | type[EmbeddingsSurface] | type[TranscriptionSurface],
        *,
        media_type: str = JSON["content-type"],
    ) -> web.StreamResponse:
        """Start a run and wait for its end; the run goes on if its client does not wait."""
        body = await self.bodies.read(visit.request, visit.headers, media_type)
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
        run.task.add_done_callback(body.release)
        if visit.passage is not None:
            run.task.add_done_callback(functools.partial(self._settle, visit.passage, visit.run_id))
            visit.passage = None
        try:
            reply = await asyncio.shield(run.task)
        except asyncio.CancelledError:
            run.leave()
            raise
        return await self._deliver(visit, reply)

    def _charge(self, visit: Visit, request: SurfaceRequest) -> None:
        """Count a request's tokens against the limit of its key; raises `Refused`."""
        if visit.passage is not None:
            tokens = request.raw_tokens + (request.output_max_tokens or 0)
            refusal = visit.passage.charge(tokens, self._core.clock.now_us())
            if refusal is not None:
                raise Refused(refusal)

    def _settle(self, passage: Passage, run_id: str, _ended: object) -> None:
        """Correct what an ended run was charged by what it used; one that left no line of its own used nothing."""
        passage.end()
        if passage.counts_tokens:
            summary = summary_of(self._core.state, run_id)
            used = 0 if summary is None else summary.input_tokens + summary.output_tokens
            passage.settle(used, self._core.clock.now_us())

    async def _deliver(self, visit: Visit, reply: Reply) -> web.StreamResponse:
        if visit.client is None or visit.client.response is None:
            return await self._send(visit, reply.status, reply.headers, reply.body or b"")
        return await visit.client.end()

    async def _list_models(self, visit: Visit) -> web.StreamResponse:
        assert visit.caller is not None
        page = visit.request.query if _speaks_anthropic(visit.request) else None
        body = list_models(self._core.state, visit.caller.models, self._core.clock.now_us(), page=page)
        self._note_served(visit, 200)
        return await self._send(visit, 200, {**JSON, **_named(visit.run_id)}, body)

    async def _find_model(self, visit: Visit) -> web.StreamResponse:
        name = visit.request.path.removeprefix(_MODEL)
        assert visit.caller is not None
        found = find_model(
            self._core.state,
            name,
            visit.caller.models,
            self._core.clock.now_us(),
            is_anthropic=_speaks_anthropic(visit.request),
        )
        if not isinstance(found, Refusal):
            self._note_served(visit, 200)
            return await self._send(visit, 200, {**JSON, **_named(visit.run_id)}, found)
        self._note_served(visit, found.http_status)
        answer = refusal_answer(found, visit.run_id, is_anthropic=_speaks_anthropic(visit.request))
        return await self._send(visit, *answer)

    def _note_served(self, visit: Visit, status: int) -> None:
        assert visit.caller is not None
        principal_id = visit.caller.principal_id
        visit.is_recorded = True
        self._runs.served(endpoint=visit.route.surface, principal_id=principal_id, http_status=status)

    async def _service(self, visit: Visit) -> web.StreamResponse:
        return await self._send(visit, 200, JSON, _SERVICE)

    async def _openapi(self, visit: Visit) -> web.StreamResponse:
        if not self._described:
            from palyra.wire.openapi import Place, describe  # hardly ever asked

            places = [Place(one.template, one.surface, bool(one.scope), one.methods) for one in self.places]
            self._described = msgspec.json.encode(describe(places, palyra.__version__))
        return await self._send(visit, 200, JSON, self._described)

    async def _alive(self, visit: Visit) -> web.StreamResponse:
        return await self._send(visit, 200, JSON, ALIVE)

    async def _ready(self, visit: Visit) -> web.StreamResponse:
        status, body = readiness(is_draining=self.is_draining, is_writable=self._core.takes_runs)
        return await self._send(visit, status, JSON, body)

    # -- the way out

    async def _refuse(self, visit: Visit, refusal: Refusal) -> web.StreamResponse:
        """Answer with a refusal, and leave its trace."""
        if visit.caller is None:
            delay_ms = self._count_denied(visit, refusal)
            if delay_ms:
                await self._pause(ms_to_s(delay_ms))
        elif not visit.is_recorded:
            refusal = await self._record_refused(visit, visit.caller, refusal)
        answer = refusal_answer(
            refusal,
            visit.run_id,
            is_anthropic=_speaks_anthropic(visit.request),
            allowed_methods=visit.route.methods,
        )
        return await self._send(visit, *answer)

    def _count_denied(self, visit: Visit, refusal: Refusal) -> int:
        """Count a request that was turned away; return for how many milliseconds its answer is held back."""
        with contextlib.suppress(JournalUnwritable, EngineStopped):
            return self._access.deny(visit.route.surface, refusal.code, visit.peer.address)
        return 0

    async def _record_refused(self, visit: Visit, caller: Caller, refusal: Refusal) -> Refusal:
        """Record a refusal and return what is answered: the refusal, or that it could not be recorded."""
        visit.is_recorded = True
        command = AdmitRun(
            run_id=visit.run_id,
            principal_id=caller.principal_id,
            key_id=caller.key_id,
            endpoint=_role_of(visit.route),
            dialect=_dialect_of(visit.route),
            raw_tokens=0,
            body_digest="",
            body_bytes=0,
        )
        try:
            await self._runs.refuse(command, refusal)
        except (JournalUnwritable, EngineStopped) as error:
            return _unwritable(error)
        return refusal

    async def _record_gone(self, visit: Visit) -> None:
        """Leave the trace of a client that went before its request was understood."""
        if visit.caller is not None and not visit.is_recorded:
            await self._record_refused(visit, visit.caller, _GONE)

    async def _send(self, visit: Visit, status: int, headers: Mapping[str, str], body: bytes) -> web.StreamResponse:
        request = visit.request
        response = web.Response(status=status, headers={**EVERY_ANSWER, **headers, **visit.more}, body=body)
        if self.is_draining or getattr(request.protocol, "is_surplus", False):
            response.force_close()
        visit.sent_bytes = len(body)
        await response.prepare(request)
        await write_watched(request, response.write_eof(), len(body), self._stall_ms)
        return response


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
        endpoint=_role_of(visit.route),
        dialect=_dialect_of(visit.route),
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


def _preflight(route: Route) -> dict[str, str]:
    """Return what lets a named page ask; what it may ask for, the request itself is judged by."""
    return {
        "Access-Control-Allow-Methods": ", ".join(route.methods),
        "Access-Control-Allow-Headers": "*, Authorization",
        "Access-Control-Max-Age": "600",
    }


def _speaks_anthropic(request: web.BaseRequest) -> bool:
    """Return whether a client expects Anthropic's envelopes: by the place, or by what it says of itself."""
    return request.path.startswith(_MESSAGES) or "anthropic-version" in request.headers


def _role_of(route: Route) -> str:
    """Return the role of the models that a place needs; another place is counted under its own name."""
    return "chat" if route.surface in DIALECT_ROWS else route.surface


def _dialect_of(route: Route) -> str:
    return route.surface if route.surface in DIALECT_ROWS else ""


def _named(run_id: str) -> dict[str, str]:
    return {"x-palyra-run-id": run_id, "request-id": run_id, "x-request-id": run_id}


def _unwritable(error: JournalUnwritable | EngineStopped) -> Refusal:
    return Refusal(code=error.code, message=str(error), retry_after_ms=1_000)
