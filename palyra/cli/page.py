"""What is printed for people: lines, labelled values and tables, in colour where a terminal wants it.

Every text passes `clean` on its way out, so nothing that was recorded can command the terminal. Colour says nothing
that the words do not say. On a terminal a table fits its width: columns that can be missed go, long cells are cut.
Elsewhere nothing is cut.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import tzinfo
from typing import NamedTuple, TextIO

from palyra.cli.render import clean, cut, width_of

_STYLES = {"bold": "1", "dim": "2", "good": "32", "warn": "33", "bad": "31", "accent": "36", "title": "1"}
#: For encodings that lack them.
_ASCII = str.maketrans({"·": "-", "…": "~", "→": "->", "×": "x", "≥": ">=", "–": "-"})
_GAP = "  "


class Styled(NamedTuple):
    """A text with the name of its style."""

    text: str
    style: str = ""


Piece = str | Styled
#: A line or a cell: one piece, or several without a gap.
Text = Piece | Sequence[Piece]


class Column(NamedTuple):
    """A column of a table."""

    title: str
    align: str = "left"
    #: Whether its cells may be cut on a narrow terminal.
    is_cut: bool = False
    #: On a narrow terminal the highest is narrowed and goes first; 0 stays.
    spare: int = 0
    #: A cell that may be cut keeps this many columns.
    least: int = 8


def is_colourful(stream: TextIO, environ: Mapping[str, str], setting: str = "auto") -> bool:
    """Return whether to colour: NO_COLOR, then CLICOLOR_FORCE, then `cli.color`, then what the stream is."""
    if environ.get("NO_COLOR"):
        return False
    if environ.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return setting == "always" or (setting == "auto" and stream.isatty() and environ.get("TERM") != "dumb")


def pieces_of(text: Text) -> list[Styled]:
    """Return a text as cleaned pieces."""
    pieces = [text] if isinstance(text, (str, Styled)) else text
    return [
        Styled(clean(piece)) if isinstance(piece, str) else Styled(clean(piece.text), piece.style)
        for piece in pieces
    ]


class Page:
    """Where an answer is printed."""

    def __init__(self, stream: TextIO | None = None, *, color: str = "auto", zone: tzinfo | None = None) -> None:
        self.stream = stream or sys.stdout
        self.zone = zone
        self._is_colourful = is_colourful(self.stream, os.environ, color)
        #: Columns of the terminal; None elsewhere.
        self.columns = shutil.get_terminal_size().columns if self.stream.isatty() else None
        encoding = (self.stream.encoding or "ascii").lower().replace("-", "")
        self._is_ascii = encoding not in ("utf8", "utf16", "utf32")
        self._has_begun = False

    def line(self, *pieces: Piece, indent: int = 0) -> None:
        """Print one line; without pieces an empty one."""
        self._write(" " * indent + self._painted(pieces_of(pieces)).rstrip())

    def title(self, text: str) -> None:
        """Print the heading of a part, with a free line before it unless the page begins with it."""
        if self._has_begun:
            self.line()
        self.line(Styled(text, "title"))

    def fields(self, rows: Iterable[tuple[str, Text]], indent: int = 0) -> None:
        """Print labelled values, aligned; a value that does not fit goes on below itself."""
        shown = [(clean(label), pieces_of(value)) for label, value in rows]
        labels = max((width_of(label) for label, _ in shown), default=0)
        room = None if self.columns is None else max(self.columns - indent - labels - len(_GAP), 20)
        for label, value in shown:
            lines = [value] if room is None else _wrapped(value, room)
            head = Styled(label + " " * (labels - width_of(label)), "dim")
            for number, pieces in enumerate(lines):
                first = head if number == 0 else Styled(" " * labels)
                self._write(" " * indent + self._painted([first, Styled(_GAP), *pieces]).rstrip())

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Text]], indent: int = 0) -> None:
        """Print a table; columns without any value are left out, and a table without rows is nothing."""
        if not rows:
            return
        cells = [[pieces_of(cell) for cell in row] for row in rows]
        kept = [at for at in range(len(columns)) if any(_plain(row[at]) for row in cells)]
        widths = {
            at: max(width_of(columns[at].title), *(width_of(_plain(row[at])) for row in cells)) for at in kept
        }
        if self.columns is not None:
            _fit(columns, widths, self.columns - indent)
        titles = [[Styled(columns[at].title, "dim")] for at in range(len(columns))]
        for row in [titles, *cells]:
            parts = [self._cell(row[at], columns[at].align, width) for at, width in widths.items()]
            self._write((" " * indent + _GAP.join(parts)).rstrip())

    def _cell(self, pieces: list[Styled], align: str, width: int) -> str:
        text = _plain(pieces)
        if width_of(text) > width:
            pieces = [Styled(cut(text, width), pieces[0].style)]
            text = pieces[0].text
        gap = " " * (width - width_of(text))
        painted = self._painted(pieces)
        return gap + painted if align == "right" else painted + gap

    def _painted(self, pieces: Iterable[Styled]) -> str:
        if not self._is_colourful:
            return "".join(piece.text for piece in pieces)
        return "".join(
            f"\x1b[{_STYLES[piece.style]}m{piece.text}\x1b[0m" if piece.style and piece.text.strip() else piece.text
            for piece in pieces
        )

    def _write(self, text: str) -> None:
        if self._is_ascii:
            text = text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")
        self.stream.write(text + "\n")
        self._has_begun = True


def _plain(pieces: Iterable[Styled]) -> str:
    return "".join(piece.text for piece in pieces)


def _fit(columns: Sequence[Column], widths: dict[int, int], room: int) -> None:
    """Let go of spare columns, then narrow those that may be cut, spare and wide ones first, until it fits."""

    def needed(narrowest: bool) -> int:
        taken = (
            min(width, columns[at].least) if narrowest and columns[at].is_cut else width
            for at, width in widths.items()
        )
        return sum(taken) + len(_GAP) * (len(widths) - 1)

    while needed(narrowest=True) > room:
        spare = max(widths, key=lambda at: columns[at].spare)
        if columns[spare].spare == 0:
            break
        del widths[spare]
    while needed(narrowest=False) > room:
        able = [at for at, width in widths.items() if columns[at].is_cut and width > columns[at].least]
        if not able:
            break
        widths[max(able, key=lambda at: (columns[at].spare, widths[at]))] -= 1


def _wrapped(pieces: Sequence[Styled], room: int) -> list[list[Styled]]:
    """Cut a value into lines at its spaces; a word that is longer than a line stays whole."""
    words: list[list[Styled]] = [[]]
    for piece in pieces:
        first, *others = piece.text.split(" ")
        words[-1].append(Styled(first, piece.style))
        words += [[Styled(part, piece.style)] for part in others]
    lines: list[list[Styled]] = [[]]
    used = 0
    for word in words:
        width = width_of(_plain(word))
        if used and used + 1 + width > room:
            lines.append([])
            used = 0
        elif used:
            lines[-1].append(Styled(" "))
            used += 1
        lines[-1] += word
        used += width
    return lines
