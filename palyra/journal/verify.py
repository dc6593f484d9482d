"""Check a journal from row to row: positions, stream versions, links, instants, schema, structure, witness.

One pass in order of position with constant memory: the last version of up to 100,000 streams is held, and a stream
that is not among them is looked up in the index. After a wrong link the check goes on with the stored one, so that
independent damage further on is found too. Read-only, beside a live daemon or without one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from palyra.errors import JournalError
from palyra.journal.chain import stored_link
from palyra.journal.findings import Finding, finding
from palyra.journal.migrations import Migration, released_migrations, upgrade
from palyra.journal.port import Head
from palyra.journal.reader import JournalReader, StoredRow
from palyra.journal.witness import WITNESS_FILE, check_witness

#: Findings that are reported; the rest is counted.
FINDINGS_MAX_COUNT = 1_000
_STREAMS_HELD_COUNT = 100_000

Progress = Callable[[int, int], None]


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a check saw."""

    journal_id: str
    #: Migration number of the file.
    schema: int
    #: The range that was checked, and how many rows it had.
    after: int
    upto: int
    rows_count: int
    #: The journal's head when the check began.
    head: Head
    #: In order of being found: file, rows by position, witness.
    findings: list[Finding]
    #: Findings beyond `FINDINGS_MAX_COUNT`.
    omitted_count: int

    @property
    def is_sound(self) -> bool:
        """Whether nothing but information was found."""
        return not self.omitted_count and all(each.severity == "info" for each in self.findings)


class _Findings:
    """Collects findings up to the limit."""

    def __init__(self) -> None:
        self.shown: list[Finding] = []
        self.omitted_count = 0

    def add(self, code: str, *, position: int | None = None, expected: object = "", found: object = "") -> None:
        if len(self.shown) < FINDINGS_MAX_COUNT:
            self.shown.append(finding(code, position=position, expected=expected, found=found))
        else:
            self.omitted_count += 1


def verify(
    path: Path,
    *,
    after: int = 0,
    upto: int | None = None,
    is_structure_checked: bool = True,
    witness_key: bytes | None = None,
    witness_path: Path | None = None,
    migrations: Sequence[Migration] | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check the rows with after < position <= upto (default: all), the file, and the witness beside it.

    `is_structure_checked=False` leaves out SQLite's own check, which reads the whole file and compares the index
    with the rows. `progress` is called with a position and the last one after each batch. Raises
    `JournalUnreadable` and `JournalDamaged` when the file is no journal at all or has no readable head; other
    damage is a finding.
    """
    known = released_migrations() if migrations is None else migrations
    with JournalReader(path) as reader:
        found = _Findings()
        head, schema = reader.head(), reader.schema
        end = head.position if upto is None else min(upto, head.position)
        _check_schema(reader, schema, known, found)
        if is_structure_checked:
            _check_structure(reader, found)
        rows = _RowCheck(reader, found, after)
        try:
            for batch in reader.stored_rows(after, end):
                for row in batch:
                    rows.check(row)
                if progress is not None:
                    progress(rows.position, end)
        except JournalError as exc:
            found.add("structure", position=rows.position + 1, expected="a readable row", found=exc)
        findings = found.shown + check_witness(witness_path or path.with_name(WITNESS_FILE), reader, witness_key)
        return VerifyReport(
            journal_id=reader.journal_id,
            schema=schema,
            after=after,
            upto=end,
            rows_count=rows.count,
            head=head,
            findings=findings,
            omitted_count=found.omitted_count,
        )


class _RowCheck:
    """The state of the pass: what the next row must continue."""

    def __init__(self, reader: JournalReader, found: _Findings, after: int) -> None:
        self._reader = reader
        self._found = found
        self._versions: dict[bytes, int] = {}
        sql = "SELECT coalesce(CAST(recorded_at_us AS INTEGER), 0) FROM event WHERE position = ?"
        before = reader.query(sql, (after,)) if after else []
        self._recorded_at_us = before[0][0] if before else 0
        #: None: the row before is missing, so that the next link cannot be checked.
        self._link = reader.link(after)
        self.position = after
        self.count = 0

    def check(self, row: StoredRow) -> None:
        """Check one row against everything before it."""
        position, stream, version, _, _, recorded_at_us, _, _, _, _, _, link = row
        if position != self.position + 1:
            self._found.add("position_gap", position=self.position + 1, expected=self.position + 1, found=position)
            self._link = None
        if not _is_typed(row):
            # Only a damaged page can hold such a row: the table is STRICT.
            self._found.add("link_mismatch", position=position, expected="values of the declared types")
            self._go_on(position, None)
            return
        if self._link is not None and (expected := stored_link(self._link, *row[:-1])) != link:
            self._found.add("link_mismatch", position=position, expected=expected.hex(), found=link.hex())
        self._check_version(position, stream, version)
        if recorded_at_us < self._recorded_at_us:
            self._found.add(
                "time_backwards",
                position=position,
                expected=f"at or after {self._recorded_at_us}",
                found=recorded_at_us,
            )
        self._recorded_at_us = recorded_at_us
        self._go_on(position, link)

    def _go_on(self, position: int, link: bytes | None) -> None:
        self._link = link
        self.position = position
        self.count += 1

    def _check_version(self, position: int, stream: bytes, version: int) -> None:
        last = self._versions.get(stream)
        if last is None:
            last = 0
            if version > 1:
                at = self._reader.position_of(stream, version - 1)
                last = version - 1 if at is not None and at < position else 0
        if version != last + 1:
            name = stream.decode(errors="replace")
            self._found.add(
                "stream_version_gap",
                position=position,
                expected=f"{name} version {last + 1}",
                found=f"version {version}",
            )
        if len(self._versions) >= _STREAMS_HELD_COUNT:
            self._versions.clear()
        self._versions[stream] = version


_TYPES = (int, bytes, int, bytes, int, int, bytes, bytes, int, bytes, bytes, bytes)


def _is_typed(row: StoredRow) -> bool:
    """Whether the values have the types that the table declares."""
    return tuple(map(type, row)) == _TYPES


def _check_schema(reader: JournalReader, schema: int, migrations: Sequence[Migration], found: _Findings) -> None:
    """Compare tables, indexes and guards with those that the migrations make; a newer journal is taken as it is."""
    if schema > len(migrations):
        return
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as pattern:
        upgrade(pattern, migrations[:schema])
        expected = {(kind, name): sql for kind, name, sql in pattern.execute(_SCHEMA_SQL)}
    actual = {(kind, name): sql for kind, name, sql in reader.query(_SCHEMA_SQL)}
    for kind, name in sorted(expected.keys() | actual.keys()):
        wanted, seen = expected.get((kind, name)), actual.get((kind, name))
        if wanted != seen:
            found.add("schema_altered", expected=wanted or f"no {kind} {name}", found=seen or f"no {kind} {name}")


#: As text, whatever a damaged page holds.
_SCHEMA_SQL = (
    "SELECT coalesce(CAST(type AS TEXT), ''), coalesce(CAST(name AS TEXT), ''), CAST(sql AS TEXT)"
    " FROM sqlite_schema WHERE name IS NULL OR name NOT GLOB 'sqlite_*'"
)


def _check_structure(reader: JournalReader, found: _Findings) -> None:
    try:
        problems = [text for (text,) in reader.query("PRAGMA integrity_check(10)")]
    except JournalError as exc:
        problems = [str(exc)]
    for problem in problems:
        if problem != "ok":
            found.add("structure", expected="ok", found=problem)
