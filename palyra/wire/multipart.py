"""Forms with files (RFC 7578 over RFC 2046): found by their places, rebuilt part by part, never copied to be read.

A part stays where it is in the body: what is known of it are its name and where its bytes are. So a form that is
sent on with one field changed has every other part byte for byte as it came, the file's among them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from palyra.wire.errors import WireError

PARTS_MAX_COUNT = 256
#: Of the headers of one part.
PART_HEAD_MAX_BYTES = 16 * 1024
#: RFC 2046, 5.1.1: 1 to 70 characters, a space not at the end.
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_PARAMETER = re.compile(r';\s*([\w*!#$&+.^`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))\s*')
_SPACE = b" \t"
#: Of a body that is searched without a pause.
_STEP_BYTES = 1024 * 1024


class FormPart(NamedTuple):
    """One field of a form, by its places in the body."""

    name: str
    #: None for a field that is no file.
    filename: str | None
    #: Of the part with its headers, and of its content.
    start: int
    content_start: int
    end: int

    @property
    def size_bytes(self) -> int:
        return self.end - self.content_start


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a body, in order."""

    body: bytes
    boundary: str
    parts: tuple[FormPart, ...]

    @property
    def content_type(self) -> str:
        return f'multipart/form-data; boundary="{self.boundary}"'

    def named(self, name: str) -> list[FormPart]:
        """Return the fields of a name; `name[]` is how some write one of a list."""
        return [part for part in self.parts if part.name in (name, f"{name}[]")]

    def content(self, part: FormPart) -> memoryview:
        """Return a field's bytes where they are."""
        return memoryview(self.body)[part.content_start : part.end]

    def text(self, name: str) -> str | None:
        """Return the text of a field, None where there is none; raises `WireError` for one given twice."""
        found = self.named(name)
        if not found:
            return None
        if len(found) > 1:
            raise WireError("invalid_request", f"{name} is given more than once.", name)
        try:
            return bytes(self.content(found[0])).decode()
        except UnicodeDecodeError as exc:
            raise WireError("invalid_request", f"{name} is not UTF-8 text.", name) from exc

    def rebuilt(self, changes: Mapping[str, str | None]) -> bytes:
        """Return the body with the text of some fields changed, added, or, for None, left out.

        Every other part is byte for byte what it was.
        """
        view, mark = memoryview(self.body), f"--{self.boundary}\r\n".encode()
        waiting = {name: text for name, text in changes.items() if text is not None}
        pieces: list[bytes | memoryview] = []
        for part in self.parts:
            if part.name not in changes:
                pieces += [mark, view[part.start : part.end], b"\r\n"]
            elif part.name in waiting:
                pieces += [mark, _field(part.name, waiting.pop(part.name)), b"\r\n"]
        for name, text in waiting.items():
            pieces += [mark, _field(name, text), b"\r\n"]
        return b"".join([*pieces, f"--{self.boundary}--\r\n".encode()])


#: Where only what is known of a form's fields matters.
NO_FORM = Form(body=b"", boundary="", parts=())


def _field(name: str, text: str) -> bytes:
    return f'Content-Disposition: form-data; name="{name}"\r\n\r\n{text}'.encode()


def boundary_of(content_type: str) -> str:
    """Return the boundary that a content type names; raises `WireError`."""
    boundary = _parameters(content_type).get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise WireError("invalid_request", "The content-type of a form must name its boundary.")
    return boundary


def read_form(body: bytes, boundary: str) -> Form:
    """Find the parts of a form; raises `WireError` for a body that is none."""
    delimiter = b"\r\n--" + boundary.encode()
    parts: list[FormPart] = []
    # The first delimiter may open the body; whatever stands before it is a preamble and means nothing.
    position = len(delimiter) - 2 if body.startswith(delimiter[2:]) else _after(body, delimiter, 0)
    while not body.startswith(b"--", position):
        start = _line_end(body, position)
        end = _find(body, delimiter, start - 2)
        if end < 0:
            raise _broken("ends inside a part")
        if len(parts) == PARTS_MAX_COUNT:
            raise _broken(f"has more than {PARTS_MAX_COUNT} parts")
        parts.append(_part(body, start, max(start, end)))
        position = end + len(delimiter)
    return Form(body=body, boundary=boundary, parts=tuple(parts))


def _after(body: bytes, delimiter: bytes, position: int) -> int:
    found = _find(body, delimiter, position)
    if found < 0:
        raise _broken("does not hold its boundary")
    return found + len(delimiter)


def _find(body: bytes, delimiter: bytes, position: int) -> int:
    """Return where a delimiter is, -1 for nowhere; looked for in steps, between which other threads have a turn."""
    while position < len(body):
        found = body.find(delimiter, position, position + _STEP_BYTES + len(delimiter))
        if found >= 0:
            return found
        position += _STEP_BYTES
    return -1


def _line_end(body: bytes, position: int) -> int:
    """Return where the line behind a delimiter ends; spaces may follow the delimiter, nothing else."""
    end = body.find(b"\r\n", position, position + PART_HEAD_MAX_BYTES)
    if end < 0 or body[position:end].strip(_SPACE):
        raise _broken("has something else behind a boundary")
    return end + 2


def _part(body: bytes, start: int, end: int) -> FormPart:
    head_end = body.find(b"\r\n\r\n", start, end)
    if head_end < 0 or head_end - start > PART_HEAD_MAX_BYTES:
        raise _broken("has a part without an end of its headers")
    disposition = _disposition(body[start:head_end])
    name = disposition.get("name")
    if name is None:
        raise _broken("has a part without a name")
    return FormPart(name, disposition.get("filename"), start, head_end + 4, end)


def _disposition(head: bytes) -> dict[str, str]:
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-disposition":
            return _parameters(value)
    return {}


def _parameters(value: str) -> dict[str, str]:
    """Return the parameters behind a header's value, up to the first that is none: each byte is seen once."""
    found: dict[str, str] = {}
    position = max(0, value.find(";"))
    while parameter := _PARAMETER.match(value, position):
        name, quoted, plain = parameter.groups()
        found.setdefault(name.lower(), plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
        position = parameter.end()
    return found


def _broken(how: str) -> WireError:
    return WireError("invalid_request", f"The form {how}.")
