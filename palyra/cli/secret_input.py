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

from palyra.errors import PalyraError, Refused
from palyra.redaction import Secret

#: The largest that a vault keeps, and the end of its line.
_SECRET_MAX_BYTES = 65_536 + 2
#: Longer than any key: what is cut here is refused as no key.
_KEY_MAX_CHARS = 4_096

# What is too much is taken here, so that no message repeats it.
_STRAY = click.argument("stray", nargs=-1, metavar=" ")


def secret_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name where a secret comes from; `read_secret` takes them."""
    options = (
        click.option("--env", "secret_env", metavar="NAME", help="Take it from this environment variable."),
        click.option("--stdin", "is_stdin", is_flag=True, help="Take it from standard input."),
        click.option("--file", "secret_file", metavar="FILE", help="Take it from this file."),
        _STRAY,
    )
    return _with(options, function)


def key_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where a provider's key is; `read_key_input` takes them."""
    options = (
        click.option("--key-env", metavar="NAME", help="Take the key from this environment variable."),
        click.option("--key-stdin", "is_key_stdin", is_flag=True, help="Take the key from standard input."),
        _STRAY,
    )
    return _with(options, function)


def _with(options: tuple[Callable[..., Any], ...], function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        function = option(function)
    return function


def read_secret(
    prompt: str, *, secret_env: str | None, is_stdin: bool, secret_file: str | None, stray: tuple[str, ...]
) -> Secret:
    """Return the secret from the one place that was named, by default a prompt; raises `PalyraError`."""
    _refuse_stray(stray, "A secret")
    if sum((secret_env is not None, is_stdin, secret_file is not None)) > 1:
        raise _usage("A secret comes from one place: --env, --stdin or --file.")
    if secret_env is not None:
        return Secret(_variable(secret_env))
    if is_stdin:
        return Secret(_decoded(sys.stdin.buffer.read(_SECRET_MAX_BYTES + 1), "Standard input"))
    if secret_file is not None:
        try:
            with open(Path(secret_file), "rb") as file:
                return Secret(_decoded(file.read(_SECRET_MAX_BYTES + 1), secret_file))
        except OSError as exc:
            raise PalyraError(f"{secret_file} cannot be read: {exc.strerror}.", code="bad_path") from exc
    return Secret(_asked(prompt, "name where it is: --env NAME, --stdin or --file FILE"))


def read_key_input(prompt: str, key_env: str | None, is_key_stdin: bool, stray: tuple[str, ...]) -> Secret:
    """Return the key from the one place that was named, by default a prompt; raises `PalyraError`."""
    from palyra.decisions.profiles import refuse_key

    _refuse_stray(stray, "A key")
    if key_env is not None and is_key_stdin:
        raise _usage("A key comes from one place: --key-env or --key-stdin.")
    if key_env is not None:
        given = _variable(key_env)
    elif is_key_stdin:
        given = sys.stdin.readline(_KEY_MAX_CHARS)
    else:
        given = _asked(prompt, "say where the key is: --key-env NAME or --key-stdin")
    key = given.strip()
    if (refusal := refuse_key(key)) is not None:
        raise Refused(refusal)
    return Secret(key)


def _refuse_stray(stray: tuple[str, ...], what: str) -> None:
    if stray:
        raise _usage(f"There is an argument too many. {what} is never an argument.", "let the command ask for it")


def _variable(name: str) -> str:
    value = os.environ.get(name, "")
    if not value.strip():
        raise _usage(f"The variable {name} is not set.")
    return value


def _decoded(data: bytes, where: str) -> str:
    if len(data) > _SECRET_MAX_BYTES:
        message = f"{where} holds more than {_SECRET_MAX_BYTES:,} bytes."
        raise PalyraError(message, hint="a secret has up to 65,536 bytes", code="value_too_large")
    try:
        return data.decode()
    except UnicodeDecodeError:
        pass
    # Outside the handler: the decoding error holds the bytes.
    raise _usage(f"{where} is not UTF-8 text.")


def _asked(prompt: str, hint: str) -> str:
    if not sys.stdin.isatty():
        raise _usage("There is no terminal to ask at.", hint)
    return ask_hidden(prompt)


def ask_hidden(prompt: str) -> str:
    """Return what somebody types at the terminal, which does not show it; raises `PalyraError` at its end."""
    import getpass

    try:
        return getpass.getpass(f"{prompt}: ")
    except EOFError:
        raise _usage("Nothing was typed.") from None


def _usage(message: str, hint: str | None = None) -> PalyraError:
    return PalyraError(message, hint=hint, code="usage_error")
