"""`palyra auth` without a daemon: keys come in by prompt, variable or standard input, and never by an argument."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from palyra import Daemon
from palyra.cli.main import main

KEY = "sk-good-0123456789abcdef"
OTHER = "sk-other-0123456789abcdef"


class Provider(BaseHTTPRequestHandler):
    """Lists its models to whoever shows the right key."""

    def do_GET(self) -> None:
        good = self.headers.get("authorization") in (f"Bearer {KEY}", f"Bearer {OTHER}")
        body = b'{"object":"list","data":[{"id":"m"}]}' if good else b"{}"
        self.send_response(200 if good else 401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def upstream() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


class Terminal(io.StringIO):
    """Somebody sits there."""

    def isatty(self) -> bool:
        return True


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def palyra(
    tmp_path: Path, upstream: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """Return a way to run a command on a state that a daemon has left behind."""
    file = write_config(tmp_path, upstream)
    state = tmp_path / "state"

    async def leave_a_journal() -> None:
        async with Daemon(file, state_dir=state):
            pass

    asyncio.run(leave_a_journal())
    return commands(state, file, monkeypatch, capfd)


def write_config(tmp_path: Path, upstream: str) -> Path:
    file = tmp_path / "palyra.toml"
    file.write_text(
        'version = 1\n[[model_provider.providers]]\nprovider_id = "up"\nkind = "openai"\n'
        f'base_url = "{upstream}"\nallow_private_base_url = true\nauth_scheme = "bearer"\n'
        '[[model_provider.models]]\nmodel_id = "m"\nprovider_id = "up"\n'
    )
    file.chmod(0o600)
    return file


def commands(state: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("PALYRA_CONFIG", str(file))
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))

    def run(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capfd.readouterr()
        status = main([*arguments, "--state-dir", str(state)])
        shown = capfd.readouterr()
        return status, shown.out, shown.err

    return run


def test_a_key_from_a_variable_or_from_standard_input(palyra: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is checked and kept; it is shown nowhere, and neither is where it is."""
    monkeypatch.setenv("UP_KEY", KEY)
    status, out, err = palyra("auth", "connect", "up", "--key-env", "UP_KEY", "--profile", "work", "--default")
    assert (status, err) == (0, "")
    assert "work of up · connected · 1 model\n" in out
    status, out, _ = palyra("auth", "rotate", "work", "--key-stdin", "--json", stdin=f"{OTHER}\n")
    assert (status, json.loads(out)["data"]["state"]) == (0, "rotated")
    status, out, _ = palyra("auth", "list")
    assert status == 0
    assert "work" in out
    assert "static" in out
    shown = "".join(
        palyra("auth", *line.split())[1] for line in ("show work", "health", "explain up", "order show up")
    )
    assert "selected  work" in shown
    assert KEY not in shown
    assert OTHER not in shown


