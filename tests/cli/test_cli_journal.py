"""`palyra journal`: events as they stand in the file, and whether the file is sound."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from cli_world import FAILED_OVER, JOURNAL_ID, OPEN, Cli
from story import given, serve

from palyra.config.state import StatePaths
from palyra.engine.codec import state_digest, to_row
from palyra.engine.offline import take_lock
from palyra.journal.lock import Holder
from palyra.journal.port import Snapshot
from palyra.journal.reader import JournalReader
from palyra.journal.snapshots import SnapshotFile
from palyra.journal.sqlite import SqliteJournal


def _events(cli: Cli, *arguments: str) -> list[dict[str, object]]:
    events: list[dict[str, object]] = cli("journal", "tail", *arguments, "--json").data["items"]
    return events


def test_tail_shows_the_newest(day: Cli) -> None:
    """The newest events come in order, as many as were asked for."""
    assert [event["position"] for event in _events(day, "-n", "3")] == [day.head - 2, day.head - 1, day.head]
    assert _events(day, "-n", "0") == []
    assert [event["position"] for event in _events(day, "-n", "1000")] == list(range(1, day.head + 1))
    line = day("journal", "tail", "-n", "1").out.splitlines()[0]
    assert line.startswith(f"{day.head:>7}  2027-01-15 08:01:10.550Z  heartbeat.recorded   beat-run-01KG")
    assert line.endswith("beat_no=1 stalls_after_ms=120000")


def test_tail_takes_patterns(day: Cli) -> None:
    """Names, streams and a run narrow it; several patterns widen it again."""
    names = {event["name"] for event in _events(day, "-n", "99", "--names", "attempt.*", "--names", "usage.*")}
    assert names == {
        *("attempt.started", "attempt.succeeded", "attempt.failed", "attempt.abandoned", "usage.recorded")
    }
    assert {event["stream"] for event in _events(day, "-n", "99", "--stream", "provider-*")} == {"provider-openai"}
    assert {event["stream"] for event in _events(day, "--run", "last")} == {f"run-{OPEN}"}
    both = _events(day, "-n", "99", "--run", "01KB", "--names", "attempt.started")
    assert [event["stream"] for event in both] == [f"run-{FAILED_OVER}"] * 3
    assert day("journal", "tail", "--run", "01Z").status == 8


async def test_following_goes_on_with_what_comes(tmp_path: Path) -> None:
    """-f prints what is there and then each event once, an object a line, until it is interrupted."""
    world = given()
    journal = await SqliteJournal.open(tmp_path / "journal.db", new_journal_id=JOURNAL_ID, now_us=1)
    await journal.append([to_row(recorded) for recorded in world.history])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "palyra", "journal", "tail", "-f", "-n", "1", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PALYRA_STATE_DIR": str(tmp_path)},
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    known = len(world.history)
    positions = [json.loads(await process.stdout.readline())["position"]]
    world.do(serve("01KLIVE"))
    await journal.append([to_row(recorded) for recorded in world.history[known:]])
    positions += [json.loads(await process.stdout.readline())["position"] for _ in world.history[known:]]
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (130, b"", b"")
    assert positions == list(range(known, len(world.history) + 1))
    await journal.close()


def test_show_takes_positions_and_streams(day: Cli) -> None:
    """A position, a stream and a stream's version lead to events, whole."""
    shown = day("journal", "show", "1").out
    for line in (
        "journal.created · position 1",
        "  stream    journal · version 1",
        "  by        system:daemon",
        '    "journal_id": "01STORY",',
    ):
        assert line in shown
    data = day("journal", "show", "daemon:1", "--json").data
    assert [row["event"]["name"] for row in data["items"]] == ["daemon.started"]
    assert len(data["items"][0]["link"]) == 64
    stream = day("journal", "show", f"run-{FAILED_OVER}", "--json").data["items"]
    assert [row["event"]["version"] for row in stream] == list(range(1, len(stream) + 1))
    assert day("journal", "show", f"run-{FAILED_OVER}").out.count("\n  recorded  ") == len(stream)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("1000", "The journal ends at position {head}."),
        ("0", "The journal ends at position {head}."),
        ("9" * 30, "The journal ends at position {head}."),
        ("nothing", "The journal has no stream 'nothing'."),
        ("run-*", "The journal has no stream 'run-*'."),
        ("daemon:99", "The stream 'daemon' ends at version 4."),
    ],
)
def test_show_of_what_is_not_there(name: str, said: str, day: Cli) -> None:
    """A position or stream that the journal does not have is not found."""
    ran = day("journal", "show", name)
    assert (ran.status, ran.out) == (8, "")
    assert ran.err.startswith(f"error: {said.format(head=day.head)}\n")
    assert day("journal", "show", name, "--json").document["error"]["code"] == "position_not_found"


