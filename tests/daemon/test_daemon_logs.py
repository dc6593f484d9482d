"""A log that is written otherwise from now on: level, form and place, without a line that is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import structlog

from palyra.daemon.logs import Log


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def test_a_level_a_form_and_a_place_change(tmp_path: Path) -> None:
    """Lines before are where and as they were; those after keep the name of their boot."""
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    log = Log(level="warning", log_format="json", file=first)
    log.become_default()
    log.name_boot("01BOOT")
    log.info("not_told")
    log.warning("told")
    log.change("debug", "json", second)
    log.debug("told_now")
    structlog.get_logger().info("of_somebody_else")
    log.change("info", "console", second)
    log.debug("not_told")
    log.info("for_people", why="it is so")
    log.close()
    (only,) = lines(first)
    assert json.loads(only)["event"] == "told"
    *for_programs, for_people = lines(second)
    told = [json.loads(line) for line in for_programs]
    assert [one["event"] for one in told] == ["told_now", "of_somebody_else"]
    assert told[0]["boot_id"] == "01BOOT"
    assert "for_people" in for_people
    assert "it is so" in for_people
    assert second.stat().st_mode & 0o777 == 0o600


def test_a_place_that_cannot_be_had_changes_nothing(tmp_path: Path) -> None:
    """The log goes on where it was."""
    file = tmp_path / "log"
    log = Log(level="info", log_format="json", file=file)
    with pytest.raises(OSError, match="No such file"):
        log.change("debug", "json", tmp_path / "nowhere" / "log")
    log.debug("not_told")
    log.info("told")
    log.close()
    assert [json.loads(line)["event"] for line in lines(file)] == ["told"]
