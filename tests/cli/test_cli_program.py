"""The program around the commands: what it imports, how it helps, how it fails and ends."""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from cli_world import Cli

from palyra.cli.command import _SHORT_FLAGS, EXITS, Command, Helped
from palyra.cli.main import program
from palyra.config.keys import SHORT_FLAGS
from palyra.errors import CODES, PalyraError, Refusal, Refused

_BANNED = ("asyncio", "trio", "aiohttp", "aiosqlite", "sqlite3", "structlog", "palyra.projections", "palyra.engine")
_PROBE = """
import sys
from palyra.cli.main import main
try:
    status = main(sys.argv[2:])
except SystemExit as ended:
    status = ended.code
sys.stderr.write("\\nMODULES " + " ".join(sys.modules))
assert str(status) == sys.argv[1], status
"""


def _modules_after(status: int, *arguments: str, **environ: str) -> set[str]:
    ran = subprocess.run(
        [sys.executable, "-c", _PROBE, str(status), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        check=True,
    )
    return set(ran.stderr.rpartition("MODULES ")[2].split())


@pytest.mark.parametrize(
    ("status", "line", "environ"),
    [
        (0, "--help", {}),
        (0, "--version", {}),
        (0, "runs list --help", {}),
        (0, "journal --help", {}),
        (0, "serve -h", {}),
        (2, "runs lits", {}),
        (2, "runs list --limit many", {}),
        (2, "runs show --json", {}),
        (0, "", {"_PALYRA_COMPLETE": "bash_complete", "COMP_WORDS": "palyra journal ", "COMP_CWORD": "2"}),
    ],
)
def test_help_and_mistakes_import_little(status: int, line: str, environ: dict[str, str]) -> None:
    """Help, version, completion and mistakes import no loop, no database, no server and no projection."""
    modules = _modules_after(status, *line.split(), **environ)
    assert [name for name in modules if name in _BANNED or name.startswith(_BANNED)] == []


@pytest.mark.parametrize("line", ["status", "runs list", "explain last", "vault list", "auth list"])
def test_reading_without_a_daemon_imports_no_web(line: str, day: Cli) -> None:
    """What only reads the file is not kept waiting for a web server's and a web client's modules."""
    modules = _modules_after(0, *line.split(), "--offline", "--state-dir", str(day.state_dir))
    assert modules & {"aiohttp", "trio", "structlog"} == set()


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _commands(found, f"{path} {name}")


COMMANDS = dict(_commands(program, "palyra"))
EXAMPLES = [
    example for command in COMMANDS.values() if isinstance(command, Helped) for example, _ in command.examples
]


def test_the_tree_holds_what_this_release_does() -> None:
    """These are the commands, no more and no less."""
    leaves = [path.removeprefix("palyra ") for path, command in COMMANDS.items() if isinstance(command, Command)]
    assert leaves == [
        *("serve", "env", "status"),
        *("auth connect", "auth list", "auth show", "auth health", "auth validate", "auth rotate", "auth rebind"),
        *("auth default", "auth disable", "auth enable", "auth revoke", "auth order show", "auth order set"),
        *("auth cooldown clear", "auth explain", "auth login", "auth attempts", "auth cancel", "auth refresh"),
        *("models list", "models status", "models connect", "models set", "models test", "models discover"),
        *("models circuit", "models explain"),
        *("vault status", "vault list", "vault put", "vault delete", "vault rekey", "vault verify", "vault absorb"),
        *("runs list", "runs show", "runs follow", "runs cancel"),
        *("explain",),
        *("routing show", "routing report", "routing set"),
        *("replay",),
        *("capture run", "capture replay"),
        *("fixtures record", "fixtures replay"),
        *("usage summary", "usage timeline", "usage sessions", "usage agents", "usage principals", "usage keys"),
        *("usage models", "usage providers", "usage insights", "usage routing", "usage report", "usage export"),
        *("usage reconcile", "usage verify", "usage correct"),
        *("budgets list", "budgets status", "budgets show", "budgets holds", "budgets set", "budgets retire"),
        *("budgets override", "budgets backtest", "budgets check"),
        *("approvals list", "approvals show", "approvals grant", "approvals deny", "approvals wait"),
        *("alerts list", "alerts show", "alerts ack"),
        *("pricing show", "pricing missing", "pricing recost", "pricing diff", "pricing import"),
        *("keys issue", "keys list", "keys show", "keys limits", "keys rotate", "keys revoke"),
        *("keys whoami",),
        *("console",),
        *("sessions list", "sessions end"),
        *("journal status", "journal tail", "journal show", "journal verify", "journal export"),
        *("journal import", "journal backup", "journal restore", "journal branch", "journal accept-fork"),
        *("journal upgrade",),
        *("privacy erase",),
        *("config path", "config check", "config show", "config reload", "config history", "config diff"),
        *(
            "config get",
            "config keys",
            "config schema",
            "config set",
            "config unset",
            "config migrate",
            "config move-secrets",
        ),
        *("help", "version", "completions"),
    ]


def test_what_is_lost_for_good_is_asked_for_first() -> None:
    """A key, a secret, content, a cost. A rule can be set again, and a journal is kept beside its successor."""
    asked = {
        path.removeprefix("palyra ")
        for path, command in COMMANDS.items()
        if any(one.name == "is_sure" for one in command.params)
    }
    assert asked == {"auth revoke", "keys revoke", "privacy erase", "usage correct", "vault delete"}


@pytest.mark.parametrize("path", COMMANDS)
def test_every_help_is_complete(path: str, day: Cli) -> None:
    """Help has one line, usage, options, two examples at least, and exits; it fits a terminal of 80 columns."""
    command = COMMANDS[path]
    assert isinstance(command, Helped)
    assert len(command.examples) >= 2
    ran = day(*path.split()[1:], "--help")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith(f"Usage: {path} ")
    assert command.get_short_help_str(200).endswith(".")
    for section in ("Options:", "Examples:", "Exits:"):
        assert f"\n{section}\n" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 100


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_parses(example: str) -> None:
    """An example in the help is a command line that works."""
    line = example.removeprefix('eval "$(').removesuffix(')"').partition(" | ")[0].partition(" > ")[0]
    name, *arguments = shlex.split(line)
    assert name == "palyra"
    for file in arguments:
        if file.endswith((".json", ".csv")):
            Path(file).touch()  # in the empty directory that every test works in
    command: click.Command = program
    context = click.Context(command, info_name="palyra")
    while isinstance(command, click.Group):
        found = command.get_command(context, arguments.pop(0))
        assert found is not None
        command = found
        context = click.Context(command, parent=context)
    command.make_context(command.name, arguments, parent=context)


_NOT_RUN = (
    "--record",
    *("budgets set", "budgets retire", "policy.toml", "each-day", "pricing show gpt", "pricing show --as-of"),
    *("pricing diff", "pricing import", "cancel", "runs follow", "config reload", "config diff"),
    *("keys issue", "keys show", "keys limits", "keys rotate", "keys revoke", "keys whoami", "console", "sessions"),
    "palyra auth",
    *("fixtures", "privacy", "other.toml", "strict.toml", "usage reconcile", "usage correct"),
    *("serve", "env", "--as-of -", "run.json", "tail -f", "new.toml", "01JD", "config get 'model"),
    *("palyra keys", "palyra console", "palyra sessions"),
    *("vault put", "vault delete", "vault rekey", "vault absorb", "vault verify"),
    *("alerts show", "alerts ack", "routing set"),
    *("approvals show", "approvals grant", "approvals deny", "approvals wait", "budgets override"),
    *("config set", "config unset", "move-secrets"),
    *("models set", "models connect", "models test", "models discover", "models circuit"),
    *(
        "completions bash",
        "journal export -o",
        "copy/",
        "usage reconcile",
        "usage correct",
        "backup",
        "import",
        "restore",
        "branch",
        "accept-fork",
    ),
)


@pytest.mark.parametrize("example", [line for line in EXAMPLES if not any(part in line for part in _NOT_RUN)])
def test_examples_run(example: str, day: Cli, tmp_path: Path) -> None:
    """Examples that read or check do it, with exit 0; on a copy, since some of them take the journal's lock."""
    copied = Cli(shutil.copytree(day.state_dir, tmp_path / "state"), day.now_us, day.head)
    ran = copied(*shlex.split(example.partition(" > ")[0])[1:])
    assert (ran.status, ran.err) == (0, "")
    assert ran.out


def test_an_unknown_command_names_the_nearest(day: Cli) -> None:
    """A mistyped command says what was probably meant, and exits 2."""
    ran = day("stauts")
    assert (ran.status, ran.out) == (2, "")
    assert "'status'" in ran.err
    assert ran.err.endswith("hint: palyra --help\ncode: usage_error · exit 2\n")
    assert "Did you mean 'list'?" in day("runs", "lits").err


def test_without_a_command_help_goes_to_standard_error(day: Cli) -> None:
    """A group alone is a mistake that is answered with its help."""
    ran = day("runs")
    assert (ran.status, ran.out) == (2, "")
    assert "Usage: palyra runs" in ran.err


def test_a_mistake_is_a_document_too(day: Cli) -> None:
    """With --json a mistake on the command line is one document, and standard error is empty."""
    ran = day("runs", "show", "--json")
    assert (ran.status, ran.err) == (2, "")
    error = ran.document["error"]
    assert ran.document["command"] == "runs show"
    assert (error["code"], error["exit"], error["hint"]) == ("usage_error", 2, "palyra runs show --help")
    assert day("env", "--shell", "vms", "--", "echo", "--json").out == ""


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            RuntimeError("key sk-abcdefghijklmnop is bad"),
            1,
            "palyra has a bug: RuntimeError: key <redacted> is bad",
        ),
        (FileNotFoundError(2, "No such file", "/x/y"), 2, "/x/y: No such file"),
        (PalyraError("Odd.", code="never_heard_of"), 1, "Odd."),
        (PalyraError("First.\nSecond \x1b[31m.", code="conflict"), 7, "First.\n       Second \\x1b[31m."),
        (Refused(Refusal(code="rate_limited", message="Slow.", retry_after_ms=5), run_id="01R"), 4, "Slow."),
    ],
)
def test_errors_have_one_form(error: Exception, status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every error is a sentence, a code and the code's exit status, without secrets and controls."""

    def failing(call: object) -> int:
        raise error

    command = Command("failing", callback=failing, examples=[("a", "b"), ("c", "d")])
    assert command.invoke(command.make_context("palyra failing", [])) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"error: {said}\n")
    assert f" · exit {status}" in shown.err.splitlines()[-1]
    assert command.invoke(command.make_context("palyra failing", ["--json", "--verbose"])) == status
    shown = capsys.readouterr()
    assert shown.err == ""
    assert json.loads(shown.out)["error"]["exit"] == status
    assert "abcdefgh" not in shown.out