def test_raw_is_byte_for_byte(day: Cli) -> None:
    """--raw prints what is stored, and cannot be a document as well."""
    with JournalReader(day.state_dir / "journal.db") as reader:
        row = reader.row(1)
    assert row is not None
    assert day("journal", "show", "1", "--raw").out.encode() == row.body + b"\n"
    ran = day("journal", "show", "1", "--raw", "--json")
    assert (ran.status, ran.document["error"]["code"]) == (2, "usage_error")


def test_status_of_the_file(day: Cli) -> None:
    """Head, witness, snapshots and the events by name."""
    shown = day("journal", "status").out
    for line in (
        f"witness     position {day.head} · 9 s ago · agrees",
        f"snapshots   1 · newest at {day.head // 2}",
        "attempt.started           8",
        f"growth      {day.head} events in the last 24 h",
    ):
        assert line in shown
    data = day("journal", "status", "--json").data
    assert data["witness"] == {"position": day.head, "at_us": data["last_event_us"], "findings": []}
    assert sum(name["events_count"] for name in data["names"]) == data["position"] == day.head


def test_a_sound_journal(day: Cli) -> None:
    """Verify says what it checked; --replay also what it folded."""
    assert f"is sound\n\nchecked  {day.head} rows · positions 1 to {day.head}\n" in day("journal", "verify").out
    assert f"folded   {day.head} events · compared with 1 snapshot" in day("journal", "verify", "--replay").out
    assert day("journal", "verify", "--from", "5", "--to", "9", "--json").data["rows_count"] == 5
    assert day("journal", "verify", "--quick", "--json").data["rows_count"] == 0


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--quick", "--from", "1"), 2),
        (("--from", "9", "--to", "5"), 2),
        (("--from", "0"), 2),
        (("--from", "1000"), 8),
    ],
)
def test_ranges_that_make_no_sense(arguments: tuple[str, ...], status: int, day: Cli) -> None:
    """A range that is turned around or behind the head is refused."""
    assert day("journal", "verify", *arguments).status == status


@pytest.fixture
def copied(day: Cli, tmp_path: Path) -> Cli:
    """The day's journal, to be damaged."""
    shutil.copytree(day.state_dir, tmp_path / "state")
    return Cli(tmp_path / "state", day.now_us, day.head)


def _tamper(cli: Cli, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(cli.state_dir / "journal.db", isolation_level=None)) as connection:
        guards = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in guards:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        for _, sql in guards:
            connection.execute(sql)


def test_damage_is_printed_whole_and_exits_7(copied: Cli) -> None:
    """A changed row is found; the report is complete, and then comes the error."""
    _tamper(copied, "UPDATE event SET actor = 'nobody' WHERE position = 5")
    ran = copied("journal", "verify")
    assert ran.status == 7
    assert "is damaged" in ran.out
    assert "critical: link_mismatch at position 5" in ran.out
    assert ran.err == (
        "error: The journal is damaged: 1 finding.\n"
        "hint: keep a copy of the state directory before anything else\n"
        "code: journal_damaged · exit 7\n"
    )
    ran = copied("journal", "verify", "--json")
    assert (ran.status, ran.err) == (7, "")
    document = ran.document
    assert (document["ok"], document["error"]["code"]) == (False, "journal_damaged")
    assert [finding["code"] for finding in document["data"]["findings"]] == ["link_mismatch"]


@pytest.mark.parametrize("line", ["status", "usage report", "usage verify", "runs list"])
def test_a_row_that_cannot_be_read_is_damage_and_no_bug(copied: Cli, line: str) -> None:
    """Whoever needs the row names it, and what to do next."""
    (position,) = (row["position"] for row in copied("journal", "tail", "-n", "1", "--json").data["items"])
    _tamper(copied, f"UPDATE event SET name = 'run.completed', body = '{{}}' WHERE position = {position}")
    (copied.state_dir / "snapshots.db").unlink()
    ran = copied(*line.split(), "--json")
    assert (ran.status, ran.document["error"]["code"]) == (7, "journal_damaged")
    assert f"position {position} holds no 'run.completed'" in ran.document["error"]["message"]


