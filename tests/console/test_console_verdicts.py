"""`journal/verdicts`: what an operator's check beside the daemon has come to, written by the one writer."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from console_house import open_console

import palyra
from palyra.engine.replay import fold_file
from palyra.projections.state import State, digest_in

VERDICTS = "journal/verdicts"


async def test_a_sound_journal(tmp_path: Path) -> None:
    """The fact names the range and who says so; the journal's status tells it."""
    async with open_console(tmp_path) as ask:
        last = len(ask.daemon.journal)
        done = await ask.post(VERDICTS, {"first": 1, "last": last, "replayed": True})
        assert (done.status, done.json["position"]) == (200, last + 1)
        checked = ask.daemon.core.state.journal.checked
        assert checked is not None
        assert (checked.first, checked.last, checked.replayed, checked.quick) == (1, last, True, False)
        assert (await ask("journal/status")).json["checked_sound"] is True


async def test_damage_in_rows(tmp_path: Path) -> None:
    """It is on record where it was seen first, with how much there was."""
    async with open_console(tmp_path) as ask:
        bad = [{"code": "link_mismatch", "position": 2}]
        done = await ask.post(VERDICTS, {"first": 1, "last": 3, "bad": bad, "bad_count": 1_500})
        (damage,) = ask.daemon.core.state.journal.damages
        assert damage.position == done.json["position"]
        assert (damage.code, damage.found_position, damage.findings_count) == ("link_mismatch", 2, 1_500)
        assert (await ask("journal/status")).json["checked_sound"] is False


async def test_damage_that_must_stay_as_it_was_found(tmp_path: Path) -> None:
    """Nothing is written, and the answer says so."""
    async with open_console(tmp_path) as ask:
        before = len(ask.daemon.journal)
        done = await ask.post(VERDICTS, {"first": 1, "last": 3, "bad": [{"code": "tail_cut"}]})
        assert (done.status, done.json["position"], len(ask.daemon.journal)) == (200, None, before)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"first": 1, "last": 10_000}, "position_not_found"),
        ({"first": 0, "last": 1}, "invalid_request"),
        ({"first": 1, "last": 1, "bad": [{"code": "Not a code"}]}, "invalid_request"),
        ({"first": 1, "last": 1, "sound": True}, "unknown_field"),
    ],
)
async def test_verdicts_that_make_no_sense(body: dict[str, Any], code: str, tmp_path: Path) -> None:
    """A range that is not there yet, and what is no verdict."""
    async with open_console(tmp_path) as ask:
        assert (await ask.post(VERDICTS, body)).code == code


async def test_what_is_held_of_a_chapter(tmp_path: Path) -> None:
    """Memory, and a fold of the file up to there, hold the same bytes; what is no chapter is refused."""
    async with open_console(tmp_path) as ask:
        await ask.say()
        for chapter in State.__struct_fields__:
            told = await ask(f"journal/digests/{chapter}")
            state = fold_file(ask.daemon.paths.journal, upto=told.json["position"]).state
            assert told.json["digest"] == digest_in(state, chapter), chapter
        assert (await ask("journal/digests/everything")).code == "invalid_query"


async def test_a_check_beside_the_daemon(tmp_path: Path) -> None:
    """`verify --replay --record` compares what the daemon holds too, and has it write the verdict."""
    async with open_console(tmp_path) as ask:
        await ask.say()
        command = ("journal", "verify", "--replay", "--record", "--json", "--state-dir")
        place = str(ask.daemon.paths.directory)

        async def verify() -> tuple[int | None, Any]:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "palyra", *command, place),
                stdout=asyncio.subprocess.PIPE,
                env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
                cwd=Path(palyra.__file__).parents[1],
            )
            out, _ = await process.communicate()
            return process.returncode, json.loads(out)["data"]

        status, report = await verify()
        assert (status, report["replay"]["live_count"]) == (0, len(State.__struct_fields__))
        state = ask.daemon.core.state
        assert state.journal.checked is not None
        assert state.journal.checked.position == report["recorded_position"] == state.position
        state.runs.refusals["invented"] = 1
        status, report = await verify()
        assert (status, report["replay"]["diverged_chapters"]) == (7, ["runs"])
        assert [damage.code for damage in state.journal.damages] == ["fold_divergence"]
        del state.runs.refusals["invented"]
