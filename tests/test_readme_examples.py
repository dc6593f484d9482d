"""The Python of README and docs, run as it stands there: each block under the name that its comment gives it."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from journals import write_journal
from openai import AsyncOpenAI
from story import admit, given, serve, start
from upstream import Behaviour, Upstream

import palyra
from palyra.events.runs import RunAdmitted
from palyra.events.usage import UsageRecorded

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "palyra" / "docs").glob("*.md"))]
_EXAMPLE = re.compile(r"<!-- example: (?P<name>\S+) -->\n```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """Write every example into a directory of its own, with no configuration of anybody's around it."""
    for document in DOCUMENTS:
        for found in _EXAMPLE.finditer(document.read_text(encoding="utf-8")):
            (tmp_path / found["name"]).write_text(found["code"], encoding="utf-8")
    return tmp_path


def run(directory: Path, *arguments: str) -> str:
    """Run Python there, with every warning an error; return what it printed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PALYRA_", "XDG_"))}
    environ |= {"HOME": str(directory), "PYTHONPATH": str(ROOT), "TMPDIR": str(directory)}
    ran = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=directory,
        env=environ,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_examples_are_there(examples: Path) -> None:
    """A renamed or lost block does not go unnoticed."""
    assert {file.name for file in examples.iterdir()} == {
        "audit.py",
        "conftest.py",
        "embed.py",
        "test_assistant.py",
        "test_recorded.py",
    }


def test_a_gateway_runs_inside_a_program(examples: Path) -> None:
    """It answers, its journal is read while it runs, and its directory is gone afterwards."""
    before = sorted(examples.iterdir())
    lines = run(examples, "embed.py").splitlines()
    assert lines[0] == "Hello?"
    assert lines[1] == "1 journal.created"
    assert lines[-1].endswith(" run.completed")
    assert sorted(examples.iterdir()) == before


def test_the_fixture_makes_a_suite_deterministic(examples: Path) -> None:
    """A suite of somebody's own passes with the fixture, which leaves no file."""
    before = {file.name for file in examples.iterdir()}
    options = "-q -p no:cacheprovider -p no:anyio -o asyncio_default_fixture_loop_scope=function".split()
    out = run(examples, "-B", "-m", "pytest", *options, "test_assistant.py")
    assert "1 passed" in out
    assert {file.name for file in examples.iterdir()} == before


def test_a_suite_runs_against_what_was_recorded(examples: Path) -> None:
    """The file that was recorded of a provider is all that a suite needs: no provider, no key, no network."""
    asyncio.run(_record(examples))
    options = "-q -p no:cacheprovider -p no:anyio -o asyncio_default_fixture_loop_scope=function".split()
    assert "1 passed" in run(examples, "-B", "-m", "pytest", *options, "test_recorded.py")


async def _record(directory: Path) -> None:
    async with Upstream() as upstream:
        upstream.default = Behaviour(text="Paris.")
        config = {
            "daemon": {"state_dir": str(directory / "state")},
            "privacy": {"capture_content": "on"},
            "model_provider": {
                "providers": [
                    {
                        "provider_id": "up",
                        "kind": "openai_compatible",
                        "base_url": upstream.url,
                        "allow_private_base_url": True,
                    }
                ],
                "models": [{"model_id": "gpt", "provider_id": "up"}],
            },
        }
        async with palyra.Daemon(config) as daemon:
            async with AsyncOpenAI(base_url=daemon.base_url, api_key=daemon.client_key) as client:
                question = {"role": "user", "content": "What is the capital of France?"}
                await client.chat.completions.create(model="gpt", messages=[question])  # type: ignore[list-item]
    out = run(
        directory,
        "-m",
        "palyra",
        "fixtures",
        "record",
        "--run",
        "last",
        "-o",
        "suite.jsonl",
        "--state-dir",
        str(directory / "state"),
    )
    assert "1 exchange" in out


def test_the_audit_reads_a_journal(examples: Path) -> None:
    """It adds tokens up by principal and names attempts without end; the script has about twenty lines."""
    world = given(None, serve("01KA"), admit("01KB"), start("01KB"))
    asyncio.run(write_journal(examples / "journal.db", world.history))
    lines = run(examples, "audit.py", "journal.db").splitlines()
    (used,) = world.facts(UsageRecorded)
    tokens = used.usage.input_tokens + used.usage.output_tokens
    assert lines == [
        f"{len(world.history)} events, {tokens} tokens",
        f"{world.facts(RunAdmitted)[0].principal_id}: {tokens}",
        "no end: run-01KB, attempt 1",
    ]
    code = (examples / "audit.py").read_text(encoding="utf-8").splitlines()
    assert sum(not line.startswith(("import", "from")) and bool(line) for line in code) <= 20
