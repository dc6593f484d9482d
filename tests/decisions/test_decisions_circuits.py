"""The breaker, row by row: closed, open, the one trial, and every way in which the trial can end."""

from __future__ import annotations

import pytest
from registries import model, provider, registry
from story import (
    T0_US,
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
    like,
    reach,
    record,
    recover,
    serve,
    start,
    succeed,
    wait,
)

from palyra.decisions.circuits import at_failure, force
from palyra.events.attempts import AttemptAbandoned, AttemptFailed, AttemptStarted, AttemptSucceeded
from palyra.events.circuits import CircuitClosed, CircuitHalfOpened, CircuitOpened
from palyra.events.runs import RunFailed
from palyra.events.usage import UsageRecorded
from palyra.projections.circuits import Circuit, circuit_of, is_passable
from palyra.units import US_PER_MS

#: Two failures open the circuit for a second.
CONFIG = registry(
    provider("a", circuit_breaker_failure_threshold=2, circuit_breaker_cooldown_ms=1_000, max_retries=5),
    model("gpt", "a"),
)


def circuit(world: World) -> Circuit:
    return circuit_of(world.state, "a")


def opened(*later: Step) -> World:
    """A world whose circuit has just opened."""
    return given(
        CONFIG, admit("r1"), start("r1"), fail("r1"), start("r1", retry=1), fail("r1"), go_on("r1"), *later
    )


def on_trial(*later: Step) -> World:
    """A world whose trial is out: run r2, attempt 1."""
    return opened(wait(ms=1_000), admit("r2"), start("r2"), *later)


def test_counted_failures_in_a_row_open_the_circuit_retries_one_by_one() -> None:
    """The second failure, a retry of the first, reaches the threshold; the circuit stays open for the cooldown."""
    world = given(CONFIG, admit("r1"), start("r1"), fail("r1"))
    assert world.facts(CircuitOpened) == []
    world.do(start("r1", retry=1))
    told = world.when(fail("r1"))
    told.then(
        like(AttemptFailed, counted=True, wait_ms=None),
        like(UsageRecorded),
        CircuitOpened(until_us=T0_US + 1_000 * US_PER_MS, reason="threshold", failures_count=2),
    )
    assert told.outcome.recorded[-1].correlation == "run-r1"


def test_the_failure_that_opens_the_circuit_is_not_tried_again() -> None:
    """No wait before a candidate that nobody may call."""
    world = given(CONFIG, admit("r1"), start("r1"))
    assert world.when(fail("r1")).outcome.wait_ms is not None
    world.do(start("r1", retry=1))
    assert world.when(fail("r1")).outcome.wait_ms is None


def test_a_success_between_two_failures_keeps_it_closed() -> None:
    """Only failures in a row count; an answer starts the row anew."""
    world = given(CONFIG)
    for number in range(4):
        world.do(admit(f"bad-{number}"), start(f"bad-{number}"), fail(f"bad-{number}"), go_on(f"bad-{number}"))
        world.do(serve(f"good-{number}"))
    assert world.facts(CircuitOpened) == []
    assert circuit(world).streak == 0


@pytest.mark.parametrize("failure_class", ["invalid_request", "rate_limited", "auth_invalid", "quota_exceeded"])
def test_a_storm_of_the_callers_faults_leaves_the_circuit_closed(failure_class: str) -> None:
    """What the breaker does not count never opens it."""
    world = given(CONFIG)
    for number in range(20):
        run_id = f"r{number}"
        world.do(admit(run_id), start(run_id), fail(run_id, failure_class), go_on(run_id, failure_class))
    assert circuit(world).status == "closed"
    assert circuit(world).streak == 0


def test_while_open_no_request_gets_through() -> None:
    """All circuits open: 503 with the time that is left."""
    refusal = opened(wait(ms=400)).when(admit("r2")).refused("all_circuits_open")
    assert refusal.retry_after_ms == 1_000
    assert refusal.http_status == 503


def test_after_the_cooldown_the_next_attempt_is_the_trial() -> None:
    """The attempt that finds the cooldown over half-opens the circuit, in the same commit."""
    told = opened(wait(ms=1_000), admit("r2")).when(start("r2"))
    told.then(like(AttemptStarted, trial=True), CircuitHalfOpened(run_id="r2", attempt=1))


def test_there_is_one_trial_at_a_time() -> None:
    """Everybody else sees the circuit open as long as the trial is out, a minute later too."""
    on_trial(wait(ms=60_000)).when(admit("r3")).refused("all_circuits_open")


def test_a_trial_that_answers_closes_the_circuit() -> None:
    """A complete answer: closed, the row of failures forgotten."""
    world = on_trial()
    world.when(succeed("r2")).then(like(AttemptSucceeded), like(UsageRecorded), CircuitClosed())
    assert circuit(world) == Circuit(opened_count=1, changed_us=world.now_us)


def test_content_closes_the_circuit_before_the_answer_is_complete() -> None:
    """A stream that has begun to speak is proof enough; its end says nothing more about the circuit."""
    world = on_trial()
    world.when(reach("r2")).then(CircuitClosed())
    world.when(reach("r2")).then()
    world.do(succeed("r2"))
    world.when(reach("r2")).then()
    assert len(world.facts(CircuitClosed)) == 1


