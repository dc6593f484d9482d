"""Backups: a directory with a copy of the journal and what belongs to it, described by `manifest.json`.

The journal is copied page by page beside whoever writes it, and the witness is made anew for the head that was
copied. A backup appears whole and verified or not at all. Keys are in it only if somebody asked for them: whoever
has the backup and the keys has everything.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

import msgspec

from palyra.errors import JournalDamaged, PalyraError
from palyra.journal.disk import create_private
from palyra.journal.failures import reading_failed
from palyra.journal.port import Head
from palyra.journal.reader import JournalReader, open_readonly
from palyra.journal.staging import (
    copy_private,
    digest_of,
    put_in_place,
    refuse_unless_empty,
    refuse_without_space,
    staging,
)
from palyra.journal.verify import verify
from palyra.journal.witness import WITNESS_FILE, make_witness, write_witness

MANIFEST_FILE = "manifest.json"
JOURNAL_FILE = "journal.db"
#: The configuration, where one was in use.
CONFIG_FILE = "palyra.toml"
_MANIFEST_MAX_BYTES = 1 << 20
_STEP_PAGES_COUNT = 256
_OTHER = "take another backup; nothing was changed"

#: Told what is being done, how much of it is done, and of how much.
Progress = Callable[[str, int, int], None]


class BackupFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a backup."""

    name: str
    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds."""

    format: Literal["palyra.backup"] = "palyra.backup"
    version: Literal[1] = 1
    #: ULID of this backup.
    backup_id: str
    made_at_us: int
    #: The release that made it.
    release: str
    journal_id: str
    #: The journal's head in the backup.
    position: int
    link: str
    #: Migration number of the journal file.
    schema: int
    files: list[BackupFile]


def back_up(
    journal: Path,
    target: Path,
    *,
    backup_id: str,
    release: str,
    now_us: int,
    witness_key: bytes | None,
    databases: Sequence[Path] = (),
    files: Mapping[str, Path] | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Make a backup of the journal in the new directory `target`, beside a live daemon or without one.

    `databases` are other SQLite files and copied like the journal, `files` are plain ones by the names that they
    get; what does not exist is left out. Raises `bad_path`, `needs_space`, and `JournalDamaged` when the copy does
    not pass its check: a damaged journal is not backed up as if it were sound.
    """
    refuse_unless_empty(target)
    plain = {name: path for name, path in (files or {}).items() if path.exists()}
    sources = [journal, *(path for path in databases if path.exists())]
    needed_bytes = sum(_database_bytes(path) for path in sources)
    needed_bytes += sum(path.stat().st_size for path in plain.values())
    refuse_without_space(target.parent, needed_bytes)
    with staging(target, backup_id) as staged:
        for path in sources:
            copy_database(path, staged / (JOURNAL_FILE if path is journal else path.name), progress)
        for name, path in plain.items():
            copy_private(path, staged / name)
        head, schema, journal_id = _witnessed(staged, now_us, witness_key, progress)
        manifest = Manifest(
            backup_id=backup_id,
            made_at_us=now_us,
            release=release,
            journal_id=journal_id,
            position=head.position,
            link=head.link.hex(),
            schema=schema,
            files=[BackupFile(name=path.name, **digest_of(path)._asdict()) for path in sorted(staged.iterdir())],
        )
        _write_manifest(staged, manifest)
        put_in_place(staged, target)
    return manifest


