"""Directories that appear whole: built beside their place, then put there by one rename.

Whoever makes a state or a backup makes it in a directory of its own first. A process that is killed leaves the old
directory or the new one, and at most an unfinished one beside it, whose name says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from palyra.errors import PalyraError
from palyra.journal.disk import create_private, sync_directory

#: Of the directory that something is copied to, this share of its size must be free: 12 tenths.
_FREE_TENTHS = 12
_PIECE_BYTES = 1 << 20
_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2


@contextlib.contextmanager
def staging(target: Path, tag: str) -> Iterator[Path]:
    """Give a new private directory beside `target`; what is left of it when the work ends or fails is removed."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    staged = beside(target, f"unfinished-{tag}")
    staged.mkdir(mode=0o700)
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def beside(target: Path, suffix: str) -> Path:
    """Return the path of a neighbour: `state` and `x` give `state.x`."""
    return target.with_name(f"{target.name}.{suffix}")


def refuse_unless_empty(target: Path) -> None:
    """Raise `bad_path` if there is something at `target` that is not an empty directory."""
    if target.is_dir():
        if any(target.iterdir()):
            raise PalyraError(f"{target} is not empty.", hint="name a new directory", code="bad_path")
    elif target.exists() or target.is_symlink():
        raise PalyraError(f"{target} is not a directory.", hint="name a new directory", code="bad_path")


def put_in_place(staged: Path, target: Path) -> None:
    """Give a directory its name, where there is nothing or an empty directory; durable when it returns."""
    sync_directory(staged)
    os.rename(staged, target)
    sync_directory(target.parent)


def exchange(staged: Path, target: Path, replaced: Path) -> None:
    """Put `staged` in the place of the directory `target`, which becomes `replaced`.

    One step where the system can swap two names (Linux, macOS); elsewhere two renames, between which `target` does
    not exist.
    """
    sync_directory(staged)
    # What is being swapped out must never bear a name that `staging` cleans up.
    os.rename(staged, replaced)
    if not _swapped(replaced, target):
        os.rename(replaced, staged)
        os.rename(target, replaced)
        os.rename(staged, target)
    sync_directory(target.parent)


def _swapped(one: Path, other: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "darwin":
            return bool(libc.renamex_np(first, second, _RENAME_SWAP) == 0)
        return bool(libc.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE) == 0)
    except AttributeError:
        return False


def refuse_without_space(directory: Path, needed_bytes: int) -> None:
    """Raise `needs_space` unless 1.2 times `needed_bytes` are free where `directory` is or will be."""
    existing = next(each for each in (directory, *directory.parents) if each.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes * 10 < needed_bytes * _FREE_TENTHS:
        free_mib, needed_mib = free_bytes >> 20, (needed_bytes * _FREE_TENTHS // 10 >> 20) + 1
        raise PalyraError(
            f"{directory} has {free_mib} MiB free; {needed_mib} are needed.",
            hint="free some space, or name a place on another disk",
            code="needs_space",
        )


class Digest(NamedTuple):
    """What identifies the content of a file."""

    size_bytes: int
    #: Hexadecimal SHA-256.
    sha256: str


def digest_of(path: Path) -> Digest:
    """Return size and SHA-256 of a file."""
    digest, size_bytes = sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            size_bytes += len(piece)
    return Digest(size_bytes, digest.hexdigest())


def copy_private(source: Path, target: Path) -> Digest:
    """Copy a file that nobody writes to a new one that only we can read, durably; return what was copied."""
    create_private(target)
    digest, size_bytes = sha256(), 0
    with source.open("rb") as reading, target.open("r+b") as writing:
        while piece := reading.read(_PIECE_BYTES):
            digest.update(piece)
            size_bytes += len(piece)
            writing.write(piece)
        writing.flush()
        os.fsync(writing.fileno())
    return Digest(size_bytes, digest.hexdigest())


def plain_files(directory: Path) -> list[Path]:
    """Return the plain files of a directory, by name; neither sockets nor links nor what is below it."""
    if not directory.is_dir():
        return []
    return sorted(each for each in directory.iterdir() if stat.S_ISREG(each.lstat().st_mode))
