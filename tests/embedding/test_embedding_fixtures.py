"""Content capture, and what it makes possible: exchanges recorded once and served again without their provider."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from anthropic import AsyncAnthropic
from embedding_host import wait_until
from openai import AsyncOpenAI
from recordings import CONTENT_TYPE, transcription
from upstream import CUT, Behaviour, Upstream, error_event

import palyra
from palyra.engine.clock import SystemClock
from palyra.engine.fixtures import exchanges
from palyra.errors import ConfigInvalid, PalyraError
from palyra.memory.content import Content, ContentStore
from palyra.providers.deterministic import DeterministicProvider, DeterministicSettings
from palyra.providers.port import Call
from palyra.wire.fixtures import Recorded, canonical, chunk_of, read_lines, request_key, write_line
from palyra.wire.request import decode_chat

SECRET_WORD = "rhubarb-and-custard"
FAR_US = 1 << 60
DAY_US = 86_400 * 1_000_000


def config(url: str, **privacy: Any) -> dict[str, Any]:
    """One provider with a model of each role, and content capture on unless told otherwise."""
    models = [
        {"model_id": "gpt", "upstream_model": "gpt-x"},
        {"model_id": "vec", "upstream_model": "vec-x", "role": "embeddings", "max_batch": 2},
        {"model_id": "ear", "upstream_model": "ear-x", "role": "audio_transcription"},
    ]
    return {
        "privacy": {"capture_content": "on", **privacy},
        "model_provider": {
            "providers": [
                {
                    "provider_id": "up",
                    "kind": "openai_compatible",
                    "flavor": "generic",
                    "base_url": url,
                    "allow_private_base_url": True,
                    "max_retries": 0,
                }
            ],
            "models": [{"provider_id": "up", **model} for model in models],
        },
    }


class Asked:
    """Asks a daemon as programs do, and keeps the bytes of its answers."""

    def __init__(self, daemon: palyra.Daemon) -> None:
        self._daemon = daemon

    async def __call__(
        self, path: str, body: Any, content_type: str = "application/json"
    ) -> tuple[int, list[bytes]]:
        """Return status and the pieces in which the body came."""
        headers = {"authorization": f"Bearer {self._daemon.client_key}", "content-type": content_type}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{self._daemon.url}{path}", data=data, headers=headers) as answer:
                return answer.status, [chunk async for chunk, _ in answer.content.iter_chunks()]


CHAT = "/v1/chat/completions"


def chat(text: str = "Say hi.", **more: Any) -> dict[str, Any]:
    return {"model": "gpt", "messages": [{"role": "user", "content": text}], **more}


MESSAGE = {"model": "gpt", "max_tokens": 64, "messages": [{"role": "user", "content": "Say hi."}]}
VECTORS = {"model": "vec", "input": ["a", "b", "c"]}


async def recorded_suite(state_dir: Path) -> tuple[Path, dict[str, Any]]:
    """Make requests of every surface against a provider, and record them; return the file and the answers."""
    answers: dict[str, Any] = {}
    async with Upstream() as upstream:
        async with palyra.Daemon(config(upstream.url), state_dir=state_dir) as daemon:
            ask = Asked(daemon)
            upstream.default = Behaviour(chunks=("He", "llo", " wor", "ld."), text="Hello world.")
            answers["unary"] = await ask(CHAT, chat("unary"))
            answers["stream"] = await ask(CHAT, chat("stream", stream=True, user="me"))
            answers["messages"] = await ask("/v1/messages", MESSAGE)
            answers["vectors"] = await ask("/v1/embeddings", VECTORS)
            answers["sound"] = await ask("/v1/audio/transcriptions", transcription(model="ear"), CONTENT_TYPE)
            upstream.reply_with(Behaviour.error(400, message="bad luck", kind="invalid_request_error"))
            answers["refused"] = await ask(CHAT, chat("refused"))
    store = ContentStore.open(state_dir / "content.db", read_only=True)
    recorded = list(exchanges(store.between(0, FAR_US, 0)))
    store.close()
    file = state_dir / "suite.jsonl"
    file.write_bytes(b"".join(map(write_line, recorded)))
    assert [one.surface for one in recorded] == [
        "chat",
        "chat",
        "messages",
        "embeddings",
        "audio_transcription",
        "chat",
    ]
    return file, answers


async def test_what_was_recorded_is_answered_bit_for_bit(tmp_path: Path) -> None:
    """Without the provider the same requests get the same bytes in the same pieces, with the same usage."""
    file, answers = await recorded_suite(tmp_path)
    async with palyra.Daemon(palyra.mount_fixtures(file), journal=":memory:") as daemon:
        ask = Asked(daemon)
        assert await ask(CHAT, chat("unary", user="somebody else")) == answers["unary"]
        status, pieces = await ask(CHAT, chat("stream", stream=True))
        assert (status, b"".join(pieces)) == (200, b"".join(answers["stream"][1]))
        assert (await ask("/v1/embeddings", VECTORS))[1] == answers["vectors"][1]
        assert await ask("/v1/audio/transcriptions", transcription(model="ear"), CONTENT_TYPE) == answers["sound"]
        status, (body,) = await ask(CHAT, chat("refused"))
        assert (status, json.loads(body)["error"]["message"]) == (400, "bad luck")
        usage = [recorded.body async for recorded in daemon.journal if recorded.name == "usage.recorded"]
        assert [(row.source, row.usage.input_tokens) for row in usage[:2]] == [("provider", 11), ("provider", 11)]
        client = AsyncAnthropic(base_url=daemon.url, api_key=daemon.client_key, max_retries=0)
        async with client:
            answer = await client.messages.create(**MESSAGE)  # type: ignore[call-overload]
            assert answer.content[0].text == json.loads(answers["messages"][1][0])["content"][0]["text"]


#: What a provider did, and whether the request wanted a stream.
TROUBLES: dict[str, tuple[Behaviour, bool]] = {
    **{
        str(status): (Behaviour.error(status, message=f"it said {status}"), False)
        for status in (400, 401, 402, 403, 409, 413, 422, 429, 500, 503, 529)
    },
    "empty": (Behaviour(status=503, body=b""), False),
    "error in a stream": (Behaviour(after={0: error_event("it broke at once")}), True),
    "broken off": (Behaviour(after={3: CUT}), True),
    "broken late": (Behaviour(after={3: error_event("it broke later")}), True),
    "silent": (Behaviour(head=CUT), False),
}


async def test_failures_are_played_as_they_were(tmp_path: Path) -> None:
    """Each as often as it is asked for, at once, in every dialect; they say nothing of the provider that plays."""
    async with Upstream() as upstream:
        up = config(upstream.url)
        up["model_provider"]["providers"][0]["circuit_breaker_failure_threshold"] = 1_000
        async with palyra.Daemon(up, state_dir=tmp_path) as daemon:
            ask, before = Asked(daemon), {}
            for name, (behaviour, stream) in TROUBLES.items():
                upstream.reply_with(behaviour)
                before[name] = told(await ask(CHAT, chat(name, stream=stream, max_tokens=64)))
            upstream.reply_with(Behaviour.error(404, message="no such model"))
            before["404"] = told(await ask(CHAT, chat("404", max_tokens=64)))
    file = suite_of(tmp_path)
    async with palyra.Daemon(palyra.mount_fixtures(file), journal=":memory:") as daemon:
        ask = Asked(daemon)
        for name, seen in [*before.items(), *before.items()]:
            stream = name in TROUBLES and TROUBLES[name][1]
            assert told(await ask(CHAT, chat(name, stream=stream, max_tokens=64))) == seen, name
            status, pieces = await ask("/v1/messages", {**MESSAGE, "messages": chat(name)["messages"]})
            assert (status, name in ("broken off", "broken late")) in ((seen[0], False), (502, True)), name
            if name.isdigit():
                assert "no such model" in str(pieces) or f"it said {name}" in str(pieces)
        state = await daemon.state_at()
        assert {run.attempts_count for run in state.runs.recent} == {1}
        assert state.counts.get("circuit.opened", 0) == state.counts.get("model.excluded", 0) == 0


def told(answer: tuple[int, list[bytes]]) -> tuple[int, str, str]:
    """Return what an answer says of a failure, without names of runs, providers and times."""
    status, pieces = answer
    body = b"".join(pieces)
    if body.startswith(b"data:"):
        *_, last, done = [line[6:] for line in body.split(b"\n\n") if line]
        assert done == b"[DONE]"
        body = last
    error = json.loads(body)["error"]
    # How a connection looked when it broke is not recorded, only that it did.
    is_a_break = error["code"] in ("network_unavailable", "stream_truncated")
    return status, error["code"], "" if is_a_break else error["message"]


def suite_of(state_dir: Path) -> Path:
    """Record everything that is kept in a state."""
    store = ContentStore.open(state_dir / "content.db", read_only=True)
    file = state_dir / "suite.jsonl"
    file.write_bytes(b"".join(map(write_line, exchanges(store.between(0, FAR_US, 0)))))
    store.close()
    return file


async def test_every_dialect_of_a_provider_is_recorded(tmp_path: Path) -> None:
    """Its own clients get the same bytes again, streamed and whole; others what it says, in their own words.

    These have the ids that they had.
    """
    calls = (("call_1", "look", '{"at":"a"}'),)
    tool = {"name": "look", "parameters": {"type": "object", "properties": {}}}
    asked: dict[str, tuple[str, dict[str, Any]]] = {}
    for model in ("claude", "oai"):
        for stream in (False, True):
            text = f"{model} {stream}"
            messages = {"model": model, "max_tokens": 64, "messages": chat(text)["messages"], "stream": stream}
            asked[f"{text} messages"] = ("/v1/messages", messages)
            asked[f"{text} responses"] = ("/v1/responses", {"model": model, "input": text, "stream": stream})
            body = {**chat(text, stream=stream), "model": model, "tools": [{"type": "function", "function": tool}]}
            asked[f"{text} chat"] = (CHAT, body)
    before: dict[str, tuple[int, list[bytes]]] = {}
    async with Upstream() as upstream:
        upstream.default = Behaviour(text="It is here.", reasoning="Where?", tool_calls=calls)
        async with palyra.Daemon(in_two_dialects(upstream.url), state_dir=tmp_path) as daemon:
            for name, (path, body) in asked.items():
                before[name] = await Asked(daemon)(path, body)
    recorded = read_lines(suite_of(tmp_path).read_bytes())
    assert {one.api for one in recorded} == {"messages", "responses"}
    async with palyra.Daemon(palyra.mount_fixtures(tmp_path / "suite.jsonl"), journal=":memory:") as daemon:
        for name, (path, body) in asked.items():
            status, pieces = await Asked(daemon)(path, body)
            whole, seen = b"".join(pieces), b"".join(before[name][1])
            assert status == before[name][0] == 200, name
            is_own = name.startswith("claude") == ("messages" in name) and "chat" not in name
            if is_own:
                assert whole == seen, name
            else:
                assert (b"here." in whole, b"look" in whole) == (True, b"look" in seen), name
                assert ids_in(whole) == ids_in(seen) != [], name


def ids_in(answer: bytes) -> list[bytes]:
    """Return the ids that an answer gives out, in order."""
    return re.findall(rb'"(?:id|call_id)": ?"([^"]+)"', answer)


def in_two_dialects(url: str) -> dict[str, Any]:
    """A provider that speaks messages and one that speaks responses, both at one server."""
    entry = {"allow_private_base_url": True, "max_retries": 0, "auth_scheme": "none", "base_url": url}
    return {
        "privacy": {"capture_content": "on"},
        "model_provider": {
            "providers": [
                {"provider_id": "ant", "kind": "anthropic", **entry},
                {"provider_id": "up", "kind": "openai_compatible", "flavor": "openai", **entry},
            ],
            "models": [
                {"model_id": "claude", "upstream_model": "claude-x", "provider_id": "ant"},
                {
                    "model_id": "oai",
                    "upstream_model": "oai-x",
                    "provider_id": "up",
                    "upstream_apis": ["responses"],
                },
            ],
        },
    }


async def test_what_a_client_left_is_not_recorded(tmp_path: Path) -> None:
    """The half of an answer that it saw was its own choice."""
    async with Upstream() as upstream:
        hanging = asyncio.Event()
        upstream.reply_with(Behaviour(after={2: hanging}))
        async with palyra.Daemon(config(upstream.url), state_dir=tmp_path) as daemon:
            headers = {"authorization": f"Bearer {daemon.client_key}"}
            body = chat("left", stream=True)
            async with aiohttp.ClientSession() as session:
                async with session.post(
                    f"{daemon.base_url}/chat/completions", json=body, headers=headers
                ) as answer:
                    await answer.content.readline()
            await wait_until(daemon, "run.cancelled")
            hanging.set()
            await Asked(daemon)(CHAT, chat("stayed"))
    (recorded,) = read_lines(suite_of(tmp_path).read_bytes())
    assert recorded.request["messages"][0]["parts"][0]["text"] == "stayed"


async def test_another_file_in_its_place_is_adopted(tmp_path: Path) -> None:
    """A suite that was recorded again is served after a reload, although no key is written otherwise."""
    first, second = tmp_path / "first", tmp_path / "second"
    async with Upstream() as upstream:
        for directory, text in ((first, "one"), (second, "two")):
            upstream.default = Behaviour(text=text)
            async with palyra.Daemon(config(upstream.url), state_dir=directory) as daemon:
                await Asked(daemon)(CHAT, chat())
    file = suite_of(first)
    async with palyra.Daemon(palyra.mount_fixtures(file), journal=":memory:") as daemon:
        ask, said = Asked(daemon), []
        assert (await daemon.reload()).outcome == "unchanged"
        for _ in range(2):
            said.append(json.loads((await ask(CHAT, chat()))[1][0])["choices"][0]["message"]["content"])
            suite_of(second).replace(file)
            reloaded = await daemon.reload()
        assert said == ["one", "two"]
        assert (reloaded.outcome, reloaded.generation) == ("unchanged", 2)
        adopted = [one.body async for one in daemon.journal if one.name == "config.adopted"]
        assert adopted[-1].changed == ["model_provider.providers"]


async def test_pieces_keep_their_bounds(tmp_path: Path) -> None:
    """A stream leaves the replay in the pieces in which it came, wherever they were cut."""
    cut = [
        b'data: {"model":"gpt-x","choices":[{"index":0,"del',
        b'ta":{"content":"Hi"}}]}\n',
        b"\ndata: [DONE]\n\n",
    ]
    file = tmp_path / "cut.jsonl"
    asked = json.dumps({"model": "gpt", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
    recorded = Recorded(
        run_id="r",
        key=request_key(canonical(decode_chat(asked), "gpt")),
        surface="chat",
        api="chat",
        stream=True,
        model="gpt",
        upstream_model="gpt-x",
        headers={"content-type": "text/event-stream"},
        chunks=[chunk_of(1_000 * index, data) for index, data in enumerate(cut)],
    )
    file.write_bytes(write_line(recorded))
    waits: list[float] = []

    async def sleep(duration_s: float) -> None:
        waits.append(duration_s)

    settings = DeterministicSettings(fixtures=str(file), fixture_timing="recorded")
    provider = DeterministicProvider(settings, sleep=sleep)
    call = Call(
        path="/chat/completions",
        body=asked,
        stream=True,
        connect_timeout_ms=1,
        first_byte_timeout_ms=100,
        idle_timeout_ms=100,
        total_timeout_ms=100,
    )
    answer = await provider.send(call, None)
    pieces = [await answer.chunk() for _ in range(4)]
    assert pieces == [cut[0].replace(b"gpt-x", b"gpt"), *cut[1:], b""]
    assert waits == [0.001, 0.001]


async def test_a_stream_answers_a_whole_request_and_the_other_way(tmp_path: Path) -> None:
    """Whether an answer was streamed makes no other request; neither does the dialect it is asked for in."""
    file, _ = await recorded_suite(tmp_path)
    async with palyra.Daemon(palyra.mount_fixtures(file), journal=":memory:") as daemon:
        async with AsyncOpenAI(base_url=daemon.base_url, api_key=daemon.client_key, max_retries=0) as client:
            whole = await client.chat.completions.create(**chat("stream"))
            assert whole.choices[0].message.content == "Hello world."
            stream = await client.chat.completions.create(**chat("unary"), stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
            assert text == "Hello world."
            answer = await client.responses.create(model="gpt", input="unary")
            assert answer.output_text == "Hello world."
        async with AsyncAnthropic(base_url=daemon.url, api_key=daemon.client_key, max_retries=0) as other:
            streamed = [e async for e in await other.messages.create(**MESSAGE, stream=True)]  # type: ignore[call-overload]
            assert streamed[-1].type == "message_stop"


async def test_what_was_not_recorded_is_told_its_nearest(tmp_path: Path) -> None:
    """Strict: it fails, with the recorded run that comes nearest and what differs. Lenient: rules answer."""
    file, _ = await recorded_suite(tmp_path)
    async with palyra.Daemon(palyra.mount_fixtures(file), journal=":memory:") as daemon:
        async with AsyncOpenAI(base_url=daemon.base_url, api_key=daemon.client_key, max_retries=0) as client:
            with pytest.raises(openai.APIStatusError) as missed:
                await client.chat.completions.create(**chat("unary", temperature=0.5))
            assert missed.value.status_code == 502
            assert missed.value.code == "fixture_missing"
            assert "differs in temperature" in missed.value.message
    async with palyra.Daemon(palyra.mount_fixtures(file, mode="lenient"), journal=":memory:") as daemon:
        async with AsyncOpenAI(base_url=daemon.base_url, api_key=daemon.client_key, max_retries=0) as client:
            answer = await client.chat.completions.create(**chat("never heard"))
            assert answer.choices[0].message.content == "never heard"
            said = await client.responses.create(model="gpt", input="never heard")
            assert said.output_text == "never heard"
        async with AsyncAnthropic(base_url=daemon.url, api_key=daemon.client_key, max_retries=0) as other:
            stream = await other.messages.create(
                model="gpt", max_tokens=9, messages=[{"role": "user", "content": "never heard"}], stream=True
            )
            assert "message_stop" in [event.type async for event in stream]


async def test_one_request_recorded_twice_answers_in_order(tmp_path: Path) -> None:
    """And then with its last answer, for ever."""
    async with Upstream() as upstream:
        async with palyra.Daemon(config(upstream.url), state_dir=tmp_path) as daemon:
            for text in ("one", "two"):
                upstream.reply_with(Behaviour(text=text))
                await Asked(daemon)(CHAT, chat())
    async with palyra.Daemon(palyra.mount_fixtures(suite_of(tmp_path)), journal=":memory:") as daemon:
        said = []
        for _ in range(3):
            _, pieces = await Asked(daemon)(CHAT, chat())
            said.append(json.loads(b"".join(pieces))["choices"][0]["message"]["content"])
        assert said == ["one", "two", "two"]


async def test_content_is_beside_the_journal_and_never_in_it(tmp_path: Path) -> None:
    """The file is its owner's alone; the words are in it and nowhere else; that it was turned on is a fact."""
    async with Upstream() as upstream:
        async with palyra.Daemon(config(upstream.url), state_dir=tmp_path) as daemon:
            await Asked(daemon)(CHAT, chat(SECRET_WORD))
            adopted = [one.body async for one in daemon.journal if one.name == "config.adopted"]
            assert adopted[-1].effective["privacy"]["capture_content"] == "on"
    assert (tmp_path / "content.db").stat().st_mode & 0o777 == 0o600
    holders = [
        path.name for path in tmp_path.rglob("*") if path.is_file() and SECRET_WORD.encode() in path.read_bytes()
    ]
    assert holders == ["content.db"]