def _database_bytes(path: Path) -> int:
    """Return the size that a copy can have: the file's and, for what it does not hold yet, its log's."""
    files = (path, Path(f"{path}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def copy_database(source: Path, target: Path, progress: Progress | None = None) -> None:
    """Copy a SQLite file, which somebody may be writing, as it is at one instant.

    One read transaction is open meanwhile, so that a busy writer cannot make the copy begin anew for ever. Commits
    into a write-ahead log go on beside it, and only a checkpoint that wants to empty it waits for its end; a file
    without such a log is not written meanwhile.
    """
    create_private(target)

    def tell(_: int, remaining: int, total: int) -> None:
        if progress is not None:
            progress(f"copying {source.name}, pages", total - remaining, total)

    with closing(sqlite3.connect(target, isolation_level=None)) as writing:
        # Of a copy that is not finished nothing is kept; it is made durable once, at its end.
        writing.execute("PRAGMA synchronous = OFF")
        while True:
            # As for every reader: a file that was closed has no log, and must not get one by being read.
            is_closed, stamp = _has_log(source) and not Path(f"{source}-wal").exists(), _stamp(source)
            with closing(open_readonly(source, immutable=is_closed)) as reading:
                try:
                    reading.execute("BEGIN")
                    reading.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                    reading.backup(writing, pages=_STEP_PAGES_COUNT, progress=tell)
                except sqlite3.Error as exc:
                    raise reading_failed(source, exc) from exc
            if not is_closed or (_stamp(source) == stamp and not Path(f"{source}-wal").exists()):
                break
    with target.open("r+b") as file:
        os.fsync(file.fileno())


def _has_log(path: Path) -> bool:
    """Return whether the file is one with a write-ahead log (SQLite file format 1.3: the read version)."""
    with path.open("rb") as file:
        return file.read(20)[19:] == b"\x02"


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _witnessed(staged: Path, now_us: int, key: bytes | None, progress: Progress | None) -> tuple[Head, int, str]:
    """Write the witness of the copied journal and verify both; return head, schema and journal."""
    path = staged / JOURNAL_FILE
    with JournalReader(path) as reader:
        head, schema, journal_id = reader.head(), reader.schema, reader.journal_id
    write_witness(staged / WITNESS_FILE, make_witness(journal_id, head, now_us, key))
    refuse_unsound(path, key, progress)
    return head, schema, journal_id


def refuse_unsound(path: Path, key: bytes | None, progress: Progress | None = None) -> None:
    """Raise `JournalDamaged` for the first thing that a check of a journal and its witness finds."""

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress("checking", done, total)

    for finding in verify(path, witness_key=key, progress=tell).findings:
        if finding.severity != "info":
            where = f" at position {finding.position}" if finding.position is not None else ""
            raise JournalDamaged(f"{path} fails its check: {finding.code}{where}. {finding.meaning}")


def _write_manifest(staged: Path, manifest: Manifest) -> None:
    path = staged / MANIFEST_FILE
    create_private(path)
    with path.open("r+b") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_backup(directory: Path) -> Manifest:
    """Return the manifest of a backup of which every file has the size and the SHA-256 that stand in it.

    Raises `bad_path` where there is no backup, `journal_damaged` for one that is not whole.
    """
    try:
        with (directory / MANIFEST_FILE).open("rb") as file:
            manifest = msgspec.json.decode(file.read(_MANIFEST_MAX_BYTES), type=Manifest)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise PalyraError(f"{directory} is not a backup: it has no {MANIFEST_FILE}.", code="bad_path") from exc
    except msgspec.DecodeError as exc:
        raise JournalDamaged(f"The backup's {MANIFEST_FILE} cannot be read: {exc}.", hint=_OTHER) from exc
    names = [file.name for file in manifest.files]
    if JOURNAL_FILE not in names or any(Path(name).name != name or name in ("", "..") for name in names):
        raise JournalDamaged(f"The backup's {MANIFEST_FILE} names files that no backup has.", hint=_OTHER)
    for listed in manifest.files:
        _check_file(directory / listed.name, listed)
    return manifest


def _check_file(path: Path, listed: BackupFile) -> None:
    try:
        found = digest_of(path)
    except FileNotFoundError as exc:
        raise JournalDamaged(f"The backup lacks its file {listed.name}.", hint=_OTHER) from exc
    if found != (listed.size_bytes, listed.sha256):
        raise JournalDamaged(f"The backup's file {listed.name} is not the one that was written.", hint=_OTHER)


def check_backup_journal(directory: Path, manifest: Manifest, key: bytes | None, progress: Progress | None) -> None:
    """Raise `JournalDamaged` unless the journal of a backup is sound and the one that its manifest names."""
    path = directory / JOURNAL_FILE
    refuse_unsound(path, key, progress)
    with JournalReader(path) as reader:
        head = reader.head()
        found = (reader.journal_id, head.position, head.link.hex())
    if found != (manifest.journal_id, manifest.position, manifest.link):
        raise JournalDamaged(f"The backup's journal is not the one that its {MANIFEST_FILE} names.", hint=_OTHER)
