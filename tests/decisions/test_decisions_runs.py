"""The life of a run: let in or refused, on to the next candidate or to its end, and ended exactly once."""

from __future__ import annotations

from typing import Any

import pytest
from registries import THREE, model, provider, registry
from story import (
    T0_US,
    World,
    admission,
    admit,
    adopt,
    cancel,
    complete,
    fail,
    given,
    go_on,
    like,
    record,
    serve,
    start,
    succeed,
    wait,
)

from palyra.decisions.runs import admit as decide_admission
from palyra.decisions.runs import cancel_run, complete_run, refusal_draft
from palyra.errors import Refusal
from palyra.events.base import Draft
from palyra.events.circuits import CircuitOpened
from palyra.events.routing import Exclusion, PlanStep, RoutingDecided, RoutingFailedOver
from palyra.events.runs import RunAdmitted, RunCancelled, RunCompleted, RunFailed, RunRefused, TokenEstimate
from palyra.projections.runs import Run
from palyra.units import US_PER_MS


def test_admission_and_plan_are_one_step() -> None:
    """`run.admitted` says who asked for what and how large it is, `routing.decided` what may be tried."""
    told = given(THREE).when(
        admit(
            "r1",
            key_id="k1",
            session_id="s1",
            agent_id="a1",
            tags={"team": "x"},
            stream=True,
            needs=["tools"],
            choices_count=2,
            origin="http",
        )
    )
    told.then(
        RunAdmitted(
            principal_id="key:tester",
            key_id="k1",
            session_id="s1",
            agent_id="a1",
            tags={"team": "x"},
            endpoint="chat",
            model_requested="gpt",
            needs=["tools"],
            stream=True,
            choices_count=2,
            config_generation=1,
            body_digest="0" * 64,
            body_bytes=400,
            deadline_us=T0_US + 900_000 * US_PER_MS,
            tokens=TokenEstimate(raw=100, upper=130),
        ),
        RoutingDecided(
            resolved_by="model_id",
            model_id="gpt",
            failover="compatible",
            plan=[
                PlanStep(provider_id=name, model_id="gpt", upstream_model=f"gpt-{name}") for name in ("a", "b", "c")
            ],
            output_cap_tokens=50,
            output_requested_tokens=50,
        ),
    )


def test_a_command_key_stands_on_the_first_event() -> None:
    """The key of an idempotent request marks its first fact and no other."""
    decision = decide_admission(given(THREE).state, admission("r1", command_name="k"), T0_US)
    assert [draft.command_key for draft in decision.drafts] == ["k#0", ""]


@pytest.mark.parametrize(("timeout_ms", "deadline_ms"), [(None, 60_000), (5_000, 5_000), (90_000, 60_000)])
def test_a_client_may_only_shorten_the_run(timeout_ms: int | None, deadline_ms: int) -> None:
    """The configured time is the longest one."""
    config = registry(provider("a"), model("gpt", "a"), run_timeout_ms=60_000)
    world = given(config, admit("r1", timeout_ms=timeout_ms))
    assert world.run("r1").deadline_us == T0_US + deadline_ms * US_PER_MS


def test_a_refusal_is_on_record_with_who_asked() -> None:
    """Every authenticated request leaves a fact; a name of any length is cut."""
    command = admission("r1", "m" * 1_000, key_id="k1")
    refusal = Refusal(code="client_rate_limited", message="Slow down.", param="model", retry_after_ms=500)
    assert refusal_draft(command, refusal) == Draft(
        "run-r1",
        RunRefused(
            code="client_rate_limited",
            http_status=429,
            principal_id="key:tester",
            key_id="k1",
            body_bytes=400,
            endpoint="chat",
            model_requested="m" * 256,
            param="model",
            retry_after_ms=500,
            raw_tokens=100,
        ),
    )


