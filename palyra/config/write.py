"""Writing the configuration file back: under a lock, checked before it is written, and never without a whole file.

What was read must still be there when the new text takes its place; a program that wrote meanwhile wins. The old
text is kept in `palyra.toml.bak.1`, older ones up to `.bak.5`.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import os
import stat
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path as FilePath

import msgspec

from palyra.config.edit import Edit, edit_text
from palyra.config.load import load_given
from palyra.config.problems import ConfigProblems
from palyra.errors import ConfigInvalid

BACKUPS_COUNT = 5
_BOM = b"\xef\xbb\xbf"
_MODE = 0o600


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a file."""

    file: str
    is_changed: bool
    #: Unified diff of both texts.
    diff: str


def edit_config_file(
    file: FilePath,
    edits: Sequence[Edit] | Callable[[str], Sequence[Edit]],
    *,
    environ: Mapping[str, str],
    is_dry_run: bool = False,
    before_write: Callable[[FilePath], None] = lambda staged: None,
    keeps_backup: bool = True,
) -> Written:
    """Change a configuration file, which is made if it is missing, and return what became of it.

    `edits` may be a function of the text that is there. `before_write` is called with a file of the new text when
    that has been checked and nothing has been written. Raises `CannotEdit`, `ConfigProblems` for a text that would
    not be taken, and `ConfigInvalid` (`config_changed_meanwhile`).
    """
    target = FilePath(os.path.realpath(file))
    with _lock(target) if not is_dry_run else contextlib.nullcontext():
        old, mode = _read(target)
        marked = old.startswith(_BOM)
        text = _decoded(target, old.removeprefix(_BOM))
        new_text = edit_text(text, edits(text) if callable(edits) else edits)
        new = (_BOM if marked else b"") + new_text.encode()
        written = Written(file=str(file), is_changed=new != old, diff=_diff(file, text, new_text))
        if not written.is_changed:
            return written
        staged = _stage(target, new, mode)
        try:
            _check(staged, target, environ)
            if not is_dry_run:
                before_write(staged)
                _take_place(staged, target, old, keeps_backup=keeps_backup)
        finally:
            staged.unlink(missing_ok=True)
    return written


def _check(staged: FilePath, target: FilePath, environ: Mapping[str, str]) -> None:
    """Load the new text as it will be; raises `ConfigProblems` that name the file itself."""
    try:
        load_given(staged, environ, {})
    except ConfigProblems as error:
        named = [
            msgspec.structs.replace(problem, source=msgspec.structs.replace(problem.source, file=str(target)))
            if problem.source.file == str(staged)
            else problem
            for problem in error.problems
        ]
        raise ConfigProblems(named) from None


def _take_place(staged: FilePath, target: FilePath, old: bytes, *, keeps_backup: bool) -> None:
    if old and keeps_backup:
        _keep_backup(target, old)
    if _read(target)[0] != old:
        raise ConfigInvalid(
            f"{target} was changed by another program meanwhile; nothing was written.",
            hint="run the command once more",
            code="config_changed_meanwhile",
        )
    os.replace(staged, target)
    _sync_directory(target.parent)


def _keep_backup(target: FilePath, old: bytes) -> None:
    names = [target.with_name(f"{target.name}.bak.{number}") for number in range(1, BACKUPS_COUNT + 1)]
    for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
        if newer.exists():
            os.replace(newer, older)
    staged = _stage(target, old, _MODE)
    os.replace(staged, names[0])


def _stage(target: FilePath, data: bytes, mode: int) -> FilePath:
    """Write a file beside another, durably."""
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    return FilePath(name)


def _read(target: FilePath) -> tuple[bytes, int]:
    try:
        return target.read_bytes(), stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return b"", _MODE
    except OSError as exc:
        raise ConfigInvalid(f"{target} cannot be read: {exc.strerror}", code="bad_path") from exc


def _decoded(target: FilePath, data: bytes) -> str:
    try:
        text = data.decode()
        tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        hint = "palyra config check names the place"
        raise ConfigInvalid(f"{target} is no TOML that can be edited.", hint=hint, code="config_invalid") from exc
    return text


def _diff(file: FilePath, old: str, new: str) -> str:
    lines = difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), file.name, file.name)
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


@contextlib.contextmanager
def _lock(target: FilePath) -> Iterator[None]:
    """Be the only program of ours that writes the file."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(target.with_name(f"{target.name}.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, _MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync_directory(directory: FilePath) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
