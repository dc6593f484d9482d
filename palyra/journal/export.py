"""A journal as lines of JSON: `export_rows` writes them, `import_rows` makes the same journal of them.

::

    {"format":"palyra.journal","version":1,"journal_id":...,"first":1,"last":N,"previous_link":...,"partial":false}
    {"position":1,"stream":...,"version":1,"name":...,"schema":1,"recorded_at_us":...,"actor":...,"body":{...},"link":...}
    ...
    {"count":N,"head_link":...,"sha256":...}

A body stands in its line byte for byte as it is stored; empty fields of the envelope are left out; links and the
SHA-256, which covers all lines before the last, are hexadecimal. Both ways need memory for one batch of rows only.

What is imported must be what was exported to the byte: each line has to be what it would be written as, each link
is computed again, and what remains (header and footer) follows from the rows. So the line that was changed is the
line that is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import msgspec

from palyra.errors import JournalDamaged, PalyraError
from palyra.journal.build import JournalBuilder, Progress, RowRefused
from palyra.journal.chain import genesis_link
from palyra.journal.port import Head, Row
from palyra.journal.reader import JournalReader, StoredRow
from palyra.limits import EVENT_BODY_MAX_BYTES

#: Longest line that is read: a body, its envelope, and room for texts that JSON writes longer.
LINE_MAX_BYTES = 4 * EVENT_BODY_MAX_BYTES
_BATCH_COUNT = 500
_FOOTER_START = b'{"count":'

T = TypeVar("T")


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of an export, its fields in the order in which they are written."""


class ExportHeader(_Line, frozen=True, kw_only=True):
    """The first line."""

    format: Literal["palyra.journal"]
    version: Literal[1]
    journal_id: str
    #: Range of positions that was looked at; `last` is 0 for a journal without rows.
    first: int
    last: int
    #: Link of the position before `first`.
    previous_link: str
    #: Rows between position 1 and `last` are left out, so that it cannot be imported.
    partial: bool


class ExportedRow(_Line, frozen=True, kw_only=True, omit_defaults=True):
    """A line for a row; the fields are those of `Row`, and its link."""

    position: int
    stream: str
    version: int
    name: str
    schema: int
    recorded_at_us: int
    actor: str
    correlation: str = ""
    causation: int = 0
    command_key: str = ""
    body: msgspec.Raw
    link: str


class ExportFooter(_Line, frozen=True, kw_only=True):
    """The last line."""

    #: Lines between header and footer.
    count: int
    #: Link of the position `last`.
    head_link: str
    #: Of all lines before this one, their ends included.
    sha256: str


_encode = msgspec.json.Encoder().encode


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """What was written."""

    header: ExportHeader
    footer: ExportFooter


def export_rows(
    reader: JournalReader,
    out: BinaryIO,
    *,
    first: int = 1,
    last: int | None = None,
    takes: Callable[[Row], bool] | None = None,
    progress: Progress | None = None,
) -> Export:
    """Write the rows from `first` to `last` (default: the head at the start) of which `takes` is true.

    Rows are written as they are; whether they are sound is checked by the import. Raises `position_not_found`, and
    `JournalDamaged` for a row that is no line of JSON.
    """
    head = reader.head()
    last = head.position if last is None else min(last, head.position)
    previous, last_link = reader.link(first - 1), reader.link(last)
    if first > max(1, head.position) or previous is None or last_link is None:
        raise PalyraError(f"The journal ends at position {head.position}.", code="position_not_found")
    header = ExportHeader(
        format="palyra.journal",
        version=1,
        journal_id=reader.journal_id,
        first=first,
        last=last,
        previous_link=previous.hex(),
        partial=first > 1 or takes is not None,
    )
    digest, count = sha256(), 0
    line = _encode(header) + b"\n"
    digest.update(line)
    out.write(line)
    for batch in reader.stored_rows(first - 1, last):
        lines = []
        for stored in batch:
            row = _row_of(stored)
            if takes is None or takes(row):
                lines.append(_line_of(row, stored.link))
        text = b"".join(lines)
        digest.update(text)
        out.write(text)
        count += len(lines)
        if progress is not None:
            progress(batch[-1].position - first + 1, last - first + 1)
    footer = ExportFooter(count=count, head_link=last_link.hex(), sha256=digest.hexdigest())
    out.write(_encode(footer) + b"\n")
    return Export(header=header, footer=footer)


def _row_of(stored: StoredRow) -> Row:
    try:
        values: list[Any] = [value.decode() if isinstance(value, bytes) else value for value in stored[:-1]]
    except UnicodeDecodeError as exc:
        raise _unwritable(stored.position, "is no text") from exc
    return Row._make([*values[:-1], stored.body])


def _line_of(row: Row, link: bytes) -> bytes:
    line = _encode(ExportedRow(**row._asdict() | {"body": msgspec.Raw(row.body), "link": link.hex()})) + b"\n"
    try:
        _decode_row(line)
    except msgspec.DecodeError as exc:
        raise _unwritable(row.position, "has a body that is no JSON") from exc
    if line.count(b"\n") > 1:
        raise _unwritable(row.position, "has a body of more than one line")
    return line


def _unwritable(position: int, why: str) -> JournalDamaged:
    return JournalDamaged(
        f"Position {position} cannot be exported: it {why}.", hint=f"export what is before it: --to {position - 1}"
    )


