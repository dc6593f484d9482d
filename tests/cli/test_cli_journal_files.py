"""Copies of a journal and what is made of them: export, import, backup, restore, branch, accepted forks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from cli_world import FAILED_OVER, JOURNAL_ID, Cli
from story import given

from palyra.app import Daemon
from palyra.config.load import load_config
from palyra.config.state import StatePaths
from palyra.engine.codec import to_row
from palyra.engine.offline import take_lock
from palyra.engine.replay import fold_file
from palyra.journal.reader import JournalReader
from palyra.journal.sqlite import SqliteJournal


@pytest.fixture
def copied(day: Cli, tmp_path: Path) -> Cli:
    """The day's state, to be changed."""
    shutil.copytree(day.state_dir, tmp_path / "state")
    return Cli(tmp_path / "state", day.now_us, day.head)


def _tamper(cli: Cli, statement: str) -> None:
    """Do what the guards forbid; they are put back afterwards."""
    with contextlib.closing(sqlite3.connect(cli.state_dir / "journal.db", isolation_level=None)) as connection:
        guards = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in guards:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement)
        for _, sql in guards:
            connection.execute(sql)


def _at(cli: Cli, directory: Path) -> Cli:
    return Cli(directory, cli.now_us, cli.head)


def _link(directory: Path, position: int) -> bytes | None:
    with JournalReader(directory / "journal.db") as reader:
        return reader.link(position)


def _contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def _modes(directory: Path) -> set[str]:
    return {oct(path.stat().st_mode & 0o77) for path in (directory, *directory.rglob("*"))}


def test_export_and_import_are_a_round_trip(copied: Cli, tmp_path: Path) -> None:
    """The imported state has the same head link and the same fold, answers, and exports the same file."""
    before = _contents(copied.state_dir)
    file, other = tmp_path / "journal.jsonl", tmp_path / "other"
    ran = copied("journal", "export", "-o", str(file), "--json")
    assert (ran.status, ran.err) == (0, "")
    assert ran.data["footer"]["count"] == copied.head
    assert copied("journal", "export").out == file.read_text()
    assert _contents(copied.state_dir) == before, "an export only reads"
    ran = copied("journal", "import", str(file), "--into", str(other), "--json", is_placed=False)
    assert (ran.status, ran.err) == (0, "")
    assert ran.data["link"] == copied("journal", "status", "--json").data["link"]
    again = _at(copied, other)
    assert again("journal", "verify", "--replay").status == 0
    assert "witness     position" in again("journal", "status").out
    assert again("journal", "export").out == file.read_text()
    assert _modes(other) == {"0o0"}
    assert fold_file(other / "journal.db").state == fold_file(copied.state_dir / "journal.db").state
    shown = copied("journal", "export", "-o", str(file), "--from", "3", "--to", "9").out
    assert "7 · up to position 9 · in part, not to be imported" in shown


def test_exports_of_some_events(copied: Cli) -> None:
    """Names, streams and runs choose; such an export says that it is partial."""
    header, *events, footer = map(json.loads, copied("journal", "export", "--run", "01KB").out.splitlines())
    assert (header["partial"], footer["count"]) == (True, len(events))
    assert {event["stream"] for event in events} == {f"run-{FAILED_OVER}"}
    events = copied("journal", "export", "--names", "usage.*", "--stream", "run-*").out.splitlines()[1:-1]
    assert {json.loads(event)["name"] for event in events} == {"usage.recorded"}
    assert copied("journal", "export", "--from", "9", "--to", "5").status == 2
    assert copied("journal", "export", "--from", "9999").status == 8
    assert copied("journal", "export", "--json").document["error"]["code"] == "usage_error"
    assert copied("journal", "export", "-o", "/nowhere/at/all").status == 2


