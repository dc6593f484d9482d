"""`palyra serve`: the command line of the daemon, and what it says when it is ready.

What serving means stands in `palyra.service`.
"""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING

import click

from palyra.cli.command import Call, Command, file_of
from palyra.cli.frame import print_line_object
from palyra.cli.page import Page, Styled
from palyra.cli.render import count, counted

if TYPE_CHECKING:
    from palyra.app import Daemon

_HELLO = '{"messages": [{"role": "user", "content": "Hello?"}]}'


@click.command(
    cls=Command,
    examples=[
        ("palyra serve", "with the configuration file, or with defaults"),
        ("palyra serve --port 0", "on any free port, which is printed"),
        ("palyra serve --set 'journal.durability=\"relaxed\"'", "with another value of a key"),
    ],
    exits=(0, 1, 2, 5, 7),
)
@click.option("--host", metavar="ADDRESS", help="Loopback address to listen on.")
@click.option("--port", metavar="PORT", help="Port to listen on; 0 takes any free one.")
@click.option("--log-level", metavar="LEVEL", help="Least severe line that is logged.")
def serve(call: Call) -> int:
    """Run the gateway in this terminal.

    It stops on Ctrl-C or SIGTERM: open requests may finish, then the journal is closed. A second signal cancels and
    settles them at once.
    """
    loaded = call.loaded
    from palyra import service

    is_for_people = sys.stdout.isatty() and not call.as_json

    def announce(daemon: Daemon) -> None:
        if is_for_people:
            _welcome(daemon, call.page())
            sys.stdout.flush()
        else:
            print_line_object({"event": "daemon_ready", **_facts(daemon)})

    return service.serve(loaded, announce)


def _facts(daemon: Daemon) -> dict[str, object]:
    import sqlite3

    import palyra

    state = daemon.core.state
    return {
        "release": palyra.__version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "config_file": file_of(daemon.loaded),
        "state_dir": str(daemon.paths.directory),
        "journal_id": state.journal.journal_id or daemon.core.journal.journal_id,
        "position": state.position,
        "found": daemon.found,
        "recovered": daemon.recovered,
        "generation": state.config.generation,
        "url": daemon.url,
    }


def _welcome(daemon: Daemon, page: Page) -> None:
    """Say on a terminal what runs, with what, and what to do next."""
    facts = _facts(daemon)
    registry = daemon.core.state.catalog.registry
    versions = f" · Python {facts['python']} · SQLite {facts['sqlite']}"
    page.line(Styled(f"Palyra {facts['release']}", "bold"), " is ", Styled("ready", "good"), versions)
    page.line()
    closed = ", ".join(f"{number} {kind}" for kind, number in daemon.recovered.items())
    found = f"{daemon.found}: closed {closed}" if closed else daemon.found
    page.fields(
        [
            ("api", Styled(f"{daemon.url}/v1", "accent")),
            ("config", file_of(daemon.loaded) or "defaults, no file"),
            ("state", str(daemon.paths.directory)),
            ("journal", f"position {count(daemon.core.state.position)} · {found}"),
            ("providers", ", ".join(one.provider_id for one in registry.providers) or "none"),
            (
                "models",
                f"{counted(len(registry.models), 'model')} · chat {registry.default_chat_model_id or 'none'}",
            ),
        ]
    )
    for problem in daemon.loaded.warnings:
        page.line(Styled("warning:", "warn"), f" {problem}")
    page.title("Next, in another terminal")
    page.line('eval "$(palyra env)"', indent=2)
    page.line(
        f'curl -s "$OPENAI_BASE_URL/chat/completions" -H "Authorization: Bearer $OPENAI_API_KEY"'
        f" -H 'Content-Type: application/json' -d '{_HELLO}'",
        indent=2,
    )
    page.line("palyra explain last", indent=2)
    page.line()
