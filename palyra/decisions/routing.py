"""The plan of a run: which candidates may be tried, in which order, and why the others may not.

Made once at admission; failover walks along it and reads circuits and exclusions again, but never reorders it.
Source: gateway specification 5.3 and 8.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from palyra.decisions import credentials
from palyra.decisions.keys import is_permitted
from palyra.decisions.naming import Resolution
from palyra.errors import Refusal
from palyra.events.registry import ModelEntry, ProviderEntry
from palyra.events.routing import CredentialVerdict, Exclusion, PlannedCredential, PlanStep
from palyra.limits import FIT_OUTPUT_TOKENS
from palyra.projections.catalog import excluded_until_us, model_entry, models_named, provider_entry
from palyra.projections.circuits import circuit_of, is_passable
from palyra.projections.health import READINESS, health_of
from palyra.projections.runs import Run
from palyra.projections.state import State
from palyra.projections.usage import calibrate
from palyra.units import US_PER_MS, US_PER_S, ceil_div

if TYPE_CHECKING:
    from palyra.decisions.runs import AdmitRun

#: More than any model gives; a model whose size is not configured is asked up to here.
MAX_DIMENSIONS = 1 << 16
_TIERS = {"low": 0, "standard": 1, "premium": 2, "high": 2}
#: Exclusions that the request itself explains: another request could be served.
_REQUEST_RULES = ("capability_missing", "context_too_small", "dialect_loss", "dimensions_differ", "event_limit")
#: A candidate that nothing is wrong with but that no credential can be used for.
NO_CREDENTIAL = "no_credential"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a request needs of a model."""

    role: str
    needs: Sequence[str]
    raw_tokens: int
    output_max_tokens: int | None
    dimensions: int | None = None
    failover: bool = True
    #: Globs of the models that the caller may use; none stands for all.
    models: Sequence[str] = ()
    #: The dialect of a request that can be translated, "" for one that cannot.
    dialect: str = ""
    #: By dialect, or by `flavor:NAME`: what the request says that cannot be said there and is not to be dropped.
    losses: Mapping[str, Sequence[str]] = {}
    agent_id: str = ""
    #: Credentials whose secret cannot be read right now.
    absent: Sequence[str] = ()


def wanted_of(command: AdmitRun) -> Wanted:
    """Return what a request needs of a model."""
    return Wanted(
        role=command.endpoint,
        needs=sorted(command.needs),
        raw_tokens=command.raw_tokens,
        output_max_tokens=command.output_max_tokens,
        dimensions=command.dimensions,
        failover=command.failover,
        models=command.models,
        dialect=command.dialect,
        losses=command.losses,
        agent_id=command.agent_id,
        absent=command.absent,
    )


class Plan(NamedTuple):
    """Candidates in order, and those that were left out."""

    steps: list[PlanStep]
    excluded: list[Exclusion]
    failover: str
    #: Of credentials that may not be used.
    verdicts: list[CredentialVerdict]


def plan_candidates(state: State, resolution: Resolution, wanted: Wanted, now_us: int) -> Plan:
    """Return the candidates of a request in the order in which they are tried."""
    failover = _failover_of(state, resolution, wanted)
    steps: list[PlanStep] = []
    excluded: list[Exclusion] = []
    verdicts: list[CredentialVerdict] = []
    seen: dict[tuple[str, str], None] = {}
    for via, entry in _chain(state, resolution, wanted, failover):
        pair = (entry.provider_id, entry.model_id)
        if pair in seen:
            continue
        seen[pair] = None
        exclusion = exclude(state, entry, wanted, now_us)
        if exclusion is None:
            chosen = _choose_credentials(state, entry, wanted, now_us)
            verdicts += chosen.verdicts
            exclusion = _without_credential(state, entry, chosen)
        if exclusion is not None:
            excluded.append(exclusion)
        else:
            steps.append(_step(state, entry, via, chosen.credentials, now_us))
    steps.sort(key=lambda step: step.readiness)
    limit = 1 if failover in ("off", "pinned") else state.catalog.registry.failover_max_candidates
    return Plan(steps[:limit], excluded, failover, verdicts)


def _failover_of(state: State, resolution: Resolution, wanted: Wanted) -> str:
    registry = state.catalog.registry
    if resolution.is_pinned:
        return "pinned"
    if not registry.failover_enabled or not wanted.failover:
        return "off"
    if wanted.role == "embeddings":
        return "same_model"
    # A transcript by a model that nobody has named is another transcript.
    return (
        "declared" if wanted.role != "chat" and registry.failover_scope == "compatible" else registry.failover_scope
    )


