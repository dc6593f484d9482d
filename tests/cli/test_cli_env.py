"""`palyra env`: how programs find the gateway and are let in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from cli_world import CLIENT_KEY, Cli

from palyra.journal.lock import JournalLock, this_process

_URL = "http://127.0.0.1:7142/v1"


#: In this order; Anthropic's clients put the version into the path themselves.
VARIABLES = {
    "OPENAI_BASE_URL": _URL,
    "OPENAI_API_KEY": CLIENT_KEY,
    "ANTHROPIC_BASE_URL": _URL.removesuffix("/v1"),
    "ANTHROPIC_API_KEY": CLIENT_KEY,
}


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("sh", "export {0}={1}\n"),
        ("dotenv", "{0}={1}\n"),
        ("fish", "set -gx {0} '{1}';\n"),
        ("powershell", "$env:{0} = '{1}'\n"),
    ],
)
def test_variables_in_the_words_of_a_shell(shell: str, line: str, day: Cli) -> None:
    """Each shell gets its own syntax; no daemon is needed."""
    ran = day("env", "--shell", shell)
    text = "".join(line.format(*pair) for pair in VARIABLES.items())
    assert (ran.status, ran.out, ran.err) == (0, text, "")


@pytest.mark.parametrize(
    ("program", "shell", "read"),
    [
        ("sh", "sh", 'eval "$(cat "$0")"'),
        ("bash", "sh", 'eval "$(cat "$0")"'),
        ("sh", "dotenv", 'set -a; . "$0"'),
        ("fish", "fish", "cat $argv[1] | source"),
    ],
)
def test_shells_take_them(program: str, shell: str, read: str, day: Cli, tmp_path: Path) -> None:
    """What is printed for a shell sets the variables in it, for whatever it starts."""
    if shutil.which(program) is None and not os.environ.get("CI"):
        pytest.skip(f"there is no {program} here")
    lines = tmp_path / "lines"
    lines.write_text(day("env", "--shell", shell).out)
    ran = subprocess.run(
        [program, "-c", f"{read}; env", str(lines)],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    found = dict(line.split("=", 1) for line in ran.stdout.splitlines() if "=" in line)
    assert {name: found.get(name) for name in VARIABLES} == VARIABLES


def test_variables_as_json(day: Cli) -> None:
    """Programs that read JSON get an object."""
    ran = day("env", "--shell", "json")
    assert (ran.status, msgspec.json.decode(ran.out)) == (0, VARIABLES)


def test_a_terminal_shows_no_key(day: Cli) -> None:
    """On a terminal the key is masked, unless it is asked for."""
    for mode in ([], ["--json"]):
        ran = day("env", *mode, columns=80)
        assert CLIENT_KEY[14:] not in ran.out
        assert "palyra_client_" in ran.out
    assert "--show" in day("env", columns=80).err
    assert CLIENT_KEY in day("env", "--show", columns=200).out
    document = day("env", "--json").document
    assert document["data"]["variables"] == VARIABLES


@pytest.mark.parametrize(
    ("sets", "url"),
    [
        (("daemon.port=8080",), "http://127.0.0.1:8080/v1"),
        (('daemon.host="localhost"',), _URL),
        (('daemon.host="::1"',), "http://[::1]:7142/v1"),
    ],
)
def test_the_address_follows_the_configuration(sets: tuple[str, ...], url: str, day: Cli) -> None:
    """Without a daemon the address is the one that it would have."""
    flags = [part for value in sets for part in ("--set", value)]
    assert f"OPENAI_BASE_URL={url}\n" in day("env", "--shell", "dotenv", *flags).out.replace("'", "")


def test_a_daemon_that_runs_is_asked_where(day: Cli, tmp_path: Path) -> None:
    """The address of a running daemon wins over the configured one; a free port has none before."""
    ran = day("env", "--set", "daemon.port=0")
    assert (ran.status, ran.err.splitlines()[-1]) == (4, "code: daemon_not_running · exit 4")
    state = tmp_path / "state"
    shutil.copytree(day.state_dir, state)
    holder = msgspec.structs.replace(this_process(release="0", started_at_us=1), http="http://127.0.0.1:4444")
    with JournalLock.acquire(state / "journal.lock", holder):
        ran = Cli(state, day.now_us)("env", "--set", "daemon.port=0", "--shell", "dotenv")
    assert "OPENAI_BASE_URL=http://127.0.0.1:4444/v1\n" in ran.out


def test_without_a_key(tmp_path: Path) -> None:
    """Before the first start there is no key, and the hint says what makes one."""
    ran = Cli(tmp_path / "none", 1)("env")
    assert (ran.status, ran.out) == (3, "")
    assert "palyra serve makes one" in ran.err
    state = tmp_path / "state"
    state.mkdir()
    (state / "client.key").write_text("palyra_client_x")
    (state / "client.key").chmod(0o644)
    assert Cli(state, 1)("env").status == 7


def test_a_program_is_run_with_them(day: Cli) -> None:
    """What stands after -- becomes this process, with its arguments, its status and the variables."""
    code = "import os, sys; print(os.environ['OPENAI_BASE_URL'], sys.argv[1:]); sys.exit(5)"
    ran = subprocess.run(
        [sys.executable, "-m", "palyra", "env", "--", sys.executable, "-c", code, "--json", "x y"],
        capture_output=True,
        text=True,
        env={**os.environ, "PALYRA_STATE_DIR": str(day.state_dir)},
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (5, f"{_URL} ['--json', 'x y']\n", "")
    missing = day("env", "--", "no-such-program-here")
    assert (missing.status, missing.err.splitlines()[0]) == (
        2,
        "error: no-such-program-here cannot be run: No such file or directory.",
    )