def test_nobody_has_to_start_a_daemon_first(
    tmp_path: Path, upstream: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """On a machine where nothing has been, and with a provider that was written into the file just now."""
    monkeypatch.setenv("UP_KEY", KEY)
    file, state = write_config(tmp_path, upstream), tmp_path / "state"
    palyra = commands(state, file, monkeypatch, capfd)
    assert palyra("auth", "revoke", "--yes", "work")[0] == 7  # there is nothing yet that it could be about
    assert not state.exists()
    status, out, err = palyra("auth", "connect", "up", "--key-env", "UP_KEY", "--profile", "work")
    assert (status, err, "work of up · connected" in out) == (0, "", True)
    assert {path.name for path in state.iterdir()} >= {"journal.db", "journal.head", "vault.db", "vault.key"}
    assert {path.stat().st_mode & 0o77 for path in (state, *state.iterdir())} == {0}
    assert palyra("journal", "verify", "--replay")[0] == 0
    file.write_text(file.read_text().replace('"up"', '"again"'))
    status, out, _ = palyra("auth", "connect", "again", "--key-env", "UP_KEY", "--profile", "home")
    assert (status, "home of again · connected" in out) == (0, True)
    found: list[str] = []

    async def start() -> None:
        async with Daemon(file, state_dir=state) as daemon:
            found.extend([daemon.found, *daemon.core.state.auth.profiles])
            names = [one.name async for one in daemon.journal]
            assert (names[0], names.count("journal.created")) == ("journal.created", 1)

    asyncio.run(start())
    assert found == ["clean", "work", "home"]


def test_a_key_is_no_argument(palyra: Run) -> None:
    """One that was typed all the same is refused and not repeated."""
    for line in (["connect", "up", KEY], ["rotate", "work", KEY]):
        status, out, err = palyra("auth", *line)
        assert (status, out) == (2, "")
        assert KEY not in err
        assert "A key is never an argument." in err


def test_nobody_waits_where_nobody_can_answer(palyra: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal and without a place to read from it ends at once."""
    status, _, err = palyra("auth", "connect", "up")
    assert status == 2
    assert "--key-env NAME or --key-stdin" in err
    monkeypatch.delenv("UP_KEY", raising=False)
    assert palyra("auth", "connect", "up", "--key-env", "UP_KEY")[0] == 2
    monkeypatch.setenv("UP_KEY", KEY)
    assert palyra("auth", "connect", "up", "--key-env", "UP_KEY", "--key-stdin")[0] == 2


def test_a_key_is_asked_for_at_a_terminal(palyra: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a prompt that does not show it."""
    import getpass

    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return KEY

    monkeypatch.setattr(getpass, "getpass", answer)
    monkeypatch.setattr(io, "StringIO", Terminal)
    assert palyra("auth", "connect", "up", "--profile", "work")[0] == 0
    assert asked == ["Key for up: "]


def test_a_wrong_key_ends_with_3_and_is_not_kept(palyra: Run) -> None:
    """Each answer has its exit status."""
    status, _, err = palyra("auth", "connect", "up", "--key-stdin", stdin="sk-wrong-0123456789\n")
    assert status == 3
    assert "invalid_credential · exit 3" in err
    assert "sk-wrong" not in err
    assert palyra("auth", "connect", "nobody", "--key-stdin", stdin=KEY)[0] == 8
    assert "No credential is connected" in palyra("auth", "list")[1]


def test_health_ends_with_7_where_something_is_ill(palyra: Run) -> None:
    """And with 0 where all is well, or nothing there."""
    assert palyra("auth", "health")[0] == 0
    palyra("auth", "connect", "up", "--key-stdin", "--profile", "work", stdin=KEY)
    assert palyra("auth", "health")[0] == 0
    assert palyra("auth", "validate", "work")[0] == 0


def test_what_is_done_to_a_profile(palyra: Run) -> None:
    """Rest, wake, first, in order, cleared, bound, revoked; the past is still what it was."""
    palyra("auth", "connect", "up", "--key-stdin", "--profile", "work", stdin=KEY)
    for line, said in (
        ("disable work", "disabled"),
        ("enable work", "enabled"),
        ("default work", "selected"),
        ("order set up work --strategy least_recently_used", "up: work"),
        ("cooldown clear work", "cleared"),
        ("rebind work up", "valid"),
    ):
        status, out, _ = palyra("auth", *line.split())
        assert status == 0, line
        assert said in out
    assert "least recently used" in palyra("auth", "order", "show", "up")[1]
    status, out, _ = palyra("auth", "revoke", "--yes", "work")
    assert (status, "delete it there, too" in out) == (0, True)
    assert palyra("auth", "show", "nobody")[0] == 8
    assert "revoked" in palyra("auth", "list", "--all")[1]
    position = json.loads(palyra("journal", "status", "--json")[1])["at"]["position"]
    then = palyra("auth", "list", "--as-of", str(position - 2))[1]
    assert "static" in then
