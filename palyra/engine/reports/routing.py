"""What routing decided, what came of it, and what another mode would have made of it.

A request that was tried out (`dry_run`) carries where it would have gone; the two are compared by what either was
expected to cost, since nobody knows how long the other model's answer would have been. A hint (`suggest`) was
followed where the next request of the session names the model that was hinted at.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from palyra.engine.questions import Answer
from palyra.engine.reports.figures import Histogram
from palyra.engine.reports.scope import Scope, where_of
from palyra.events import attempts, routing, runs, usage
from palyra.events.base import Recorded
from palyra.units import BP_PER_UNIT

#: What is looked at, of all that is recorded.
NAMES = (
    "run.admitted", "run.refused", "run.completed", "run.failed", "run.cancelled", "routing.decided",
    "attempt.started", "usage.recorded",
)  # fmt: skip


class DecisionAnswer(Answer, frozen=True, kw_only=True):
    """One decision, and what came of it."""

    run_id: str
    position: int
    at_us: int
    principal_id: str
    session_id: str
    agent_id: str
    endpoint: str
    task_class: str
    mode: str
    model_requested: str
    #: Null, and "" for the next ones, where there was nothing to choose.
    complexity_bp: int | None
    strategy: str
    recommended: str
    #: `provider/model` that was tried last; "" where nobody was asked.
    served: str
    #: Where enforced would have gone; "" where that was not tried out.
    would: str
    action: str
    reason_codes: list[str]
    budget_outcome: str
    #: Null where they are not known.
    expected_nanousd: int | None
    would_nanousd: int | None
    #: Sum of what is known.
    cost_nanousd: int
    cost_complete: bool
    #: open, completed, failed, cancelled or refused.
    state: str


class Comparison(Answer, frozen=True, kw_only=True):
    """Requests of a class that one model served and enforced would have given to another, or left there."""

    task_class: str
    served: str
    #: "" where enforced would have refused them.
    would: str
    runs: int
    #: What they cost, as far as it is known.
    cost_nanousd: int
    cost_complete: bool
    #: Of those where both are known: how many, what they were expected to cost, and what they would have been.
    compared_runs: int
    expected_nanousd: int
    would_nanousd: int


class HintFigures(Answer, frozen=True, kw_only=True):
    """Hints at another model, those that a request of the same session came after, and those that it followed."""

    given: int
    answered: int
    followed: int
    #: Of those that were answered; null without any.
    followed_bp: int | None


class RoutingFigures(Answer, frozen=True, kw_only=True):
    """Decisions by what they were."""

    decisions: int
    modes: dict[str, int]
    strategies: dict[str, int]
    actions: dict[str, int]
    #: Somebody named a model and another one served.
    overridden: int
    #: A rule about usage left only some models.
    downgraded: int
    blocked: int
    #: What enforced would have saved of requests that were tried out: expected beside expected, less than 0 where
    #: it would have cost more.
    would_save_nanousd: int
    would_save_runs: int
    hints: HintFigures


class _Compared:
    """A comparison while it is added up."""

    def __init__(self) -> None:
        self.runs = self.cost_nanousd = self.unpriced_runs = 0
        self.compared_runs = self.expected_nanousd = self.would_nanousd = 0


class _Open(msgspec.Struct):
    """A request that has not ended at the row that is read."""

    position: int
    at_us: int
    admitted: runs.RunAdmitted | None = None
    decided: routing.RoutingDecided | None = None
    served: tuple[str, str] = ("", "")
    cost_nanousd: int = 0
    is_complete: bool = True
    attempts: int = 0
    #: Model that the request before it in the session was told to take; None where there was none.
    hinted: str | None = None


class Choices:
    """Decisions of a scope. Feed it facts in order, then `close` it."""

    reads = NAMES

    def __init__(self, scope: Scope, recent_count: int = 0) -> None:
        self.cost_errors_bp: dict[tuple[str, str], Histogram] = {}
        self._recent: deque[DecisionAnswer] = deque(maxlen=recent_count)
        self._scope = scope
        self._wanted = scope.filters.wanted()
        self._open: dict[str, _Open] = {}
        #: By session: the model that was hinted at last.
        self._hints: dict[str, str] = {}
        self._modes: dict[str, int] = {}
        self._strategies: dict[str, int] = {}
        self._actions: dict[str, int] = {}
        self._overridden = self._downgraded = self._decisions = 0
        self._given = self._answered = self._followed = 0
        self._compared: dict[tuple[str, str, str], _Compared] = {}

    def add(self, recorded: Recorded) -> None:
        """Count a fact; those that say nothing about routing are passed over."""
        body = recorded.body
        match body:
            case runs.RunAdmitted():
                run = self._run(recorded)
                run.admitted = body
            case routing.RoutingDecided():
                self._decided(self._run(recorded), body)
            case attempts.AttemptStarted() if recorded.stream in self._open:
                run = self._open[recorded.stream]
                run.served = (body.provider_id, body.model_id)
                run.attempts += 1
            case usage.UsageRecorded() if recorded.stream in self._open:
                run = self._open[recorded.stream]
                run.is_complete &= body.cost_nanousd is not None
                run.cost_nanousd += body.known_nanousd if body.cost_nanousd is None else body.cost_nanousd
            case runs.RunCompleted() | runs.RunFailed() | runs.RunCancelled() | runs.RunRefused():
                ended = self._open.pop(recorded.stream, None)
                if ended is not None:
                    self._ended(recorded.stream[4:], ended, body)

    def close(self) -> None:
        """Count what is open still."""
        for stream, run in self._open.items():
            self._ended(stream[4:], run, None)
        self._open.clear()

    def _run(self, recorded: Recorded) -> _Open:
        run = self._open.get(recorded.stream)
        if run is None:
            run = self._open[recorded.stream] = _Open(recorded.position, recorded.recorded_at_us)
        return run

    def _decided(self, run: _Open, body: routing.RoutingDecided) -> None:
        run.decided = body
        session_id = "" if run.admitted is None else run.admitted.session_id
        if not session_id:
            return
        run.hinted = self._hints.pop(session_id, run.hinted)
        if _is_hint(body):
            self._hints[session_id] = body.recommended

    def _ended(self, run_id: str, run: _Open, end: Any) -> None:
        first = run.admitted or end
        decided = run.decided
        if decided is None or first is None or not self._scope.from_us <= run.at_us < self._scope.to_us:
            return
        where = where_of(first, *run.served)
        if any(where[place] != value for place, value in self._wanted):
            return
        self._count(run, decided)
        if self._recent.maxlen:
            self._recent.append(_answer(run_id, run, first, decided, end))

    def _count(self, run: _Open, decided: routing.RoutingDecided) -> None:
        self._decisions += 1
        _add(self._modes, decided.mode)
        _add(self._actions, decided.action)
        if decided.strategy:
            _add(self._strategies, decided.strategy)
        self._overridden += "requested_overridden" in decided.reason_codes
        self._downgraded += "budget_downgrade" in decided.reason_codes
        self._given += _is_hint(decided)
        if run.hinted is not None:
            self._answered += 1
            self._followed += decided.model_id == run.hinted.partition("/")[2]
        if decided.would is not None:
            self._compare(run, decided, decided.would)
        expected = None if decided.estimate is None else decided.estimate.expected_nanousd
        if (
            expected
            and run.cost_nanousd
            and run.is_complete
            and run.attempts == 1
            and run.served == _first(decided)
        ):
            errors = self.cost_errors_bp.setdefault(run.served, Histogram())
            errors.add(abs(expected - run.cost_nanousd) * BP_PER_UNIT // run.cost_nanousd)

    def _compare(self, run: _Open, decided: routing.RoutingDecided, would: routing.WouldBe) -> None:
        served = "/".join(_first(decided)).strip("/")
        one = self._compared.setdefault((decided.task_class, served, _would(decided)), _Compared())
        one.runs += 1
        one.cost_nanousd += run.cost_nanousd
        one.unpriced_runs += not run.is_complete
        expected = None if decided.estimate is None else decided.estimate.expected_nanousd
        other = would.expected_nanousd if would.model_id else expected
        if expected is not None and other is not None and _would(decided):
            one.compared_runs += 1
            one.expected_nanousd += expected
            one.would_nanousd += other

    @property
    def recent(self) -> list[DecisionAnswer]:
        """The newest decisions, the newest first."""
        return sorted(self._recent, key=lambda one: -one.position)

    @property
    def comparisons(self) -> list[Comparison]:
        """What was tried out, those first that were most."""
        found = [
            Comparison(
                task_class=key[0],
                served=key[1],
                would=key[2],
                runs=one.runs,
                cost_nanousd=one.cost_nanousd,
                cost_complete=not one.unpriced_runs,
                compared_runs=one.compared_runs,
                expected_nanousd=one.expected_nanousd,
                would_nanousd=one.would_nanousd,
            )
            for key, one in self._compared.items()
        ]
        return sorted(found, key=lambda one: (-one.runs, one.task_class, one.served, one.would))

    @property
    def figures(self) -> RoutingFigures:
        """All decisions together."""
        saved = sum(one.expected_nanousd - one.would_nanousd for one in self._compared.values())
        followed_bp = self._followed * BP_PER_UNIT // self._answered if self._answered else None
        return RoutingFigures(
            decisions=self._decisions,
            modes=_sorted(self._modes),
            strategies=_sorted(self._strategies),
            actions=_sorted(self._actions),
            overridden=self._overridden,
            downgraded=self._downgraded,
            blocked=self._actions.get("blocked", 0) + self._actions.get("approval_required", 0),
            would_save_nanousd=saved,
            would_save_runs=sum(one.compared_runs for one in self._compared.values()),
            hints=HintFigures(
                given=self._given, answered=self._answered, followed=self._followed, followed_bp=followed_bp
            ),
        )


def _is_hint(decided: routing.RoutingDecided) -> bool:
    """Return whether the client was told of a better model than the one that served it."""
    return decided.mode == "suggest" and decided.recommended not in ("", "/".join(_first(decided)))


def _first(decided: routing.RoutingDecided) -> tuple[str, str]:
    if not decided.plan:
        return "", ""
    return decided.plan[0].provider_id, decided.plan[0].model_id


def _would(decided: routing.RoutingDecided) -> str:
    """Return where enforced would have gone; it leaves alone what it may not move."""
    would = decided.would
    if would is None or would.action in ("blocked", "approval_required"):
        return ""
    return f"{would.provider_id}/{would.model_id}" if would.model_id else "/".join(_first(decided)).strip("/")


def _answer(
    run_id: str,
    run: _Open,
    first: runs.RunAdmitted | runs.RunRefused,
    decided: routing.RoutingDecided,
    end: Any,
) -> DecisionAnswer:
    states: dict[type, str] = {
        runs.RunCompleted: "completed",
        runs.RunFailed: "failed",
        runs.RunCancelled: "cancelled",
        runs.RunRefused: "refused",
    }
    return DecisionAnswer(
        run_id=run_id,
        position=run.position,
        at_us=run.at_us,
        principal_id=first.principal_id,
        session_id=first.session_id,
        agent_id=first.agent_id,
        endpoint=first.endpoint,
        task_class=decided.task_class,
        mode=decided.mode,
        model_requested=first.model_requested,
        complexity_bp=decided.complexity_bp,
        strategy=decided.strategy,
        recommended=decided.recommended,
        served="/".join(run.served).strip("/"),
        would=_would(decided),
        action=decided.action,
        reason_codes=decided.reason_codes,
        budget_outcome=decided.budget_outcome,
        expected_nanousd=None if decided.estimate is None else decided.estimate.expected_nanousd,
        would_nanousd=None if decided.would is None else decided.would.expected_nanousd,
        cost_nanousd=run.cost_nanousd,
        cost_complete=run.is_complete,
        state=states.get(type(end), "open"),
    )


def _add(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def _sorted(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))
