"""`/console/v1/`: the HTTP door to what `palyra.engine.console` answers and changes.

It reads what was sent strictly, asks who sent it, and writes answers and errors in the console's one form. What is
answered is defined elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypedDict
from urllib.parse import parse_qsl, unquote

import msgspec
from aiohttp import web

from palyra.daemon.answers import CONSOLE_ANSWER, JSON
from palyra.daemon.bodies import Bodies
from palyra.daemon.doorkeeper import Door, Doorkeeper
from palyra.daemon.doorkeeper import Told as DoorTold
from palyra.daemon.feeds import Feed
from palyra.daemon.login_pages import LoginPages, PageAnswer
from palyra.daemon.operators import Operator, authorize
from palyra.daemon.requests import NOWHERE, Entrance, Route, Visit
from palyra.daemon.stream import StreamClient
from palyra.engine.access import Access
from palyra.engine.client import refusal_headers
from palyra.engine.console.change_table import CHANGES
from palyra.engine.console.changes import Change, Changer
from palyra.engine.console.frame import Download, Params, Question, Told, read_body, read_query
from palyra.engine.console.live import LiveSights
from palyra.engine.console.table import DOWNLOADS, QUESTIONS
from palyra.engine.exchange import ClientGone
from palyra.engine.logins import Logins
from palyra.engine.oauth import OPENAI_OAUTH_CALLBACK_PATH
from palyra.errors import CODES, JournalUnwritable, PalyraError, Refusal, Refused
from palyra.limits import CLIENT_STALL_MS
from palyra.units import ms_to_s

PREFIX = "/console/v1/"
#: The one place that knows nobody yet.
LOGIN = "auth/login"

_BODY_MAX_BYTES = 1 << 20
_KEY_MAX_CHARS = 200
#: What the frame itself takes from the query of every question.
_FRAME = ("at", "at_least", "zone")

Answer = tuple[int, dict[str, str], bytes]


class Page(NamedTuple):
    """A page that a browser sees of whom nobody knows who it is."""

    show: Callable[[Visit, str], Awaitable[PageAnswer]]


#: What stands behind a path and a method.
Thing = Question[Any, Any] | Change[Any, Any] | Download[Any] | Door | Feed | Page


class _Frame(TypedDict, total=False):
    """Of which moment something is asked."""

    at: str | None
    at_least: int | None
    zone: str | None


class _Found(NamedTuple):
    """A place of the API, and what stands in its placeholders."""

    template: str
    methods: Mapping[str, Thing]
    place: dict[str, str]


class Console:
    """Answers requests below `/console/v1/`."""

    def __init__(
        self,
        *,
        sights: LiveSights,
        changer: Changer | None,
        access: Access,
        logins: Logins,
        doorkeeper: Doorkeeper,
        entrance: Entrance,
        feed: Feed | None,
        login_pages: LoginPages | None,
        is_draining: Callable[[], bool],
        on_bug: Callable[[str], None],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Without `changer`, `feed` and `login_pages` it answers questions about a journal that nobody writes."""
        self._pause = pause
        self._sights = sights
        self._changer = changer
        self._access = access
        self._logins = logins
        self._doorkeeper = doorkeeper
        self._entrance = entrance
        self._is_draining = is_draining
        self._on_bug = on_bug
        self._bodies = Bodies(max_request_bytes=_BODY_MAX_BYTES, max_inflight_bytes=16 * _BODY_MAX_BYTES)
        self._places: dict[str, dict[str, Thing]] = {path: dict(doors) for path, doors in doorkeeper.places.items()}
        if feed is not None:
            self._places["events"] = {"GET": feed}
        if login_pages is not None:
            self._places |= {path: {"GET": page} for path, page in _pages(login_pages).items()}
        asked: list[Question[Any, Any] | Download[Any]] = [*QUESTIONS, *DOWNLOADS]
        for thing in asked:
            self._places.setdefault(thing.path, {})[thing.method] = thing
        for change in CHANGES:
            self._places.setdefault(change.path, {})[change.method] = change

    async def answer(self, visit: Visit) -> Answer | web.StreamResponse:
        """Return status, headers and body, or what was streamed; raises `ClientGone` and cancellation alone."""
        operator: Operator | None = None
        try:
            self._entrance.check_host(visit)
            if visit.request.path == PREFIX + LOGIN and visit.request.method == "POST":
                visit.route = Route(PREFIX + LOGIN, "console", "", {})
                self._doorkeeper.check_login(visit)
                return _answer(await self._doorkeeper.log_in(visit, await self._read(visit)))
            found = self._find(visit)
            thing = found.methods.get(visit.request.method)
            if thing is None:
                message = f"{found.template} takes {' and '.join(found.methods)} only."
                raise Refused(Refusal(code="method_not_allowed", message=message))
            if isinstance(thing, Page):
                return await self._show(visit, thing, found.place.get("id", ""))
            is_change = thing.is_change if isinstance(thing, Door) else isinstance(thing, Change)
            known = authorize(visit, self._access, self._logins, thing.scope, is_change=is_change)
            if isinstance(known, Refusal):
                raise Refused(known)
            operator = known
            if isinstance(thing, Door):
                await self._read(visit)
                return _answer(await thing.act(visit, operator, found.place.get("id", "")))
            if isinstance(thing, Feed):
                return await thing.stream(visit, lambda: self._is_welcome(visit, thing.scope))
            if isinstance(thing, Download):
                return await self._send(visit, thing, found.place, operator)
            if isinstance(thing, Change):
                told = await self._change(visit, thing, found.place, operator)
                return thing.http_status, _headers(), told.data
            told = await self._ask(visit, thing, found.place, operator)
            return 200, _headers(), told.data
        except ClientGone:
            raise
        except Refused as refused:
            refusal, hint = refused.refusal, None
        except PalyraError as error:
            code = error.code if error.code in CODES else "internal"
            refusal, hint = Refusal(code=code, message=str(error)), error.hint
        except Exception:
            self._on_bug(visit.run_id)
            refusal, hint = Refusal(code="internal", message="Something went wrong here."), None
        if operator is None:
            delay_ms = self._access.deny("console", refusal.code, visit.peer.address)
            if delay_ms:
                await self._pause(ms_to_s(delay_ms))
        return _error(refusal, hint, visit)

    async def _show(self, visit: Visit, page: Page, place: str) -> Answer:
        """Answer a browser with a page; those that are turned away are counted, and slowed down as others are."""
        told = await page.show(visit, place)
        if told.code:
            delay_ms = self._access.deny("console", told.code, visit.peer.address)
            if delay_ms:
                await self._pause(ms_to_s(delay_ms))
        return told.status, dict(told.headers), told.body

    def _is_welcome(self, visit: Visit, scope: str) -> bool:
        """Return whether whoever was let in would be let in again: a login ends, a key is revoked."""
        return isinstance(authorize(visit, self._access, self._logins, scope, is_change=False), Operator)

    def _find(self, visit: Visit) -> _Found:
        path = visit.request.raw_path.partition("?")[0].removeprefix(PREFIX)
        parts = [unquote(part) for part in path.split("/")]
        found = [
            _Found(PREFIX + template, methods, place)
            for template, methods in self._places.items()
            if (place := _match(template.split("/"), parts)) is not None
        ]
        if found:
            # A name in a placeholder may be a word of another path: `budgets/check` is both.
            best = next((one for one in found if visit.request.method in one.methods), found[0])
            visit.route = Route(best.template, "console", "", {})
            return best
        visit.route = NOWHERE
        raise Refused(Refusal(code="route_not_found", message="The console's API has nothing there."))

    async def _ask(
        self, visit: Visit, question: Question[Any, Any], place: Mapping[str, str], operator: Operator
    ) -> Told:
        params, frame = await self._asked(visit, question, place, operator)
        return await self._sights.ask(question, params, **frame)

    async def _send(
        self, visit: Visit, download: Download[Any], place: Mapping[str, str], operator: Operator
    ) -> web.StreamResponse:
        """Send a file as it is made; one that cannot be made whole is broken off, and nobody takes it for one."""
        params, frame = await self._asked(visit, download, place, operator)
        async with self._sights.download(download, params, **frame) as arriving:
            visit.client = client = StreamClient(visit.request, stall_ms=CLIENT_STALL_MS, headers=CONSOLE_ANSWER)
            name = f'attachment; filename="{arriving.file_name}"'
            await client.begin({"Content-Type": arriving.content_type, "Content-Disposition": name})
            try:
                async for chunk in arriving.chunks:
                    await client.send(chunk)
                return await client.end()
            except PalyraError:
                self._on_bug(visit.run_id)
                client.abort()
                assert client.response is not None
                return client.response

    async def _asked(
        self,
        visit: Visit,
        thing: Question[Any, Any] | Download[Any],
        place: Mapping[str, str],
        operator: Operator,
    ) -> tuple[Params, _Frame]:
        """Return what is asked and of which moment; whoever comes with a program's key asks about itself."""
        pairs = parse_qsl(visit.request.query_string, keep_blank_values=True)
        given = {name: value for name, value in pairs if name in _FRAME}
        rest = [pair for pair in pairs if pair[0] not in _FRAME]
        if thing.method == "POST":
            for name, _ in rest:
                message = f"'{name}' is not taken here; what is asked stands in the body."
                raise Refused(Refusal(code="invalid_query", message=message, param=name))
            params = read_body(thing.params, await self._read(visit), place)
        else:
            params = read_query(thing.params, rest, place)
        if operator.is_program and thing.own:
            params = _about_itself(thing.own, params, operator)
        elif operator.is_program and isinstance(thing, Download):
            message = "This tells of everybody; a client key sees what its own principal used."
            raise Refused(Refusal(code="binding_violation", message=message))
        at_least = given.get("at_least")
        if at_least is not None and not (at_least.isascii() and at_least.isdigit() and len(at_least) <= 18):
            message = "'at_least' is a position, a whole number."
            raise Refused(Refusal(code="invalid_query", message=message, param="at_least"))
        frame: _Frame = {"at": given.get("at"), "zone": given.get("zone")}
        frame["at_least"] = None if at_least is None else int(at_least)
        return params, frame

    async def _change(
        self, visit: Visit, change: Change[Any, Any], place: Mapping[str, str], operator: Operator
    ) -> Told:
        if self._changer is None:
            raise JournalUnwritable
        if self._is_draining():
            raise Refused(Refusal(code="draining", message="Palyra is shutting down.", retry_after_ms=5_000))
        for name, _ in parse_qsl(visit.request.query_string, keep_blank_values=True):
            if name == "at":
                raise Refused(Refusal(code="in_the_past", message="The past cannot be changed.", param="at"))
            message = f"'{name}' is not taken here; what a change takes stands in its body."
            raise Refused(Refusal(code="invalid_query", message=message, param=name))
        key = visit.headers.get("idempotency-key", "")
        if len(key) > _KEY_MAX_CHARS or not key.isascii() or not (key.isprintable() or not key):
            message = f"Idempotency-Key is a text of at most {_KEY_MAX_CHARS} characters."
            raise Refused(Refusal(code="invalid_header", message=message))
        params = read_body(change.params, await self._read(visit), place)
        return await self._changer.change(change, params, actor=operator.actor, scopes=operator.scopes, key=key)

    async def _read(self, visit: Visit) -> bytes:
        if not visit.request.can_read_body:
            return b""
        body = await self._bodies.read(visit.request, visit.headers)
        body.release()
        return body.data


