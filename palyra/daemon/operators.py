"""Who may ask and change things at the console's API: the one place that says so."""

from __future__ import annotations

from typing import NamedTuple

from palyra.daemon.requests import Visit
from palyra.decisions.arrivals import origin_refusal
from palyra.decisions.keys import has_scope
from palyra.engine.access import Access
from palyra.errors import Refusal

#: Whoever works as the user that the daemon runs as.
LOCAL_OPERATOR = "operator:local"


class Operator(NamedTuple):
    """Whoever asks or changes something, as facts name them."""

    actor: str


def authorize(visit: Visit, access: Access, scope: str, *, is_change: bool) -> Operator | Refusal:
    """Return in whose name a request to the console comes, or why it may not do what wants this scope.

    Any key that has the scope may read; changes are for the operator's key. The control socket may do everything.
    """
    if getattr(visit.request.protocol, "is_local", False):
        return Operator(LOCAL_OPERATOR)
    refusal = origin_refusal(visit.headers)
    if refusal is not None:
        return refusal
    caller = access.identify(visit.headers, visit.request.remote or "")
    if isinstance(caller, Refusal):
        return caller
    if is_change and caller.kind != "admin":
        return Refusal(code="wrong_key_kind", message="Changes need the operator's key (admin.token).")
    if not has_scope(caller.scopes, scope):
        return Refusal(code="missing_scope", message=f"This key lacks the scope {scope}.")
    return Operator(caller.principal_id)
