"""`/console/v1/auth/`: logging in and out, and who is logged in. All of it is about this process and its memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from palyra.daemon.operators import Operator, scheme_of, set_cookie
from palyra.daemon.requests import Visit
from palyra.decisions.arrivals import own_origin_refusal
from palyra.engine.console.frame import At, Items, tell
from palyra.engine.core import Core
from palyra.engine.logins import Logins, Session
from palyra.engine.questions import Answer
from palyra.errors import Refusal, Refused, or_refuse

_SECRET_MAX_CHARS = 400


class LoginBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What opens a session: one of the two."""

    token: str | None = None
    login_code: str | None = None


class SessionAnswer(Answer, frozen=True, kw_only=True):
    """A login, for whom it is."""

    principal: str
    scopes: list[str]
    issued_us: int
    idle_expires_us: int
    expires_us: int


class LoginAnswer(SessionAnswer, frozen=True, kw_only=True):
    """A login that was just made; no other answer has its token."""

    csrf_token: str


class CodeAnswer(Answer, frozen=True, kw_only=True):
    """Where a browser logs in, once."""

    login_url: str
    expires_us: int


class SessionView(Answer, frozen=True, kw_only=True):
    """One line of the list of logins."""

    id: str
    principal: str
    issued_us: int
    last_seen_us: int
    #: It is the one that asks.
    current: bool


class Told(NamedTuple):
    """What goes back."""

    status: int
    data: bytes
    headers: Mapping[str, str] = {}


Act = Callable[[Visit, Operator, str], Awaitable[Told]]


class Door(NamedTuple):
    """One place below `auth/`."""

    act: Act
    is_change: bool
    #: "" for everybody who is known.
    scope: str = ""


class Doorkeeper:
    """Answers what is about sessions."""

    def __init__(self, core: Core, logins: Logins, base_url: Callable[[], str]) -> None:
        """`base_url`: where a browser finds the console."""
        self._core = core
        self._logins = logins
        self._base_url = base_url
        self._doors: dict[str, dict[str, Door]] = {
            "auth/session": {"GET": Door(self._session, is_change=False)},
            "auth/sessions": {"GET": Door(self._list, is_change=False, scope="keys:manage")},
            "auth/sessions/{id}": {"DELETE": Door(self._end, is_change=True, scope="keys:manage")},
            "auth/login-codes": {"POST": Door(self._make_code, is_change=True)},
            "auth/logout": {"POST": Door(self._log_out, is_change=True)},
            "auth/logout-all": {"POST": Door(self._log_out_all, is_change=True)},
        }

    @property
    def places(self) -> dict[str, dict[str, Door]]:
        """Every place that wants somebody known, by path and method."""
        return self._doors

    def check_login(self, visit: Visit) -> None:
        """Refuse a login that a foreign page sends, before its body is read."""
        refusal = own_origin_refusal(visit.headers, scheme_of(visit), is_needed=False)
        if refusal is not None:
            raise Refused(refusal)

    async def log_in(self, visit: Visit, data: bytes) -> Told:
        """Open a session: `POST auth/login`, the one place of the console that knows nobody yet."""
        body = _read(data)
        secret = body.token if body.token is not None else body.login_code
        if secret is None or len(secret) > _SECRET_MAX_CHARS or (body.token and body.login_code):
            message = "A login takes 'token' or 'login_code', one of them."
            raise Refused(Refusal(code="invalid_request", message=message))
        how = "token" if body.token is not None else "login_code"
        made = or_refuse(await self._logins.log_in(how, secret, visit.peer))  # type: ignore[arg-type]
        answer = LoginAnswer(**self._fields(made.session), csrf_token=made.csrf_token.reveal())
        return Told(200, self._tell(answer), set_cookie(visit, made.cookie.reveal()))

    async def _session(self, visit: Visit, operator: Operator, place: str) -> Told:
        return Told(200, self._tell(SessionAnswer(**self._fields(_of(operator)))))

    async def _list(self, visit: Visit, operator: Operator, place: str) -> Told:
        items = [
            SessionView(
                id=one.session_id,
                principal=one.holder.principal_id,
                issued_us=one.issued_us,
                last_seen_us=one.last_seen_us,
                current=one is operator.session,
            )
            for one in self._logins.sessions()
        ]
        return Told(200, self._tell(Items(items=items, next_cursor=None)))

    async def _end(self, visit: Visit, operator: Operator, place: str) -> Told:
        if not self._logins.end(place, "operator", operator.actor):
            raise Refused(Refusal(code="session_not_found", message="There is no such login, or not any more."))
        await self._core.durable()
        return Told(204, b"")

    async def _make_code(self, visit: Visit, operator: Operator, place: str) -> Told:
        if operator.session is not None:
            message = "A login makes no other; this is for the admin key and the control socket."
            raise Refused(Refusal(code="wrong_key_kind", message=message))
        code, until_us = self._logins.make_code(operator.holder)
        url = f"{self._base_url()}/console#code={code.reveal()}"
        return Told(200, self._tell(CodeAnswer(login_url=url, expires_us=until_us)))

    async def _log_out(self, visit: Visit, operator: Operator, place: str) -> Told:
        self._logins.end(_of(operator).session_id, "logout", operator.actor)
        await self._core.durable()
        return Told(204, b"", set_cookie(visit, ""))

    async def _log_out_all(self, visit: Visit, operator: Operator, place: str) -> Told:
        self._logins.end_all(operator.actor)
        await self._core.durable()
        return Told(204, b"", set_cookie(visit, ""))

    def _fields(self, session: Session) -> dict[str, Any]:
        return {
            "principal": session.holder.principal_id,
            "scopes": list(self._logins.scopes_of(session.holder)),
            "issued_us": session.issued_us,
            "idle_expires_us": session.idle_expires_us,
            "expires_us": session.expires_us,
        }

    def _tell(self, answer: Answer) -> bytes:
        core = self._core
        at = At(journal_id=core.journal.journal_id, position=core.state.position, as_of_us=core.clock.now_us())
        return tell(answer, at).data


def _of(operator: Operator) -> Session:
    if operator.session is None:
        message = "This is about the login of a browser, and you came with a key."
        raise Refused(Refusal(code="missing_session", message=message))
    return operator.session


def _read(data: bytes) -> LoginBody:
    try:
        return msgspec.json.decode(data, type=LoginBody)
    except msgspec.DecodeError:
        # What was sent may hold a secret, so nothing of it is repeated.
        message = "A login takes an object with 'token' or 'login_code', both texts, and nothing else."
        raise Refused(Refusal(code="invalid_request", message=message)) from None
