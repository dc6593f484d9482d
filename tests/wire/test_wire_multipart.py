"""Forms: found by their places, rebuilt part by part, and never a crash or a slow walk, whatever the bytes are."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from recordings import BOUNDARY, form

from palyra.wire.errors import WireError
from palyra.wire.multipart import PART_HEAD_MAX_BYTES, PARTS_MAX_COUNT, boundary_of, read_form

SOUND = b"\x00\r\n--cut\r\n\r\n--\xff"


def test_a_form_is_its_parts() -> None:
    """Names, file names and contents are found where they are; what only looks like a boundary is content."""
    found = read_form(form(("file", "a b.wav", SOUND), ("model", None, b"m"), ("empty", None, b"")), BOUNDARY)
    assert [(part.name, part.filename, bytes(found.content(part))) for part in found.parts] == [
        ("file", "a b.wav", SOUND),
        ("model", None, b"m"),
        ("empty", None, b""),
    ]
    assert (found.text("model"), found.text("empty"), found.text("other")) == ("m", "", None)


def test_a_preamble_an_epilogue_and_spaces_behind_a_boundary_mean_nothing() -> None:
    """RFC 2046 allows them."""
    body = form(("model", None, b"m")).replace(b"--cut-here\r\n", b"--cut-here \t\r\n", 1)
    assert read_form(b"hello\r\n" + body + b"goodbye", BOUNDARY).text("model") == "m"


def test_a_field_of_a_list_has_two_spellings() -> None:
    """`include` and `include[]` are one name."""
    found = read_form(form(("include[]", None, b"a"), ("include", None, b"b")), BOUNDARY)
    assert len(found.named("include")) == 2
    with pytest.raises(WireError, match="more than once"):
        found.text("include")


def test_a_form_is_rebuilt_part_by_part() -> None:
    """A changed field keeps its place, a new one comes last, one left out is gone; the rest keeps its bytes."""
    body = form(
        ("model", None, b"m"), ("file", "a.wav", SOUND), ("stream", None, b"true"), ("model", None, b"twice")
    )
    rebuilt = read_form(body, BOUNDARY).rebuilt({"model": "up", "stream": None, "response_format": "json"})
    again = read_form(rebuilt, BOUNDARY)
    assert [(part.name, bytes(again.content(part))) for part in again.parts] == [
        ("model", b"up"),
        ("file", SOUND),
        ("response_format", b"json"),
    ]
    assert form(("file", "a.wav", SOUND))[: -len("--cut-here--\r\n")] in rebuilt
    assert again.content_type == 'multipart/form-data; boundary="cut-here"'


def test_nothing_changed_is_nothing_changed() -> None:
    """Without changes the parts come back byte for byte."""
    body = form(("model", None, b"m"), ("file", "a.wav", SOUND))
    assert read_form(body, BOUNDARY).rebuilt({}) == body


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=a", "a"),
        ('multipart/form-data; charset=utf-8; Boundary="a b"', "a b"),
        ('multipart/form-data; boundary="a\\"b"', None),
        ('multipart/form-data; boundary="a ', None),
        ("multipart/form-data; boundary=" + "a" * 71, None),
        ("multipart/form-data", None),
        ("", None),
    ],
)
def test_the_boundary_of_a_content_type(content_type: str, boundary: str | None) -> None:
    """1 to 70 characters of those that are allowed, quoted or not."""
    if boundary is None:
        with pytest.raises(WireError, match="boundary"):
            boundary_of(content_type)
    else:
        assert boundary_of(content_type) == boundary


HEAD = b'--cut-here\r\ncontent-disposition: form-data; name="a"\r\n\r\n'


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "does not hold its boundary"),
        (b"nothing", "does not hold its boundary"),
        (HEAD, "ends inside a part"),
        (b"--cut-here", "behind a boundary"),
        (b"--cut-here\r\n", "ends inside a part"),
        (b"--cut-hereX\r\n", "behind a boundary"),
        (b"--cut-here\r\n--cut-here--", "without an end of its headers"),
        (b"--cut-here\r\nX: y\r\n\r\n\r\n--cut-here--", "without a name"),
        (b"--cut-here\r\ncontent-disposition: form-data\r\n\r\n\r\n--cut-here--", "without a name"),
        (b"--cut-here\r\nX: y\r\n--cut-here--", "without an end of its headers"),
        (
            b"--cut-here\r\nX: " + b"y" * PART_HEAD_MAX_BYTES + b"\r\n\r\n\r\n--cut-here--",
            "without an end of its head",
        ),
        (form(*[("a", None, b"")] * (PARTS_MAX_COUNT + 1)), "more than 256 parts"),
    ],
)
def test_a_form_that_is_none(body: bytes, sentence: str) -> None:
    """Each way to be none is said."""
    with pytest.raises(WireError, match=sentence):
        read_form(body, BOUNDARY)


def test_a_text_that_is_no_text() -> None:
    """A field of bytes is named."""
    with pytest.raises(WireError, match="model is not UTF-8"):
        read_form(form(("model", None, b"\xff")), BOUNDARY).text("model")


_PIECES = st.lists(
    st.sampled_from([b"--cut-here", b"\r\n", b"--", b'; name="', b'"', b"\\", b"content-disposition: form-data"])
    | st.binary(max_size=6)
).map(b"".join)


@given(_PIECES)
@example(HEAD + b"\r\n--cut-here--")
def test_any_bytes_are_a_form_or_a_refusal(body: bytes) -> None:
    """Nothing else comes out; a form that was read can be rebuilt and read again."""
    try:
        found = read_form(body, BOUNDARY)
    except WireError:
        return
    again = read_form(found.rebuilt({}), BOUNDARY)
    contents = [(part.name, part.filename, bytes(found.content(part))) for part in found.parts]
    assert contents == [(part.name, part.filename, bytes(again.content(part))) for part in again.parts]


@given(st.text(max_size=80))
def test_any_content_type_has_a_boundary_or_is_refused(text: str) -> None:
    """Nothing else comes out."""
    with contextlib.suppress(WireError):
        assert 1 <= len(boundary_of(text)) <= 70


@pytest.mark.parametrize("evil", [b';a="', b'";', b';a="\\', b"; =", b"a=;"])
def test_a_head_made_to_be_slow_is_not(evil: bytes) -> None:
    """Each byte of a head is looked at a fixed number of times: 256 of the largest ones are read in no time."""
    line = b"content-disposition: x" + evil * ((PART_HEAD_MAX_BYTES - 40) // len(evil))
    body = (b"--cut-here\r\n" + line + b"\r\n\r\n\r\n") * 16 + b"--cut-here--"
    started = time.process_time()
    with pytest.raises(WireError):
        read_form(body, BOUNDARY)
    assert time.process_time() - started < 1
