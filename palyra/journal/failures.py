"""What a failure of SQLite or the disk means, in one sentence for a person."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from palyra.errors import JournalDamaged, JournalError, JournalUnreadable

_BY_SQLITE_CODE = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the file or its directory is read-only",
    sqlite3.SQLITE_IOERR: "the disk reports an I/O error",
    sqlite3.SQLITE_BUSY: "another program holds the file locked",
    sqlite3.SQLITE_LOCKED: "another program holds the file locked",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
    sqlite3.SQLITE_PERM: "access to the file is denied",
    sqlite3.SQLITE_CORRUPT: "the file is damaged",
    sqlite3.SQLITE_NOTADB: "the file is not a SQLite database",
    sqlite3.SQLITE_CONSTRAINT: "a row contradicts the ones before it",
}
_BY_ERRNO = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk reports an I/O error",
    errno.EACCES: "access to the file is denied",
    errno.EPERM: "access to the file is denied",
}
_DAMAGED_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _primary_code(exc: BaseException) -> int:
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF


def cause_of(exc: BaseException) -> str:
    """Return what went wrong as half a sentence: "the disk is full (database or disk is full)"."""
    known = _BY_SQLITE_CODE.get(_primary_code(exc)) or _BY_ERRNO.get(getattr(exc, "errno", 0) or 0)
    detail = str(exc) or type(exc).__name__
    return f"{known} ({detail})" if known else detail


def is_damage(exc: BaseException) -> bool:
    """Whether the file itself is at fault, rather than the disk or another program."""
    return _primary_code(exc) in _DAMAGED_CODES or "decode to UTF-8" in str(exc)


def reading_failed(path: Path, exc: sqlite3.Error) -> JournalError:
    """Return the error to raise when the journal at `path` could not be read."""
    message = f"The journal {path} cannot be read: {cause_of(exc)}."
    return JournalDamaged(message) if is_damage(exc) else JournalUnreadable(message)
