"""The token estimator `chars-v1`, and what images, documents and audio count."""

from __future__ import annotations

import base64
import math
import re
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra.wire import tokens
from palyra.wire.media import (
    IMAGE_MAX_TOKENS,
    estimate_audio_tokens,
    estimate_document_tokens,
    estimate_image_tokens,
    image_size,
)
from palyra.wire.tokens import ESTIMATOR, TokenTally, estimate_token_count

_TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text("ab1+/ \n.é你", max_size=60),
    st.integers(30, 90).map("Ab9/".__mul__),
)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("one two three four", 5),
        ("The quick brown fox jumps over the lazy dog.", 11),
        ('{"name":"get_weather","arguments":{"city":"Paris"}}', 16),
        ("0123456789abcdef" * 4, 40),
        ("héllo wörld", 4),
        ("Привет, мир!", 6),
        ("你好，世界", 6),
        ("\n\n", 1),
        ("\x00", 1),
        ("🙂", 3),
        (" \t ", 0),
    ],
)
def test_goldens(text: str, tokens: int) -> None:
    """The estimate of these texts is part of the format `chars-v1`."""
    assert ESTIMATOR == "chars-v1"
    assert estimate_token_count(text) == tokens


def by_the_book(text: str) -> int:
    """The definition, character by character."""
    weights = [
        (0x80, 0xBF, 1000),
        (0xC0, 0x24F, 450),
        (0x370, 0x52F, 300),
        (0x590, 0xEFF, 500),
        (0x2000, 0x206F, 1000),
        (0x2E80, 0x9FFF, 1000),
        (0xAC00, 0xD7FF, 1000),
        (0xF900, 0xFAFF, 1000),
        (0xFF00, 0xFFEF, 1000),
        (0x20000, 0x3FFFF, 1000),
    ]
    words = len(re.findall(r"[^ \t\n\r\v\f]+", text))
    total = 1000 * words + 350 * text.count("\n")
    total += 150 * max(0, len(re.findall("[A-Za-z]", text)) - 3 * words)
    total += 400 * len(re.findall("[0-9]", text)) + 550 * len(re.findall(r"[!-/:-@\[-`{-~]", text))
    total += 300 * sum(map(len, re.findall("[A-Za-z0-9+/]{40,}", text)))
    for char in text:
        if char > "\x7f":
            total += next((weight for low, high, weight in weights if low <= ord(char) <= high), 2000)
    return math.ceil(total / 1000)


@given(_TEXTS, _TEXTS)
@settings(max_examples=300)
def test_the_fast_count_is_the_definition(first: str, second: str) -> None:
    """Passes over bytes give what a loop over characters gives."""
    text = first + second
    assert estimate_token_count(text) == by_the_book(text)


@given(_TEXTS, _TEXTS, st.integers(1, 100))
@settings(max_examples=300)
def test_a_long_text_is_counted_in_pieces(first: str, second: str, size: int) -> None:
    """Wherever it is cut, in a word, a number or a coded run: the count is that of the whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "_PIECE_CHARS", size)
        assert estimate_token_count(first + second) == by_the_book(first + second)


@pytest.mark.parametrize("edge", [0x80, 0xC0, 0x250, 0x370, 0x530, 0x590, 0xF00, 0x2000, 0x2070, 0x2E80, 0xA000])
def test_the_edges_of_the_ranges(edge: int) -> None:
    """The first and the last character of a range weigh what the definition says."""
    for char in (chr(edge - 1), chr(edge)):
        assert estimate_token_count(char * 20) == by_the_book(char * 20)


@given(_TEXTS, _TEXTS)
@settings(max_examples=300)
def test_appending_never_lowers_the_estimate(first: str, second: str) -> None:
    """More text is never fewer tokens."""
    assert estimate_token_count(first + second) >= estimate_token_count(first)


@given(st.lists(_TEXTS, max_size=30))
def test_a_tally_of_pieces_is_near_the_whole(pieces: list[str]) -> None:
    """A text in pieces counts at least as much as the whole, and little more."""
    tally = TokenTally()
    for piece in pieces:
        tally.add(piece)
    lagging = tally.counted_tokens
    assert lagging <= tally.tokens == tally.counted_tokens
    assert tally.tokens <= by_the_book("".join(pieces)) * 1.05 + 2 + len("".join(pieces)) / 100


def data_url(head: bytes, mime: str = "image/png") -> str:
    """The head of an image as a data URL."""
    return f"data:{mime};base64,{base64.b64encode(head + bytes(32)).decode()}"


def png(width: int, height: int) -> bytes:
    """The head of a PNG."""
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height)


def jpeg(width: int, height: int) -> bytes:
    """The head of a JPEG with metadata and fill bytes before its frame."""
    metadata = b"\xff\xe1" + struct.pack(">H", 5000) + bytes(4998)
    return b"\xff\xd8" + metadata + b"\xff\xff\xc2" + struct.pack(">HBHH", 17, 8, height, width)


def webp(form: bytes, payload: bytes) -> bytes:
    """The head of a WebP."""
    return b"RIFF\0\0\0\0WEBP" + form + b"\0\0\0\0" + payload


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (png(640, 480), (640, 480)),
        (b"GIF89a" + struct.pack("<HH", 20, 10), (20, 10)),
        (jpeg(800, 600), (800, 600)),
        (webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 0x4000 | 300, 200)), (300, 200)),
        (webp(b"VP8L", b"\x2f" + struct.pack("<I", 299 | 199 << 14)), (300, 200)),
        (webp(b"VP8X", b"\0\0\0\0" + b"\x2b\x01\x00\xc7\x00\x00"), (300, 200)),
        (webp(b"VP9 ", b""), None),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"\x89PNG\r\n\x1a\n", None),
        (b"\xff\xd8\xff", None),
        (b"\xff\xd8\x00\x00", None),
        (b"\xff\xd8\xff\xe1\x00", None),
        (b"text", None),
    ],
)
def test_image_sizes_come_from_the_header(head: bytes, size: tuple[int, int] | None) -> None:
    """Four formats are read; a cut or foreign header has no size."""
    assert image_size(head) == size


@pytest.mark.parametrize(
    ("url", "detail", "tokens"),
    [
        (data_url(png(750, 100)), "", 100),
        (data_url(png(751, 100)), "auto", 101),
        (data_url(png(10, 10)), "high", 85),
        (data_url(png(9000, 9000)), "", 1600),
        (data_url(png(9000, 9000)), "low", 85),
        (data_url(jpeg(800, 600)), "", 640),
        ("https://example.org/a.png", "", IMAGE_MAX_TOKENS),
        ("data:image/png,raw", "", IMAGE_MAX_TOKENS),
        ("data:image/png;base64,A", "", IMAGE_MAX_TOKENS),
        ("", "", IMAGE_MAX_TOKENS),
    ],
)
def test_image_tokens(url: str, detail: str, tokens: int) -> None:
    """An image counts by its area between two bounds; one that cannot be read counts the most."""
    assert estimate_image_tokens(url, detail) == tokens


def test_documents_and_audio_count_by_their_size() -> None:
    """Documents go in started 50 KiB, audio in 3,200 bytes."""
    assert estimate_document_tokens("") == 1500
    assert estimate_document_tokens("data:application/pdf;base64," + "A" * (51_200 * 4 // 3)) == 1500
    assert estimate_document_tokens("A" * (51_204 * 4 // 3)) == 3000
    assert estimate_audio_tokens("") == 0
    assert estimate_audio_tokens("A" * (3_201 * 4 // 3)) == 2