def test_imports_that_are_refused(copied: Cli, tmp_path: Path) -> None:
    """A changed line is named, a partial export and a directory in use are refused, and nothing is made."""
    file, other = tmp_path / "journal.jsonl", tmp_path / "other"
    copied("journal", "export", "-o", str(file))
    lines = file.read_bytes().splitlines(keepends=True)
    lines[11] = (
        lines[11].replace(b"key:0123456789AB", b"key:0123456789AC").replace(b"system:daemon", b"system:demon")
    )
    file.write_bytes(b"".join(lines))
    ran = copied("journal", "import", str(file), "--into", str(other))
    assert (ran.status, ran.err.splitlines()[-1]) == (2, "code: import_damaged · exit 2")
    assert ran.err.startswith("error: Line 12 ")
    copied("journal", "export", "--names", "run.*", "-o", str(file))
    ran = copied("journal", "import", str(file), "--into", str(other))
    assert (ran.status, ran.err.splitlines()[-1]) == (2, "code: import_partial · exit 2")
    assert not other.exists()
    ran = copied("journal", "import", str(file), "--into", str(copied.state_dir))
    assert (ran.status, ran.err.splitlines()[-1]) == (2, "code: bad_path · exit 2")


def test_a_backup_stands_below_the_state_or_where_it_is_wanted(copied: Cli, tmp_path: Path) -> None:
    """Journal and witness, no key unless it is asked for, and the configuration where there is one."""
    ran = copied("journal", "backup", "--json")
    assert (ran.status, ran.err) == (0, "")
    made = Path(ran.data["directory"])
    assert made.parent == copied.state_dir / "backups"
    assert ran.data["manifest"]["journal_id"] == JOURNAL_ID
    assert [file["name"] for file in ran.data["manifest"]["files"]] == ["journal.db", "journal.head"]
    assert _modes(made) == {"0o0"}
    config = tmp_path / "mine.toml"
    config.write_text("version = 1\n")
    config.chmod(0o600)
    shown = copied("journal", "backup", str(tmp_path / "b"), "--with-key", "--config", str(config)).out
    assert f"head    position {copied.head} · verified" in shown
    names = {path.name for path in (tmp_path / "b").iterdir()}
    assert names == {*("client.key", "journal.db", "journal.head", "manifest.json", "palyra.toml", "vault.key")}
    assert copied("journal", "backup", str(tmp_path / "b")).status == 2
    _tamper(copied, "UPDATE event SET actor = 'nobody' WHERE position = 5")
    ran = copied("journal", "backup", str(tmp_path / "c"))
    assert (ran.status, ran.err.splitlines()[-1]) == (7, "code: journal_damaged · exit 7")
    assert not (tmp_path / "c").exists()


def _older_backup(cli: Cli, tmp_path: Path, at: int) -> Path:
    """Return a backup of the state as it was at a position, without its keys."""
    older, target = tmp_path / "older", tmp_path / "backup"
    shutil.copytree(cli.state_dir, older)
    (older / "journal.head").unlink()
    _tamper(_at(cli, older), f"DELETE FROM event WHERE position > {at}")
    assert _at(cli, older)("journal", "backup", str(target)).status == 0
    return target