def _chain(state: State, resolution: Resolution, wanted: Wanted, failover: str) -> list[tuple[str, ModelEntry]]:
    """Return (how it came in, entry) in order: the model, its fallbacks, compatible models of other providers."""
    chain = [("requested", entry) for entry in resolution.entries]
    if failover not in ("compatible", "declared"):
        return chain
    declared = resolution.entries[0].fallbacks
    for name in declared or ():
        chain += [("fallback", entry) for entry in models_named(state, wanted.role, name)]
    if declared is not None or failover == "declared":
        return chain
    own = {entry.provider_id: None for entry in resolution.entries}
    others = [
        entry
        for entry in state.catalog.registry.models
        if entry.role == wanted.role and entry.provider_id not in own
    ]
    others.sort(key=lambda one: (_TIERS[one.cost_tier], _TIERS[one.latency_tier], one.model_id, one.provider_id))
    return chain + [("compatible", entry) for entry in others]


def first_fitting(state: State, resolution: Resolution, wanted: Wanted) -> ModelEntry | None:
    """Return the first candidate that can serve a request, whether or not it is ready to."""
    failover = _failover_of(state, resolution, wanted)
    chain = (entry for _, entry in _chain(state, resolution, wanted, failover))
    return next((entry for entry in chain if unfit(state, entry, wanted) is None), None)


def exclude(state: State, entry: ModelEntry, wanted: Wanted, now_us: int) -> Exclusion | None:
    """Return the first rule that keeps a candidate from being tried, or None."""
    return unfit(state, entry, wanted) or _left_alone(state, entry.provider_id, entry.model_id, now_us)


def unfit(state: State, entry: ModelEntry, wanted: Wanted) -> Exclusion | None:
    """Return why a candidate cannot serve a request at any time, or None."""

    def excluded(by: str, **figures: int) -> Exclusion:
        return Exclusion(provider_id=entry.provider_id, model_id=entry.model_id, excluded_by=by, figures=figures)

    provider = provider_entry(state, entry.provider_id)
    if provider is None or not provider.enabled or not entry.enabled:
        return excluded("disabled")
    if not is_permitted(wanted.models, entry.provider_id, entry.model_id):
        return excluded("model_not_permitted")
    for need in wanted.needs:
        if not getattr(entry.capabilities, need, False):
            return excluded(f"capability_missing:{need}")
    for lost in _lost_on_the_way(provider, entry, wanted):
        return excluded(f"dialect_loss:{lost}")
    if provider.kind != "deterministic" and (wanted.dimensions or 0) > (entry.dimensions or MAX_DIMENSIONS):
        return excluded("dimensions_differ", asked=wanted.dimensions or 0, has=entry.dimensions or MAX_DIMENSIONS)
    _, estimated, _ = calibrate(state, entry.provider_id, entry.upstream_model, wanted.raw_tokens)
    if estimated > entry.max_tokens_per_event:
        return excluded("event_limit", estimated_tokens=estimated, limit_tokens=entry.max_tokens_per_event)
    needed = estimated + (0 if wanted.role != "chat" else wanted.output_max_tokens or FIT_OUTPUT_TOKENS)
    if entry.max_context_tokens is not None and needed > entry.max_context_tokens:
        return excluded("context_too_small", needed_tokens=needed, window_tokens=entry.max_context_tokens)
    return None


def _lost_on_the_way(provider: ProviderEntry, entry: ModelEntry, wanted: Wanted) -> Sequence[str]:
    if not wanted.losses:
        return ()
    api = entry.api_for(wanted.dialect)
    translated = wanted.losses.get(api, ()) if wanted.dialect not in ("", api) else ()
    return [*translated, *wanted.losses.get(f"flavor:{provider.flavor}", ())]


def _choose_credentials(state: State, entry: ModelEntry, wanted: Wanted, now_us: int) -> credentials.Chosen:
    provider = provider_entry(state, entry.provider_id)
    assert provider is not None, "a candidate that was not excluded is configured"
    return credentials.choose(
        state, provider, entry.model_id, agent_id=wanted.agent_id, absent=wanted.absent, now_us=now_us
    )


def without_credential(state: State, entry: ModelEntry, wanted: Wanted, now_us: int) -> Exclusion | None:
    """Return that no credential can be used for a candidate, or None."""
    return _without_credential(state, entry, _choose_credentials(state, entry, wanted, now_us))


def _without_credential(state: State, entry: ModelEntry, chosen: credentials.Chosen) -> Exclusion | None:
    provider = provider_entry(state, entry.provider_id)
    if chosen.credentials or provider is None or not credentials.needs_credential(provider):
        return None
    figures = {} if chosen.until_us is None else {"until_us": chosen.until_us}
    return Exclusion(
        provider_id=entry.provider_id, model_id=entry.model_id, excluded_by=NO_CREDENTIAL, figures=figures
    )


