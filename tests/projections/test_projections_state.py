"""The fold as a whole: total, the same through a snapshot, through stored bytes and in any process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from facts import histories
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra.events.base import Recorded, UnknownEvent
from palyra.events.health import HealthChanged
from palyra.events.journal import JournalCreated
from palyra.events.vocabulary import VOCABULARY
from palyra.projections.state import State, decode_state, encode_state, evolve

ROOT = Path(__file__).parents[2]


def folded(history: list[Recorded], state: State | None = None) -> State:
    state = State() if state is None else state
    for recorded in history:
        evolve(state, recorded)
    return state


def stored(recorded: Recorded) -> Recorded:
    """Return a fact as it comes back from the disk."""
    body = recorded.body
    data = VOCABULARY.encode_body(body)
    fact = VOCABULARY.decode(VOCABULARY.name_of(body), VOCABULARY.schema_of(body), data)
    return Recorded(
        recorded.position,
        recorded.stream,
        recorded.version,
        recorded.recorded_at_us,
        recorded.actor,
        recorded.correlation,
        recorded.causation,
        recorded.command_key,
        fact,
    )


@settings(max_examples=100)
@given(history=histories(), cut=st.integers(0, 30))
def test_every_history_has_a_state_and_only_one(history: list[Recorded], cut: int) -> None:
    """Any facts in any order fold; snapshot + tail, and the fold of what was stored, give the same bytes."""
    live = encode_state(folded(history))
    snapshot = encode_state(folded(history[:cut]))
    assert encode_state(folded(history[cut:], decode_state(snapshot))) == live
    assert encode_state(folded([stored(recorded) for recorded in history])) == live


@pytest.mark.parametrize("word", ["unknown", "healthy", ""])
def test_a_word_of_ours_is_like_one_that_was_read(word: str) -> None:
    """Fields at their defaults are left out by identity, so no default may be a word that facts bring too."""
    history = [
        Recorded(1, "provider-a", 1, 5, "x", "", 0, "", HealthChanged(before="unknown", after=word, reason=""))
    ]
    assert encode_state(folded([stored(recorded) for recorded in history])) == encode_state(folded(history))


def test_a_snapshot_of_a_state_is_that_state() -> None:
    """Decoding gives back every chapter of an empty state too."""
    assert decode_state(encode_state(State())) == State()
    with pytest.raises(msgspec.ValidationError):
        decode_state(b"\x81\xa8position\xa1x")


def test_states_share_nothing() -> None:
    """A fold never writes into another fold's state."""
    first, second = State(), State()
    evolve(first, Recorded(1, "journal", 1, 5, "x", "", 0, "k", JournalCreated(journal_id="j", release="1")))
    assert second == State()


def test_the_envelope_is_folded_for_every_event() -> None:
    """Position, instant, version of the stream and the count of the name, of unknown events too."""
    unknown = UnknownEvent(name="new.happened", schema=2, body={"x": 1})
    state = folded(
        [
            Recorded(1, "journal", 1, 5, "x", "", 0, "", JournalCreated(journal_id="j", release="1")),
            Recorded(2, "new", 1, 7, "x", "", 0, "", unknown),
            Recorded(3, "new", 2, 9, "x", "", 0, "", unknown),
        ]
    )
    assert (state.position, state.recorded_at_us) == (3, 9)
    assert state.streams == {"journal": 1, "new": 2}
    assert state.counts == {"journal.created": 1, "new.happened": 2}


FOLD_A_STORY = """
import hashlib
from story import *
world = given(THREE)
for name in ("zoe", "ada", "kim", "bob"):
    world.do(serve(name, principal_id=f"key:{name}", tags={"b": "1", "a": "2"}, needs=["vision", "tools"]))
    world.do(admit(f"{name}-2", command_name=f"idem|{name}"), start(f"{name}-2"), fail(f"{name}-2"))
world.do(boot(), recover())
print(hashlib.sha256(encode_state(world.state)).hexdigest())
"""


def test_the_bytes_do_not_depend_on_the_process() -> None:
    """The same story told in three processes with three seeds of Python's hash gives one digest."""
    tellers = [
        subprocess.Popen(
            [sys.executable, "-c", FOLD_A_STORY],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("0", "1", "2")
    ]
    digests = [teller.communicate(timeout=30)[0] for teller in tellers]
    assert len(digests[0]) == 65
    assert digests == digests[:1] * 3