def test_verbose_prints_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """--verbose adds where it happened, redacted like everything else."""

    def failing(call: object) -> int:
        raise RuntimeError("sk-abcdefghijklmnop")

    command = Command("failing", callback=failing, examples=[("a", "b"), ("c", "d")])
    command.invoke(command.make_context("palyra failing", ["--verbose"]))
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "in failing" in shown
    assert "abcdefgh" not in shown


def test_refusals_carry_their_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """A refusal's field, wait and run stand in the document."""

    def failing(call: object) -> int:
        raise Refused(Refusal(code="rate_limited", message="Slow.", param="model", retry_after_ms=5), run_id="01R")

    command = Command("failing", callback=failing, examples=[("a", "b"), ("c", "d")])
    command.invoke(command.make_context("palyra failing", ["--json"]))
    error = json.loads(capsys.readouterr().out)["error"]
    assert error == {
        "code": "rate_limited",
        "message": "Slow.",
        "hint": "",
        "exit": 4,
        "field": "model",
        "retry_after_ms": 5,
        "run_id": "01R",
    }


def test_exit_statuses_are_those_of_the_codes() -> None:
    """Every exit status that a code has is named in help."""
    assert {code.exit_code for code in CODES.values()} <= EXITS.keys()


def test_short_flags_are_those_of_the_configuration() -> None:
    """A flag of a command that sets a key is one that the configuration knows."""
    assert set(_SHORT_FLAGS) == set(SHORT_FLAGS)


