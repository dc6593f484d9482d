"""`palyra serve`: the command line of the daemon, and what it says when it is ready.

What serving means stands in `palyra.service`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from typing import TYPE_CHECKING

import click

from palyra.cli.about import versions
from palyra.cli.command import Call, Command, file_of
from palyra.cli.frame import print_line_object
from palyra.cli.page import Page, Styled
from palyra.cli.render import count

if TYPE_CHECKING:
    from palyra.app import Daemon
    from palyra.config.problems import Problem
    from palyra.readonly import ReadOnlyDaemon

_HELLO = (
    'curl -s "$OPENAI_BASE_URL/chat/completions" \\',
    '  -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \\',
    """  -d '{"messages": [{"role": "user", "content": "Hello?"}]}'""",
)


@click.command(
    cls=Command,
    examples=[
        ("palyra serve", "with the configuration file, or with defaults"),
        ("palyra serve --port 0", "on any free port, which is printed"),
        ("palyra serve --read-only", "beside a journal that cannot or must not be written"),
        ("palyra serve --no-upgrade", "only if this release and the journal are of one schema"),
        ("palyra serve --set 'journal.durability=\"relaxed\"'", "with another value of a key"),
    ],
    exits=(0, 1, 2, 5, 7),
)
@click.option("--host", metavar="ADDRESS", help="Address to listen on.")
@click.option("--port", metavar="PORT", help="Port to listen on; 0 takes any free one.")
@click.option("--log-level", metavar="LEVEL", help="Least severe line that is logged.")
@click.option("--read-only", "is_read_only", is_flag=True, help="Write nothing: refuse what would be recorded.")
@click.option("--no-upgrade", "is_not_upgrading", is_flag=True, help="Refuse the journal of an older release.")
def serve(call: Call, is_read_only: bool, is_not_upgrading: bool) -> int:
    """Run the gateway in this terminal.

    It stops on Ctrl-C or SIGTERM: open requests may finish, then the journal is closed. A second signal cancels and
    settles them at once. SIGHUP has the configuration read again.
    """
    loaded = call.loaded
    from palyra import service

    if is_read_only:
        return service.serve_read_only(loaded, lambda daemon: print_line_object(_facts_of_file(daemon)))
    is_for_people = sys.stdout.isatty() and not call.as_json

    def announce(daemon: Daemon) -> None:
        if is_for_people:
            _welcome(daemon, call)
            sys.stdout.flush()
        else:
            print_line_object({"event": "daemon_ready", **_facts(daemon)})

    return service.serve(call.load, announce, upgrade=not is_not_upgrading)


def _facts_of_file(daemon: ReadOnlyDaemon) -> dict[str, object]:
    return {
        **versions(),
        "event": "daemon_ready",
        "read_only": True,
        "config_file": file_of(daemon.loaded),
        "state_dir": str(daemon.paths.directory),
        "journal_id": daemon.journal_id,
        "position": daemon.position,
        "trouble": daemon.trouble,
        "url": daemon.url,
    }


def _facts(daemon: Daemon) -> dict[str, object]:
    state = daemon.core.state
    return {
        **versions(),
        "config_file": file_of(daemon.loaded),
        "state_dir": str(daemon.paths.directory),
        "journal_id": state.journal.journal_id or daemon.core.journal.journal_id,
        "position": state.position,
        "found": daemon.found,
        "recovered": daemon.recovered,
        **({"upgraded": daemon.upgraded} if daemon.upgraded is not None else {}),
        "took_ms": daemon.took_ms,
        "generation": state.config.generation,
        "url": daemon.url,
    }


def _welcome(daemon: Daemon, call: Call) -> None:
    """Say on a terminal what runs, with what, and what to do next."""
    from palyra.engine.model_questions import default_of

    page, facts = call.page(), _facts(daemon)
    registry = daemon.core.state.catalog.registry
    default = default_of(daemon.core.state, "chat") or "none"
    name = Styled(f"Palyra {facts['release']}", "bold")
    made_of = f" · Python {facts['python']} · SQLite {facts['sqlite']}"
    page.line(name, " is ", Styled("ready", "good"), made_of)
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
            ("models", f"{count(len(registry.models))} · {default} where a request names none"),
        ]
    )
    if daemon.upgraded is not None:
        change = f"schema {daemon.upgraded.before} to {daemon.upgraded.after}"
        page.fields([("upgraded", f"{change} · as it was: {daemon.upgraded.backup_directory}")])
    for problem in daemon.loaded.warnings:
        if not _is_listed(problem, daemon):
            page.line(Styled("warning:", "warn"), f" {problem}")
    _show_next(page, call, is_echo=all(one.kind == "deterministic" for one in registry.providers))


def _is_listed(problem: Problem, daemon: Daemon) -> bool:
    """Return whether a warning is of a default that its provider lists by now."""
    from palyra.projections.catalog import discovered_named

    role = problem.key.removeprefix("model_provider.default_").removesuffix("_model_id")
    default = daemon.core.state.catalog.registry.default_of(role) if problem.code == "model_not_listed" else ""
    return bool(default and discovered_named(daemon.core.state, role, default))


def _show_next(page: Page, call: Call, *, is_echo: bool) -> None:
    page.title("Next, in another terminal")
    program, places = _program(), _places(call)
    for line in (f'eval "$({program} env{places})"', *_HELLO, f"{program} explain last{places}"):
        page.line(line, indent=2)
    if is_echo:
        page.title("Until a provider is connected, an echo answers")
        page.line(f"{program} models connect openai{places}", indent=2)
        page.line(
            Styled("or anthropic, groq, together, ollama, localai, or any other by its address", "dim"), indent=2
        )
    page.line()


def _program() -> str:
    """Return how this program is called, so that what is printed works as it stands."""
    return "palyra" if shutil.which("palyra") else f"{shlex.quote(sys.executable)} -m palyra"


def _places(call: Call) -> str:
    """Return the flags that lead another command to the same configuration and state."""
    file = os.path.abspath(call.config_file) if call.config_file else None
    given = {"--config": file, "--state-dir": call.short_flags.get("--state-dir")}
    return "".join(f" {flag} {shlex.quote(place)}" for flag, place in given.items() if place is not None)
