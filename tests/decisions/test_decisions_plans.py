"""Plans that came out empty, what is sent upstream, and the walk along a plan after failures."""

from __future__ import annotations

import pytest
from registries import THREE, model, provider, registry
from story import (
    T0_US,
    admit,
    adopt,
    boot,
    fail,
    given,
    like,
    record,
    start,
)

from palyra.decisions.routing import next_candidate, output_cap, refusal_of_empty_plan
from palyra.events.circuits import CircuitOpened
from palyra.events.registry import Capabilities
from palyra.events.routing import Exclusion, PlanStep, RoutingDecided
from palyra.events.runs import RunAdmitted, RunRefused
from palyra.units import US_PER_MS


def excluded(by: str, **figures: int) -> Exclusion:
    return Exclusion(provider_id="a", model_id="gpt", excluded_by=by, figures=figures)


@pytest.mark.parametrize(
    ("exclusions", "code", "param", "said"),
    [
        ([excluded("capability_missing:json_schema")], "capability_missing", "response_format", "json_schema"),
        ([excluded("capability_missing:telepathy")], "capability_missing", None, "telepathy"),
        (
            [
                excluded("capability_missing:tools"),
                excluded("event_limit", estimated_tokens=9, limit_tokens=5),
                excluded("context_too_small", needed_tokens=12, window_tokens=8),
            ],
            "max_model_tokens_per_event_exceeded",
            "messages",
            "more than the 5",
        ),
        (
            [
                excluded("capability_missing:tools"),
                excluded("context_too_small", needed_tokens=12, window_tokens=8),
            ],
            "context_window_exceeded",
            "messages",
            "about 12 tokens",
        ),
        ([excluded("dimensions_differ", asked=9, has=8)], "unsupported_parameter", "dimensions", "at most 8"),
        (
            [excluded("capability_missing:tools"), excluded("dimensions_differ", asked=9, has=8)],
            "unsupported_parameter",
            "dimensions",
            "at most 8",
        ),
        ([excluded("capability_missing:tools"), excluded("disabled")], "no_candidate", None, "models status"),
        ([excluded("circuit_open", until_us=T0_US), excluded("model_excluded")], "no_candidate", None, ""),
        ([], "no_candidate", None, ""),
    ],
)
def test_an_empty_plan_is_the_requests_fault_only_if_it_explains_every_exclusion(
    exclusions: list[Exclusion], code: str, param: str | None, said: str
) -> None:
    """400 where another request could be served, naming the field; 503 in every other case."""
    refusal = refusal_of_empty_plan(exclusions, T0_US)
    assert (refusal.code, refusal.param) == (code, param)
    assert said in refusal.message
    rows = refusal.details["candidates"]
    assert [row["excluded_by"] for row in rows] == [one.excluded_by for one in exclusions]


@pytest.mark.parametrize(("left_ms", "retry_after_ms", "said"), [(7_300, 7_300, "8 s"), (10, 1_000, "1 s")])
def test_all_circuits_open_says_when_the_first_may_close(left_ms: int, retry_after_ms: int, said: str) -> None:
    """Retry-After is the least time that is left, and a second at least."""
    refusal = refusal_of_empty_plan(
        [
            excluded("circuit_open", until_us=T0_US + 20_000_000),
            excluded("circuit_open", until_us=T0_US + left_ms * US_PER_MS),
        ],
        T0_US,
    )
    assert (refusal.code, refusal.retry_after_ms) == ("all_circuits_open", retry_after_ms)
    assert said in refusal.message


def test_who_is_left_alone_for_ever_is_not_waited_for() -> None:
    """A circuit that somebody holds open ends by somebody's doing; no client is told to come back in ages."""
    for_ever = excluded("circuit_open", until_us=T0_US + 2 * 86_400_000_000)
    assert refusal_of_empty_plan([for_ever], T0_US).retry_after_ms is None
    soon = excluded("model_excluded", until_us=T0_US + 7_000_000)
    refusal = refusal_of_empty_plan([for_ever, soon, excluded("disabled")], T0_US)
    assert (refusal.code, refusal.retry_after_ms) == ("no_candidate", 7_000)
    assert refusal.message.endswith("Try again in 7 s.")


def test_a_request_that_nobody_can_serve_is_refused_with_its_plan_on_record() -> None:
    """The plan that came out empty stands before the refusal, so that the refusal can be explained."""
    config = registry(provider("a"), model("gpt", "a", capabilities=Capabilities()))
    told = given(config).when(admit("r1", needs=["tools"]))
    told.then(like(RoutingDecided, plan=[], output_cap_tokens=None), like(RunRefused, code="capability_missing"))
    assert told.refused("capability_missing").param == "tools"


