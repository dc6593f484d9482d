"""The stall watch: who has been silent for too long, what that opens and resolves, when to look again."""

from __future__ import annotations

from typing import Any

import pytest
from registries import THREE
from story import T0_US, Outcome, Step, World, admit, boot, cancel, given, record, start, wait

from palyra.decisions.incidents import RUN_STALLS_AFTER_MS, Stall, judge, report, resolve, stalls_after_ms
from palyra.events.heartbeats import HeartbeatCleared, HeartbeatRecorded
from palyra.events.incidents import (
    IncidentOpened,
    IncidentReopened,
    IncidentResolved,
    IncidentSeverityChanged,
)
from palyra.events.loops import LoopCrashed, LoopRestarted
from palyra.projections.incidents import open_incidents
from palyra.units import US_PER_MS

PATIENCE_MS = RUN_STALLS_AFTER_MS


def beat(work_kind: Any = "loop", work_id: str = "keeper", stalls_after_ms: int = 10_000) -> Step:
    fact = HeartbeatRecorded(work_kind=work_kind, work_id=work_id, beat_no=1, stalls_after_ms=stalls_after_ms)
    return record(f"beat-{work_kind}-{work_id}", fact)


def crash(loop_name: str = "keeper") -> Step:
    fact = LoopCrashed(boot_id="boot-1", loop_name=loop_name, error_code="KeyError", crashes_count=6, backoff_ms=1)
    return record("daemon", fact)


def restart(loop_name: str = "keeper") -> Step:
    return record("daemon", LoopRestarted(boot_id="boot-1", loop_name=loop_name))


def said(world: World) -> list[tuple[str, str, str]]:
    """Return the verdicts of this instant: kind, stage, subject."""
    return [(one.kind, one.stage, one.subject_id) for one in judge(world.state, world.now_us).verdicts]


def look(incident_id: str = "i1") -> Step:
    """Judge, and act on every verdict as the engine does."""

    def step(world: World) -> Outcome:
        recorded = []
        for stall in judge(world.state, world.now_us).verdicts:
            if stall.stage == "recovered":
                recorded += world.record(resolve(world.state, stall, now_us=world.now_us))
            else:
                recorded += world.record(report(world.state, stall, incident_id=incident_id, now_us=world.now_us))
        return Outcome(recorded=recorded)

    return step


def looks_next_ms(world: World) -> float | None:
    """Return how long after the story's beginning the next silence becomes too long."""
    deadline_us = judge(world.state, world.now_us).next_deadline_us
    return None if deadline_us is None else (deadline_us - T0_US) / US_PER_MS


def test_nothing_watched_is_nothing_said() -> None:
    """Without open work there is no verdict and no deadline."""
    world = given(THREE)
    assert said(world) == []
    assert looks_next_ms(world) is None


@pytest.mark.parametrize(
    ("silent_ms", "verdicts"),
    [
        (PATIENCE_MS, []),
        (PATIENCE_MS + 1, [("run_stalled", "suspect", "r1")]),
        (2 * PATIENCE_MS, [("run_stalled", "suspect", "r1")]),
        (2 * PATIENCE_MS + 1, [("run_stalled", "hung", "r1")]),
    ],
)
def test_a_silent_run_is_suspect_and_then_hung(silent_ms: int, verdicts: list[tuple[str, str, str]]) -> None:
    """Longer than its patience: suspect; longer than twice that: hung."""
    assert said(given(THREE, admit("r1"), wait(ms=silent_ms))) == verdicts


def test_a_run_with_an_attempt_may_be_silent_as_long_as_the_attempt_may_last() -> None:
    """The attempt's deadline and half a minute, where that is longer than the general patience."""
    world = given(THREE, admit("r1"))
    assert stalls_after_ms(world.run("r1")) == PATIENCE_MS
    world.do(start("r1"))
    assert stalls_after_ms(world.run("r1")) == 630_000
    assert stalls_after_ms(world.run("r1"), 1_000_000) == 1_000_000