def ready_at(
    state: State, step: PlanStep, *, wanted: str = "", agent_id: str = "", has_waited: bool = False, now_us: int
) -> PlannedCredential | Exclusion:
    """Return the credential with which a candidate can be tried right now, or why it cannot; asked before each try.

    `wanted` is the credential from which on one is looked for, "" for the plan's first.
    """
    exclusion = unready(state, step.provider_id, step.model_id, now_us)
    if exclusion is not None:
        return exclusion
    picked = credentials.pick(state, step, wanted=wanted, agent_id=agent_id, has_waited=has_waited, now_us=now_us)
    if isinstance(picked, PlannedCredential):
        return picked
    figures = {"until_us": picked.until_us}
    return Exclusion(
        provider_id=step.provider_id, model_id=step.model_id, excluded_by=NO_CREDENTIAL, figures=figures
    )


def unready(state: State, provider_id: str, model_id: str, now_us: int) -> Exclusion | None:
    """Return why a candidate cannot be tried right now, whatever it is tried with, or None.

    Configuration may have changed since the plan was made: who was taken out of it gets nothing more.
    """
    if not _is_offered(state, provider_id, model_id):
        return Exclusion(
            provider_id=provider_id, model_id=model_id, excluded_by="model_unavailable", figures={"until_us": 0}
        )
    return _left_alone(state, provider_id, model_id, now_us)


def _left_alone(state: State, provider_id: str, model_id: str, now_us: int) -> Exclusion | None:
    circuit = circuit_of(state, provider_id)
    if not is_passable(circuit, now_us):
        by, until_us = "circuit_open", circuit.until_us
    else:
        by, until_us = "model_excluded", excluded_until_us(state, provider_id, model_id)
        if until_us <= now_us:
            return None
    return Exclusion(provider_id=provider_id, model_id=model_id, excluded_by=by, figures={"until_us": until_us})


def _is_offered(state: State, provider_id: str, model_id: str) -> bool:
    provider = provider_entry(state, provider_id)
    if provider is None or not provider.enabled:
        return False
    for role in (*state.catalog.names, *state.catalog.discovered):
        entry = model_entry(state, role, provider_id, model_id)
        if entry is not None and entry.enabled:
            return True
    return False


def _step(state: State, entry: ModelEntry, via: str, planned: list[PlannedCredential], now_us: int) -> PlanStep:
    provider = provider_entry(state, entry.provider_id)
    health = "unknown" if provider is None else health_of(state, provider, now_us)
    return PlanStep(
        provider_id=entry.provider_id,
        model_id=entry.model_id,
        upstream_model=entry.upstream_model,
        readiness=READINESS.get(health, 0),
        health=health,
        via=via,
        credentials=planned,
    )


def next_candidate(
    state: State, run: Run, after: int, now_us: int, *, needs_larger_window: bool = False
) -> tuple[int | None, list[Exclusion]]:
    """Return the index of the next candidate that may be tried, and those that were passed over."""
    skipped: list[Exclusion] = []
    window = _window_of(state, run, after) if needs_larger_window else None
    for index in range(after + 1, len(run.plan)):
        step = run.plan[index]
        ready = ready_at(state, step, agent_id=run.admitted.agent_id, now_us=now_us)
        exclusion = ready if isinstance(ready, Exclusion) else None
        if exclusion is None and f"{step.provider_id}/{step.model_id}" in run.failed:
            exclusion = Exclusion(provider_id=step.provider_id, model_id=step.model_id, excluded_by="duplicate")
        if exclusion is None and window is not None and (_window_of(state, run, index) or 0) <= window:
            exclusion = Exclusion(
                provider_id=step.provider_id, model_id=step.model_id, excluded_by="context_too_small"
            )
        if exclusion is None:
            return index, skipped
        skipped.append(exclusion)
    return None, skipped


def _window_of(state: State, run: Run, index: int) -> int | None:
    step = run.plan[index]
    entry = model_entry(state, run.admitted.endpoint, step.provider_id, step.model_id)
    return None if entry is None else entry.max_context_tokens


def output_cap(state: State, step: PlanStep, role: str, asked_tokens: int | None) -> int | None:
    """Return the output maximum that is sent upstream; None leaves the client's body as it is.

    Only the event limit lowers what a client asked for; a client that asked for nothing gets no maximum from here.
    """
    if asked_tokens is None:
        return None
    entry = model_entry(state, role, step.provider_id, step.model_id)
    return asked_tokens if entry is None else min(asked_tokens, entry.max_tokens_per_event)


