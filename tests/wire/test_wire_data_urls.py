"""Data URLs in requests: any text is an image, a URL, or a refusal, and none takes long."""

from __future__ import annotations

import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palyra.wire.dialects import DIALECT_ROWS, neutral_of
from palyra.wire.errors import WireError
from palyra.wire.media import (
    IMAGE_MAX_TOKENS,
    estimate_audio_tokens,
    estimate_document_tokens,
    estimate_image_tokens,
)
from palyra.wire.request import decode_chat
from palyra.wire.target import Target

_PIECES = st.sampled_from(["data:", "image/png", ";base64", ",", ";", "%2C", "=", "AAAA", "\u00e9", "https://", ""])
_MAGIC = st.sampled_from(
    [b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8 ", b"RIFF\0\0\0\0WEBPVP8X", b"\xff\xd8", b""]
)


def urls() -> st.SearchStrategy[str]:
    """Pieces of data URLs in any order, and right ones around any bytes."""
    whole = st.tuples(_MAGIC, st.binary(max_size=64)).map(
        lambda parts: "data:image/png;base64," + base64.b64encode(b"".join(parts)).decode()
    )
    return whole | st.lists(_PIECES | st.text(max_size=4), max_size=8).map("".join)


@given(urls())
def test_any_url_has_an_estimate(url: str) -> None:
    """Images are within their bounds, documents and sounds have some size."""
    assert 85 <= estimate_image_tokens(url) <= IMAGE_MAX_TOKENS
    assert estimate_document_tokens(url) >= 1_500
    assert estimate_audio_tokens(url) >= 0


@given(urls(), urls())
def test_any_url_in_a_request_is_read_or_refused(image: str, file: str) -> None:
    """A request that was read can be written in each dialect, or its refusal names what is wrong."""
    parts = [
        {"type": "image_url", "image_url": {"url": image}},
        {"type": "file", "file": {"file_data": file, "filename": "a.pdf"}},
        {"type": "input_audio", "input_audio": {"data": file, "format": "wav"}},
    ]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}]}).encode()
    try:
        request = decode_chat(body)
        for name, row in DIALECT_ROWS.items():
            row.write_call(neutral_of(request), Target(dialect=name, model="m"))  # type: ignore[arg-type]
    except WireError:
        return


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64," + "A" * 4_000_000,
        "data:image/jpeg;base64," + base64.b64encode(b"\xff\xd8" + b"\xff" * 3_000_000).decode(),
        "data:" + ";" * 4_000_000,
        "," * 4_000_000,
    ],
)
def test_a_long_url_takes_no_time(url: str) -> None:
    """Only its head is looked at."""
    started = time.process_time()
    estimate_image_tokens(url)
    assert time.process_time() - started < 0.5
