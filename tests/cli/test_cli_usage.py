"""`palyra usage`: views for people and programs, and reports in every form from every kind of file."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import polars
import pytest
from cli_world import HOSTILE, Cli, build

from palyra.engine.console.file import ask_file
from palyra.engine.console.frame import JournalFiles, Question
from palyra.engine.console.table import QUESTIONS
from palyra.journal.lock import LockState
from palyra.units import US_PER_S

VIEWS = [
    "summary",
    "summary --bucket hour --from 2027-01-15",
    "timeline --group-by model,provider --from 2027-01-15",
    "sessions",
    "agents",
    "principals",
    "keys",
    "models",
    "providers",
    "insights",
]
DATASETS = ["summary", "timeline", "runs", "attempts", "usage", "refusals", "budgets"]


@pytest.mark.parametrize("view", VIEWS)
def test_views_are_pages_and_documents(day: Cli, view: str) -> None:
    """Each is shown to people, narrow or wide, and told to programs at one position."""
    plain = {"NO_COLOR": "1"}
    page, narrow = (day("usage", *view.split(), columns=width, environ=plain) for width in (120, 60))
    assert (page.status, page.err, narrow.status) == (0, "", 0), page.err
    assert all(len(line) <= 120 for line in page.out.splitlines())
    document = day("usage", *view.split(), "--json").document
    assert document["at"]["position"] == day.head
    assert f"position {day.head}" in page.out


def test_a_list_that_is_cut_says_so(day: Cli) -> None:
    """What stands below it is the sum of what is shown, and is not called the total."""
    cut, whole = (day("usage", "providers", "--limit", limit).out for limit in ("2", "50"))
    assert ("these 2" in cut, "there are more providers" in cut) == (True, True)
    assert ("total" in whole, "there are more" in whole) == (True, False)


_WINDOWS = [one for one in QUESTIONS if one.source == "window"]


@pytest.mark.parametrize("question", _WINDOWS, ids=[one.path for one in _WINDOWS])
def test_a_pass_over_the_rows_tells_how_far_it_is(day: Cli, question: Question[Any, Any]) -> None:
    """Whoever waits for a view of a long journal sees what is done, up to its end."""
    told: list[tuple[str, int, int]] = []
    names = [one.name for one in msgspec.structs.fields(question.params) if one.required]
    ask_file(
        question,
        question.params(**dict.fromkeys(names, "x")),
        files=JournalFiles(day.state_dir / "journal.db", day.state_dir / "vault.key"),
        lock=LockState(False, None),
        at=None,
        zone="UTC",
        now_us=day.now_us,
        progress=lambda *at: told.append(at),
    )
    read = [(done, total) for label, done, total in told if label == "reading"]
    assert 0 < read[-1][0] <= read[-1][1]


def test_what_is_not_known_is_said(day: Cli) -> None:
    """Nothing of the day has a price: no line says that it cost nothing."""
    ran = day("usage", "models")
    assert "unknown" in ran.out
    assert [line for line in ran.out.splitlines() if line.startswith("gpt") and "$0.00" in line] == []
    assert day("usage", "models", "--json").data["items"][0]["cost_complete"] is False


def test_a_view_of_the_past(day: Cli) -> None:
    """As of an earlier position only what had happened counts."""
    runs = [
        day("usage", "summary", "--json", "--as-of", str(at)).data["totals"]["runs"] for at in (0, 20, day.head)
    ]
    assert runs == sorted(runs)
    assert (runs[0], runs[-1]) == (0, 7)


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_dataset_says_the_same_in_every_form(day: Cli, tmp_path: Path, dataset: str) -> None:
    """csv, json and parquet have the same columns and rows; what people read has amounts in USD too."""
    asked = ["usage", "report", "--dataset", dataset]
    document = json.loads(day(*asked, "--format", "json").out)
    assert document == json.loads(day(*asked, "--json").out)
    assert (document["schema"], document["dataset"], document["position"]) == (1, dataset, day.head)
    out = tmp_path / "report"
    assert day(*asked, "--format", "csv", "--out", str(out)).out.endswith(" of csv\n")
    header, *rows = csv.reader(io.StringIO(out.read_bytes().decode(), newline=""))
    assert len(rows) == len(document["rows"])
    assert day(*asked, "--format", "parquet", "--out", str(out)).status == 0
    frame = polars.read_parquet(out)
    assert frame.columns == [name for name in header if not name.endswith("_usd")]
    amounts = [name for name in frame.columns if name.endswith("_nanousd")]
    assert [header[header.index(name) + 1] for name in amounts] == [f"{name[:-7]}usd" for name in amounts]
    for row in document["rows"]:
        for name in amounts:
            in_usd = row[f"{name[:-7]}usd"]
            assert in_usd is None if row[name] is None else Decimal(in_usd) * 10**9 == row[name]
    assert frame.height == len(rows)
    if document["rows"]:
        assert sorted(header) == sorted(document["rows"][0])
    table = day(*asked, columns=100)
    assert (table.status, table.err) == (0, "")
    assert "journal file" in table.out
    assert os.listdir(tmp_path) == ["report"]


def test_groups_as_a_table(day: Cli) -> None:
    """Days and models with their sums; hostile names are written out."""
    ran = day("usage", "report", "--group-by", "day,model", "--group-by", "agent")
    assert ran.status == 0
    assert ran.out.splitlines()[2].split()[:3] == ["DAY", "MODEL", "AGENT"]
    assert "total" in ran.out
    assert "\x1b" not in day("usage", "report", "--dataset", "refusals").out
    refused = json.loads(day("usage", "report", "--dataset", "refusals", "--json").out)["rows"]
    assert [row["model_requested"] for row in refused] == [HOSTILE]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--group-by", "colour"], 2, "nothing to group by"),
        (["--group-by", "day,week"], 2, "One of hour, day, week"),
        (["--dataset", "runs", "--group-by", "model"], 2, "--group-by"),
        (["--dataset", "runs", "--top", "3"], 2, "--top"),
        (["--bucket", "day"], 2, "--bucket"),
        (["--timezone", "Middle/Earth"], 2, "no time zone"),
        (["--from", "soon"], 2, "no instant"),
        (["--journal", "/nowhere/journal.db"], 7, "no journal"),
        (["--format", "parquet"], 2, "terminal"),
    ],
)
def test_what_cannot_be_is_refused(day: Cli, arguments: list[str], status: int, words: str) -> None:
    """Each with the option that is at fault, and nothing is written."""
    ran = day("usage", "report", *arguments, columns=100)
    assert ran.status == status
    assert words in ran.err
    assert ran.out == ""


def test_without_polars_the_extra_is_named(day: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet needs it, nothing else does."""
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    ran = day("usage", "report", "--format", "parquet")
    assert ran.status == 5
    assert "palyra[reports]" in ran.err
    assert day("usage", "report", "--format", "csv").status == 0


