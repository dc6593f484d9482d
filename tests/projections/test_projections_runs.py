"""Runs as they are folded: open ones whole, ended ones as a line, each one again from its own stream."""

from __future__ import annotations

import pytest
from budget_kit import put, rule
from registries import THREE
from story import (
    T0_US,
    Step,
    World,
    admit,
    boot,
    cancel,
    complete,
    fail,
    given,
    go_on,
    record,
    recover,
    serve,
    start,
    succeed,
    wait,
)

from palyra.events.attempts import AttemptAbandoned, AttemptFailed, AttemptStarted, AttemptSucceeded
from palyra.events.budgets import BudgetReserved
from palyra.events.runs import RequestServed, RunCancelRequested, RunCompleted, RunRefused
from palyra.events.usage import UsageRecorded
from palyra.projections import health
from palyra.projections.run_view import view_of_run
from palyra.projections.runs import RECENT_RUNS_COUNT, RunSummary, summary_of, totals_of
from palyra.projections.state import State, digest_in
from palyra.usage import TokenUsage


def test_an_open_run_is_whole_in_memory() -> None:
    """Plan, tokens, open attempt and what has failed: all that the next decision needs."""
    world = given(THREE, admit("r1", session_id="s1"), wait(ms=5), start("r1"), fail("r1", may_retry=False))
    world.do(go_on("r1"), wait(ms=5), start("r1", candidate=1))
    run = world.run("r1")
    assert [step.provider_id for step in run.plan] == ["a", "b", "c"]
    assert (run.attempts_count, run.failed, run.failure_classes) == (2, ["a/gpt"], ["overloaded"])
    assert run.attempt is not None
    assert (run.attempt.attempt, run.attempt.provider_id) == (2, "b")
    assert (run.admitted_us, run.last_life_us) == (T0_US, T0_US + 10_000)
    assert run.admitted.session_id == "s1"


def test_a_candidate_that_will_be_tried_again_has_not_failed_yet() -> None:
    """A failure with a wait keeps its candidate in the plan; each class is remembered once."""
    world = given(THREE, admit("r1"), start("r1"), fail("r1"), start("r1", retry=1), fail("r1"))
    run = world.run("r1")
    assert (run.failed, run.failure_classes, run.attempt) == ([], ["overloaded"], None)


def test_a_request_to_end_is_remembered() -> None:
    """What recovery and the watch ask: somebody wants this run to end."""
    wish = RunCancelRequested(reason="operator", by="operator:local")
    assert given(THREE, admit("r1"), record("run-r1", wish)).run("r1").cancel_requested == "operator"


@pytest.mark.parametrize(
    ("end", "outcome", "code"),
    [
        ((succeed("r1"), complete("r1")), "completed", ""),
        ((fail("r1", "invalid_request"), go_on("r1", "invalid_request")), "failed", "invalid_request"),
        ((fail("r1", "cancelled"), cancel("r1", "operator")), "cancelled", "operator"),
        ((fail("r1"), record("run-r1", RunRefused(code="draining", http_status=503))), "refused", "draining"),
    ],
)
def test_an_ended_run_is_one_line(end: tuple[Step, ...], outcome: str, code: str) -> None:
    """It leaves memory, its stream's version too; a summary stays."""
    world = given(THREE, admit("r1"), start("r1"), *end)
    assert world.state.runs.open == {}
    assert "run-r1" not in world.state.streams
    [line] = world.state.runs.recent
    assert (line.run_id, line.outcome, line.code, line.attempts_count) == ("r1", outcome, code, 1)
    assert totals_of(world.state) == {"admitted": 1, outcome: 1}


def test_a_line_sums_the_tokens_of_all_attempts() -> None:
    """A failed attempt that was billed counts too; nobody knows what these cost."""
    world = given(THREE, admit("r1"), start("r1"), fail("r1", "timeout_idle", phase="body"))
    world.do(go_on("r1", "timeout_idle", phase="body"), start("r1", candidate=1), succeed("r1"), wait(ms=9))
    world.do(complete("r1", candidate=1))
    assert world.state.runs.recent == [
        RunSummary(
            run_id="r1",
            outcome="completed",
            endpoint="chat",
            principal_id="key:tester",
            model_requested="gpt",
            provider_id="b",
            model_id="gpt",
            attempts_count=2,
            input_tokens=190,
            output_tokens=20,
            unpriced_count=2,
            admitted_us=T0_US,
            duration_us=9_000,
        )
    ]


def test_the_first_byte_is_that_of_the_attempt_that_gave_the_answer() -> None:
    """A run that has not ended has none yet, whatever its attempts have done."""
    world = given(THREE, admit("r1"), start("r1"), fail("r1"), go_on("r1"), start("r1", candidate=1))
    world.do(succeed("r1", first_byte_us=5))
    view = view_of_run(world.stream("run-r1"))
    assert view is not None
    assert view.first_byte_us is None
    world.do(complete("r1", candidate=1))
    view = view_of_run(world.stream("run-r1"))
    assert view is not None
    assert view.first_byte_us == 5


def test_a_refused_request_is_one_line_too() -> None:
    """It was never open; the codes are counted."""
    world = given(THREE, admit("r1", "nobody"), admit("r2", "nothing"))
    assert [(line.run_id, line.code) for line in world.state.runs.recent] == [
        ("r1", "model_not_found"),
        ("r2", "model_not_found"),
    ]
    assert world.state.runs.refusals == {"model_not_found": 2}


