"""Boot recovery: what a crash left open is closed by stated rules, once."""

from __future__ import annotations

from budget_kit import put, rule
from registries import THREE
from story import World, admit, boot, complete, fail, given, like, record, recover, serve, start, succeed, wait

from palyra.decisions.budgets import GRACE_US
from palyra.decisions.recovery import orphans, recover_run
from palyra.events.attempts import AttemptAbandoned
from palyra.events.base import Draft
from palyra.events.budgets import BudgetReleased
from palyra.events.heartbeats import HeartbeatCleared, HeartbeatRecorded
from palyra.events.incidents import IncidentOpened, IncidentResolved
from palyra.events.runs import RunCancelled, RunCancelRequested, RunFailed
from palyra.events.usage import UsageRecorded
from palyra.projections.budgets import reserved_tokens
from palyra.projections.incidents import open_incidents
from palyra.usage import TokenUsage

BEAT = HeartbeatRecorded(work_kind="loop", work_id="watchdog", beat_no=1, stalls_after_ms=1_000)


def incident(kind: str) -> IncidentOpened:
    return IncidentOpened(kind=kind, severity="danger", subject_kind="loop", subject_id="watchdog")


def test_an_open_attempt_is_abandoned_and_settled_with_all_that_it_held() -> None:
    """Abandoned, a row with the tokens that it could use, the hold let go, the run failed as interrupted."""
    world = given(THREE, put(rule()), admit("r1"), start("r1"), boot())
    told = world.when(recover())
    told.then(
        AttemptAbandoned(attempt=1, boot_id="boot-2"),
        like(
            UsageRecorded,
            usage=TokenUsage(input_tokens=130, output_tokens=50),
            source="estimated",
            billed="unknown",
        ),
        BudgetReleased(attempt=1, because="abandoned"),
        RunFailed(code="interrupted", attempts_count=1),
    )
    keys = [one.command_key for one in told.outcome.recorded]
    assert keys == ["recover|r1|1", "", "", ""]
    assert reserved_tokens(world.state) == 0


def test_a_queued_run_bills_nothing() -> None:
    """A run that had started nothing ends without attempt, row or release."""
    told = given(THREE, admit("r1"), boot()).when(recover())
    told.then(RunFailed(code="interrupted"))
    assert told.outcome.recorded[0].command_key == "recover|boot-2|run-r1"


def test_a_run_between_two_attempts_bills_only_what_was_settled() -> None:
    """A crash during the wait before a retry: the failed attempt stands, nothing is added."""
    world = given(THREE, admit("r1"), start("r1"), fail("r1", status=500), boot())
    world.when(recover()).then(RunFailed(code="interrupted", attempts_count=1))


def test_a_run_that_was_to_be_cancelled_is_cancelled() -> None:
    """Whoever asked for the end gets it, with the restart as its reason."""
    request = RunCancelRequested(reason="operator", by="operator:local")
    world = given(THREE, admit("r1"), record("run-r1", request), boot())
    world.when(recover()).then(RunCancelled(reason="restart"))


def test_recovering_twice_changes_nothing() -> None:
    """What is closed is not open any more."""
    world = given(THREE, admit("r1"), start("r1"), admit("r2"), record("beat-loop-watchdog", BEAT), boot())
    world.do(recover())
    world.when(recover()).then()


def test_a_crash_before_the_release_still_settles() -> None:
    """An attempt whose hold is gone has its row all the same: its start says what it could have used."""
    world = given(THREE, put(rule()), admit("r1"), start("r1"))
    world.do(record("run-r1", BudgetReleased(attempt=1)), boot())
    world.when(recover()).then(
        like(AttemptAbandoned),
        like(UsageRecorded, usage=TokenUsage(input_tokens=130, output_tokens=50)),
        RunFailed(code="interrupted", attempts_count=1),
    )


def test_finished_runs_are_left_alone() -> None:
    """Only what was open is closed."""
    given(THREE, serve("r1"), boot()).when(recover()).then()


def test_the_old_boots_beats_and_incidents_go_with_it() -> None:
    """Its work is taken off the board; incidents about the process are resolved, others stay."""
    world = given(THREE, record("beat-loop-watchdog", BEAT))
    for number, kind in enumerate(["loop_stalled", "loop_down", "run_stalled", "provider_down"]):
        world.do(record(f"incident-{number}", incident(kind)))
    world.do(wait(ms=1_500), boot())
    told = world.when(recover())
    told.then(
        HeartbeatCleared(work_kind="loop", work_id="watchdog", because="boot"),
        *[IncidentResolved(because="boot", open_for_ms=1_500)] * 3,
    )
    assert [one.stream for one in told.outcome.recorded] == [
        "beat-loop-watchdog",
        "incident-0",
        "incident-1",
        "incident-2",
    ]
    assert world.state.heartbeats.board == {}
    assert [one.kind for one in open_incidents(world.state)] == ["provider_down"]


def test_a_loop_beats_on_in_the_next_boot() -> None:
    """Its stream goes on where it was: the journal takes no version twice."""
    world = given(THREE, record("beat-loop-watchdog", BEAT), boot(), recover())
    world.do(record("beat-loop-watchdog", BEAT))
    assert [one.version for one in world.stream("beat-loop-watchdog")] == [1, 2, 3]


def test_everything_that_a_crash_left_is_closed_by_one_recovery() -> None:
    """Ten runs at every stage: afterwards none is open and nothing is reserved."""
    world = World(THREE)
    for number in range(10):
        run_id = f"r{number}"
        world.do(admit(run_id))
        if number % 2:
            world.do(start(run_id))
        if number % 3 == 2:
            world.do(*((fail(run_id),) if number % 2 else ()))
    world.do(admit("done"), start("done"), succeed("done"), complete("done"))
    world.do(boot(), recover())
    assert world.state.runs.open == {}
    assert reserved_tokens(world.state) == 0
    assert len(world.facts(RunFailed)) == 10


def test_each_recovery_is_a_command_of_its_own() -> None:
    """The drafts of one run carry one key, on the first of them."""
    world = given(THREE, admit("r1"), start("r1"), boot())
    drafts = recover_run(world.state, world.run("r1"), boot_id="boot-2", now_us=world.now_us)
    assert [draft.command_key != "" for draft in drafts] == [True, False, False]
    assert drafts[0] == Draft("run-r1", AttemptAbandoned(attempt=1, boot_id="boot-2"), command_key="recover|r1|1")


def test_an_orphan_is_past_its_time_with_nobody_at_work_on_it() -> None:
    """A run may take its time and a minute; whoever is at work on it closes it, however late."""
    world = given(THREE, admit("r1"), start("r1"))
    run = world.state.runs.open["r1"]
    late_us = run.deadline_us + GRACE_US
    assert orphans(world.state, (), late_us) == []
    assert orphans(world.state, (), late_us + 1) == [run]
    assert orphans(world.state, ("r1",), late_us + 1) == []
