"""The proof that comes before every what-if: the recorded rules give the recorded decisions.

Admissions and refusals with all that is told and asked for beside them, what starts hold and by which price they
are charged, and steps to the next candidate are decided again from the state as it was; what comes out otherwise is
named by its position.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from palyra.decisions.budgets import Start, plan_start, reserve
from palyra.decisions.failures import FAILURES, rule_of
from palyra.decisions.routing import next_candidate
from palyra.decisions.runs import AdmitRun, admit
from palyra.decisions.what_if_report import Tally
from palyra.events.attempts import AttemptStarted
from palyra.events.base import Draft, Recorded
from palyra.events.budgets import BudgetReserved
from palyra.events.routing import RoutingFailedOver
from palyra.events.runs import RunCancelled, RunCompleted, RunFailed
from palyra.events.vocabulary import VOCABULARY
from palyra.projections.budgets import Where
from palyra.projections.runs import Run, run_id_of
from palyra.projections.state import State


class Proof:
    """Decides again; `true` is the state before the fact that is looked at."""

    def __init__(self, true: State, tally: Tally) -> None:
        self._true = true
        self._tally = tally
        #: By open run: the place of its candidate in its plan.
        self._at: dict[str, int] = {}

    def admission(self, command: AdmitRun, commit: Sequence[Recorded]) -> None:
        """Decide a request again; `commit` is what was recorded in one step, from its first fact on."""
        head = commit[0]
        if not _are_equal(admit(self._true, command, head.recorded_at_us).drafts, commit):
            self._tally.doubt(head.position)

    def step(self, head: Recorded, ahead: Iterable[Recorded]) -> None:
        """Decide a start or a step to the next candidate again."""
        run, body = self._true.runs.open.get(run_id_of(head.stream)), head.body
        if run is None:
            return
        match body:
            case BudgetReserved() if not any(share.approval_id for share in body.shares):
                own = (one.body for one in ahead if one.stream == head.stream)
                started = next((one for one in own if isinstance(one, AttemptStarted)), None)
                if started is not None:
                    again = self._start(run, started, head)
                    self._expect(_are_equal(reserve(run, again, attempt=body.attempt), [head]), head)
            case AttemptStarted():
                self._at[run.run_id] = body.candidate
                again = self._start(run, body, head)
                price_id = "" if again.size.price is None else again.size.price.price_id
                is_held = run.run_id in self._true.budgets.holds or not again.judgement.shares
                is_priced = (price_id, again.size.variant) == (body.price_id, body.variant)
                self._expect(is_held and is_priced, head)
            case RoutingFailedOver():
                self._fail_over(run, body, head)
            case RunCompleted() | RunFailed() | RunCancelled():
                self._at.pop(run.run_id, None)

    def _fail_over(self, run: Run, body: RoutingFailedOver, head: Recorded) -> None:
        if body.trigger not in FAILURES:
            self._expect(False, head)
            return
        needs_larger = rule_of(body.trigger).failover == "larger"
        at = self._at.get(run.run_id, 0)
        index, skipped = next_candidate(self._true, run, at, head.recorded_at_us, needs_larger_window=needs_larger)
        if index is None:
            self._expect(False, head)
            return
        self._at[run.run_id] = index
        step = run.plan[index]
        is_same = (step.provider_id, step.model_id) == (body.provider_id, body.model_id)
        self._expect(is_same and skipped == body.skipped, head)

    def _start(self, run: Run, started: AttemptStarted, head: Recorded) -> Start:
        where = Where(started.provider_id, started.model_id)
        return plan_start(self._true, run, where, started.upstream_model, head.recorded_at_us)

    def _expect(self, is_same: bool, head: Recorded) -> None:
        if not is_same:
            self._tally.doubt(head.position)


def _are_equal(drafts: Sequence[Draft], commit: Sequence[Recorded]) -> bool:
    own = [(draft.stream, VOCABULARY.encode(draft.body)) for draft in drafts]
    return own == [(one.stream, VOCABULARY.encode(one.body)) for one in commit[: len(drafts)]]
