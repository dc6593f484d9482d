"""`palyra.open_journal`: every event and every moment of a file, which stays as it is."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from embedding_host import ask
from journals import JOURNAL_ID, write_journal
from story import T0_US, World, admit, given, serve, start

import palyra
from palyra.engine.codec import to_row
from palyra.errors import JournalDamaged, JournalError, JournalNewer, JournalUnreadable
from palyra.events.runs import RunAdmitted
from palyra.journal.port import Row
from palyra.projections.state import State, encode_state, evolve

SERVED, OPEN = "01KA", "01KB"


def strange(position: int, name: str, body: bytes) -> Row:
    """Return a row that this release does not understand."""
    return Row(position, "strange", 1, name, 1, T0_US, "system:test", "", 0, "", body)


@pytest.fixture
def world() -> World:
    return given(None, serve(SERVED), admit(OPEN), start(OPEN))


@pytest.fixture
def path(tmp_path: Path, world: World) -> Path:
    """A closed journal that holds the world's history."""
    directory = tmp_path / "state"
    directory.mkdir()
    asyncio.run(write_journal(directory / "journal.db", world.history))
    return directory / "journal.db"


def test_every_event_comes_in_order(path: Path, world: World) -> None:
    """Iterating gives the history as it was recorded: typed facts under their names."""
    with palyra.open_journal(path) as journal:
        assert list(journal) == world.history
        assert list(journal) == world.history, "again, from the beginning"
        assert [recorded.name for recorded in journal] == [to_row(recorded).name for recorded in world.history]
        assert len(journal) == journal.head.position == len(world.history)
        assert journal.journal_id == JOURNAL_ID
        admitted = [recorded for recorded in journal if recorded.name == "run.admitted"]
        assert [recorded.stream for recorded in admitted] == [f"run-{SERVED}", f"run-{OPEN}"]
        assert isinstance(admitted[0].body, RunAdmitted)


def test_the_directory_will_do(path: Path, world: World) -> None:
    """The state directory leads to the journal in it; text is as good as a path."""
    with palyra.open_journal(str(path.parent)) as journal:
        assert journal.path == path
        assert len(journal) == len(world.history)


def test_events_by_position(path: Path, world: World) -> None:
    """From 1 to the head; there is nothing at any other place."""
    with palyra.open_journal(path) as journal:
        assert [journal[position] for position in range(1, len(journal) + 1)] == world.history
        for position in (0, -1, len(journal) + 1):
            with pytest.raises(JournalError, match="There is no position") as caught:
                _ = journal[position]
            assert caught.value.code == "position_not_found"


def test_what_was_true_at_any_position(path: Path, world: World) -> None:
    """A state is the fold of the events up to there; the head's by default, and the empty one at 0."""
    state = State()
    with palyra.open_journal(path) as journal:
        assert encode_state(journal.state_at(0)) == encode_state(state)
        for recorded in world.history:
            evolve(state, recorded)
            assert encode_state(journal.state_at(recorded.position)) == encode_state(state)
        assert encode_state(journal.state_at()) == encode_state(state)
        for position in (-1, len(journal) + 1):
            with pytest.raises(JournalError, match="There is no position"):
                journal.state_at(position)


def test_one_run_as_its_events_tell_it(path: Path) -> None:
    """Attempts and usage of a run that ended, and of one that has not; a pattern is the name of no run."""
    with palyra.open_journal(path) as journal:
        served = journal.run(SERVED)
        assert (served.state, len(served.attempts)) == ("completed", 1)
        assert served.usage.input_tokens > 0
        assert journal.run(OPEN).state == "open"
        for name in ("01KNONE", "*", ""):
            with pytest.raises(JournalError, match="There is no run") as caught:
                journal.run(name)
            assert caught.value.code == "run_not_found"


def test_a_report_without_a_command(path: Path) -> None:
    """The rows of `palyra usage report`, as they are read; what cannot be asked for is refused at once."""
    with palyra.open_journal(path) as journal:
        (whole,) = journal.report()
        by_model = list(journal.report(group_by=["model"]))
        assert whole["runs"] == sum(row["runs"] for row in by_model) > 0
        (model,) = {row["model_id"] for row in by_model if row["model_id"]}
        (narrowed,) = journal.report(model_id=model)
        assert narrowed["input_tokens"] == whole["input_tokens"]
        assert [row["run_id"] for row in journal.report("runs")] == [SERVED, OPEN]
        with pytest.raises(palyra.PalyraError, match="'colour' is nothing to group by"):
            journal.report(group_by=["colour"])
        with pytest.raises(TypeError):
            journal.report(modle_id=model)


def test_nothing_is_written(path: Path) -> None:
    """After every kind of question the directory holds the same files with the same bytes."""

    def files() -> dict[str, str]:
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.parent.iterdir()}

    before = files()
    with palyra.open_journal(path) as journal:
        assert [*journal, journal[1], journal.state_at(), journal.run(SERVED)]
        assert files() == before
    assert files() == before


async def test_beside_a_live_daemon(tmp_path: Path) -> None:
    """It hinders nobody, and what is appended meanwhile is there for the next question."""
    async with palyra.Daemon(state_dir=tmp_path / "state") as daemon:
        with palyra.open_journal(daemon.paths.journal) as journal:
            before = len(journal)
            reading = iter(journal)
            next(reading)
            assert (await ask(daemon)).status == 200
            assert len(journal) > before
            assert len(list(reading)) == before - 1, "an iteration ends at the head that it began with"
            assert list(journal)[-1].name == "run.completed"


def test_events_of_a_newer_release_are_listed_but_not_understood(path: Path, world: World, tmp_path: Path) -> None:
    """They come as `UnknownEvent`; a state that would need them is refused, one before them is not."""
    position = len(world.history) + 1
    newer = tmp_path / "newer.db"
    asyncio.run(write_journal(newer, world.history, strange(position, "moon.rose", b'{"phase":"full"}')))
    with palyra.open_journal(newer) as journal:
        rose = journal[position]
        assert rose.name == "moon.rose"
        assert rose.body == palyra.UnknownEvent(name="moon.rose", schema=1, body={"phase": "full"})
        assert list(journal)[-1] == rose
        assert journal.state_at(position - 1).position == position - 1
        with pytest.raises(JournalNewer):
            journal.state_at()


def test_a_body_that_is_no_fact_is_damage(path: Path, world: World, tmp_path: Path) -> None:
    """The error names the position; what comes before it can be read."""
    position = len(world.history) + 1
    damaged = tmp_path / "damaged.db"
    asyncio.run(write_journal(damaged, world.history, strange(position, "run.admitted", b"{}")))
    with palyra.open_journal(damaged) as journal:
        assert journal[position - 1] == world.history[-1]
        with pytest.raises(JournalDamaged, match=f"position {position} "):
            _ = journal[position]


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    """At once, when it is opened."""
    with pytest.raises(JournalUnreadable, match="There is no journal"):
        palyra.open_journal(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("no database, but long enough to have a header of one" * 100)
    with pytest.raises(JournalError):
        palyra.open_journal(tmp_path / "text.db")


def test_closed_is_closed(path: Path) -> None:
    """Closing twice is nothing; asking afterwards is a mistake."""
    journal = palyra.open_journal(path)
    journal.close()
    journal.close()
    for ask_it in (lambda: len(journal), lambda: list(journal), lambda: journal[1], journal.state_at):
        with pytest.raises(ValueError, match="closed"):
            ask_it()
