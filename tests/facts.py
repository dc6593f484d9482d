"""Facts and histories of any kind, made from the Structs of the vocabulary; most of them could never happen.

Texts come from a few words, so that ids, names and references meet. What a fold does with them must be defined all
the same: `evolve` is total.
"""

from __future__ import annotations

import functools
import types
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st

from palyra.events.base import Fact, Recorded, UnknownEvent
from palyra.events.vocabulary import VOCABULARY

WORDS = [
    "", "a", "b", "gpt", "r1", "r2", "chat", "circuit_open", "netguard_blocked", "provider", "unknown", "closed",
    "open", "http",
]  # fmt: skip
#: Where facts of a family belong; the rest of them are on the journal's own streams.
STREAMS = {
    **dict.fromkeys(("run", "routing", "attempt", "usage", "budget"), ("run-r1", "run-r2")),
    **dict.fromkeys(("circuit", "health", "model"), ("provider-a", "provider-b")),
    "heartbeat": ("beat-loop-a", "beat-run-r1"),
    "alert": ("alert-a", "alert-b"),
    "approval": ("approval-a", "approval-b"),
    "incident": ("incident-a", "incident-b"),
    "client_key": ("key-a", "key-b"),
    "vault": ("vault",),
    "console_session": ("session-a", "session-b"),
    "oauth_attempt": ("oauth-a", "oauth-b"),
    "auth_profile": ("credential-a", "credential-b", "credential-config:a", "credentials"),
}
STRAY = ["", "x", "config", "daemon", "journal", *(name for names in STREAMS.values() for name in names)]
_INTS = st.sampled_from([0, 1, 2, 64, 10_000, 1_800_000_000_000_000]) | st.integers(-(2**40), 2**40)
_TEXTS = st.sampled_from(WORDS) | st.text(max_size=3)
_PLAIN = st.none() | st.booleans() | _INTS | _TEXTS


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    """Return every value of a type that a fact's field may have; an unknown type is an error."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is int:
        return _INTS
    if annotation is str:
        return _TEXTS
    if annotation is bool:
        return st.booleans()
    if annotation is type(None):
        return st.none()
    if annotation is Any:
        return st.recursive(
            _PLAIN,
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_TEXTS, inner, max_size=2),
            max_leaves=3,
        )
    if origin is Literal:
        return st.sampled_from(args)
    if origin in (Union, types.UnionType):
        return st.one_of([values_of(arg) for arg in args])
    if origin is list:
        return st.lists(values_of(args[0]), max_size=2)
    if origin is dict:
        return st.dictionaries(values_of(args[0]), values_of(args[1]), max_size=2)
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return structs_of(annotation)
    raise TypeError(f"a fact's field cannot be {annotation}")


@functools.cache
def structs_of(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Return every value of a Struct, optional fields sometimes left out."""
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for field in msgspec.structs.fields(kind):
        (required if field.required else optional)[field.name] = values_of(field.type)
    return st.fixed_dictionaries(required, optional=optional).map(lambda fields: kind(**fields))


def facts() -> st.SearchStrategy[Fact]:
    """Return every fact of the vocabulary."""
    return st.one_of([structs_of(entry.struct) for entry in VOCABULARY.entries.values()])


def unknown_events() -> st.SearchStrategy[UnknownEvent]:
    """Return events of a newer release."""
    bodies = st.dictionaries(_TEXTS, _PLAIN, max_size=2)
    return st.builds(UnknownEvent, name=st.just("new.happened"), schema=st.integers(1, 3), body=bodies)


@st.composite
def _placed(draw: st.DrawFn) -> tuple[str, Fact | UnknownEvent]:
    """Return a fact and its stream, which is one that it belongs to, three times of four."""
    body = draw(facts() | facts() | facts() | unknown_events())
    family = VOCABULARY.name_of(body).partition(".")[0]
    natural = st.sampled_from(STREAMS.get(family, ("daemon",)))
    return draw(natural | natural | natural | st.sampled_from(STRAY)), body


@st.composite
def histories(draw: st.DrawFn, max_size: int = 30) -> list[Recorded]:
    """Return facts of any kind in any order, at times that may step back."""
    steps = st.tuples(_placed(), st.integers(-1_000, 10**12), st.sampled_from(["", "", "k1", "k2", "k3"]))
    history: list[Recorded] = []
    versions: dict[str, int] = {}
    drawn = draw(st.lists(steps, max_size=max_size))
    for position, ((stream, body), recorded_at_us, command_key) in enumerate(drawn, 1):
        versions[stream] = versions.get(stream, 0) + 1
        history.append(Recorded(position, stream, versions[stream], recorded_at_us, "x", "", 0, command_key, body))
    return history