@pytest.mark.parametrize(
    ("asked", "limit", "cap"), [(None, 128_000, None), (50, 128_000, 50), (300, 200, 200), (200, 200, 200)]
)
def test_only_the_event_limit_lowers_what_a_client_asked_for(
    asked: int | None, limit: int, cap: int | None
) -> None:
    """A maximum below the limit is sent as it is, one above is lowered, and none is invented."""
    config = registry(provider("a"), model("gpt", "a", max_tokens_per_event=limit))
    [routing] = given(config, admit("r1", output_max_tokens=asked)).facts(RoutingDecided)
    assert (routing.output_requested_tokens, routing.output_cap_tokens) == (asked, cap)


def test_a_model_that_left_the_registry_keeps_what_was_asked() -> None:
    """After a reload without the model there is no limit to apply."""
    step = PlanStep(provider_id="a", model_id="gone", upstream_model="gone")
    assert output_cap(given().state, step, "chat", 70) == 70


def test_needs_are_recorded_sorted_and_a_stream_needs_streaming() -> None:
    """What was needed stands in `run.admitted`, in one order whatever the client's was."""
    world = given(THREE, admit("r1", needs=["vision", "tools"], stream=True))
    assert world.facts(RunAdmitted)[0].needs == ["tools", "vision"]


def test_the_next_candidate_is_the_first_that_is_ready_and_new() -> None:
    """Walking on passes over open circuits and over what has failed in this run, and says so."""
    config = registry(
        provider("a"),
        provider("b"),
        model("gpt", "a", fallbacks=["x", "gpt2"]),
        model("x", "b"),
        model("gpt2", "a"),
    )
    world = given(
        config,
        admit("r1"),
        record("provider-b", CircuitOpened(until_us=T0_US + 10**9, reason="threshold")),
        start("r1"),
        fail("r1", may_retry=False),
    )
    run = world.run("r1")
    run.plan = [*run.plan, run.plan[0]]
    index, skipped = next_candidate(world.state, run, 0, world.now_us)
    assert (index, [one.excluded_by for one in skipped]) == (2, ["circuit_open"])
    index, skipped = next_candidate(world.state, run, 2, world.now_us)
    assert (index, [one.excluded_by for one in skipped]) == (None, ["duplicate"])


@pytest.mark.parametrize(
    ("first_window", "windows", "index"),
    [(1_000, [500, 1_000, 2_000], 3), (1_000, [None], None), (1_000, [900], None), (None, [None], 1)],
)
def test_after_a_window_was_too_small_only_a_larger_one_follows(
    first_window: int | None, windows: list[int | None], index: int | None
) -> None:
    """A window of unknown size is not known to be larger; if the first one's is unknown, any may be."""
    names = [f"m{number}" for number in range(len(windows))]
    config = registry(
        provider("a"),
        model("gpt", "a", max_context_tokens=first_window, fallbacks=names),
        *(model(name, "a", max_context_tokens=window) for name, window in zip(names, windows, strict=True)),
        failover_max_candidates=8,
    )
    world = given(config, admit("r1", raw_tokens=10))
    found, skipped = next_candidate(world.state, world.run("r1"), 0, T0_US, needs_larger_window=True)
    assert found == index
    assert {one.excluded_by for one in skipped} <= {"context_too_small"}


def test_a_window_that_left_the_registry_is_unknown() -> None:
    """Nothing is known about the window of a model that was removed while the run was on."""
    world = given(THREE, admit("r1"), adopt(registry(provider("b"), model("gpt", "b", max_context_tokens=1_000))))
    found, _ = next_candidate(world.state, world.run("r1"), 0, T0_US, needs_larger_window=True)
    assert found == 1


def test_a_candidate_that_was_taken_out_gets_nothing_more() -> None:
    """The plan keeps its place, and the way leads past it."""
    world = given(THREE, admit("r1"), adopt(registry(provider("c"), model("gpt", "c"))))
    found, skipped = next_candidate(world.state, world.run("r1"), 0, T0_US)
    assert found == 2
    assert [(one.provider_id, one.excluded_by) for one in skipped] == [("b", "model_unavailable")]


def test_a_reload_in_the_middle_of_a_run_leaves_its_plan_alone() -> None:
    """The plan is made once; what was decided at admission is walked to its end."""
    world = given(THREE, admit("r1"))
    before = world.run("r1").plan
    world.do(adopt(registry(provider("c"), model("gpt", "c"))), boot())
    assert world.run("r1").plan == before
