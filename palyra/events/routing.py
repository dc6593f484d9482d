"""Routing: which candidates were considered, why, and in which order they may be tried. Stream of the run."""

from __future__ import annotations

import msgspec

from palyra.events.base import Fact


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


class RoutingFailedOver(Fact, tag="routing.failed_over", frozen=True, kw_only=True):
    """The run goes on with the next candidate of its plan."""

    from_attempt: int
    #: Class of the failure that led to it.
    trigger: str
    provider_id: str
    model_id: str
    skipped: list[Exclusion] = []
    remaining_count: int = 0