def test_an_attempt_that_is_no_trial_closes_nothing() -> None:
    """An answer of an attempt that was on its way before the circuit opened leaves it open."""
    world = given(CONFIG, admit("slow"), start("slow"))
    world.do(admit("r1"), start("r1"), fail("r1"), start("r1", retry=1), fail("r1"), go_on("r1"))
    world.do(wait(ms=1_000), admit("r2"), start("r2"))
    world.when(reach("slow")).then()
    world.do(succeed("slow"))
    assert circuit(world).status == "half_open"


def test_a_trial_that_fails_opens_the_circuit_again() -> None:
    """Counted: open for another cooldown, and no retry."""
    told = on_trial().when(fail("r2", "timeout_first_byte"))
    assert told.outcome.wait_ms is None
    assert told.outcome.facts[-1] == CircuitOpened(
        until_us=T0_US + 2_000 * US_PER_MS, reason="trial_failed", failures_count=3
    )


@pytest.mark.parametrize("failure_class", ["rate_limited", "invalid_request", "cancelled", "client_disconnected"])
def test_a_trial_that_ends_uncounted_is_void(failure_class: str) -> None:
    """Nothing was learnt: open until now, so that the next attempt is the trial."""
    world = on_trial()
    told = world.when(fail("r2", failure_class))
    assert told.outcome.facts[-1] == CircuitOpened(until_us=world.now_us, reason="trial_void", failures_count=2)
    world.do(admit("r3"))
    world.when(start("r3")).then(like(AttemptStarted, trial=True), CircuitHalfOpened(run_id="r3", attempt=1))


def test_a_crash_in_the_trial_makes_it_void() -> None:
    """The next process finds the trial abandoned: open until now, and the next attempt is the trial."""
    world = on_trial(boot())
    world.when(recover()).then(
        like(AttemptAbandoned),
        like(UsageRecorded),
        CircuitOpened(until_us=world.now_us, reason="trial_void", failures_count=2),
        like(RunFailed, code="interrupted"),
    )
    world.do(admit("r3"), start("r3"))
    assert circuit(world).trial_run == "r3"


def test_an_open_circuit_outlives_the_process() -> None:
    """State is a fold: after a restart the circuit is as it was."""
    opened(boot(), recover()).when(admit("r2")).refused("all_circuits_open")


def test_a_failure_that_comes_late_does_not_open_it_twice() -> None:
    """An attempt that was on its way fails after the circuit has opened: one more in the row, and no retry."""
    world = given(CONFIG, admit("slow"), start("slow"))
    world.do(admit("r1"), start("r1"), fail("r1"), start("r1", retry=1), fail("r1"), go_on("r1"))
    assert world.when(fail("slow")).outcome.wait_ms is None
    assert len(world.facts(CircuitOpened)) == 1
    assert circuit(world).streak == 3


def test_the_trial_of_a_provider_that_was_removed_is_void() -> None:
    """A reload without the provider leaves no circuit half-open for ever: whoever brings it back may try it."""
    world = on_trial(adopt(registry(provider("b"), model("gpt", "b"))))
    told = world.when(fail("r2"))
    assert told.outcome.facts[-1] == CircuitOpened(until_us=world.now_us, reason="trial_void", failures_count=2)
    assert told.outcome.wait_ms is None
    world.do(cancel("r2"), adopt(CONFIG), admit("r3"), start("r3"), succeed("r3"), complete("r3"))
    assert circuit(world).status == "closed"


def test_an_outage_reaches_upstream_as_often_as_the_threshold_and_its_trials() -> None:
    """Fifteen requests to a dead provider within two cooldowns: two attempts to open it, then one a cooldown."""
    world = given(CONFIG)
    for number in range(15):
        run_id = f"r{number}"
        world.do(admit(run_id))
        if run_id in world.state.runs.open:
            world.do(start(run_id), fail(run_id, may_retry=False), go_on(run_id))
        world.do(wait(ms=150))
    assert len(world.facts(AttemptStarted)) == 2 + 1


def test_a_circuit_that_is_forced_open_stays_open() -> None:
    """For as long as it was asked for, then it lets its trial pass; or until somebody closes it."""
    for for_ms in (60_000, None):
        forced = force(Circuit(), after="open", for_ms=for_ms, now_us=T0_US)
        world = given(CONFIG, record("provider-a", forced))
        circuit = circuit_of(world.state, "a")
        assert not is_passable(circuit, T0_US + 59_000_000)
        assert is_passable(circuit, T0_US + 60_000_000) == (for_ms is not None)
        world.do(record("provider-a", force(circuit, after="closed", for_ms=None, now_us=T0_US)))
        assert is_passable(circuit_of(world.state, "a"), T0_US)


def test_a_circuit_that_is_forced_closed_stays_closed() -> None:
    """No failure opens it meanwhile; afterwards they count again, from the first."""
    circuit = Circuit(streak=9)
    forced = force(circuit, after="closed", for_ms=60_000, now_us=T0_US)
    world = given(CONFIG, record("provider-a", forced))
    circuit = circuit_of(world.state, "a")
    assert (circuit.status, circuit.streak) == ("closed", 0)
    circuit.streak = 99
    assert at_failure_at(circuit, T0_US + 59_999_999) is None
    assert at_failure_at(circuit, T0_US + 60_000_000) is not None
    assert force(Circuit(), after="closed", for_ms=None, now_us=T0_US).until_us == 0


def at_failure_at(circuit: Circuit, now_us: int) -> object:
    """Return what a counted failure opens."""
    return at_failure(circuit, run_id="r1", attempt=1, counted=True, threshold=5, cooldown_ms=30_000, now_us=now_us)
