"""Answers about providers and models as plain data: what `palyra models` shows, and `palyra status` of them."""

from __future__ import annotations

import msgspec

from palyra.decisions.credentials import Chosen, absent_credentials, choose, needs_credential
from palyra.decisions.health import health_with_credentials
from palyra.decisions.naming import resolve
from palyra.engine.questions import Answer
from palyra.errors import Refusal
from palyra.events.pricing import PriceEntry
from palyra.events.registry import ModelEntry, ProviderEntry
from palyra.projections.catalog import excluded_until_us, list_of, standing_of
from palyra.projections.circuits import circuit_of
from palyra.projections.health import evidence_of
from palyra.projections.pricing import price_at
from palyra.projections.state import State


class ProviderAnswer(Answer, frozen=True, kw_only=True):
    """One configured provider."""

    provider_id: str
    display_name: str
    kind: str
    enabled: bool
    health: str
    #: closed, open or half_open.
    circuit: str
    #: When an open circuit lets its one trial call pass.
    circuit_until_us: int | None
    #: Counted failures since the last success, and how many open the circuit.
    failures_count: int
    failures_threshold_count: int
    last_success_us: int | None
    last_failure_us: int | None
    last_error: str
    #: The newest recorded probe: ok, failed or unsupported; "" before the first.
    probe_result: str
    probed_us: int | None
    probe_latency_ms: int | None
    #: off, list or serve; how many models the newest list has, since when, and why there was none since.
    discovery_mode: str
    listed_count: int
    listed_us: int | None
    list_error: str
    attempts_count: int
    succeeded_count: int
    #: What it is asked with: ready, not_needed, cooling_down, none (nothing is connected), or why the first of its
    #: credentials cannot be used. Variables and files are not looked at.
    credential: str
    #: End of the pause that keeps all of them from being used.
    credential_until_us: int | None


class ModelAnswer(Answer, frozen=True, kw_only=True):
    """One configured model at one provider."""

    model_id: str
    provider_id: str
    role: str
    #: It and its provider are enabled.
    enabled: bool
    is_default: bool
    upstream_model: str
    aliases: list[str]
    priority: int
    max_context_tokens: int | None
    max_output_tokens: int | None
    dimensions: int | None
    capabilities: list[str]
    #: By the price list in force, 0 where it is free; null where it has none for it, or none of that kind.
    input_nanousd_per_mtok: int | None = None
    output_nanousd_per_mtok: int | None = None
    audio_nanousd_per_minute: int | None = None
    metadata_source: str
    #: Left out until then, and the class of the failure that caused it.
    excluded_until_us: int | None
    excluded_reason: str


class ListedAnswer(Answer, frozen=True, kw_only=True):
    """A model that its provider lists, and that is neither configured nor served."""

    provider_id: str
    upstream_model: str
    role: str
    max_context_tokens: int | None


class ProblemAnswer(Answer, frozen=True, kw_only=True):
    """Something that keeps requests from being served."""

    code: str
    subject: str
    message: str


class ModelsAnswer(Answer, frozen=True, kw_only=True):
    """What requests can choose from, and how it does."""

    default_chat_model_id: str
    default_embeddings_model_id: str
    default_audio_transcription_model_id: str = ""
    failover: str
    providers: list[ProviderAnswer]
    models: list[ModelAnswer]
    listed: list[ListedAnswer]
    problems: list[ProblemAnswer]


def models_answer(state: State, now_us: int) -> ModelsAnswer:
    """Return the registry in force and the standing of everything in it."""
    registry = state.catalog.registry
    answer = ModelsAnswer(
        default_chat_model_id=default_of(state, "chat"),
        default_embeddings_model_id=default_of(state, "embeddings"),
        default_audio_transcription_model_id=default_of(state, "audio_transcription"),
        failover=registry.failover_scope if registry.failover_enabled else "off",
        providers=provider_answers(state, now_us),
        models=[_model(state, entry, now_us) for entry in registry.models],
        listed=_listed(state),
        problems=[],
    )
    return msgspec.structs.replace(answer, problems=_problems(state, answer))


def default_of(state: State, role: str) -> str:
    """Return the default that is configured, or the first listed model where nothing is; "" for none."""
    registry = state.catalog.registry
    configured = registry.default_of(role)
    if configured or not state.catalog.discovered:
        return configured
    found = resolve(state, role, "")
    return "" if isinstance(found, Refusal) else found.model_id


def _listed(state: State) -> list[ListedAnswer]:
    registry = state.catalog.registry
    known = {(entry.provider_id, entry.upstream_model) for entry in registry.models}
    return [
        ListedAnswer(
            provider_id=provider.provider_id,
            upstream_model=name,
            role=one.role,
            max_context_tokens=one.max_context_tokens,
        )
        for provider in registry.providers
        for name, one in list_of(state, provider.provider_id).models.items()
        if (provider.provider_id, name) not in known
    ]


def provider_answers(state: State, now_us: int) -> list[ProviderAnswer]:
    """Return the configured providers in the order of the configuration."""
    return [_provider(state, entry, now_us) for entry in state.catalog.registry.providers]


