"""The start of an attempt and its settlement: one commit each, in the order in which a reader needs the facts."""

from __future__ import annotations

from budget_kit import put, rule
from registries import THREE, model, provider, registry
from story import T0_US, World, admit, adopt, complete, fail, given, like, start, succeed

from palyra.decisions.attempts import StartAttempt, start_attempt
from palyra.decisions.budgets import plan_start, release
from palyra.decisions.usage import Metered
from palyra.events.attempts import AttemptFailed, AttemptStarted, AttemptSucceeded
from palyra.events.base import Draft
from palyra.events.budgets import BudgetReleased, BudgetReserved
from palyra.events.models import ModelReadmitted
from palyra.events.usage import UsageRecorded
from palyra.projections.budgets import Where
from palyra.usage import TokenUsage


def test_a_start_reserves_first() -> None:
    """The hold stands before the start; the start says everything about the call that a reader may ask."""
    world = given(THREE, put(rule()), admit("r1"))
    command = StartAttempt(
        candidate=1,
        retry=2,
        credential_ref="env:KEY_B",
        api="responses",
        edits=("model",),
        dropped=("seed",),
        queue_wait_ms=7,
        deadline_ms=9_000,
    )
    run = world.run("r1")
    drafts = start_attempt(world.state, run, command, world.now_us)
    planned = plan_start(world.state, run, Where("b", "gpt"), "gpt-b", world.now_us)
    assert start_attempt(world.state, run, command, world.now_us, planned) == drafts
    assert drafts == [
        Draft(
            "run-r1",
            like(BudgetReserved, attempt=1, expires_us=T0_US + 960_000_000),
        ),
        Draft(
            "run-r1",
            AttemptStarted(
                attempt=1,
                candidate=1,
                retry=2,
                provider_id="b",
                model_id="gpt",
                upstream_model="gpt-b",
                credential_ref="env:KEY_B",
                api="responses",
                edits=["model"],
                dropped=["seed"],
                queue_wait_ms=7,
                deadline_ms=9_000,
                input_max_tokens=130,
                output_max_tokens=50,
            ),
        ),
    ]


def test_an_end_says_what_could_not_be_told_on() -> None:
    """Names of what the answer held and the client's dialect has no place for."""
    world = given(
        THREE, admit("r1"), start("r1"), succeed("r1", dropped=("logprobs",), raw_stop="odd", unparsed_count=2)
    )
    (ended,) = world.facts(AttemptSucceeded)
    assert (ended.dropped, ended.raw_stop, ended.unparsed_count) == (["logprobs"], "odd", 2)


def test_where_no_rule_applies_nothing_is_held() -> None:
    """Neither hold nor release is recorded: what the attempt may use at most stands in its start."""
    world = given(THREE, put(rule(scope_kind="provider", scope_id="b")), admit("r1"), start("r1"), succeed("r1"))
    assert (world.facts(BudgetReserved), world.facts(BudgetReleased), world.state.budgets.holds) == ([], [], {})
    world.do(complete("r1"), admit("r2"), start("r2", candidate=1))
    assert [fact.shares[0].policy_id for fact in world.facts(BudgetReserved)] == ["day"]


def test_attempts_of_a_run_are_numbered() -> None:
    """1, 2, 3, ... over retries and candidates alike."""
    world = given(THREE, admit("r1"), start("r1"), fail("r1"), start("r1", retry=1), fail("r1"))
    world.do(start("r1", candidate=1))
    assert [fact.attempt for fact in world.facts(AttemptStarted)] == [1, 2, 3]


def test_an_answer_settles_attempt_usage_and_hold() -> None:
    """Facts in this order; the provider's own name of the model is told only where it differs."""
    told = given(THREE, put(rule()), admit("r1"), start("r1")).when(
        succeed(
            "r1",
            Metered(
                reported=TokenUsage(input_tokens=90, output_tokens=20),
                anomalies=("usage_total_differs",),
                provider_cost_nanousd=12_000,
            ),
            stop="tool_use",
            raw_stop="tool_calls",
            upstream_request_id="req-1",
            upstream_response_id="resp-1",
            upstream_model="gpt-a-2026",
            output_bytes=321,
            unparsed_count=1,
        )
    )
    told.then(
        AttemptSucceeded(
            attempt=1,
            stop="tool_use",
            raw_stop="tool_calls",
            first_byte_us=200_000,
            duration_us=700_000,
            upstream_request_id="req-1",
            upstream_response_id="resp-1",
            upstream_model="gpt-a-2026",
            output_bytes=321,
            unparsed_count=1,
        ),
        UsageRecorded(
            attempt=1,
            provider_id="a",
            model_id="gpt",
            upstream_model="gpt-a",
            principal_id="key:tester",
            endpoint="chat",
            effective_at_us=T0_US,
            usage=TokenUsage(input_tokens=90, output_tokens=20),
            raw_input_tokens=100,
            anomalies=["usage_total_differs"],
            provider_cost_nanousd=12_000,
        ),
        BudgetReleased(attempt=1),
    )


