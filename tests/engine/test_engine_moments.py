"""Earlier moments: how one is named, where it is, and that every way to its state gives the same bytes."""

from __future__ import annotations

import contextlib
import random
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from engine_fakes import T0_US, ManualClock, ScriptedProvider, cut, error, stream
from engine_world import Taker, World, fold, two
from hypothesis import given
from hypothesis import strategies as st

from palyra.engine.hindsight import seen_by
from palyra.engine.history import run_report
from palyra.engine.moments import AsOf, Moment, lock_then, parse_as_of, resolve_as_of
from palyra.engine.replay import fold_file
from palyra.errors import PalyraError
from palyra.events.base import Draft
from palyra.events.daemon import DaemonStarted, DaemonStopped
from palyra.journal.reader import JournalReader
from palyra.journal.snapshots import SNAPSHOTS_FILE, SnapshotFile
from palyra.journal.sqlite import SqliteJournal
from palyra.projections.state import State, encode_state

BERLIN = ZoneInfo("Europe/Berlin")
STARTED = DaemonStarted(boot_id="b", release="0", python="3", sqlite="3", config_generation=1, pid=7)


def us(*moment: int) -> int:
    """Return an instant in UTC."""
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * 1_000_000  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("12345", AsOf(position=12_345)),
        ("0", AsOf(position=0)),
        ("2026-11-20T10:00:00Z", AsOf(instant_us=us(2026, 11, 20, 10))),
        ("2026-11-20t10:00:00.25z", AsOf(instant_us=us(2026, 11, 20, 10) + 250_000)),
        ("2026-11-20T10:00Z", AsOf(instant_us=us(2026, 11, 20, 10))),
        ("2026-11-20 10:00:00+02:00", AsOf(instant_us=us(2026, 11, 20, 8))),
        ("2026-11-20T10:00:00", AsOf(instant_us=us(2026, 11, 20, 9))),
        ("2026-07-01T10:00", AsOf(instant_us=us(2026, 7, 1, 8))),
        ("2026-11-20", AsOf(instant_us=us(2026, 11, 19, 23))),
        ("-90m", AsOf(ago_us=5_400_000_000)),
        ("-2h", AsOf(ago_us=7_200_000_000)),
        ("-3d", AsOf(ago_us=259_200_000_000)),
        ("-0s", AsOf(ago_us=0)),
        ("run:01JD", AsOf(run="01JD")),
        ("run:last", AsOf(run="last")),
        ("boot", AsOf(is_boot=True)),
        ("12345@2026-11-20T10:00:00Z", AsOf(position=12_345, instant_us=us(2026, 11, 20, 10))),
    ],
)
def test_a_moment_can_be_said_in_many_ways(text: str, meant: AsOf) -> None:
    """A position, an instant with or without its offset, a day, a while ago, a run, the last start."""
    assert parse_as_of(text, BERLIN) == meant


@pytest.mark.parametrize(
    "text",
    [
        *["", "soon", "-5", "5m", "-1.5h", "run:", "12@", "@2026-11-20", "12@34", "boot@2026-11-20", "٣"],
        *[
            "2026-13-01",
            "2026-11-20T25:00Z",
            "20261120T1000",
            "2026-11-20T10",
            "2026-11-20Z",
            "0000-01-01",
            "1" * 19,
        ],
    ],
)
def test_what_means_no_moment_is_refused(text: str) -> None:
    """The message shows what was said, the hint what could be."""
    with pytest.raises(PalyraError) as caught:
        parse_as_of(text, BERLIN)
    assert caught.value.code == "usage_error"
    assert f"'{text}'" in str(caught.value)
    assert "12345@" in (caught.value.hint or "")


@given(st.text(max_size=30))
def test_any_text_means_a_moment_or_none(text: str) -> None:
    """Nothing that somebody writes is a bug."""
    with contextlib.suppress(PalyraError):
        assert parse_as_of(text, None) == parse_as_of(text, None)