def test_a_beat_is_a_sign_of_life() -> None:
    """The run's own beats count, and the verdict points to the last of them."""
    world = given(THREE, admit("r1"), wait(ms=100_000), beat("run", "r1"))
    position = world.state.position
    world.do(wait(ms=PATIENCE_MS))
    assert said(world) == []
    world.do(wait(ms=1))
    [verdict] = judge(world.state, world.now_us).verdicts
    assert verdict == Stall(
        kind="run_stalled", stage="suspect", subject_kind="run", subject_id="r1", because_positions=(position,)
    )


def test_a_loop_says_itself_how_long_it_may_be_silent() -> None:
    """Its beat names the time; configuration may overrule it, for runs and for loops."""
    world = given(THREE, beat(stalls_after_ms=40_000), admit("r1"), wait(ms=40_001))
    assert said(world) == [("loop_stalled", "suspect", "keeper")]
    assert judge(world.state, world.now_us, {"loop": 50_000}).verdicts == ()
    kinds = [one.kind for one in judge(world.state, world.now_us, {"loop": 50_000, "run": 40_000}).verdicts]
    assert kinds == ["run_stalled"]


def test_the_next_look_is_when_the_next_silence_becomes_too_long() -> None:
    """First suspect, then hung; work that is hung already asks for no further look."""
    world = given(THREE, admit("r1"), beat(stalls_after_ms=50_000))
    assert looks_next_ms(world) == 50_000.001
    world.do(wait(ms=50_001))
    assert looks_next_ms(world) == 100_000.001
    world.do(wait(ms=50_000))
    assert looks_next_ms(world) == 120_000.001


def test_a_suspect_run_opens_an_incident_once() -> None:
    """A warning; what the open incident says already is not said again."""
    world = given(THREE, admit("r1"), wait(ms=PATIENCE_MS + 1))
    told = world.when(look())
    told.then(IncidentOpened(kind="run_stalled", severity="warning", subject_kind="run", subject_id="r1"))
    assert told.outcome.recorded[0].stream == "incident-i1"
    world.do(wait(ms=1))
    world.when(look()).then()


def test_a_hung_run_makes_it_worse_once() -> None:
    """From warning to danger, and no further."""
    world = given(THREE, admit("r1"), wait(ms=PATIENCE_MS + 1), look(), wait(ms=PATIENCE_MS))
    world.when(look()).then(IncidentSeverityChanged(before="warning", after="danger", reason_code="hung"))
    world.do(wait(ms=PATIENCE_MS))
    world.when(look()).then()


def test_a_verdict_that_is_known_is_not_reported_again() -> None:
    """Two lookers that judged the same state record one incident."""
    world = given(THREE, admit("r1"), wait(ms=PATIENCE_MS + 1))
    [verdict] = judge(world.state, world.now_us).verdicts
    world.do(look())
    assert report(world.state, verdict, incident_id="i2", now_us=world.now_us) == []


def test_a_run_that_advances_has_recovered() -> None:
    """Its incident is resolved with the time it was open."""
    world = given(THREE, admit("r1"), wait(ms=PATIENCE_MS + 1), look(), wait(ms=7), start("r1"))
    world.when(look()).then(IncidentResolved(because="recovered", open_for_ms=7))
    world.when(look()).then()
    assert open_incidents(world.state) == []


def test_a_run_that_ended_is_gone() -> None:
    """Nothing is left that could be stalled."""
    world = given(THREE, admit("r1"), wait(ms=PATIENCE_MS + 1), look(), cancel("r1"))
    world.when(look()).then(IncidentResolved(because="subject_gone"))


def test_resolving_what_is_not_open_does_nothing() -> None:
    """Neither an unknown incident nor one that is resolved already."""
    stall = Stall(kind="run_stalled", stage="recovered", subject_kind="run", subject_id="r1")
    world = given(THREE, admit("r1"))
    assert resolve(world.state, stall, now_us=world.now_us) == []
    world.do(wait(ms=PATIENCE_MS + 1), look(), start("r1"), look())
    assert resolve(world.state, stall, now_us=world.now_us) == []