_is_hex = re.compile("[0-9a-f]{64}").fullmatch
_decode_header = msgspec.json.Decoder(ExportHeader).decode
_decode_row = msgspec.json.Decoder(ExportedRow).decode
_decode_footer = msgspec.json.Decoder(ExportFooter).decode


class _Lines:
    """The lines of a file, counted."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        #: Number of the line that was read last.
        self.number = 0

    def read(self) -> bytes:
        """Return the next line, b"" at the end; a line without its end is damage."""
        self.number += 1
        line = self._file.readline(LINE_MAX_BYTES + 1)
        if line and not line.endswith(b"\n"):
            raise damaged(self.number, "is too long or has no end")
        return line

    def decode(self, line: bytes, decode: Callable[[bytes], T], what: str) -> T:
        """Return what a line says, if it is written exactly as it would be exported."""
        try:
            decoded = decode(line)
        except msgspec.DecodeError as exc:
            raise damaged(self.number, f"is not {what}: {exc}") from exc
        except UnicodeDecodeError as exc:
            raise damaged(self.number, f"is not {what}: it is no UTF-8") from exc
        if _encode(decoded) + b"\n" != line:
            raise damaged(self.number, "is not written as it was exported")
        return decoded


def damaged(line_number: int, why: str) -> PalyraError:
    """Return the error that refuses a line."""
    return PalyraError(
        f"Line {line_number} {why}.", hint="export the journal again, or import a copy", code="import_damaged"
    )


def import_rows(file: BinaryIO, path: Path, *, now_us: int, progress: Progress | None = None) -> Head:
    """Make the journal file `path` of an export, with the same links, and return its head.

    The instant at which the journal was made is that of its first row (`now_us` where there is none). Raises
    `import_damaged` with the number of the line, `import_partial`, `JournalUnwritable`; nothing is left then.
    """
    lines = _Lines(file)
    line = lines.read()
    header = lines.decode(line, _decode_header, "the header of an export")
    if header.partial:
        raise PalyraError(
            "The export leaves rows out, so no journal can be made of it.",
            hint="export it without --from, --names, --stream and --run",
            code="import_partial",
        )
    if header.first != 1 or header.previous_link != genesis_link(header.journal_id).hex():
        raise damaged(1, "contradicts itself")
    digest = sha256(line)
    with JournalBuilder(path, header.journal_id) as builder:
        try:
            created_at_us = _add_rows(lines, digest, builder, header, progress)
            return builder.finish(now_us if created_at_us is None else created_at_us)
        except RowRefused as exc:
            raise damaged(exc.position + 1, f"(position {exc.position}) {exc.why}") from exc


def _add_rows(
    lines: _Lines, digest: Any, builder: JournalBuilder, header: ExportHeader, progress: Progress | None
) -> int | None:
    """Add all rows, check the footer against them, and return the first row's instant."""
    created_at_us: int | None = None
    rows: list[StoredRow] = []
    while (line := lines.read()) and not line.startswith(_FOOTER_START):
        try:
            row = _stored(lines.decode(line, _decode_row, "a row"), lines.number)
        except PalyraError:
            # A line before it may be wrong as well, and is named first.
            builder.add(rows)
            raise
        created_at_us = row.recorded_at_us if created_at_us is None else created_at_us
        digest.update(line)
        rows.append(row)
        if len(rows) == _BATCH_COUNT:
            _add(builder, rows, header, progress)
    _add(builder, rows, header, progress)
    if not line:
        raise damaged(lines.number, "is missing; the file was cut off")
    footer = lines.decode(line, _decode_footer, "the end of an export")
    _check_ends(header, footer, builder.head, lines.number)
    if footer.sha256 != digest.hexdigest():
        raise damaged(lines.number, "has another SHA-256 than the lines before it")
    if lines.read():
        raise damaged(lines.number, "stands behind the end of the export")
    return created_at_us


def _add(builder: JournalBuilder, rows: list[StoredRow], header: ExportHeader, progress: Progress | None) -> None:
    builder.add(rows)
    rows.clear()
    if progress is not None:
        progress(builder.head.position, max(header.last, builder.head.position))


def _stored(row: ExportedRow, line_number: int) -> StoredRow:
    # Positions follow the lines, so that a row that is refused leads back to its line.
    if row.position != line_number - 1:
        raise damaged(line_number, f"holds position {row.position} in the place of {line_number - 1}")
    if not _is_hex(row.link):
        raise damaged(line_number, "has a link that is none")
    return StoredRow(
        row.position,
        row.stream.encode(),
        row.version,
        row.name.encode(),
        row.schema,
        row.recorded_at_us,
        row.actor.encode(),
        row.correlation.encode(),
        row.causation,
        row.command_key.encode(),
        bytes(row.body),
        bytes.fromhex(row.link),
    )


def _check_ends(header: ExportHeader, footer: ExportFooter, head: Head, footer_number: int) -> None:
    """Refuse header or footer, whichever contradicts the rows; both do when rows are missing or too many."""
    is_counted, is_promised = footer.count == head.position, header.last == head.position
    if is_counted and not is_promised:
        raise damaged(1, f"promises {header.last} rows; there are {head.position}")
    if not is_counted:
        raise damaged(footer_number, f"ends {footer.count} rows; there are {head.position}")
    if footer.head_link != head.link.hex():
        raise damaged(footer_number, "has another link than the last row")
