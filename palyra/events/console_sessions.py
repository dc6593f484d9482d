"""People who are logged in at the console. Stream `session-<id>`."""

from __future__ import annotations

from typing import Literal

from palyra.events.base import Fact

EndReason = Literal["logout", "logout_all", "operator", "idle", "expired", "evicted", "key_ended"]


class ConsoleSessionOpened(Fact, tag="console_session.opened", frozen=True, kw_only=True):
    """Somebody logged in. What proves it later is in the browser and, as a digest, in memory only."""

    principal_id: str
    #: The admin key that it lives and dies with; "" for whoever may use the state directory.
    key_id: str = ""
    how: Literal["token", "login_code"]
    peer_class: str


class ConsoleSessionEnded(Fact, tag="console_session.ended", frozen=True, kw_only=True):
    """The session opens nothing any more. One that a stop of the daemon ends has no such fact."""

    reason: EndReason
