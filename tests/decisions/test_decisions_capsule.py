"""Capsules in stories: what is in one, what must not be, and that deciding again finds what was changed."""

from __future__ import annotations

import msgspec
import pytest
from budget_kit import put, rule
from registries import THREE, model, provider, registry
from routing_kit import prices, routed
from story import (
    Outcome,
    Step,
    World,
    admit,
    adopt,
    boot,
    cancel,
    complete,
    fail,
    given,
    go_on,
    reach,
    record,
    recover,
    serve,
    start,
    succeed,
    wait,
)

from palyra.decisions.capsule import Capsule, CapsuleEvent, CapsuleMaker, Ground
from palyra.decisions.given import metered_of
from palyra.decisions.health import transition
from palyra.decisions.redecide import redecide
from palyra.decisions.usage import Metered
from palyra.events.daemon import DaemonClockStepped
from palyra.events.heartbeats import HeartbeatCleared
from palyra.events.incidents import IncidentResolved
from palyra.events.routing import Features, RoutingDecided
from palyra.events.runs import RunAdmitted, RunCancelRequested, RunFailed, RunRefused
from palyra.projections.state import State, evolve
from palyra.usage import TokenUsage

TOUCHY = registry(
    provider("a", circuit_breaker_failure_threshold=2, max_retries=1, base_url="https://a.example/v1"),
    provider("b", credential_ref="env:KEY_OF_B", headers={"x-team": "blue"}, rules=[{"reply": "planted"}]),
    model("gpt", "a", aliases=["fast"]),
    model("gpt", "b"),
    model("embed", "b", role="embeddings", dimensions=64),
)


def note(provider_id: str, reason: str, run_id: str) -> Step:
    """Look at a provider's health, as every settlement ends."""

    def step(world: World) -> Outcome:
        drafts = transition(
            world.state, provider_id, reason=reason, now_us=world.now_us, correlation=f"run-{run_id}"
        )
        return Outcome(recorded=world.record(drafts))

    return step


def ok(run_id: str, *, candidate: int = 0, at: str = "a", metered: Metered | None = None) -> Step:
    """Settle a complete answer and its run."""
    return lambda world: _all(
        world, succeed(run_id, metered), complete(run_id, candidate=candidate), note(at, "success", run_id)
    )


def broken(
    run_id: str, failure_class: str = "overloaded", *, at: str = "a", is_over: bool = False, **more: object
) -> Step:
    """Settle a failed attempt: tried again, or (`is_over`) on to the next candidate or the end."""

    def step(world: World) -> Outcome:
        attempt = world.run(run_id).attempt
        assert attempt is not None
        told = world.when(fail(run_id, failure_class, **more)).outcome  # type: ignore[arg-type]
        assert (told.wait_ms is None) == is_over
        if is_over:
            world.do(go_on(run_id, failure_class, after=attempt.candidate))
        return _all(world, note(at, failure_class, run_id))

    return step


def _all(world: World, *steps: Step) -> Outcome:
    world.do(*steps)
    return Outcome()


def capsule_of(world: World, run_id: str) -> Capsule:
    """Return a run's capsule as the engine makes it, of everything up to now."""
    first = world.stream(f"run-{run_id}")[0].position
    state = State()
    for one in world.history[: first - 1]:
        evolve(state, one)
    bodies = [one.body for one in world.stream(f"run-{run_id}")]
    asked = next((body for body in bodies if isinstance(body, RunAdmitted | RunRefused)), None)
    role = "" if asked is None else asked.endpoint
    maker = CapsuleMaker(state, run_id=run_id, role=role, key="01STORY", release="0.1.0", asked=asked)
    for one in world.history[first - 1 :]:
        maker.add(one)
    return maker.capsule()


def same(world: World, run_id: str = "r1") -> Capsule:
    """The run is decided again the same, every event of it; return its capsule."""
    capsule = capsule_of(world, run_id)
    verdict = redecide(capsule)
    assert verdict.difference is None
    assert verdict.decided_count + verdict.given_count == len(capsule.events)
    return capsule


