"""`palyra help`, `version` and `completions`."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from cli_world import Cli

from palyra import __version__
from palyra.cli.about import TOPICS, topic_text
from palyra.cli.command import EXITS
from palyra.errors import CODES

_ROOT = Path(__file__).parents[2]


def test_topics(day: Cli) -> None:
    """The list names every topic, and each has a text that fits a terminal."""
    listed = day("help").out
    for topic in TOPICS:
        assert f"palyra help {topic}" in listed
        ran = day("help", topic)
        assert (ran.status, ran.err) == (0, "")
        assert max(map(len, ran.out.splitlines())) <= 80
        assert day("help", topic, "--json").data == {"topic": topic, "text": topic_text(topic)}
    texts = {file.stem for file in (_ROOT / "palyra/cli/topics").iterdir()}
    assert texts == set(TOPICS)
    assert day("help", "nothing").status == 2


def test_exit_codes_name_every_code() -> None:
    """No code is missing in the topic, and each stands under its exit."""
    text = topic_text("exit-codes")
    words = text.rpartition("CODES BY STATUS")[2].split()
    assert set(CODES) <= set(words)
    for number, meaning in EXITS.items():
        if any(code.exit_code == number for code in CODES.values()):
            assert f"\n{number}  {meaning}\n" in text


def test_version(day: Cli) -> None:
    """The version is that of the package."""
    assert day("--version").out == f"palyra {__version__}\n"
    assert day("version").out.startswith(f"palyra {__version__} · Python {platform.python_version()} · SQLite 3.")
    assert day("version", "--json").data["release"] == __version__


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, day: Cli) -> None:
    """Each shell gets a script that asks the program."""
    script = day("completions", shell).out
    assert "_PALYRA_COMPLETE" in script
    assert day("completions", shell, "--json").data["script"] == script


def test_completion_answers() -> None:
    """What the script asks is answered: commands, then their options."""
    ran = subprocess.run(
        [sys.executable, "-m", "palyra"],
        env={**os.environ, "_PALYRA_COMPLETE": "bash_complete", "COMP_WORDS": "palyra runs ", "COMP_CWORD": "2"},
        capture_output=True,
        text=True,
        cwd=_ROOT,
        check=True,
    )
    assert ran.stdout.splitlines() == ["plain,list", "plain,show", "plain,follow", "plain,cancel"]
