"""Starts that are refused: each says what is wrong and the way out, ends with its status, and spoils nothing."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from acceptance_kit import CHAT, CHECKOUT, history, loaded, machine, spawn

from palyra.app import Daemon
from palyra.cli.main import main
from palyra.config.state import StatePaths
from palyra.errors import JournalDamaged
from palyra.events.daemon import DaemonStarted, DaemonStopped
from palyra.journal.witness import read_witness


class Ran(NamedTuple):
    """What a refused start said."""

    status: int
    out: str
    err: str

    @property
    def code(self) -> str:
        return self.err.splitlines()[-1]


class Refused:
    """Runs starts in this process that must not come up."""

    def __init__(self, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self._home = home
        self._capfd = capfd

    def __call__(self, state_dir: Path, *arguments: str) -> Ran:
        status = main(["serve", "--port", "0", "--state-dir", str(state_dir), *arguments])
        return Ran(status, *self._capfd.readouterr())


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Starts on an empty machine."""
    for name in list(os.environ):
        if name.startswith(("PALYRA_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return Refused(tmp_path, capfd)


async def _live_a_little(home: Path) -> None:
    async with Daemon(loaded(home)) as daemon, aiohttp.ClientSession() as session:
        headers = {"authorization": f"Bearer {daemon.paths.client_key.read_text().strip()}"}
        body = {"messages": [{"role": "user", "content": "Hello?"}]}
        async with session.post(f"{daemon.url}{CHAT}", json=body, headers=headers) as answer:
            assert answer.status == 200


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state that was closed cleanly; `older` beside it is the same after its first day."""
    home = tmp_path_factory.mktemp("lived")
    asyncio.run(_live_a_little(home))
    shutil.copytree(home / "state", home / "older")
    asyncio.run(_live_a_little(home))
    return home


@pytest.fixture
def state(lived: Path, tmp_path: Path) -> Path:
    """A copy of it to be spoiled."""
    return Path(shutil.copytree(lived / "state", tmp_path / "state"))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A daemon that runs in a process of its own; yields its ready line and pid."""
    home = tmp_path_factory.mktemp("live")
    command = [sys.executable, "-m", "palyra", "serve", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=machine(home), cwd=CHECKOUT
    ) as process:
        assert process.stdout is not None
        yield {**json.loads(process.stdout.readline()), "pid": process.pid}
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


def _contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_a_second_daemon_touches_nothing(refused: Refused, live: dict[str, Any]) -> None:
    """The state of a live daemon is refused by name of its process and URL; files and journal stay as they were."""
    state_dir = Path(live["state_dir"])
    kept = ("admin.token", "client.key", "vault.key", "journal.lock")
    before = [(state_dir / name).read_bytes() for name in kept]
    ran = refused(state_dir)
    assert (ran.status, ran.out, ran.code) == (7, "", "code: journal_locked · exit 7")
    assert f"Process {live['pid']} on " in ran.err
    assert live["url"] in ran.err
    assert "hint: " in ran.err
    assert [(state_dir / name).read_bytes() for name in kept] == before
    assert sum(isinstance(one.body, DaemonStarted) for one in history(state_dir)) == 1


def test_a_taken_port_is_no_crash(refused: Refused, live: dict[str, Any], tmp_path: Path) -> None:
    """A port that another program has is named, with the way out; the journal says that this start ended."""
    port = live["url"].rpartition(":")[2]
    ran = refused(tmp_path / "s", "--port", port)
    assert (ran.status, ran.out, ran.code) == (7, "", "code: address_in_use · exit 7")
    assert f"port {port} of 127.0.0.1" in ran.err
    assert "choose another daemon.port" in ran.err
    assert isinstance(history(tmp_path / "s")[-1].body, DaemonStopped)


def test_a_bad_configuration_comes_before_everything(refused: Refused, tmp_path: Path) -> None:
    """All problems are told at once, and no state directory was made."""
    ran = refused(tmp_path / "s", "--set", "daemon.prot=1", "--set", "daemon.drain_timeout_ms=-1")
    assert (ran.status, ran.code) == (2, "code: config_invalid · exit 2")
    assert "daemon.prot" in ran.err
    assert "daemon.drain_timeout_ms" in ran.err
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("name", "mode", "fix"), [("client.key", 0o644, "600"), ("vault.key", 0o640, "600"), ("", 0o755, "700")]
)
def test_what_others_could_read_is_refused(name: str, mode: int, fix: str, refused: Refused, state: Path) -> None:
    """An open file or directory is named with the command that closes it, and is left as it is."""
    path = state / name
    path.chmod(mode)
    before = _contents(state)
    ran = refused(state)
    assert (ran.status, ran.code) == (7, "code: insecure_permissions · exit 7")
    assert f"hint: run: chmod {fix} '{path}'" in ran.err
    assert _contents(state) == before
    path.chmod(0o700 if not name else 0o600)


def test_a_newer_journal_is_left_alone(refused: Refused, state: Path) -> None:
    """A journal of a newer release is not touched, and the release that can is asked for."""
    with sqlite3.connect(state / "journal.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = (state / "journal.db").read_bytes()
    ran = refused(state)
    assert (ran.status, ran.code) == (5, "code: journal_newer · exit 5")
    assert "schema 99" in ran.err
    assert (state / "journal.db").read_bytes() == before


# -- damage


def _flip(state_dir: Path, position: int, text: str, changed: str) -> None:
    """Change the body of one row in the file, byte for byte, as a bad disk would."""
    with sqlite3.connect(state_dir / "journal.db") as connection:
        ((body,),) = connection.execute("SELECT body FROM event WHERE position = ?", (position,))
    connection.close()
    data = (state_dir / "journal.db").read_bytes()
    spoiled = body.replace(text, changed, 1).encode()
    assert data.count(body.encode()) == 1
    assert spoiled != body.encode()
    (state_dir / "journal.db").write_bytes(data.replace(body.encode(), spoiled))


def _position_of(state_dir: Path, name: str) -> int:
    """Return the last position with a fact of this name."""
    return max(one.position for one in history(state_dir) if one.body.__struct_config__.tag == name)


def _check_damage(ran: Ran, code: str, position: int) -> None:
    assert (ran.status, ran.out, ran.code) == (7, "", "code: journal_damaged · exit 7")
    assert f"{code} at position {position}" in ran.err
    assert "`palyra journal verify` shows all of it" in ran.err
    assert """--set 'journal.verify_at_start="off"'""" in ran.err


def test_a_flipped_byte_is_found_by_the_full_check(refused: Refused, state: Path) -> None:
    """A changed row of long ago is named by its position when the whole journal is checked."""
    position = _position_of(state, "run.admitted")
    _flip(state, position, "chat", "chaT")
    _check_damage(refused(state, "--set", 'journal.verify_at_start="full"'), "link_mismatch", position)


def test_a_flipped_byte_behind_the_note_is_found_at_once(refused: Refused, state: Path, lived: Path) -> None:
    """What the note of the head has not seen yet is checked at every start."""
    shutil.copy(lived / "older" / "journal.head", state / "journal.head")
    position = _position_of(state, "run.admitted")
    _flip(state, position, "chat", "chaT")
    _check_damage(refused(state), "link_mismatch", position)


def test_a_cut_tail_is_found(refused: Refused, state: Path, lived: Path) -> None:
    """A journal that ends before the note of its head has lost facts; the last one that is left is named."""
    shutil.copy(lived / "older" / "journal.db", state / "journal.db")
    _check_damage(refused(state), "tail_cut", history(lived / "older")[-1].position)


def test_a_note_that_is_gone_is_told(refused: Refused, state: Path) -> None:
    """Without the note nobody could see a cut tail, so its absence is damage too."""
    (state / "journal.head").unlink()
    ran = refused(state)
    assert (ran.status, ran.code) == (7, "code: journal_damaged · exit 7")
    assert "witness_missing" in ran.err


def test_a_row_that_cannot_be_read_is_damage(refused: Refused, state: Path) -> None:
    """A body that is no fact any more is told as damage with the way out, not as a bug."""
    position = _position_of(state, "daemon.started")
    _flip(state, position, '{"', "{{")
    (state / "snapshots.db").unlink()
    ran = refused(state)
    assert (ran.status, ran.code) == (7, "code: journal_damaged · exit 7")
    assert f"position {position} holds no 'daemon.started' that can be read" in ran.err
    assert "palyra journal restore" in ran.err


def test_a_broken_file_is_damage(refused: Refused, state: Path) -> None:
    """A file whose pages are garbage is refused with 7 and kept byte for byte."""
    data = bytearray((state / "journal.db").read_bytes())
    data[4_096:] = b"\xa5" * (len(data) - 4_096)
    (state / "journal.db").write_bytes(data)
    ran = refused(state)
    assert ran.status == 7
    assert "damaged" in ran.err
    assert (state / "journal.db").read_bytes() == data


async def test_the_way_out_works(state: Path, lived: Path) -> None:
    """The command that the refusal names goes on with the journal as it is, and witnesses it anew."""
    shutil.copy(lived / "older" / "journal.db", state / "journal.db")
    with pytest.raises(JournalDamaged):
        await Daemon(loaded(state.parent)).start()
    async with Daemon(loaded(state.parent, 'journal.verify_at_start="off"')):
        pass
    async with Daemon(loaded(state.parent, 'journal.verify_at_start="full"')) as daemon:
        assert daemon.found == "clean"


async def test_a_lost_vault_key_does_not_cost_the_log(state: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The daemon starts without it, says that its note is not signed, and makes no other key in its place."""
    paths = StatePaths(state)
    paths.vault_key.unlink()
    async with Daemon(loaded(state.parent)) as daemon:
        assert daemon.found == "clean"
    assert not paths.vault_key.exists()
    note = read_witness(paths.head)
    assert note is not None
    assert note.mac == ""
    assert main(["journal", "status", "--json", "--state-dir", str(state)]) == 0
    assert json.loads(capfd.readouterr().out)["data"]["witness"]["findings"] == ["witness_unkeyed"]


async def test_a_listener_open_to_others_needs_somebody_who_says_so(tmp_path: Path) -> None:
    """Exit 2 before anything is made: no socket, no state; the way out is in the message."""
    process = await spawn(tmp_path, "serve", "--host", "0.0.0.0", "--port", "0")
    out, err = await process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert b"[unsafe_bind]" in err
    assert b"allow_plain_remote" in err
    assert not list(tmp_path.rglob("journal.db"))