STORIES: dict[str, list[Step]] = {
    "served": [admit("r1", "fast", stream=True), start("r1"), ok("r1")],
    "served without counts": [
        admit("r1"),
        start("r1"),
        ok("r1", metered=Metered(output_estimate_tokens=7, anomalies=("no_usage",))),
    ],
    "retried": [
        admit("r1"),
        start("r1"),
        broken("r1", jitter_bp=777),
        wait(ms=150),
        start("r1", retry=1),
        ok("r1"),
    ],
    "failed over": [
        admit("r1"),
        start("r1"),
        broken("r1"),
        start("r1", retry=1),
        broken("r1", is_over=True),
        start("r1", candidate=1),
        ok("r1", candidate=1, at="b"),
    ],
    "exhausted": [
        admit("r1", "b/gpt"),
        start("r1"),
        broken(
            "r1",
            "stream_truncated",
            at="b",
            phase="content",
            is_over=True,
            metered=Metered(output_estimate_tokens=9),
        ),
    ],
    "told to stop": [admit("r1", "a/gpt"), start("r1"), broken("r1", should_retry=False, is_over=True)],
    "told to wait": [admit("r1"), start("r1"), broken("r1", "rate_limited", retry_after_ms=400), wait(ms=500)],
    "cut with counts": [
        admit("r1", "a/gpt"),
        start("r1"),
        broken(
            "r1",
            "timeout_idle",
            phase="content",
            is_over=True,
            metered=Metered(reported=TokenUsage(input_tokens=80, output_tokens=3), output_estimate_tokens=2),
        ),
    ],
    "no such name": [admit("r1", "nobody")],
    "no candidate can": [admit("r1", needs=["tools"], raw_tokens=200_000)],
    "too many dimensions": [admit("r1", "embed", endpoint="embeddings", dimensions=128)],
    "some dimensions": [admit("r1", "embed", endpoint="embeddings", dimensions=32)],
    "without failover": [admit("r1", failover=False, timeout_ms=5_000), start("r1"), ok("r1")],
    "refused before": [record("run-r1", RunRefused(code="draining", http_status=503, endpoint="chat"))],
    "abandoned": [admit("r1"), start("r1"), wait(ms=900), boot(), recover()],
    "interrupted while queued": [admit("r1"), boot(), recover()],
    "cancelled": [admit("r1"), start("r1"), fail("r1", "cancelled", may_retry=False), cancel("r1", "operator")],
    "cancelled while queued": [admit("r1"), cancel("r1", "shutdown")],
    "cancelled, then the crash": [
        admit("r1"),
        start("r1"),
        record("run-r1", RunCancelRequested(reason="operator", by="key:boss")),
        boot(),
        recover(),
    ],
    "drained": [admit("r1"), start("r1"), succeed("r1"), cancel("r1")],
    "drained at one that had failed": [
        admit("r1"),
        start("r1"),
        broken("r1"),
        start("r1", retry=1),
        succeed("r1"),
        cancel("r1"),
        note("a", "success", "r1"),
    ],
    "stopped by a bug": [
        admit("r1"),
        start("r1"),
        fail("r1", "cancelled", may_retry=False),
        lambda world: Outcome(
            recorded=record("run-r1", RunFailed(code="internal", http_status=500, attempts_count=1))(world).recorded
        ),
    ],
    "left in the queue": [
        admit("r1"),
        go_on("r1", "provider_queue_full"),
        go_on("r1", "concurrency_timeout", after=1),
    ],
    "parts": [
        admit("r1", "embed", endpoint="embeddings"),
        start("r1"),
        succeed("r1"),
        note("b", "success", "r1"),
        start("r1"),
        ok("r1", at="b"),
    ],
    "still open": [admit("r1"), start("r1")],
}


@pytest.mark.parametrize("story", STORIES)
def test_a_run_is_decided_again_the_same(story: str) -> None:
    """However a run went, its capsule alone gives every one of its events again."""
    same(given(TOUCHY, *STORIES[story]))


def test_a_trial_is_decided_again() -> None:
    """A circuit that was open before the run, the trial and its closing belong to the run."""
    world = given(
        TOUCHY,
        *(
            step
            for run_id in ("r8", "r9")
            for step in (admit(run_id, "a/gpt"), start(run_id), fail(run_id), cancel(run_id))
        ),
        wait(ms=30_000),
        admit("r1", "a/gpt", stream=True),
        start("r1"),
        reach("r1"),
        ok("r1"),
    )
    capsule = same(world)
    assert capsule.ground[0].circuits["a"].status == "open"
    assert [event.name for event in capsule.events if event.stream == "provider-a"] == [
        "circuit.half_opened",
        "circuit.closed",
        "health.changed",
    ]


