"""`-o FILE`, wherever a command makes a file: whole or not at all, for its owner alone; `-` is standard output."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cli_world import SERVED, Cli

LINES = ["usage report --format csv", "usage export", f"capture run {SERVED}", f"journal export --run {SERVED}"]


@pytest.mark.parametrize("line", LINES)
def test_a_file_is_what_standard_output_is(day: Cli, line: str, tmp_path: Path) -> None:
    """To the byte, and readable by nobody else, whatever was there."""
    file = tmp_path / "made"
    file.write_text("what was there")
    file.chmod(0o644)
    assert day(*line.split(), "-o", str(file)).status == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for printed in (day(*line.split()), day(*line.split(), "--out", "-")):
        assert (printed.status, printed.out) == (0, file.read_bytes().decode())
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("line", LINES)
def test_a_place_that_cannot_be_written_is_named(day: Cli, line: str, tmp_path: Path) -> None:
    """As it was given, and not by a name that nobody knows."""
    file = tmp_path / "nowhere" / "made"
    ran = day(*line.split(), "-o", str(file))
    said = f"error: {file}: No such file or directory\ncode: bad_path · exit 2\n"
    assert (ran.status, ran.out, ran.err) == (2, "", said)
