"""The served API: requests in, answers out. What is answered is decided elsewhere.

Whatever happens, a client gets an answer in its dialect, and every request leaves a trace: a run, a refusal, a
served request, or, where nobody was known yet, a count.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from aiohttp import web

import palyra
from palyra.daemon.answers import EVERY_ANSWER, JSON, STRICT, refusal_answer
from palyra.daemon.bodies import Bodies
from palyra.daemon.console import PREFIX, Console
from palyra.daemon.health import ALIVE, readiness
from palyra.daemon.models import find_model, list_models
from palyra.daemon.request_lines import RequestLine
from palyra.daemon.requests import NOWHERE, Entrance, GatewayLimits, Handler, Route, Visit
from palyra.daemon.spending import Spending, dialect_of, role_of
from palyra.daemon.stream import write_answer
from palyra.decisions.keys import Caller
from palyra.decisions.runs import AdmitRun
from palyra.engine.access import Access
from palyra.engine.client import Reply
from palyra.engine.core import Core
from palyra.engine.exchange import ClientGone
from palyra.engine.runs import Runs
from palyra.errors import EngineStopped, JournalUnwritable, Refusal, Refused
from palyra.units import ms_to_s, us_to_ms
from palyra.wire.errors import WireError

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
        self.bodies = Bodies(
            max_request_bytes=limits.max_request_bytes,
            max_inflight_bytes=limits.max_inflight_bytes,
            max_audio_bytes=limits.max_audio_bytes,
            read_ms=limits.body_read_ms,
        )
        self._spending = spending = Spending(core, runs, self.bodies, stall_ms=limits.client_stall_ms)
        spends = self._spends
        places = [
            Route("/v1/chat/completions", "chat", "v1:chat", {"POST": spends(spending.chat)}),
            Route("/v1/messages", "messages", "v1:messages", {"POST": spends(spending.messages)}),
            Route("/v1/messages/count_tokens", "count_tokens", "v1:messages", {"POST": self._count_tokens}),
            Route("/v1/responses", "responses", "v1:responses", {"POST": spends(spending.responses)}),
            Route("/v1/embeddings", "embeddings", "v1:embeddings", {"POST": spends(spending.embeddings)}),
            Route(
                "/v1/audio/transcriptions",
                "audio_transcription",
                "v1:audio",
                {"POST": spends(spending.transcribe)},
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
                if visit.client.has_all:  # whoever leaves with the whole answer was answered
                    status = 200
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
            raise Refused(
                Refusal(code="route_not_found", message="Nothing is served here; /v1/openapi.json says what is.")
            )
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

    def _spends(self, ask: Callable[[Visit], Awaitable[Reply]]) -> Handler:
        """Return what answers at a place that can spend."""

        async def handle(visit: Visit) -> web.StreamResponse:
            reply = await ask(visit)
            if visit.client is not None and visit.client.response is not None:
                return await visit.client.end()
            return await self._send(visit, reply.status, reply.headers, reply.body or b"")

        return handle

    async def _count_tokens(self, visit: Visit) -> web.StreamResponse:
        tokens, is_told = await self._spending.count_tokens(visit)
        self._note_served(visit, 200)
        headers = {**JSON, **_named(visit.run_id), **({} if is_told else {"x-palyra-estimated": "true"})}
        return await self._send(visit, 200, headers, msgspec.json.encode({"input_tokens": tokens}))

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
            endpoint=role_of(visit.route),
            dialect=dialect_of(visit.route),
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

    def _send(
        self, visit: Visit, status: int, headers: Mapping[str, str], body: bytes
    ) -> Awaitable[web.StreamResponse]:
        visit.sent_bytes = len(body)
        return write_answer(
            visit.request,
            status,
            {**EVERY_ANSWER, **headers, **visit.more},
            body,
            stall_ms=self._stall_ms,
            closes=self.is_draining or getattr(visit.request.protocol, "is_surplus", False),
        )


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


def _named(run_id: str) -> dict[str, str]:
    return {"x-palyra-run-id": run_id, "request-id": run_id, "x-request-id": run_id}


def _unwritable(error: JournalUnwritable | EngineStopped) -> Refusal:
    return Refusal(code=error.code, message=str(error), retry_after_ms=1_000)
