"""Writing the configuration back beside other programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from palyra.config.edit import Put
from palyra.config.problems import ConfigProblems
from palyra.config.write import BACKUPS_COUNT, edit_config_file
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


def test_what_would_be_wrong_is_not_written(tmp_path: Path) -> None:
    """The problem is told at its place in the file itself; nothing is left beside it."""
    file = tmp_path / "palyra.toml"
    file.write_text("[daemon]\nport = 1\n")
    with pytest.raises(ConfigProblems) as caught:
        edit_config_file(file, [Put(path=("daemon", "port"), value=-1)], environ={})
    (problem,) = caught.value.problems
    assert (problem.source.file, problem.source.line, problem.key) == (str(file), 2, "daemon.port")
    assert file.read_text() == "[daemon]\nport = 1\n"
    assert {path.name for path in tmp_path.iterdir()} <= {"palyra.toml", "palyra.toml.lock"}


def test_a_dry_run_tells_what_would_change(tmp_path: Path) -> None:
    """As a diff, and leaves everything as it is."""
    file = tmp_path / "palyra.toml"
    file.write_text("[daemon]\nport = 1\n")
    edit = Put(path=("daemon", "port"), value=2)
    written = edit_config_file(
        file, [edit], environ={}, is_dry_run=True, before_write=lambda staged: pytest.fail("it is dry")
    )
    assert (written.file, written.is_changed) == (str(file), True)
    assert written.diff.splitlines()[-2:] == ["-port = 1", "+port = 2"]
    assert [path.name for path in tmp_path.iterdir()] == ["palyra.toml"]
    same = edit_config_file(file, [Put(path=("daemon", "port"), value=1)], environ={}, is_dry_run=True)
    assert (same.is_changed, same.diff) == (False, "")


def test_so_many_older_texts_are_kept(tmp_path: Path) -> None:
    """The newest first, readable by their owner alone; the file keeps its mode and its mark, links stay links."""
    (tmp_path / "real").mkdir()
    file, link = tmp_path / "real" / "palyra.toml", tmp_path / "palyra.toml"
    file.write_bytes(b"\xef\xbb\xbf[daemon]\nport = 0\n")
    file.chmod(0o640)
    link.symlink_to(file)
    for port in range(1, BACKUPS_COUNT + 3):
        edit_config_file(link, [Put(path=("daemon", "port"), value=port)], environ={})
    assert link.is_symlink()
    assert (file.stat().st_mode & 0o777, file.read_bytes()) == (0o640, b"\xef\xbb\xbf[daemon]\nport = 7\n")
    kept = [file.with_name(f"palyra.toml.bak.{number}") for number in range(1, BACKUPS_COUNT + 1)]
    assert [path.read_text("utf-8-sig") for path in kept] == [f"[daemon]\nport = {6 - n}\n" for n in range(5)]
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
    assert sorted(path.name for path in file.parent.iterdir()) == sorted(
        ["palyra.toml", "palyra.toml.lock", *(path.name for path in kept)]
    )
    edit_config_file(link, [Put(path=("daemon", "port"), value=9)], environ={}, keeps_backup=False)
    assert kept[0].read_text("utf-8-sig") == "[daemon]\nport = 6\n"


def test_a_file_that_is_missing_is_made(tmp_path: Path) -> None:
    """For its owner alone; there is nothing to keep of it."""
    file = tmp_path / "a" / "palyra.toml"
    edit_config_file(file, lambda text: [Put(path=("daemon", "port"), value=1)], environ={})
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert file.read_text() == "[daemon]\nport = 1\n"
    assert sorted(path.name for path in file.parent.iterdir()) == ["palyra.toml", "palyra.toml.lock"]


@pytest.mark.parametrize("data", [b"\xff", b"port = "])
def test_what_is_no_toml_is_not_edited(tmp_path: Path, data: bytes) -> None:
    """It is named with the command that shows the place."""
    file = tmp_path / "palyra.toml"
    file.write_bytes(data)
    with pytest.raises(ConfigInvalid, match="no TOML") as caught:
        edit_config_file(file, [Put(path=("daemon", "port"), value=1)], environ={})
    assert caught.value.hint == "palyra config check names the place"
    assert file.read_bytes() == data