def _popen(day: Cli, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "palyra", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PALYRA_STATE_DIR": str(day.state_dir)},
        cwd=Path(__file__).parents[2],
        # A suite that runs in the background of a shell ignores interrupts, and so would its children.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def test_a_closed_pipe_is_quiet(day: Cli) -> None:
    """When the reader has seen enough the command ends with 0 and says nothing."""
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run(
        [sys.executable, "-m", "palyra", "config", "keys"],
        stdout=write,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    os.close(write)
    assert (ran.returncode, ran.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("to", "status", "said"),
    [
        (">&-", 0, b""),
        ("2>&-", 0, b""),
        (">/dev/full", 7, b"error: There is no room for what is to be written: No space left on device."),
    ],
)
def test_whatever_the_output_is_there_is_no_traceback(to: str, status: int, said: bytes) -> None:
    """Closed, it takes nothing; full, it is an error with a code."""
    ran = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -m palyra version {to}', sys.executable],
        capture_output=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert (ran.returncode, ran.stderr.partition(b"\n")[0]) == (status, said)


def test_an_interrupt_ends_with_130(day: Cli) -> None:
    """Ctrl-C while following ends with 130 and without a traceback."""
    with _popen(day, "journal", "tail", "-f", "-n", "1") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "heartbeat.recorded" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert process.stderr.read() == ""
