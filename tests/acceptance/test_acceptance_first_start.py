"""The first start on a machine that has never seen Palyra: one command, and an OpenAI client is answered."""

from __future__ import annotations

import ast
import asyncio
import ipaddress
import json
import resource
import stat
from pathlib import Path

import pytest
from acceptance_kit import chat, history, serving, spawn
from openai import AsyncOpenAI

import palyra
from palyra.config.state import STATE_FILES
from palyra.events.daemon import DaemonReady

#: Writes down every connection and name lookup of the process. uvloop would make them without Python's knowledge.
_SPIED = """
import os, socket, sys
sys.modules["uvloop"] = None
seen = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
def spy(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        os.write(seen, f"{arguments[1]!r}\\n".encode())
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        os.write(seen, f"({arguments[0]!r},)\\n".encode())
sys.addaudithook(spy)
socket.socket().connect_ex(("127.0.0.2", 9))
from palyra.cli.main import main
sys.exit(main())
"""
_CONTROL = ("127.0.0.2", 9)


async def _exports(home: Path) -> dict[str, str]:
    """Return what a shell knows after evaluating `palyra env`."""
    script = 'eval "$("$0" -m palyra env)" && printf "%s\\n" "$OPENAI_BASE_URL" "$OPENAI_API_KEY"'
    ran = await spawn(home, program=("-c", _SHELL, script))
    out, err = await ran.communicate()
    assert (ran.returncode, err) == (0, b"")
    return dict(zip(("base_url", "api_key"), out.decode().splitlines(), strict=True))


_SHELL = "import os, sys; os.execv('/bin/sh', ['sh', '-c', sys.argv[1], sys.executable])"


async def test_an_empty_machine_answers_at_once(tmp_path: Path) -> None:
    """`palyra serve` alone: the official client gets chat, stream, embeddings and models; nothing dials outward."""
    seen = tmp_path / "seen"
    home = tmp_path / "home"
    home.mkdir()
    async with serving(home, program=("-c", _SPIED), environ={"SEEN": str(seen)}) as daemon:
        exports = await _exports(home)
        assert exports == {"base_url": f"{daemon.url}/v1", "api_key": daemon.key}
        async with AsyncOpenAI(**exports, max_retries=0) as client:
            models = [model.id async for model in client.models.list()]
            asked = chat("Hello?", model="palyra/default")
            answer = await client.chat.completions.create(**asked)
            stream = await client.chat.completions.create(**asked, stream=True)
            streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
            vectors = await client.embeddings.create(model="palyra/default", input=["one", "two"])
        assert models
        assert answer.choices[0].message.content
        assert streamed == answer.choices[0].message.content
        assert answer.usage.total_tokens > 0
        assert len(vectors.data) == 2
        assert vectors.data[0].embedding != vectors.data[1].embedding
        assert await daemon.stop() == 0
    _check_ready_line(daemon.ready, home)
    _check_files(home)
    dialled = [ast.literal_eval(line) for line in seen.read_text().splitlines()]
    assert dialled[0] == _CONTROL
    assert [address for address in dialled if not _is_local(address)] == []
    names = [recorded.body.__struct_config__.tag for recorded in history(daemon.state_dir)]
    assert names.count("run.completed") == 3
    assert names[-1] == "daemon.stopped"


def _check_ready_line(ready: dict[str, object], home: Path) -> None:
    assert ready["event"] == "daemon_ready"
    assert (ready["found"], ready["recovered"], ready["config_file"]) == ("new", {}, None)
    assert ready["release"] == palyra.__version__
    assert ready["generation"] == 1
    assert str(ready["state_dir"]) == str(home / ".local/state/palyra")
    (fact,) = [one.body for one in history(Path(str(ready["state_dir"]))) if isinstance(one.body, DaemonReady)]
    assert ready["took_ms"] == fact.took_ms


def _check_files(home: Path) -> None:
    """Nothing was made but the state directory and what it lists, and only its owner can read any of it."""
    state_dir = home / ".local/state/palyra"
    made = {path.relative_to(home) for path in home.rglob("*") if path.is_file()}
    assert {path for path in made if not (home / path).is_relative_to(state_dir)} == {Path("log.jsonl")}
    names = {path.name for path in state_dir.iterdir()}
    assert {"journal.db", "journal.head", "journal.lock", "admin.token", "client.key", "vault.key"} <= names
    assert names <= {file.name for file in STATE_FILES}
    assert stat.S_IMODE(state_dir.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in state_dir.iterdir()} == {0o600}


def _is_local(address: object) -> bool:
    if not isinstance(address, tuple):
        return True  # a socket of the file system
    host = address[0]
    return host is None or ipaddress.ip_address(host).is_loopback


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="the system does not tell limits of other processes")
async def test_a_crash_leaves_no_picture_of_the_memory(tmp_path: Path) -> None:
    """Whatever the shell allows: secrets in use are in it."""
    async with serving(tmp_path) as daemon:
        soft, _ = resource.prlimit(daemon.process.pid, resource.RLIMIT_CORE)
        assert soft == 0


async def test_a_second_start_finds_everything(tmp_path: Path) -> None:
    """The keys stay, the journal is found clean, and the line of the start is one line of JSON."""
    async with serving(tmp_path, "--state-dir", str(tmp_path / "s")) as first:
        key = first.key
        assert await first.stop() == 0
    async with serving(tmp_path, "--state-dir", str(tmp_path / "s")) as second:
        assert second.key == key
        assert second.ready["found"] == "clean"
        assert second.ready["journal_id"] == first.ready["journal_id"]
        second.process.terminate()
        out, _ = await second.process.communicate()
    assert out == b""
    verified = await spawn(tmp_path, "journal", "verify", "--replay", "--json", "--state-dir", str(tmp_path / "s"))
    report = json.loads((await asyncio.wait_for(verified.communicate(), 30))[0])
    assert (verified.returncode, report["ok"]) == (0, True)