def test_restoring_an_older_backup_states_the_loss_and_keeps_what_was_there(copied: Cli, tmp_path: Path) -> None:
    """Without --replace and --accept-loss it is refused with exact figures; with them the journal tells of it."""
    at = 20
    backup, link = _older_backup(copied, tmp_path, at), _link(copied.state_dir, at)
    with JournalReader(copied.state_dir / "journal.db") as reader:
        runs = sum(len(rows) for rows in reader.rows(at, names=["run.admitted"]))
    before, siblings = _contents(copied.state_dir), len(list(tmp_path.iterdir()))
    ran = copied("journal", "restore", str(backup))
    assert (ran.status, ran.err.splitlines()[-1]) == (7, "code: conflict · exit 7")
    assert "--replace" in ran.err
    ran = copied("journal", "restore", str(backup), "--replace")
    assert ran.status == 7
    lost = f"{copied.head - at} events that the backup does not have, {runs} of them requests that were let in"
    assert lost in ran.err
    assert {**_contents(copied.state_dir), "journal.lock": b""} == {**before, "journal.lock": b""}
    assert len(list(tmp_path.iterdir())) == siblings, "a refusal leaves nothing behind"
    (copied.state_dir / "log").mkdir(mode=0o700)
    ran = copied("journal", "restore", str(backup), "--replace", "--accept-loss", "--json")
    assert (ran.status, ran.err) == (0, "")
    assert ran.data == {
        "journal_id": JOURNAL_ID,
        "position": at,
        "head_position": at + 2,
        "replaced_position": copied.head,
        "lost_events_count": copied.head - at,
        "lost_runs_count": runs,
        "replaced_directory": ran.data["replaced_directory"],
    }
    replaced = Path(ran.data["replaced_directory"])
    assert replaced.parent == tmp_path
    assert {**_contents(replaced), "journal.lock": b""} == {**before, "journal.lock": b""}
    assert copied("journal", "verify", "--replay").status == 0
    assert "agrees" in copied("journal", "status").out
    assert _link(copied.state_dir, at) == link
    journal = fold_file(copied.state_dir / "journal.db").state.journal
    assert [(fork.kind, fork.before, fork.after) for fork in journal.forks] == [("restore", copied.head, at)]
    assert [(one.position, one.backup_position) for one in journal.restores] == [(at + 2, at)]
    assert (copied.state_dir / "log").is_dir()
    assert (copied.state_dir / "client.key").read_bytes() == before["client.key"], "keys go on with the state"


def test_restoring_where_nothing_is_lost(copied: Cli, tmp_path: Path) -> None:
    """On a machine without a state, and over one that knows no more, there is no fork."""
    backup = tmp_path / "backup"
    copied("journal", "backup", str(backup), "--with-key")
    fresh = _at(copied, tmp_path / "far" / "state")
    assert fresh("journal", "restore", str(backup)).status == 0
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["state"]
    assert fresh("journal", "verify", "--replay").status == 0
    assert "agrees\n" in fresh("journal", "status").out, "the witness is signed again"
    shown = copied("journal", "restore", str(backup), "--replace").out
    assert "left behind  0 events, 0 runs\n" in shown
    for cli in (fresh, copied):
        journal = fold_file(cli.state_dir / "journal.db").state.journal
        assert (journal.forks, len(journal.restores)) == ([], 1)


def test_a_state_that_cannot_be_compared_is_not_replaced_unasked(copied: Cli, tmp_path: Path) -> None:
    """Another journal is all lost; one that cannot be read is lost in an unknown amount."""
    backup = tmp_path / "backup"
    copied("journal", "backup", str(backup))
    other = _at(copied, tmp_path / "other")
    asyncio.run(_write_other(other.state_dir))
    ran = other("journal", "restore", str(backup), "--replace")
    assert (ran.status, "has 3 events" in ran.err) == (7, True)
    (copied.state_dir / "journal.db").write_bytes(b"nothing that SQLite knows" * 100)
    ran = copied("journal", "restore", str(backup), "--replace")
    assert (ran.status, "is not known" in ran.err) == (7, True)
    shown = copied("journal", "restore", str(backup), "--replace", "--accept-loss").out
    assert "left behind  unknown, the journal cannot be read" in shown
    assert copied("journal", "verify").status == 0


