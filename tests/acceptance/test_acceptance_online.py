"""Commands beside a daemon: whom they ask, over which door, and that both doors say the same."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from acceptance_kit import CHAT, CONFIG, Served, chat, history, serving, spawn, write_config
from upstream import HANG, Behaviour, Upstream

from palyra.auth.keyfiles import read_key_file
from palyra.config.state import StatePaths, find_socket
from palyra.events.runs import RunCancelled

READING = ["status", "explain last --state", "journal tail -n 5"]


@pytest.fixture
def home() -> Iterator[Path]:
    """A home whose path is short enough for a socket below it, which pytest's own is not always."""
    with tempfile.TemporaryDirectory(prefix="palyra-") as directory:
        yield Path(directory)


async def told(home: Path, line: str, **how: Any) -> tuple[int, dict[str, Any]]:
    """Run a command with `--json` and return its exit status and document."""
    process = await spawn(home, *line.split(), "--json", **how)
    out, err = await process.communicate()
    assert err == b"", err
    assert process.returncode is not None
    return process.returncode, json.loads(out)


async def ask_once(daemon: Served) -> None:
    async with aiohttp.ClientSession(headers=daemon.headers) as session:
        body = {"messages": [{"role": "user", "content": "Hi."}]}
        async with session.post(f"{daemon.url}{CHAT}", json=body) as answer:
            assert answer.status == 200


async def test_the_daemon_is_asked_and_the_file_says_the_same(home: Path) -> None:
    """At the same moment both give the same data; which of them did stands in `source` alone."""
    async with serving(home) as daemon:
        await ask_once(daemon)
        _, first = await told(home, "status")
        assert (first["at"]["source"], first["data"]["daemon"]["phase"]) == ("daemon", "ready")
        head = first["at"]["position"]
        for line in READING:
            online, offline = await asyncio.gather(
                told(home, f"{line} --as-of {head} --online"), told(home, f"{line} --as-of {head}")
            )
            assert online[0] == offline[0] == 0
            sources = [document["at"].pop("source") for _, document in (online, offline)]
            assert sources == ["daemon", "journal_file"]
            assert online == offline
        _, file = await told(home, "status --offline")
        assert file["at"]["source"] == "journal_file"
        assert file["data"]["daemon"] == first["data"]["daemon"]


async def test_a_daemon_elsewhere(home: Path) -> None:
    """--url asks a daemon over TCP with the token of PALYRA_TOKEN; a wrong one is exit 3, none at all too."""
    async with serving(home) as daemon:
        secret = read_key_file(StatePaths(daemon.state_dir).admin_token)
        assert secret is not None
        other = home / "other"
        other.mkdir()
        line = f"runs list --url {daemon.url}"
        status, document = await told(other, line, environ={"PALYRA_TOKEN": secret.reveal()})
        assert (status, document["at"]["source"]) == (0, "daemon")
        status, document = await told(other, line, environ={"PALYRA_TOKEN": "palyra_admin_wrong"})
        assert (status, document["error"]["code"]) == (3, "invalid_client_key")
        status, document = await told(other, line)
        assert (status, document["error"]["code"]) == (3, "missing_client_key")
        status, document = await told(other, "status --url http://127.0.0.1:1", environ={"PALYRA_TOKEN": "x"})
        assert (status, document["error"]["code"]) == (4, "daemon_not_running")


async def test_without_a_daemon(home: Path) -> None:
    """What only a daemon can do names the line that starts one; so does a question that insists on it."""
    async with serving(home) as daemon:
        assert await daemon.stop() == 0
    for line in ("status --online", "runs cancel last"):
        status, document = await told(home, line)
        assert (status, document["error"]["code"]) == (4, "daemon_not_running")
        assert "palyra serve" in document["error"]["hint"]
    status, document = await told(home, "status --offline --online")
    assert (status, document["error"]["code"]) == (2, "usage_error")