def _provider(state: State, entry: ProviderEntry, now_us: int) -> ProviderAnswer:
    circuit, evidence = circuit_of(state, entry.provider_id), evidence_of(state, entry.provider_id)
    chosen = choose(state, entry, "", absent=absent_credentials(state), now_us=now_us)
    listed = list_of(state, entry.provider_id)
    return ProviderAnswer(
        provider_id=entry.provider_id,
        display_name=entry.display_name,
        kind=entry.kind,
        enabled=entry.enabled,
        health=health_with_credentials(state, entry, now_us),
        circuit=circuit.status,
        circuit_until_us=circuit.until_us if circuit.status == "open" else None,
        failures_count=evidence.failures_count,
        failures_threshold_count=entry.circuit_breaker_failure_threshold,
        last_success_us=evidence.last_success_us or None,
        last_failure_us=evidence.last_failure_us or None,
        last_error=evidence.last_error,
        probe_result=evidence.probe_result,
        probed_us=evidence.probed_us or None,
        probe_latency_ms=evidence.probe_latency_ms if evidence.probed_us else None,
        discovery_mode=entry.discovery_mode,
        listed_count=len(listed.models),
        listed_us=listed.completed_us or None,
        list_error=listed.failure_class,
        attempts_count=evidence.attempts_count,
        succeeded_count=evidence.succeeded_count,
        credential=_credential_word(entry, chosen),
        credential_until_us=chosen.until_us,
    )


def _credential_word(entry: ProviderEntry, chosen: Chosen) -> str:
    if not needs_credential(entry):
        return "not_needed"
    if chosen.credentials:
        return "ready"
    if chosen.until_us is not None:
        return "cooling_down"
    return chosen.verdicts[0].verdict if chosen.verdicts else "none"


def _model(state: State, entry: ModelEntry, now_us: int) -> ModelAnswer:
    registry = state.catalog.registry
    index = state.catalog.providers.get(entry.provider_id)
    default = default_of(state, entry.role)
    until_us = excluded_until_us(state, entry.provider_id, entry.model_id)
    standing = standing_of(state, entry.provider_id, entry.model_id)
    price = price_at(state, entry.provider_id, entry.model_id, now_us) or _NO_PRICE
    free = 0 if price.state == "free" else None
    return ModelAnswer(
        model_id=entry.model_id,
        provider_id=entry.provider_id,
        role=entry.role,
        enabled=entry.enabled and index is not None and registry.providers[index].enabled,
        is_default=default in (entry.model_id, *entry.aliases, f"{entry.provider_id}/{entry.model_id}"),
        upstream_model=entry.upstream_model,
        aliases=entry.aliases,
        priority=entry.priority,
        max_context_tokens=entry.max_context_tokens,
        max_output_tokens=entry.max_output_tokens,
        dimensions=entry.dimensions,
        capabilities=[name for name in entry.capabilities.__struct_fields__ if getattr(entry.capabilities, name)],
        input_nanousd_per_mtok=free if free is not None else price.input_nanousd_per_mtok,
        output_nanousd_per_mtok=free if free is not None else price.output_nanousd_per_mtok,
        audio_nanousd_per_minute=price.audio_nanousd_per_minute,
        metadata_source=entry.metadata_source,
        excluded_until_us=until_us if until_us > now_us else None,
        excluded_reason=standing.reason if standing is not None and until_us > now_us else "",
    )


_NO_PRICE = PriceEntry(price_id="", provider_id="", model_id="", source="assumed")
#: Health of a provider that serves nothing now.
_UNFIT = ("cooling_down", "unavailable", "disabled")


def _problems(state: State, answer: ModelsAnswer) -> list[ProblemAnswer]:
    """Return what keeps requests from being served, worst first."""
    problems = []
    unfit = {one.provider_id for one in answer.providers if one.health in _UNFIT}
    default = answer.default_chat_model_id
    serving = [one for one in answer.models if one.is_default and one.role == "chat" and one.enabled]
    if not default:
        problems.append(_problem("no_default_model", "", "No default chat model is configured."))
    elif all(one.provider_id in unfit or one.excluded_until_us for one in serving):
        problems.append(_problem("default_unservable", default, "Nobody can serve the default model right now."))
    for one in answer.providers:
        if evidence_of(state, one.provider_id).is_blocked:
            message = "Its base_url leads to an address that the rules for outward connections refuse."
            problems.append(_problem("provider_blocked", one.provider_id, message))
        elif one.circuit == "open":
            message = f"It failed {one.failures_count} times in a row and is left alone for a while."
            problems.append(_problem("circuit_open", one.provider_id, message))
        elif one.enabled and not any(model.provider_id == one.provider_id for model in answer.models):
            problems.append(_problem("provider_unused", one.provider_id, "No model names this provider."))
        if one.enabled and one.credential not in ("ready", "not_needed", "cooling_down"):
            what = f"No credential can be used ({one.credential.replace('_', ' ')})"
            message = f"{what}; palyra auth explain {one.provider_id} says why."
            problems.append(_problem("no_credential", one.provider_id, message))
    for model in answer.models:
        if model.excluded_until_us:
            subject = f"{model.provider_id}/{model.model_id}"
            message = f"It is left out for a while after {model.excluded_reason}."
            problems.append(_problem("model_excluded", subject, message))
    return problems


def _problem(code: str, subject: str, message: str) -> ProblemAnswer:
    return ProblemAnswer(code=code, subject=subject, message=message)
