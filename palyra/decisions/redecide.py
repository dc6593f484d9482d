"""A capsule decided again: the same functions, the same ground, and a comparison event by event.

Taken as given is what came from outside: the request, what a provider answered and what it used, when something
happened, how long a slot was waited for, who gave up. What the functions make of it (plan, holds, waits, failovers,
circuits, exclusions, health, the end) must come out as it was recorded; whatever else is there is a difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

import msgspec

from palyra.decisions.attempts import (
    AnswerEnd,
    FailureEnd,
    StartAttempt,
    fail_attempt,
    reach_content,
    start_attempt,
    succeed_attempt,
)
from palyra.decisions.capsule import Capsule, recorded_of, stand_on
from palyra.decisions.failures import FAILURES, Failure
from palyra.decisions.given import jitter_of, metered_of, request_of
from palyra.decisions.health import transition
from palyra.decisions.recovery import recover_run
from palyra.decisions.routing import ready_at
from palyra.decisions.runs import admit, after_failure, cancel_run, complete_run, fail_run
from palyra.errors import Refusal
from palyra.events.approvals import ApprovalRequested, ApprovalUsed
from palyra.events.attempts import AttemptAbandoned, AttemptFailed, AttemptStarted, AttemptSucceeded
from palyra.events.auth import AuthProfileCooledDown
from palyra.events.base import Draft, Fact, UnknownEvent
from palyra.events.budgets import BudgetHardLimitReached, BudgetReleased, BudgetReserved, BudgetSoftLimitCrossed
from palyra.events.cache import CacheHit, CacheStored
from palyra.events.circuits import CircuitClosed
from palyra.events.daemon import DaemonClockStepped
from palyra.events.health import HealthChanged
from palyra.events.routing import Exclusion, RoutingDecided, RoutingFailedOver
from palyra.events.runs import (
    RunAdmitted,
    RunCancelled,
    RunCancelRequested,
    RunCompleted,
    RunFailed,
    RunHeld,
    RunRefused,
    RunResumed,
)
from palyra.events.usage import UsageRecorded
from palyra.events.vocabulary import VOCABULARY
from palyra.projections.catalog import provider_entry
from palyra.projections.circuits import provider_of
from palyra.projections.runs import Run
from palyra.projections.state import State, evolve

#: Refusals that a name causes; every other one without a plan was decided before the request got so far.
_OF_A_NAME = ("model_not_found", "model_disabled", "model_role_mismatch")
#: How far the facts of one step reach that tell of limits as well.
_COMMIT_EVENTS_COUNT = 64
#: The end of a run that a mistake of ours has stopped.
_BUG = "internal"

FactT = TypeVar("FactT", bound=Fact)


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """A field of a body that was decided otherwise; null where it is missing."""

    field: str
    recorded: Any
    decided: Any


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first event that was decided otherwise; a name is "" where one side has no event there."""

    position: int
    recorded: str
    decided: str
    fields: Sequence[Field] = ()


class Verdict(NamedTuple):
    """What deciding again has shown, and how many events it is about."""

    #: Decided again, and found the same.
    decided_count: int
    #: Taken as they were recorded.
    given_count: int
    difference: Difference | None