async def test_nothing_is_kept_where_nobody_wants_it(tmp_path: Path) -> None:
    """By default there is no file at all; with principals named only theirs is kept; what is too long is cut."""
    async with Upstream() as upstream:
        async with palyra.Daemon(config(upstream.url, capture_content="off"), state_dir=tmp_path / "off") as daemon:
            await Asked(daemon)(CHAT, chat())
        assert not (tmp_path / "off" / "content.db").exists()
        only = config(upstream.url, capture_principals=["key:nobody"])
        async with palyra.Daemon(only, state_dir=tmp_path / "only") as daemon:
            await Asked(daemon)(CHAT, chat())
        assert not (tmp_path / "only" / "content.db").exists()
        short = config(upstream.url, content_max_bytes=1_024)
        async with palyra.Daemon(short, state_dir=tmp_path / "short") as daemon:
            upstream.default = Behaviour(text="x" * 4_096)
            await Asked(daemon)(CHAT, chat("y" * 4_096))
    store = ContentStore.open(tmp_path / "short" / "content.db", read_only=True)
    (kept,) = store.between(0, FAR_US, 0)
    store.close()
    assert (kept.request, kept.request_bytes > 4_096, kept.answer_cut) == (b"", True, True)
    assert sum(len(data) for _, data in kept.chunks) == 1_024
    with pytest.raises(PalyraError) as refused:
        list(exchanges([kept], [kept.run_id]))
    assert refused.value.code == "content_not_captured"


