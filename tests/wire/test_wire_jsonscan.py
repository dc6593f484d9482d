"""The scanner of JSON bodies, and the edits made at its spans."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra.limits import JSON_DEPTH_MAX, JSON_MEMBERS_MAX_COUNT
from palyra.wire import jsonscan
from palyra.wire.errors import WireError
from palyra.wire.jsonscan import check_depth, insert, replace, scan_object, splice

_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(['"model":"x"', "{[", "\\", '\\"', "]}"]),
)
_KEYS = st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), st.sampled_from(["model", 'm"x']))
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4), max_leaves=12
)
_OBJECTS = st.dictionaries(_KEYS, _VALUES, max_size=6)


@st.composite
def spelled(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """An object and one of its many spellings."""
    value = draw(_OBJECTS)
    text = json.dumps(
        value,
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 0, 2])),
        separators=draw(st.sampled_from([(",", ":"), (" , ", " : "), (", ", ": ")])),
    )
    return value, (draw(st.sampled_from(["", " ", "\n\t"])) + text).encode()


@given(spelled())
@settings(max_examples=100)
def test_the_spans_of_any_spelling_hold_the_keys_and_values(case: tuple[dict[str, Any], bytes]) -> None:
    """Each span decodes to its key and to its value, in the order of the body."""
    value, body = case
    spans = scan_object(body)
    assert list(spans) == list(value)
    for name, span in spans.items():
        assert msgspec.json.decode(body[span.key_start : span.key_end]) == name
        assert json.loads(body[span.start : span.end]) == value[name]


@given(spelled(), st.data())
@settings(max_examples=100)
def test_an_edit_changes_its_span_and_nothing_else(case: tuple[dict[str, Any], bytes], data: st.DataObject) -> None:
    """Replacing a value and adding a member leaves every other byte where it was."""
    value, body = case
    spans = scan_object(body)
    edits = [insert(body, spans, {"added one": b"1", "added two": b"[2]"})]
    expected = {**value, "added one": 1, "added two": [2]}
    outside = body
    if spans:
        name = data.draw(st.sampled_from(list(spans)))
        edits.append(replace(spans[name], b'"new"'))
        expected[name] = "new"
        outside = body[: spans[name].start] + b'"new"' + body[spans[name].end :]
    edited = splice(body, edits)
    assert json.loads(edited) == expected
    start = edited.rindex(b'"added one"')
    end = start + len(b'"added one":1,"added two":[2]')
    assert edited[: start - bool(spans)] + edited[end:] == outside


def test_no_edit_returns_the_same_bytes() -> None:
    """A body without edits is the client's."""
    assert splice(b' {"a" : 1e400 }\n', []) == b' {"a" : 1e400 }\n'


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":1,"model":2}',
        b'{"model":1,"model":1}',
        b'{"model":12,"model":1}',
        b'{"model":1,"model":12}',
        b'{"a":"x","b":2,"a":"y,\\"b\\":2}"}',
        b'{"a":1,"\\u0061":1}',
        b'{"a":[1],"a":[1],"a":[1]}',
    ],
)
def test_a_duplicate_key_is_refused(body: bytes) -> None:
    """No spelling of a duplicate gets through."""
    with pytest.raises(WireError, match="more than once") as caught:
        scan_object(body)
    assert caught.value.code == "invalid_request"


def test_a_nested_duplicate_is_the_providers_to_judge() -> None:
    """Only top-level keys are the gateway's."""
    assert list(scan_object(b'{"a":{"b":1,"b":2}}')) == ["a"]


@pytest.mark.parametrize(
    ("body", "offset"),
    [
        (b"", 0),
        (b'{"a":1', 6),
        (b'{"a":[1,}', 8),
        (b'{"a":01}', 6),
        (b'{"a":1}x', 8),
        (b'{"a":"\xff"}', 6),
        (b'{"\xff":1}', 2),
        (b"{a:1}", 1),
        (b'{"a":NaN}', 5),
        (b'\xef\xbb\xbf{"a":1}', 0),
    ],
)
def test_invalid_json_is_named_with_its_offset(body: bytes, offset: int) -> None:
    """The byte at fault stands in the message."""
    with pytest.raises(WireError) as caught:
        scan_object(body)
    assert caught.value.code == "invalid_json"
    assert f"(byte {offset})" in caught.value.message


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1", b"null"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    """Valid JSON of another kind is an invalid request."""
    with pytest.raises(WireError, match="must be a JSON object") as caught:
        scan_object(body)
    assert caught.value.code == "invalid_request"


def test_too_many_members_are_refused() -> None:
    """The scanner takes a step a member, so their number is bounded."""
    members = {f"k{number}": 0 for number in range(JSON_MEMBERS_MAX_COUNT + 1)}
    with pytest.raises(WireError, match="top-level members"):
        scan_object(json.dumps(members).encode())
    del members["k0"]
    assert len(scan_object(json.dumps(members).encode())) == JSON_MEMBERS_MAX_COUNT


@pytest.mark.parametrize("shape", ["[%s]", '{"a":%s}', '["[\\\\", %s, "}\\"]"]'])
def test_nesting_is_bounded(shape: str) -> None:
    """The bound itself passes and one level more does not, whatever brackets the strings hold."""
    text = "1"
    for _ in range(JSON_DEPTH_MAX - 1):
        text = shape % text
    check_depth(f'{{"x":{text}}}'.encode())
    with pytest.raises(WireError, match="deeper than 64"):
        check_depth(f'{{"x":{shape % text}}}'.encode())


def test_absurd_nesting_is_refused_before_it_is_measured() -> None:
    """Nesting that no parser follows is an invalid request too."""
    with pytest.raises(WireError, match="deeper than 64"):
        scan_object(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@given(_VALUES, st.sampled_from([7, 64, 1 << 20]), st.sampled_from([0, 1 << 20]))
@settings(max_examples=150)
def test_the_depth_is_that_of_a_recursive_count(value: Any, piece_bytes: int, tree_bytes: int) -> None:
    """Wrapped to the bound a value passes, and one deeper it does not; however it is cut and counted."""

    def depth(item: Any) -> int:
        if isinstance(item, dict):
            return 1 + max(map(depth, item.values()), default=0)
        return 1 + max(map(depth, item), default=0) if isinstance(item, list) else 0

    room = JSON_DEPTH_MAX - depth(value)
    text = json.dumps(value, ensure_ascii=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonscan, "_PIECE_BYTES", piece_bytes)
        patch.setattr(jsonscan, "_TREE_MAX_BYTES", tree_bytes)
        check_depth(("[" * room + text + "]" * room).encode("utf-8", "surrogatepass"))
        with pytest.raises(WireError):
            check_depth(("[" * (room + 1) + text + "]" * (room + 1)).encode("utf-8", "surrogatepass"))


@given(st.text("aé你🙂", min_size=1, max_size=30), st.integers(4, 9))
def test_what_is_not_utf8_is_named_with_its_offset(text: str, piece_bytes: int) -> None:
    """Also in a body that is looked at in pieces, and a character may lie across two of them."""
    body = f'{{"a":"{text}"}}'.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonscan, "_PIECE_BYTES", piece_bytes)
        assert list(scan_object(body)) == ["a"]
        with pytest.raises(WireError, match=rf"not UTF-8 \(byte {len(body) - 2}\)"):
            scan_object(body[:-2] + b"\xff" + body[-2:])
