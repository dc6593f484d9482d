"""Embeddings through the engine: batches in order, encodings, failing parts, and never another model."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from typing import Any

import pytest
from engine_fakes import Script, ScriptedProvider, embeddings, error
from engine_world import house, model, provider, registry
from upstream import Behaviour, Upstream

from palyra.events.attempts import AttemptFailed, AttemptStarted
from palyra.events.registry import Registry
from palyra.events.usage import UsageRecorded
from palyra.limits import OFF_LOOP_BYTES


def vectors(url: str = "", **changes: Any) -> Registry:
    """Return embeddings model `e` at `a` and `b`, another one `f` at `b`."""
    return registry(
        provider("a", url),
        provider("b"),
        model("e", "a", role="embeddings", **changes),
        model("f", "b", role="embeddings"),
        default_embeddings_model_id="e",
        default_chat_model_id="",
    )


def data(body: bytes | None) -> list[Any]:
    answer = json.loads(body or b"null")
    assert [item["index"] for item in answer["data"]] == list(range(len(answer["data"])))
    return [item["embedding"] for item in answer["data"]]


async def test_long_request_is_split_in_order() -> None:
    """Seven inputs at a model that takes three: three attempts of one run, one answer, usage row by row."""
    fake = ScriptedProvider()
    texts = [letter * (n + 1) for n, letter in enumerate("abcdefg")]
    async with house(vectors(max_batch=3, upstream_model="text-e"), extra={"a": fake}) as world:
        reply = await world.start({"model": "e", "input": texts}).task
        assert [json.loads(call.body)["input"] for call in fake.calls] == [texts[:3], texts[3:6], texts[6:]]
        assert all(json.loads(call.body)["model"] == "text-e" for call in fake.calls)
        answer = json.loads(reply.body or b"")
        assert [length for _, length in data(reply.body)] == [1, 2, 3, 4, 5, 6, 7]
        assert answer["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
        assert reply.headers["x-palyra-attempts"] == "3"
        assert [row.usage.input_tokens for row in world.facts(UsageRecorded)] == [3, 3, 3]
        names = world.names(reply.run_id)
        assert names.count("attempt.succeeded") == 3
        assert names.count("run.completed") == 1


async def test_failing_part_fails_the_run() -> None:
    """The parts that were done are recorded; the others are not sent; no other model is asked."""
    fake, other = ScriptedProvider(), ScriptedProvider()
    async with house(vectors(max_batch=2), extra={"a": fake, "b": other}) as world:
        fake.script(Script(_body(2)), error(500, message="second part"))
        reply = await world.start({"model": "e", "input": ["a", "b", "c", "d", "e"]}).task
        assert (reply.status, reply.refusal.code) == (502, "transient_upstream")
        assert len(fake.calls) == 2
        assert other.calls == []
        assert len(world.facts(UsageRecorded)) == 1
        assert json.loads(reply.body)["palyra"]["class"] == "transient_upstream"
        rows = json.loads(reply.body)["palyra"]["attempts"]
        assert [row["class"] for row in rows] == ["", "transient_upstream"]


async def test_each_part_has_retries_of_its_own() -> None:
    """A part that needed a retry leaves the next one its retries, and numbers its tries anew."""
    single = model("e", "a", role="embeddings", max_batch=1)
    config = registry(provider("a", max_retries=1), single, default_embeddings_model_id="e")
    fake = ScriptedProvider(error(500), Script(_body(1)), error(500), Script(_body(1)))
    async with house(config, extra={"a": fake}) as world:
        reply = await world.start({"model": "e", "input": ["a", "b"]}).task
        assert reply.status == 200
        assert [started.retry for started in world.facts(AttemptStarted)] == [0, 1, 0, 1]


async def test_same_model_elsewhere_takes_over() -> None:
    """Another provider of the same model may answer a part; another model never."""
    config = registry(
        provider("a"),
        provider("b"),
        model("e", "a", role="embeddings", max_batch=1),
        model("e", "b", role="embeddings", priority=200),
        model("f", "b", role="embeddings"),
        default_embeddings_model_id="e",
    )
    fake, other = ScriptedProvider(Script(_body(1)), error(500)), ScriptedProvider()
    async with house(config, extra={"a": fake, "b": other}) as world:
        reply = await world.start({"model": "e", "input": ["a", "bb"]}).task
        assert reply.status == 200
        assert (len(fake.calls), len(other.calls)) == (2, 1)
        assert json.loads(other.calls[0].body)["input"] == ["bb"]
        assert reply.headers["x-palyra-failover"] == "a/e>b/e"


@pytest.mark.parametrize("first_batch", [None, 4, 5])
async def test_who_takes_over_is_sent_no_more_than_it_takes(first_batch: int | None) -> None:
    """A part that is too long for the next provider is cut anew, and so are those behind it; the order stays."""
    config = registry(
        provider("a"),
        provider("b"),
        model("e", "a", role="embeddings", max_batch=first_batch),
        model("e", "b", role="embeddings", priority=200, max_batch=3),
        default_embeddings_model_id="e",
    )
    fake, other = ScriptedProvider(error(500)), ScriptedProvider()
    texts = ["x" * (number + 1) for number in range(8)]
    async with house(config, extra={"a": fake, "b": other}) as world:
        reply = await world.start({"model": "e", "input": texts}).task
        assert reply.status == 200
        sent = [json.loads(call.body)["input"] for call in other.calls]
        assert max(map(len, sent)) <= 3
        assert [text for part in sent for text in part] == texts
        assert [length for _, length in data(reply.body)] == [len(text) for text in texts]
        names = world.names(reply.run_id)
        assert names.count("run.completed") == 1
        assert names.count("attempt.succeeded") == len(sent)


@pytest.mark.parametrize("asked", ["float", "base64"])
@pytest.mark.parametrize("given", ["float", "base64"])
async def test_encodings_are_converted_bit_by_bit(asked: str, given: str) -> None:
    """Whatever a provider answers, the client gets the encoding that it asked for, with the same 32 bits."""
    values = [0.1, -2.5, 3.4028234663852886e38, 1e-45]
    packed = struct.pack("<4f", *values)
    embedding: Any = values if given == "float" else base64.b64encode(packed).decode()
    answer = {"data": [{"index": 0, "embedding": embedding}], "model": "e", "usage": {"prompt_tokens": 1}}
    fake = ScriptedProvider(Script(json.dumps(answer).encode()))
    async with house(vectors(), extra={"a": fake}) as world:
        reply = await world.start({"model": "e", "input": "hi", "encoding_format": asked}).task
        (vector,) = data(reply.body)
        if asked == "base64":
            assert base64.b64decode(vector) == packed
        else:
            assert struct.pack("<4f", *vector) == packed


async def test_number_that_fits_no_float32_is_the_providers_fault() -> None:
    """What cannot be converted is a malformed answer, settled as one, and not a bug of ours."""
    fake = ScriptedProvider(Script(b'{"data":[{"index":0,"embedding":[1e300]}]}'))
    async with house(vectors(), extra={"a": fake}) as world:
        reply = await world.start({"model": "e", "input": "hi", "encoding_format": "base64"}).task
        assert (reply.status, reply.refusal.code) == (502, "malformed_response")


@pytest.mark.parametrize(
    "body",
    [
        b'{"data":[]}',
        b'{"data":[{"index":1,"embedding":[1]}]}',
        b'{"data":[{"index":0,"embedding":[]}]}',
        b'{"data":[{"index":0,"embedding":"?"}]}',
        b'{"error":{"message":"no"}}',
        b"nothing",
    ],
)
async def test_answer_that_is_not_what_was_asked(body: bytes) -> None:
    """Count, numbering and vectors are checked before anything is settled as an answer."""
    async with house(vectors(), extra={"a": ScriptedProvider(Script(body))}) as world:
        reply = await world.start({"model": "e", "input": "hi"}).task
        assert reply.status == 502
        (failed,) = world.facts(AttemptFailed)
        assert failed.failure_class in ("malformed_response", "transient_upstream")


async def test_large_answers_are_read_and_joined_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers over 256 KiB cost the loop nothing: checks, conversion and joining are done in a thread."""
    threads: list[str] = []
    to_thread = asyncio.to_thread

    async def noting(function: Any, *arguments: Any) -> Any:
        threads.append(getattr(function, "__name__", ""))
        return await to_thread(function, *arguments)

    monkeypatch.setattr("asyncio.to_thread", noting)
    async with Upstream() as up, house(vectors(up.url, max_batch=20)) as world:
        up.default = Behaviour(dimensions=4_096)
        reply = await world.start({"model": "e", "input": ["x"] * 40, "encoding_format": "base64"}).task
        assert reply.status == 200
        assert len(reply.body or b"") > OFF_LOOP_BYTES
        assert len(data(reply.body)) == 40
        assert len(threads) == 3
        assert threads[-1] == "join_embeddings"


async def test_embeddings_are_not_streamed() -> None:
    """The surface knows no stream; asking for one is a mistake of the program."""
    async with house(vectors(), extra={"a": ScriptedProvider()}) as world:
        surface = world.start({"model": "e", "input": "hi"})._surface
        await world.runs.wait_until_idle()
        with pytest.raises(TypeError):
            surface.meter(world.registry.models[0], None)
        with pytest.raises(TypeError):
            surface.stream_end(None)  # type: ignore[arg-type]


def _body(count: int) -> bytes:
    script = embeddings({"input": ["x"] * count})
    return b"".join(piece for piece in script.pieces if isinstance(piece, bytes))


async def test_parts_of_a_request_teach_nothing_about_its_size() -> None:
    """What a part was billed is no share of the estimate of the whole; a request in one piece does teach."""
    text = "word " * 100
    async with house(vectors(max_batch=1), extra={"a": ScriptedProvider()}) as world:
        await world.start({"model": "e", "input": [text, text]}).task
        assert [row.raw_input_tokens for row in world.facts(UsageRecorded)] == [0, 0]
        assert world.state.usage.calibrations == {}
        await world.start({"model": "e", "input": [text]}).task
        assert world.state.usage.calibrations["a/e"].samples_count == 1
