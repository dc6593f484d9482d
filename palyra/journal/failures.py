"""What a failure of SQLite or the disk means, in one sentence for a person."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path
from typing import NamedTuple

from palyra.errors import JournalDamaged, JournalError, JournalUnreadable, JournalUnwritable


class _Cause(NamedTuple):
    words: str
    #: The way out; "" where the words say it.
    hint: str = ""


_LOOK = "or only look: palyra serve --read-only"
_FULL = _Cause("the disk is full", "Free some space on it; what was acknowledged is still there.")
_READ_ONLY = _Cause("the file or its directory is read-only", f"Make the state directory writable, {_LOOK}")
_DENIED = _Cause("access to the file is denied", f"Give its owner the right to write it again, {_LOOK}")
_IO = _Cause("the disk reports an I/O error", "Copy the state directory to another disk before anything else.")
_LOCKED = _Cause("another program holds the file locked", "Close whatever else has it open, then start again.")

_BY_SQLITE_CODE = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_IOERR: _IO,
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_CANTOPEN: _Cause("the file cannot be opened", f"See to the state directory: ls -la, {_LOOK}"),
    sqlite3.SQLITE_PERM: _DENIED,
    sqlite3.SQLITE_CORRUPT: _Cause("the file is damaged"),
    sqlite3.SQLITE_NOTADB: _Cause("the file is not a SQLite database"),
    sqlite3.SQLITE_CONSTRAINT: _Cause("a row contradicts the ones before it"),
}
_BY_ERRNO = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _Cause("the disk quota is used up", _FULL.hint),
    errno.EROFS: _Cause("the file system is read-only", f"Mount it writable, {_LOOK}"),
    errno.EIO: _IO,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
}
_DAMAGED_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _primary_code(exc: BaseException) -> int:
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF


def cause_of(exc: BaseException) -> str:
    """Return what went wrong as half a sentence: "the disk is full (database or disk is full)"."""
    known = _known(exc)
    detail = str(exc) or type(exc).__name__
    return f"{known.words} ({detail})" if known else detail


def _known(exc: BaseException) -> _Cause | None:
    return _BY_SQLITE_CODE.get(_primary_code(exc)) or _BY_ERRNO.get(getattr(exc, "errno", 0) or 0)


def is_damage(exc: BaseException) -> bool:
    """Whether the file itself is at fault, rather than the disk or another program.

    A text that is no UTF-8 shows as an error of SQLite or, in a message of SQLite about it, as one of Python.
    """
    is_text_broken = isinstance(exc, UnicodeDecodeError) or "decode to UTF-8" in str(exc)
    return is_text_broken or _primary_code(exc) in _DAMAGED_CODES


def refused(what: str, exc: BaseException) -> JournalError:
    """Return the error to raise when the disk refuses something: `what` is "The journal /x cannot be opened"."""
    message = f"{what}: {cause_of(exc)}."
    if is_damage(exc):
        return JournalDamaged(message)
    known = _known(exc)
    return JournalUnwritable(message, hint=known.hint if known else None)


def reading_failed(path: Path, exc: sqlite3.Error | UnicodeDecodeError) -> JournalError:
    """Return the error to raise when the journal at `path` could not be read."""
    message = f"The journal {path} cannot be read: {cause_of(exc)}."
    return JournalDamaged(message) if is_damage(exc) else JournalUnreadable(message)
