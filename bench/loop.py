"""How long one input can hold the loop: `python bench/loop.py [--only TEXT] [--sizes 1,8,32] [--keeps]`.

A daemon runs in this process. Another process is its client and its provider, so that nothing but the daemon's own
work keeps the loop from its turns. A heart beats in the loop all the while; its longest pause is printed for each
input, and counts only as far as this process was at work in it (a busy machine keeps everybody waiting). The exit
status says whether every pause stayed below the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from palyra import Daemon

LIMIT_MS = 50
MIB = 1 << 20
JSON_TYPE = "application/json"
FORM_TYPE = "multipart/form-data; boundary=b"
#: Models by the dialect that they are asked in, each at a provider of its own.
MODELS = {"chat": "gpt", "messages": "claude", "responses": "oai"}
PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages", "responses": "/v1/responses"}


class Case(NamedTuple):
    """One input: what is asked, and what the provider answers; "" for a short answer."""

    path: str
    body: bytes
    content_type: str = JSON_TYPE
    answer: bytes = b""
    answer_type: str = JSON_TYPE


# -- requests


def repeated(piece: bytes, size_bytes: int) -> bytes:
    return piece * (size_bytes // len(piece))


def listed(piece: bytes, size_bytes: int, max_count: int = 1 << 40) -> bytes:
    return b",".join([piece] * max(1, min(max_count, size_bytes // (len(piece) + 1))))


def asked(dialect: str, model: str, content: bytes, more: bytes = b"") -> bytes:
    """Return a request with one turn of this content, as JSON."""
    name = b'"model":"%s"' % model.encode()
    if dialect == "responses":
        return b'{%s,"store":false,"input":[{"role":"user","content":%s}]%s}' % (name, content, more)
    return b'{%s,"max_tokens":99,"messages":[{"role":"user","content":%s}]%s}' % (name, content, more)


PICTURES = {
    "chat": b'[{"type":"image_url","image_url":{"url":"data:image/png;base64,%s"}}]',
    "messages": b'[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"%s"}}]',
    "responses": b'[{"type":"input_image","image_url":"data:image/png;base64,%s"}]',
}
TEXT_PART = {
    "chat": b'{"type":"text","text":"a"}',
    "messages": b'{"type":"text","text":"a"}',
    "responses": b'{"type":"input_text","text":"a"}',
}


def turns(dialect: str, model: str, size_bytes: int, *, arguments: bytes = b"") -> bytes:
    """Return a request of as many turns as may be, or one with a call of these arguments."""
    name = b'"model":"%s"' % model.encode()
    if dialect == "responses":
        said = [b'{"role":"user","content":"%s"}' % repeated(b"word ", max(5, size_bytes // 9_000))] * 9_000
        if arguments:
            said = [
                b'{"type":"function_call","call_id":"c","name":"f","arguments":"%s"}' % arguments,
                b'{"type":"function_call_output","call_id":"c","output":"y"}',
            ]
        return b'{%s,"store":false,"input":[%s]}' % (name, b",".join(said))
    said = [b'{"role":"user","content":"%s"}' % repeated(b"word ", max(5, size_bytes // 9_000))] * 9_000
    if arguments and dialect == "chat":
        call = b'{"id":"c","type":"function","function":{"name":"f","arguments":"%s"}}' % arguments
        said = [
            b'{"role":"user","content":"x"}',
            b'{"role":"assistant","content":null,"tool_calls":[%s]}' % call,
            b'{"role":"tool","tool_call_id":"c","content":"y"}',
        ]
    elif arguments:
        plain = arguments.replace(b'\\"', b'"')
        said = [
            b'{"role":"user","content":"x"}',
            b'{"role":"assistant","content":[{"type":"tool_use","id":"c","name":"f","input":%s}]}' % plain,
            b'{"role":"user","content":[{"type":"tool_result","tool_use_id":"c","content":"y"}]}',
        ]
    return b'{%s,"max_tokens":99,"messages":[%s]}' % (name, b",".join(said))


def arguments(size_bytes: int) -> bytes:
    return b'{\\"a\\":[%s]}' % listed(b"1", size_bytes)


def form(size_bytes: int, parts_count: int = 0) -> bytes:
    fields = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nx\r\n' % number for number in range(parts_count)
    )
    model = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\near\r\n'
    file = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\n'
    return fields + model + file + repeated(b"\xff\xfb\x90\x00" + bytes(413), size_bytes) + b"\r\n--b--\r\n"


def requests(size_bytes: int) -> Iterator[tuple[str, Callable[[], Case]]]:
    """Name every large request, and what makes it."""
    for dialect, path in PATHS.items():
        for api, model in MODELS.items():
            way = dialect if api == dialect else f"{dialect} to {api}"
            contents = {
                "one text": lambda: b'"%s"' % repeated(b"word ", size_bytes),
                "escapes": lambda: b'"%s"' % repeated(b'\\n\\"', size_bytes),
                "beyond ASCII": lambda: b'"%s"' % repeated("é你".encode(), size_bytes),
                "tiny parts": lambda d=dialect: b"[%s]" % listed(TEXT_PART[d], size_bytes),
                "data URL": lambda d=dialect: PICTURES[d] % repeated(b"QUJD", size_bytes),
            }
            for name, content in contents.items():
                yield f"{way}: {name}", lambda d=dialect, m=model, p=path, c=content: Case(p, asked(d, m, c()))
            yield f"{way}: 9,000 turns", lambda d=dialect, m=model, p=path: Case(p, turns(d, m, size_bytes))
            yield (
                f"{way}: arguments",
                lambda d=dialect, m=model, p=path: Case(p, turns(d, m, 0, arguments=arguments(size_bytes))),
            )
        model = MODELS[dialect]
        more = {
            "many brackets": lambda: b',"zz":[%s]' % listed(b"[" * 60 + b"]" * 60, size_bytes),
            "too deep": lambda: b',"zz":%s%s' % (b"[" * (size_bytes // 2), b"]" * (size_bytes // 2)),
            "half deep": lambda: b',"zz":[%s]' % listed(b"[" * 900 + b"]" * 900, size_bytes),
            "small objects": lambda: b',"metadata":{"a":[%s]}' % listed(b'{"a":1}', size_bytes),
            "a tool": lambda: (
                b',"tools":[{"type":"function","name":"f","input_schema":{"a":[%s]},'
                b'"function":{"name":"f","parameters":{"a":[1]}}}]' % listed(b'{"a":1}', size_bytes)
            ),
            "a model's name": lambda: b',"prompt_cache_key":"%s"' % repeated(b"m", size_bytes),
        }
        for name, added in more.items():
            yield (
                f"{dialect}: {name}",
                lambda d=dialect, m=model, p=path, a=added: Case(p, asked(d, m, b'"x"', a())),
            )
        yield (
            f"{dialect}: an unknown model",
            lambda d=dialect, p=path: Case(p, asked(d, "m" * size_bytes, b'"x"')),
        )
    counted = PATHS["messages"] + "/count_tokens"
    for name, piece in {"words": b"word ", "escapes": b'\\n\\"', "beyond ASCII": "é你".encode()}.items():
        for model in ("claude", "gpt"):
            yield (
                f"count for {model}: {name}",
                lambda m=model, t=piece: Case(counted, asked("messages", m, b'"%s"' % repeated(t, size_bytes))),
            )
        for dialect, path in PATHS.items():
            yield (
                f"{dialect} to a script: {name}",
                lambda d=dialect, p=path, t=piece: Case(p, asked(d, "det", b'"%s"' % repeated(t, size_bytes))),
            )
    vectors = {
        "one text": lambda: b'"%s"' % repeated(b"word ", size_bytes),
        "2,048 texts": lambda: b"[%s]" % b",".join([b'"%s"' % repeated(b"word ", size_bytes // 2_048)] * 2_048),
        "token lists": lambda: b"[%s]" % b",".join([b"[%s]" % listed(b"12345", size_bytes // 2_048)] * 2_048),
    }
    for name, given in vectors.items():
        yield (
            f"embeddings: {name}",
            lambda g=given: Case("/v1/embeddings", b'{"model":"vec","input":%s}' % g()),
        )
    audio = "/v1/audio/transcriptions"
    yield "recording", lambda: Case(audio, form(size_bytes), FORM_TYPE)
    yield "recording with 250 fields", lambda: Case(audio, form(size_bytes, 250), FORM_TYPE)
    yield "form with 20,000 fields", lambda: Case(audio, form(size_bytes, 20_000), FORM_TYPE)


# -- answers


def said(api: str, text: bytes) -> bytes:
    """Return a whole answer with this text, as JSON."""
    if api == "messages":
        return (
            b'{"id":"m","type":"message","role":"assistant","model":"up","content":[{"type":"text","text":"%s"}],'
            b'"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}' % text
        )
    if api == "responses":
        return (
            b'{"id":"r","object":"response","status":"completed","model":"up","output":[{"type":"message","id":"i",'
            b'"role":"assistant","status":"completed","content":[{"type":"output_text","text":"%s",'
            b'"annotations":[]}]}],"usage":{"input_tokens":1,"output_tokens":1,"total_tokens":2}}' % text
        )
    return (
        b'{"id":"c","object":"chat.completion","created":1,"model":"up","choices":[{"index":0,"message":'
        b'{"role":"assistant","content":"%s"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,'
        b'"completion_tokens":1,"total_tokens":2}}' % text
    )


def event(name: str, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


def streamed(api: str, pieces: Iterator[bytes]) -> bytes:
    """Return a stream of these pieces of JSON text."""
    if api == "chat":
        chunk = b'data: {"id":"c","model":"up","choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n'
        end = b'data: {"id":"c","model":"up","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
        return b"".join([chunk % piece for piece in pieces]) + end + b"data: [DONE]\n\n"
    if api == "messages":
        begin = event("message_start", b'{"type":"message_start","message":%s}' % said("messages", b""))
        begin = begin.replace(b'[{"type":"text","text":""}]', b"[]")
        begin += event(
            "content_block_start",
            b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
        )
        delta = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s"}}'
        end = event("content_block_stop", b'{"type":"content_block_stop","index":0}')
        end += event(
            "message_delta",
            b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}}',
        )
        end += event("message_stop", b'{"type":"message_stop"}')
        name = "content_block_delta"
    else:
        empty = said("responses", b"").replace(b"completed", b"in_progress")
        begin = event("response.created", b'{"type":"response.created","response":%s}' % empty)
        item = b'{"type":"message","id":"i","role":"assistant","content":[]}'
        begin += event(
            "response.output_item.added",
            b'{"type":"response.output_item.added","output_index":0,"item":%s}' % item,
        )
        delta = b'{"type":"response.output_text.delta","output_index":0,"content_index":0,"delta":"%s"}'
        whole = said("responses", b"x")
        end = event("response.completed", b'{"type":"response.completed","response":%s}' % whole)
        name = "response.output_text.delta"
    return begin + b"".join([event(name, delta % piece) for piece in pieces]) + end


def answers(size_bytes: int) -> Iterator[tuple[str, Callable[[], Case]]]:
    """Name every large answer, and what makes it."""
    events = "text/event-stream"
    large = min(size_bytes, 7 * MIB)  # an event of a stream is 8 MiB at most
    for dialect, path in PATHS.items():
        for api, model in MODELS.items():
            way = dialect if api == dialect else f"{api} for {dialect}"
            ask = asked(dialect, model, b'"x"')
            flow = asked(dialect, model, b'"x"', b',"stream":true')
            texts = {"words": b"word ", "escapes": b'\\n\\"', "beyond ASCII": "é你".encode()}
            for name, piece in texts.items():
                yield (
                    f"{way}: an answer of {name}",
                    lambda p=path, q=ask, a=api, t=piece: Case(p, q, answer=said(a, repeated(t, size_bytes))),
                )
            for name, piece in texts.items():
                yield (
                    f"{way}: one event of {name}",
                    lambda p=path, q=flow, a=api, t=piece: Case(
                        p, q, answer=streamed(a, iter([repeated(t, large)])), answer_type=events
                    ),
                )
            yield (
                f"{way}: tiny events",
                lambda p=path, q=flow, a=api: Case(
                    p, q, answer=streamed(a, iter([b"w"] * (size_bytes // 100))), answer_type=events
                ),
            )
            yield (
                f"{way}: blank lines",
                lambda p=path, q=flow: Case(p, q, answer=b"\n" * min(size_bytes, MIB), answer_type=events),
            )
            yield (
                f"{way}: no JSON at all",
                lambda p=path, q=ask: Case(p, q, answer=b"[" * size_bytes),
            )
    for name, more in {"floats": b"", "floats as base64": b',"encoding_format":"base64"'}.items():
        yield (
            f"embeddings: {name}",
            lambda m=more: Case(
                "/v1/embeddings",
                b'{"model":"vec","input":[%s]%s}' % (listed(b'"a"', MIB, 64), m),
                answer=b'{"data":[%s]}' % vectors(size_bytes),
            ),
        )


def vectors(size_bytes: int) -> bytes:
    numbers = listed(b"0.125", size_bytes // 64)
    return b",".join([b'{"index":%d,"embedding":[%s]}' % (index, numbers) for index in range(64)])


SHORT = {
    "/chat/completions": said("chat", b"hi"),
    "/messages": said("messages", b"hi"),
    "/messages/count_tokens": b'{"input_tokens":9}',
    "/responses": said("responses", b"hi"),
    "/embeddings": b'{"data":[{"index":0,"embedding":[0.5]}]}',
    "/audio/transcriptions": b'{"text":"hi"}',
}


def inputs(sizes: list[int], only: str) -> Iterator[tuple[str, Callable[[], Case]]]:
    for size in sizes:
        for name, make in (*requests(size * MIB), *answers(size * MIB)):
            if only in name:
                yield f"{size:3d} MiB  {name}", make


# -- the other process


async def outside(sizes: list[int], only: str) -> None:
    """Be the provider, and the client whenever a line says so."""
    at_hand = Case("", b"")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
            await reader.readexactly(int(lines.get("content-length", "0")))
            path = head.split(" ")[1].removeprefix("/v1")
            body = at_hand.answer or SHORT[path]
            kind = at_hand.answer_type
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
                % (kind.encode(), len(body))
            )
            view = memoryview(body)
            for start in range(0, len(body), 1 << 16):
                writer.write(view[start : start + (1 << 16)])
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=MIB)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    port, key = (await loop.run_in_executor(None, sys.stdin.readline)).split()
    for _, make in inputs(sizes, only):
        at_hand = make()
        await loop.run_in_executor(None, sys.stdin.readline)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port), limit=MIB)
        writer.write(
            f"POST {at_hand.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {at_hand.content_type}\r\n"
            f"Authorization: Bearer {key}\r\nContent-Length: {len(at_hand.body)}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        status = ""
        with contextlib.suppress(ConnectionError):
            writer.write(at_hand.body)
            status = (await reader.readline()).decode()
            while await reader.read(MIB):
                pass
        writer.close()
        print(status.split(" ")[1] if status else "cut", flush=True)


# -- the daemon and its heart


class Heart:
    """Beats in the loop, and remembers its longest pause."""

    def __init__(self) -> None:
        self.longest_ms = 0.0
        self._loop = asyncio.get_running_loop()
        self._at, self._worked = time.perf_counter(), time.process_time()
        self._beat()

    def _beat(self) -> None:
        at, worked = time.perf_counter(), time.process_time()
        pause = min(at - self._at, worked - self._worked) * 1_000
        self.longest_ms = max(self.longest_ms, pause)
        self._at, self._worked = at, worked
        self._loop.call_later(0.001, self._beat)


def config(port: int, *, keeps: bool) -> dict[str, object]:
    providers: list[dict[str, object]] = [
        {
            "provider_id": name,
            "kind": "anthropic" if name == "claude" else "openai_compatible",
            "base_url": f"http://127.0.0.1:{port}/v1",
            "api_key_env": "LOOP_KEY",
            "allow_private_base_url": True,
            "health_probe": False,
            "discovery_mode": "off",
            "max_retries": 0,
            "circuit_breaker_failure_threshold": 1_000,
        }
        for name in (*MODELS.values(), "vec", "ear")
    ]
    window = {"max_context_tokens": 100_000_000, "max_tokens_per_event": 100_000_000, "fallbacks": []}
    models: list[dict[str, object]] = [
        {"model_id": name, "provider_id": name, "upstream_model": "up", "upstream_apis": [api], **window}
        for api, name in MODELS.items()
    ]
    providers.append({"provider_id": "det", "kind": "deterministic"})
    models += [
        {"model_id": "det", "provider_id": "det", **window},
        {"model_id": "vec", "provider_id": "vec", "role": "embeddings", **window},
        {"model_id": "ear", "provider_id": "ear", "role": "audio_transcription"},
    ]
    registry = {"providers": providers, "models": models, "max_request_bytes": 40 * MIB}
    if not keeps:
        return {"model_provider": registry}
    # Everything that looks at a body once more.
    registry |= {"response_cache_enabled": True, "response_cache_max_bytes": 64 * MIB}
    return {"model_provider": registry, "privacy": {"capture_content": "on", "content_max_bytes": 64 * MIB}}


async def beside(
    other: subprocess.Popen[str], sizes: list[int], only: str, state_dir: Path, *, keeps: bool
) -> bool:
    """Send every input and print what it did to the loop; returns whether all stayed below the limit."""
    assert other.stdin is not None
    assert other.stdout is not None
    port = int(other.stdout.readline())
    loop = asyncio.get_running_loop()
    is_good = True
    try:
        environ = {**os.environ, "LOOP_KEY": "k"}
        async with Daemon(config(port, keeps=keeps), state_dir=state_dir, environ=environ) as daemon:
            gc.collect()
            gc.freeze()
            other.stdin.write(f"{daemon.url.rpartition(':')[2]} {daemon.client_key}\n")
            other.stdin.flush()
            heart = Heart()
            for name, _ in inputs(sizes, only):
                heart.longest_ms, started = 0.0, time.perf_counter()
                other.stdin.write("\n")
                other.stdin.flush()
                status = (await loop.run_in_executor(None, other.stdout.readline)).strip()
                pause_ms, took_s = heart.longest_ms, time.perf_counter() - started
                mark = "" if pause_ms <= LIMIT_MS else "   <<<"
                is_good = is_good and not mark
                print(f"{pause_ms:8.1f} ms  {status}  {took_s:6.2f} s  {name}{mark}", flush=True)
    finally:
        other.kill()
    return is_good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--sizes", default="1,8,32")
    parser.add_argument("--keeps", action="store_true", help="with response cache and content capture on")
    parser.add_argument("--outside", action="store_true")
    given = parser.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    if given.outside:
        asyncio.run(outside(sizes, given.only))
        return 0
    try:
        from uvloop import new_event_loop
    except ImportError:
        new_event_loop = asyncio.new_event_loop
    arguments = [sys.executable, __file__, "--outside", "--only", given.only, "--sizes", given.sizes]
    other = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with tempfile.TemporaryDirectory() as directory, asyncio.Runner(loop_factory=new_event_loop) as runner:
        state_dir = Path(directory) / "state"
        return 0 if runner.run(beside(other, sizes, given.only, state_dir, keeps=given.keeps)) else 1


if __name__ == "__main__":
    sys.exit(main())
