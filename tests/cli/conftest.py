"""One state directory for everything that only reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_world import Cli, build

from palyra.units import US_PER_S


@pytest.fixture(scope="session")
def day(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """Command lines over the day's journal, ten seconds after its last event."""
    directory = tmp_path_factory.mktemp("day") / "state"
    world = build(directory)
    return Cli(directory, world.now_us + 10 * US_PER_S, len(world.history))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty directory: examples write files, and no command may read its working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
