"""How a secret comes in: by a prompt that does not show it, standard input, a variable, a file; never an argument.

Arguments are seen by every program of the machine and kept by the shell.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from palyra.errors import PalyraError
from palyra.redaction import Secret

_MAX_BYTES = 1 << 20


def secret_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name where the secret comes from; `read_secret` takes them."""
    options = (
        click.option("--env", "secret_env", metavar="NAME", help="Take it from this environment variable."),
        click.option("--stdin", "is_stdin", is_flag=True, help="Take it from standard input."),
        click.option("--file", "secret_file", metavar="FILE", help="Take it from this file."),
        # What is too much is taken here, so that no message repeats it.
        click.argument("stray", nargs=-1, metavar=" "),
    )
    for option in reversed(options):
        function = option(function)
    return function


def read_secret(
    prompt: str, *, secret_env: str | None, is_stdin: bool, secret_file: str | None, stray: tuple[str, ...]
) -> Secret:
    """Return the secret from the one place that was named, by default a prompt; raises `PalyraError`."""
    if stray:
        raise _usage("There is an argument too many. A secret is never an argument.", "let the command ask for it")
    if sum((secret_env is not None, is_stdin, secret_file is not None)) > 1:
        raise _usage("A secret comes from one place: --env, --stdin or --file.", None)
    if secret_env is not None:
        value = os.environ.get(secret_env)
        if value is None:
            raise _usage(f"The variable {secret_env} is not set.", None)
        return Secret(value)
    if is_stdin:
        return _decoded(sys.stdin.buffer.read(_MAX_BYTES), "Standard input")
    if secret_file is not None:
        try:
            with open(Path(secret_file), "rb") as file:
                return _decoded(file.read(_MAX_BYTES), secret_file)
        except OSError as exc:
            raise PalyraError(f"{secret_file} cannot be read: {exc.strerror}.", code="bad_path") from exc
    if not sys.stdin.isatty():
        raise _usage("There is no terminal to ask at.", "name where it is: --env NAME, --stdin or --file FILE")
    import getpass

    return Secret(getpass.getpass(f"{prompt}: "))


def _decoded(data: bytes, where: str) -> Secret:
    try:
        return Secret(data.decode())
    except UnicodeDecodeError:
        pass
    # Outside the handler: the decoding error holds the bytes.
    raise _usage(f"{where} is not UTF-8 text.", None)


def _usage(message: str, hint: str | None) -> PalyraError:
    return PalyraError(message, hint=hint, code="usage_error")
