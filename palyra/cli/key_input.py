"""How a provider's key comes in: by a prompt that does not show it, a variable, standard input; never an argument.

Arguments are seen by every program of the machine and kept by the shell.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import click

from palyra.errors import PalyraError
from palyra.redaction import Secret

_MAX_CHARS = 4_096


def key_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where the key is; `read_key_input` takes them."""
    options = (
        click.option("--key-env", metavar="NAME", help="Take the key from this environment variable."),
        click.option("--key-stdin", "is_key_stdin", is_flag=True, help="Take the key from standard input."),
        # What is too much is taken here, so that no message repeats it.
        click.argument("stray", nargs=-1, metavar=" "),
    )
    for option in reversed(options):
        function = option(function)
    return function


def read_key_input(prompt: str, key_env: str | None, is_key_stdin: bool, stray: tuple[str, ...]) -> Secret:
    """Return the key from the one place that was named, by default a prompt; raises `PalyraError`."""
    if stray:
        raise _usage("There is an argument too many. A key is never an argument.", "let the command ask for it")
    if key_env is not None and is_key_stdin:
        raise _usage("A key comes from one place: --key-env or --key-stdin.", None)
    if key_env is not None:
        value = os.environ.get(key_env, "")
        if not value.strip():
            raise _usage(f"The variable {key_env} is not set.", None)
        return Secret(value)
    if is_key_stdin:
        return Secret(sys.stdin.readline(_MAX_CHARS))
    if not sys.stdin.isatty():
        raise _usage("There is no terminal to ask at.", "say where the key is: --key-env NAME or --key-stdin")
    import getpass

    return Secret(getpass.getpass(f"{prompt}: "))


def _usage(message: str, hint: str | None) -> PalyraError:
    return PalyraError(message, hint=hint, code="usage_error")
