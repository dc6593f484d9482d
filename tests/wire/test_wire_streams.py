"""fold(stream) == unary: whatever speaks behind the gateway, a stream says what the unary answer says."""

from __future__ import annotations

import pytest
from dialect_cases import (
    CASES,
    DIALECTS,
    answers,
    channel,
    client_fold,
    client_read,
    reply,
    through,
    upstream_reply,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra.wire.answer_writer import written
from palyra.wire.dialects import DIALECT_ROWS
from palyra.wire.neutral import Dialect
from palyra.wire.neutral_answer import Answer, Fold, events_of

PAIRS = [(client, upstream) for client in DIALECTS for upstream in DIALECTS]
cuts = st.lists(st.integers(0, 100_000), max_size=12)


def check(client: Dialect, upstream: Dialect, said: Answer, places: list[int], name: str = "") -> None:
    stream = written(DIALECT_ROWS[upstream].writer(reply(model="up-model")), events_of(said))
    meter = channel(client, upstream).meter(None)
    got = through(meter, stream, places)
    facts, _, body = channel(client, upstream).read_whole(upstream_reply(upstream, said))
    streamed, whole = client_fold(client, got), client_read(client, body)
    if name == "length_in_a_call" and "messages" in (client, upstream):
        # A whole message holds arguments as an object, so half of one is kept as a text inside.
        assert streamed.stop == whole.stop == "max_tokens"
        return
    assert streamed == whole
    assert meter.finished
    assert meter.error is None
    assert meter.unparsed_count == 0
    assert meter.facts() == facts


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
@settings(max_examples=8, deadline=None)
@given(places=cuts)
def test_a_stream_folds_to_the_unary_answer(
    client: Dialect, upstream: Dialect, name: str, places: list[int]
) -> None:
    """For each pair of dialects and each kind of content, wherever the bytes are cut."""
    check(client, upstream, CASES[name], places, name)


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
@settings(max_examples=40, deadline=None)
@given(said=answers, places=cuts)
def test_any_mixture_folds_to_the_unary_answer(
    client: Dialect, upstream: Dialect, said: Answer, places: list[int]
) -> None:
    """Thoughts, text and calls in any mixture, with any characters."""
    check(client, upstream, said, places)


@given(said=answers)
def test_events_fold_to_their_answer(said: Answer) -> None:
    """Cutting a whole answer up and putting it together again loses nothing."""
    folded = Fold()
    for event in events_of(said):
        folded.add(event)
    assert folded.answer() == said
