"""Embeddings between a client and a provider: batches, checks, and vectors as floats or as base64.

A vector is never changed: base64 holds little-endian float32, and the decimal text written for one reads back as
the same 32 bits.
"""

from __future__ import annotations

import binascii
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from palyra.usage import TokenUsage
from palyra.wire.decoding import ITEMS, MEMBERS, NULL, read_or_none
from palyra.wire.errors import Malformed
from palyra.wire.openai_edits import Edits, rename_model
from palyra.wire.request import SurfaceRequest
from palyra.wire.target import Prepared, Ways
from palyra.wire.upstream_errors import UpstreamErrorInBody, holds_error, read_upstream_error
from palyra.wire.usage import decode_usage, read_openai_usage


class EmbeddingsFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What an embeddings answer amounts to; none of its vectors."""

    vectors_count: int
    #: Length of every vector.
    dimensions: int
    #: As the provider wrote them: "float" or "base64".
    encoding_format: str
    usage: TokenUsage | None
    #: Codes of what was odd about the usage.
    anomalies: tuple[str, ...]
    upstream_model: str


class _Item(msgspec.Struct):
    embedding: list[float] | str
    index: int | None = None


class _Reply(msgspec.Struct):
    data: list[_Item] | None = None
    model: Any = None
    usage: msgspec.Raw = NULL
    error: msgspec.Raw = NULL


_REPLY = msgspec.json.Decoder(_Reply)
_OBJECTS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_VECTOR = msgspec.json.Decoder(list[float] | str)
_FLOAT_BYTES = 4
_NO_WAYS = Ways()


def prepare_embeddings(
    request: SurfaceRequest,
    *,
    upstream_model: str,
    ways: Ways = _NO_WAYS,
    items: Sequence[msgspec.Raw] | None = None,
) -> Prepared:
    """Return the body for one attempt; `items` is the part of `input` that it takes where it does not take all."""
    edits = Edits(request)
    edits.set_model(upstream_model)
    if ways.embeds_floats_only and request.encoding_format == "base64":
        edits.set("encoding_format", b'"float"')
    if items is not None:
        edits.set("input", b"[" + b",".join(map(bytes, items)) + b"]")
    return edits.prepared()


def items_of(request: SurfaceRequest) -> list[msgspec.Raw]:
    """Return the items of an input that has more than one, as they are spelled."""
    span = request.spans["input"]
    return ITEMS.decode(request.body[span.start : span.end])


def read_embeddings_reply(body: bytes, *, expected_count: int, dimensions: int | None) -> EmbeddingsFacts:
    """Check an answer; raises `Malformed`, or `UpstreamErrorInBody` for an error behind a 200.

    `dimensions` is what the client asked for.
    """
    reply = read_or_none(_REPLY, body)
    if reply is not None and holds_error(reply.error):
        raise UpstreamErrorInBody(read_upstream_error(200, body))
    if reply is None or reply.data is None:
        raise Malformed("The provider's answer is not a list of embeddings.")
    items = reply.data
    if len(items) != expected_count:
        raise Malformed(f"The provider answered {len(items)} vectors for {expected_count} inputs.")
    indexes = sorted(position if item.index is None else item.index for position, item in enumerate(items))
    if indexes != list(range(expected_count)):
        raise Malformed("The provider's vectors are not numbered from 0 without gaps.")
    lengths = {len(_finite_values(item.embedding)): None for item in items}
    if len(lengths) != 1 or 0 in lengths:
        raise Malformed("The provider's vectors are empty or differ in length.")
    (length,) = lengths
    if dimensions is not None and length != dimensions:
        raise Malformed(f"The provider's vectors have {length} dimensions, not the {dimensions} asked for.")
    usage, anomalies = read_openai_usage(decode_usage(reply.usage), expects_output=False)
    return EmbeddingsFacts(
        vectors_count=len(items),
        dimensions=length,
        encoding_format="base64" if isinstance(items[0].embedding, str) else "float",
        usage=usage,
        anomalies=anomalies,
        upstream_model=reply.model if isinstance(reply.model, str) else "",
    )


class AskedVectors(NamedTuple):
    """What an answer with vectors is held against, and how its client gets it."""

    vectors_count: int
    dimensions: int | None
    encoding_format: str
    upstream_model: str
    public_model: str


def read_embeddings(body: bytes, asked: AskedVectors) -> tuple[EmbeddingsFacts, bytes]:
    """Check an answer and return what it amounts to, and it as the client gets it."""
    facts = read_embeddings_reply(body, expected_count=asked.vectors_count, dimensions=asked.dimensions)
    renamed = rename_model(body, asked.upstream_model, asked.public_model)
    return facts, convert_encoding(renamed, asked.encoding_format)


def join_embeddings(parts: Sequence[bytes]) -> bytes:
    """Return the answers to a split request as one: indexes continue, usage adds up, the first has the rest."""
    if len(parts) == 1:
        return parts[0]
    data: list[dict[str, Any]] = []
    tokens = 0
    for part in parts:
        reply = MEMBERS.decode(part)
        offset = len(data)
        for position, item in enumerate(_OBJECTS.decode(reply["data"])):
            index = read_or_none(_INDEX, item.get("index", NULL))
            data.append({**item, "index": offset + (position if index is None else index)})
        usage, _ = read_openai_usage(decode_usage(reply.get("usage", NULL)), expects_output=False)
        tokens += usage.input_tokens if usage else 0
    first = MEMBERS.decode(parts[0])
    usage_sum = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode({**first, "data": data, "usage": usage_sum})


_INDEX = msgspec.json.Decoder(int)


def convert_encoding(body: bytes, encoding_format: str) -> bytes:
    """Return a checked answer with its vectors as "float" or "base64"; the same bytes if they are."""
    reply = MEMBERS.decode(body)
    items = _OBJECTS.decode(reply["data"])
    wants_text = encoding_format == "base64"
    if all(bytes(item["embedding"]).startswith(b'"') == wants_text for item in items):
        return body
    data: list[dict[str, Any]] = []
    for item in items:
        values = _finite_values(_VECTOR.decode(item["embedding"]))
        data.append({**item, "embedding": pack_vector(values) if wants_text else values})
    return msgspec.json.encode({**reply, "data": data})


def pack_vector(values: Sequence[float]) -> str:
    """Return a vector as base64 of little-endian float32; raises `Malformed` for what no float32 holds."""
    try:
        packed = struct.pack(f"<{len(values)}f", *values)
    except OverflowError as exc:
        raise Malformed("A vector holds a number that no float32 can hold.") from exc
    return binascii.b2a_base64(packed, newline=False).decode()


def _finite_values(vector: list[float] | str) -> list[float]:
    values = _unpack_vector(vector) if isinstance(vector, str) else vector
    if not math.isfinite(sum(values)):  # one that is not makes the sum so
        raise Malformed("A vector holds a number that is not finite.")
    return values


def _unpack_vector(text: str) -> list[float]:
    try:
        packed = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as exc:
        raise Malformed("A vector is not base64.") from exc
    if len(packed) % _FLOAT_BYTES:
        raise Malformed("A vector in base64 is not made of float32.")
    return list(struct.unpack(f"<{len(packed) // _FLOAT_BYTES}f", packed))
