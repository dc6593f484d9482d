"""`vault.key_file`: the vault's key on another disk than the vault, and what copies and replaces states with it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_world import Cli, Ran

import palyra
from palyra.auth.keyfiles import read_vault_key

VARIABLE = "PALYRA_VAULT_KEY_FILE"
Run = Callable[..., Ran]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Where the key is."""
    (tmp_path / "stick").mkdir(mode=0o700)
    return tmp_path / "stick" / "palyra.key"


@pytest.fixture
def state(day: Cli, tmp_path: Path, key_file: Path) -> Cli:
    """The day's state, whose key was moved there."""
    copied = Cli(tmp_path / "state", day.now_us, day.head)
    shutil.copytree(day.state_dir, copied.state_dir)
    (copied.state_dir / "vault.key").rename(key_file)
    return copied


@pytest.fixture
def run(state: Cli, key_file: Path) -> Run:
    """Runs a line on it, or on another state, with the configuration that names the key's file."""

    def at(*arguments: str, cli: Cli = state, key: Path = key_file, **environ: str) -> Ran:
        return cli(*arguments, environ={VARIABLE: str(key), **environ})

    return at


def _secret(cli: Cli, run: Run) -> str:
    ran = run("vault", "put", "global/x", "--env", "K", "--json", cli=cli, K="a secret")
    assert ran.status == 0, ran.err
    return str(ran.data["ref"])


def test_the_key_is_where_configuration_says(state: Cli, run: Run, key_file: Path) -> None:
    """It opens the vault, signs the journal's note, and is sealed anew there; the state directory holds none."""
    assert _secret(state, run) == "global/x"
    before = key_file.read_bytes()
    assert run("vault", "rekey").status == 0
    assert key_file.read_bytes() != before
    assert run("vault", "verify").status == 0
    assert "agrees\n" in run("journal", "status").out
    assert [path.name for path in key_file.parent.iterdir()] == [key_file.name]
    assert not (state.state_dir / "vault.key").exists()
    forgotten = state("vault", "verify", "--json")
    assert (forgotten.status, forgotten.data["state"]) == (7, "locked")
    assert not (state.state_dir / "vault.key").exists()


def test_a_backup_brings_the_key_to_its_place(state: Cli, run: Run, key_file: Path, tmp_path: Path) -> None:
    """On another machine it goes to the file that is named there; where another key is, that is kept beside it."""
    _secret(state, run)
    backup, first = tmp_path / "backup", key_file.read_bytes()
    assert run("journal", "backup", str(backup), "--with-key").status == 0
    assert (backup / "vault.key").read_bytes() == first
    far = Cli(tmp_path / "far" / "state", state.now_us, state.head)
    far_key = tmp_path / "far.key"
    assert run("journal", "restore", str(backup), cli=far, key=far_key).status == 0
    assert far_key.read_bytes() == first
    assert not (far.state_dir / "vault.key").exists()
    assert run("vault", "verify", cli=far, key=far_key).status == 0
    assert "agrees\n" in run("journal", "status", cli=far, key=far_key).out
    run("vault", "rekey")
    second = key_file.read_bytes()
    assert run("journal", "restore", str(backup), "--replace", "--accept-loss").status == 0
    assert key_file.read_bytes() == first
    (kept,) = (path for path in key_file.parent.iterdir() if path != key_file)
    assert (kept.name.startswith("palyra.key.replaced-"), kept.read_bytes()) == (True, second)
    assert run("vault", "verify").status == 0


def test_a_fork_and_an_import_are_signed_with_it(state: Cli, run: Run, key_file: Path, tmp_path: Path) -> None:
    """What takes the place of a journal is witnessed under the key that is asked at the next start."""
    before = key_file.read_bytes()
    export, other = tmp_path / "export", Cli(tmp_path / "other", state.now_us, state.head)
    assert run("journal", "export", "-o", str(export)).status == 0
    assert run("journal", "import", str(export), "--into", str(other.state_dir)).status == 0
    assert "agrees\n" in run("journal", "status", cli=other).out
    with sqlite3.connect(state.state_dir / "journal.db") as connection:
        connection.execute("DROP TRIGGER event_is_never_changed")
        connection.execute("UPDATE event SET actor = 'nobody' WHERE position = 41")
    connection.close()
    assert run("journal", "accept-fork", "--at", "40", "--reason", "a broken disk").status == 0
    assert "agrees\n" in run("journal", "status").out
    assert key_file.read_bytes() == before
    assert not list(tmp_path.rglob("vault.key"))


@pytest.mark.parametrize(("mode", "code"), [(0o640, "insecure_permissions"), (0o600, "")])
def test_others_cannot_use_it(run: Run, key_file: Path, mode: int, code: str) -> None:
    """It has the rules of the state's own files, wherever it is."""
    key_file.chmod(mode)
    ran = run("vault", "put", "global/x", "--env", "K", K="a secret")
    assert (f"code: {code}" in ran.err) == (code != "")
    assert (ran.status, key_file.stat().st_mode & 0o777) == (7 if code else 0, mode)


async def test_a_new_state_makes_its_key_there(tmp_path: Path, key_file: Path) -> None:
    """So does a daemon; where there is no directory for it nothing is begun."""
    config = {"vault": {"key_file": str(key_file)}}
    async with palyra.Daemon(config, state_dir=tmp_path / "state"):
        assert (key_file.stat().st_mode & 0o777, (tmp_path / "state" / "vault.key").exists()) == (0o600, False)
    line = read_vault_key(key_file)
    assert line is not None
    assert line.master is not None
    async with palyra.Daemon(config, state_dir=tmp_path / "state"):
        assert read_vault_key(key_file) == line
    nowhere = {"vault": {"key_file": str(tmp_path / "unplugged" / "palyra.key")}}
    with pytest.raises(palyra.errors.StateError) as caught:
        async with palyra.Daemon(nowhere, state_dir=tmp_path / "new"):
            pass
    assert "unplugged/palyra.key cannot be written" in str(caught.value)
    assert not (tmp_path / "new" / "journal.db").exists()
