"""The access registry: client keys by id, and requests that were turned away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from palyra.events import keys
from palyra.events.base import Recorded
from palyra.projections.base import Chapter

if TYPE_CHECKING:
    from palyra.projections.state import State


class ClientKey(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One key; its secret is not here and cannot be derived from what is."""

    key_id: str
    kind: str
    display_name: str
    verifier: str
    principal_id: str
    scopes: list[str]
    issued_us: int
    revoked_us: int | None = None


class KeysState(msgspec.Struct, kw_only=True):
    """Keys by id; denials by `surface|reason|peer_class`."""

    by_id: dict[str, ClientKey] = {}
    denied: dict[str, int] = {}


CHAPTER = Chapter()


def live_keys(state: State, kind: str) -> list[ClientKey]:
    """Return unrevoked keys of a kind, oldest first."""
    return [key for key in state.keys.by_id.values() if key.kind == kind and key.revoked_us is None]


@CHAPTER.on(keys.ClientKeyIssued)
def _issued(state: State, recorded: Recorded, body: keys.ClientKeyIssued) -> None:
    key_id = recorded.stream[4:]
    state.keys.by_id[key_id] = ClientKey(
        key_id=key_id,
        kind=body.kind,
        display_name=body.display_name,
        verifier=body.verifier,
        principal_id=body.principal_id,
        scopes=body.scopes,
        issued_us=recorded.recorded_at_us,
    )


@CHAPTER.on(keys.ClientKeyRevoked)
def _revoked(state: State, recorded: Recorded, body: keys.ClientKeyRevoked) -> None:
    key = state.keys.by_id.get(recorded.stream[4:])
    if key is not None and key.revoked_us is None:
        key.revoked_us = recorded.recorded_at_us


@CHAPTER.on(keys.AccessDenied)
def _denied(state: State, recorded: Recorded, body: keys.AccessDenied) -> None:
    kind = f"{body.surface}|{body.reason}|{body.peer_class}"
    state.keys.denied[kind] = state.keys.denied.get(kind, 0) + body.count
