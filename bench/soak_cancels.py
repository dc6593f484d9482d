"""Clients that hang up in the middle of a stream, by the thousand: memory, sockets and tasks must stay flat.

    python bench/soak_cancels.py [--streams 10000] [--rule cancel|drain] [--client DIALECT] [--upstream DIALECT]

An upstream on loopback streams words, in the clients' dialect or in one that is translated (chat, messages or
responses). A daemon runs in this
process over a journal of its own, and each client leaves behind the first bytes. Only figures are printed, and the
exit status says whether they are flat.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import os
import resource
import sys
import tempfile
from pathlib import Path

from palyra import Daemon

AT_ONCE = 32
#: By the dialect of the upstream: what goes before the words, and a word.
CHUNKS = {
    "chat": (b"", b'data: {"choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'),
    "messages": (
        b'data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","content":[],'
        b'"model":"m","usage":{"input_tokens":9,"output_tokens":1}}}\n\n'
        b'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n',
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"word "}}\n\n',
    ),
    "responses": (
        b'data: {"type":"response.created","sequence_number":0,"response":{"id":"r","status":"in_progress",'
        b'"model":"m","output":[]}}\n\n'
        b'data: {"type":"response.output_item.added","sequence_number":1,"output_index":0,"item":{"type":"message",'
        b'"id":"i","role":"assistant","content":[]}}\n\n',
        b'data: {"type":"response.output_text.delta","sequence_number":2,"item_id":"i","output_index":0,'
        b'"content_index":0,"delta":"word "}\n\n',
    ),
}
#: By the dialect of the clients: where they ask, and what.
ASKED = {
    "chat": ("chat/completions", b'{"model":"m","stream":true,"messages":[{"role":"user","content":"Go on."}]}'),
    "messages": (
        "messages",
        b'{"model":"m","stream":true,"max_tokens":99,"messages":[{"role":"user","content":"Go on."}]}',
    ),
    "responses": ("responses", b'{"model":"m","stream":true,"input":"Go on."}'),
}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
#: What a process may have grown by after its warm-up: pages of the allocator, not streams.
GROWTH_MAX_MIB = 24


async def upstream(dialect: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Stream until whoever listens has gone, a hundred words at most."""
    try:
        await reader.readuntil(b"\r\n\r\n")
        begin, word = CHUNKS[dialect]
        writer.write(HEAD + begin)
        for _ in range(100):
            writer.write(word)
            await writer.drain()
            await asyncio.sleep(0.005)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def leave(daemon: Daemon, client: str) -> None:
    """Ask for a stream and hang up behind its first bytes."""
    port = int(daemon.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    path, body = ASKED[client]
    head = f"POST /v1/{path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {daemon.client_key}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await reader.readuntil(b"word ")
    writer.transport.abort()


def resident_mib() -> float:
    """Return the memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def soak(streams_count: int, rule: str, client: str, dialect: str, state_dir: Path) -> bool:
    """Run and print; returns whether everything stayed flat."""
    server = await asyncio.start_server(functools.partial(upstream, dialect), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    provider = {
        "provider_id": "up",
        "kind": "anthropic" if dialect == "messages" else "openai_compatible",
        "base_url": f"http://127.0.0.1:{port}/v1",
        "api_key_env": "SOAK_KEY",
        "allow_private_base_url": True,
        "on_client_disconnect": rule,
        "drain_max_tokens": 20,
        "health_probe": False,
        "discovery_mode": "off",
    }
    models = [{"model_id": "m", "provider_id": "up", "upstream_apis": [dialect]}]
    config = {"model_provider": {"providers": [provider], "models": models}}
    environ = {**os.environ, "SOAK_KEY": "none-is-asked-for"}
    async with Daemon(config, state_dir=state_dir, environ=environ) as daemon:
        before: tuple[float, int, int] = (0.0, 0, 0)
        for start in range(0, streams_count, AT_ONCE):
            await asyncio.gather(*(leave(daemon, client) for _ in range(min(AT_ONCE, streams_count - start))))
            if start % (AT_ONCE * 32) == 0 or start + AT_ONCE >= streams_count:
                await daemon.runs.wait_until_idle()
                await asyncio.sleep(0.1)
                gc.collect()
                now = (resident_mib(), open_files(), len(asyncio.all_tasks()))
                before = now if not start else before
                figures = f"{now[0]:6.1f} MiB  {now[1]} files  {now[2]} tasks"
                print(f"{start + AT_ONCE:>7} streams  {figures}", flush=True)
        counts = daemon.core.state.counts
        ended = counts.get("run.cancelled", 0)
        settled = counts.get("usage.recorded", 0)
        print(f"{ended} cancelled, {settled} with usage, {len(daemon.runs.open)} open")
    server.close()
    is_flat = now[0] - before[0] <= GROWTH_MAX_MIB and now[1] <= before[1] + 2 and now[2] <= before[2] + 2
    return is_flat and ended == settled == streams_count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--rule", choices=["cancel", "drain"], default="cancel")
    parser.add_argument("--client", choices=sorted(ASKED), default="chat")
    parser.add_argument("--upstream", choices=sorted(CHUNKS), default="chat")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        state_dir = Path(directory) / "state"
        asked = (given.streams, given.rule, given.client, given.upstream)
        return 0 if asyncio.run(soak(*asked, state_dir)) else 1


if __name__ == "__main__":
    sys.exit(main())