async def _write_other(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    journal = await SqliteJournal.open(directory / "journal.db", new_journal_id="01OTHER", now_us=1)
    await journal.append([to_row(recorded) for recorded in given().history])
    await journal.close()


def test_a_branch_goes_its_own_way(copied: Cli, tmp_path: Path) -> None:
    """Its rows are the journal's up to the position, it holds no secret of it, and its configuration is good."""
    before, directory = _contents(copied.state_dir), tmp_path / "branch"
    ran = copied("journal", "branch", "--at", "30", str(directory), "--json")
    assert (ran.status, ran.err) == (0, "")
    assert (ran.data["position"], ran.data["source_position"], ran.data["head_position"]) == (30, copied.head, 31)
    assert _contents(copied.state_dir) == before, "the source was only read"
    assert _modes(directory) == {"0o0"}
    assert {path.name for path in directory.iterdir()} == {
        *("journal.db", "journal.head", "journal.lock", "palyra.toml", "vault.key")
    }
    assert (directory / "vault.key").read_bytes() != before["vault.key"]
    assert _link(directory, 30) == _link(copied.state_dir, 30)
    branch = _at(copied, directory)
    assert branch("journal", "verify", "--replay").status == 0
    forks = fold_file(directory / "journal.db").state.journal.forks
    assert [(fork.kind, fork.before, fork.after) for fork in forks] == [("branch", copied.head, 30)]
    loaded = load_config({}, config_file=ran.data["config_file"]).config
    assert loaded.daemon.state_dir == str(directory)
    assert {provider.kind for provider in loaded.model_provider.registry.providers} == {"deterministic"}
    assert copied("journal", "branch", "--at", "30", str(directory)).status == 2
    assert copied("journal", "branch", "--at", "9999", str(tmp_path / "b")).status == 8
    assert copied("journal", "branch", "--at", "0", str(tmp_path / "empty")).status == 0
    _tamper(copied, "UPDATE event SET actor = 'nobody' WHERE position = 25")
    ran = copied("journal", "branch", "--at", "30", str(tmp_path / "b"))
    assert (ran.status, "hint: --at 24 keeps what is sound" in ran.err) == (7, True)
    assert not (tmp_path / "b").exists()


async def test_what_was_made_of_a_journal_can_be_served(copied: Cli, tmp_path: Path) -> None:
    """A daemon comes up over a branch and over a restored backup without its keys, and goes on writing."""
    await asyncio.to_thread(copied, "journal", "branch", "--at", "30", str(tmp_path / "branch"))
    await asyncio.to_thread(copied, "journal", "backup", str(tmp_path / "backup"))
    restored = _at(copied, tmp_path / "restored")
    await asyncio.to_thread(restored, "journal", "restore", str(tmp_path / "backup"))
    config_file = str(tmp_path / "branch" / "palyra.toml")
    for directory, sets in (
        (tmp_path / "branch", []),
        (restored.state_dir, [f'daemon.state_dir="{tmp_path}/restored"']),
    ):
        async with Daemon(load_config({}, config_file=config_file, sets=sets), environ={}) as daemon:
            assert daemon.paths.directory == directory
            assert daemon.core.is_writable
        ran = await asyncio.to_thread(_at(copied, directory), "journal", "verify", "--replay")
        assert ran.status == 0


@pytest.mark.parametrize(
    ("statement", "at"),
    [
        ("UPDATE event SET actor = 'nobody' WHERE position = 41", 40),
        ("DELETE FROM event WHERE position > 40", 40),
        ("DELETE FROM event WHERE position > 40", 17),
    ],
)
def test_a_fork_is_accepted_and_nothing_is_cut(copied: Cli, statement: str, at: int) -> None:
    """A damaged or shortened journal goes on from a sound position; the file as it was lies beside it."""
    _tamper(copied, statement)
    before = _contents(copied.state_dir)
    assert copied("journal", "verify").status == 7
    ran = copied("journal", "accept-fork", "--at", str(at), "--reason", "a broken disk", "--json")
    assert (ran.status, ran.err) == (0, "")
    assert (ran.data["position"], ran.data["lost_events_count"]) == (at, copied.head - at)
    kept = _contents(Path(ran.data["replaced_directory"]))
    assert {**kept, "journal.lock": b""} == {**before, "journal.lock": b""}
    assert copied("journal", "verify", "--replay").status == 0
    assert "agrees\n" in copied("journal", "status").out
    [fork] = fold_file(copied.state_dir / "journal.db").state.journal.forks
    assert (fork.kind, fork.before, fork.after) == ("accepted", copied.head, at)
    assert (fork.position, fork.reason) == (at + 1, "a broken disk")
    assert _contents(copied.state_dir)["vault.key"] == before["vault.key"]


def test_forks_that_are_not_accepted(copied: Cli) -> None:
    """A sound journal needs none; a position behind the damage or the end cannot be kept."""
    ran = copied("journal", "accept-fork", "--at", "5", "--reason", "x")
    assert (ran.status, "The journal is sound" in ran.err) == (7, True)
    _tamper(copied, "UPDATE event SET actor = 'nobody' WHERE position = 25")
    ran = copied("journal", "accept-fork", "--at", "30", "--reason", "x")
    assert (ran.status, "hint: --at 24 keeps what is sound" in ran.err) == (7, True)
    assert copied("journal", "accept-fork", "--at", "9999", "--reason", "x").status == 8
    assert [path.name for path in copied.state_dir.parent.iterdir()] == ["state"]


def test_a_state_in_use_is_not_replaced(copied: Cli, tmp_path: Path) -> None:
    """While somebody writes the journal, only what reads works."""
    copied("journal", "backup", str(tmp_path / "b"))
    with take_lock(StatePaths(copied.state_dir)):
        for line in (f"restore --replace {tmp_path / 'b'}", "accept-fork --at 5 --reason x"):
            ran = copied("journal", *line.split())
            assert (ran.status, ran.err.splitlines()[-1]) == (7, "code: journal_locked · exit 7")
        for line in (f"backup {tmp_path / 'c'}", f"branch --at 5 {tmp_path / 'd'}", f"export -o {tmp_path / 'e'}"):
            assert copied("journal", *line.split()).status == 0


#: Runs a command again and again in children that die at the n-th thing they do to a file, until one survives.
_KILLED = """
import os, shutil, sys
from pathlib import Path
from palyra.cli.main import main
import palyra.engine.restore, palyra.engine.forks, palyra.cli.journal_files, palyra.cli.progress, palyra.config.load

folder, line, count = Path(sys.argv[1]), sys.argv[2:], 0
while True:
    count += 1
    case = folder / str(count)
    shutil.copytree(folder / "original", case / "state")
    child = os.fork()
    if child == 0:
        seen = 0

        def die(event, arguments):
            global seen
            if event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "sqlite3.connect") or (
                event == "open" and str(case) in str(arguments[0])
            ):
                seen += 1
                if seen == count:
                    os._exit(9)

        sys.addaudithook(die)
        sys.stdout = sys.stderr = open(os.devnull, "w")
        os._exit(main([*line, "--state-dir", str(case / "state")]))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status)
    if status != 9:
        break
"""


@pytest.mark.parametrize("command", ["restore", "accept-fork"])
def test_a_kill_in_the_middle_leaves_the_old_state_or_the_new(copied: Cli, tmp_path: Path, command: str) -> None:
    """Wherever the process dies, the state is one of the two, whole; the old one is never gone."""
    folder = tmp_path / "killed"
    if command == "restore":
        backup = _older_backup(copied, tmp_path, 20)
        line = ["journal", "restore", "--replace", "--accept-loss", str(backup)]
    else:
        _tamper(copied, "DELETE FROM event WHERE position > 40")
        line = ["journal", "accept-fork", "--at", "40", "--reason", "x"]
    shutil.copytree(copied.state_dir, folder / "original")
    old = (folder / "original" / "journal.db").read_bytes()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PALYRA_")}
    ran = subprocess.run(
        [sys.executable, "-c", _KILLED, str(folder), *line],
        capture_output=True,
        text=True,
        env={**environ, "HOME": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        check=True,
    )
    statuses = [int(status) for status in ran.stdout.split()]
    assert statuses == [*[9] * (len(statuses) - 1), 0]
    outcomes = Counter[str]()
    for number in range(1, len(statuses) + 1):
        journals = list((folder / str(number)).glob("*/journal.db"))
        assert any(path.read_bytes() == old for path in journals), "the old journal is somewhere"
        state = folder / str(number) / "state"
        if (state / "journal.db").read_bytes() == old:
            outcomes["old"] += 1
        else:
            assert _at(copied, state)("journal", "verify").status == 0
            outcomes["new"] += 1
    print(f"{command} killed at {len(statuses) - 1} places: {dict(outcomes)}")
    assert outcomes.keys() == {"old", "new"}