@pytest.mark.parametrize(("pause_ms", "is_same"), [(1_800_000, True), (1_800_001, False)])
def test_the_same_trouble_within_half_an_hour_is_the_same_incident(pause_ms: int, is_same: bool) -> None:
    """Later it is a new one, with an id of its own."""
    world = given(THREE, beat(stalls_after_ms=1_000), wait(ms=1_001), look("i1"), beat(), look())
    world.do(wait(ms=pause_ms))
    told = world.when(look("i2"))
    [recorded] = told.outcome.recorded
    if is_same:
        assert recorded.stream == "incident-i1"
        assert recorded.body == IncidentReopened(because_positions=[6], reopened_count=1)
    else:
        assert recorded.stream == "incident-i2"
        assert isinstance(recorded.body, IncidentOpened)


def test_a_stalled_loop_is_a_danger_from_the_start() -> None:
    """Hung says nothing new about it; a beat resolves it."""
    world = given(THREE, beat(stalls_after_ms=1_000), wait(ms=1_001))
    world.when(look()).then(
        IncidentOpened(
            kind="loop_stalled", severity="danger", subject_kind="loop", subject_id="keeper", because_positions=[4]
        )
    )
    world.do(wait(ms=5_000))
    world.when(look()).then()
    world.do(beat())
    world.when(look()).then(IncidentResolved(because="recovered", open_for_ms=5_000))


def test_a_loop_that_is_watched_no_more_is_well() -> None:
    """Cleared from the board, its incident is resolved."""
    cleared = HeartbeatCleared(work_kind="loop", work_id="keeper", because="ended")
    world = given(THREE, beat(stalls_after_ms=1_000), wait(ms=1_001), look(), record("beat-loop-keeper", cleared))
    world.when(look()).then(IncidentResolved(because="recovered"))


def down(loop_name: str = "keeper") -> Step:
    """Report that a loop has reached its intensity limit."""
    stall = Stall(kind="loop_down", stage="hung", subject_kind="loop", subject_id=loop_name)
    return lambda world: Outcome(
        recorded=world.record(report(world.state, stall, incident_id="i1", now_us=world.now_us))
    )


@pytest.mark.parametrize(("loop_name", "severity"), [("keeper", "danger"), ("watchdog", "critical")])
def test_a_loop_that_is_down_is_a_danger_and_the_watchdog_critical(loop_name: str, severity: Any) -> None:
    """Without the watchdog nobody would see the next stall."""
    given(THREE, crash(loop_name)).when(down(loop_name)).then(
        IncidentOpened(kind="loop_down", severity=severity, subject_kind="loop", subject_id=loop_name)
    )


def test_a_loop_is_well_again_a_minute_after_its_restart() -> None:
    """Not while it waits for its restart, nor right after it; the next look is at the full minute."""
    world = given(THREE, crash(), down(), wait(ms=100_000))
    assert said(world) == []
    assert looks_next_ms(world) is None
    world.do(restart(), wait(ms=59_999))
    assert said(world) == []
    assert looks_next_ms(world) == 160_000
    world.do(wait(ms=1))
    world.when(look()).then(IncidentResolved(because="recovered", open_for_ms=160_000))


def test_a_new_process_has_no_loop_that_is_down() -> None:
    """Nothing is known against its loops."""
    world = given(THREE, crash(), down(), boot())
    world.when(look()).then(IncidentResolved(because="recovered"))


def test_incidents_of_other_detectors_are_left_alone() -> None:
    """The stall watch resolves what it opened, and nothing else."""
    other = IncidentOpened(kind="provider_down", severity="danger", subject_kind="provider", subject_id="a")
    world = given(THREE, record("incident-x", other))
    world.when(look()).then()