def test_what_goes_without_saying_is_not_said() -> None:
    """A raw stop equal to the stop, and the upstream model that was asked for, are left out."""
    told = given(THREE, admit("r1"), start("r1")).when(succeed("r1", raw_stop="stop", upstream_model="gpt-a"))
    assert isinstance(succeeded := told.outcome.facts[0], AttemptSucceeded)
    assert (succeeded.raw_stop, succeeded.upstream_model) == ("", "")


def test_a_failure_is_told_with_everything_that_led_on() -> None:
    """Class, phase, status, the provider's words, what it asked for and how long the next try waits."""
    told = given(THREE, put(rule()), admit("r1"), start("r1")).when(
        fail(
            "r1", "overloaded", status=503, code="busy", message="come back", retry_after_ms=2_000, jitter_bp=4_000
        )
    )
    told.then(
        AttemptFailed(
            attempt=1,
            failure_class="overloaded",
            phase="headers",
            status=503,
            code="busy",
            message="come back",
            counted=True,
            retry_after_ms=2_000,
            wait_ms=2_100,
            duration_us=300_000,
        ),
        BudgetReleased(attempt=1),
    )
    assert told.outcome.wait_ms == 2_100


def test_a_caller_that_cannot_wait_gets_no_retry() -> None:
    """Where the engine says that a repeat makes no sense, the failure records none."""
    told = given(THREE, admit("r1"), start("r1")).when(fail("r1", may_retry=False))
    assert told.outcome.wait_ms is None


def test_a_recorded_failure_is_played_once_and_counts_for_nothing() -> None:
    """It would be the same again; neither the circuit nor the model of who plays it has anything to do with it."""
    plays = provider("a", kind="deterministic", flavor="", fixtures="/suite.jsonl", max_retries=2)
    for failure_class in ("transient_upstream", "model_unavailable"):
        offered = registry(plays, model("gpt", "a", fallbacks=[]))
        told = given(offered, admit("r1"), start("r1")).when(fail("r1", failure_class))
        (failed,) = [one.body for one in told.outcome.recorded if isinstance(one.body, AttemptFailed)]
        assert (failed.counted, failed.wait_ms) == (False, None)
        assert {one.stream for one in told.outcome.recorded} == {"run-r1"}


def test_a_rate_limit_moves_on_only_where_somebody_is_ready() -> None:
    """A pause of two seconds is waited for at the last candidate and nowhere else."""
    world = given(THREE, admit("r1"), start("r1"))
    assert world.when(fail("r1", "rate_limited", retry_after_ms=2_000)).outcome.wait_ms is None
    world.do(start("r1", candidate=2))
    assert world.when(fail("r1", "rate_limited", retry_after_ms=2_000)).outcome.wait_ms == 2_000


def test_a_failure_at_a_provider_that_was_removed_is_still_settled() -> None:
    """A reload in the middle of an attempt: failure, usage and release are recorded, and no transition."""
    world = given(THREE, put(rule()), admit("r1"), start("r1"), adopt(registry(provider("b"), model("gpt", "b"))))
    told = world.when(fail("r1", "timeout_idle", phase="body"))
    told.then(like(AttemptFailed, wait_ms=None), like(UsageRecorded), like(BudgetReleased))


def let_go(world: World) -> World:
    """Release the hold of r1 behind the attempt's back."""
    hold = world.state.budgets.holds["r1"]
    world.record([Draft("run-r1", release(hold, None, "settled"))])
    return world


def test_a_hold_is_never_released_twice() -> None:
    """An attempt whose hold is gone is settled without letting anything go."""
    world = let_go(given(THREE, put(rule()), admit("r1"), start("r1")))
    world.when(succeed("r1")).then(like(AttemptSucceeded), like(UsageRecorded))
    world = let_go(given(THREE, put(rule()), admit("r1"), start("r1")))
    world.when(fail("r1", status=500)).then(like(AttemptFailed))


def test_an_answer_of_an_excluded_model_readmits_it() -> None:
    """A run that was on its way when its model was excluded gives the proof that it works."""
    world = given(THREE, admit("r1"), start("r1"), admit("r2"), start("r2"), fail("r2", "model_unavailable"))
    told = world.when(succeed("r1"))
    assert told.outcome.facts[-1] == ModelReadmitted(model_id="gpt")
    assert told.outcome.recorded[-1].stream == "provider-a"
    assert told.outcome.recorded[-1].correlation == "run-r1"