@given(st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2200, 1, 1)))
def test_an_instant_is_exact(moment: datetime) -> None:
    """To the microsecond, and without an offset it is the configured zone's."""
    plain = moment.isoformat()
    assert parse_as_of(plain, UTC) == parse_as_of(f"{plain}Z", BERLIN)
    microseconds = parse_as_of(plain, UTC).instant_us or 0
    assert datetime.fromtimestamp(microseconds // 1_000_000, UTC).replace(
        microsecond=microseconds % 1_000_000
    ) == moment.replace(tzinfo=UTC)


async def write(path: Path, runs_count: int, *, every: int = 3) -> World:
    """Write runs of many kinds, a second apart, with a snapshot after every few of them."""
    journal = await SqliteJournal.open(path, new_journal_id="01TEST", now_us=T0_US)
    scripts = [error(500), error(400), stream("One ", "two", ending=(cut(),)), error(429, retry_after_ms="1")]
    fake = ScriptedProvider(*scripts * (runs_count // 4 + 1))
    clock = ManualClock(T0_US + 1_000_000)
    world = await World.make(
        two(max_retries=1), journal=journal, extra={"a": fake, "b": ScriptedProvider()}, clock=clock
    )
    await world.core.record([Draft("daemon", STARTED)])
    for number in range(runs_count):
        clock.pass_ms(1_000)
        streams = {"stream": True, "client": Taker()} if number % 2 else {}
        await world.chat(**streams, model="nobody" if number % 7 == 5 else "m")
        if number % every == 0:
            await world.core.snapshot()
    return world


def check_routes(path: Path, world: World, positions: list[int]) -> None:
    """At each position the state from a snapshot and that from the first event are the same bytes."""
    rows = world.rows()
    for position in positions:
        expected = encode_state(fold(rows[:position]))
        assert encode_state(fold_file(path, upto=position).state) == expected
        assert encode_state(fold_file(path, upto=position, use_snapshots=False).state) == expected


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_two_ways_to_a_state_give_the_same_bytes(tmp_path: Path, seed: int) -> None:
    """At random positions, with snapshots thinned as the log grew, beside a writer that goes on writing."""
    path = tmp_path / "journal.db"
    world = await write(path, 20 + seed, every=seed)
    dice = random.Random(seed)
    kept = SnapshotFile(path.with_name(SNAPSHOTS_FILE)).positions()
    assert 3 <= len(kept) < 20
    near = [position + step for position in kept for step in (-1, 0, 1)]
    check_routes(path, world, near)
    for _ in range(6):
        await world.chat()
        head = world.state.position
        check_routes(path, world, [dice.randint(0, head), head])
        await world.core.snapshot()
        check_routes(path, world, [dice.randint(0, head) for _ in range(4)])
    await world.close()


async def test_the_past_is_read_as_if_the_journal_ended_there(tmp_path: Path) -> None:
    """Head, rows, links, streams and counts of a bounded reader are those that a reader gave at that time."""
    path = tmp_path / "journal.db"
    world = await write(path, 6)
    rows = world.rows()
    middle = len(rows) // 2
    with JournalReader(path) as whole, JournalReader(path, upto=middle) as then:
        assert then.head() == (middle, whole.link(middle), rows[middle - 1].recorded_at_us)
        assert [row for found in then.rows() for row in found] == rows[:middle]
        assert [row for found in then.stream("*") for row in found] == rows[:middle]
        assert (then.row(middle), then.row(middle + 1)) == (rows[middle - 1], None)
        assert (then.link(middle), then.link(middle + 1)) == (whole.link(middle), None)
        assert then.position_at(2**62) == middle
        assert sum(size.events_count for size in then.sizes_by_name().values()) == middle
        last = rows[-1]
        assert whole.position_of(last.stream.encode(), last.version) == last.position
        assert then.position_of(last.stream.encode(), last.version) is None
    with JournalReader(path, upto=0) as nothing:
        assert nothing.head() == (0, nothing.link(0), nothing.created_at_us)
        assert list(nothing.rows()) == []
    await world.close()


async def test_moments_are_found(tmp_path: Path) -> None:
    """Each form leads to a position and to what is now there; what is not there is refused."""
    path = tmp_path / "journal.db"
    world = await write(path, 4)
    rows = world.rows()
    head, now_us = len(rows), rows[-1].recorded_at_us + 10_000_000
    runs = list(dict.fromkeys(row.stream[4:] for row in rows if row.stream.startswith("run-")))
    ends = {run: max(row.position for row in rows if row.stream == f"run-{run}") for run in runs}
    with JournalReader(path) as reader:

        def at(text: str) -> tuple[int, int]:
            moment = resolve_as_of(reader, parse_as_of(text, UTC), now_us)
            return moment.position, moment.as_of_us

        assert at("5") == (5, rows[4].recorded_at_us)
        assert at("0") == (0, T0_US)
        assert at(f"5@{_iso(now_us)}") == (5, now_us)
        assert at("-10s") == (head, now_us - 10_000_000)
        before = [row.position for row in rows if row.recorded_at_us <= now_us - 11_000_000]
        assert at("-11s") == (before[-1], now_us - 11_000_000)
        assert before[-1] < head
        assert at("-9d") == (0, now_us - 9 * 86_400_000_000)
        assert at(_iso(rows[-1].recorded_at_us)) == (head, rows[-1].recorded_at_us)
        assert at(f"run:{runs[0]}") == (ends[runs[0]], rows[ends[runs[0]] - 1].recorded_at_us)
        assert at("run:last") == at(f"run:{runs[-1]}")
        assert at("boot") == (2, rows[1].recorded_at_us)
        for text, code in (
            (str(head + 1), "position_not_found"),
            (_iso(now_us + 1), "as_of_in_future"),
            (f"5@{_iso(now_us + 1)}", "as_of_in_future"),
            ("run:01NONE", "run_not_found"),
        ):
            with pytest.raises(PalyraError) as caught:
                at(text)
            assert caught.value.code == code
    with JournalReader(path, upto=1) as early:
        for text, code in (("boot", "position_not_found"), ("run:last", "run_not_found")):
            with pytest.raises(PalyraError) as caught:
                resolve_as_of(early, parse_as_of(text, UTC), now_us)
            assert caught.value.code == code
        assert resolve_as_of(early, AsOf(position=1), now_us) == Moment(position=1, as_of_us=rows[0].recorded_at_us)
    await world.close()


def _iso(instant_us: int) -> str:
    whole = datetime.fromtimestamp(instant_us // 1_000_000, UTC).replace(tzinfo=None).isoformat()
    return f"{whole}.{instant_us % 1_000_000:06d}Z"


async def test_what_a_decision_saw_is_what_it_recorded(tmp_path: Path) -> None:
    """Health in the state before a run is the health in its plan, and circuits keep out what was kept out."""
    path = tmp_path / "journal.db"
    world = await write(path, 12)
    with JournalReader(path) as reader:
        runs = dict.fromkeys(row.stream[4:] for row in world.rows() if row.stream.startswith("run-"))
        for run_id in runs:
            report = run_report(reader, run_id, T0_US)
            before = fold_file(path, upto=report.first_position - 1).state
            seen = seen_by(before, report, report.admitted_us)
            assert (seen.position, seen.config_generation) == (report.first_position - 1, 1)
            planned = [] if report.routing is None else report.routing.plan
            left_out = [] if report.routing is None else report.routing.excluded
            assert [(one.provider_id, one.health) for one in seen.candidates[: len(planned)]] == [
                (one.provider_id, one.health) for one in planned
            ]
            for one, out in zip(seen.candidates[len(planned) :], left_out, strict=True):
                assert (one.circuit == "open") == (out.excluded_by == "circuit_open")
                assert (one.excluded_until_us is not None) == (out.excluded_by == "model_excluded")
    await world.close()


def test_who_wrote_then_is_told_by_the_log() -> None:
    """Before the first start nobody, after it a process, after a clean end nobody."""
    from palyra.events.base import Recorded
    from palyra.projections.state import evolve

    state = State()
    assert not lock_then(state).is_locked
    evolve(state, Recorded(1, "daemon", 1, 1, "", "", 0, "", STARTED))
    assert lock_then(state) == (True, None)
    evolve(state, Recorded(2, "daemon", 2, 2, "", "", 0, "", DaemonStopped(boot_id="b")))
    assert not lock_then(state).is_locked