def test_a_refused_request_spends_nothing_and_stays_out_of_memory() -> None:
    """Neither an open run nor a stream is kept of it."""
    world = given(THREE, admit("r1", "nobody"))
    assert world.state.runs.open == {}
    assert "run-r1" not in world.state.streams
    assert world.state.runs.refusals == {"model_not_found": 1}


def failed_at_a(failure_class: str = "overloaded") -> World:
    """A run whose first candidate, a, has failed for good; b and c are left."""
    return given(THREE, admit("r1"), start("r1"), fail("r1", failure_class, may_retry=False))


def test_a_failure_leads_to_the_next_candidate() -> None:
    """Which one, why, and how many are left."""
    told = failed_at_a().when(go_on("r1"))
    told.then(
        RoutingFailedOver(from_attempt=1, trigger="overloaded", provider_id="b", model_id="gpt", remaining_count=1)
    )
    assert (told.outcome.candidate, told.outcome.refusal) == (1, None)


def test_a_candidate_that_is_not_ready_is_passed_over() -> None:
    """A circuit that has opened since admission is skipped, and the fact says so."""
    until_us = T0_US + 10**9
    world = failed_at_a()
    world.do(record("provider-b", CircuitOpened(until_us=until_us, reason="threshold")))
    told = world.when(go_on("r1"))
    skipped = Exclusion(provider_id="b", model_id="gpt", excluded_by="circuit_open", figures={"until_us": until_us})
    told.then(like(RoutingFailedOver, provider_id="c", skipped=[skipped], remaining_count=0))
    assert told.outcome.candidate == 2


@pytest.mark.parametrize(
    ("failure_class", "phase", "later_ms"),
    [
        ("invalid_request", "headers", 0),
        ("content_policy_blocked", "headers", 0),
        ("overloaded", "content", 0),
        ("context_window_exceeded", "headers", 0),
        ("run_deadline", "body", 0),
        ("overloaded", "headers", 900_000),
    ],
)
def test_some_failures_end_the_run(failure_class: str, phase: str, later_ms: int) -> None:
    """The caller's fault, a failure after content, no larger window, no time left: no other candidate is tried."""
    world = failed_at_a(failure_class).do(wait(ms=later_ms))
    told = world.when(go_on("r1", failure_class, phase=phase))
    told.then(
        like(RunFailed, failure_class=failure_class, attempts_count=1, duration_us=later_ms * US_PER_MS),
    )
    assert told.outcome.candidate is None


def test_a_window_too_small_leads_to_a_larger_one_only() -> None:
    """context_window_exceeded skips what is not larger."""
    config = registry(
        provider("a"),
        model("gpt", "a", max_context_tokens=1_000, fallbacks=["same", "large"]),
        model("same", "a", max_context_tokens=1_000),
        model("large", "a", max_context_tokens=9_000),
    )
    world = given(config, admit("r1"), start("r1"), fail("r1", "context_window_exceeded"))
    told = world.when(go_on("r1", "context_window_exceeded"))
    told.then(like(RoutingFailedOver, model_id="large"))


def all_failed(*classes: str, **last: Any) -> Refusal:
    """Return what the client is told after a, b, c, ... have failed with these classes."""
    world = given(THREE, admit("r1"))
    for index, failure_class in enumerate(classes):
        world.do(start("r1", candidate=index), fail("r1", failure_class, may_retry=False))
        if index == len(classes) - 1:
            world.state.runs.open["r1"].plan = world.run("r1").plan[: len(classes)]
            refusal = world.when(go_on("r1", failure_class, after=index, **last)).outcome.refusal
            assert refusal is not None
            return refusal
        world.do(go_on("r1", failure_class, after=index))
    raise AssertionError("name a class")


