"""Routing: which candidates were considered, why, and in which order they may be tried. Stream of the run."""

from __future__ import annotations

from typing import Literal

import msgspec

from palyra.events.base import Fact
from palyra.events.smart_routing import RoutingMode, TaskClass


class PlannedCredential(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One credential that may be tried with a candidate, and its revision when the plan was made."""

    credential_ref: str
    revision: int = 0


class CredentialVerdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One credential that a candidate may not use, and the first rule that said so."""

    provider_id: str
    model_id: str
    credential_ref: str
    verdict: str
    #: End of a cooldown.
    until_us: int | None = None


class PlanStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One candidate that may be tried, with what spoke for its place."""

    provider_id: str
    model_id: str
    upstream_model: str
    #: 0 ready (healthy, unknown, degraded, static), 1 cooling down, 2 unavailable.
    readiness: int = 0
    health: str = "unknown"
    #: requested, fallback or compatible: how it came into the chain.
    via: str = "requested"
    #: In the order in which they are tried; none for a provider that is asked without one.
    credentials: list[PlannedCredential] = []


class Exclusion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One candidate that may not be tried, and the first rule that said so."""

    provider_id: str
    model_id: str
    excluded_by: str
    #: Figures behind the rule: window and need, instant a circuit opens again.
    figures: dict[str, int] = {}


class Features(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What the score of a request is made of beside its size."""

    tools: int = 0
    images: int = 0
    #: 0 free text, 1 a JSON object, 2 a JSON schema.
    json: int = 0
    #: Different keywords in the last thing that the user said.
    keywords: int = 0


#: Of a request that says nothing; one object, because a default that is left out is known by being the very same.
NO_FEATURES = Features()


class PricingEstimate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a request may cost at a model, in nano-USD: lower <= expected <= upper <= worst; None is not known."""

    state: Literal["priced", "free", "unknown"] = "unknown"
    price_id: str = ""
    #: The service tier that it is for.
    variant: str = "standard"
    lower_nanousd: int | None = None
    expected_nanousd: int | None = None
    upper_nanousd: int | None = None
    worst_nanousd: int | None = None
    #: What the length of the answer was taken from: recorded answers of the agent at the model or of the model, or,
    #: where they are too few, a guess; and how many they were.
    basis: Literal["agent", "model", "guess"] = "guess"
    samples_count: int = 0
    #: Price or length is a guess, or the tier that is asked for has no price of its own.
    estimate_only: bool = True


class RankedModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One model that was looked at, with the figures that it was ranked by, or with what left it out."""

    provider_id: str
    model_id: str
    readiness: int = 0
    expected_nanousd: int | None = None
    quality: int = 60
    latency_ms: int = 2_000
    excluded_by: str = ""
    #: What would be left under the rule that leaves least, and that rule; "" where none with a limit applies.
    headroom: int | None = None
    headroom_policy_id: str = ""


class WouldBe(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What would have been done in mode enforced; no model where nobody would have served."""

    provider_id: str = ""
    model_id: str = ""
    action: str
    expected_nanousd: int | None = None
    #: Strictest word of the rules about usage, "" where none applies.
    verdict: str = ""


class Evaluated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What one rule said of the model that serves, or of the one that it kept from serving.

    Its limits and its metric stand in its revision; whom and which window it counts, in the hold that follows, or
    here where none does.
    """

    policy_id: str
    revision: int = 1
    status: str = "ok"
    #: Used, held by open attempts, and asked for by this one.
    consumed: int = 0
    reserved: int = 0
    requested: int = 0
    #: What lets it pass a limit, or which part of the sum is in the way.
    approval_id: str = ""
    blocked_by: str = ""
    subject: str = ""
    window_start_us: int = 0
    window_end_us: int = 0


class Basis(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What models were compared by; kept where the comparison counted for something."""

    scorer: str
    simple_at_bp: int
    premium_at_bp: int
    #: How near the nearest limit was, and from where on that presses.
    pressure_bp: int = 0
    pressure_at_bp: int
    #: `provider/model` that others were measured by.
    default_model: str
    mode_configured: RoutingMode
    config_generation: int
    price_version: int = 0


class RoutingDecided(Fact, tag="routing.decided", frozen=True, kw_only=True):
    """The plan of a run, made once at admission; failover walks along it."""

    #: How the requested name was understood: model_id, alias, model_alias, pinned, virtual, default.
    resolved_by: str
    #: The model that the name stands for.
    model_id: str
    #: Why the chain is as long as it is: compatible, same_model, declared, pinned, off.
    failover: str
    plan: list[PlanStep]
    excluded: list[Exclusion] = []
    #: Credentials of candidates, in the plan or not, that may not be used.
    verdicts: list[CredentialVerdict] = []
    #: Output maximum that is sent upstream, where the event limit or a model's own maximum bounds it.
    output_cap_tokens: int | None = None
    #: What the client asked for.
    output_requested_tokens: int | None = None
    #: Globs of the models that the caller might use; none stands for all.
    models_permitted: list[str] = []
    #: By dialect, or by `flavor:NAME`: what the request says that cannot be said there and is not to be dropped.
    losses: dict[str, list[str]] = {}
    #: The mode in force, and the one that the request itself asked for.
    mode: RoutingMode = "suggest"
    mode_requested: RoutingMode | None = None
    task_class: TaskClass = "interactive"
    #: The caller's key holds a pinned model against routing.
    may_pin: bool = False
    features: Features = NO_FEATURES
    #: Of the scorer that the configuration names; None where there was nothing to choose.
    complexity_bp: int | None = None
    #: cheapest, fastest, balanced or best; "" where there was nothing to choose.
    strategy: str = ""
    #: `provider/model` that is recommended.
    recommended: str = ""
    would: WouldBe | None = None
    #: proceed, switch, degrade, upgrade, failover or blocked: what is served beside what was asked for.
    action: str = "proceed"
    #: Sorted.
    reason_codes: list[str] = []
    #: In the order of their rank, those left out behind them; the first dozen.
    candidates: list[RankedModel] = []
    #: Of all that were left out, by rule; and the digest of the whole table.
    excluded_counts: dict[str, int] = {}
    candidates_digest: str = ""
    #: What the request may cost where it is served.
    estimate: PricingEstimate | None = None
    basis: Basis | None = None
    #: What rules about usage say where it is served, the strictest first; none where none applies.
    evaluations: list[Evaluated] = []

    @property
    def budget_outcome(self) -> str:
        """The strictest word of the rules about usage; "" where none applies."""
        return self.evaluations[0].status if self.evaluations else ""


class RoutingFailedOver(Fact, tag="routing.failed_over", frozen=True, kw_only=True):
    """The run goes on with the next candidate of its plan."""

    from_attempt: int
    #: Class of the failure that led to it.
    trigger: str
    provider_id: str
    model_id: str
    skipped: list[Exclusion] = []
    remaining_count: int = 0
