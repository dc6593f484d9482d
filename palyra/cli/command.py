"""How a command is made: its common options, its help, and the way from its function to what is printed.

This module and those of the commands are imported for `--help`, so they import little; what a command needs to
answer is imported where it answers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from palyra.cli.frame import Answer, Notice
    from palyra.cli.page import Page
    from palyra.config.load import LoadedConfig
    from palyra.config.state import StatePaths

#: A command line that works, and what it is for.
Example = tuple[str, str]

#: Exit statuses, as `--help` names them (`palyra help exit-codes`).
EXITS = {
    0: "done",
    1: "a bug",
    2: "usage or configuration",
    3: "authentication",
    4: "connectivity",
    5: "unsupported",
    6: "refused by policy",
    7: "precondition or findings",
    8: "not found",
}


class Call:
    """One run of a command: its common options, and the configuration once it is asked for."""

    def __init__(self, command: str, options: dict[str, Any]) -> None:
        self.command = command
        self.as_json: bool = options.pop("as_json", False)
        self.is_verbose: bool = options.pop("is_verbose", False)
        self.config_file: str | None = options.pop("config_file", None)
        self.sets: Sequence[str] = options.pop("sets", ())
        #: The moment that is asked about, as it was written; None for now.
        self.as_of: str | None = options.pop("as_of", None)
        #: Whom to ask: the journal's file, the daemon, or whoever is at hand.
        is_offline, is_online = options.pop("is_offline", False), options.pop("is_online", False)
        self.source: Literal["", "offline", "online"] = "offline" if is_offline else "online" if is_online else ""
        #: Of a daemon that may run anywhere; "" for that of the state directory.
        self.url: str = options.pop("url", None) or ""
        if is_offline and (is_online or self.url):
            raise click.UsageError("--offline excludes --online and --url", click.get_current_context())
        given = {flag: options.pop(flag[2:].replace("-", "_"), None) for flag in _SHORT_FLAGS}
        self.short_flags = {flag: text for flag, text in given.items() if text is not None}
        self._loaded: LoadedConfig | None = None

    @property
    def loaded(self) -> LoadedConfig:
        """Return the effective configuration; raises `ConfigProblems`."""
        if self._loaded is None:
            from palyra.redaction import hide_also

            self._loaded = self.load()
            hide_also(self._loaded.config.privacy.extra_patterns)
        return self._loaded

    def load(self) -> LoadedConfig:
        """Read the configuration, as the files and the environment are now; raises `ConfigProblems`."""
        from palyra.config.load import load_config

        return load_config(os.environ, config_file=self.config_file, short_flags=self.short_flags, sets=self.sets)

    @property
    def paths(self) -> StatePaths:
        """Return where the state is."""
        from palyra.config.state import find_state_dir

        config = self.loaded.config
        return find_state_dir(config.daemon.state_dir, os.environ, config.vault.key_file)

    def page(self) -> Page:
        """Return the page to print on, as `[cli]` wants it if that was read."""
        from palyra.cli.page import Page
        from palyra.engine.zones import find_zone

        if self._loaded is None:
            return Page()
        cli = self._loaded.config.cli
        return Page(color=cli.color, zone=find_zone(cli.timezone))

    def notices(self) -> list[Notice]:
        """Return the warnings of the configuration, if it was read."""
        from palyra.cli.frame import Notice

        warnings = () if self._loaded is None else self._loaded.warnings
        return [
            Notice(code=problem.code, message=str(problem)) for problem in warnings if problem.code != _NOT_JUDGED
        ]


#: Whether a provider lists a model is not in the file: `models status` and `serve` say it, from the journal.
_NOT_JUDGED = "model_not_listed"


def file_of(loaded: LoadedConfig) -> str | None:
    """Return the configuration file, the first that was read; None where there is none."""
    return next((source.name for source in loaded.sources if source.kind == "file"), None)


#: Flags that set a key (`palyra.config.keys.SHORT_FLAGS`); not every command has each of them.
_SHORT_FLAGS = ("--state-dir", "--host", "--port", "--log-level")


class Helped(click.Command):
    """Help with examples and exit statuses at its end."""

    examples: Sequence[Example] = ()
    exits: Sequence[int] = ()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            formatter.write_dl(self.examples, col_max=48)
        with formatter.section("Exits"):
            formatter.write_text(" · ".join(f"{number} {EXITS[number]}" for number in self.exits))


class Command(Helped):
    """A command whose function takes a `Call` and returns an `Answer`, or an exit status if it printed itself."""

    def __init__(
        self,
        *arguments: Any,
        examples: Sequence[Example],
        exits: Sequence[int] = (0, 2),
        is_configured: bool = True,
        takes_as_of: bool = False,
        is_change: bool = False,
        is_followed: bool = False,
        destroys: str = "",
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.examples = examples
        self.exits = exits
        #: What is lost by it for good, with nothing in its place; whoever calls it is asked first. What is replaced
        #: or moved aside, and what is only out of force, is not lost.
        self.destroys = destroys
        if destroys:
            self.params.append(click.Option(["--yes", "is_sure"], is_flag=True, help="Do not ask."))
        if takes_as_of:
            help_ = "Answer as it was then: a position, an instant, -2h; palyra help as-of."
            self.params.append(click.Option(["--as-of"], metavar="WHEN", help=help_))
        if takes_as_of or is_followed:
            self.params.extend(_source_options())
        if is_change:
            self.params.append(_url_option())
        self.params.extend(_common_options(is_configured))

    def invoke(self, ctx: click.Context) -> int:
        """Run the command and print what it found; every error but a closed pipe ends here."""
        from palyra.cli.frame import fail, print_answer

        assert self.callback is not None
        options = dict(ctx.params)
        call = Call(ctx.command_path.partition(" ")[2], options)
        try:
            if self.destroys and not options.pop("is_sure"):
                make_sure(self.destroys)
            result: Answer | int = ctx.invoke(self.callback, call, **options)
            if isinstance(result, int):
                return result
            answer = result._replace(warnings=[*call.notices(), *result.warnings])
            return print_answer(answer, call.page(), command=call.command, as_json=call.as_json)
        except (BrokenPipeError, click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:
            return fail(error, command=call.command, as_json=call.as_json, is_verbose=call.is_verbose)


def make_sure(consequence: str) -> None:
    """Have somebody say that this is meant; raises `PalyraError` where nobody does."""
    from palyra.errors import PalyraError

    hint = "--yes says that it is meant"
    if not sys.stdin.isatty():
        raise PalyraError(consequence, hint=hint, code="usage_error")
    click.echo(consequence, err=True)
    try:
        is_meant = click.confirm("Is it meant?", err=True)
    except click.Abort:
        is_meant = False
    if not is_meant:
        raise PalyraError("Nothing was done.", hint=hint, code="usage_error")


def _source_options() -> Iterable[click.Option]:
    yield click.Option(["--offline", "is_offline"], is_flag=True, help="Ask the journal's file, daemon or not.")
    yield click.Option(["--online", "is_online"], is_flag=True, help="Ask the running daemon and nobody else.")
    yield _url_option()


def _url_option() -> click.Option:
    help_ = "Ask the daemon there, with the key in PALYRA_TOKEN."
    return click.Option(["--url"], metavar="URL", envvar="PALYRA_URL", help=help_)


def _common_options(is_configured: bool) -> Iterable[click.Option]:
    if is_configured:
        yield click.Option(["--config", "config_file"], metavar="FILE", help="Read this configuration file.")
        yield click.Option(["--state-dir"], metavar="DIR", help="Directory of the journal and the keys.")
        yield click.Option(
            ["--set", "sets"], metavar="KEY=TOML", multiple=True, help="Set a key for this call; can be repeated."
        )
    yield click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON document.")
    yield click.Option(["--verbose", "is_verbose"], is_flag=True, help="Print tracebacks of errors.")


class Group(Helped, click.Group):
    """A group of commands, listed as they were written down."""

    command_class = Command

    def __init__(self, *arguments: Any, examples: Sequence[Example], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.examples = examples
        self.exits = (0, 2)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def summary(self, ctx: click.Context, name: str) -> str:
        """Return the line about a command in the list of commands."""
        command = self.get_command(ctx, name)
        return "" if command is None else command.get_short_help_str(limit=200)

    def chapters(self, ctx: click.Context) -> dict[str, list[str]]:
        """Return the commands under the headings that they are listed by."""
        return {"Commands": self.list_commands(ctx)}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        chapters = self.chapters(ctx)
        longest = max(len(name) for names in chapters.values() for name in names)
        for heading, names in chapters.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(longest), self.summary(ctx, name)) for name in names])
        click.Command.format_options(self, ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise click.exceptions.NoSuchCommand(args[0], possibilities=self.list_commands(ctx), ctx=ctx)
        return super().resolve_command(ctx, args)
