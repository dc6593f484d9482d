"""Answers about earlier moments: what was known then, on the same pages and in the same documents."""

from __future__ import annotations

import asyncio
import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from cli_world import FAILED_OVER, JOURNAL_ID, SERVED, Cli
from story import T0_US, adopt, given, serve

from palyra.cli.about import topic_text
from palyra.cli.main import program
from palyra.engine.codec import to_row
from palyra.journal.reader import JournalReader
from palyra.journal.sqlite import SqliteJournal
from palyra.units import US_PER_S

READING = [
    "status",
    "models list",
    "models status",
    "runs list",
    "runs list --open",
    "runs show last",
    "explain last",
    "explain last --state",
    "journal status",
    "journal tail",
    "journal show 1",
    "config show",
]
_ESCAPES = re.compile("\x1b\\[[0-9]+m")
#: In the middle of the second run, at its second attempt.
MIDDLE = 15
FOOT = "as of position 15 · 2027-01-15 08:01:01Z · journal file, daemon not running"


@pytest.mark.parametrize("line", READING)
def test_every_reading_command_answers_about_the_past(line: str, day: Cli) -> None:
    """The last line names position and instant of then, and so does the document."""
    ran = day(*line.split(), "--as-of", str(MIDDLE))
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.splitlines()[-1] == FOOT
    document = day(*line.split(), "--as-of", str(MIDDLE), "--json").document
    as_of_us = T0_US + 61_150_000
    assert document["at"] == {
        "journal_id": JOURNAL_ID,
        "position": MIDDLE,
        "as_of_us": as_of_us,
        "source": "journal_file",
    }
    assert document["warnings"] == []


@pytest.fixture(scope="module", params=[7, MIDDLE, 30])
def then(request: pytest.FixtureRequest, day: Cli, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """Command lines over a journal that ends earlier, asked a second after its last event."""
    position: int = request.param
    with JournalReader(day.state_dir / "journal.db") as reader:
        rows = [row for found in reader.rows(0, position) for row in found]
    folder = tmp_path_factory.mktemp("then")

    async def copy() -> None:
        journal = await SqliteJournal.open(folder / "journal.db", new_journal_id=JOURNAL_ID, now_us=T0_US)
        await journal.append(rows)
        await journal.close()

    asyncio.run(copy())
    return Cli(folder, rows[-1].recorded_at_us + US_PER_S, position)


@pytest.mark.parametrize("line", READING)
def test_an_answer_of_then_is_the_one_that_was_given_then(line: str, day: Cli, then: Cli) -> None:
    """The past of a journal is read as one that ends there: the same data, whatever came later."""
    moment = f"{then.head}@{_iso(then.now_us // US_PER_S * US_PER_S)}"
    data, expected = (cli(*line.split(), "--as-of", moment, "--json").data for cli in (day, then))
    if line == "journal status":
        data, expected = ({key: one[key] for key in _OF_THE_LOG} for one in (data, expected))
    assert data == expected
    if line.startswith(("models", "runs", "explain")):
        assert then(*line.split(), "--json").data == expected


_OF_THE_LOG = "journal_id schema created_us position link last_event_us events_last_day_count names".split()


def _iso(instant_us: int) -> str:
    whole = datetime.fromtimestamp(instant_us // US_PER_S, UTC).replace(tzinfo=None).isoformat()
    return f"{whole}.{instant_us % US_PER_S:06d}Z"


def test_what_came_later_is_not_known(day: Cli) -> None:
    """A run that ended later is open, its later attempts and everything after it are not there."""
    then = ["--as-of", str(MIDDLE)]
    assert "Palyra 0.1.0 is ready · pid 1 · up 1 min 1 s\n" in day("status", *then).out
    listed = day("runs", "list", *then, "--json").data["items"]
    assert [(run["run_id"], run["state"], run["attempts_count"]) for run in listed] == [
        (FAILED_OVER, "open", 2),
        (SERVED, "completed", 1),
    ]
    report = day("runs", "show", "last", *then, "--json").data
    assert [one["state"] for one in report["attempts"]] == ["failed", "open"]
    providers = day("models", "status", *then, "--json").data["providers"]
    assert [(one["circuit"], one["failures_count"]) for one in providers] == [
        ("closed", 1),
        ("closed", 0),
        ("closed", 0),
    ]
    assert [one["position"] for one in day("journal", "tail", "-n", "2", *then, "--json").data["items"]] == [
        14,
        15,
    ]
    for line in (
        f"runs show {FAILED_OVER} --as-of 10",
        "journal show 16 --as-of 15",
        "journal show provider-openai --as-of 15",
    ):
        assert day(*line.split()).status == 8


def test_a_moment_after_the_death_of_a_daemon(day: Cli) -> None:
    """That a process died is only known from the next start on."""
    boot = day("status", "--as-of", "boot", "--json")
    assert boot.data["daemon"]["pid"] == 2
    before = boot.document["at"]["position"] - 1
    assert day("status", "--as-of", str(before), "--json").data["daemon"]["phase"] == "ready"
    assert day("status", "--json").data["daemon"]["phase"] == "crashed"


def test_before_the_first_event_there_is_nothing(day: Cli) -> None:
    """An empty state and a note, at position 0 and at an instant before the journal."""
    for text in ("0", "2020-01-01", "-3d"):
        for line in ("status", "models list", "runs list", "journal status", "journal tail", "config show"):
            ran = day(*line.split(), "--as-of", text)
            assert (ran.status, ran.err) == (0, "warning: The journal had no event yet.\n")
            assert "as of position 0 · " in ran.out
        document = day("status", "--as-of", text, "--json").document
        assert [warning["code"] for warning in document["warnings"]] == ["before_first_event"]
        assert (document["data"]["position"], document["data"]["daemon"]["phase"]) == (0, "never")
    assert day("explain", "last", "--as-of", "0").status == 8


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("soon", 2, "usage_error"),
        ("2030-01-01", 2, "as_of_in_future"),
        ("20@2030-01-01", 2, "as_of_in_future"),
        ("9999", 8, "position_not_found"),
        ("run:01Z", 8, "run_not_found"),
    ],
)
def test_a_moment_that_is_none(text: str, status: int, code: str, day: Cli) -> None:
    """What is no moment of this journal is refused with its code, on standard error or in the document."""
    ran = day("status", "--as-of", text)
    assert (ran.status, ran.out) == (status, "")
    assert ran.err.endswith(f"code: {code} · exit {status}\n")
    assert day("status", "--as-of", text, "--json").document["error"]["code"] == code


