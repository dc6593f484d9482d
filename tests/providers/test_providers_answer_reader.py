"""Reading an answer without a socket: any cut gives the same, and nothing grows without bound."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra.providers.answer_reader import AnswerReader

BODY = bytes(range(256)) * 2 + b"\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Part: a\r\nx-part:  b \r\n"
CHUNKED = HEAD + b"Transfer-Encoding: Chunked\r\n\r\n"


def in_chunks(body: bytes, *sizes: int) -> bytes:
    """Return a body in chunks of these sizes, with extensions, and trailers at the end."""
    framed = b""
    for size in (*sizes, len(body)):
        piece, body = body[:size], body[size:]
        framed += b"%x;note=1\r\n%s\r\n" % (len(piece), piece)
    return framed + b"0\r\nX-Part: trailer\r\nContent-Type: lie\r\n\r\n"


#: One answer in each way that its end can be told; all mean the same.
ANSWERS = {
    "length": HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY,
    "chunked": CHUNKED + in_chunks(BODY, 1, 2, 300),
    "close": HEAD + b"\r\n" + BODY,
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX-Part: z\r\n\r\n"
    + CHUNKED
    + in_chunks(BODY),
}


def read(pieces: Sequence[bytes], *, then_ends: bool = False) -> tuple[AnswerReader, bytes]:
    """Feed pieces while the answer goes on; return its reader and the body."""
    reader, body = AnswerReader(), b""
    for piece in pieces:
        if reader.is_over:
            break
        reader.feed(piece)
        body += reader.take()
        assert reader.waiting_bytes == 0
    if then_ends and not reader.is_over:
        reader.end(is_clean=True)
    return reader, body


def failure_of(pieces: Sequence[bytes], *, then_ends: bool = False) -> tuple[str, str]:
    reader, _ = read(pieces, then_ends=then_ends)
    assert not reader.is_complete
    assert reader.failure is not None
    return reader.failure[:2]


def check(name: str, pieces: Sequence[bytes]) -> None:
    reader, body = read(pieces, then_ends=name == "close")
    assert reader.failure is None
    assert reader.is_complete
    assert body == BODY
    assert reader.status == 200
    assert reader.headers["x-part"] == "a, b"
    assert reader.headers["content-type"] == "text/plain"
    assert reader.can_be_followed == (name != "close")


@pytest.mark.parametrize("name", ANSWERS)
def test_every_cut_gives_the_same(name: str) -> None:
    """An answer cut in two at any byte, or into single bytes, is the same answer."""
    answer = ANSWERS[name]
    for at in range(len(answer)):
        check(name, [answer[:at], answer[at:]] if at else [answer])
    check(name, [answer[at : at + 1] for at in range(len(answer))])


@settings(max_examples=100)
@given(name=st.sampled_from(sorted(ANSWERS)), data=st.data())
def test_any_cuts_give_the_same(name: str, data: st.DataObject) -> None:
    """So it is with any number of cuts."""
    answer = ANSWERS[name]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(answer) - 1), max_size=40)))
    check(name, [answer[a:b] for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)])


@settings(max_examples=100)
@given(noise=st.binary(max_size=200), at=st.integers(0, 60))
def test_noise_never_raises(noise: bytes, at: int) -> None:
    """Whatever comes, before the answer or in the middle of it, the reader says how it ended."""
    answer = ANSWERS["chunked"]
    reader, _ = read([answer[:at] + noise, answer[at:]], then_ends=True)
    assert reader.is_over


@pytest.mark.parametrize(
    "extra", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"\r\n\r\nHTTP/1.1 500 No\r\n\r\n"]
)
@pytest.mark.parametrize("name", ["length", "chunked"])
def test_what_comes_after_an_answer(name: str, extra: bytes) -> None:
    """Bytes behind the end do not belong to the answer, and nothing may follow on their connection."""
    reader, body = read([ANSWERS[name] + extra])
    assert (reader.is_complete, reader.failure, body) == (True, None, BODY)
    assert not reader.can_be_followed


@pytest.mark.parametrize(
    ("answer", "can_be_followed"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\nmore", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
def test_whether_another_answer_may_follow(answer: bytes, can_be_followed: bool) -> None:
    """The version and `Connection` say whether the connection goes on."""
    reader, body = read([answer])
    assert (reader.is_complete, body, reader.can_be_followed) == (True, b"", can_be_followed)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX-A: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 129 + b"\r\n",
        b"POST / HTTP/1.1\r\n\r\n",
    ],
)
def test_heads_that_mean_no_answer(answer: bytes) -> None:
    """Ambiguous framing, foreign codings and other protocols are refused at the head."""
    assert failure_of([answer]) == ("malformed_response", "headers")


def test_broken_chunks_keep_what_came_before() -> None:
    """A body whose framing breaks has failed; what arrived whole can still be taken."""
    reader, body = read([CHUNKED + b"5\r\nhello\r\nzz\r\n"])
    assert body == b"hello"
    assert reader.failure is not None
    assert reader.failure[:2] == ("malformed_response", "body")


PIECE = b"x" * 10_000


@pytest.mark.parametrize(
    ("pieces", "phase"),
    [
        ([b"HTTP/1.1 200 OK\r\nX-Endless: ", *[PIECE] * 8], "headers"),
        ([b"HTTP/1.1 200 ", *[PIECE] * 8], "headers"),
        ([b"HTTP/1.1 200 OK\r\nX-Big: " + b"x" * 70_000 + b"\r\n\r\n"], "headers"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" * 100] * 40, "headers"),
        ([CHUNKED + b"1\r\nx\r\n5;note=", *[PIECE] * 8], "body"),
        ([CHUNKED + b"1\r\nx\r\n0\r\nX-Trailer: ", *[PIECE] * 8], "body"),
        ([CHUNKED + b"0\r\n", *[b"X-Trailer: x\r\n" * 1_000] * 8], "body"),
    ],
)
def test_what_is_not_body_is_bounded(pieces: list[bytes], phase: str) -> None:
    """Heads, interim answers, chunk extensions and trailers end at 64 KiB."""
    assert failure_of(pieces) == ("response_too_large", phase)


def test_the_head_is_bounded_and_not_the_body() -> None:
    """A head just below the bound passes, and a body that comes with it does not count."""
    head = b"HTTP/1.1 200 OK\r\nX-Big: " + b"x" * 64_000 + b"\r\nContent-Length: 200000\r\n\r\n"
    reader, body = read([head + b"y" * 200_000])
    assert reader.is_complete
    assert len(body) == 200_000


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([], ("network_unavailable", "headers")),
        ([b"HTTP/1.1 20"], ("stream_truncated", "headers")),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"], ("stream_truncated", "headers")),
        ([HEAD + b"Content-Length: 5\r\n\r\nhell"], ("stream_truncated", "body")),
        ([CHUNKED + b"5\r\nhello\r\n"], ("stream_truncated", "body")),
    ],
)
def test_connections_that_end_early(pieces: list[bytes], expected: tuple[str, str]) -> None:
    """Without a byte nobody knows whether there would have been an answer; with some of them it is cut."""
    assert failure_of(pieces, then_ends=True) == expected


def test_a_body_up_to_the_close_needs_a_clean_one() -> None:
    """Where only the end of the connection ends the body, a reset one has cut it."""
    reader = AnswerReader()
    reader.feed(ANSWERS["close"])
    reader.end(is_clean=False)
    assert reader.failure is not None
    assert reader.failure[:2] == ("stream_truncated", "body")
    assert reader.take() == BODY