def test_ended_runs_are_kept_in_bounds() -> None:
    """However many runs there were, about the newest two hundred are remembered, oldest first."""
    world = given(THREE)
    for number in range(RECENT_RUNS_COUNT + 60):
        world.do(admit(f"r{number}", "nobody"))
    recent = world.state.runs.recent
    assert RECENT_RUNS_COUNT <= len(recent) <= RECENT_RUNS_COUNT + 50
    assert recent[-1].run_id == f"r{RECENT_RUNS_COUNT + 59}"
    assert len(world.state.streams) == 3


def test_facts_about_runs_that_are_not_open_change_no_run() -> None:
    """A stray end, start or cancellation of a run that nobody let in is counted as an event and no more."""
    started = AttemptStarted(
        attempt=1,
        provider_id="a",
        model_id="gpt",
        upstream_model="gpt-a",
        api="chat",
        deadline_ms=1,
        input_max_tokens=1,
        output_max_tokens=1,
    )
    world = given(THREE, serve("r1"))
    before = digest_in(world.state, "runs")
    world.do(
        record(
            "run-r9",
            started,
            AttemptFailed(attempt=1, failure_class="overloaded", phase="headers", counted=True),
            AttemptSucceeded(attempt=1, stop="stop", duration_us=1),
            AttemptAbandoned(attempt=1, boot_id="b"),
            RunCancelRequested(reason="client", by=""),
            RunCompleted(stop="stop", provider_id="a", model_id="gpt", duration_us=1),
        )
    )
    assert digest_in(world.state, "runs") == before
    assert world.state.circuits.by_provider == {}


def test_a_failure_of_what_never_started_is_no_evidence() -> None:
    """A run that waits has asked nobody; no provider is the worse for it."""
    failed = AttemptFailed(attempt=1, failure_class="overloaded", phase="headers", counted=True)
    world = given(THREE, admit("r1"), record("run-r1", failed))
    assert world.state.health.by_provider == {}
    assert world.run("r1").attempt is None


def test_a_chapter_alone_takes_facts_of_runs_that_it_never_saw() -> None:
    """What somebody else folds for itself may begin in the middle of a run."""
    world, state = given(THREE, serve("r1")), State()
    for recorded in world.stream("run-r1"):
        health.CHAPTER.fold(state, recorded)
    assert state.health == State().health


def test_the_end_of_another_attempt_leaves_the_open_one() -> None:
    """Only the attempt that ended is closed."""
    world = given(THREE, admit("r1"), start("r1"))
    world.do(record("run-r1", AttemptSucceeded(attempt=7, stop="stop", duration_us=1)))
    assert world.run("r1").attempt is not None


def test_requests_that_spend_nothing_are_only_counted() -> None:
    """`request.served` has no chapter."""
    world = given(THREE, record("requests", RequestServed(endpoint="models", principal_id="x", http_status=200)))
    assert world.state.counts["request.served"] == 1


def told(world: World, run_id: str = "r1"):  # type: ignore[no-untyped-def]
    view = view_of_run(world.stream(f"run-{run_id}"))
    assert view is not None
    return view


def test_a_run_is_read_back_from_its_stream() -> None:
    """Everything that happened to it, attempt by attempt, long after it has left memory."""
    world = given(THREE, wait(ms=1), put(rule()), admit("r1"), start("r1"))
    world.do(fail("r1", "timeout_idle", phase="body", status=200))
    world.do(go_on("r1", "timeout_idle"), start("r1", candidate=1), wait(ms=3), succeed("r1"))
    world.do(complete("r1", candidate=1))
    view = told(world)
    assert (view.run_id, view.state, view.admitted_us, view.ended_us) == (
        "r1",
        "completed",
        T0_US + 1_000,
        T0_US + 4_000,
    )
    assert (view.first_position, view.last_position) == (5, world.state.position)
    assert view.admitted is not None
    assert view.routing is not None
    assert view.completed is not None
    assert [one.provider_id for one in view.failovers] == ["b"]
    first, second = view.attempts
    assert (first.failed is not None, first.succeeded, first.abandoned) == (True, None, False)
    assert (second.failed, second.succeeded is not None) == (None, True)
    assert [row.reserved for row in view.attempts] == world.facts(BudgetReserved)
    assert [row.usage for row in view.attempts] == world.facts(UsageRecorded)
    assert view.usage == TokenUsage(input_tokens=190, output_tokens=20)


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        ((admit("r1"),), "open"),
        ((admit("r1", "nobody"),), "refused"),
        ((admit("r1"), cancel("r1")), "cancelled"),
        ((admit("r1"), start("r1"), boot(), recover()), "failed"),
    ],
)
def test_a_view_tells_how_a_run_ended(steps: tuple[Step, ...], state: str) -> None:
    """Open, refused, cancelled or failed, with the fact that says so."""
    view = told(given(THREE, *steps))
    assert view.state == state
    ends = {"refused": view.refused, "cancelled": view.cancelled, "failed": view.failed, "open": view.admitted}
    assert ends[state] is not None
    assert [row.abandoned for row in view.attempts] == ([True] if len(steps) == 4 else [])


def test_a_view_of_nothing_is_none() -> None:
    """No events, no run; facts of other kinds and of unknown attempts add nothing."""
    assert view_of_run([]) is None
    world = given(THREE, admit("r1"), record("run-r1", AttemptSucceeded(attempt=7, stop="stop", duration_us=1)))
    assert told(world).attempts == []
    world.do(start("r1"), record("run-r1", RunCancelRequested(reason="client", by="")))
    assert [row.succeeded for row in told(world).attempts] == [None]


def test_the_line_about_an_ended_run_is_found_by_its_id() -> None:
    """The newest one with this id; of a run that is open or unknown there is none."""
    world = given(THREE, serve("r1"), serve("r2"), admit("r3"))
    found = summary_of(world.state, "r1")
    assert found is not None
    assert (found.run_id, found.outcome) == ("r1", "completed")
    assert summary_of(world.state, "r3") is None