def refusal_of_empty_plan(
    excluded: Sequence[Exclusion], now_us: int, verdicts: Sequence[CredentialVerdict] = ()
) -> Refusal:
    """Return why nobody can serve the request: the request's fault only if it explains every exclusion."""
    rows = [
        {"provider_id": one.provider_id, "model_id": one.model_id, "excluded_by": one.excluded_by, **one.figures}
        for one in excluded
    ]
    details: dict[str, Any] = {"candidates": rows}
    reasons = [one.excluded_by.partition(":")[0] for one in excluded]
    able = [
        one for one, reason in zip(excluded, reasons, strict=True) if reason not in (*_REQUEST_RULES, "disabled")
    ]
    if reasons and all(reason in _REQUEST_RULES for reason in reasons):
        return _refuse_request(excluded, details)
    wait_ms = _least_wait_ms(able, now_us)
    again = "" if wait_ms is None else f" Try again in {ceil_div(wait_ms, 1_000)} s."
    if reasons and all(reason == "circuit_open" for reason in reasons):
        message = f"Every provider that could serve this is failing and left alone for now.{again}"
        return Refusal(code="all_circuits_open", message=message, retry_after_ms=wait_ms, details=details)
    if able and all(one.excluded_by == NO_CREDENTIAL for one in able):
        if verdicts:
            details["credentials"] = [
                {"credential_ref": one.credential_ref, "provider_id": one.provider_id, "verdict": one.verdict}
                for one in verdicts
            ]
        ends = [one.figures.get("until_us") for one in able]
        return credentials.refusal_without_credentials(verdicts, ends, details, now_us)
    return Refusal(
        code="no_candidate",
        message=f"No configured model can serve this request right now; `palyra models status` says why.{again}",
        retry_after_ms=wait_ms,
        details=details,
    )


def _least_wait_ms(excluded: Sequence[Exclusion], now_us: int) -> int | None:
    """Return after how long the first of them may serve again; None where only somebody's doing will change it."""
    ends = (one.figures["until_us"] for one in excluded if "until_us" in one.figures)
    waits_ms = [max(0, end - now_us) // US_PER_MS for end in ends if end < now_us + _WAIT_MAX_US]
    return max(1_000, min(waits_ms)) if waits_ms else None


def _refuse_request(excluded: Sequence[Exclusion], details: dict[str, Any]) -> Refusal:
    first_by_rule = {one.excluded_by.partition(":")[0]: one for one in reversed(excluded)}
    if "event_limit" in first_by_rule:
        limit = first_by_rule["event_limit"].figures
        return Refusal(
            code="max_model_tokens_per_event_exceeded",
            message=(
                f"The input is estimated at {limit['estimated_tokens']} tokens, more than the"
                f" {limit['limit_tokens']} that one request may carry. Shorten it, or raise"
                " model_provider.max_model_tokens_per_event."
            ),
            param="messages",
            details=details,
        )
    if "context_too_small" in first_by_rule:
        window = first_by_rule["context_too_small"].figures
        return Refusal(
            code="context_window_exceeded",
            message=(
                f"The input and the answer need about {window['needed_tokens']} tokens; the model's window holds"
                f" {window['window_tokens']}. Shorten the input or choose a model with a larger window."
            ),
            param="messages",
            details=details,
        )
    if "dimensions_differ" in first_by_rule:
        size = first_by_rule["dimensions_differ"].figures
        message = f"The model gives at most {size['has']} dimensions, {size['asked']} were asked."
        return Refusal(code="unsupported_parameter", message=message, param="dimensions", details=details)
    if "dialect_loss" in first_by_rule:
        return _refuse_lost(first_by_rule["dialect_loss"].excluded_by.partition(":")[2], details)
    missing = excluded[0].excluded_by.partition(":")[2]
    return Refusal(
        code="capability_missing",
        message=f"No candidate can do '{missing}', which the request needs.",
        param=_PARAM_OF_NEED.get(missing),
        details=details,
    )


#: Who is left alone for longer waits for somebody, not for time.
_WAIT_MAX_US = 86_400 * US_PER_S
#: Losses that have a code of their own.
_CODE_OF_LOSS = {"tool_arguments_not_json": "tool_arguments_not_json", "image_url": "image_url_unsupported"}


def _refuse_lost(lost: str, details: dict[str, Any]) -> Refusal:
    message = f"No candidate can take '{lost}'; it speaks another dialect, in which that cannot be said."
    if lost == "tool_arguments_not_json":
        message = "The arguments of a tool call are not a JSON object, which every candidate demands."
    elif lost == "image_url":
        message = "Every candidate takes the bytes of an image only, and Palyra fetches none; send a data URL."
    param = "messages" if lost in _CODE_OF_LOSS else lost
    code = _CODE_OF_LOSS.get(lost, "unsupported_parameter")
    return Refusal(code=code, message=message, param=param, details=details)


_PARAM_OF_NEED = {
    "tools": "tools",
    "parallel_tools": "parallel_tool_calls",
    "tool_choice": "tool_choice",
    "json_mode": "response_format",
    "json_schema": "response_format",
    "vision": "messages",
    "documents": "messages",
    "audio_input": "messages",
    "logprobs": "logprobs",
    "multi_choice": "n",
}
