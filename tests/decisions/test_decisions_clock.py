"""The clock watch: what is a step, what a sleep; and that no decision is another because the clock was set."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st
from registries import model, provider, registry
from story import (
    T0_US,
    Outcome,
    Step,
    World,
    admission,
    admit,
    cancel,
    complete,
    fail,
    given,
    go_on,
    record,
    serve,
    start,
    succeed,
    wait,
)

from palyra.decisions.clock import STEP_MIN_US, Reading, step_between, step_while_away
from palyra.decisions.incidents import Stall, judge, report, resolve
from palyra.decisions.runs import admit as decide_admission
from palyra.events.attempts import AttemptFailed
from palyra.events.base import Draft
from palyra.events.daemon import DaemonClockStepped
from palyra.events.incidents import IncidentOpened, IncidentResolved
from palyra.events.loops import LoopCrashed, LoopRestarted
from palyra.events.runs import RunCompleted
from palyra.projections.circuits import circuit_of
from palyra.projections.health import health_of
from palyra.projections.runs import totals_of
from palyra.units import US_PER_MS, US_PER_S

DAY_MS = 24 * 3_600_000
CONFIG = registry(
    provider("a", circuit_breaker_failure_threshold=2, circuit_breaker_cooldown_ms=30_000, max_retries=1),
    provider("b", circuit_breaker_failure_threshold=3),
    model("gpt", "a"),
    model("gpt", "b", priority=200),
    run_timeout_ms=600_000,
)


def clock_stepped(ms: int, cause: str = "step", elapsed_ms: int = 0) -> Step:
    """Let the wall clock jump by so much, and say so."""

    def step(world: World) -> Outcome:
        before_us = world.now_us
        world.now_us += (ms + elapsed_ms) * US_PER_MS
        fact = DaemonClockStepped(
            cause=cause,  # type: ignore[arg-type]
            wall_before_us=before_us,
            wall_after_us=world.now_us,
            monotonic_elapsed_us=elapsed_ms * US_PER_MS,
        )
        return Outcome(recorded=world.record([Draft("daemon", fact)]))

    return step


def reading(wall_s: int, monotonic_s: int, asleep_s: int = 0) -> Reading:
    return Reading(wall_s * US_PER_S, monotonic_s * US_PER_S, asleep_s * US_PER_S)


@pytest.mark.parametrize(
    ("after", "cause"),
    [
        (reading(1_015, 15), None),
        (reading(1_017, 15), None),
        (reading(1_013, 15), None),
        (reading(1_018, 15), "step"),
        (reading(1_012, 15), "step"),
        (reading(1_000 + 28_800, 10, 28_790), "suspend"),
        (reading(1_000 - 3_600, 10, 28_790), "step"),
        (reading(1_015 + 86_400, 15), "step"),
    ],
)
def test_a_clock_that_leaves_time_has_stepped_unless_a_sleep_explains_it(after: Reading, cause: str | None) -> None:
    """Two seconds are forgiven; a machine that slept has a clock that is right."""
    before = reading(1_000, 0)
    found = step_between(before, after)
    assert (None if found is None else found.cause) == cause
    if found is not None:
        assert found.wall_after_us - found.wall_before_us - found.step_us == found.monotonic_elapsed_us


def test_a_clock_before_the_newest_fact_was_set_back_while_nobody_looked() -> None:
    """A start finds it out; one that is later than the newest fact says nothing."""
    assert step_while_away(T0_US, T0_US - STEP_MIN_US) is None
    assert step_while_away(T0_US, T0_US + DAY_MS * US_PER_MS) is None
    found = step_while_away(T0_US, T0_US - STEP_MIN_US - 1)
    assert found is not None
    assert (found.cause, found.step_us) == ("step", -STEP_MIN_US - 1)


@pytest.mark.parametrize("days", [-1, 1])
def test_open_work_has_as_much_time_as_before(days: int) -> None:
    """Deadline and sign of life of a run move with the clock; what it says of its duration stays true."""
    world = given(CONFIG, admit("r1"), start("r1"), wait(ms=60_000))
    world.do(clock_stepped(days * DAY_MS), wait(ms=10_000))
    run = world.run("r1")
    assert run.deadline_us - world.now_us == 530_000 * US_PER_MS
    assert world.now_us - run.last_life_us == 70_000 * US_PER_MS
    assert judge(world.state, world.now_us, {"run": 120_000}).verdicts[0].kind == "clock_step"
    world.do(succeed("r1"), complete("r1"))
    assert world.facts(RunCompleted)[0].duration_us == 70_000 * US_PER_MS


def test_a_machine_that_slept_has_not_stalled() -> None:
    """Eight hours of sleep are no silence, and no clock that anybody set."""
    world = given(CONFIG, admit("r1"), start("r1"), clock_stepped(8 * 3_600_000, "suspend", elapsed_ms=5_000))
    assert judge(world.state, world.now_us).verdicts == ()
    assert world.state.daemon.clock_step is None


@pytest.mark.parametrize("days", [-1, 1])
def test_a_cooldown_lasts_as_long_as_it_should(days: int) -> None:
    """Thirty seconds, whatever the clock says meanwhile; a sleep counts as time."""
    world = given(CONFIG, admit("r1"), start("r1"), fail("r1"), start("r1", retry=1), fail("r1"), wait(ms=10_000))
    world.do(clock_stepped(days * DAY_MS))
    assert circuit_of(world.state, "a").until_us - world.now_us == 20_000 * US_PER_MS
    world.do(clock_stepped(DAY_MS, "suspend"))
    assert circuit_of(world.state, "a").until_us < world.now_us


def test_evidence_of_health_is_as_old_as_it_is() -> None:
    """A clock that was set back a day does not keep a provider healthy for a day longer."""
    world = given(
        CONFIG, serve("r1"), admit("r2"), start("r2"), fail("r2"), clock_stepped(-DAY_MS), wait(ms=60_000)
    )
    entry = world.state.catalog.registry.providers[0]
    assert health_of(world.state, entry, world.now_us) == "degraded"
    world.do(wait(ms=3_600_000))
    assert health_of(world.state, entry, world.now_us) == "unknown"


def test_what_never_was_has_no_time() -> None:
    """Where nothing has failed yet, and nobody has looked, setting the clock makes no moment of it."""
    world = given(CONFIG, serve("r1"), clock_stepped(DAY_MS))
    evidence = world.state.health.by_provider["a"]
    assert (evidence.last_success_us, evidence.attempted_us) == (world.now_us, world.now_us)
    assert (evidence.last_failure_us, evidence.probed_us) == (0, 0)


def test_a_command_is_remembered_for_a_day_of_time() -> None:
    """A clock that is set forward a day must not let a repeat of it spend twice."""
    world = given(CONFIG, admit("r1", command_name="k1"), clock_stepped(2 * DAY_MS), wait(ms=60_000))
    world.do(admit("r2", command_name="k2"))
    assert list(world.state.commands.by_key) == ["k1", "k2"]
    world.do(wait(ms=DAY_MS - 59_000), admit("r3", command_name="k3"))
    assert list(world.state.commands.by_key) == ["k2", "k3"]


def look() -> Step:
    """Judge, and act on every verdict."""

    def step(world: World) -> Outcome:
        recorded = []
        for stall in judge(world.state, world.now_us).verdicts:
            if stall.stage == "recovered":
                recorded += world.record(resolve(world.state, stall, now_us=world.now_us))
            else:
                recorded += world.record(report(world.state, stall, incident_id="i1", now_us=world.now_us))
        return Outcome(recorded=recorded)

    return step


def test_a_clock_that_was_set_is_told_for_an_hour() -> None:
    """Once; a later correction of seconds moves the hour along, another big step begins it anew."""
    world = given(CONFIG, clock_stepped(-DAY_MS))
    position = world.state.position
    world.when(look()).then(
        IncidentOpened(
            kind="clock_step",
            severity="info",
            subject_kind="clock",
            subject_id="wall",
            because_positions=[position],
        )
    )
    world.when(look()).then()
    world.do(clock_stepped(10_000), wait(ms=3_599_999))
    assert judge(world.state, world.now_us).next_deadline_us == world.now_us + US_PER_MS
    world.when(look()).then()
    world.do(wait(ms=1))
    world.when(look()).then(IncidentResolved(because="recovered", open_for_ms=3_610_000))
    world.when(look()).then()


@pytest.mark.parametrize("ms", [-60_000, 60_000])
def test_a_minute_is_nothing_to_tell(ms: int) -> None:
    """Small corrections happen; they are facts and no incident."""
    world = given(CONFIG, clock_stepped(ms))
    assert judge(world.state, world.now_us).verdicts == ()


def test_loops_that_crashed_are_well_again_in_time() -> None:
    """A loop that was down counts as well a minute after its restart, not a day and a minute."""
    crashed = LoopCrashed(boot_id="boot-1", loop_name="keeper", error_code="x", crashes_count=6, backoff_ms=1)
    down = Stall(kind="loop_down", stage="hung", subject_kind="loop", subject_id="keeper")
    world = given(CONFIG, record("daemon", crashed))
    world.record(report(world.state, down, incident_id="i1", now_us=world.now_us))
    world.do(record("daemon", LoopRestarted(boot_id="boot-1", loop_name="keeper")), clock_stepped(-10_000))
    world.do(wait(ms=60_000))
    world.when(look()).then(IncidentResolved(because="recovered", open_for_ms=50_000))


_MOVES = st.sampled_from(["serve", "start", "fail", "succeed", "cancel", "wait", "long wait", "model fails"])
_STEPS = st.sampled_from([-365 * DAY_MS, -DAY_MS, -61_000, -3_000, 3_000, 61_000, DAY_MS, 365 * DAY_MS])


def _play(moves: Sequence[tuple[str, int]], steps: dict[int, int]) -> tuple[World, list[object]]:
    """Live through the moves, with a step of the clock before some of them; return what was decided."""
    world, told = given(CONFIG), []
    for number, (move, wait_ms) in enumerate(moves):
        if number in steps:
            world.do(clock_stepped(steps[number]))
        before = len(world.history)
        told.append(_move(world, move, number, wait_ms))
        told += [type(one.body) for one in world.history[before:]]
        told += [one.body.wait_ms for one in world.history[before:] if isinstance(one.body, AttemptFailed)]
        _check(world)
    return world, told


def _move(world: World, move: str, number: int, wait_ms: int) -> object:
    """Do something to the oldest open run, or admit one."""
    if move == "wait":
        world.now_us += wait_ms * US_PER_MS
        return None
    if move == "long wait":
        world.now_us += 10 * wait_ms * US_PER_MS
        return None
    run = next(iter(world.state.runs.open.values()), None)
    if run is None:
        decision = decide_admission(world.state, admission(f"r{number}"), world.now_us)
        world.record(decision.drafts)
        if decision.refusal is not None:
            return decision.refusal.code, decision.refusal.retry_after_ms
        run = world.run(f"r{number}")
    if run.attempt is None:
        world.do(start(run.run_id))
    if move in ("fail", "model fails"):
        failure_class = "overloaded" if move == "fail" else "model_unavailable"
        if world.when(fail(run.run_id, failure_class)).outcome.wait_ms is None:
            return world.when(go_on(run.run_id, failure_class)).outcome.candidate
    elif move in ("succeed", "serve"):
        world.do(succeed(run.run_id), complete(run.run_id))
    elif move == "cancel":
        world.do(fail(run.run_id, "cancelled", may_retry=False), cancel(run.run_id))
    return None


def _check(world: World) -> None:
    """Nothing is further away than its own length, whatever the clock did."""
    for run in world.state.runs.open.values():
        assert run.deadline_us - world.now_us <= 600_000 * US_PER_MS
        assert run.last_life_us <= world.now_us
    for circuit in world.state.circuits.by_provider.values():
        assert circuit.until_us - world.now_us <= 30_000 * US_PER_MS
    for standing in world.state.catalog.standings.values():
        assert standing.excluded_until_us - world.now_us <= 60_000 * US_PER_MS


@settings(max_examples=60)
@generated(
    st.lists(st.tuples(_MOVES, st.integers(1, 40_000)), max_size=30),
    st.dictionaries(st.integers(0, 29), _STEPS, max_size=4),
)
def test_what_is_decided_does_not_depend_on_the_clock_being_set(
    moves: list[tuple[str, int]], steps: dict[int, int]
) -> None:
    """The same story with a clock that jumps by seconds, days or years gives the same facts, waits and refusals."""
    steady, told = _play(moves, {})
    jumping, told_too = _play(moves, steps)
    assert told == told_too
    assert totals_of(steady.state) == totals_of(jumping.state)
    assert jumping.replayed(len(jumping.history) // 2) == jumping.state