def test_an_instant_is_one_of_the_configured_zone(day: Cli) -> None:
    """Without an offset `cli.timezone` counts, and the answer shows that zone."""
    berlin = {"PALYRA_CLI_TIMEZONE": "Europe/Berlin"}
    here = day("status", "--as-of", "2027-01-15T09:01:01.1", environ=berlin)
    assert "as of position 14 · 2027-01-15 09:01:01+01:00 · " in here.out
    assert day("status", "--as-of", "2027-01-15T08:01:01.1Z", "--json").document["at"]["position"] == 14


def test_now_is_the_moment(day: Cli) -> None:
    """Ages and waits are those of then; a second instant lets time pass at the same position."""
    assert "overloaded, just now" in day("status", "--as-of", str(MIDDLE)).out
    later = day("status", "--as-of", f"{MIDDLE}@2027-01-15T08:01:11Z").out
    assert "overloaded, 10 s ago" in later
    assert "as of position 15 · 2027-01-15 08:01:11Z" in later


def test_what_contradicts_a_moment_is_refused(day: Cli) -> None:
    """Following is about what comes, origins are not recorded."""
    for line in ("journal tail -f --as-of 20", "config show --origin --as-of 20"):
        ran = day(*line.split())
        assert (ran.status, ran.out) == (2, "")
        assert "code: usage_error" in ran.err


