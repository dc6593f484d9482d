"""Where a command writes what it makes: standard output, or a file that appears whole, open to its owner alone."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click


def out_option(help_: str, **settings: Any) -> Callable[..., Any]:
    """Return the option that names the file, `-o FILE`; `-` stands for standard output, which is None."""
    return click.option("-o", "--out", metavar="FILE", help=help_, callback=_named, **settings)


def _named(context: click.Context, option: click.Parameter, name: str | None) -> str | None:
    return None if name == "-" else name


@contextlib.contextmanager
def output(name: str | None) -> Iterator[BinaryIO]:
    """Give where to write: the file gets its name when all of it is there, and stays as it was where that fails."""
    if name is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    import tempfile

    target = Path(name).absolute()
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as exc:
        exc.filename = name  # and not the one that nobody has named
        raise
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