async def test_a_subject_is_erased(tmp_path: Path) -> None:
    """What was kept of a session is gone from the file, others' stays, and the journal says that it happened."""
    async with Upstream() as upstream:
        async with palyra.Daemon(config(upstream.url), state_dir=tmp_path) as daemon:
            async with AsyncOpenAI(base_url=daemon.base_url, api_key=daemon.client_key, max_retries=0) as client:
                for session, text in (("s1", SECRET_WORD), ("s2", "harmless")):
                    await client.chat.completions.create(**chat(text), extra_headers={"x-palyra-session": session})
            await daemon._contents.settle()
            admitted = [one.body async for one in daemon.journal if one.name == "run.admitted"]
            gone = await daemon._contents.erase("session", admitted[0].session_id)
            assert gone == 1
    text = (tmp_path / "content.db").read_bytes()
    assert SECRET_WORD.encode() not in text
    assert b"harmless" in text


async def test_a_broken_store_keeps_nobody_from_being_served(tmp_path: Path) -> None:
    """What cannot be kept is counted; the client has its answer."""
    (tmp_path / "content.db").write_bytes(b"not a database at all" * 100)
    (tmp_path / "content.db").chmod(0o600)
    async with Upstream() as upstream:
        async with palyra.Daemon(config(upstream.url), state_dir=tmp_path) as daemon:
            status, _ = await Asked(daemon)(CHAT, chat())
            await daemon._contents.settle()
            assert (status, daemon._contents.lost_count) == (200, 1)


