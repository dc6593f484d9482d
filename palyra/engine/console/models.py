"""`models`: what requests can choose from and how it does, tests and lists on demand, circuits by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

import msgspec

from palyra.decisions import circuits
from palyra.decisions.health import health_with_credentials, transition
from palyra.engine.console.changes import Order
from palyra.engine.console.frame import Params, Sight
from palyra.engine.default_models import check_default, names_of
from palyra.engine.listing import Listing
from palyra.engine.model_plans import PlanAnswer, plan_answer
from palyra.engine.model_questions import ModelsAnswer, models_answer
from palyra.engine.questions import Answer
from palyra.errors import PalyraError
from palyra.events.base import Draft
from palyra.events.models import DefaultModelSet
from palyra.events.registry import ModelRole, ProviderEntry
from palyra.events.routing import Features
from palyra.events.smart_routing import RoutingMode
from palyra.projections.catalog import list_of, provider_entry
from palyra.projections.circuits import circuit_of
from palyra.projections.state import State

_FOR_MAX_MS = 7 * 24 * 3_600_000
_TOKENS_MAX = 1_000_000_000


class ModelsParams(Params, frozen=True, kw_only=True):
    """Nothing is chosen."""


def models(sight: Sight, params: ModelsParams) -> ModelsAnswer:
    """Return providers, models and what is wrong with them."""
    return models_answer(sight.state, sight.now_us)


class PlanParams(Params, frozen=True, kw_only=True):
    """A request as far as a plan depends on it; its text stays with whoever asks."""

    model: Annotated[str, msgspec.Meta(max_length=512)] = ""
    endpoint: ModelRole = "chat"
    #: The uncalibrated estimate of its input.
    tokens: Annotated[int, msgspec.Meta(ge=0, le=_TOKENS_MAX)] = 0
    needs: list[str] = []
    max_output: Annotated[int, msgspec.Meta(ge=0, le=_TOKENS_MAX)] = 0
    stream: bool = False
    #: What its score is made of beside its size, and what it says of routing.
    tools: Annotated[int, msgspec.Meta(ge=0, le=_TOKENS_MAX)] = 0
    images: Annotated[int, msgspec.Meta(ge=0, le=_TOKENS_MAX)] = 0
    keywords: Annotated[int, msgspec.Meta(ge=0, le=_TOKENS_MAX)] = 0
    mode: RoutingMode | None = None
    task_class: Literal["", "interactive", "background", "auxiliary"] = ""
    #: Who pays, "" for the operator; and who asks.
    principal: Annotated[str, msgspec.Meta(max_length=256)] = ""
    agent: Annotated[str, msgspec.Meta(max_length=256)] = ""


def plan(sight: Sight, params: PlanParams) -> PlanAnswer:
    """Return what such a request would meet."""
    return plan_answer(
        sight.state,
        model=params.model,
        endpoint=params.endpoint,
        raw_tokens=params.tokens,
        needs=params.needs,
        output_max_tokens=params.max_output or None,
        stream=params.stream,
        features=Features(
            tools=params.tools,
            images=params.images,
            json=2 if "json_schema" in params.needs else 1 if "json_mode" in params.needs else 0,
            keywords=params.keywords,
        ),
        routing_mode=params.mode,
        task_class=params.task_class,
        principal_id=params.principal,
        agent_id=params.agent,
        now_us=sight.now_us,
    )


class ProviderParams(Params, frozen=True, kw_only=True):
    """One provider, or all that are enabled and reached over a network."""

    provider: str = ""


class TestedAnswer(Answer, frozen=True, kw_only=True):
    """What came of asking one provider for its models."""

    provider_id: str
    #: ok, failed, or unsupported where it has no such list.
    result: str
    failure_class: str
    message: str
    latency_ms: int
    models_count: int
    #: What is known of it now.
    health: str


class TestsAnswer(Answer, frozen=True, kw_only=True):
    """One row a provider."""

    items: list[TestedAnswer]


class DiscoveredAnswer(Answer, frozen=True, kw_only=True):
    """What one provider lists now, and what that changed."""

    provider_id: str
    result: str
    failure_class: str
    message: str
    #: off, list or serve.
    mode: str
    models_count: int
    added: list[str]
    gone: list[str]
    dropped_count: int


class DiscoveriesAnswer(Answer, frozen=True, kw_only=True):
    """One row a provider."""

    items: list[DiscoveredAnswer]


async def test(order: Order, params: ProviderParams) -> TestsAnswer:
    """Ask providers for their models, now; what that tells of their health is recorded as of any probe."""
    state = order.core.state
    items = []
    for provider, listing in await _ask_each(order, params, order.desk.watchers.health.probe):
        now_us = order.core.clock.now_us()
        items.append(
            TestedAnswer(
                provider_id=provider.provider_id,
                result=listing.result,
                failure_class=listing.failure_class,
                message=listing.message,
                latency_ms=listing.latency_ms,
                models_count=len(listing.models),
                health=health_with_credentials(state, provider, now_us),
            )
        )
    return TestsAnswer(items=items)


async def discover(order: Order, params: ProviderParams) -> DiscoveriesAnswer:
    """Read providers' lists now, and record what they change."""
    state = order.core.state
    before = {one.provider_id: dict(list_of(state, one.provider_id).models) for one in _asked(state, params)}
    items = []
    for provider, listing in await _ask_each(order, params, order.desk.watchers.discovery.discover):
        known, now = before[provider.provider_id], list_of(state, provider.provider_id).models
        items.append(
            DiscoveredAnswer(
                provider_id=provider.provider_id,
                result=listing.result,
                failure_class=listing.failure_class,
                message=listing.message,
                mode=provider.discovery_mode,
                models_count=len(listing.models),
                added=[name for name in now if name not in known],
                gone=[name for name in known if name not in now],
                dropped_count=listing.dropped_count,
            )
        )
    return DiscoveriesAnswer(items=items)


