"""Where the members of a JSON object stand, so that a body can be edited without being written anew.

Key order, spacing, the spelling of numbers and unknown fields survive byte for byte, which keeps a provider's
prompt cache hitting. Nothing here interprets a value, and nothing decodes a body and encodes it again.

How spans are found: msgspec proves the text to be JSON and hands out each top-level value as raw bytes. A walk over
the keys then knows how far to jump over every value, so its cost grows with the number of members, not with their
size. The walk compares what it jumps over with the raw value. A duplicate key leaves only its last value with
msgspec, so the walk meets something else, or the same name again: either is the proof of a duplicate.
"""

from __future__ import annotations

import re
from codecs import utf_8_decode
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import NamedTuple

import msgspec

from palyra.limits import JSON_DEPTH_MAX, JSON_MEMBERS_MAX_COUNT
from palyra.wire.errors import WireError


class Span(NamedTuple):
    """Byte offsets of one member. `body[start:end]` is the value, `body[key_start:key_end]` the quoted key."""

    key_start: int
    key_end: int
    start: int
    end: int


class Edit(NamedTuple):
    """Put `data` where `body[start:end]` was."""

    start: int
    end: int
    data: bytes


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_OPEN = re.compile(rb"[ \t\n\r]*\{[ \t\n\r]*")
_KEY = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\n\r]*:[ \t\n\r]*')
_COMMA = re.compile(rb"[ \t\n\r]*,?[ \t\n\r]*")
_OFFSET = re.compile(r"(.*) \(byte (\d+)\)")
_SHAPES = bytes.maketrans(b"{}", b"[]")
_NOT_STRUCTURE = bytes(byte for byte in range(256) if byte not in b'{}[]"')
_STEPS = {ord("["): 1, ord("]"): -1}
#: Of a body that is looked at without a pause, and of brackets that are cheaper felled than summed up.
_PIECE_BYTES = 256 * 1024
_TREE_MAX_BYTES = 8 * 1024


def scan_object(body: bytes) -> dict[str, Span]:
    """Return the top-level members of `body` in their order.

    Raises `WireError`: `invalid_json` with the offset, `invalid_request` for something else than an object, a
    duplicate key, or too many members.
    """
    members = _parse(body)
    if len(members) > JSON_MEMBERS_MAX_COUNT:
        raise WireError("invalid_request", f"The body has more than {JSON_MEMBERS_MAX_COUNT} top-level members.")
    spans: dict[str, Span] = {}
    position = _end(_OPEN.match(body))
    name = ""
    while body[position : position + 1] != b"}":
        key = _KEY.match(body, position)
        if key is None:
            raise _duplicate(name)
        name = _TEXT.decode(key[1])
        value = bytes(members[name])
        end = key.end() + len(value)
        if name in spans or body[key.end() : end] != value:
            raise _duplicate(name)
        spans[name] = Span(position, key.end(1), key.end(), end)
        position = _end(_COMMA.match(body, end))
    return spans


def check_depth(body: bytes) -> None:
    """Raise `WireError` if `body`, which is valid JSON, nests deeper than `JSON_DEPTH_MAX`.

    Measured without a loop over the bytes, and piece by piece, because no other thread has a turn while a pass over
    one is under way. The brackets of a piece are a tree; one replacement takes away all its leaves, so a tree of
    depth n is gone after n of them. Where there are many brackets, or the piece is not all, they are summed up.
    """
    depth, start, is_inside = 0, 0, False
    while start < len(body):
        piece = body[start : start + _PIECE_BYTES]
        # Of an escape that is cut off, the rest is left out: it opens and closes nothing.
        start += len(piece) + (len(piece) - len(piece.rstrip(b"\\"))) % 2
        tree, is_inside = _brackets(piece, is_inside)
        if start >= len(body) and not depth and len(tree) <= _TREE_MAX_BYTES:
            _fell(tree)
            return
        depths = list(accumulate(map(_STEPS.__getitem__, tree), initial=depth))
        if max(depths) > JSON_DEPTH_MAX:
            raise _too_deep()
        depth = depths[-1]


def _brackets(piece: bytes, is_inside: bool) -> tuple[bytes, bool]:
    """Return the brackets of a piece, all of one shape, and whether it ends inside a string as it may begin.

    Escapes go first, so that every quote left opens or closes a string. What is no quote or bracket goes next, then
    pairs of quotes that touch (they keep the parity), then the strings.
    """
    text = piece.replace(b"\\\\", b"").replace(b'\\"', b"") if piece.find(b"\\") >= 0 else piece
    between = text.translate(_SHAPES, _NOT_STRUCTURE).replace(b'""', b"").split(b'"')
    return b"".join(between[int(is_inside) :: 2]), is_inside ^ (len(between) % 2 == 0)


def _fell(tree: bytes) -> None:
    """Raise `WireError` if a tree of brackets is too deep."""
    for _ in range(JSON_DEPTH_MAX):
        tree = tree.replace(b"[]", b"")
        if not tree:
            return
    raise _too_deep()


def replace(span: Span, value: bytes) -> Edit:
    """Return the edit that puts `value` in place of a member's value."""
    return Edit(span.start, span.end, value)


def insert(body: bytes, spans: Mapping[str, Span], members: Mapping[str, bytes]) -> Edit:
    """Return the edit that adds `members` (name -> JSON value) after the last member of `body`."""
    added = b",".join(msgspec.json.encode(name) + b":" + value for name, value in members.items())
    if not spans:
        start = body.index(b"{") + 1
        return Edit(start, start, added)
    start = max(span.end for span in spans.values())
    return Edit(start, start, b"," + added)


def splice(body: bytes, edits: Iterable[Edit]) -> bytes:
    """Return `body` with the edits done; they do not overlap, their order does not matter."""
    pieces: list[bytes] = []
    position = 0
    for edit in sorted(edits):
        pieces += (body[position : edit.start], edit.data)
        position = edit.end
    pieces.append(body[position:])
    return b"".join(pieces)


def _parse(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        if not body.isascii():
            _check_utf8(body)
        return _OBJECT.decode(body)
    except RecursionError as exc:
        raise _too_deep() from exc
    except msgspec.ValidationError as exc:
        raise WireError("invalid_request", "The body must be a JSON object.") from exc
    except msgspec.DecodeError as exc:
        found = _OFFSET.fullmatch(str(exc))
        if found is None:
            raise invalid_json("it ends too early", len(body)) from exc
        raise invalid_json(found[1].removeprefix("JSON is malformed: "), int(found[2])) from exc


def _check_utf8(body: bytes) -> None:
    start = 0
    while start < len(body):
        piece = body[start : start + _PIECE_BYTES]
        try:
            # Of a character that is cut off, the piece behind has the whole.
            _, read_bytes = utf_8_decode(piece, "strict", start + len(piece) == len(body))
        except UnicodeDecodeError as exc:
            raise invalid_json("it is not UTF-8", start + exc.start) from exc
        start += read_bytes


def invalid_json(reason: str, offset: int) -> WireError:
    """Return the error for a text that is no JSON."""
    return WireError("invalid_json", f"The body is not valid JSON: {reason} (byte {offset}).")


def _too_deep() -> WireError:
    return WireError("invalid_request", f"The body nests deeper than {JSON_DEPTH_MAX} levels.")


def _duplicate(name: str) -> WireError:
    return WireError("invalid_request", f"The top-level key {name[:64]!r} appears more than once.", name[:64])


def _end(match: re.Match[bytes] | None) -> int:
    assert match is not None  # valid JSON, proved before the walk
    return match.end()
