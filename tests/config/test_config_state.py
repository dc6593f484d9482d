"""The state directory: where it is, and that nobody else can read it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from palyra.config.state import (
    STATE_FILES,
    StatePaths,
    check_state_dir,
    find_insecure,
    find_state_dir,
    prepare_state_dir,
)
from palyra.errors import StateError


@pytest.fixture
def open_umask() -> Iterator[None]:
    """The loosest umask: what is made must be tight all the same."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_configured_directory_goes_first_then_xdg_then_home() -> None:
    """A relative XDG directory is ignored, for it would be below the working directory."""
    env = {"HOME": "/h", "XDG_STATE_HOME": "/x"}
    assert find_state_dir("/s", env).directory == Path("/s")
    assert find_state_dir("~/s", env).directory == Path("/h/s")
    assert find_state_dir("", env).directory == Path("/x/palyra")
    assert find_state_dir("", {"HOME": "/h"}).directory == Path("/h/.local/state/palyra")
    assert find_state_dir("", {"HOME": "/h", "XDG_STATE_HOME": "here"}).directory == Path("/h/.local/state/palyra")


@pytest.mark.parametrize("configured", ["relative", "/a/../b", "/a\0b", "/" * 5_000])
def test_odd_directories_are_refused(configured: str) -> None:
    """Relative ones too: no state is read from the working directory."""
    with pytest.raises(StateError) as caught:
        find_state_dir(configured, {})
    assert caught.value.code == "bad_path"


@pytest.mark.usefixtures("open_umask")
def test_directory_is_made_for_its_owner_only(tmp_path: Path) -> None:
    """With everything above it that is missing, whatever the umask; making it twice is fine."""
    paths = StatePaths(tmp_path / "a" / "b")
    prepare_state_dir(paths)
    prepare_state_dir(paths)
    assert mode(tmp_path / "a") == 0o700
    assert mode(paths.directory) == 0o700


def test_open_directory_and_files_are_refused_with_their_fix(tmp_path: Path) -> None:
    """All of them are named at once; what is not ours to keep is left alone."""
    paths = StatePaths(tmp_path)
    tmp_path.chmod(0o700)
    paths.log_dir.mkdir(mode=0o750)
    for path, bits in ((paths.journal, 0o600), (paths.client_key, 0o640), (tmp_path / "stranger", 0o666)):
        path.touch()
        path.chmod(bits)
    with pytest.raises(StateError) as caught:
        check_state_dir(paths)
    assert caught.value.code == "insecure_permissions"
    assert caught.value.exit_code == 7
    assert caught.value.hint == f"run: chmod 600 '{paths.client_key}' && chmod 700 '{paths.log_dir}'"
    paths.client_key.chmod(0o400)
    paths.log_dir.chmod(0o700)
    check_state_dir(paths)
    tmp_path.chmod(0o755)
    assert [fault.path for fault in find_insecure(paths)] == [tmp_path]


def test_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns it can change what is in it."""
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    (fault,) = find_insecure(StatePaths(tmp_path))
    assert "another user" in fault.message


def test_file_in_the_way_is_refused(tmp_path: Path) -> None:
    """At the place itself or above it."""
    (tmp_path / "file").touch()
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StateError) as caught:
            prepare_state_dir(StatePaths(directory))
        assert caught.value.code == "bad_path"


def test_every_path_is_in_the_one_list(tmp_path: Path) -> None:
    """Doctor, backup and the daemon know the same files."""
    paths = StatePaths(tmp_path)
    named = {
        value.name
        for name in dir(StatePaths)
        if not name.startswith("_") and name != "directory" and isinstance(value := getattr(paths, name), Path)
    }
    assert named <= {file.name for file in STATE_FILES}
    assert len({file.name for file in STATE_FILES}) == len(STATE_FILES)
    assert all(file.meaning for file in STATE_FILES)