def test_the_configuration_of_then(tmp_path: Path) -> None:
    """What was adopted is shown from the journal, whatever the file says now."""
    from cli_world import build

    from palyra.events.base import Draft
    from palyra.events.config import ConfigAdopted

    world = given()
    for generation, port in ((2, 7001), (3, 7002)):
        adopted = ConfigAdopted(
            generation=generation,
            digest="",
            effective={"daemon": {"port": port}},
            registry=world.state.catalog.registry,
        )
        world.record([Draft("config", adopted)])
    build(tmp_path / "state", world)
    cli = Cli(tmp_path / "state", world.now_us)
    shown = cli("config", "show", "--as-of", str(len(world.history) - 1))
    assert shown.out.startswith("\n[daemon]\nport = 7001\n")
    first = cli("config", "show", "--as-of", "boot", "--json").data
    assert (first["effective"], first["generation"]) == ({}, 0)
    assert "No configuration was adopted yet." in cli("config", "show", "--as-of", "boot").out


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("line", [line for line in READING if line not in ("journal show 1", "config show")])
def test_a_page_of_the_past_fits_its_terminal(line: str, columns: int, day: Cli) -> None:
    """No line is wider than the terminal, and nothing that was recorded commands it."""
    ran = day(*line.split(), "--as-of", "40", columns=columns)
    plain = _ESCAPES.sub("", ran.out)
    assert max(map(len, plain.splitlines())) <= columns
    assert not set(plain) & set("\x1b\x07\x9b\u202e\r")


def test_reading_the_past_changes_no_byte(day: Cli) -> None:
    """Every file stays as it was, and none is made."""

    def digests() -> dict[str, str]:
        files = [file for file in day.state_dir.iterdir() if file.is_file()]
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    before = digests()
    for line in READING:
        day(*line.split(), "--as-of", str(MIDDLE))
    assert digests() == before


async def test_the_past_beside_a_live_writer(tmp_path: Path) -> None:
    """An answer about the past is the same document before and after the journal has grown."""
    world = given()
    journal = await SqliteJournal.open(tmp_path / "journal.db", new_journal_id=JOURNAL_ID, now_us=world.now_us)
    world.do(serve("01KONE"))
    await journal.append([to_row(recorded) for recorded in world.history])
    cli, known = Cli(tmp_path, world.now_us), len(world.history)
    lines = [["status"], ["runs", "list"], ["explain", "last", "--state"], ["journal", "tail"]]
    before = [cli(*line, "--as-of", str(known), "--json").document for line in lines]
    world.do(serve("01KTWO"), adopt(world.state.catalog.registry), serve("01KTHREE"))
    await journal.append([to_row(recorded) for recorded in world.history[known:]])
    assert [cli(*line, "--as-of", str(known), "--json").document for line in lines] == before
    assert cli("runs", "list", "--json").data["items"][0]["run_id"] == "01KTWO"
    await journal.close()


def test_what_a_decision_saw(day: Cli) -> None:
    """--state adds the fold right before the run: circuits, health, failures, calibration, what was open."""
    shown = day("explain", "01KF", "--state").out
    assert "What the decision saw\n  position 35 · generation 1 · 0 open runs\n" in shown
    assert re.search(r"^  openai / gpt +unavailable +open, trial in 27 s +2 of 2 +1.00 to 1.29$", shown, re.M)
    seen = day("explain", "01KF", "--state", "--json").data["seen"]
    assert [one["provider_id"] for one in seen["candidates"]] == ["groq", "openai", "local"]
    assert seen["candidates"][1]["circuit"] == "open"
    assert day("explain", "01KF", "--json").data["seen"] is None
    assert "No candidate was looked at." in day("explain", "01KE", "--state").out


def test_the_topic_names_every_form() -> None:
    """`palyra help as-of` tells each form, and the commands that it speaks of are those that have the option."""
    topic = topic_text("as-of")
    for form in (
        "12345 ",
        "2026-11-20T10:00:00Z",
        "2026-11-20T10:00 ",
        "2026-11-20 ",
        "-90m",
        "run:ID",
        "boot",
        "12345@",
    ):
        assert f"--as-of {form}" in topic
    for line in READING:
        command: click.Command = program
        for word in line.split()[:2]:
            if isinstance(command, click.Group):
                command = command.get_command(click.Context(command), word)  # type: ignore[assignment]
        assert "--as-of" in {name for parameter in command.params for name in parameter.opts}