async def test_what_is_past_its_day_goes_without_new_content(tmp_path: Path) -> None:
    """Also where capture was turned off since, and where the days were made fewer: right after a start."""
    store = ContentStore.open(tmp_path / "content.db")
    now_us = SystemClock().now_us()
    for run_id, age_days, expires_us in (("past", 40, now_us - 1), ("old", 3, FAR_US), ("young", 0, FAR_US)):
        at_us = now_us - age_days * DAY_US
        content = Content(
            run_id=run_id, at_us=at_us, principal_id="p", surface="chat", key="k", outcome="completed"
        )
        store.put(content, expires_us)
    for days, left in ((30, ["old", "young"]), (1, ["young"])):
        off = {"privacy": {"capture_content": "off", "content_days": days}}
        async with palyra.Daemon(off, state_dir=tmp_path):
            while [one.run_id for one in store.between(0, FAR_US, 0)] != left:  # by a loop's first step
                await asyncio.sleep(0)
    store.close()


def test_a_row_past_its_day_is_invisible_and_goes(tmp_path: Path) -> None:
    """At once for whoever asks, and from the file with the next purge."""
    store = ContentStore.open(tmp_path / "content.db")
    content = Content(run_id="r", at_us=1, principal_id="p", surface="chat", key="k", outcome="completed")
    store.put(content, expires_us=10)
    assert list(store.of_runs(["r", "s"], 9)) == [content]
    assert list(store.of_runs(["r"], 10)) == []
    assert (store.purge(10), store.count) == (1, 0)
    store.close()


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"nonsense",
        b'{"format":99,"run_id":"r","key":"k","surface":"chat","api":"chat","model":"m"}',
        b'{"status":0,"run_id":"r","key":"k","surface":"chat","api":"chat","model":"m"}',
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, line: bytes) -> None:
    """With the number of its line."""
    (tmp_path / "bad.jsonl").write_bytes(b"\n" + line)
    with pytest.raises(ConfigInvalid, match="line 2"):
        palyra.mount_fixtures(tmp_path / "bad.jsonl")
    with pytest.raises(ConfigInvalid):
        palyra.mount_fixtures(tmp_path / "none.jsonl")


def test_requests_in_the_file_hold_no_secret(tmp_path: Path) -> None:
    """What has the shape of a key is taken out of what was asked; the digest is that of the whole request."""
    lines = asyncio.run(_one_with_a_key(tmp_path))
    assert b"sk-proj-" not in lines
    (recorded,) = read_lines(lines)
    assert recorded.request["messages"][0]["parts"][0]["text"].startswith("my key is ")


async def _one_with_a_key(tmp_path: Path) -> bytes:
    async with Upstream() as upstream:
        async with palyra.Daemon(config(upstream.url), state_dir=tmp_path) as daemon:
            await Asked(daemon)(CHAT, chat("my key is sk-proj-" + "a1B2" * 10))
    store = ContentStore.open(tmp_path / "content.db", read_only=True)
    try:
        return b"".join(map(write_line, exchanges(store.between(0, FAR_US, 0))))
    finally:
        store.close()
        sqlite3.connect(tmp_path / "content.db").close()