def test_the_trial_of_another_keeps_its_name_to_itself() -> None:
    """That somebody else has the trial is told, not who."""
    world = given(
        TOUCHY,
        *(
            step
            for run_id in ("r8", "r9")
            for step in (admit(run_id, "a/gpt"), start(run_id), fail(run_id), cancel(run_id))
        ),
        wait(ms=30_000),
        admit("r7", "a/gpt"),
        start("r7"),
        admit("r1", "a/gpt"),
    )
    circuit = same(world).ground[0].circuits["a"]
    assert (circuit.status, circuit.trial_run) == ("half_open", "another")


def test_what_others_changed_meanwhile_is_ground() -> None:
    """A circuit that others opened, a calibration that they taught, a configuration: told when they matter."""
    other = registry(provider("a", circuit_breaker_failure_threshold=9), TOUCHY.providers[1], *TOUCHY.models[:2])
    world = given(
        TOUCHY,
        admit("r1"),
        start("r1"),
        *(step for run_id in ("r8", "r9") for step in (admit(run_id), start(run_id), fail(run_id), cancel(run_id))),
        broken("r1", is_over=True),
        admit("r7", "b/gpt"),
        start("r7"),
        ok("r7", at="b"),
        adopt(other),
        admit("r6", "a/gpt"),
        start("r1", candidate=1),
        ok("r1", candidate=1, at="b"),
    )
    first, second, third = same(world).ground
    assert first.registry is not None
    assert (second.registry, second.circuits["a"].status, list(second.health)) == (None, "open", ["a"])
    assert third.registry is not None
    assert (third.generation, list(third.calibrations)) == (2, ["b/gpt-b"])
    capsule = capsule_of(world, "r1")
    without = msgspec.structs.replace(capsule, ground=[first, third])
    difference = redecide(without).difference
    assert difference is not None
    assert (difference.recorded, difference.decided) == ("attempt.failed", "attempt.failed")
    assert [(one.field, one.recorded) for one in difference.fields] == [("wait_ms", None)]


def test_how_long_answers_were_is_ground_of_the_admission_alone() -> None:
    """Histograms of the models and of the run's own agent, whose name is a token; other agents are left out."""
    world = given(
        TOUCHY,
        serve("r7", agent_id="butler"),
        serve("r8", agent_id="gardener"),
        admit("r1", agent_id="butler"),
        serve("r9"),
        start("r1"),
        ok("r1"),
    )
    first, *later = same(world).ground
    assert first.outputs["a/gpt"].samples_count == 2
    (key,) = first.agent_outputs
    assert (key.startswith("agent-"), first.agent_outputs[key].samples_count) == (True, 1)
    assert not any(ground.outputs or ground.agent_outputs for ground in later)


@pytest.mark.parametrize("each", [{}, {"small": None, "gpt": None, "large": None}])
def test_a_choice_names_the_price_list_that_it_was_made_by(each: dict[str, None]) -> None:
    """The number of the list is ground, with prices and without; a new list in between is told as well."""
    world = routed(prices(**each), prices(small=5), prices(**each), mode="enforced")
    world.do(admit("r1"), prices(small=7), start("r1"), ok("r1"))
    decided = world.facts(RoutingDecided)[-1]
    assert decided.basis is not None
    told = [ground.price_version for ground in same(world).ground if ground.prices is not None]
    assert told == [decided.basis.price_version, decided.basis.price_version + 1]


def test_what_was_seen_of_a_request_is_given() -> None:
    """How demanding it was decided which model served; nobody decides so again who is not told."""
    asked = admit("r1", "palyra/auto", features=Features(keywords=5, tools=3))
    world = routed(asked, mode="enforced")
    assert world.facts(RoutingDecided)[-1].features == Features(keywords=5, tools=3)
    same(world.do(start("r1"), ok("r1")))


def test_how_long_answers_took_is_ground_of_the_admission_alone() -> None:
    """The model that was fastest lately serves; nobody decides so again who is not told how fast it was."""
    slow = succeed("r7", duration_us=5_000_000)
    world = routed(admit("r7", "palyra/fast"), start("r7"), slow, complete("r7"), mode="enforced")
    world.do(admit("r1", "palyra/fast"), serve("r9"), start("r1"), ok("r1", at="b"))
    capsule = same(world)
    first, *later = capsule.ground
    assert first.latencies == {"a/small": [20]}
    assert not any(ground.latencies for ground in later)
    untold = msgspec.structs.replace(first, latencies={})
    difference = redecide(msgspec.structs.replace(capsule, ground=[untold, *later])).difference
    assert difference is not None
    assert difference.recorded == "routing.decided"


