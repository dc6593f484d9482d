"""Typed decoding that answers in sentences: which field, what was expected, what came.

The text of msgspec's messages is read here and nowhere else; a test holds every form of it that is relied on.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from palyra.limits import MODEL_NAME_MAX_CHARS
from palyra.wire.errors import WireError

T = TypeVar("T")

#: The value of an absent member that is decoded lazily.
NULL = msgspec.Raw(b"null")
#: One level of JSON: what lies deeper keeps its bytes.
MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
ITEMS = msgspec.json.Decoder(list[msgspec.Raw])

_PLACE = re.compile(r"(.*) - at `\$([^`]*)`", re.DOTALL)
_TYPES = re.compile(r"Expected `([^`]*)`, got `([^`]*)`")
_MISSING = re.compile(r"Object missing required field `([^`]*)`")
_WORDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def decode(decoder: msgspec.json.Decoder[T], text: bytes | msgspec.Raw, place: str = "") -> T:
    """Decode a client's JSON; raises `WireError` whose `param` is below `place`."""
    try:
        return decoder.decode(text)
    except msgspec.DecodeError as exc:
        raise _mismatch(str(exc), place) from exc


def read_or_none(decoder: msgspec.json.Decoder[T], text: bytes | msgspec.Raw) -> T | None:
    """Decode what is read only to be understood; None where it is absent or has another shape."""
    if text is NULL:
        return None
    try:
        return decoder.decode(text)
    except (ValueError, RecursionError):
        return None


class _Kind(msgspec.Struct):
    type: Any = None


_KIND = msgspec.json.Decoder(_Kind)


def kind_of(text: msgspec.Raw) -> str:
    """Return the `type` of an object, and no more of it; "unknown" where it has none."""
    kind = (read_or_none(_KIND, text) or _Kind()).type
    return kind if isinstance(kind, str) else "unknown"


def check_count(place: str, count: int, max_count: int) -> None:
    """Raise `WireError` for more items at a place than are allowed."""
    if count > max_count:
        raise WireError("invalid_request", f"{place} holds {count} items; {max_count} are allowed.", place)


def check_positive(place: str, value: int | None) -> None:
    """Raise `WireError` for a number at a place that is 0 or less."""
    if value is not None and value < 1:
        raise WireError("invalid_request", f"{place} must be 1 or more.", place)


def model_asked(name: str | None) -> str:
    """Return the name of the model that a request asks for, "" where it leaves that open; raises `WireError`."""
    if name is None or not name.strip():
        return ""
    if len(name) > MODEL_NAME_MAX_CHARS:
        message = f"No model has a name of more than {MODEL_NAME_MAX_CHARS} characters."
        raise WireError("model_not_found", message, "model")
    return name


def _mismatch(text: str, place: str) -> WireError:
    located = _PLACE.fullmatch(text)
    if located is not None:
        text, place = located[1], (place + located[2]).removeprefix(".")
    if missing := _MISSING.fullmatch(text):
        place = f"{place}.{missing[1]}".removeprefix(".")
        return WireError("invalid_request", f"{place} is missing.", place)
    if types := _TYPES.fullmatch(text):
        expected = " or ".join(_WORDS.get(word, word) for word in types[1].split(" | "))
        came = _WORDS.get(types[2], types[2])
        return WireError("invalid_request", f"{place or 'The body'} must be {expected}, not {came}.", place or None)
    return WireError("invalid_request", f"{place or 'The body'} cannot be read: {text}.", place or None)
