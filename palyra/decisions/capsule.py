"""Capsules: one run with all that its decisions read, and nothing that tells who asked or what.

A capsule is the run's own events, the ground on which they were decided (configuration, circuits, health,
exclusions, calibrations, lengths of answers and how long they took), and what others changed of that ground while
the run was open. Everybody in it is a token; texts of clients and providers, addresses and credentials are left
out, for no decision may need them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from palyra.decisions.capsule_budgets import BudgetHider
from palyra.decisions.capsule_names import Names
from palyra.events.accounting import Accounting
from palyra.events.auth import AuthProfileCooledDown, AuthProfileFailed
from palyra.events.base import Recorded
from palyra.events.config import ConfigAdopted
from palyra.events.daemon import DaemonClockStepped
from palyra.events.pricing import PriceEntry, PriceListAdopted
from palyra.events.registry import ModelEntry, ProviderEntry, Registry
from palyra.events.routing import PlanStep
from palyra.events.runs import RunAdmitted, RunRefused
from palyra.events.smart_routing import SmartRouting
from palyra.events.vocabulary import VOCABULARY
from palyra.projections.approvals import Approval
from palyra.projections.auth import IMPLICIT, AuthProfile, ProfileOrder, Standing
from palyra.projections.budgets import Counter, Policy
from palyra.projections.catalog import ModelStanding
from palyra.projections.circuits import Circuit
from palyra.projections.health import ProviderHealth
from palyra.projections.outputs import Outputs, agent_key
from palyra.projections.state import State, evolve
from palyra.projections.usage import Calibration
from palyra.projections.vault import VAULT_FORM, VaultSecret, revision_in_use

FORMAT, VERSION = "palyra.capsule", 1
#: In place of the runs of others.
_OTHER = "another"
#: Signs of life decide nothing, nor does the remark that a price is missing.
_LEFT_OUT = ("heartbeat.recorded", "heartbeat.cleared", "price.missing")

EntryT = TypeVar("EntryT", bound=msgspec.Struct)


class Ground(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What decisions read, as it was right before the event at `position`.

    The first one of a capsule is whole, those after it hold what others changed meanwhile. An empty entry is one
    that nothing is known of.
    """

    position: int
    generation: int = 0
    registry: Registry | None = None
    accounting: Accounting = Accounting()
    routing: SmartRouting = SmartRouting()
    #: By provider.
    circuits: dict[str, Circuit] = {}
    health: dict[str, ProviderHealth] = {}
    #: By `provider/model` and `provider/upstream_model`.
    standings: dict[str, ModelStanding] = {}
    calibrations: dict[str, Calibration] = {}
    #: By `provider/model`, and by that of the run's own agent. Nothing after the admission reads them.
    outputs: dict[str, Outputs] = {}
    agent_outputs: dict[str, Outputs] = {}
    #: By `provider/model`, for the admission too.
    latencies: dict[str, list[int]] = {}
    #: Those of the candidates; None where they are as before. A decision names the list that it was made by.
    prices: list[PriceEntry] | None = None
    price_version: int = 0
    #: By credential, which has a token for its name; orders by `agent|provider`.
    profiles: dict[str, AuthProfile] = {}
    credentials: dict[str, Standing] = {}
    orders: dict[str, ProfileOrder] = {}
    #: Revisions of secrets that entries of the configuration name, which have tokens for their names.
    revisions: dict[str, int] = {}
    #: Rules, and counters of the run's own subjects, both by key; None where nothing of it has changed.
    policies: dict[str, Policy] | None = None
    counters: dict[str, Counter] | None = None
    #: What the run may draw on, or has asked for; None where nothing of it has changed.
    approvals: dict[str, Approval] | None = None

    @property
    def is_empty(self) -> bool:
        lasting = (self.outputs, self.agent_outputs, self.latencies)
        evidence = (self.circuits, self.health, self.standings, self.calibrations, *lasting)
        others = (self.profiles, self.credentials, self.orders, self.revisions, self.policies, self.counters)
        is_known = self.registry is None and self.prices is None and self.approvals is None
        return is_known and not any((*evidence, *others))


class CapsuleEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event, with its body as it is stored."""

    position: int
    stream: str
    recorded_at_us: int
    name: str
    schema: int
    body: dict[str, Any]


class Capsule(msgspec.Struct, frozen=True, kw_only=True):
    """A run that can be decided again, anywhere."""

    format: str = FORMAT
    version: int = VERSION
    #: Release that captured it.
    release: str
    run_id: str
    ground: list[Ground]
    events: list[CapsuleEvent]


def stand_on(state: State, ground: Ground) -> None:
    """Make true in a state what a ground says; its entries are not shared."""
    if ground.registry is not None:
        adopted = ConfigAdopted(
            generation=ground.generation,
            digest="",
            effective={},
            registry=ground.registry,
            accounting=ground.accounting,
            routing=ground.routing,
        )
        evolve(state, Recorded(ground.position - 1, "config", 0, 0, "", "", 0, "", adopted))
    if ground.prices is not None:
        listed = PriceListAdopted(
            price_version=ground.price_version,
            digest="",
            config_generation=ground.generation,
            entries=ground.prices,
        )
        evolve(state, Recorded(ground.position - 1, "pricing", 0, 0, "", "", 0, "", listed))
    for ref, revision in ground.revisions.items():
        state.vault.secrets[ref] = VaultSecret(
            ref=ref, revision=revision, kind="", key_fingerprint="", value_bytes=0, stored_us=0
        )
    if ground.policies is not None:
        state.budgets.policies = {name: msgspec.structs.replace(one) for name, one in ground.policies.items()}
    if ground.counters is not None:
        state.budgets.counters = {key: msgspec.structs.replace(one) for key, one in ground.counters.items()}
    if ground.approvals is not None:
        state.approvals.by_id = {name: msgspec.structs.replace(one) for name, one in ground.approvals.items()}
        state.approvals.by_policy = {}
        for name, one in ground.approvals.items():
            state.approvals.by_policy.setdefault(one.request.policy_id, []).append(name)
    for own, told in _chapters(state, ground):
        own.update(copy.deepcopy(told))


def _chapters(state: State, ground: Ground) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return each chapter of a state beside that of a ground."""
    return [
        (state.circuits.by_provider, ground.circuits),
        (state.health.by_provider, ground.health),
        (state.catalog.standings, ground.standings),
        (state.usage.calibrations, ground.calibrations),
        (state.outputs.by_model, ground.outputs),
        (state.outputs.by_agent, ground.agent_outputs),
        (state.latencies.by_model, ground.latencies),
        (state.auth.profiles, ground.profiles),
        (state.auth.standings, ground.credentials),
        (state.auth.orders, ground.orders),
    ]


