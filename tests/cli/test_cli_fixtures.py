"""`palyra fixtures` and `palyra privacy` over a real state directory, with and without a daemon."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

import palyra

ECHO = {
    "privacy": {"capture_content": "on"},
    "model_provider": {
        "providers": [{"provider_id": "script", "kind": "deterministic"}],
        "models": [{"model_id": "echo", "provider_id": "script"}],
    },
}


def palyra_cli(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PALYRA_", "XDG_"))}
    command = [sys.executable, "-m", "palyra", *arguments, "--state-dir", str(state)]
    environ |= {"HOME": str(state.parent), "PYTHONPATH": str(Path(palyra.__file__).parents[1])}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=50, check=False)


async def say(daemon: palyra.Daemon, *texts: str, session: str = "s1") -> None:
    async with AsyncOpenAI(base_url=daemon.base_url, api_key=daemon.client_key) as client:
        for text in texts:
            messages: Any = [{"role": "user", "content": text}]
            headers = {"x-palyra-session": session}
            await client.chat.completions.create(model="echo", messages=messages, extra_headers=headers)


async def captured(state: Path) -> None:
    async with palyra.Daemon(ECHO, state_dir=state) as daemon:
        await say(daemon, "one", "two")


@contextlib.contextmanager
def replaying(state: Path, file: Path) -> Iterator[dict[str, str]]:
    """Run `palyra fixtures replay` and return the variables that it prints."""
    environ = {**os.environ, "HOME": str(state.parent), "PYTHONPATH": str(Path(palyra.__file__).parents[1])}
    command = [sys.executable, "-u", "-m", "palyra", "fixtures", "replay", str(file)]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip().removeprefix("export ") for _ in range(4)]
        try:
            yield dict(line.split("=", 1) for line in lines)
        finally:
            process.kill()


def test_record_and_replay(tmp_path: Path) -> None:
    """Runs by id or by time become a file, which one command serves to any program."""
    state, file = tmp_path / "state", tmp_path / "suite.jsonl"
    asyncio.run(captured(state))
    made = palyra_cli(state, "fixtures", "record", "--from", "-1h", "-o", str(file), "--json")
    assert made.returncode == 0, made.stdout + made.stderr
    assert json.loads(made.stdout)["data"]["exchanges_count"] == 2
    last = palyra_cli(state, "fixtures", "record", "--run", "last", "-o", str(file))
    assert "1 exchange in " in last.stdout
    with replaying(state, file) as variables:
        client = OpenAI(base_url=variables["OPENAI_BASE_URL"], api_key=variables["OPENAI_API_KEY"], max_retries=0)
        with client:
            answer = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "two"}])
        assert answer.choices[0].message.content == "two"


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["--run", "last"], 7, "content_not_captured"),
        (["--from", "-1h"], 7, "content_not_captured"),
        ([], 2, "usage_error"),
        (["--run", "last", "--from", "-1h"], 2, "usage_error"),
    ],
)
def test_what_cannot_be_recorded(tmp_path: Path, arguments: list[str], status: int, code: str) -> None:
    """Content that nobody kept cannot be had afterwards, and the hint says how it is kept."""
    state = tmp_path / "state"

    async def uncaptured() -> None:
        async with palyra.Daemon({**ECHO, "privacy": {}}, state_dir=state) as daemon:
            await say(daemon, "one")

    asyncio.run(uncaptured())
    refused = palyra_cli(state, "fixtures", "record", *arguments, "-o", str(tmp_path / "x"), "--json")
    assert refused.returncode == status, refused.stdout + refused.stderr
    assert json.loads(refused.stdout)["error"]["code"] == code


async def test_erase_a_subject_of_a_live_daemon(tmp_path: Path) -> None:
    """One session's prompts and answers go, the fact stays, and status says that content is kept."""
    state = tmp_path / "state"
    async with palyra.Daemon(ECHO, state_dir=state) as daemon:
        await say(daemon, "one", "two")
        await say(daemon, "three", session="s2")
        admitted = [one.body async for one in daemon.journal if one.name == "run.admitted"]
        session = admitted[0].session_id
        erased = await asyncio.to_thread(
            palyra_cli, state, "privacy", "erase", "--yes", "--session", session, "--json"
        )
        assert erased.returncode == 0, erased.stdout + erased.stderr
        assert json.loads(erased.stdout)["data"]["contents_count"] == 2
        (fact,) = [one.body async for one in daemon.journal if one.name == "subject.erased"]
        assert (fact.kind, fact.subject, fact.contents_count) == ("session", session, 2)
        status = await asyncio.to_thread(palyra_cli, state, "status")
        assert "prompts and answers are kept in content.db" in status.stdout
    alone = palyra_cli(state, "privacy", "erase", "--yes", "--session", admitted[2].session_id, "--json")
    assert (alone.returncode, json.loads(alone.stdout)["data"]["contents_count"]) == (0, 1)
    with palyra.open_journal(state / "journal.db") as journal:
        erased_facts = [one for one in journal if one.name == "subject.erased"]
    assert [one.body.contents_count for one in erased_facts] == [2, 1]
    two = palyra_cli(state, "privacy", "erase", "--yes", "--session", "a", "--agent", "b")
    assert two.returncode == 2
