"""Client keys, and requests that had none. Streams `key-<id>` and `access`."""

from __future__ import annotations

from typing import Literal

from palyra.events.base import Fact


class ClientKeyIssued(Fact, tag="client_key.issued", frozen=True, kw_only=True):
    """A key was made; its secret is in one file and nowhere else."""

    kind: Literal["client", "admin"]
    display_name: str
    #: SHA-256 of the key under our prefix, hex: it recognises a key and cannot be turned back into one.
    verifier: str
    principal_id: str
    scopes: list[str]


class ClientKeyRevoked(Fact, tag="client_key.revoked", frozen=True, kw_only=True):
    """The key opens nothing any more."""

    reason: Literal["file_lost", "operator"]


class AccessDenied(Fact, tag="access.denied", frozen=True, kw_only=True):
    """Requests were turned away before anybody was known; in aggregate, once a minute a kind."""

    surface: str
    reason: str
    peer_class: str
    count: int
    window_start_us: int
