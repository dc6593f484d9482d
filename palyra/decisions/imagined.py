"""The state that other rules would have made: what they reach is folded anew, the rest is as it was.

Health, calibrations, what answers were like and how long they took are the world's and are shared. Rules about
usage, prices, models, runs and grants are folded here as the other rules would have it; so are the circuits of
providers whose breaker is set otherwise, by what the attempts that are made here come to.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from palyra.decisions import circuits
from palyra.events.accounting import Accounting
from palyra.events.approvals import ApprovalDenied, ApprovalExpired, ApprovalGranted, ApprovalRequested
from palyra.events.attempts import AttemptAbandoned, AttemptFailed, AttemptStarted, AttemptSucceeded
from palyra.events.base import Fact, Recorded
from palyra.events.budgets import (
    BudgetPolicyCounted,
    BudgetPolicyRetired,
    BudgetPolicySet,
    UsageBudgetPolicyRecord,
)
from palyra.events.circuits import CircuitForced
from palyra.events.config import ConfigAdopted
from palyra.events.daemon import DaemonClockStepped
from palyra.events.discovery import DiscoveryCompleted
from palyra.events.pricing import PriceEntry, PriceListAdopted
from palyra.events.registry import ProviderEntry, Registry
from palyra.events.smart_routing import SmartRouting
from palyra.projections import approvals, budgets, catalog, config, pricing, runs
from palyra.projections import circuits as boards
from palyra.projections.circuits import CircuitsState, circuit_of
from palyra.projections.runs import run_id_of
from palyra.projections.state import State

#: Chapters that the other rules change, in the order in which they are folded.
_CHAPTERS = (catalog, pricing, budgets, approvals, runs, config)
#: Chapters in which the world stays as it was.
_SHARED = ("health", "usage", "spend", "outputs", "latencies", "auth", "vault", "keys", "cache", "daemon")

_OF_AN_ATTEMPT = (AttemptStarted, AttemptSucceeded, AttemptFailed, AttemptAbandoned)


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
    #: Beside the rules, each in place of one of its name.
    added: Sequence[UsageBudgetPolicyRecord] = ()


class Imagined:
    """The other state beside the true one. `take` follows what is no run's; whoever follows runs folds them."""

    def __init__(self, rules: OtherRules, true: State) -> None:
        self.state = State()
        self._rules = rules
        #: Names that the other rules have, which say nothing of recorded ones.
        self._ours = {
            one.policy_id for one in (*(rules.policies or ()), *(rules.file_policies or ()), *rules.added)
        }
        self._true = true
        self._are_rules_set = False
        #: Circuits of providers whose breaker is set otherwise; they see the runs as they are here.
        self._own = State(runs=self.state.runs)
        self._set_otherwise: dict[str, ProviderEntry] = {}

    def take(self, head: Recorded) -> None:
        """Follow a fact that is no run's, as far as the other rules leave it; the true state has folded it."""
        match head.body:
            case ConfigAdopted() as body:
                self._adopt(head, body)
            case PriceListAdopted() if self._rules.prices is None:
                self.fold(head)
            case BudgetPolicySet() as body if self._keeps(body.policy):
                self.fold(head)
            case BudgetPolicyRetired() | BudgetPolicyCounted():
                if self._is_kept(head.stream.removeprefix("budget-")):
                    self.fold(head)
            case ApprovalRequested(policy_id=policy_id) if self._is_kept(policy_id):
                self.fold(head)
            case DiscoveryCompleted() | ApprovalGranted() | ApprovalDenied() | ApprovalExpired():
                self.fold(head)
            case CircuitForced() | DaemonClockStepped():
                self._fold_circuit(head, head.stream, head.body)

    def fold(self, recorded: Recorded) -> None:
        """Fold a fact."""
        other = self.state
        other.position, other.recorded_at_us = recorded.position, recorded.recorded_at_us
        breaker = self._breaker_of(recorded)
        if breaker is not None:
            self._break(recorded, breaker)
        for chapter in _CHAPTERS:
            if not (chapter is catalog and recorded.stream.startswith("run-")):
                chapter.CHAPTER.fold(other, recorded)

    def imagine(self, like: Recorded, stream: str, body: Fact) -> None:
        """Fold a fact that was never recorded, at the place and instant of one that was."""
        self.fold(msgspec.structs.replace(like, stream=stream, body=body))

    def share(self) -> None:
        """Let the other state see how the world was."""
        for name in _SHARED:
            setattr(self.state, name, getattr(self._true, name))
        self.state.catalog.standings = self._true.catalog.standings
        recorded, own = self._true.circuits, self._own.circuits.by_provider
        if self._set_otherwise:
            kept = {name: one for name, one in recorded.by_provider.items() if name not in self._set_otherwise}
            recorded = CircuitsState(by_provider={**kept, **own})
        self.state.circuits = recorded

    # -- rules

    def _adopt(self, head: Recorded, body: ConfigAdopted) -> None:
        rules = self._rules
        adopted = msgspec.structs.replace(
            body,
            registry=body.registry if rules.registry is None else rules.registry,
            accounting=body.accounting if rules.accounting is None else rules.accounting,
            routing=body.routing if rules.routing is None else rules.routing,
        )
        self.fold(msgspec.structs.replace(head, body=adopted))
        breakers = {one.provider_id: _breaker(one) for one in body.registry.providers}
        self._set_otherwise = {
            one.provider_id: one
            for one in adopted.registry.providers
            if breakers.get(one.provider_id, _breaker(one)) != _breaker(one)
        }
        if self._are_rules_set:
            return
        self._are_rules_set = True
        if rules.prices is not None:
            listed = PriceListAdopted(price_version=1, digest="", config_generation=1, entries=list(rules.prices))
            self.imagine(head, "pricing", listed)
        records = rules.policies if rules.policies is not None else rules.file_policies or ()
        for record in (*records, *rules.added):
            self.imagine(
                head, f"budget-{record.policy_id}", BudgetPolicySet(revision=1, policy=record, by="what-if")
            )

    def _keeps(self, recorded: UsageBudgetPolicyRecord) -> bool:
        if self._rules.policies is not None or recorded.policy_id in self._ours:
            return False
        return self._rules.file_policies is None or recorded.managed_by != "file"

    def _is_kept(self, policy_id: str) -> bool:
        return policy_id in self.state.budgets.policies and policy_id not in self._ours

    # -- breakers

    def _breaker_of(self, recorded: Recorded) -> ProviderEntry | None:
        """Return the provider that an attempt's fact is about, where its breaker is set otherwise."""
        if not self._set_otherwise or not isinstance(recorded.body, _OF_AN_ATTEMPT):
            return None
        if isinstance(recorded.body, AttemptStarted):
            return self._set_otherwise.get(recorded.body.provider_id)
        run = self.state.runs.open.get(run_id_of(recorded.stream))
        if run is None or run.attempt is None:
            return None
        return self._set_otherwise.get(run.attempt.provider_id)

    def _break(self, recorded: Recorded, provider: ProviderEntry) -> None:
        """Decide what an attempt's fact does to a circuit, as it is done when it is recorded."""
        circuit = circuit_of(self._own, provider.provider_id)
        run_id, stream = run_id_of(recorded.stream), f"provider-{provider.provider_id}"
        body = recorded.body
        follows: Fact | None = None
        if isinstance(body, AttemptStarted):
            follows = circuits.at_start(circuit, run_id=run_id, attempt=body.attempt)
        elif isinstance(body, AttemptSucceeded):
            follows = circuits.at_content(circuit, run_id=run_id, attempt=body.attempt)
        else:
            assert isinstance(body, AttemptFailed | AttemptAbandoned)
            follows = circuits.at_failure(
                circuit,
                run_id=run_id,
                attempt=body.attempt,
                counted=isinstance(body, AttemptFailed) and body.counted,
                threshold=provider.circuit_breaker_failure_threshold,
                cooldown_ms=provider.circuit_breaker_cooldown_ms,
                now_us=recorded.recorded_at_us,
            )
        self._fold_circuit(recorded, recorded.stream, recorded.body)
        if follows is not None:
            self._fold_circuit(recorded, stream, follows)

    def _fold_circuit(self, like: Recorded, stream: str, body: object) -> None:
        boards.CHAPTER.fold(self._own, msgspec.structs.replace(like, stream=stream, body=body))


def _breaker(provider: ProviderEntry) -> tuple[int, int]:
    return provider.circuit_breaker_failure_threshold, provider.circuit_breaker_cooldown_ms