@pytest.mark.parametrize(
    ("classes", "code", "http_status"),
    [
        (["overloaded"], "overloaded", 503),
        (["overloaded", "overloaded"], "overloaded", 503),
        (["timeout_idle"], "timeout_idle", 504),
        (["auth_invalid"], "upstream_auth", 502),
        (["overloaded", "timeout_idle"], "upstream_failed", 502),
        (["overloaded", "timeout_idle", "overloaded"], "upstream_failed", 502),
        (["overloaded", "rate_limited"], "rate_limited", 429),
        (["overloaded", "invalid_request"], "invalid_request", 400),
    ],
)
def test_when_all_have_failed_one_class_is_the_answer_and_several_are_upstream_failed(
    classes: list[str], code: str, http_status: int
) -> None:
    """A last answer that is the caller's own matter (4xx) is passed on whatever was before it."""
    refusal = all_failed(*classes)
    assert (refusal.code, refusal.http_status) == (code, http_status)


def test_the_last_words_of_the_provider_are_passed_on() -> None:
    """Where the provider refused the request its message is the answer; else it is quoted."""
    assert all_failed("invalid_request", message="'n' must be 1").message == "'n' must be 1"
    assert all_failed("invalid_request").message == "The provider failed (invalid_request)"
    assert all_failed("overloaded", message="busy").message == "The provider failed (overloaded): busy"
    told = all_failed("overloaded", "overloaded", message="busy").message
    assert told == "The last of 2 attempts failed (overloaded): busy"


@pytest.mark.parametrize(
    ("failure_class", "asked_ms", "retry_after_ms"),
    [
        ("overloaded", 7_000, 7_000),
        ("overloaded", None, 1_000),
        ("rate_limited", None, 1_000),
        ("timeout_idle", None, None),
    ],
)
def test_a_repeat_is_suggested_where_it_can_help(
    failure_class: str, asked_ms: int | None, retry_after_ms: int | None
) -> None:
    """What the provider asked for, else a second after 429 and 503, else nothing."""
    assert all_failed(failure_class, retry_after_ms=asked_ms).retry_after_ms == retry_after_ms


def test_a_run_completes_once_its_answer_is_settled() -> None:
    """The end names the model that answered, and the time it took."""
    world = given(THREE, admit("r1"), start("r1"), wait(ms=700), succeed("r1"))
    world.when(complete("r1")).then(
        RunCompleted(
            stop="stop",
            provider_id="a",
            model_id="gpt",
            duration_us=700_000,
        )
    )
    assert world.state.runs.open == {}
    assert "run-r1" not in world.state.streams


def test_a_cancelled_run_says_by_whom_and_what_became_of_the_stream() -> None:
    """The attempt is settled before; the run ends with its reason."""
    world = given(THREE, admit("r1"), start("r1"), fail("r1", "client_disconnected", phase="content"), wait(ms=5))
    drafts = cancel_run(
        world.run("r1"), reason="client", by="key:x", policy="drain", drained=True, now_us=world.now_us
    )
    assert drafts == [
        Draft(
            "run-r1",
            RunCancelled(
                reason="client", by="key:x", policy="drain", drained=True, attempts_count=1, duration_us=5_000
            ),
        )
    ]


def test_a_queued_run_that_is_cancelled_has_spent_nothing() -> None:
    """No attempt, no hold, no usage: one fact ends it."""
    world = given(THREE, admit("r1"))
    world.when(cancel("r1", "operator")).then(RunCancelled(reason="operator"))
    assert world.state.budgets.holds == {}


def test_a_clock_that_steps_back_gives_no_negative_duration() -> None:
    """Time is never used for order, and a duration is 0 at least."""
    world = given(THREE, admit("r1"), start("r1"), succeed("r1"))
    run: Run = world.run("r1")
    [draft] = complete_run(run, stop="stop", step=run.plan[0], now_us=T0_US - 1)
    assert isinstance(draft.body, RunCompleted)
    assert draft.body.duration_us == 0


def test_the_generation_in_force_is_recorded_with_the_run() -> None:
    """A run is decided under one configuration, and says which."""
    world = given(THREE, serve("r1"), adopt(THREE), admit("r2"))
    assert [fact.config_generation for fact in world.facts(RunAdmitted)] == [1, 2]
