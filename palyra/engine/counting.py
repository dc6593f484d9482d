"""How many tokens a message has, asked of a provider that tells for free; nothing is admitted, reserved or billed.

A provider that does not speak the dialect, or does not answer, is not asked twice: the caller has an estimate.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from palyra.decisions.naming import resolve
from palyra.decisions.routing import plan_candidates, wanted_of
from palyra.decisions.runs import AdmitRun
from palyra.engine.runs import Runs
from palyra.engine.surfaces import Around, Part
from palyra.engine.text_surface import MessagesSurface
from palyra.errors import PalyraError, Refusal, Refused
from palyra.events.routing import PlannedCredential, PlanStep
from palyra.limits import UPSTREAM_ERROR_MAX_BYTES
from palyra.projections.catalog import model_entry, provider_entry
from palyra.providers.port import Call
from palyra.wire.decoding import read_or_none
from palyra.wire.request import SurfaceRequest

_PATH = "/messages/count_tokens"
_TIMEOUT_MS = 10_000


class _Counted(msgspec.Struct):
    input_tokens: int


_COUNTED = msgspec.json.Decoder(_Counted)


async def count_upstream(
    runs: Runs, command: AdmitRun, request: SurfaceRequest, headers: Mapping[str, str]
) -> int | None:
    """Return a provider's own count, None where none can be had; raises `Refused` for a model that is not there."""
    core = runs.core
    state, now_us = core.state, core.clock.now_us()
    resolution = resolve(state, "chat", command.model)
    if isinstance(resolution, Refusal):
        raise Refused(resolution)
    # Neither limits nor what a model can do matter to a count.
    asked = msgspec.structs.replace(command, raw_tokens=0, output_max_tokens=1, needs=())
    plan = plan_candidates(state, resolution, wanted_of(asked), now_us)
    step = plan.steps[0] if plan.steps else None
    if step is None:
        return None
    try:
        return await _ask(runs, step, request, headers)
    except PalyraError:
        return None


async def _ask(runs: Runs, step: PlanStep, request: SurfaceRequest, headers: Mapping[str, str]) -> int | None:
    state = runs.core.state
    provider = provider_entry(state, step.provider_id)
    entry = model_entry(state, "chat", step.provider_id, step.model_id)
    assert provider is not None
    assert entry is not None
    if provider.kind != "anthropic" or entry.api_for("messages") != "messages":
        return None
    surface, part = MessagesSurface(request, headers, Around(apart=runs.apart)), Part()
    await runs.apart.do(len(request.body), surface.prepare, part, provider, entry, None)
    credential = step.credentials[0] if step.credentials else PlannedCredential(credential_ref="")
    secret = runs.outward.secret(step.provider_id, credential.credential_ref, credential.revision)
    call = Call(
        path=_PATH,
        headers=surface.headers_for(provider),
        body=part.body,
        connect_timeout_ms=provider.connect_timeout_ms,
        first_byte_timeout_ms=_TIMEOUT_MS,
        idle_timeout_ms=_TIMEOUT_MS,
        total_timeout_ms=_TIMEOUT_MS,
    )
    answer = await runs.outward.provider(step.provider_id).send(call, secret)
    try:
        if answer.status != 200:
            return None
        counted = read_or_none(_COUNTED, await answer.body(UPSTREAM_ERROR_MAX_BYTES))
    finally:
        await answer.close()
    return None if counted is None else counted.input_tokens
