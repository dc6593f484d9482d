"""Who may ask and change things at the console's API: the one place that says so.

Three ways lead in: the control socket, a key, and the cookie of a browser that has logged in. A browser sends its
cookie whoever made the request, so with a cookie a change must come from our own pages and show the second secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from palyra.daemon.requests import Visit
from palyra.decisions.arrivals import own_origin_refusal
from palyra.decisions.keys import ALL_SCOPES, peer_refusal, presented_key, scope_refusal
from palyra.engine.access import Access
from palyra.engine.logins import Holder, Logins, Session
from palyra.errors import Refusal

#: Whoever works as the user that the daemon runs as.
LOCAL_OPERATOR = "operator:local"
CSRF_HEADER = "x-palyra-csrf-token"
_NO_KEY = "No key. The console takes the operator's, as Authorization: Bearer with what admin.token holds."


class Operator(NamedTuple):
    """Whoever asks or changes something, as facts name them."""

    actor: str
    scopes: Sequence[str] = ALL_SCOPES
    #: "" for whoever came without a key.
    key_id: str = ""
    #: The login that the request belongs to, if it came with a cookie.
    session: Session | None = None
    #: Whoever came with the key of a program sees its own use and nobody else's.
    is_program: bool = False

    @property
    def holder(self) -> Holder:
        return Holder(principal_id=self.actor, key_id=self.key_id)


def authorize(visit: Visit, access: Access, logins: Logins, scope: str, *, is_change: bool) -> Operator | Refusal:
    """Return in whose name a request to the console comes, or why it may not do what wants this scope.

    Any key that has the scope may read; changes are for the operator's key. The control socket may do everything.
    "" is a scope that everybody has who is known.
    """
    if getattr(visit.request.protocol, "is_local", False):
        return Operator(LOCAL_OPERATOR)
    operator = _known(visit, access, logins, is_change=is_change)
    if isinstance(operator, Refusal) or not scope:
        return operator
    return scope_refusal(operator.scopes, scope) or operator


def _known(visit: Visit, access: Access, logins: Logins, *, is_change: bool) -> Operator | Refusal:
    cookie = cookie_of(visit)
    if cookie is not None and presented_key(visit.headers) is None:
        return _with_cookie(visit, logins, cookie, is_change=is_change)
    refusal = own_origin_refusal(visit.headers, scheme_of(visit), is_needed=False)
    if refusal is not None:
        return refusal
    caller = access.identify(visit.headers, visit.peer.address, may_be_anonymous=False)
    if isinstance(caller, Refusal):
        return msgspec.structs.replace(caller, message=_NO_KEY) if caller.code == "missing_client_key" else caller
    if is_change and caller.kind != "admin":
        return Refusal(code="wrong_key_kind", message="Changes need the operator's key (admin.token).")
    refusal = peer_refusal(caller, visit.peer.address)
    is_program = caller.kind == "client"
    return refusal or Operator(caller.principal_id, caller.scopes, caller.key_id, is_program=is_program)


def _with_cookie(visit: Visit, logins: Logins, cookie: str, *, is_change: bool) -> Operator | Refusal:
    refusal = own_origin_refusal(visit.headers, scheme_of(visit), is_needed=is_change)
    if refusal is not None:
        return refusal
    session = logins.find(cookie)
    if session is None:
        message = "Nobody is logged in here, or not any more; log in again."
        return Refusal(code="missing_session", message=message)
    if is_change and not session.fits(visit.headers.get(CSRF_HEADER, "")):
        message = f"A change needs the token of its login in {CSRF_HEADER}."
        return Refusal(code="csrf_refused", message=message)
    holder = session.holder
    return Operator(holder.principal_id, logins.scopes_of(holder), holder.key_id, session)


def scheme_of(visit: Visit) -> str:
    return "https" if visit.peer.is_secure else "http"


def cookie_name(visit: Visit) -> str:
    """Return the name of our cookie: over TLS one that no other host and no plain page can set."""
    if visit.peer.is_secure:
        return "__Host-palyra_session"
    port = visit.headers.get("host", "").rpartition(":")[2]
    return f"palyra_session_{port if port.isdigit() else 80}"


def cookie_of(visit: Visit) -> str | None:
    """Return what our cookie holds, None where there is none."""
    wanted = cookie_name(visit)
    for part in visit.headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == wanted:
            return value
    return None


def set_cookie(visit: Visit, value: str) -> Mapping[str, str]:
    """Return the header that gives a browser its cookie; an empty one takes it away."""
    place = "Path=/; Secure" if visit.peer.is_secure else "Path=/console"
    life = "" if value else "; Max-Age=0"
    return {"Set-Cookie": f"{cookie_name(visit)}={value}; {place}; HttpOnly; SameSite=Strict{life}"}
