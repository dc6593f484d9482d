"""`palyra config migrate`: what is shown, written and said of a configuration file of an older format."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_world import Cli

import palyra
from palyra.events.config import ConfigAdopted

OLD = '[model_provider]\n# here\nkind = "anthropic"\nmodel = "claude" # the one\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of the format before `version`."""
    path = tmp_path / "palyra.toml"
    path.write_text(OLD)
    path.chmod(0o600)
    return path


def test_it_is_shown_and_then_written(day: Cli, file: Path) -> None:
    """First nothing is written; then it is, with the old text beside it; a second time there is nothing to do."""
    shown = day("config", "migrate", "--config", str(file))
    assert (shown.status, file.read_text()) == (0, OLD)
    assert "model_provider.model → model_provider.models[0].model_id" in shown.out
    assert '-model = "claude" # the one' in shown.out
    assert "+[[model_provider.providers]]" in shown.out
    assert day("config", "migrate", "--check", "--config", str(file)).status == 7
    done = day("config", "migrate", "--apply", "--config", str(file), "--json")
    assert (done.data["is_due"], done.data["is_changed"], len(done.data["moves"])) == (True, True, 2)
    assert '# here\nkind = "anthropic"' in file.read_text()
    assert 'model_id = "claude" # the one' in file.read_text()
    assert Path(f"{file}.bak.1").read_text() == OLD
    again = day("config", "migrate", "--check", "--config", str(file))
    assert (again.status, "is written as files are by now" in again.out) == (0, True)
    assert day("config", "migrate", "--apply", "--config", str(file), "--json").data["is_changed"] is False


def test_it_is_read_as_it_is(day: Cli, file: Path) -> None:
    """With warnings that name the way; whoever is strict does not take it."""
    checked = day("config", "check", "--config", str(file))
    assert (checked.status, "palyra config migrate --apply" in checked.out + checked.err) == (0, True)
    assert day("config", "check", "--strict", "--config", str(file)).status == 2
    models = day("config", "get", "model_provider.default_chat_model_id", "--config", str(file))
    assert "claude" in models.out


def test_what_cannot_be_migrated(day: Cli, file: Path, tmp_path: Path) -> None:
    """A key in clear, a key that nobody knows, no file at all, two wishes at once: nothing is written."""
    for more, code in (('api_key = "sk-canary-0123456789"\n', 2), ("colour = 1\n", 2)):
        file.write_text(OLD + more)
        ran = day("config", "migrate", "--apply", "--config", str(file))
        assert (ran.status, file.read_text()) == (code, OLD + more)
        assert "canary" not in ran.out + ran.err
        assert list(tmp_path.glob("*.bak.*")) == []
    assert (day("config", "migrate").status, day("config", "migrate", "--check", "--json").data["file"]) == (
        0,
        None,
    )
    assert day("config", "migrate", "--apply", "--check", "--config", str(file)).status == 2


async def test_what_is_adopted_says_of_which_format_it_was(file: Path) -> None:
    """And nothing is adopted anew when the file is written in the present one: it says the same."""
    text = OLD.replace("anthropic", "deterministic")
    file.write_text(text)
    state = file.parent / "state"
    async with palyra.Daemon(file, state_dir=state) as daemon:
        (adopted,) = [one.body async for one in daemon.journal if isinstance(one.body, ConfigAdopted)]
        assert [one.migrated_from for one in adopted.sources] == [0]
        assert adopted.registry.default_chat_model_id == "claude"
    assert file.read_text() == text