class _Differs(Exception):
    """The events go another way."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(difference)
        self.difference = difference


def redecide(capsule: Capsule) -> Verdict:
    """Decide a capsule's run again, up to the first difference.

    Raises `msgspec.DecodeError` for bodies of another shape.
    """
    again = _Redecision(capsule)
    difference = None
    try:
        while again.has_more:
            again.step()
    except _Differs as differs:
        difference = differs.difference
    return Verdict(again.decided_count, again.given_count, difference)


class _Redecision:
    """A state that stands on the capsule's ground, and the place in its events."""

    def __init__(self, capsule: Capsule) -> None:
        self.decided_count = 0
        self.given_count = 0
        self._run_id = capsule.run_id
        self._state = State()
        self._ground = list(capsule.ground)
        self._events = [recorded_of(event) for event in capsule.events]
        self._at = 0
        #: Where the run is: candidate of the plan, and which try at it.
        self._candidate = 0
        self._retry = 0
        #: The credential that the next attempt is made with, "" for the first that may be used.
        self._credential = ""
        #: The next attempt has been waited for.
        self._has_waited = False

    @property
    def _is_open(self) -> bool:
        return self._run_id in self._state.runs.open

    @property
    def has_more(self) -> bool:
        return self._at < len(self._events)

    def step(self) -> None:
        """Decide what was recorded in one commit, or the next part of it."""
        at, head = self._at, self._events[self._at]
        while self._ground and self._ground[0].position <= head.position:
            stand_on(self._state, self._ground.pop(0))
        body, now_us = head.body, head.recorded_at_us
        match body:
            case RunAdmitted() | RoutingDecided() | RunRefused() if not self._is_open:
                self._admit(now_us)
            case RunHeld() | RunResumed():
                self._take()  # how long somebody thinks about it is given
            case ApprovalRequested():
                self._ask(now_us)
            case BudgetSoftLimitCrossed() | BudgetHardLimitReached() if not self._is_open:
                self._take()
            case (
                BudgetSoftLimitCrossed()
                | BudgetHardLimitReached()
                | ApprovalUsed()
                | BudgetReserved()
                | AttemptStarted()
            ):
                self._start(now_us)
            case AttemptSucceeded():
                self._succeed(body, now_us)
            case AttemptFailed():
                self._fail(body, now_us)
            case CircuitClosed():
                self._expect(reach_content(self._state, self._run()))
            case HealthChanged():
                self._note_health(provider_of(head.stream), body.reason, now_us)
            case RoutingFailedOver():
                self._move_on(self._candidate, Failure(failure_class=body.trigger, phase="connect"), now_us)
            case AttemptAbandoned() | RunFailed(code="interrupted") | RunCancelled(reason="restart"):
                boot_id = body.boot_id if isinstance(body, AttemptAbandoned) else ""
                self._expect(recover_run(self._state, self._run(), boot_id=boot_id, now_us=now_us))
            case RunFailed(code="internal"):
                refusal = Refusal(code=_BUG, message="")
                self._expect([fail_run(self._run(), refusal, body.failure_class, now_us)])
            case RunFailed():
                self._move_on(self._candidate, Failure(failure_class=body.failure_class, phase="connect"), now_us)
            case RunCancelled():
                given = {name: getattr(body, name) for name in ("reason", "by", "policy", "drained")}
                self._expect(cancel_run(self._run(), **given, now_us=now_us))
            case RunCancelRequested() | DaemonClockStepped():
                self._take()
        if self._at == at:
            self._differ(None)

    # -- one decision each

    def _admit(self, now_us: int) -> None:
        admitted, decided = self._next(RunAdmitted, 1), self._next(RoutingDecided, 2)
        refused = self._next(RunRefused, _COMMIT_EVENTS_COUNT)
        asked = admitted or refused
        if self._next(CacheHit, 2) is not None:
            for _ in range(3):  # what is kept in memory is given: admission, hit and end
                self._take()
        elif refused is not None and decided is None and refused.code not in _OF_A_NAME:
            self._take()
        elif asked is not None:
            command = request_of(self._run_id, asked, decided, now_us)
            self._expect(admit(self._state, command, now_us).drafts)

    def _ask(self, now_us: int) -> None:
        """An open run asks when it cannot start, and ends with that; a held one goes on waiting."""
        failed = self._next(RunFailed, _COMMIT_EVENTS_COUNT)
        if not self._is_open or failed is None:
            self._take()
        else:
            self._move_on(self._candidate, Failure(failure_class=failed.failure_class, phase="connect"), now_us)

    def _start(self, now_us: int) -> None:
        run, started = self._run(), self._next(AttemptStarted, _COMMIT_EVENTS_COUNT)
        if started is None or run.attempt is not None or self._candidate >= len(run.plan):
            self._differ(None)
        step = run.plan[self._candidate]
        ready = ready_at(
            self._state,
            step,
            wanted=self._credential,
            agent_id=run.admitted.agent_id,
            has_waited=self._has_waited,
            now_us=now_us,
        )
        if isinstance(ready, Exclusion):
            # No start would be decided, so this ends in a difference.
            self._move_on(self._candidate, Failure(failure_class=ready.excluded_by, phase="connect"), now_us)
        else:
            self._credential = ready.credential_ref
            command = StartAttempt(
                candidate=self._candidate,
                retry=self._retry,
                credential_ref=ready.credential_ref,
                credential_revision=ready.revision,
                api=started.api,
                passthrough=started.passthrough,
                edits=started.edits,
                dropped=started.dropped,
                queue_wait_ms=started.queue_wait_ms,
                deadline_ms=started.deadline_ms,
            )
            self._expect(start_attempt(self._state, run, command, now_us))

    def _succeed(self, body: AttemptSucceeded, now_us: int) -> None:
        run, attempt = self._run(), self._attempt()
        end = msgspec.convert(body, AnswerEnd, from_attributes=True)
        self._expect(succeed_attempt(self._state, run, end, metered_of(self._next(UsageRecorded, 2)), now_us))
        self._retry = 0
        if isinstance(self._body(0), CacheStored):
            self._take()
        if isinstance(self._body(0), RunCompleted):
            step = run.plan[attempt.candidate]
            drafts = complete_run(run, stop=end.stop, step=step, now_us=now_us)
            self._expect(drafts)
        elif isinstance(self._body(0), RunCancelled):
            return  # whether its health was looked at in between is not told
        self._note_health(attempt.provider_id, "success", now_us)

    def _fail(self, body: AttemptFailed, now_us: int) -> None:
        run, attempt = self._run(), self._attempt()
        if body.failure_class not in FAILURES:
            self._differ(None)
        is_given_up = body.wait_ms is None and self._is_given_up()
        failure = msgspec.convert(body, Failure, from_attributes=True)
        end = FailureEnd(
            failure=failure,
            metered=metered_of(self._next(UsageRecorded, 2)),
            duration_us=body.duration_us,
            output_bytes=body.output_bytes,
            jitter_bp=jitter_of(
                body, attempt, provider_entry(self._state, attempt.provider_id), self._cooled_down(), now_us
            ),
        )
        failed = fail_attempt(self._state, run, end, now_us, may_retry=not is_given_up)
        self._expect(failed.drafts)
        if is_given_up:
            return
        self._has_waited = failed.wait_ms is not None
        if failed.credential_ref:
            self._credential = failed.credential_ref
        elif self._has_waited:
            self._retry += 1
        else:
            self._move_on(attempt.candidate, failure, now_us)
        self._note_health(attempt.provider_id, body.failure_class, now_us)

    def _move_on(self, candidate: int, failure: Failure, now_us: int) -> None:
        run = self._run()
        if failure.failure_class not in FAILURES:
            self._differ(None)
        following = after_failure(
            self._state, run, candidate=candidate, attempt=run.attempts_count, failure=failure, now_us=now_us
        )
        self._expect(following.drafts)
        if following.candidate is not None:
            self._candidate, self._retry, self._credential = following.candidate, 0, ""

    def _note_health(self, provider_id: str, reason: str, now_us: int) -> None:
        self._expect(transition(self._state, provider_id, reason=reason, now_us=now_us))

    # -- what the events tell of the outside

    def _is_given_up(self) -> bool:
        """Return whether somebody, and no rule, ended the run with the attempt at hand."""
        settling = (UsageRecorded, BudgetReleased)
        later = (self._events[at] for at in range(self._at + 1, len(self._events)))
        own = (one.body for one in later if one.stream == f"run-{self._run_id}")
        following = next((body for body in own if not isinstance(body, settling)), None)
        return isinstance(following, RunCancelled) or (isinstance(following, RunFailed) and following.code == _BUG)

    def _cooled_down(self) -> AuthProfileCooledDown | None:
        """Return the pause that the failure at hand put on its credential."""
        for one in self._events[self._at + 1 :]:
            if isinstance(one.body, AuthProfileCooledDown):
                return one.body
            if isinstance(one.body, AttemptStarted):
                break
        return None

    # -- the place in the events

    def _run(self) -> Run:
        run = self._state.runs.open.get(self._run_id)
        if run is None:
            self._differ(None)
        return run

    def _attempt(self) -> AttemptStarted:
        attempt = self._run().attempt
        if attempt is None:
            self._differ(None)
        return attempt

    def _body(self, ahead: int) -> Any:
        at = self._at + ahead
        return self._events[at].body if at < len(self._events) else None

    def _next(self, kind: type[FactT], count: int) -> FactT | None:
        """Return the fact of a kind among the next `count` events, the one at hand included."""
        bodies = [self._body(ahead) for ahead in range(count)]
        return next((body for body in bodies if isinstance(body, kind)), None)

    def _take(self) -> None:
        """Take the event at hand as it was recorded."""
        evolve(self._state, self._events[self._at])
        self._at += 1
        self.given_count += 1

    def _expect(self, drafts: Sequence[Draft]) -> None:
        """Compare what was decided with what was recorded, and fold it."""
        for draft in drafts:
            recorded = self._events[self._at] if self.has_more else None
            if recorded is None or recorded.stream != draft.stream:
                self._differ(draft)
            if VOCABULARY.encode(recorded.body) != VOCABULARY.encode(draft.body):
                self._differ(draft)
            evolve(self._state, recorded)
            self._at += 1
            self.decided_count += 1

    def _differ(self, decided: Draft | None) -> NoReturn:
        """End here: the event at hand, if there is one, is not what was decided, if anything was."""
        recorded = self._events[self._at] if self.has_more else None
        names = ["" if one is None else VOCABULARY.name_of(one.body) for one in (recorded, decided)]
        fields: list[Field] = []
        if recorded is not None and decided is not None and names[0] == names[1]:
            fields = _fields_that_differ(recorded.body, decided.body)
            if recorded.stream != decided.stream:
                fields.append(Field(field="stream", recorded=recorded.stream, decided=decided.stream))
        position = self._events[min(self._at, len(self._events) - 1)].position
        raise _Differs(Difference(position=position, recorded=names[0], decided=names[1], fields=fields))


def _fields_that_differ(recorded: Fact | UnknownEvent, decided: Fact | UnknownEvent) -> list[Field]:
    left, right = (
        msgspec.json.decode(VOCABULARY.encode_body(body), type=dict[str, Any]) for body in (recorded, decided)
    )
    return [
        Field(field=name, recorded=left.get(name), decided=right.get(name))
        for name in dict.fromkeys([*left, *right])
        if left.get(name) != right.get(name)
    ]
