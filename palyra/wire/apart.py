"""What another process does with a large body: plain functions of it and of small values that can be sent there.

What comes back is small too, but for a body that is sent on. The neutral form stays where it was made; what the
daemon needs of it is its outline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import msgspec

from palyra.wire.dialects import DIALECT_ROWS, Channel, ReadAnswer, neutral_of, pass_through
from palyra.wire.fixtures import canonical, request_key
from palyra.wire.keywords import TEXT_MAX_CHARS
from palyra.wire.neutral import Call, NeutralRequest, Outline, Reasoning
from palyra.wire.openai_embeddings import items_of, join_embeddings, prepare_embeddings
from palyra.wire.recall import with_recalled
from palyra.wire.request import SurfaceRequest
from palyra.wire.target import Prepared, Target, Ways


def read_large_request(body: bytes, decode: Callable[[bytes], SurfaceRequest]) -> tuple[SurfaceRequest, str]:
    """Return a request without its body and its neutral form, and the body's digest."""
    request = decode(body)
    outline = None if request.neutral is None else _outline(request.neutral)
    small = msgspec.structs.replace(
        request, body=b"", neutral=None, outline=outline, last_text=request.last_text[:TEXT_MAX_CHARS]
    )
    return small, hashlib.sha256(body).hexdigest()


def _outline(neutral: NeutralRequest) -> Outline:
    calls = [part.call_id for one in neutral.messages for part in one.parts if isinstance(part, Call)]
    return Outline(
        wants_cargo=neutral.wants_cargo,
        namespaces=neutral.namespaces,
        freeform_tools=frozenset(tool.name for tool in neutral.tools if tool.is_freeform),
        call_ids=tuple(calls),
    )


def prepare_large(
    body: bytes, request: SurfaceRequest, target: Target, recalled: Mapping[str, tuple[Reasoning, ...]]
) -> Prepared:
    """Return the body for one attempt; `recalled` is what was thought before the calls of the request."""
    whole = msgspec.structs.replace(request, body=body)
    if request.surface == target.dialect:
        return pass_through(whole, target)
    neutral = with_recalled(neutral_of(whole), lambda call_id: recalled.get(call_id, ()))
    return DIALECT_ROWS[target.dialect].write_call(neutral, target)


def read_large_answer(body: bytes, channel: Channel) -> ReadAnswer:
    """Return what a provider's whole answer comes to; raises like `Channel.read_whole`."""
    return channel.read_whole(body)


def prepare_large_embeddings(
    body: bytes, request: SurfaceRequest, upstream_model: str, ways: Ways, bounds: tuple[int, int] | None
) -> Prepared:
    """Return the body for one attempt that takes these items of the input, or all of them."""
    whole = msgspec.structs.replace(request, body=body)
    items = None if bounds is None else items_of(whole)[slice(*bounds)]
    return prepare_embeddings(whole, upstream_model=upstream_model, ways=ways, items=items)


def join_large(body: bytes, sizes: Sequence[int]) -> bytes:
    """Return answers to a split request as one; they lie one behind the other in `body`."""
    ends = list(accumulate(sizes))
    return join_embeddings([body[end - size : end] for end, size in zip(ends, sizes, strict=True)])


def key_of_large(body: bytes, request: SurfaceRequest, model_id: str) -> str:
    """Return by what a request is known among those that were recorded; see `fixtures.request_key`."""
    return request_key(canonical(msgspec.structs.replace(request, body=body), model_id))