def test_a_step_of_the_clock_belongs_to_every_run() -> None:
    """It moves the deadline and is left out of the duration."""
    stepped = DaemonClockStepped(cause="step", wall_before_us=0, wall_after_us=60_000_000, monotonic_elapsed_us=0)
    world = given(TOUCHY, admit("r1"), start("r1"), record("daemon", stepped), wait(ms=60_000), ok("r1"))
    assert "daemon.clock_stepped" in [event.name for event in same(world).events]


def test_nobody_is_in_a_capsule() -> None:
    """Who asked, what was said, where providers are, credentials and digests are not in it; tokens are stable."""
    world = given(
        TOUCHY,
        admit(
            "r1",
            "sk-abcdefghijklmnop",
            principal_id="key:alice",
            key_id="01KEY",
        ),
        admit(
            "r2",
            principal_id="key:alice",
            key_id="01KEY",
            session_id="key:alice/diary",
            agent_id="butler",
            tags={"project": "moonshot"},
            body_digest="d1ge57" * 10,
        ),
        start("r2", candidate=0),
        fail("r2", message="You said: moonshot", code="sk-abcdefghijklmnop", may_retry=False),
        go_on("r2"),
        start("r2", candidate=1),
        succeed(
            "r2", upstream_request_id="req-1", upstream_response_id="resp-1", upstream_model="other", raw_stop="end"
        ),
        record("beat-run-r2", HeartbeatCleared(work_kind="run", work_id="r2", because="ended")),
        cancel("r2", "operator"),
        record("incident-1", IncidentResolved(because="boot")),
    )
    capsules = [capsule_of(world, run_id) for run_id in ("r1", "r2")]
    text = msgspec.json.encode(capsules).decode()
    for secret in (
        "alice 01KEY diary butler moonshot d1ge57 req-1 resp-1 sk-abcdef example KEY_OF_B blue planted"
        " heartbeat incident 01STORY".split()
    ):
        assert secret not in text
    first, second = (capsule.events[0].body["principal_id"] for capsule in capsules)
    assert first == second
    assert first.startswith("principal-")
    assert capsules[1].events[0].body["key_id"].startswith("key-")


def changed(capsule: Capsule, name: str, **fields: object) -> Capsule:
    """Return the capsule with other fields in the first event of a name."""
    events = list(capsule.events)
    at = next(at for at, event in enumerate(events) if event.name == name)
    body = {key: value for key, value in {**events[at].body, **fields}.items() if value is not None}
    events[at] = msgspec.structs.replace(events[at], body=body)
    return msgspec.structs.replace(capsule, events=events)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("run.admitted", {"config_generation": 7}),
        ("routing.decided", {"resolved_by": "alias"}),
        ("budget.reserved", {"expires_us": 1}),
        ("attempt.started", {"candidate": 1}),
        ("attempt.failed", {"wait_ms": 999}),
        ("attempt.failed", {"wait_ms": None}),
        ("attempt.failed", {"counted": None}),
        ("attempt.failed", {"failure_class": "new_in_another_release"}),
        ("usage.recorded", {"attempt": 5}),
        ("budget.released", {"because": "expired"}),
        ("attempt.started", {"input_max_tokens": 1}),
        ("circuit.opened", {"until_us": 1}),
        ("routing.failed_over", {"remaining_count": 9}),
        ("routing.failed_over", {"trigger": "timeout_idle"}),
        ("health.changed", {"after": "healthy"}),
        ("run.completed", {"duration_us": 1}),
    ],
)
def test_what_was_changed_is_found(name: str, fields: dict[str, object]) -> None:
    """Whichever decided field is another one, the first difference names its event."""
    capsule = same(given(TOUCHY, put(rule()), *STORIES["failed over"]))
    assert redecide(changed(capsule, name, **fields)).difference is not None


def test_a_difference_names_event_and_field() -> None:
    """Position, name, and both values."""
    capsule = changed(same(given(TOUCHY, *STORIES["served"])), "attempt.started", input_max_tokens=1)
    verdict = redecide(capsule)
    difference = verdict.difference
    assert difference is not None
    assert (difference.position, difference.recorded, difference.decided) == (
        capsule.events[2].position,
        "attempt.started",
        "attempt.started",
    )
    assert [(one.field, one.recorded, one.decided) for one in difference.fields] == [("input_max_tokens", 1, 130)]
    assert (verdict.decided_count, verdict.given_count) == (2, 0)


