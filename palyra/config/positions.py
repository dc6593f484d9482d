"""Where each key of a TOML file stands: path -> (line, column), both from 1, columns in characters.

`tomllib` gives values without places. This scanner gives places without values; it runs only on text that `tomllib`
has accepted, so it looks for where things end and never judges. The tests compare its paths with tomllib's tree.

The place of a key is that of its name, of an array's element that of the element, of a table that of its header's
bracket. What is never named on its own (`a` in `[a.b]`, `a` in `a.b = 1`) stands where it is first mentioned.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from typing import NamedTuple

from palyra.config.problems import Path

Places = dict[Path, tuple[int, int]]

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_KEY = re.compile(r"""[ \t]*([A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*(\.?)""")
_SCALAR = re.compile(
    r'''
    """ (?: [^"\\]++ | \\[\s\S] | "{1,2}(?!") )*+ "{3,5}
    | \'\'\' (?: [^']++ | '{1,2}(?!') )*+ '{3,5}
    | " (?: [^"\\\n]++ | \\. )*+ "
    | ' [^'\n]* '
    | [^,\]}\#\n"']+
    ''',
    re.VERBOSE,
)


class Pair(NamedTuple):
    """A key with its value, as offsets into the text."""

    #: The table it is written in: of a header, () at the top, or an inline table.
    table: Path
    key_start: int
    #: Where the last name of a dotted key begins.
    name_start: int
    key_end: int
    value_start: int
    value_end: int
    #: Whether that table is an inline one.
    is_inline: bool


class Header(NamedTuple):
    """A table's or an entry's header; an entry's path ends with its number."""

    path: Path
    start: int
    end: int


class Layout(NamedTuple):
    """Where everything is that an edit needs: pairs by their full path, headers in order, items of arrays."""

    pairs: dict[Path, Pair]
    headers: list[Header]


def find_layout(text: str) -> Layout:
    """Return where pairs and headers of a valid TOML document begin and end."""
    scanner = _Scanner(text)
    scanner.scan()
    return Layout(scanner.pairs, scanner.headers)


def find_positions(text: str) -> Places:
    """Return the place of every key and every array element of a valid TOML document."""
    scanner = _Scanner(text)
    scanner.scan()
    return {path: scanner.line_and_column(offset) for path, offset in scanner.offsets.items()}


def place_of(places: Places, path: Path) -> tuple[int, int]:
    """Return the place of a path, or of the nearest table around it that is written; (0, 0) if none is."""
    for count in range(len(path), 0, -1):
        if path[:count] in places:
            return places[path[:count]]
    return (0, 0)


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]
        #: Last index of each array of tables.
        self._last: dict[Path, int] = {}
        self.offsets: dict[Path, int] = {}
        self.pairs: dict[Path, Pair] = {}
        self.headers: list[Header] = []

    def line_and_column(self, offset: int) -> tuple[int, int]:
        line = bisect_right(self._lines, offset)
        return line, offset - self._lines[line - 1] + 1

    def scan(self) -> None:
        table: Path = ()
        while self._skip_blank():
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table, is_inline=False)

    def _skip_blank(self) -> bool:
        """Pass over spaces, line ends and comments; return whether anything is left."""
        self._at = _BLANK.match(self._text, self._at).end()  # type: ignore[union-attr]  # matches nothing at least
        return self._at < len(self._text)

    def _header(self) -> Path:
        start = self._at
        is_array = self._text.startswith("[[", start)
        self._at += 2 if is_array else 1
        names = [name for name, _ in self._key()]
        self._at = self._text.index("]", self._at) + (2 if is_array else 1)
        path: Path = ()
        for name in names[:-1]:
            path = self._inside((*path, name), start)
        path = (*path, names[-1])
        if is_array:
            self.offsets.setdefault(path, start)
            self._last[path] = self._last.get(path, -1) + 1
        path = self._inside(path, start)
        self.headers.append(Header(path, start, self._at))
        return path

    def _inside(self, path: Path, start: int) -> Path:
        """Return the table that a header's part means (of an array of tables the last), and note its place."""
        self.offsets.setdefault(path, start)
        if path in self._last:
            path = (*path, self._last[path])
            self.offsets.setdefault(path, start)
        return path

    def _key(self) -> list[tuple[str, int]]:
        """Read a key, dotted or not: its names, each with its offset."""
        names: list[tuple[str, int]] = []
        dot = "."
        while dot:
            match = _KEY.match(self._text, self._at)
            assert match is not None, "tomllib has accepted this text"
            name, dot = match.groups()
            names.append((_unquoted(name), match.start(1)))
            self._at = match.end()
        return names

    def _pair(self, table: Path, *, is_inline: bool) -> None:
        path, start, name_start = table, -1, -1
        for name, offset in self._key():
            path = (*path, name)
            self.offsets.setdefault(path, offset)
            start, name_start = (offset if start < 0 else start), offset
        key_end = start + len(self._text[start : self._at].rstrip(" \t"))
        self._at = self._text.index("=", self._at) + 1
        self._skip_blank()
        value_start = self._at
        self._value(path)
        value_end = value_start + len(self._text[value_start : self._at].rstrip())
        self.pairs[path] = Pair(table, start, name_start, key_end, value_start, value_end, is_inline)

    def _value(self, path: Path) -> None:
        opening = self._text[self._at]
        if opening == "[":
            self._array(path)
        elif opening == "{":
            self._inline_table(path)
        else:
            match = _SCALAR.match(self._text, self._at)
            assert match is not None, "tomllib has accepted this text"
            self._at = match.end()

    def _array(self, path: Path) -> None:
        self._at += 1
        index = 0
        while self._skip_blank() and self._text[self._at] != "]":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            item = (*path, index)
            self.offsets[item] = self._at
            self._value(item)
            index += 1
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while self._skip_blank() and self._text[self._at] != "}":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._pair(path, is_inline=True)
        self._at += 1


def _unquoted(name: str) -> str:
    """Return a key's name; escapes of quoted ones are left to the parser that knows them."""
    if name[0] == "'" or (name[0] == '"' and "\\" not in name):
        return name[1:-1]
    if name[0] == '"':
        value: str = tomllib.loads(f"v = {name}")["v"]
        return value
    return name
