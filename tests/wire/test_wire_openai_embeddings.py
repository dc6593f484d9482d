"""Embeddings: batches, checks, and vectors in both encodings."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palyra.usage import TokenUsage
from palyra.wire.errors import Malformed
from palyra.wire.openai_edits import rename_model
from palyra.wire.openai_embeddings import (
    EmbeddingsFacts,
    convert_encoding,
    items_of,
    join_embeddings,
    pack_vector,
    prepare_embeddings,
    read_embeddings_reply,
)
from palyra.wire.request import decode_embeddings
from palyra.wire.target import WAYS
from palyra.wire.upstream_errors import UpstreamErrorInBody

_FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def reply(*vectors: Any, **members: Any) -> bytes:
    """An answer with these vectors."""
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return json.dumps({"object": "list", "data": data, "model": "up", **members}).encode()


def packed(*values: float) -> str:
    """A vector as little-endian float32 in base64."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


@pytest.mark.parametrize(
    ("inputs", "items", "expected"),
    [
        (b'[ "a" , "\\u00e9", 1e2 ]'.replace(b"1e2", b'"c"'), slice(1, 3), b'["\\u00e9","c"]'),
        (b"[[1, 2], [3]]", slice(0, 1), b"[[1, 2]]"),
        (b'["a","b"]', None, b'["a","b"]'),
    ],
)
def test_a_batch_takes_items_as_they_are_spelled(inputs: bytes, items: slice | None, expected: bytes) -> None:
    """A part of the input is cut out byte for byte."""
    body = b'{"input" : ' + inputs + b',"model":"m", "x":1.0}'
    request = decode_embeddings(body)
    part = None if items is None else items_of(request)[items]
    prepared = prepare_embeddings(request, upstream_model="up", items=part)
    assert prepared.body == b'{"input" : ' + expected + b',"model":"up", "x":1.0}'
    assert prepared.edits == (("model",) if inputs == expected else ("model", "input"))


@pytest.mark.parametrize(("asked", "sent"), [(b'"base64"', b'"float"'), (b'"float"', b'"float"')])
def test_a_server_of_numbers_is_asked_for_numbers(asked: bytes, sent: bytes) -> None:
    """Whatever its client wants, who gets it made of them; other servers are asked as they were."""
    body = b'{"model":"up","input":"a","encoding_format": ' + asked + b"}"
    request = decode_embeddings(body)
    prepared = prepare_embeddings(request, upstream_model="up", ways=WAYS["localai"])
    assert prepared.body == body.replace(asked, sent)
    assert prepared.edits == (() if asked == sent else ("encoding_format",))
    assert prepare_embeddings(request, upstream_model="up", ways=WAYS["generic"]).body == body


def test_the_facts_of_an_answer() -> None:
    """Vectors are counted and measured; an embeddings answer has no output tokens to miss."""
    facts = read_embeddings_reply(
        reply([1, 2.5], [3, 4], usage={"prompt_tokens": 7, "total_tokens": 7}), expected_count=2, dimensions=2
    )
    assert facts == EmbeddingsFacts(
        vectors_count=2,
        dimensions=2,
        encoding_format="float",
        usage=TokenUsage(input_tokens=7),
        anomalies=(),
        upstream_model="up",
    )
    facts = read_embeddings_reply(reply(packed(1, 2), model=None), expected_count=1, dimensions=None)
    assert (facts.encoding_format, facts.usage, facts.upstream_model) == ("base64", None, "")


def test_indexes_may_come_in_any_order_or_not_at_all() -> None:
    """The set of indexes counts; a server that numbers nothing answers in order."""
    swapped = b'{"data":[{"index":1,"embedding":[1]},{"index":0,"embedding":[2]}]}'
    bare = b'{"data":[{"embedding":[1]},{"embedding":[2]}]}'
    for body in (swapped, bare):
        assert read_embeddings_reply(body, expected_count=2, dimensions=None).vectors_count == 2


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not a list"),
        (b"{}", "not a list"),
        (b'{"data":[{"embedding":null}]}', "not a list"),
        (b'{"data":[{"embedding":[1e999]},{"embedding":[1]}]}', "not a list"),
        (reply([1]), "1 vectors for 2 inputs"),
        (b'{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}', "numbered"),
        (reply([1], [1, 2]), "differ in length"),
        (reply([], []), "empty"),
        (reply([1], [1]), "1 dimensions, not the 2"),
        (reply("!", "!"), "not base64"),
        (reply("AAAA", "AAAA"), "not made of float32"),
        (reply(packed(1, math.inf), packed(1, 1)), "not finite"),
        (reply(packed(1, math.nan), packed(1, 1)), "not finite"),
        (reply(packed(math.inf, -math.inf), packed(1, 1)), "not finite"),
    ],
)
def test_a_broken_answer_is_malformed(body: bytes, reason: str) -> None:
    """Count, indexes, lengths, numbers and dimensions are checked."""
    with pytest.raises(Malformed, match=reason):
        read_embeddings_reply(body, expected_count=2, dimensions=2)


def test_an_error_behind_a_200_is_an_error() -> None:
    """It is told as what it is, not as a missing list."""
    with pytest.raises(UpstreamErrorInBody, match="busy"):
        read_embeddings_reply(b'{"error":{"message":"busy"}}', expected_count=1, dimensions=None)


def test_the_public_model_name() -> None:
    """The name that was sent becomes the public one."""
    body = reply([1])
    assert rename_model(body, "up", "m") == body.replace(b'"up"', b'"m"')


def test_parts_are_joined_in_order() -> None:
    """Indexes go on, usage adds up, and numbers stay as they were spelled."""
    first = b'{"object":"list","data":[{"embedding":[1.50],"index":0}],"model":"m","usage":{"prompt_tokens":2}}'
    second = b'{"data":[{"embedding":[2.0],"index":1,"x":1},{"embedding":[3e0]}],"usage":{"prompt_tokens":3}}'
    third = b'{"data":[{"embedding":[4],"index":0}]}'
    assert join_embeddings([first]) is first
    assert join_embeddings([first, second, third]) == (
        b'{"object":"list","data":[{"embedding":[1.50],"index":0},{"embedding":[2.0],"index":2,"x":1},'
        b'{"embedding":[3e0],"index":2},{"embedding":[4],"index":3}],"model":"m",'
        b'"usage":{"prompt_tokens":5,"total_tokens":5}}'
    )


@given(st.lists(st.lists(_FLOATS, min_size=3, max_size=3), min_size=1, max_size=4))
def test_conversion_keeps_every_bit(vectors: list[list[float]]) -> None:
    """Floats to base64 and back, and base64 to floats and back, are the same 32 bits."""
    floats, texts = reply(*vectors), reply(*(packed(*vector) for vector in vectors))
    assert json.loads(convert_encoding(floats, "base64")) == json.loads(texts)
    found = [item["embedding"] for item in json.loads(convert_encoding(texts, "float"))["data"]]
    assert [packed(*vector) for vector in found] == [packed(*vector) for vector in vectors]
    assert convert_encoding(floats, "float") is floats
    assert convert_encoding(texts, "base64") is texts


def test_what_no_float32_holds_is_malformed() -> None:
    """A double out of range is not bent into one."""
    with pytest.raises(Malformed, match="float32"):
        convert_encoding(reply([1e300]), "base64")
    assert pack_vector([1.0, -2.0]) == packed(1.0, -2.0)
