"""Writing the configuration back beside other programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from palyra.config.edit import Put
from palyra.config.write import edit_config_file
from palyra.errors import ConfigInvalid


def test_a_program_that_wrote_meanwhile_wins(tmp_path: Path) -> None:
    """Its text stays as it is, and the command says that it did nothing."""
    file = tmp_path / "palyra.toml"
    file.write_text("[daemon]\nport = 1\n")
    theirs = "[daemon]\nport = 2  # theirs\n"
    edit = Put(path=("daemon", "port"), value=3)
    with pytest.raises(ConfigInvalid) as caught:
        edit_config_file(file, [edit], environ={}, before_write=lambda staged: file.write_text(theirs) and None)
    assert caught.value.code == "config_changed_meanwhile"
    assert file.read_text() == theirs
    edit_config_file(file, [edit], environ={})
    assert file.read_text() == "[daemon]\nport = 3  # theirs\n"
