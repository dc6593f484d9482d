"""Translated and passed through, a piece of text comes out the same whether or not it was decoded."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
from dialect_cases import channel, reply, through
from hypothesis import given
from hypothesis import strategies as st

from palyra.usage import TokenUsage
from palyra.wire.alike import Alike
from palyra.wire.answer_writer import written
from palyra.wire.dialects import DIALECT_ROWS
from palyra.wire.neutral import Dialect
from palyra.wire.neutral_answer import Delta, Event, Finish, PartEnd, PartStart, Start, Usage
from palyra.wire.reply_facts import ReplyFacts
from palyra.wire.stream_meter import EventMeter

#: Pieces of text that end a string, escape something, or look like what stands around them.
pieces = st.one_of(
    st.sampled_from(["word ", 'say "x"', "back\\slash", "tab\t", "ü", "text_delta", '"}', ",", "content", "0"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6),
)
parts = st.lists(
    st.tuples(st.sampled_from(["text", "text", "reasoning", "refusal"]), st.lists(pieces, max_size=8)),
    min_size=1,
    max_size=3,
)
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)


def stream_of(upstream: Dialect, said: list[tuple[str, list[str]]]) -> bytes:
    events: list[Event] = [Start(response_id="r-1", model="m-up")]
    for index, (kind, texts) in enumerate(said):
        events.append(PartStart(index=index, kind=kind))  # type: ignore[arg-type]
        events += [Delta(index=index, text=text) for text in texts]
        events.append(PartEnd(index=index))
    events += [Usage(usage=TokenUsage(input_tokens=3, output_tokens=4)), Finish(stop="end_turn")]
    return written(DIALECT_ROWS[upstream].writer(reply()), events)


def told(client: Dialect, upstream: Dialect, stream: bytes, cuts: list[int]) -> tuple[bytes, ReplyFacts]:
    meter = channel(client, upstream).meter(None)
    return through(meter, stream, cuts), meter.facts()


@pytest.mark.parametrize(("client", "upstream"), [*itertools.product(DIALECTS, DIALECTS)])
@given(said=parts, cuts=st.lists(st.integers(0, 3_000), max_size=6))
def test_what_is_not_decoded_comes_out_the_same(
    client: Dialect, upstream: Dialect, said: list[tuple[str, list[str]]], cuts: list[int]
) -> None:
    """Between any two dialects, however the stream arrives."""
    stream = stream_of(upstream, said)
    quick = told(client, upstream, stream, cuts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Alike, "read", lambda self, blocks: None)
        assert told(client, upstream, stream, cuts) == quick


@pytest.mark.parametrize(
    ("client", "upstream", "reads_few"),
    [
        ("messages", "chat", True),
        ("chat", "messages", True),
        ("messages", "messages", True),
        ("responses", "chat", False),
        ("chat", "responses", False),
    ],
)
def test_pieces_of_text_are_read_without_a_decoder(
    client: Dialect, upstream: Dialect, reads_few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the third one on, unless one side remembers the text or numbers its events."""
    meter = channel(client, upstream).meter(None)
    assert isinstance(meter, EventMeter)
    read_count, read = 0, meter._reader.read

    def counting(name: str, data: bytes) -> list[Event]:
        nonlocal read_count
        read_count += 1
        return read(name, data)

    monkeypatch.setattr(meter._reader, "read", counting)
    words = [f"word{number} " for number in range(50)]
    meter.feed(stream_of(upstream, [("text", words)]))
    assert (read_count < 15) == reads_few
