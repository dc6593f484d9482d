"""Client keys, and requests that had none. Streams `key-<id>` and `access`."""

from __future__ import annotations

from typing import Literal

import msgspec

from palyra.events.base import Fact


def _any() -> list[str]:
    return ["*"]


class ClientKeyIssued(Fact, tag="client_key.issued", frozen=True, kw_only=True):
    """A key was made; its secret is in one file or one answer, and nowhere else."""

    kind: Literal["client", "admin"]
    display_name: str
    #: SHA-256 of the key under our prefix, hex: it recognises a key and cannot be turned back into one.
    verifier: str
    #: Who pays and owns sessions.
    principal_id: str
    scopes: list[str]
    #: Agent ids that its holder may act as; `*` stands for any.
    agents: list[str] = msgspec.field(default_factory=_any)
    #: The agent of a request that names none.
    default_agent: str = ""
    #: The session that every run is in; "" for any.
    session: str = ""
    #: Globs of the models that may be used.
    models: list[str] = msgspec.field(default_factory=_any)
    #: Networks that it may be used from; none stands for all.
    allowed_cidrs: list[str] = []
    #: 0 is no limit, here and below.
    requests_per_minute: int = 0
    #: Requests that may come at once; 0: as many as a minute has.
    burst: int = 0
    tokens_per_minute: int = 0
    concurrent_runs: int = 0
    expires_us: int | None = None


class ClientKeyChanged(Fact, tag="client_key.changed", frozen=True, kw_only=True):
    """What may change of a key was set anew; these are all its values from now on."""

    display_name: str
    scopes: list[str]
    requests_per_minute: int = 0
    burst: int = 0
    tokens_per_minute: int = 0
    concurrent_runs: int = 0
    expires_us: int | None = None


class ClientKeyRotated(Fact, tag="client_key.rotated", frozen=True, kw_only=True):
    """Another key took its place: same bindings, same principal."""

    successor_id: str
    #: Until then the old one opens what it opened.
    grace_until_us: int


class ClientKeyRevoked(Fact, tag="client_key.revoked", frozen=True, kw_only=True):
    """The key opens nothing any more."""

    reason: Literal["file_lost", "operator"]
    #: What the operator said about it.
    comment: str = ""


class AccessDenied(Fact, tag="access.denied", frozen=True, kw_only=True):
    """Requests were turned away before anybody was known; in aggregate, once a minute a kind."""

    surface: str
    reason: str
    peer_class: str
    count: int
    window_start_us: int
