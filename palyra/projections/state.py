"""`State`, everything that is true, and `evolve`, the one way to it.

State is plain data: `encode_state` gives the same bytes for the same history, whatever process folded it. Nothing
in it is a set, and its maps keep the order in which history filled them, so that "the oldest" is the same key after
a snapshot as before it.
"""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

import msgspec

from palyra.events.base import Recorded
from palyra.events.vocabulary import VOCABULARY
from palyra.projections import (
    alerts,
    approvals,
    auth,
    budgets,
    cache,
    catalog,
    circuits,
    commands,
    config,
    console_sessions,
    daemon,
    health,
    heartbeats,
    incidents,
    journal,
    keys,
    latencies,
    oauth,
    outputs,
    pricing,
    runs,
    spend,
    usage,
    vault,
)
from palyra.projections.base import Handler, RunHandler


class State(msgspec.Struct, kw_only=True):
    """The fold of a journal up to `position`."""

    position: int = 0
    recorded_at_us: int = 0
    #: Newest version of each stream that can still grow.
    streams: dict[str, int] = {}
    #: Events by name.
    counts: dict[str, int] = {}
    commands: commands.CommandsState = msgspec.field(default_factory=commands.CommandsState)
    runs: runs.RunsState = msgspec.field(default_factory=runs.RunsState)
    circuits: circuits.CircuitsState = msgspec.field(default_factory=circuits.CircuitsState)
    health: health.HealthStates = msgspec.field(default_factory=health.HealthStates)
    usage: usage.UsageState = msgspec.field(default_factory=usage.UsageState)
    spend: spend.SpendState = msgspec.field(default_factory=spend.SpendState)
    outputs: outputs.OutputsState = msgspec.field(default_factory=outputs.OutputsState)
    latencies: latencies.LatenciesState = msgspec.field(default_factory=latencies.LatenciesState)
    pricing: pricing.PricingState = msgspec.field(default_factory=pricing.PricingState)
    budgets: budgets.BudgetsState = msgspec.field(default_factory=budgets.BudgetsState)
    approvals: approvals.ApprovalsState = msgspec.field(default_factory=approvals.ApprovalsState)
    alerts: alerts.AlertsState = msgspec.field(default_factory=alerts.AlertsState)
    cache: cache.CacheState = msgspec.field(default_factory=cache.CacheState)
    catalog: catalog.CatalogState = msgspec.field(default_factory=catalog.CatalogState)
    config: config.ConfigState = msgspec.field(default_factory=config.ConfigState)
    heartbeats: heartbeats.HeartbeatsState = msgspec.field(default_factory=heartbeats.HeartbeatsState)
    incidents: incidents.IncidentsState = msgspec.field(default_factory=incidents.IncidentsState)
    daemon: daemon.DaemonState = msgspec.field(default_factory=daemon.DaemonState)
    journal: journal.JournalState = msgspec.field(default_factory=journal.JournalState)
    keys: keys.KeysState = msgspec.field(default_factory=keys.KeysState)
    vault: vault.VaultState = msgspec.field(default_factory=vault.VaultState)
    console_sessions: console_sessions.ConsoleSessionsState = msgspec.field(
        default_factory=console_sessions.ConsoleSessionsState
    )
    auth: auth.AuthState = msgspec.field(default_factory=auth.AuthState)
    oauth: oauth.OAuthState = msgspec.field(default_factory=oauth.OAuthState)


#: Chapters that look at an open run or its attempt stand before `runs`, which lets go of it.
_CHAPTERS = (
    commands,
    circuits,
    health,
    catalog,
    pricing,
    usage,
    spend,
    outputs,
    latencies,
    alerts,
    budgets,
    approvals,
    cache,
    auth,
    runs,
    config,
    heartbeats,
    incidents,
    daemon,
    journal,
    keys,
    vault,
    console_sessions,
    oauth,
)


class _Route(NamedTuple):
    """Who folds a fact, in the order of the chapters."""

    name: str
    handlers: tuple[Handler, ...]
    run_handlers: tuple[RunHandler, ...]


def _route(name: str, struct: type) -> _Route:
    chapters = [each.CHAPTER for each in _CHAPTERS]
    return _Route(
        name,
        tuple(each.handlers[struct] for each in chapters if struct in each.handlers),
        tuple(each.run_handlers[struct] for each in chapters if struct in each.run_handlers),
    )


def _route_of_unknown(body: object) -> _Route:
    """Return that of a fact of a newer release: it is counted."""
    return _Route(str(getattr(body, "name", "")), (), ())


_ROUTES: dict[type, _Route] = {
    entry.struct: _route(entry.name, entry.struct) for entry in VOCABULARY.entries.values()
}


def evolve(state: State, recorded: Recorded) -> None:
    """Fold one event into the state, in place. Total: every history gives a state."""
    body, counts = recorded.body, state.counts
    state.position = recorded.position
    state.recorded_at_us = recorded.recorded_at_us
    state.streams[recorded.stream] = recorded.version
    name, handlers, run_handlers = _ROUTES.get(type(body)) or _route_of_unknown(body)
    counts[name] = counts.get(name, 0) + 1
    if recorded.command_key:
        commands.remember(state, recorded)
    for handler in handlers:
        handler(state, recorded, body)
    if run_handlers:
        run = state.runs.open.get(recorded.stream[4:])
        if run is not None:
            for run_handler in run_handlers:
                run_handler(state, recorded, body, run)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(State)


def encode_state(state: State) -> bytes:
    """Return the state's canonical bytes."""
    return _ENCODER.encode(state)


def digest_in(state: State, chapter: str) -> str:
    """Return the SHA-256 of one chapter's canonical bytes, hexadecimal; `chapter` is a field of the state."""
    return sha256(_ENCODER.encode(getattr(state, chapter))).hexdigest()


def decode_state(data: bytes) -> State:
    """Return the state of canonical bytes; raises `msgspec.ValidationError` for another shape."""
    return _DECODER.decode(data)
