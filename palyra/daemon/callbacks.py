"""Listeners for browsers that a provider sends back to another port of this machine, as its registration says.

Each is there while somebody may come back to it and serves the pages of a login, nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import unquote, urlsplit

from aiohttp import web

from palyra.daemon.answers import EVERY_ANSWER
from palyra.daemon.login_pages import LoginPages, PageAnswer, places_of
from palyra.decisions.arrivals import host_refusal
from palyra.engine.oauth import OPENAI_OAUTH_CALLBACK_PATH, is_here
from palyra.errors import PalyraError, StateError, reason_of


class CallbackListeners:
    """Where browsers come back to, beside the daemon's own address."""

    def __init__(self, own_url: Callable[[], str]) -> None:
        self._own_url = own_url
        #: Set once the pages are there.
        self.pages: LoginPages | None = None
        self._runners: dict[str, web.ServerRunner] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def own_url(self) -> str:
        return self._own_url()

    async def open(self, redirect_uri: str, for_s: float) -> None:
        """Listen where an address leads to, for so long from now; raises `StateError` where somebody else does."""
        place = urlsplit(redirect_uri)
        if not is_here(redirect_uri):
            return
        if redirect_uri in self._runners:
            self._close_after(redirect_uri, for_s)
            return
        if place.port == urlsplit(self.own_url).port:
            if place.path == OPENAI_OAUTH_CALLBACK_PATH:
                return
            message = f"The daemon's own port takes logins at {OPENAI_OAUTH_CALLBACK_PATH} only."
            hint = "correct auth.oauth.openai.redirect_uri"
            raise PalyraError(message, hint=hint, code="oauth_not_configured")
        runner = web.ServerRunner(web.Server(self._handler(redirect_uri), access_log=None), shutdown_timeout=1.0)
        await runner.setup()
        host, port = place.hostname or "", place.port or 80
        try:
            await web.TCPSite(runner, "127.0.0.1" if host.endswith("localhost") else host, port).start()
        except OSError as exc:
            await runner.cleanup()
            message = f"cannot listen on port {port} of {host} for the login to come back to: {reason_of(exc)}"
            raise StateError(message, hint="stop what has it, or use --paste", code="address_in_use") from exc
        self._runners[redirect_uri] = runner
        self._close_after(redirect_uri, for_s)

    def _close_after(self, redirect_uri: str, for_s: float) -> None:
        held = self._timers.get(redirect_uri)
        if held is not None:
            held.cancel()
        loop = asyncio.get_running_loop()
        self._timers[redirect_uri] = loop.call_later(for_s, self._close_later, redirect_uri)

    def _close_later(self, redirect_uri: str) -> None:
        task = asyncio.create_task(self._close(redirect_uri), name="close callback listener")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, redirect_uri: str) -> None:
        self._timers.pop(redirect_uri).cancel()
        await self._runners.pop(redirect_uri).cleanup()

    async def close(self) -> None:
        """Stop listening."""
        for redirect_uri in list(self._runners):
            await self._close(redirect_uri)
        if self._closing:
            await asyncio.wait(self._closing)

    def _handler(self, redirect_uri: str) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        places = places_of(redirect_uri)

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            assert self.pages is not None
            path = unquote(request.rel_url.raw_path)
            if host_refusal(request.headers.get("host"), ()) is not None or request.method != "GET":
                answer = PageAnswer(421, {}, b"")
            elif path == places.callback:
                answer = await self.pages.callback(request.rel_url.raw_query_string, request.cookies)
            elif path.startswith(places.launch):
                answer = await self.pages.launch(path.removeprefix(places.launch))
            elif path.startswith(places.done):
                answer = await self.pages.done(path.removeprefix(places.done))
            else:
                answer = PageAnswer(404, {}, b"")
            return web.Response(status=answer.status, headers={**EVERY_ANSWER, **answer.headers}, body=answer.body)

        return handle
