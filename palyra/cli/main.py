"""`palyra`: finds the command, runs it, and turns every end into an exit status.

The commands are imported when they are named; `--help` and mistakes on the command line import nothing of the
journal, the loops or the projections.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence

import click

from palyra import __version__
from palyra.cli.command import Group

PROGRAM = "palyra"
COMPLETE_VARIABLE = "_PALYRA_COMPLETE"

#: Heading -> name -> module, name of the command in it, and its line in the list of commands.
_CHAPTERS = {
    "Run it": {
        "serve": ("serve", "serve", "Run the gateway in this terminal."),
        "env": ("env", "env", "Print the variables that lead programs to the gateway."),
        "status": ("status", "status", "Show what runs, what fails and what is used."),
    },
    "Providers": {
        "auth": ("auth", "auth", "Connect providers, and look after the keys they are asked with."),
        "models": ("models", "models", "Show models, providers and their health."),
        "vault": ("vault", "vault", "Keep secrets, and move them out of the configuration."),
    },
    "Requests": {
        "runs": ("runs", "runs", "Show requests, open and done."),
        "explain": ("explain", "explain", "Tell why a request was served the way it was."),
        "routing": ("routing", "routing", "Show and set how models are chosen."),
        "replay": ("replay", "replay", "Tell what other rules would have made of what was asked."),
        "capture": ("capture", "capture", "Take one run out of the journal, and decide it again."),
        "fixtures": ("fixtures", "fixtures", "Record what providers answered, and serve it again."),
    },
    "Money": {
        "usage": ("usage", "usage", "Show what was used, by whom, and what it cost."),
        "budgets": ("budgets", "budgets", "Limit what may be used, and see what is."),
        "approvals": ("approvals", "approvals", "Decide who may pass a limit."),
        "alerts": ("alerts", "alerts", "Show what somebody should know."),
        "pricing": ("pricing", "pricing", "Show what models cost."),
    },
    "Who may ask": {
        "keys": ("keys", "keys", "Issue, limit, rotate and revoke keys of programs and people."),
        "console": ("console", "console", "Print a link that logs a browser in."),
        "sessions": ("console", "sessions", "Show who is logged in at the console, and end it."),
    },
    "What is kept": {
        "journal": ("journal", "journal", "Read the journal, check it, keep copies of it."),
        "privacy": ("privacy", "privacy", "Delete what is kept of prompts and answers."),
        "config": ("config", "config", "Show the configuration, check it, change it."),
    },
    "This program": {
        "help": ("about", "help_", "Read about a topic."),
        "version": ("about", "version", "Print the versions."),
        "completions": ("about", "completions", "Print the script that completes commands in a shell."),
    },
}
_COMMANDS = {name: place for chapter in _CHAPTERS.values() for name, place in chapter.items()}


class _Program(Group):
    """The list of commands, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"palyra.cli.{module}"), name)
        return command

    def summary(self, ctx: click.Context, name: str) -> str:
        return _COMMANDS[name][2]

    def chapters(self, ctx: click.Context) -> dict[str, list[str]]:
        return {heading: list(names) for heading, names in _CHAPTERS.items()}


@click.command(
    cls=_Program,
    name=PROGRAM,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    examples=[
        ("palyra serve", "start the gateway"),
        ('eval "$(palyra env)"', "lead this shell's programs to it"),
        ("palyra status", "how it is doing"),
        ("palyra explain last", "why the last request went where it went"),
    ],
)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def program() -> None:
    """A local gateway for large language models whose journal is the system."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _fill_closed_streams()
    try:
        status = _run(given)
        sys.stdout.flush()
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # behind the ^C that the terminal shows
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _let_output_go()
        return 0
    except OSError as error:
        from palyra.cli.frame import fail

        _let_output_go()
        return fail(error, command="", as_json=False, is_verbose=False)
    return status


def _fill_closed_streams() -> None:
    """Let what is printed go nowhere where somebody has closed standard output or error."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (it lives as long as we do)


def _let_output_go() -> None:
    """Forget what is left in the buffer, which must not fail again when the program ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    if instruction := os.environ.get(COMPLETE_VARIABLE):
        from click.shell_completion import shell_complete

        return shell_complete(program, {}, PROGRAM, COMPLETE_VARIABLE, instruction)
    try:
        with program.make_context(PROGRAM, arguments) as context:
            return int(program.invoke(context) or 0)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.exceptions.NoArgsIsHelpError as ended:
        ended.show()
        return ended.exit_code
    except click.UsageError as error:
        return _report_usage(error, arguments)


def _report_usage(error: click.UsageError, arguments: list[str]) -> int:
    from palyra.cli.frame import fail
    from palyra.errors import PalyraError

    path = error.ctx.command_path if error.ctx is not None else PROGRAM
    known = PalyraError(error.format_message(), hint=f"{path} --help", code="usage_error")
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    command = path.partition(" ")[2]
    return fail(known, command=command, as_json="--json" in own, is_verbose=False)
