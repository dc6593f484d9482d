"""What would have been: recorded requests decided again under other rules, prices, policies, routing or breakers.

Two states are folded side by side. The recorded one shows what was true, and proves first that the recorded rules
give the recorded decisions. The other one has the other rules, and counts what they would have let in. A run walks
along the plan that it would have had: where it comes to a call that was made, that went as it was recorded; where
it comes to one that was never made, the tokens of the answer that was given stand for it, and where none was given
it costs what it is expected to, as does a request that was refused then. Nothing is sent, and nothing is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from palyra.decisions.approvals import draw
from palyra.decisions.budget_refusals import note_limits
from palyra.decisions.budgets import NOTHING, Start, plan_start, release, reserve
from palyra.decisions.estimates import estimate_of, expected_usage, price_for
from palyra.decisions.failures import FAILURES
from palyra.decisions.given import request_of
from palyra.decisions.imagined import Imagined, OtherRules
from palyra.decisions.pricing import cost_of
from palyra.decisions.routing import next_candidate, unready
from palyra.decisions.runs import AdmitRun, admit
from palyra.decisions.what_if_proof import Proof
from palyra.decisions.what_if_report import LISTED_MAX_COUNT, Differing, Tally, Told, Verdict, WhatIfReport
from palyra.errors import Refusal
from palyra.events.attempts import AttemptAbandoned, AttemptFailed, AttemptStarted, AttemptSucceeded
from palyra.events.base import Draft, Recorded
from palyra.events.budgets import BudgetHardLimitReached, BudgetReleased, BudgetReserved, BudgetSoftLimitCrossed
from palyra.events.cache import CacheHit
from palyra.events.routing import PlanStep, RoutingDecided, RoutingFailedOver
from palyra.events.runs import RunAdmitted, RunCompleted, RunFailed, RunRefused
from palyra.events.usage import UsageRecorded
from palyra.projections.budgets import Where
from palyra.projections.catalog import model_entry
from palyra.projections.pricing import price_at
from palyra.projections.runs import Run, run_id_of
from palyra.projections.state import State, evolve

__all__ = ["OtherRules", "WhatIf", "WhatIfReport"]

#: Refusals that a name causes; every other one without a plan was decided before the request got so far.
_OF_A_NAME = ("model_not_found", "model_disabled", "model_role_mismatch", "model_not_permitted")
#: The facts of one admission stand together.
_COMMIT_EVENTS_COUNT = 64


class _Fate(msgspec.Struct, kw_only=True):
    """How a run goes, as it was recorded and under the other rules."""

    #: It is under way there.
    is_open: bool
    is_compared: bool = True
    verdict: Verdict = "same"
    policy_id: str = ""
    #: Provider and model at which it was, and its place in the plan that it has there.
    place: tuple[str, str] = ("", "")
    other_candidate: int | None = 0
    #: The call that stands in for the recorded ones, by its number; 0 while both are at the same place.
    standing_in: int = 0
    has_answer: bool = False
    #: It has left a candidate there, and come to the next one.
    has_moved: bool = False


class WhatIf:
    """Takes a journal's events in order from the first one, and gives the report at the end."""

    def __init__(
        self,
        other: OtherRules,
        *,
        from_us: int = 0,
        to_us: int = 1 << 62,
        listed_max_count: int = LISTED_MAX_COUNT,
    ) -> None:
        self._from_us, self._to_us = from_us, to_us
        self._true = State()
        self._imagined = Imagined(other, self._true)
        self._other = self._imagined.state
        self._ahead: deque[Recorded] = deque()
        self._fates: dict[str, _Fate] = {}
        self._tally = Tally(listed_max_count)
        self._proof = Proof(self._true, self._tally)

    def add(self, recorded: Recorded) -> None:
        """Take the next event."""
        self._ahead.append(recorded)
        if len(self._ahead) > _COMMIT_EVENTS_COUNT:
            self._step()

    def report(self) -> WhatIfReport:
        """Return what came of all events."""
        while self._ahead:
            self._step()
        return self._tally.report()

    def _step(self) -> None:
        head = self._ahead.popleft()
        body = head.body
        if not head.stream.startswith("run-"):
            evolve(self._true, head)
            self._imagined.take(head)
            return
        run_id = run_id_of(head.stream)
        if run_id not in self._fates and isinstance(body, RunAdmitted | RoutingDecided | RunRefused):
            self._begin(run_id, head)
        fate = self._fates.get(run_id)
        if fate is not None and fate.is_compared:
            self._proof.step(head, self._ahead)
        evolve(self._true, head)
        if fate is not None:
            self._follow(run_id, fate, head)
        if run_id not in self._true.runs.open and not isinstance(body, RoutingDecided):
            self._fates.pop(run_id, None)

    # -- admission

    def _begin(self, run_id: str, head: Recorded) -> None:
        """Decide a request again, under the recorded rules and under the others."""
        commit = [head]
        for one in self._ahead:
            if one.recorded_at_us != head.recorded_at_us:
                break
            commit.append(one)
        bodies = [one.body for one in commit if one.stream == head.stream]
        asked = next((body for body in bodies if isinstance(body, RunAdmitted | RunRefused)), None)
        decided = next((body for body in bodies if isinstance(body, RoutingDecided)), None)
        fate = self._fates[run_id] = _Fate(is_open=isinstance(asked, RunAdmitted))
        is_given = any(isinstance(body, CacheHit) for body in bodies[:2])
        if isinstance(asked, RunRefused) and decided is None and asked.code not in _OF_A_NAME:
            is_given = True
        now_us = head.recorded_at_us
        fate.is_compared = not is_given and asked is not None and self._from_us <= now_us < self._to_us
        self._imagined.share()
        if asked is None or not fate.is_compared:
            return
        command = request_of(run_id, asked, decided, now_us)
        self._proof.admission(command, commit)
        other = admit(self._other, command, now_us)
        self._note_limits(other.drafts, now_us)
        self._judge(run_id, fate, head, command, asked, decided, other.drafts, other.refusal)

    def _judge(
        self,
        run_id: str,
        fate: _Fate,
        head: Recorded,
        command: AdmitRun,
        asked: RunAdmitted | RunRefused,
        decided: RoutingDecided | None,
        drafts: Sequence[Draft],
        refusal: Refusal | None,
    ) -> None:
        then = next((draft.body for draft in drafts if isinstance(draft.body, RoutingDecided)), None)
        before = asked.code if isinstance(asked, RunRefused) else _served(decided)
        after = refusal.code if refusal is not None else _served(then)
        if decided is not None and decided.plan:
            fate.place = (decided.plan[0].provider_id, decided.plan[0].model_id)
        was_in, is_in = isinstance(asked, RunAdmitted), refusal is None
        if was_in and not is_in:
            fate.verdict = "newly_approval" if after.startswith("budget_approval") else "newly_blocked"
        elif is_in and not was_in:
            fate.verdict = "undecidable" if decided is None else "newly_admitted"
        elif was_in and before != after:
            fate.verdict = "rerouted"
        fate.is_open = is_in and was_in
        fate.policy_id = _policy_of(refusal)
        if is_in and fate.verdict != "undecidable":
            for draft in drafts:
                self._imagined.imagine(head, draft.stream, draft.body)
        if fate.verdict == "newly_admitted" and then is not None:
            self._serve(run_id, head, then.plan[0])
        if fate.verdict == "same":
            self._tally.count_same()
            return
        one = Differing(
            run_id=run_id,
            position=head.position,
            at_us=head.recorded_at_us,
            principal_id=command.principal_id,
            model_requested=command.model,
            verdict=fate.verdict,
            before=before,
            after=after,
            reasons_before=_reasons(decided),
            reasons_after=_reasons(then),
            policy_id=fate.policy_id,
            action="" if refusal is not None or then is None else then.action,
        )
        is_downgraded = fate.verdict == "rerouted" and then is not None and then.budget_outcome == "downgraded"
        self._tally.add(one, is_downgraded=is_downgraded)

    # -- what comes after an admission, under the other rules

    def _follow(self, run_id: str, fate: _Fate, head: Recorded) -> None:
        """Take a fact of a run into the other state, as it would have been there."""
        body = head.body
        if isinstance(body, AttemptStarted):
            fate.place = (body.provider_id, body.model_id)
        if not fate.is_compared:
            if fate.is_open:
                self._go_along(head)
            return
        if not fate.is_open:
            if isinstance(body, UsageRecorded):
                self._tally.sum(body, None, fate.policy_id)
            return
        match body:
            case RunAdmitted() | RoutingDecided() | BudgetReserved() | BudgetReleased():
                pass  # decided anew
            case RoutingFailedOver():
                self._leave(run_id, fate, head, body)
            case AttemptStarted() if not fate.standing_in or fate.has_answer:
                fate.standing_in, fate.has_answer, fate.has_moved = 0, False, False
                self._start(run_id, fate, head, body)
            case AttemptSucceeded():
                fate.has_answer = True
                self._end_attempt(fate, head, body)
            case AttemptFailed() | AttemptAbandoned() if not fate.standing_in:
                self._end_attempt(fate, head, body)
                if isinstance(body, AttemptFailed) and body.wait_ms is None and not body.next_credential_ref:
                    self._move_on(run_id, fate, body.failure_class, body.phase, head)
            case UsageRecorded() if fate.standing_in and not fate.has_answer:
                self._tally.sum(body, None)  # a call that would not have been made
            case UsageRecorded():
                row = self._row(fate, run_id, body)
                self._tally.sum(body, row)
                self._imagined.fold(msgspec.structs.replace(head, body=row))
                self._let_go(head, row)
            case RunFailed() if not fate.has_answer and (fate.standing_in or fate.has_moved):
                self._answer(run_id, fate, head)
            case AttemptStarted() | AttemptFailed() | AttemptAbandoned():
                pass  # of a call that would not have been made
            case _:
                self._let_go(head, None)
                self._imagined.fold(head)

    def _go_along(self, head: Recorded) -> None:
        """Take a fact of a run that is not compared as it was recorded."""
        if isinstance(head.body, BudgetReserved | BudgetReleased):
            return
        if isinstance(head.body, AttemptStarted):
            self._imagined.share()
            run = self._other.runs.open[run_id_of(head.stream)]
            where = Where(head.body.provider_id, head.body.model_id)
            start = plan_start(self._other, run, where, head.body.upstream_model, head.recorded_at_us)
            for draft in reserve(run, start, attempt=head.body.attempt):
                self._imagined.imagine(head, draft.stream, draft.body)
        row = head.body if isinstance(head.body, UsageRecorded) else None
        self._imagined.fold(head)
        if row is not None or (isinstance(head.body, AttemptFailed) and not self._has_row_ahead(head)):
            self._let_go(head, row)

    def _has_row_ahead(self, head: Recorded) -> bool:
        following = next((one.body for one in self._ahead if one.stream == head.stream), None)
        return isinstance(following, UsageRecorded)

    def _start(self, run_id: str, fate: _Fate, head: Recorded, body: AttemptStarted) -> None:
        """Ask the other rules again, as each start does; what does not fit any more is passed over, or stopped."""
        run = self._other.runs.open[run_id]
        self._imagined.share()
        start: Start | None = None
        while fate.other_candidate is not None:
            step = run.plan[fate.other_candidate]
            where = Where(step.provider_id, step.model_id)
            start = plan_start(self._other, run, where, step.upstream_model, head.recorded_at_us)
            is_ready = unready(self._other, *where, head.recorded_at_us) is None
            if is_ready and not start.judgement.stops:
                break
            fate.other_candidate, _ = next_candidate(self._other, run, fate.other_candidate, head.recorded_at_us)
        if fate.other_candidate is None or start is None:
            self._stop(run, fate, head, body, start)
            return
        fate.standing_in = 0 if (body.provider_id, body.model_id) == where else body.attempt
        self._note_limits(note_limits(self._other, run_id, start.judgement), head.recorded_at_us)
        drafts = [*draw(self._other, run_id, start.judgement), *reserve(run, start, attempt=body.attempt)]
        for draft in drafts:
            self._imagined.imagine(head, draft.stream, draft.body)
        price = start.size.price
        started = msgspec.structs.replace(
            body,
            candidate=fate.other_candidate,
            provider_id=step.provider_id,
            model_id=step.model_id,
            upstream_model=step.upstream_model,
            input_max_tokens=start.size.input_tokens,
            output_max_tokens=start.size.output_tokens,
            price_id="" if price is None else price.price_id,
            variant=start.size.variant,
        )
        self._imagined.fold(msgspec.structs.replace(head, body=started))

    def _stop(self, run: Run, fate: _Fate, head: Recorded, body: AttemptStarted, start: Start | None) -> None:
        """End a run there that was let in and cannot start, or go on, any more."""
        judgement = start.judgement if start is not None and start.judgement.stops else NOTHING
        code, strictest = "upstream_failed", judgement.strictest
        if strictest is not None:
            is_asked = judgement.verdict == "approval_required"
            code = judgement.full or ("budget_approval_required" if is_asked else "budget_blocked")
        fate.is_open, fate.policy_id = False, "" if strictest is None or judgement.full else strictest.policy_id
        self._imagined.imagine(head, head.stream, RunFailed(code=code))
        if strictest is None:
            return  # it fails there as it might have failed here
        self._tally.take_back(fate.verdict)
        fate.verdict = "newly_approval" if code == "budget_approval_required" else "newly_blocked"
        one = Differing(
            run_id=run.run_id,
            position=head.position,
            at_us=head.recorded_at_us,
            principal_id=run.admitted.principal_id,
            model_requested=run.admitted.model_requested,
            verdict=fate.verdict,
            before=f"{body.provider_id}/{body.model_id}",
            after=code,
            reasons_before=[],
            reasons_after=[code],
            policy_id=fate.policy_id,
        )
        self._tally.add(one)

    def _leave(self, run_id: str, fate: _Fate, head: Recorded, body: RoutingFailedOver) -> None:
        """Leave a candidate that no call was made at, where the run is at the same one there.

        That a rule about usage stopped it here says nothing of the rules there.
        """
        run = self._other.runs.open[run_id]
        at = None if fate.other_candidate is None else run.plan[fate.other_candidate]
        is_there = at is not None and (at.provider_id, at.model_id) == fate.place
        if is_there and not fate.has_moved and not fate.standing_in and body.trigger != "budget_excluded":
            self._move_on(run_id, fate, body.trigger, "connect", head)
        fate.place = (body.provider_id, body.model_id)

    def _move_on(self, run_id: str, fate: _Fate, failure_class: str, phase: str, head: Recorded) -> None:
        """Go to the next candidate of the plan that the run has there."""
        run, rule = self._other.runs.open[run_id], FAILURES.get(failure_class)
        at, fate.other_candidate = fate.other_candidate, None
        is_over = phase == "content" or head.recorded_at_us >= run.deadline_us
        if at is None or rule is None or rule.failover == "no" or is_over:
            return
        self._imagined.share()
        fate.other_candidate, _ = next_candidate(
            self._other, run, at, head.recorded_at_us, needs_larger_window=rule.failover == "larger"
        )
        fate.has_moved = fate.other_candidate is not None

    def _end_attempt(
        self, fate: _Fate, head: Recorded, body: AttemptSucceeded | AttemptFailed | AttemptAbandoned
    ) -> None:
        own = msgspec.structs.replace(body, attempt=fate.standing_in) if fate.standing_in else body
        self._imagined.fold(msgspec.structs.replace(head, body=own))
        if not self._has_row_ahead(head):
            self._let_go(head, None)

    def _let_go(self, head: Recorded, row: UsageRecorded | None) -> None:
        """End what the other rules kept for the attempt that has ended."""
        hold = self._other.budgets.holds.get(run_id_of(head.stream))
        if hold is not None:
            self._imagined.imagine(head, head.stream, release(hold, row, "settled"))

    def _row(self, fate: _Fate, run_id: str, body: UsageRecorded) -> UsageRecorded:
        """Return what the same tokens would have cost where the run is there."""
        at: PlanStep | UsageRecorded = body
        if fate.standing_in and fate.other_candidate is not None:
            at = self._other.runs.open[run_id].plan[fate.other_candidate]
        price = price_at(self._other, at.provider_id, at.model_id, body.effective_at_us, body.variant)
        price_id = "" if price is None else price.price_id
        if at is body and price_id == body.price_id:
            return body
        cost = cost_of(body.usage, price)
        return msgspec.structs.replace(
            body,
            attempt=fate.standing_in or body.attempt,
            provider_id=at.provider_id,
            model_id=at.model_id,
            upstream_model=at.upstream_model,
            price_id=price_id,
            cost_state=cost.state,
            cost_nanousd=cost.nanousd,
            known_nanousd=cost.known_nanousd,
        )

    # -- calls that were never made

    def _serve(self, run_id: str, head: Recorded, step: PlanStep) -> None:
        """Let a request that was never made be answered by its first candidate."""
        run = self._other.runs.open[run_id]
        where, now_us = Where(step.provider_id, step.model_id), head.recorded_at_us
        start = plan_start(self._other, run, where, step.upstream_model, now_us)
        drafts = [*draw(self._other, run_id, start.judgement), *reserve(run, start, attempt=1)]
        for draft in drafts:
            self._imagined.imagine(head, draft.stream, draft.body)
        self._answer_at(run, head, step)

    def _answer(self, run_id: str, fate: _Fate, head: Recorded) -> None:
        """Let the call be answered that stands in for those of a run that came to nothing, or that would follow."""
        run = self._other.runs.open[run_id]
        assert fate.other_candidate is not None, "it stands somewhere"
        step = run.plan[fate.other_candidate]
        if not fate.standing_in:
            where = Where(step.provider_id, step.model_id)
            start = plan_start(self._other, run, where, step.upstream_model, head.recorded_at_us)
            if start.judgement.stops:
                self._imagined.fold(head)
                return
        self._answer_at(run, head, step)

    def _answer_at(self, run: Run, head: Recorded, step: PlanStep) -> None:
        """Let a call cost what it is expected to, and end its run."""
        entry = model_entry(self._other, run.admitted.endpoint, step.provider_id, step.model_id)
        assert entry is not None, "a plan holds only what there is"
        price = price_for(self._other, run, entry, run.admitted_us)
        usage = expected_usage(self._other, run, entry, price)
        cost = cost_of(usage, price)
        row = UsageRecorded(
            attempt=max(1, run.attempts_count),
            provider_id=step.provider_id,
            model_id=step.model_id,
            upstream_model=step.upstream_model,
            principal_id=run.admitted.principal_id,
            key_id=run.admitted.key_id,
            session_id=run.admitted.session_id,
            agent_id=run.admitted.agent_id,
            endpoint=run.admitted.endpoint,
            origin=run.admitted.origin,
            effective_at_us=run.admitted_us,
            usage=usage,
            source="estimated",
            raw_input_tokens=run.admitted.tokens.raw,
            price_id="" if price is None else price.price_id,
            cost_state=cost.state,
            cost_nanousd=cost.nanousd,
            known_nanousd=cost.known_nanousd,
        )
        estimate = estimate_of(self._other, run, entry, run.admitted_us)
        if estimate.expected_nanousd is not None:
            expected = estimate.expected_nanousd
            self._tally.spread((estimate.lower_nanousd or 0) - expected, (estimate.upper_nanousd or 0) - expected)
        self._imagined.imagine(head, head.stream, row)
        self._tally.sum(None, row)
        self._let_go(head, row)
        completed = RunCompleted(stop="stop", provider_id=step.provider_id, model_id=step.model_id, duration_us=0)
        self._imagined.imagine(head, head.stream, completed)

    def _note_limits(self, drafts: Sequence[Draft], now_us: int) -> None:
        for draft in drafts:
            body = draft.body
            if isinstance(body, BudgetHardLimitReached | BudgetSoftLimitCrossed):
                told = Told(
                    policy_id=draft.stream.removeprefix("budget-"),
                    subject=body.subject,
                    at_us=now_us,
                    run_id=body.run_id,
                    kind="hard" if isinstance(body, BudgetHardLimitReached) else "soft",
                    consumed=body.consumed,
                    requested=body.requested,
                    limit=body.limit,
                )
                self._tally.tell(told)
                self._imagined.fold(Recorded(0, draft.stream, 0, now_us, "", "", 0, "", body))


def _served(decided: RoutingDecided | None) -> str:
    if decided is None:
        return ""
    return f"{decided.plan[0].provider_id}/{decided.plan[0].model_id}"


def _reasons(decided: RoutingDecided | None) -> list[str]:
    """Return what led to a decision: its codes, and why others were left out."""
    if decided is None:
        return []
    return [*decided.reason_codes, *dict.fromkeys(one.excluded_by for one in decided.excluded)]


def _policy_of(refusal: Refusal | None) -> str:
    return "" if refusal is None else str(refusal.details.get("budget", {}).get("policy_id", ""))
