"""Server-sent events: the cut into blocks, and what is read from one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra.limits import SSE_LINE_MAX_BYTES
from palyra.wire.errors import Malformed
from palyra.wire.sse import SseSplitter, comment, encode_event, event_data, event_name

_STREAMS = st.lists(
    st.sampled_from(
        [b"\n", b"\r\n", b"\r", b"data: a", b"data:b", b"event: e", b": c", "é".encode(), b"\xef\xbb\xbf"]
    ),
    max_size=30,
).map(b"".join)


def split(*chunks: bytes) -> tuple[list[bytes], bytes]:
    """Feed the chunks; return the blocks and the tail."""
    splitter = SseSplitter()
    blocks = [block for chunk in chunks for block in splitter.feed(chunk)]
    return blocks, splitter.tail


@given(_STREAMS)
@settings(max_examples=300)
def test_the_cut_does_not_depend_on_how_bytes_arrive(stream: bytes) -> None:
    """One byte at a time gives the blocks of the whole, and nothing is lost."""
    whole = split(stream)
    assert split(*(stream[index : index + 1] for index in range(len(stream)))) == whole
    assert b"".join(whole[0]) + whole[1] == stream


@given(_STREAMS, st.integers(0, 200))
@settings(max_examples=200)
def test_any_single_split_point_gives_the_same_blocks(stream: bytes, at: int) -> None:
    """Two reads give what one gives."""
    assert split(stream[:at], stream[at:]) == split(stream)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_blocks_keep_their_line_ends(end: bytes) -> None:
    """A block is the bytes as they came, blank line included."""
    first, second = b"event: x" + end + b"data: 1" + end * 2, b"data: 2" + end * 2
    assert split(first + second + b"data: 3") == ([first, second], b"data: 3")


def test_a_cr_at_the_end_waits_for_its_lf() -> None:
    """CR alone ends a line only when something else follows."""
    assert split(b"data: 1\r\n\r") == ([], b"data: 1\r\n\r")
    assert split(b"data: 1\r\n\r", b"\n") == ([b"data: 1\r\n\r\n"], b"")
    assert split(b"data: 1\r\rdata: 2") == ([b"data: 1\r\r"], b"data: 2")
    assert split(b"data: 1\r\ndata: 2\r\n\r\n") == ([b"data: 1\r\ndata: 2\r\n\r\n"], b"")


def test_an_endless_event_is_malformed() -> None:
    """An event past its bound is refused, complete or not; many small ones in one read are not."""
    splitter = SseSplitter()
    splitter.feed(b"x" * SSE_LINE_MAX_BYTES)
    with pytest.raises(Malformed) as caught:
        splitter.feed(b"x")
    assert caught.value.code == "response_too_large"
    with pytest.raises(Malformed):
        split(b"data: " + b"x" * SSE_LINE_MAX_BYTES + b"\n\n")
    event = b"data: " + b"x" * 1000 + b"\n\n"
    assert len(split(event * (SSE_LINE_MAX_BYTES // 1000))[0]) == SSE_LINE_MAX_BYTES // 1000


@pytest.mark.parametrize(
    ("block", "name", "data"),
    [
        (b"data: 1\n\n", "", b"1"),
        (b"data:1\r\n\r\n", "", b"1"),
        (b"data:  1\r\r", "", b" 1"),
        (b"\xef\xbb\xbfdata: 1\n\n", "", b"1"),
        (b"\ndata: 1\n\n", "", b"1"),
        (b"event: a\nevent:b\ndata: 1\ndata: 2\nid: 7\n\n", "b", b"1\n2"),
        (b": ping\n\n", "", b""),
        (b"data\ndatum: 1\n\n", "", b""),
        (b"data: \xe2\x80\xa8\x0b\x0c\x85\n\n", "", b"\xe2\x80\xa8\x0b\x0c\x85"),
    ],
)
def test_name_and_data_of_a_block(block: bytes, name: str, data: bytes) -> None:
    """Fields are read with and without a space, by every line end, and by no other character."""
    assert (event_name(block), event_data(block)) == (name, data)


@given(st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"])), st.sampled_from([None, "error"]))
def test_what_is_written_reads_back(text: str, name: str | None) -> None:
    """An encoded event is one block with the same name and data."""
    event = encode_event(text.encode(), name)
    assert split(event) == ([event], b"")
    assert (event_name(event), event_data(event)) == (name or "", text.encode())


def test_a_comment_is_a_block_without_data() -> None:
    """What keeps a connection open says nothing."""
    assert comment("keep-alive") == b": keep-alive\n\n"
    assert event_data(comment("keep-alive")) == b""


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_flood_of_blank_lines_is_one_block(end: bytes) -> None:
    """What says nothing and arrives together costs no block each; what stands in it is cut as ever."""
    flood, event = end * 20_000, b"data: 1" + end * 2
    blocks, tail = split(flood + event + flood + b"data: 2")
    assert [block for block in blocks if block.strip()] == [event]
    assert len(blocks) <= 4
    assert b"".join(blocks) + tail == flood + event + flood + b"data: 2"
