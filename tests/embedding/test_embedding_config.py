"""What a program may configure a daemon with, and that nothing else has a say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from embedding_host import ask, says

import palyra
from palyra.config.load import load_config
from palyra.config.problems import ConfigProblems
from palyra.errors import ConfigInvalid


def test_all_problems_of_a_mapping_come_at_once() -> None:
    """It is checked like a file, with suggestions; there are no lines to name."""
    tree = {"daemon": {"prt": 1, "drain_timeout_ms": "soon"}, "model_provider": {"providers": [{"kind": "x"}]}}
    with pytest.raises(ConfigProblems) as caught:
        palyra.Daemon(tree)
    lines = str(caught.value).splitlines()
    assert lines[0] == "daemon.drain_timeout_ms: must be a whole number [wrong_type]"
    assert 'daemon.prt: unknown key; did you mean "port"? [unknown_key]' in lines
    assert "model_provider.providers[0].provider_id: must be set [missing_key]" in lines
    assert {problem.source.kind for problem in caught.value.problems} == {"program"}


def test_a_mapping_is_copied_and_may_hold_paths_and_tuples(tmp_path: Path) -> None:
    """It is data: what the program does with its own afterwards changes nothing."""
    tree: dict[str, Any] = {"version": 1, "daemon": {"state_dir": tmp_path / "state"}, "auth": {"extra_hosts": ()}}
    daemon = palyra.Daemon(tree)
    assert tree["version"] == 1
    assert daemon.config.daemon.state_dir == str(tmp_path / "state")
    assert daemon.paths.directory == tmp_path / "state"
    assert str(daemon.loaded.origins["daemon.state_dir"]) == "program"
    (source,) = daemon.loaded.sources
    assert (source.kind, source.name, len(source.digest)) == ("program", "", 64)


def test_a_mapping_that_is_no_data_is_refused() -> None:
    """Only what a file could say can be said."""
    with pytest.raises(TypeError):
        palyra.Daemon({"daemon": {"port": object()}})


def test_a_script_beside_a_mapping_must_be_absolute() -> None:
    """A mapping stands nowhere, and the working directory is not looked at."""
    tree = says("")
    tree["model_provider"]["providers"][0]["script"] = "rules.toml"
    with pytest.raises(ConfigProblems, match="must be absolute"):
        palyra.Daemon(tree)


async def test_a_file_is_read(tmp_path: Path) -> None:
    """A path leads to a file with places, whose keys hold; what it leaves out are the defaults of embedding."""
    file = tmp_path / "gateway.toml"
    file.write_text("[journal]\ndurability = 'relaxed'\n")
    async with palyra.Daemon(file, journal=":memory:") as daemon:
        assert daemon.config.journal.durability == "relaxed"
        assert (await ask(daemon)).status == 200
    file.write_text("[daemon]\nport = 'x'\n")
    with pytest.raises(ConfigProblems, match=r"gateway.toml:2:1 daemon.port: must be a whole number"):
        palyra.Daemon(str(file))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """It is not taken for an empty one."""
    with pytest.raises(ConfigInvalid, match="there is no file") as caught:
        palyra.Daemon(tmp_path / "none.toml")
    assert caught.value.code == "config_not_found"


def test_the_environment_has_no_say(machine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Variables and files of the user configure `palyra serve`, not the daemon of a program."""
    file = tmp_path / "user.toml"
    file.write_text("this is no toml")
    monkeypatch.setenv("PALYRA_CONFIG", str(file))
    monkeypatch.setenv("PALYRA_DAEMON_PORT", "x")
    monkeypatch.setenv("PALYRA_STATE_DIR", str(tmp_path / "state"))
    daemon = palyra.Daemon()
    assert (daemon.config.daemon.port, daemon.config.daemon.state_dir) == (0, "")
    with pytest.raises(ValueError, match="when the daemon starts"):
        _ = daemon.paths


def test_a_loaded_configuration_is_taken_as_it_stands(machine: Path) -> None:
    """As `palyra serve` does: its port, and the user's state directory."""
    loaded = load_config({"HOME": str(machine)}, system_file=machine / "none")
    daemon = palyra.Daemon(loaded, environ={"HOME": str(machine)})
    assert daemon.config.daemon.port != 0
    assert daemon.paths.directory == machine / ".local/state/palyra"


@pytest.mark.parametrize("places", [{"journal": "memory"}, {"journal": ":memory:", "state_dir": "/tmp/x"}])
def test_places_that_contradict_each_other_are_refused(places: Any) -> None:
    """There are two kinds of place, and a daemon has one."""
    with pytest.raises(ValueError, match=":memory:"):
        palyra.Daemon(**places)


async def test_credentials_come_from_the_environment_that_is_given() -> None:
    """References of the configuration are followed there; the process's own is the default."""
    assert palyra.Daemon().environ is os.environ
    assert palyra.Daemon(environ={"KEY": "x"}).environ == {"KEY": "x"}


async def test_a_watched_file_is_read_again_by_itself(tmp_path: Path) -> None:
    """Nobody has to ask for it; what it says holds from the adoption on."""
    file = tmp_path / "palyra.toml"

    def write(days: int) -> None:
        file.write_text(f"[daemon]\nwatch_config = true\n[privacy]\ncontent_days = {days}\n")
        file.chmod(0o600)

    write(3)
    async with palyra.Daemon(file, journal=":memory:") as daemon:
        write(4)
        async for recorded in daemon.journal.follow():
            if recorded.name == "config.adopted" and recorded.body.generation == 2:
                break
        assert daemon.config.privacy.content_days == 4