class CapsuleMaker:
    """Takes a journal's events in order, from the run's first one on, and keeps what the run's decisions read.

    `state` is that before the first event and is folded on; `role` is the endpoint that the run asked for, `asked`
    who wants it; `key` makes the tokens: the same journal gives the same ones, and without it nobody can try names.
    """

    def __init__(
        self,
        state: State,
        *,
        run_id: str,
        role: str,
        key: str,
        release: str,
        asked: RunAdmitted | RunRefused | None = None,
    ) -> None:
        self._state = state
        self._stream = f"run-{run_id}"
        self._role = role
        self._names = Names(key)
        self._asked = asked
        self._budgets = BudgetHider(state, asked, self._names.token)
        self._ground: list[Ground] = []
        self._events: list[CapsuleEvent] = []
        #: What somebody knows who has the capsule alone.
        self._known = State()
        self._registry: Registry | None = None
        self._head = Capsule(release=release, run_id=run_id, ground=self._ground, events=self._events)

    def add(self, recorded: Recorded) -> None:
        """Fold the next event of the journal, and keep it if it is the run's."""
        if self._is_own(recorded):
            self._keep(recorded)
        evolve(self._state, recorded)

    def capsule(self) -> Capsule:
        """Return the capsule of what came so far."""
        return self._head

    def _is_own(self, recorded: Recorded) -> bool:
        if recorded.stream == self._stream:
            return True
        if isinstance(recorded.body, DaemonClockStepped):
            return True  # it moves the deadlines of all
        is_about_it = recorded.correlation == self._stream
        return is_about_it and VOCABULARY.name_of(recorded.body) not in _LEFT_OUT

    def _keep(self, recorded: Recorded) -> None:
        ground = self._news(recorded.position)
        if not ground.is_empty:
            self._ground.append(ground)
            stand_on(self._known, ground)
        cleaned = self._names.fact(self._budgets.cleaned(recorded.body, recorded.stream))
        name, schema, body = VOCABULARY.encode(cleaned)
        stream = recorded.stream
        if isinstance(recorded.body, AuthProfileCooledDown | AuthProfileFailed):
            stream = f"credential-{self._names.credential(stream.removeprefix('credential-'))}"
        event = CapsuleEvent(
            position=recorded.position,
            stream=stream,
            recorded_at_us=recorded.recorded_at_us,
            name=name,
            schema=schema,
            body=msgspec.json.decode(body),
        )
        self._events.append(event)
        evolve(self._known, recorded_of(event))

    # -- the ground

    def _news(self, position: int) -> Ground:
        """Return what is true and cannot be known from the capsule so far."""
        registry = self._state.catalog.registry
        is_new = registry is not self._registry
        is_first = not self._events
        self._registry = registry
        providers, models, upstream = self._candidates(registry)
        known = self._known
        prices, version = _prices_of(self._state, models), self._state.pricing.version
        is_same_list = (prices, version) == (_prices_of(known, models), known.pricing.version)
        policies, counters = self._budgets.policies(), self._budgets.counters()
        approvals = self._budgets.approvals(self._stream[4:])
        return Ground(
            position=position,
            generation=self._state.config.generation if is_new else 0,
            registry=self._names.registry(registry) if is_new else None,
            accounting=self._state.config.accounting if is_new else Accounting(),
            routing=self._state.config.routing if is_new else SmartRouting(),
            policies=None if policies == known.budgets.policies else policies,
            counters=None if counters == known.budgets.counters else counters,
            approvals=None if approvals == known.approvals.by_id else approvals,
            prices=None if is_same_list else prices,
            price_version=0 if is_same_list else version,
            circuits=_news_of(
                Circuit(), self._state.circuits.by_provider, known.circuits.by_provider, providers, self._hide_trial
            ),
            health=_news_of(ProviderHealth(), self._state.health.by_provider, known.health.by_provider, providers),
            standings=_news_of(ModelStanding(), self._state.catalog.standings, known.catalog.standings, models),
            calibrations=_news_of(
                Calibration(), self._state.usage.calibrations, known.usage.calibrations, upstream
            ),
            outputs=_news_of(Outputs(), self._state.outputs.by_model, {}, models) if is_first else {},
            agent_outputs=self._agent_outputs(models) if is_first else {},
            latencies=self._latencies(models) if is_first else {},
            **self._credentials(registry, providers),
        )

    def _agent_outputs(self, models: Iterable[str]) -> dict[str, Outputs]:
        """Return how long answers to the run's own agent were, which has a token for its name."""
        agent_id = self._asked.agent_id if self._asked is not None else ""
        own = self._state.outputs.by_agent
        return {
            agent_key(self._names.token("agent", agent_id), model): copy.deepcopy(own[agent_key(agent_id, model)])
            for model in models
            if agent_key(agent_id, model) in own
        }

    def _latencies(self, models: Iterable[str]) -> dict[str, list[int]]:
        own = self._state.latencies.by_model
        return {model: list(own[model]) for model in models if model in own}

    def _credentials(self, registry: Registry, providers: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return profiles, standings and orders that could be of use to the run, under their tokens."""
        auth, known = self._state.auth, self._known.auth
        entries = [entry for entry in registry.providers if entry.provider_id in providers]
        labels = {entry.auth_provider_kind for entry in entries}
        chosen = {entry.auth_profile_id for entry in entries}
        profiles = {
            self._names.credential(name): self._names.profile(one)
            for name, one in auth.profiles.items()
            if one.provider in labels or name in chosen
        }
        own = [f"{IMPLICIT}{entry.provider_id}" for entry in entries]
        standings = {self._names.credential(name): one for name, one in auth.standings.items()}
        orders = {
            f"{self._names.token('agent', agent_id)}|{self._names.token('label', label)}": self._names.order(order)
            for (agent_id, _, label), order in ((key.partition("|"), order) for key, order in auth.orders.items())
            if label in labels
        }
        return {
            "profiles": {name: one for name, one in profiles.items() if one != known.profiles.get(name)},
            "credentials": _news_of(Standing(), standings, known.standings, [*profiles, *own]),
            "revisions": self._revisions(entries),
            "orders": {key: order for key, order in orders.items() if order != known.orders.get(key)},
        }

    def _revisions(self, entries: Iterable[ProviderEntry]) -> dict[str, int]:
        refs = {self._names.reference(entry.credential_ref): entry.credential_ref for entry in entries}
        revisions = {ref: revision_in_use(self._state, true) for ref, true in refs.items()}
        return {
            ref.removeprefix(VAULT_FORM): revision
            for ref, revision in revisions.items()
            if revision != revision_in_use(self._known, ref)
        }

    def _candidates(self, registry: Registry) -> tuple[Iterable[str], Iterable[str], Iterable[str]]:
        """Return providers, `provider/model` and `provider/upstream_model` of all that could serve the run."""
        run = self._known.runs.open.get(self._stream[4:])
        steps = run.plan if run is not None else []
        entries: list[ModelEntry | PlanStep] = [
            *(model for model in registry.models if model.role == self._role),
            *steps,
        ]
        return (
            dict.fromkeys(entry.provider_id for entry in entries),
            dict.fromkeys(f"{entry.provider_id}/{entry.model_id}" for entry in entries),
            dict.fromkeys(f"{entry.provider_id}/{entry.upstream_model}" for entry in entries),
        )

    def _hide_trial(self, circuit: Circuit) -> Circuit:
        is_of_another = circuit.trial_run not in ("", self._stream[4:])
        return msgspec.structs.replace(circuit, trial_run=_OTHER) if is_of_another else circuit


def _news_of(
    unknown: EntryT,
    true: Mapping[str, EntryT],
    known: Mapping[str, EntryT],
    keys: Iterable[str],
    hide: Callable[[EntryT], EntryT] = lambda entry: entry,
) -> dict[str, EntryT]:
    """Return the entries that differ from what is known; no entry says as much as an empty one."""
    entries = {key: hide(true.get(key, unknown)) for key in keys}
    return {key: copy.deepcopy(entry) for key, entry in entries.items() if entry != known.get(key, unknown)}


def _prices_of(state: State, models: Iterable[str]) -> list[PriceEntry]:
    """Return the entries by which models are priced."""
    book = state.pricing
    return [book.by_id[price_id] for key in models for price_id in book.by_model.get(key, ())]


def recorded_of(event: CapsuleEvent) -> Recorded:
    """Return an event of a capsule as it is folded; raises `msgspec.DecodeError` for a body of another shape."""
    body = VOCABULARY.decode(event.name, event.schema, msgspec.json.encode(event.body))
    return Recorded(event.position, event.stream, 0, event.recorded_at_us, "", "", 0, "", body)
