"""What another process does with large bodies: the same as is done on the spot with small ones."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from dialect_cases import CASES, DIALECTS, channel, upstream_reply

from palyra.wire.apart import (
    join_large,
    key_of_large,
    prepare_large,
    prepare_large_embeddings,
    read_large_answer,
    read_large_request,
)
from palyra.wire.dialects import DIALECT_ROWS, neutral_of, pass_through
from palyra.wire.errors import Malformed, WireError
from palyra.wire.fixtures import canonical, request_key
from palyra.wire.keywords import TEXT_MAX_CHARS
from palyra.wire.multipart import NO_FORM
from palyra.wire.neutral import Dialect, Reasoning
from palyra.wire.openai_embeddings import (
    AskedVectors,
    join_embeddings,
    pack_vector,
    prepare_embeddings,
    read_embeddings,
    read_embeddings_reply,
)
from palyra.wire.read_surfaces import decode_messages, decode_responses
from palyra.wire.recall import with_recalled
from palyra.wire.request import Recording, decode_chat, decode_embeddings
from palyra.wire.target import Target, Ways
from palyra.wire.transcription_answer import read_reply, read_transcription
from palyra.wire.upstream_errors import UpstreamError, UpstreamErrorInBody

DECODERS = {"chat": decode_chat, "messages": decode_messages, "responses": decode_responses}
CALLED = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
BODIES: dict[str, dict[str, Any]] = {
    "chat": {
        "model": "m",
        "messages": [
            {"role": "user", "content": "x" * (TEXT_MAX_CHARS + 9)},
            {"role": "assistant", "content": None, "tool_calls": [CALLED]},
            {"role": "tool", "tool_call_id": "call_1", "content": "y"},
        ],
        "tools": [{"type": "custom", "custom": {"name": "patch"}}],
    },
    "messages": {
        "model": "m",
        "max_tokens": 9,
        "messages": [
            {"role": "user", "content": "x" * (TEXT_MAX_CHARS + 9)},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": 1}}],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "y"}]},
        ],
    },
    "responses": {
        "model": "m",
        "input": [
            {"role": "user", "content": "x" * (TEXT_MAX_CHARS + 9)},
            {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"a":1}'},
            {"type": "function_call_output", "call_id": "call_1", "output": "y"},
        ],
        "tools": [{"type": "custom", "name": "patch"}],
    },
}
THOUGHTS = (Reasoning(text="Hm.", vendor="v", raw=b'{"type":"thinking","thinking":"Hm.","signature":"c2ln"}'),)


@pytest.mark.parametrize("client", DIALECTS)
@pytest.mark.parametrize("upstream", DIALECTS)
def test_a_request_is_prepared_alike(client: Dialect, upstream: Dialect) -> None:
    """Read and written elsewhere, from what is small and can be sent there: the body upstream is the same."""
    body = json.dumps(BODIES[client]).encode()
    here = DECODERS[client](body)
    small, digest = pickle.loads(pickle.dumps(read_large_request(body, DECODERS[client])))
    assert (small.body, small.neutral, len(digest)) == (b"", None, 64)
    assert len(small.last_text) == TEXT_MAX_CHARS
    assert (small.raw_tokens, small.needs, small.spans) == (here.raw_tokens, here.needs, here.spans)
    target = Target(dialect=upstream, model="up", vendor="v", output_cap_tokens=5)
    prepared = prepare_large(body, small, target, {"call_1": THOUGHTS})
    if client == upstream:
        assert prepared == pass_through(here, target)
    else:
        neutral = neutral_of(here)
        recalled = with_recalled(neutral, {"call_1": THOUGHTS}.__getitem__)
        assert prepared == DIALECT_ROWS[upstream].write_call(recalled, target)


@pytest.mark.parametrize("client", ["messages", "responses"])
def test_the_outline_says_what_an_answer_needs_to_know(client: Dialect) -> None:
    """Freeform tools, calls and groups, as the neutral form has them."""
    body = json.dumps(BODIES[client]).encode()
    neutral = neutral_of(DECODERS[client](body))
    outline = read_large_request(body, DECODERS[client])[0].outline
    assert outline is not None
    assert outline.call_ids == ("call_1",)
    assert (outline.wants_cargo, outline.namespaces) == (neutral.wants_cargo, neutral.namespaces)
    for takes in (False, True):
        assert outline.wrapped_tools(takes_freeform=takes) == neutral.wrapped_tools(takes_freeform=takes)


@pytest.mark.parametrize("client", DIALECTS)
@pytest.mark.parametrize("upstream", DIALECTS)
@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_read_alike(client: Dialect, upstream: Dialect, name: str) -> None:
    """Facts, bytes, thoughts and calls come back as they are."""
    body, way = upstream_reply(upstream, CASES[name]), channel(client, upstream)
    read = pickle.loads(pickle.dumps(read_large_answer(body, pickle.loads(pickle.dumps(way)))))
    assert read == way.read_whole(body)


@pytest.mark.parametrize("client", DIALECTS)
def test_a_request_is_known_by_the_same_key(client: Dialect) -> None:
    """Whether it was read here or elsewhere."""
    body = json.dumps(BODIES[client]).encode()
    request = DECODERS[client](body)
    small = read_large_request(body, DECODERS[client])[0]
    assert key_of_large(body, small, "m") == request_key(canonical(request, "m"))


def test_vectors_are_asked_for_and_joined_alike() -> None:
    """All items or some of them, and answers that lie one behind the other."""
    body = b'{"model":"e","input":["a", "b","c"]}'
    request = decode_embeddings(body)
    whole = prepare_large_embeddings(body, request, "up", Ways(), None)
    assert whole == prepare_embeddings(request, upstream_model="up", ways=Ways())
    assert json.loads(prepare_large_embeddings(body, request, "up", Ways(), (1, 3)).body)["input"] == ["b", "c"]
    answers = [b'{"data":[{"index":0,"embedding":[%d]}]}' % number for number in range(3)]
    assert join_large(b"".join(answers), [len(one) for one in answers]) == join_embeddings(answers)


def test_vectors_are_read_alike() -> None:
    """Facts, and the answer with its public name, in the encoding that was asked for."""
    body = b'{"model":"up","data":[{"index":0,"embedding":[0.5,-1]}],"usage":{"prompt_tokens":3}}'
    asked = AskedVectors(
        vectors_count=1, dimensions=2, encoding_format="base64", upstream_model="up", public_model="e"
    )
    facts, answer = read_embeddings(body, asked)
    assert facts == read_embeddings_reply(body, expected_count=1, dimensions=2)
    assert json.loads(answer)["model"] == "e"
    assert json.loads(answer)["data"][0]["embedding"] == pack_vector([0.5, -1])


def test_a_transcript_is_read_alike() -> None:
    """Facts, and the answer in the format that was asked for; a stream is made of it elsewhere."""
    recording = Recording(form=NO_FORM, response_format="srt", length_ms=2_000, is_guessed=False)
    body = b'{"text":"Hi.","segments":[{"start":0,"end":1.5,"text":"Hi."}]}'
    facts, answer = read_transcription(body, "verbose_json", recording, "srt")
    assert facts == read_reply(body, "verbose_json", recording)
    assert b"00:00:01,500" in answer
    assert read_transcription(body, "verbose_json", recording, None) == (facts, b"")


@pytest.mark.parametrize(
    "error",
    [
        WireError("invalid_json", "No.", "a"),
        Malformed("No.", code="response_too_large"),
        UpstreamErrorInBody(UpstreamError(status=429, message="Slow down.", code="c")),
    ],
)
def test_errors_come_back_as_they_are(error: WireError) -> None:
    """Class, code, words and place."""
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert (back.code, back.message, back.param) == (error.code, error.message, error.param)
    assert getattr(back, "error", None) == getattr(error, "error", None)