def _asked(state: State, params: ProviderParams) -> list[ProviderEntry]:
    if params.provider:
        return [_provider(state, params.provider)]
    entries = state.catalog.registry.providers
    return [one for one in entries if one.enabled and one.kind != "deterministic"]


def _provider(state: State, provider_id: str) -> ProviderEntry:
    provider = provider_entry(state, provider_id)
    if provider is None:
        message = f"No provider '{provider_id}' is configured."
        raise PalyraError(message, hint="palyra models status shows them", code="provider_not_found")
    return provider


async def _ask_each(
    order: Order, params: ProviderParams, ask: Callable[[ProviderEntry], Awaitable[Listing]]
) -> list[tuple[ProviderEntry, Listing]]:
    """Ask all at once, so that those that are silent are waited for together.

    A provider of this process has nothing to be asked for.
    """

    async def one(provider: ProviderEntry) -> tuple[ProviderEntry, Listing]:
        is_here = provider.kind == "deterministic"
        return provider, Listing("ok", [], 0, 0) if is_here else await ask(provider)

    return await asyncio.gather(*(one(provider) for provider in _asked(order.core.state, params)))


class CircuitParams(Params, frozen=True, kw_only=True):
    """Which circuit, what it is to be, and for how long; 0: until somebody does something else about it."""

    provider: str
    after: Literal["open", "closed"]
    for_ms: Annotated[int, msgspec.Meta(ge=0, le=_FOR_MAX_MS)] = 0


class CircuitAnswer(Answer, frozen=True, kw_only=True):
    """The circuit as it is now."""

    provider_id: str
    circuit: str
    #: null where nothing ends it by itself.
    until_us: int | None
    health: str


async def circuit(order: Order, params: CircuitParams) -> CircuitAnswer:
    """Open or close a provider's circuit by hand."""
    core, stream = order.core, f"provider-{params.provider}"
    provider = _provider(core.state, params.provider)
    now_us = core.clock.now_us()
    forced = circuits.force(
        circuit_of(core.state, params.provider), after=params.after, for_ms=params.for_ms or None, now_us=now_us
    )
    order.note([Draft(stream, forced)])
    await order.record(transition(core.state, params.provider, reason="forced", now_us=now_us))
    return CircuitAnswer(
        provider_id=params.provider,
        circuit=circuit_of(core.state, params.provider).status,
        until_us=forced.until_us if params.for_ms else None,
        health=health_with_credentials(core.state, provider, core.clock.now_us()),
    )


class DefaultParams(Params, frozen=True, kw_only=True):
    """The model of requests of a role that name none."""

    role: ModelRole = "chat"
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class DefaultAnswer(Answer, frozen=True, kw_only=True):
    """The default that is in force."""

    role: str
    model: str


async def set_default(order: Order, params: DefaultParams) -> DefaultAnswer:
    """Choose the default of a role: written into the daemon's file, adopted, and recorded with who chose it.

    Without a daemon it is recorded alone: whoever wrote the file has checked it, and the next start adopts it.
    """
    role, model, state = params.role, params.model, order.core.state
    if order.desk.is_live and state.catalog.registry.default_of(role) != model:
        check_default(role, model, lambda one: names_of(state.catalog.registry, one, _listed(state, one)))
        await order.desk.write_default(role, model)
        await order.desk.reload(order)
    await order.record([Draft("config", DefaultModelSet(role=role, model=model))])
    return DefaultAnswer(role=role, model=model)


def _listed(state: State, role: str) -> list[tuple[str, str, bool]]:
    """Return the models of a role that providers list and serve."""
    found = models_answer(state, 0).models
    return [
        (one.provider_id, one.model_id, one.enabled)
        for one in found
        if one.role == role and one.metadata_source == "discovery"
    ]
