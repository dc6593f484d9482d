"""What a request wants of the response cache, where that is on."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping

import msgspec

from palyra.decisions.arrivals import Attribution
from palyra.decisions.cache import NOT_ASKED, UNCACHEABLE
from palyra.decisions.runs import AdmitRun, CacheAsk
from palyra.engine.apart import Apart
from palyra.engine.surfaces import PASSED_HEADERS, named_headers
from palyra.errors import PalyraError
from palyra.events.registry import Registry
from palyra.limits import APART_BYTES
from palyra.wire.canonical import body_digest
from palyra.wire.request import SurfaceRequest

_UNSET = (b"null", b"false")


async def with_cache(
    command: AdmitRun,
    attribution: Attribution,
    request: SurfaceRequest,
    headers: Mapping[str, str],
    registry: Registry,
    apart: Apart,
) -> AdmitRun:
    """Return the request with its wish; large bodies are digested off the loop."""
    body, spans = request.body, request.spans
    is_of_provider = any(
        name in spans and body[spans[name].start : spans[name].end] not in _UNSET for name in UNCACHEABLE
    )
    # What a tool finds that the provider itself runs is another thing tomorrow; no other dialect has one.
    is_of_provider |= any(name.startswith("tools.") for names in request.losses.values() for name in names)
    is_off = attribution.cache == "off" or is_of_provider
    digest = ""
    digesting = functools.partial(body_digest, without=NOT_ASKED)
    if not is_off and len(body) > APART_BYTES:
        try:
            digest = await apart.do(len(body), apart.ask, digesting, body)
        except PalyraError:
            is_off = True  # too much to be looked at once more: it is asked as if it were new
    elif not is_off:
        digest = await apart.do(len(body), digesting, body)
    if sent := _sent(headers, request.surface, registry):
        digest = digest and hashlib.sha256(f"{digest} {sent}".encode("utf-8", "surrogatepass")).hexdigest()
    ask = CacheAsk(
        body_digest=digest,
        reads=not is_off and attribution.cache != "refresh",
        writes=not is_off,
        max_age_ms=attribution.cache_max_age_ms,
    )
    return msgspec.structs.replace(command, cache=ask)


def _sent(headers: Mapping[str, str], surface: str, registry: Registry) -> str:
    """Return the client's headers that a provider may get, and answer otherwise for; "" for none of them."""
    forwarded = (name for provider in registry.providers for name in provider.forward_headers)
    found = named_headers(headers, [*PASSED_HEADERS[surface], *forwarded])
    return json.dumps(sorted(found.items())) if found else ""
