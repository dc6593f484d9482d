"""`palyra env`: the variables by which programs find the gateway and are let in."""

from __future__ import annotations

import os
import shlex
import sys

import click

from palyra.cli.command import Call, Command
from palyra.cli.frame import Answer, to_json
from palyra.cli.page import Page

_SHELLS = ("sh", "fish", "powershell", "dotenv", "json")
_KEY_PREFIX = "palyra_client_"


@click.command(
    cls=Command,
    examples=[
        ('eval "$(palyra env)"', "for everything that is started from this shell"),
        ("palyra env --shell fish | source", "the same in fish"),
        ("palyra env -- python agent.py", "for one program"),
        ("palyra env --show", "with the key, also on a terminal"),
    ],
    exits=(0, 2, 3, 4),
)
@click.option("--shell", type=click.Choice(_SHELLS), default="sh", help="Whose syntax to print; sh by default.")
@click.option("--show", "is_shown", is_flag=True, help="Print the key on a terminal too.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def env(call: Call, shell: str, is_shown: bool, command: tuple[str, ...]) -> Answer | int:
    """Print the variables that lead programs to the gateway, or run one with them.

    The key is read from the state directory; the gateway need not run. On a terminal it is masked.
    """

    base_url, key = _base_url(call), _client_key(call)
    variables = {
        "OPENAI_BASE_URL": base_url,
        "OPENAI_API_KEY": key,
        # Anthropic's clients put the version into the path themselves.
        "ANTHROPIC_BASE_URL": base_url.removesuffix("/v1"),
        "ANTHROPIC_API_KEY": key,
    }
    if command:
        return _execute(command, variables)
    is_masked = sys.stdout.isatty() and not is_shown
    if is_masked:
        variables |= {name: _masked(key) for name in variables if name.endswith("_KEY")}

    def show(page: Page) -> None:
        for line in _lines(shell, variables):
            page.line(line)
        if is_masked:
            print("The key is masked on a terminal; --show prints it.", file=sys.stderr)

    return Answer({"variables": variables, "is_masked": is_masked}, show)


def _base_url(call: Call) -> str:
    """Return the URL of the daemon that runs, else the one that the configuration gives it."""
    from palyra.errors import PalyraError
    from palyra.journal.lock import read_lock

    lock = read_lock(call.paths.lock)
    if lock.is_locked and lock.holder is not None and lock.holder.http:
        return lock.holder.http.rstrip("/") + "/v1"
    daemon = call.loaded.config.daemon
    if daemon.port == 0:
        raise PalyraError(
            "The gateway takes any free port (daemon.port is 0) and does not run, so it has no address.",
            hint="palyra serve",
            code="daemon_not_running",
        )
    host = {"localhost": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(daemon.host, daemon.host)
    scheme = "https" if daemon.tls_cert_file else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{daemon.port}/v1"


def _client_key(call: Call) -> str:
    from palyra.auth.keyfiles import read_key_file
    from palyra.errors import PalyraError

    key = read_key_file(call.paths.client_key)
    if key is None:
        raise PalyraError(
            f"There is no client key at {call.paths.client_key}.",
            hint="palyra serve makes one when it starts for the first time",
            code="missing_client_key",
        )
    return key.reveal()


def _masked(key: str) -> str:
    """Return what kind of key it is, and nothing of the key."""
    return f"{_KEY_PREFIX}…" if key.startswith(_KEY_PREFIX) else "…"


def _lines(shell: str, variables: dict[str, str]) -> list[str]:
    if shell == "json":
        return to_json(variables, indent=2).split("\n")
    if shell == "fish":
        return [f"set -gx {name} {_quoted_fish(value)};" for name, value in variables.items()]
    if shell == "powershell":
        return [f"$env:{name} = '{_doubled(value)}'" for name, value in variables.items()]
    export = "" if shell == "dotenv" else "export "
    return [f"{export}{name}={shlex.quote(value)}" for name, value in variables.items()]


def _quoted_fish(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _doubled(value: str) -> str:
    return value.replace("'", "''")


def _execute(command: tuple[str, ...], variables: dict[str, str]) -> int:
    """Become the program; returns only if there is none."""
    from palyra.errors import PalyraError

    sys.stdout.flush()
    try:
        os.execvpe(command[0], list(command), {**os.environ, **variables})
    except OSError as exc:
        raise PalyraError(f"{command[0]} cannot be run: {exc.strerror}.", code="usage_error") from exc
