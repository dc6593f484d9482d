"""What would have been: recorded requests decided again under other rules, prices, policies or routing.

Two states are folded side by side. The recorded one shows what was true, and proves first that the recorded rules
give the recorded decisions; how providers did is taken from it. The other one has the other rules, and counts what
they would have let in: the tokens of a call that was made stand for the same call elsewhere, and a request that was
refused then and is admitted now costs what it is expected to. Nothing is sent, and nothing is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal

import msgspec

from palyra.decisions.budget_refusals import note_limits
from palyra.decisions.budgets import plan_start, release, reserve
from palyra.decisions.estimates import estimate_of, expected_usage, price_for
from palyra.decisions.given import request_of
from palyra.decisions.pricing import cost_of
from palyra.decisions.runs import AdmitRun, admit
from palyra.errors import Refusal
from palyra.events.accounting import Accounting
from palyra.events.attempts import AttemptAbandoned, AttemptFailed, AttemptStarted, AttemptSucceeded
from palyra.events.base import Draft, Fact, Recorded
from palyra.events.budgets import (
    BudgetHardLimitReached,
    BudgetPolicyCounted,
    BudgetPolicyRetired,
    BudgetPolicySet,
    BudgetReleased,
    BudgetReserved,
    BudgetSoftLimitCrossed,
    UsageBudgetPolicyRecord,
)
from palyra.events.cache import CacheHit
from palyra.events.config import ConfigAdopted
from palyra.events.discovery import DiscoveryCompleted
from palyra.events.pricing import PriceEntry, PriceListAdopted
from palyra.events.registry import Registry
from palyra.events.routing import PlanStep, RoutingDecided
from palyra.events.runs import RunAdmitted, RunCompleted, RunRefused
from palyra.events.smart_routing import SmartRouting
from palyra.events.usage import UsageRecorded
from palyra.events.vocabulary import VOCABULARY
from palyra.projections import budgets, catalog, config, pricing, runs
from palyra.projections.budgets import Where
from palyra.projections.catalog import model_entry
from palyra.projections.pricing import price_at
from palyra.projections.runs import run_id_of
from palyra.projections.state import State, evolve

Verdict = Literal["same", "rerouted", "newly_blocked", "newly_approval", "newly_admitted", "undecidable"]
VERDICTS: tuple[Verdict, ...] = (
    "same",
    "rerouted",
    "newly_blocked",
    "newly_approval",
    "newly_admitted",
    "undecidable",
)
#: Refusals that a name causes; every other one without a plan was decided before the request got so far.
_OF_A_NAME = ("model_not_found", "model_disabled", "model_role_mismatch", "model_not_permitted")
#: The facts of one admission stand together.
_COMMIT_EVENTS_COUNT = 64
#: Runs that are listed with both reasons.
LISTED_MAX_COUNT = 1_000
#: Chapters that the other rules change, in the order in which they are folded.
_CHAPTERS = (catalog, pricing, budgets, runs, config)
#: Chapters in which the world stays as it was.
_SHARED = ("circuits", "health", "usage", "outputs", "auth", "vault", "keys", "cache", "daemon")


class OtherRules(msgspec.Struct, frozen=True, kw_only=True):
    """What is otherwise; None leaves a part as it was recorded."""

    registry: Registry | None = None
    accounting: Accounting | None = None
    routing: SmartRouting | None = None
    prices: Sequence[PriceEntry] | None = None
    #: In place of the rules that came from a file.
    file_policies: Sequence[UsageBudgetPolicyRecord] | None = None
    #: In place of all rules.
    policies: Sequence[UsageBudgetPolicyRecord] | None = None
    #: Beside the rules.
    added: Sequence[UsageBudgetPolicyRecord] = ()


class Differing(msgspec.Struct, frozen=True, kw_only=True):
    """One run that would have gone another way."""

    run_id: str
    position: int
    at_us: int
    principal_id: str
    model_requested: str
    verdict: Verdict
    #: `provider/model` that served, or the code of the refusal; and what led to it.
    before: str
    after: str
    reasons_before: list[str]
    reasons_after: list[str]
    #: The rule that stops it now, or did.
    policy_id: str = ""


class Sums(msgspec.Struct, kw_only=True):
    """What something cost then, and would have cost."""

    runs: int = 0
    before_nanousd: int = 0
    after_nanousd: int = 0


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A limit of the other rules that would have been passed."""

    policy_id: str
    subject: str
    at_us: int
    run_id: str
    kind: Literal["soft", "hard"]
    consumed: int
    requested: int
    limit: int


class WhatIfReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the other rules would have made of a journal."""

    runs: int
    counts: dict[str, int]
    #: Where deciding again under the recorded rules gave something else; such a report proves nothing.
    unfaithful_count: int
    unfaithful_positions: list[int]
    cost_before_nanousd: int
    cost_after_nanousd: int
    #: The change, and how far it may lie off because of requests that were never made.
    delta_nanousd: int
    delta_lower_nanousd: int
    delta_upper_nanousd: int
    #: Rows whose cost is not known, then and now; they are in no sum.
    unpriced_before: int
    unpriced_after: int
    by_model: dict[str, Sums]
    by_policy: dict[str, Sums]
    limits: list[Told]
    differing: list[Differing]
    omitted_count: int


class _Fate(msgspec.Struct, kw_only=True):
    """How a run goes under the other rules."""

    is_open: bool
    #: Served elsewhere than it was, at this candidate.
    step: PlanStep | None = None
    policy_id: str = ""
    is_compared: bool = True


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
        self._listed_max_count = listed_max_count
        self._other_rules = other
        self._from_us, self._to_us = from_us, to_us
        self._true, self._other = State(), State()
        self._ahead: deque[Recorded] = deque()
        self._fates: dict[str, _Fate] = {}
        self._are_rules_set = False
        self._counts = dict.fromkeys(VERDICTS, 0)
        self._unfaithful: list[int] = []
        self._differing: list[Differing] = []
        self._omitted_count = 0
        self._limits: list[Told] = []
        self._by_model: dict[str, Sums] = {}
        self._by_policy: dict[str, Sums] = {}
        self._all = Sums()
        self._spread_nanousd = [0, 0]
        self._unpriced = [0, 0]

    def add(self, recorded: Recorded) -> None:
        """Take the next event."""
        self._ahead.append(recorded)
        if len(self._ahead) > _COMMIT_EVENTS_COUNT:
            self._step()

    def report(self) -> WhatIfReport:
        """Return what came of all events."""
        while self._ahead:
            self._step()
        lower, upper = self._spread_nanousd
        delta = self._all.after_nanousd - self._all.before_nanousd
        return WhatIfReport(
            runs=sum(self._counts.values()),
            counts={name: self._counts[name] for name in VERDICTS},
            unfaithful_count=len(self._unfaithful),
            unfaithful_positions=self._unfaithful[:20],
            cost_before_nanousd=self._all.before_nanousd,
            cost_after_nanousd=self._all.after_nanousd,
            delta_nanousd=delta,
            delta_lower_nanousd=delta + lower,
            delta_upper_nanousd=delta + upper,
            unpriced_before=self._unpriced[0],
            unpriced_after=self._unpriced[1],
            by_model=dict(sorted(self._by_model.items())),
            by_policy=dict(sorted(self._by_policy.items())),
            limits=self._limits,
            differing=self._differing,
            omitted_count=self._omitted_count,
        )

    # -- one event

    def _step(self) -> None:
        head = self._ahead.popleft()
        body = head.body
        if head.stream.startswith("run-"):
            run_id = run_id_of(head.stream)
            if run_id not in self._fates and isinstance(body, RunAdmitted | RoutingDecided | RunRefused):
                self._begin(run_id, head)
            evolve(self._true, head)
            self._follow(run_id, head)
            if run_id not in self._true.runs.open and not isinstance(body, RoutingDecided):
                self._fates.pop(run_id, None)
            return
        evolve(self._true, head)
        match body:
            case ConfigAdopted():
                self._adopt(head, body)
            case PriceListAdopted() if self._other_rules.prices is None:
                self._fold(head)
            case BudgetPolicySet() if self._keeps(body.policy.managed_by):
                self._fold(head)
            case BudgetPolicyRetired() | BudgetPolicyCounted():
                if head.stream.removeprefix("budget-") in self._kept_policies():
                    self._fold(head)
            case DiscoveryCompleted():
                self._fold(head)

    def _fold(self, recorded: Recorded) -> None:
        """Fold an event into the other state, as far as the other rules reach."""
        other = self._other
        other.position, other.recorded_at_us = recorded.position, recorded.recorded_at_us
        for chapter in _CHAPTERS:
            handler = chapter.CHAPTER.handlers.get(type(recorded.body))
            if handler is not None and not (chapter is catalog and recorded.stream.startswith("run-")):
                handler(other, recorded, recorded.body)

    def _imagine(self, like: Recorded, stream: str, body: Fact) -> None:
        self._fold(msgspec.structs.replace(like, stream=stream, body=body))

    def _share(self) -> None:
        """Let the other state see how the world was."""
        for name in _SHARED:
            setattr(self._other, name, getattr(self._true, name))
        self._other.catalog.standings = self._true.catalog.standings

    # -- rules

    def _adopt(self, head: Recorded, body: ConfigAdopted) -> None:
        rules = self._other_rules
        adopted = msgspec.structs.replace(
            body,
            registry=body.registry if rules.registry is None else rules.registry,
            accounting=body.accounting if rules.accounting is None else rules.accounting,
            routing=body.routing if rules.routing is None else rules.routing,
        )
        self._fold(msgspec.structs.replace(head, body=adopted))
        if self._are_rules_set:
            return
        self._are_rules_set = True
        if rules.prices is not None:
            listed = PriceListAdopted(price_version=1, digest="", config_generation=1, entries=list(rules.prices))
            self._imagine(head, "pricing", listed)
        records = rules.policies if rules.policies is not None else rules.file_policies or ()
        for record in (*records, *rules.added):
            self._imagine(
                head, f"budget-{record.policy_id}", BudgetPolicySet(revision=1, policy=record, by="what-if")
            )

    def _keeps(self, managed_by: str) -> bool:
        if self._other_rules.policies is not None:
            return False
        return self._other_rules.file_policies is None or managed_by != "file"

    def _kept_policies(self) -> list[str]:
        own = self._other_rules
        ours = [one.policy_id for one in (*(own.policies or ()), *(own.file_policies or ()), *own.added)]
        return [name for name in self._other.budgets.policies if name not in ours]

    # -- admission

    def _begin(self, run_id: str, head: Recorded) -> None:
        """Decide a request again, under the recorded rules and under the others."""
        commit = [head]
        for one in self._ahead:
            if one.stream == head.stream and one.recorded_at_us == head.recorded_at_us:
                commit.append(one)
            elif not one.stream.startswith("budget-"):
                break
        bodies = [one.body for one in commit]
        asked = next((body for body in bodies if isinstance(body, RunAdmitted | RunRefused)), None)
        decided = next((body for body in bodies if isinstance(body, RoutingDecided)), None)
        fate = self._fates[run_id] = _Fate(is_open=isinstance(asked, RunAdmitted))
        is_given = any(isinstance(body, CacheHit) for body in bodies[:2])
        if isinstance(asked, RunRefused) and decided is None and asked.code not in _OF_A_NAME:
            is_given = True
        now_us = head.recorded_at_us
        fate.is_compared = not is_given and asked is not None and self._from_us <= now_us < self._to_us
        self._share()
        if asked is None or is_given or not self._from_us <= now_us < self._to_us:
            return
        command = request_of(run_id, asked, decided, now_us)
        again = admit(self._true, command, now_us)
        if not _are_equal(again.drafts, commit):
            self._unfaithful.append(head.position)
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
        was_in, is_in = isinstance(asked, RunAdmitted), refusal is None
        verdict: Verdict = "same"
        if was_in and not is_in:
            verdict = "newly_approval" if after.startswith("budget_approval") else "newly_blocked"
        elif is_in and not was_in:
            verdict = "undecidable" if decided is None else "newly_admitted"
        elif was_in and before != after:
            verdict = "rerouted"
        fate.is_open = is_in and was_in
        fate.policy_id = _policy_of(refusal)
        if verdict == "rerouted" and then is not None:
            fate.step = then.plan[0]
        if verdict == "newly_admitted" and then is not None:
            for draft in drafts:
                self._imagine(head, draft.stream, draft.body)
            self._imagine_served(run_id, head, command, then.plan[0])
        self._count(verdict, run_id, head, command, before, after, decided, then, fate.policy_id)

    def _count(
        self,
        verdict: Verdict,
        run_id: str,
        head: Recorded,
        command: AdmitRun,
        before: str,
        after: str,
        decided: RoutingDecided | None,
        then: RoutingDecided | None,
        policy_id: str,
    ) -> None:
        self._counts[verdict] += 1
        if policy_id and verdict != "same":
            self._by_policy.setdefault(policy_id, Sums()).runs += 1
        if verdict == "same":
            return
        one = Differing(
            run_id=run_id,
            position=head.position,
            at_us=head.recorded_at_us,
            principal_id=command.principal_id,
            model_requested=command.model,
            verdict=verdict,
            before=before,
            after=after,
            reasons_before=_reasons(decided),
            reasons_after=_reasons(then),
            policy_id=policy_id,
        )
        self._list(one)

    def _list(self, one: Differing) -> None:
        if len(self._differing) < self._listed_max_count:
            self._differing.append(one)
        else:
            self._omitted_count += 1

    def _imagine_served(self, run_id: str, head: Recorded, command: AdmitRun, step: PlanStep) -> None:
        """Let a request that was never made cost what it is expected to."""
        run = self._other.runs.open[run_id]
        entry = model_entry(self._other, command.endpoint, step.provider_id, step.model_id)
        assert entry is not None, "a plan holds only what there is"
        where, now_us = Where(step.provider_id, step.model_id), head.recorded_at_us
        start = plan_start(self._other, run, where, step.upstream_model, now_us)
        for draft in reserve(run, start, attempt=1):
            self._imagine(head, draft.stream, draft.body)
        price = price_for(self._other, run, entry, now_us)
        usage = expected_usage(self._other, run, entry, price)
        cost = cost_of(usage, price)
        row = UsageRecorded(
            attempt=1,
            provider_id=step.provider_id,
            model_id=step.model_id,
            upstream_model=step.upstream_model,
            principal_id=command.principal_id,
            key_id=command.key_id,
            session_id=command.session_id,
            agent_id=command.agent_id,
            endpoint=command.endpoint,
            origin=command.origin,
            effective_at_us=now_us,
            usage=usage,
            source="estimated",
            raw_input_tokens=command.raw_tokens,
            price_id="" if price is None else price.price_id,
            cost_state=cost.state,
            cost_nanousd=cost.nanousd,
            known_nanousd=cost.known_nanousd,
        )
        estimate = estimate_of(self._other, run, entry, now_us)
        if estimate.expected_nanousd is not None:
            self._spread_nanousd[0] += (estimate.lower_nanousd or 0) - estimate.expected_nanousd
            self._spread_nanousd[1] += (estimate.upper_nanousd or 0) - estimate.expected_nanousd
        self._imagine(head, head.stream, row)
        self._sum(None, row, "")
        self._let_go(head, row)
        completed = RunCompleted(stop="stop", provider_id=step.provider_id, model_id=step.model_id, duration_us=0)
        self._imagine(head, head.stream, completed)

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
                if len(self._limits) < self._listed_max_count:
                    self._limits.append(told)
                self._imagine(Recorded(0, "", 0, now_us, "", "", 0, "", body), draft.stream, body)

    # -- what comes after

    def _follow(self, run_id: str, head: Recorded) -> None:
        """Take a fact of a run into the other state, as it would have been there."""
        fate, body = self._fates.get(run_id), head.body
        if fate is None or not fate.is_open:
            if isinstance(body, UsageRecorded) and fate is not None and fate.is_compared:
                self._sum(body, None, fate.policy_id)
            return
        match body:
            case BudgetReserved() | BudgetReleased():
                pass  # the other rules keep for an attempt what they keep, from its start to its end
            case AttemptStarted():
                self._start(run_id, fate, head, body)
            case AttemptSucceeded() | AttemptFailed() | AttemptAbandoned():
                self._fold(head)
                following = next((one.body for one in self._ahead if one.stream == head.stream), None)
                if not isinstance(following, UsageRecorded):
                    self._let_go(head, None)
            case UsageRecorded():
                row = self._row(fate, body)
                if fate.is_compared:
                    self._sum(body, row, "")
                self._fold(msgspec.structs.replace(head, body=row))
                self._let_go(head, row)
            case _:
                self._fold(head)

    def _let_go(self, head: Recorded, row: UsageRecorded | None) -> None:
        """End what the other rules kept for the attempt that has ended."""
        hold = self._other.budgets.holds.get(run_id_of(head.stream))
        if hold is not None:
            self._imagine(head, head.stream, release(hold, row, "settled"))

    def _start(self, run_id: str, fate: _Fate, head: Recorded, body: AttemptStarted) -> None:
        """Ask the other rules again, as each start does; what does not fit any more is stopped here."""
        run = self._other.runs.open[run_id]
        step = fate.step or _step_of(body)
        self._share()
        where = Where(step.provider_id, step.model_id)
        start = plan_start(self._other, run, where, step.upstream_model, head.recorded_at_us)
        if fate.is_compared and start.judgement.stops:
            strictest = start.judgement.strictest
            fate.is_open, fate.policy_id = False, "" if strictest is None else strictest.policy_id
            self._imagine(head, head.stream, RunRefused(code="budget_blocked", http_status=429))
            self._counts["same" if fate.step is None else "rerouted"] -= 1
            self._counts["newly_blocked"] += 1
            self._by_policy.setdefault(fate.policy_id, Sums()).runs += 1
            self._list(
                Differing(
                    run_id=run_id,
                    position=head.position,
                    at_us=head.recorded_at_us,
                    principal_id=run.principal_id,
                    model_requested=run.model_requested,
                    verdict="newly_blocked",
                    before=f"{step.provider_id}/{step.model_id}",
                    after="budget_blocked",
                    reasons_before=[],
                    reasons_after=["budget_blocked"],
                    policy_id=fate.policy_id,
                )
            )
            return
        self._note_limits(note_limits(self._other, run_id, start.judgement), head.recorded_at_us)
        for draft in reserve(run, start, attempt=body.attempt):
            self._imagine(head, draft.stream, draft.body)
        price = start.size.price
        started = msgspec.structs.replace(
            body,
            provider_id=step.provider_id,
            model_id=step.model_id,
            upstream_model=step.upstream_model,
            input_max_tokens=start.size.input_tokens,
            output_max_tokens=start.size.output_tokens,
            price_id="" if price is None else price.price_id,
            variant=start.size.variant,
        )
        self._fold(msgspec.structs.replace(head, body=started))

    def _row(self, fate: _Fate, body: UsageRecorded) -> UsageRecorded:
        """Return what the same tokens would have cost where the run goes now."""
        at = body if fate.step is None else fate.step
        price = price_at(self._other, at.provider_id, at.model_id, body.effective_at_us, body.variant)
        price_id = "" if price is None else price.price_id
        if fate.step is None and price_id == body.price_id:
            return body
        cost = cost_of(body.usage, price)
        return msgspec.structs.replace(
            body,
            provider_id=at.provider_id,
            model_id=at.model_id,
            upstream_model=at.upstream_model,
            price_id=price_id,
            cost_state=cost.state,
            cost_nanousd=cost.nanousd,
            known_nanousd=cost.known_nanousd,
        )

    def _sum(self, before: UsageRecorded | None, after: UsageRecorded | None, policy_id: str) -> None:
        """Add what a row cost and would have cost to every sum that it belongs to."""
        for row, side in ((before, 0), (after, 1)):
            if row is None:
                continue
            self._unpriced[side] += row.cost_nanousd is None
            cost = row.known_nanousd if row.cost_nanousd is None else row.cost_nanousd
            model = self._by_model.setdefault(f"{row.provider_id}/{row.model_id}", Sums())
            sums = [self._all, model]
            if policy_id:
                sums.append(self._by_policy.setdefault(policy_id, Sums()))
            for one in sums:
                if side:
                    one.after_nanousd += cost
                else:
                    one.before_nanousd += cost
                    one.runs += one is model


def _step_of(started: AttemptStarted) -> PlanStep:
    return PlanStep(
        provider_id=started.provider_id, model_id=started.model_id, upstream_model=started.upstream_model
    )


def _are_equal(drafts: Sequence[Draft], commit: Sequence[Recorded]) -> bool:
    own = [draft for draft in drafts if draft.stream.startswith("run-")]
    recorded = commit[: len(own)]
    return [VOCABULARY.encode(draft.body) for draft in own] == [VOCABULARY.encode(one.body) for one in recorded]


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
