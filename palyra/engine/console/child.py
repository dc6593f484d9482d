"""The daemon's child: a process that folds journals, so that the daemon's loop need not.

`python -m palyra.engine.console.child JOURNAL KEY_FILE` reads questions from its standard input, a JSON line each,
and answers them in order: a JSON line, and where it names a size so many bytes of answer behind it. A download
is the last thing that it is asked: what follows the line is the file, to the end. It reads and writes nothing else,
and ends when its input does, which is when the daemon ends, however that ends; in the midst of an answer, too.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from palyra.engine.console.file import ask_file, sight_of_file
from palyra.engine.console.frame import At, Download, JournalFiles
from palyra.engine.console.table import DOWNLOADS, QUESTIONS
from palyra.engine.hangup import ending_with, watch
from palyra.errors import CODES, PalyraError, Refusal, Refused
from palyra.journal.lock import Holder, LockState
from palyra.redaction import hidden_also, hide_also

#: Whoever waits for an answer about the past can wait for requests to be served first.
_NICENESS = 10


class Asked(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One question."""

    path: str
    params: msgspec.Raw
    #: As `--as-of` has it; null for the head.
    at: str | None
    zone: str
    now_us: int
    #: Who writes the journal.
    is_locked: bool
    holder: Holder | None
    #: Patterns of what is shown nowhere.
    hidden: tuple[str, ...] = ()


class Answered(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What goes before an answer, or in its place."""

    at: At | None = None
    size_bytes: int = 0
    #: Of a download: what follows, and what it is called.
    content_type: str = ""
    file_name: str = ""
    refusal: Refusal | None = None
    hint: str | None = None


def main(journal: str, key_file: str) -> None:
    """Answer until there is nothing more to read."""
    os.nice(_NICENESS)
    files = JournalFiles(Path(journal), Path(key_file))
    watch(sys.stdin.buffer)
    for line in sys.stdin.buffer:
        asked = msgspec.json.decode(line, type=Asked)
        if asked.hidden != hidden_also():
            hide_also(asked.hidden)
        download = next((one for one in DOWNLOADS if one.path == asked.path), None)
        if download is not None:
            _write(files, download, asked, sys.stdout.buffer)
            return
        with ending_with(sys.stdin.buffer):
            _answer(files, asked, sys.stdout.buffer)


def _write(files: JournalFiles, download: Download[Any], asked: Asked, out: BinaryIO) -> None:
    """Write a file as it is made; what goes wrong behind its beginning ends the process with its traceback."""
    lock, answered = LockState(asked.is_locked, asked.holder), None
    try:
        looking = sight_of_file(files=files, lock=lock, at=asked.at, zone=asked.zone, now_us=asked.now_us)
        with looking as sight:
            written = download.write(sight, msgspec.json.decode(asked.params, type=download.params))
            first = next(written.chunks, b"")
            answered = Answered(at=written.at, content_type=written.content_type, file_name=written.file_name)
            out.write(msgspec.json.encode(answered) + b"\n" + first)
            for chunk in written.chunks:
                out.write(chunk)
    except Exception as error:
        if answered is not None:
            raise
        answered = _failed(error)
        out.write(msgspec.json.encode(answered) + b"\n")
    out.flush()


def _answer(files: JournalFiles, asked: Asked, out: BinaryIO) -> None:
    data = b""
    try:
        question: Any = next(one for one in QUESTIONS if one.path == asked.path)
        told = ask_file(
            question,
            msgspec.json.decode(asked.params, type=question.params),
            files=files,
            lock=LockState(asked.is_locked, asked.holder),
            at=asked.at,
            zone=asked.zone,
            now_us=asked.now_us,
        )
        data, answered = told.data, Answered(at=told.at, size_bytes=len(told.data))
    except Exception as error:
        answered = _failed(error)
    out.write(msgspec.json.encode(answered) + b"\n" + data)
    out.flush()


def _failed(error: Exception) -> Answered:
    if isinstance(error, Refused):
        return Answered(refusal=error.refusal)
    if isinstance(error, PalyraError):
        code = error.code if error.code in CODES else "internal"
        return Answered(refusal=Refusal(code=code, message=str(error)), hint=error.hint)
    return Answered(refusal=Refusal(code="internal", message=f"{type(error).__name__}: {error}"))


if __name__ == "__main__":
    main(*sys.argv[1:])