async def test_the_socket_is_ours_alone(home: Path) -> None:
    """Only the owner can open it, whoever connects is the operator, and it is gone with the daemon."""
    async with serving(home) as daemon:
        path = StatePaths(daemon.state_dir).socket
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            async with session.get("http://localhost/console/v1/status") as answer:
                assert answer.status == 200
            async with session.post("http://localhost/v1/chat/completions", json=chat()) as refused:
                assert refused.status == 401
        assert await daemon.stop() == 0
        assert not path.exists()


async def test_what_a_dead_daemon_left_is_replaced(home: Path) -> None:
    """A socket nobody listens on is no hindrance, and until then the file answers."""
    async with serving(home) as daemon:
        await daemon.kill()
        assert StatePaths(daemon.state_dir).socket.exists()
        status, document = await told(home, "status")
        assert (status, document["data"]["daemon"]["phase"]) == (0, "crashed")
    async with serving(home):
        _, document = await told(home, "status --online")
        assert document["at"]["source"] == "daemon"


async def test_a_daemon_that_is_stuck_holds_no_command_up(home: Path) -> None:
    """One that does not answer at once is passed over for the file."""
    async with serving(home) as daemon:
        daemon.process.send_signal(19)
        try:
            status, document = await told(home, "status")
            assert (status, document["at"]["source"]) == (0, "journal_file")
        finally:
            daemon.process.send_signal(18)


async def test_without_a_socket(home: Path) -> None:
    """Where configuration wants none there is none: questions go to the file, changes need a URL."""
    async with serving(home, "--set", "daemon.control_socket=false") as daemon:
        assert not StatePaths(daemon.state_dir).socket.exists()
        assert (await told(home, "status"))[1]["at"]["source"] == "journal_file"
        status, document = await told(home, "runs cancel last")
        assert (status, document["error"]["code"]) == (4, "daemon_not_running")
        assert "--url" in document["error"]["hint"]


async def test_a_run_is_cancelled_from_the_command_line(home: Path) -> None:
    """The run ends as the operator wanted, and the journal says who that was."""
    async with Upstream() as up:
        config = write_config(home / "palyra.toml", CONFIG.format(url=up.url))
        up.reply_with(Behaviour(after={2: HANG}))
        async with serving(home, "--config", str(config)) as daemon:
            async with aiohttp.ClientSession(headers=daemon.headers) as session:
                async with session.post(f"{daemon.url}{CHAT}", json=chat(stream=True)) as stream:
                    await stream.content.readline()
                    status, document = await told(home, "runs cancel last")
                    assert (status, document["data"]["state"]) == (0, "cancelled")
                    assert b'"cancelled"' in (await stream.read()).replace(b" ", b"")
            assert await daemon.stop() == 0
    (cancelled,) = (one.body for one in history(daemon.state_dir) if isinstance(one.body, RunCancelled))
    assert (cancelled.reason, cancelled.by) == ("operator", "operator:local")


def test_a_long_path_gets_a_short_socket() -> None:
    """Past 100 bytes the socket stands in the user's runtime directory; without one there is none."""
    short, long = StatePaths(Path("/state")), StatePaths(Path("/") / ("x" * 100))
    assert find_socket(short, {}) == Path("/state/palyra.sock")
    found = find_socket(long, {"XDG_RUNTIME_DIR": "/run/user/1"})
    assert found is not None
    assert found.parent == Path("/run/user/1")
    assert find_socket(StatePaths(Path("/") / ("y" * 100)), {"XDG_RUNTIME_DIR": "/run/user/1"}) != found
    assert find_socket(long, {}) is None
    assert find_socket(long, {"XDG_RUNTIME_DIR": "/" + "z" * 100}) is None