def without(capsule: Capsule, *names: str) -> Capsule:
    events = [event for event in capsule.events if event.name not in names]
    return msgspec.structs.replace(capsule, events=events)


@pytest.mark.parametrize(
    ("names", "recorded", "decided"),
    [
        (["run.admitted", "routing.decided"], "budget.reserved", ""),
        (["run.admitted"], "routing.decided", ""),
        (["attempt.started"], "budget.reserved", ""),
        (["budget.reserved"], "attempt.started", "budget.reserved"),
        (["budget.reserved", "attempt.started"], "attempt.succeeded", ""),
        (["attempt.succeeded"], "usage.recorded", ""),
        (["health.changed"], "", "health.changed"),
        (["run.completed"], "", ""),
    ],
)
def test_what_is_missing_is_found(names: list[str], recorded: str, decided: str) -> None:
    """An event that others need, or that is decided and not there, is a difference."""
    capsule = without(same(given(TOUCHY, put(rule()), *STORIES["served"])), *names)
    difference = redecide(capsule).difference
    if names == ["run.completed"]:
        assert difference is None  # a run that goes on
    else:
        assert difference is not None
        assert (difference.recorded, difference.decided) == (recorded, decided)


@pytest.mark.parametrize("stream", ["provider-b", "run-r2"])
def test_an_event_of_another_stream_is_found(stream: str) -> None:
    """What happened must have happened to the same run and provider."""
    capsule = same(given(TOUCHY, *STORIES["failed over"]))
    at = next(at for at, event in enumerate(capsule.events) if event.name == "circuit.opened")
    events = [*capsule.events]
    events[at] = msgspec.structs.replace(events[at], stream=stream)
    difference = redecide(msgspec.structs.replace(capsule, events=events)).difference
    assert difference is not None
    assert [(one.field, one.recorded, one.decided) for one in difference.fields] == [
        ("stream", stream, "provider-a")
    ]


def test_an_end_that_nobody_decided_is_found() -> None:
    """A failed run whose class no table has, and one whose plan is at its end."""
    capsule = same(given(TOUCHY, *STORIES["left in the queue"]))
    assert redecide(changed(capsule, "run.failed", failure_class="unheard_of")).difference is not None
    capsule = same(given(TOUCHY, *STORIES["still open"]))
    event = CapsuleEvent(
        position=99,
        stream="run-r1",
        recorded_at_us=1,
        name="journal.created",
        schema=1,
        body={"journal_id": "x", "release": "y"},
    )
    difference = redecide(msgspec.structs.replace(capsule, events=[*capsule.events, event])).difference
    assert difference is not None
    assert (difference.position, difference.recorded) == (99, "journal.created")


def test_a_start_at_a_provider_that_was_left_alone_is_found() -> None:
    """Where the circuit was open, moving on is what is decided."""
    capsule = same(given(TOUCHY, *STORIES["served"]))
    opened = given(TOUCHY, *(s for r in ("r8", "r9") for s in (admit(r, "a/gpt"), start(r), fail(r), cancel(r))))
    circuit = opened.state.circuits.by_provider["a"]
    later = Ground(position=capsule.events[2].position, circuits={"a": circuit})
    difference = redecide(msgspec.structs.replace(capsule, ground=[*capsule.ground, later])).difference
    assert difference is not None
    assert (difference.recorded, difference.decided) == ("attempt.started", "routing.failed_over")


def test_an_empty_capsule_has_nothing_to_decide() -> None:
    """Nothing recorded, nothing different."""
    capsule = Capsule(release="0.1.0", run_id="r1", ground=[], events=[])
    assert redecide(capsule) == (0, 0, None)


def test_a_capsule_shares_nothing_with_the_state() -> None:
    """Making one and deciding it again leaves the state it came from as it was."""
    world = given(THREE, *STORIES["failed over"][:3])
    before = msgspec.msgpack.encode(world.state)
    same(world)
    assert msgspec.msgpack.encode(world.state) == before


def test_an_attempt_without_a_row_consumed_nothing() -> None:
    """What was never recorded cannot be decided again from a number."""
    assert metered_of(None) == Metered()
