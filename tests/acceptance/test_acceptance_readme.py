"""README and docs are true: their commands exist and run, their programs work, their configuration is accepted."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from acceptance_kit import CHECKOUT, Served, machine, serving, spawn, write_config

from palyra.cli.main import main, program

#: In the order in which they are read: a configuration is added to by the ones behind.
DOCUMENTS = ["README", *(f"palyra/docs/{name}" for name in ("providers", "keys", "budgets", "routing", "reports"))]
DOCUMENTS += ["palyra/docs/operating", "palyra/docs/embedding", "palyra/docs/proof"]
TEXTS = {f"{name}.md": (CHECKOUT / f"{name}.md").read_text(encoding="utf-8") for name in DOCUMENTS}
README = "\n".join(TEXTS.values())


class Block(NamedTuple):
    """A fenced block; `mark` is the comment right above it."""

    mark: str
    language: str
    text: str


_BLOCK = re.compile(r"(?:<!-- (\w[\w:. ]*) -->\n)?^```(\w+)\n(.*?)^```$", re.M | re.S)
BLOCKS = [Block(*found) for found in _BLOCK.findall(README)]


def blocks(language: str) -> list[Block]:
    """Return the blocks of a language; there must be some."""
    found = [block for block in BLOCKS if block.language == language]
    assert found
    return found


def _named_commands() -> set[str]:
    """Return what follows `palyra` wherever the README tells the reader to type it."""
    shells = [block.text for block in blocks("sh")]
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S)
    inline = [code for code in re.findall(r"`([^`]+)`", prose) if code.startswith("palyra ")]
    found = re.findall(r"(?<![\w/.-])(?:\.venv/bin/)?palyra((?: [a-z][a-z-]*)+)", "\n".join(shells + inline))
    return {text.strip() for text in found}


def test_every_document_is_read_and_every_link_leads_somewhere() -> None:
    """No document stands aside, and none that is linked to is missing."""
    assert {f"palyra/docs/{file.name}" for file in (CHECKOUT / "palyra/docs").iterdir()} == {*TEXTS} - {"README.md"}
    for name, text in TEXTS.items():
        for link in re.findall(r"\]\(([^)]+)\)", text):
            assert (CHECKOUT / name).parent.joinpath(link).exists(), f"{name}: {link}"


def test_the_two_marked_commands_are_there() -> None:
    """One marked line runs the program and one runs the tests; both make their environment themselves."""
    marked = {block.mark: block.text.strip() for block in blocks("sh") if block.mark}
    assert set(marked) == {"run", "test"}
    for line in marked.values():
        assert len(line.splitlines()) == 1
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert marked["run"].endswith("&& .venv/bin/palyra serve")
    assert ".venv/bin/python -m pytest" in marked["test"]


@pytest.mark.parametrize("block", blocks("sh"))
async def test_shell_blocks_parse(block: Block, tmp_path: Path) -> None:
    """A shell takes every block as it stands."""
    checks = f"import os; os.execv('/bin/sh', ['sh', '-n', '-c', {block.text!r}])"
    ran = await spawn(tmp_path, program=("-c", checks))
    assert (await ran.communicate(), ran.returncode) == ((b"", b""), 0)


def _resolve(words: list[str]) -> list[str]:
    """Return the words of a command line that name a command of ours."""
    command: click.Command | None = program
    path: list[str] = []
    for word in words:
        if not isinstance(command, click.Group):
            break
        command = command.get_command(click.Context(command), word)
        assert command is not None, f"palyra {' '.join(words)}"
        path.append(word)
    return path


@pytest.mark.parametrize("line", sorted(_named_commands()))
def test_commands_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command that is named has its help."""
    assert main([*_resolve(shlex.split(line)), "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: palyra ")


def test_the_configuration_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of the README is without a problem, before a key is connected; so is each part that is added."""
    monkeypatch.setenv("HOME", str(tmp_path))
    text = ""
    for block in blocks("toml"):
        text += f"{block.text}\n"
        file = write_config(tmp_path / "palyra.toml", text)
        assert main(["config", "check", "--strict", "--config", str(file)]) == 0


async def test_what_is_to_be_typed_works(tmp_path: Path) -> None:
    """Against a daemon that has just been started, the shell lines and the programs do what they promise."""
    home = tmp_path / "home"
    home.mkdir()
    _install_beside(home)
    async with serving(home) as daemon:
        await _run_shell(home)
        # Those that have a name are whole programs; `tests/test_readme_examples.py` runs them.
        for number, block in enumerate(block for block in blocks("python") if not block.mark):
            own = tmp_path / f"program-{number}"
            own.mkdir()
            await _run_program(own, block, daemon)


def _install_beside(home: Path) -> None:
    """Put a `.venv/bin/palyra` there that runs this checkout."""
    script = home / ".venv" / "bin" / "palyra"
    script.parent.mkdir(parents=True)
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m palyra "$@"\n')
    script.chmod(0o700)


async def _run_shell(home: Path) -> None:
    assert shutil.which("curl", path=machine(home).get("PATH")), "the README's commands need curl"
    (block,) = (block for block in blocks("sh") if not block.mark and "palyra env" in block.text)
    runs = f"import os; os.execv('/bin/sh', ['sh', '-e', '-c', {block.text!r}])"
    ran = await spawn(home, program=("-c", runs))
    out, err = await ran.communicate()
    assert (ran.returncode, err) == (0, b""), out
    assert out.startswith(b"{")
    assert b'"object":"chat.completion"' in out.replace(b": ", b":")


async def _run_program(home: Path, block: Block, daemon: Served) -> None:
    environ = {
        "OPENAI_BASE_URL": f"{daemon.url}/v1",
        "OPENAI_API_KEY": daemon.key,
        "ANTHROPIC_BASE_URL": daemon.url,
        "ANTHROPIC_API_KEY": daemon.key,
    }
    ran = await spawn(home, program=("-c", block.text), environ=environ)
    out, err = await ran.communicate()
    assert (ran.returncode, err) == (0, b"")
    assert bool(out) == ("print(" in block.text)