def test_a_failed_report_leaves_the_old_one(day: Cli, tmp_path: Path) -> None:
    """A report appears whole or not at all."""
    out = tmp_path / "report.csv"
    out.write_text("old")
    ran = day("usage", "report", "--journal", str(tmp_path), "--format", "csv", "--out", str(out))
    assert ran.status != 0
    assert out.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.csv"]


def test_from_a_copy_in_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """Nothing is needed but the file: no configuration, no state, no permission to write; not a byte changes."""
    world = build(tmp_path / "state")
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(tmp_path / "state" / "journal.db", copy / "journal.db")
    digest = hashlib.sha256((copy / "journal.db").read_bytes()).hexdigest()
    (copy / "journal.db").chmod(0o400)
    copy.chmod(0o500)
    (tmp_path / "broken.toml").write_text("not = [toml")
    cli = Cli(tmp_path / "state", world.now_us + 10 * US_PER_S)
    asked = ["usage", "report", "--json", "--group-by", "model", "--from", "2027-01-15", "--to", "2027-01-16"]
    named = ["--journal", str(copy / "journal.db"), "--config", str(tmp_path / "broken.toml")]
    ran = cli(*asked, *named, is_placed=False)
    copy.chmod(0o700)
    assert ran.status == 0, ran.err
    assert json.loads(ran.out)["rows"] == json.loads(cli(*asked).out)["rows"]
    assert os.listdir(copy) == ["journal.db"]
    assert hashlib.sha256((copy / "journal.db").read_bytes()).hexdigest() == digest