async def test_the_long_way_round_works(home: Path) -> None:
    """Such a daemon names its socket in the lock file, and commands find it there."""
    state = home / ("deep" * 25)
    runtime = home / "run"
    runtime.mkdir(mode=0o700)
    environ = {"XDG_RUNTIME_DIR": str(runtime)}
    async with serving(home, "--state-dir", str(state), environ=environ) as daemon:
        (made,) = runtime.iterdir()
        assert stat.S_ISSOCK(made.stat().st_mode)
        _, document = await told(home, f"status --online --state-dir {state}")
        assert document["at"]["source"] == "daemon"
        assert await daemon.stop() == 0
    assert list(runtime.iterdir()) == []


def test_a_socket_of_another_user_is_refused() -> None:
    """The kernel says whose process is at the other end."""
    from palyra.daemon.peers import _peer_uid

    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert _peer_uid(one.fileno()) == os.geteuid()


async def test_a_browser_is_let_in_and_out(home: Path) -> None:
    """The one-time link's code logs in over HTTP; the login is listed, and ended from the command line."""
    async with serving(home) as daemon:
        status, made = await told(home, "console")
        base, _, code = made["data"]["login_url"].partition("/console#code=")
        assert (status, base) == (0, daemon.url)
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
            async with session.post(f"{base}/console/v1/auth/login", json={"login_code": code}) as answer:
                assert answer.status == 200
            async with session.get(f"{base}/console/v1/status") as answer:
                assert answer.status == 200
            _, listed = await told(home, "sessions list")
            (login,) = listed["data"]["items"]
            assert login["principal"] == "operator:local"
            assert (await told(home, f"sessions end {login['id']}"))[0] == 0
            async with session.get(f"{base}/console/v1/status") as answer:
                assert answer.status == 401
        status, issued = await told(home, "keys issue ci --admin --scope observe")
        assert status == 0
        headers = {"authorization": f"Bearer {issued['data']['secret']}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            async with session.get(f"{base}/console/v1/status") as answer:
                assert answer.status == 200
            async with session.get(f"{base}/console/v1/keys") as answer:
                assert answer.status == 403


async def test_a_run_is_followed_to_its_end(home: Path) -> None:
    """An event a line, from the file and from the daemon, until the run ends; the same lines from both."""
    async with serving(home) as daemon:
        await ask_once(daemon)
        lines = []
        for source in ("--offline", "--online"):
            process = await spawn(home, "runs", "follow", "last", "--json", source)
            out, err = await process.communicate()
            assert (process.returncode, err) == (0, b"")
            lines.append([json.loads(line) for line in out.splitlines()])
        assert lines[0] == lines[1]
        assert [lines[0][0]["name"], lines[0][-1]["name"]] == ["run.admitted", "run.completed"]


async def test_somebody_waits_until_it_is_decided(home: Path) -> None:
    """Over the daemon and beside it: for so long, until it is granted, until it is denied; each has its status."""
    async with serving(home) as daemon:
        rule = "--scope principal --id * --daily --on-hard approval_required"
        for limit, (source, verdict, status) in enumerate((("online", "grant", 0), ("offline", "deny", 6))):
            # Another limit lets what was granted under the one before lapse.
            assert (await told(home, f"budgets set day {rule} --tokens {limit}"))[0] == 0
            async with aiohttp.ClientSession(headers=daemon.headers) as session:
                async with session.post(f"{daemon.url}{CHAT}", json=chat(model="deterministic")) as answer:
                    name = (await answer.json())["palyra"]["budget"]["approval_id"]
            begun = time.monotonic()
            early = await spawn(home, "approvals", "wait", name, "--timeout", "1", f"--{source}")
            _, said = await early.communicate()
            assert (early.returncode, "nobody has decided yet" in said.decode()) == (6, True)
            assert time.monotonic() - begun >= 1
            waiting = await spawn(home, "approvals", "wait", name, f"--{source}")
            assert (await told(home, f"approvals {verdict} {name}"))[0] == 0
            _, said = await waiting.communicate()
            assert (waiting.returncode, "denied" in said.decode()) == (status, status == 6)
