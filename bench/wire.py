"""What reading, preparing and relaying cost: `python bench/wire.py` prints the best of several rounds."""

from __future__ import annotations

import timeit
from collections.abc import Callable

import msgspec

from palyra.wire.jsonscan import check_depth, scan_object
from palyra.wire.openai_chat import DONE, ChatStreamMeter, prepare_chat
from palyra.wire.request import decode_chat
from palyra.wire.target import Target

_ROUNDS = 5
_SENTENCE = 'The quick brown fox jumps over the lazy dog, says "why not?"\n'
_EVENTS_COUNT = 500


def best_us(run: Callable[[], object], times: int) -> float:
    """Return the time of one call of `run`."""
    return min(timeit.repeat(run, number=times, repeat=_ROUNDS)) / times * 1e6


def chat_body(size_bytes: int) -> bytes:
    """Return a streamed chat request of about this size, of messages of half a kilobyte."""
    text = _SENTENCE * 8
    count = max(1, size_bytes // (len(text) + 40))
    messages = [{"role": "user", "content": text} for _ in range(count)]
    return msgspec.json.encode({"model": "gpt-4o-mini", "messages": messages, "stream": True})


def stream(upstream_model: str) -> bytes:
    """Return a stream of one-word chunks."""
    chunk = (
        'data: {"id":"chatcmpl-123","object":"chat.completion.chunk","created":1694268190,"model":"%s",'
        '"system_fingerprint":"fp_44709d6fcb","choices":[{"index":0,"delta":{"content":" word"},'
        '"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
    )
    return (chunk % upstream_model).encode() * _EVENTS_COUNT + DONE


def relay(body: bytes, public_model: str) -> None:
    """Relay a whole stream in reads of 4 KiB."""
    meter = ChatStreamMeter(
        upstream_model="gpt-4o-mini", public_model=public_model, wants_usage=False, output_cap_tokens=128_000
    )
    for start in range(0, len(body), 4096):
        meter.feed(body[start : start + 4096])


def print_body(size_bytes: int) -> None:
    """Print what a request of this size costs."""
    body = chat_body(size_bytes)
    times = max(1, (1 << 20) // size_bytes)
    request = decode_chat(body)
    target = Target(dialect="chat", model="other", output_cap_tokens=8192, stream=True)
    scan_us = best_us(lambda: (scan_object(body), check_depth(body)), times)
    decode_us = best_us(lambda: decode_chat(body), times)
    prepare_us = best_us(lambda: prepare_chat(request, target), times)
    print(f"{len(body):>9} bytes: scan {scan_us:.1f} us, decode {decode_us:.1f} us, prepare {prepare_us:.1f} us")


def print_stream(public_model: str) -> None:
    """Print what an event of a stream costs."""
    body = stream("gpt-4o-mini")
    event_us = best_us(lambda: relay(body, public_model), 10) / _EVENTS_COUNT
    print(f"stream of gpt-4o-mini as {public_model}: {event_us:.2f} us an event")


if __name__ == "__main__":
    for size in (1 << 10, 10 << 10, 100 << 10, 4 << 20):
        print_body(size)
    print_stream("gpt-4o-mini")
    print_stream("fast")