def _pages(pages: LoginPages) -> dict[str, Page]:
    async def launch(visit: Visit, place: str) -> PageAnswer:
        return await pages.launch(place)

    async def callback(visit: Visit, place: str) -> PageAnswer:
        return await pages.callback(visit.request.rel_url.raw_query_string, visit.request.cookies)

    async def done(visit: Visit, place: str) -> PageAnswer:
        return await pages.done(place)

    beside = OPENAI_OAUTH_CALLBACK_PATH.removeprefix(PREFIX).removesuffix("callback")
    return {
        f"{beside}launch/{{id}}": Page(launch),
        f"{beside}callback": Page(callback),
        f"{beside}done/{{id}}": Page(done),
    }


def _about_itself(own: str, params: Params, operator: Operator) -> Params:
    """Return parameters that ask about the asker; raises `Refused` where they ask about somebody else."""
    if getattr(params, own) not in ("", operator.actor):
        message = "A client key sees what its own principal used, and nobody else's."
        raise Refused(Refusal(code="binding_violation", message=message, param=own))
    return msgspec.structs.replace(params, **{own: operator.actor})


def _match(template: list[str], parts: list[str]) -> dict[str, str] | None:
    """Return what stands in a template's placeholders, None where a path is not of it."""
    if len(template) != len(parts):
        return None
    place: dict[str, str] = {}
    for wanted, part in zip(template, parts, strict=True):
        if wanted.startswith("{") and part:
            place[wanted[1:-1]] = part
        elif wanted != part:
            return None
    return place


def _headers() -> dict[str, str]:
    return {**JSON, **CONSOLE_ANSWER}


def _answer(told: DoorTold) -> Answer:
    return told.status, {**_headers(), **told.headers}, told.data


def _error(refusal: Refusal, hint: str | None, visit: Visit) -> Answer:
    headers = {**_headers(), **refusal_headers(refusal)}
    if refusal.http_status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="palyra"'
    error = {
        "code": refusal.code,
        "message": refusal.message,
        "field": refusal.param,
        "hint": hint,
        "retry_after_ms": refusal.retry_after_ms,
        "correlation": visit.run_id,
        **refusal.details,
    }
    return refusal.http_status or 503, headers, msgspec.json.encode({"error": error})