def test_a_verdict_on_record(copied: Cli) -> None:
    """`--record` writes what was found into the journal, whose status tells it; the witness is of the new head."""
    assert "verified    never on record" in copied("journal", "status").out
    assert f"recorded  at position {copied.head + 1}" in copied("journal", "verify", "--replay", "--record").out
    assert "sound" in copied("journal", "status").out
    shown = copied("journal", "show", str(copied.head + 1), "--json").data["items"][0]["event"]
    assert (shown["name"], shown["actor"]) == ("journal.verified", "operator:local")
    assert shown["body"] == {"first": 1, "last": copied.head, "replayed": True}
    assert copied("journal", "verify").status == 0
    _tamper(copied, "UPDATE event SET actor = 'nobody' WHERE position = 5")
    ran = copied("journal", "verify", "--record", "--json")
    assert (ran.status, ran.data["recorded_position"]) == (7, copied.head + 2)
    assert copied("journal", "status", "--json").data["checked_sound"] is False


def test_a_verdict_is_not_written_over_what_was_cut(copied: Cli) -> None:
    """Behind a cut tail a fact would take the position of one that was acknowledged."""
    _tamper(copied, "DELETE FROM event WHERE position > 40")
    ran = copied("journal", "verify", "--record", "--json")
    assert (ran.status, ran.data["recorded_position"], ran.data["head_position"]) == (7, None, 40)
    assert copied("journal", "verify", "--json").data["head_position"] == 40


def test_a_verdict_without_a_way_to_the_writer(copied: Cli) -> None:
    """Only its one writer may add to a journal; checking it is free."""
    with take_lock(StatePaths(copied.state_dir)) as lock:
        lock.describe(Holder(pid=1, release="1", started_at_us=1, http="http://127.0.0.1:7142"))
        ran = copied("journal", "verify", "--record")
        assert ran.status == 4
        assert "no control socket" in ran.err
        assert copied("journal", "verify", "--replay").status == 0


def test_a_cut_tail_is_found_by_the_witness(copied: Cli) -> None:
    """Rows that are gone at the end are missed by the note of the head, also quickly."""
    _tamper(copied, "DELETE FROM event WHERE position > 40")
    for arguments in ((), ("--quick",)):
        assert "tail_cut" in copied("journal", "verify", *arguments).out
    assert "tail_cut" in copied("journal", "status").out


def test_witnesses_that_do_not_vouch(copied: Cli) -> None:
    """A note without its key agrees with less weight; a missing or unreadable one is a finding."""
    (copied.state_dir / "vault.key").unlink()
    assert "agrees, but its key is missing" in copied("journal", "status").out
    assert copied("journal", "verify").status == 0
    (copied.state_dir / "journal.head").write_text("no note")
    assert "witness_mismatch" in copied("journal", "status").out
    (copied.state_dir / "journal.head").unlink()
    assert "witness_missing" in copied("journal", "status").out
    assert copied("journal", "verify", "--quick").status == 7


def test_a_fold_that_differs_is_named(copied: Cli) -> None:
    """A stored state that is not what the events say is found by position and chapter."""
    file = SnapshotFile(copied.state_dir / "snapshots.db")
    with JournalReader(copied.state_dir / "journal.db") as reader:
        kept = file.load(state_digest(), copied.head, reader.link)
    assert kept is not None
    wrong = kept.state.replace(b"01KSESSION", b"01KSESSIOM")
    assert wrong != kept.state
    file.save(Snapshot(kept.position, kept.link, kept.digest, wrong))
    ran = copied("journal", "verify", "--replay", "--json")
    assert ran.status == 7
    assert ran.data["replay"]["diverged_chapters"] == ["runs"]
    assert [finding["code"] for finding in ran.data["findings"]] == ["fold_divergence"]
    assert copied("journal", "verify").status == 0


def test_a_body_that_is_no_json_is_shown_as_such(copied: Cli) -> None:
    """Rows that cannot be read are listed all the same."""
    _tamper(copied, f"UPDATE event SET body = 'oops' WHERE position = {copied.head}")
    assert "(not readable)" in copied("journal", "tail", "-n", "1").out
    assert "the body is no JSON object" in copied("journal", "show", str(copied.head)).out
    assert copied("journal", "show", str(copied.head), "--json").data["items"][0]["event"]["body"] is None
    assert copied("journal", "show", str(copied.head), "--raw").out == "oops\n"


def test_a_file_that_is_no_journal(tmp_path: Path) -> None:
    """Something else under the journal's name is refused with a code, not a traceback."""
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "journal.db").write_text("not a database, but long enough to be taken for one" * 40)
    for line in ("status", "journal status", "journal verify", "runs list"):
        ran = Cli(tmp_path / "state", 1)(*line.split())
        assert (ran.status, ran.out) == (7, "")
        assert ran.err.startswith("error: ")
