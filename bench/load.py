"""An upstream that costs almost nothing and a client that counts, both on bare asyncio protocols.

The upstream answers `POST .../chat/completions` with a completion of 760 bytes, or with a stream of 50 chunks. The
client keeps a number of connections busy for some seconds and reports requests and latencies.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import uvloop

ANSWER_BYTES = 760
CHUNKS_COUNT = 50
REQUEST_BYTES = 430


def _answer() -> bytes:
    answer = {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "bench",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 90, "completion_tokens": 110, "total_tokens": 200},
    }
    answer["choices"][0]["message"]["content"] = "word " * ((ANSWER_BYTES - len(json.dumps(answer))) // 5)  # type: ignore[index]
    body = json.dumps(answer).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    event = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "bench",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _sized(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


class Upstream(asyncio.Protocol):
    """One connection of the upstream."""

    unary = _answer()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    pace_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = self.buffer[end + 4 : end + 4 + length]
            self.buffer = self.buffer[end + 4 + length :]
            if b'"stream": true' in body or b'"stream":true' in body:
                self.stream()
            else:
                self.transport.write(self.unary)  # type: ignore[attr-defined]

    def stream(self) -> None:
        chunks = [_chunk({"role": "assistant", "content": ""})]
        chunks += [_chunk({"content": "word "}) for _ in range(CHUNKS_COUNT)]
        chunks.append(_chunk({}, "stop"))
        usage = {"prompt_tokens": 90, "completion_tokens": CHUNKS_COUNT, "total_tokens": 90 + CHUNKS_COUNT}
        last = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "choices": [], "usage": usage}
        chunks += [b"data: " + json.dumps(last).encode() + b"\n\n", b"data: [DONE]\n\n"]
        self.transport.write(self.head)  # type: ignore[attr-defined]
        self.send(chunks, 0)

    def send(self, chunks: list[bytes], index: int) -> None:
        """Write one chunk a turn of the clock, so that it travels alone as a model's tokens do."""
        if self.transport.is_closing():  # type: ignore[attr-defined]
            return
        self.transport.write(_sized(chunks[index]))  # type: ignore[attr-defined]
        if index + 1 == len(chunks):
            self.transport.write(b"0\r\n\r\n")  # type: ignore[attr-defined]
        else:
            asyncio.get_running_loop().call_later(self.pace_s, self.send, chunks, index + 1)


async def upstream(pace_ms: float) -> None:
    Upstream.pace_s = pace_ms / 1000
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


#: What a client asks for: its place, and whether as a stream. `messages` has Palyra translate.
KINDS = {
    "unary": ("/v1/chat/completions", False),
    "stream": ("/v1/chat/completions", True),
    "messages": ("/v1/messages", True),
}


def request_bytes(port: int, key: str, kind: str) -> bytes:
    path, is_stream = KINDS[kind]
    body: dict[str, Any] = {"model": "bench", "messages": [{"role": "user", "content": ""}]}
    if is_stream:
        body["stream"] = True
    if kind == "stream":
        body["stream_options"] = {"include_usage": True}
    if kind == "messages":
        body["max_tokens"] = 1_000
    body["messages"][0]["content"] = "word " * ((REQUEST_BYTES - len(json.dumps(body))) // 5)
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def _connection(port: int, request: bytes, until: float, latencies: list[float], firsts: list[float]) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    errors = 0
    while (started := time.perf_counter()) < until:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        errors += not head.startswith(b"http/1.1 200")
        if b"chunked" in head:
            await reader.readuntil(b"delta")
            firsts.append(time.perf_counter() - started)
            await reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            at = head.find(b"content-length:")
            await reader.readexactly(int(head[at + 15 :].split(b"\r", 1)[0]))
        latencies.append(time.perf_counter() - started)
    writer.close()
    return errors


async def client(port: int, key: str, connections: int, seconds: float, kind: str) -> None:
    latencies: list[float] = []
    firsts: list[float] = []
    request = request_bytes(port, key, kind)
    started = time.perf_counter()
    errors = await asyncio.gather(
        *(_connection(port, request, started + seconds, latencies, firsts) for _ in range(connections))
    )
    took = time.perf_counter() - started
    latencies.sort()
    firsts.sort()
    result = {
        "per_second": len(latencies) / took,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[len(latencies) * 99 // 100] * 1000,
        "first_p50_ms": firsts[len(firsts) // 2] * 1000 if firsts else 0.0,
        "errors": sum(errors),
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "upstream":
        uvloop.run(upstream(float(sys.argv[2])))
    else:
        port, key, connections, seconds, kind = sys.argv[2:7]
        uvloop.run(client(int(port), key, int(connections), float(seconds), kind))
