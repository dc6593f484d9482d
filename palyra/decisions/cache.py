"""The response cache: when two requests are alike, which answers are kept, and how a hit becomes a run.

A hit is free and recorded. It is looked for behind the checks of permission and capability and before circuits and
budgets, so that it also serves while a provider is down or a budget is spent. Source: gateway specification, 9.
"""

from __future__ import annotations

import hashlib

import msgspec

from palyra.decisions import routing
from palyra.decisions.base import Decision
from palyra.decisions.keys import is_permitted
from palyra.decisions.naming import VIRTUAL_NAMES, resolve
from palyra.decisions.routing import wanted_of
from palyra.decisions.runs import AdmitRun, admitted
from palyra.errors import Refusal
from palyra.events.base import Draft
from palyra.events.cache import CacheHit
from palyra.events.registry import ModelEntry, ProviderEntry
from palyra.events.runs import RunCompleted
from palyra.projections.catalog import provider_entry
from palyra.projections.state import State
from palyra.units import us_to_ms

#: An answer above this is not kept.
ANSWER_MAX_BYTES = 1 << 20
#: Members of a body that do not change what is answered.
NOT_ASKED = ("stream", "stream_options", "user", "metadata")
#: Members of a body whose answer means something to the provider alone.
UNCACHEABLE = ("store", "previous_response_id", "web_search_options", "conversation", "background")
_VERSION = "1"
_ENCODER = msgspec.json.Encoder(order="sorted")


class Cached(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a kept answer beside its text."""

    key_digest: str
    run_id: str
    provider_id: str
    model_id: str
    stop: str
    stored_us: int
    input_tokens: int = 0
    output_tokens: int = 0
    #: What it cost, as far as that is known.
    known_nanousd: int = 0


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where the answer to a request is kept: its key, and the entry that alone may give it."""

    key_digest: str
    entry: ModelEntry


def place_of(state: State, command: AdmitRun) -> Place | None:
    """Return the place for a request's answer: that of the first candidate that could serve it at all."""
    assert command.cache is not None
    if VIRTUAL_NAMES.get(command.model.strip()):
        return None  # which model it is, only the prices and the hour tell
    resolution = resolve(state, command.endpoint, command.model)
    if isinstance(resolution, Refusal):
        return None
    if not any(is_permitted(command.models, one.provider_id, one.model_id) for one in resolution.entries):
        return None
    entry = routing.first_fitting(state, resolution, wanted_of(command))
    if entry is None:
        return None
    provider = provider_entry(state, entry.provider_id)
    registry = state.catalog.registry
    isolation = {
        "principal": command.principal_id,
        "session": f"{command.principal_id}\n{command.session_id}",
        "shared": "shared",
    }[registry.response_cache_isolation]
    digest = hashlib.sha256()
    for part in (
        _VERSION.encode(),
        (command.dialect or command.endpoint).encode(),
        isolation.encode("utf-8", "surrogatepass"),
        _ENCODER.encode(provider),
        _ENCODER.encode(entry),
        command.cache.body_digest.encode(),
        *(name.encode() for name in _own_profiles(state, provider, command.agent_id)),
    ):
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return Place(key_digest=digest.hexdigest(), entry=entry)


def _own_profiles(state: State, provider: ProviderEntry | None, agent_id: str) -> list[str]:
    """Return the profiles with which this provider is asked for one agent alone: what they may see is its own."""
    if provider is None or not agent_id:
        return []
    profiles = state.auth.profiles.values()
    return sorted(
        one.profile_id
        for one in profiles
        if one.agent_id == agent_id and one.provider == provider.auth_provider_kind and not one.revoked_us
    )


def is_fresh(command: AdmitRun, cached: Cached, now_us: int) -> bool:
    """Return whether a kept answer is as young as its client wants it."""
    assert command.cache is not None
    max_age_ms = command.cache.max_age_ms
    return command.cache.reads and (max_age_ms is None or us_to_ms(now_us - cached.stored_us) <= max_age_ms)


def admit_hit(state: State, command: AdmitRun, place: Place, cached: Cached, now_us: int) -> Decision:
    """Let a request in and end its run with the answer that is kept."""
    stream = f"run-{command.run_id}"
    hit = CacheHit(
        key_digest=cached.key_digest,
        of_run_id=cached.run_id,
        age_ms=max(0, us_to_ms(now_us - cached.stored_us)),
        saved_input_tokens=cached.input_tokens,
        saved_output_tokens=cached.output_tokens,
        saved_nanousd=cached.known_nanousd,
    )
    completed = RunCompleted(
        stop=cached.stop,
        provider_id=cached.provider_id,
        model_id=cached.model_id,
        attempts_count=0,
        duration_us=0,
    )
    entry = place.entry
    first = admitted(state, command, entry.provider_id, entry.upstream_model, now_us)
    return Decision([first, Draft(stream, hit), Draft(stream, completed)])


def is_storable(state: State, command: AdmitRun, *, stop: str, candidate: int, size_bytes: int) -> bool:
    """Return whether a complete answer is kept: not a cut one, a refusal, or one that stood in for another."""
    if command.cache is None or not command.cache.writes or candidate or command.choices_count > 1:
        return False
    registry = state.catalog.registry
    if not registry.response_cache_enabled:
        return False  # turned off while the run was on its way
    stops = ["end_turn", "stop_sequence"]
    if registry.response_cache_tool_calls:
        stops.append("tool_calls")
    return stop in stops and 0 < size_bytes <= ANSWER_MAX_BYTES
