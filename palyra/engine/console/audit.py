"""`auth/audit`: who touched which secret, and who was let in or turned away; the newest first."""

from __future__ import annotations

from typing import Any

from palyra.engine.console.frame import Items, ListParams, Sight
from palyra.engine.console.pages import read_cursor, write_cursor
from palyra.engine.history import Wanted, last_events
from palyra.engine.questions import Answer

#: The families of facts that are about secrets, identities and access.
FAMILIES = Wanted(
    names=("access.*", "auth_profile.*", "client_key.*", "console_session.*", "oauth_attempt.*", "vault.*")
)
#: What a key is known by when it arrives: no secret, and of no use to a reader.
_ASIDE = ("verifier",)


class AuditParams(ListParams, frozen=True, kw_only=True):
    """Which page."""


class AuditItem(Answer, frozen=True, kw_only=True):
    """One fact: references, revisions and fingerprints; none holds a secret."""

    position: int
    recorded_at_us: int
    name: str
    #: What it is about: `credential-work`, `key-0h3k9m2p4r6t`.
    stream: str
    #: Who did it.
    actor: str
    #: Null when the stored bytes are no JSON object.
    body: dict[str, Any] | None


def audit(sight: Sight, params: AuditParams) -> Items[AuditItem]:
    """Return the facts of a page; what is recorded meanwhile moves none of them."""
    upto = read_cursor(params.cursor, int) if params.cursor else sight.position
    found = last_events(sight.rows, min(upto, sight.position), params.limit + 1, FAMILIES)[::-1]
    items = [
        AuditItem(
            position=one.position,
            recorded_at_us=one.recorded_at_us,
            name=one.name,
            stream=one.stream,
            actor=one.actor,
            body=one.body and {name: held for name, held in one.body.items() if name not in _ASIDE},
        )
        for one in found[: params.limit]
    ]
    return Items(
        items=items, next_cursor=write_cursor(items[-1].position - 1) if len(found) > params.limit else None
    )
