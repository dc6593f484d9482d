"""What a provider answers, made by chance: well in many dialects, or badly in every class and phase."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import msgspec

from palyra.errors import TransportFailed
from palyra.providers.port import Call

#: Longer than any time-out: what waits so long ends by its own deadline.
HANGS_MS = 1 << 40

CONNECT = ["timeout_connect", "network_unavailable", "dns_failed", "tls_failed", "netguard_blocked"]
HEADERS = [
    "timeout_first_byte", "timeout_total", "redirect_refused", "response_too_large", "stream_truncated",
    "network_unavailable",
]  # fmt: skip
BODY = ["timeout_idle", "timeout_total", "stream_truncated", "malformed_response", "response_too_large"]

#: Statuses of refusals with the body's code.
ERRORS = [
    (400, ""), (400, "context_length_exceeded"), (400, "content_filter"), (400, "unsupported_parameter"), (401, ""),
    (402, ""), (403, ""), (404, "model_not_found"), (408, ""), (409, ""), (413, ""), (418, ""), (425, ""),
    (429, ""), (429, ""), (429, "insufficient_quota"), (302, ""), (500, ""), (500, ""), (502, ""), (503, ""),
    (503, ""), (529, ""), (999, ""),
]  # fmt: skip
RETRY_AFTERS = [
    {}, {}, {"retry-after": "0"}, {"retry-after": "1"}, {"retry-after": "3600"}, {"retry-after-ms": "30"},
    {"retry-after": "Wed, 21 Oct 2037 07:28:00 GMT"}, {"retry-after": "soon"}, {"retry-after": "-3"},
    {"x-should-retry": "true"}, {"x-should-retry": "false"},
]  # fmt: skip
JUNK = [
    b"",
    b"junk",
    b"<html>no</html>",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"\xff\xfe\x00",
    b'{"choices":[]}',
    b"{}",
]

#: Usage as providers write it.
USAGES: list[Any] = [
    {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16},
    {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16},
    {"prompt_tokens": 900_000, "completion_tokens": 700_000},
    {"prompt_tokens": 11, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 7}},
    {"prompt_tokens": 3, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 70}},
    {"prompt_tokens": 0, "completion_tokens": 0},
    {"prompt_tokens": -4, "completion_tokens": 5},
    {"prompt_tokens": 1.5, "completion_tokens": "5"},
    {"prompt_tokens": None, "completion_tokens": None},
    {"prompt_tokens": 10**30, "completion_tokens": 10**25},
    {"prompt_tokens": 12, "completion_tokens": 1, "cost": 0.001},
    {"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 9}},
    {}, None, [], "none", 7,
]  # fmt: skip


class Script(msgspec.Struct, kw_only=True):
    """One answer: its head after a while, or a failure instead, and then the pieces of its body."""

    head_ms: int = 0
    refuses: TransportFailed | None = None
    status: int = 200
    headers: dict[str, str] = {}
    #: (wait in ms, bytes or the failure that ends it)
    pieces: list[tuple[int, bytes | TransportFailed]] = []
    #: The words of the content.
    text: str = ""


def script_of(rng: random.Random, call: Call, goes_well_percent: int, words_count: int) -> Script:
    """Return what a provider answers to a call."""
    if rng.randrange(100) >= goes_well_percent:
        return rng.choice(_BADLY)(rng, call, words_count)
    return _well(rng, call, words_count)


def failed(failure_class: str, phase: str) -> TransportFailed:
    """Return a failure of the transport."""
    return TransportFailed(failure_class, phase, f"the script says {failure_class}")


def _well(rng: random.Random, call: Call, words_count: int) -> Script:
    if call.path == "/embeddings":
        script = Script(pieces=_cut_up(rng, _embeddings(rng, call)))
    elif call.stream:
        script = _stream(rng, words_count)
    else:
        text = _text(words_count)
        script = Script(pieces=_cut_up(rng, _completion(rng, text)), text=text)
    script.head_ms = _pause_ms(rng)
    script.headers = {"content-type": "text/event-stream" if call.stream else "application/json"}
    if rng.random() < 0.2:
        script.headers["x-request-id"] = rng.choice(["req-1", "\udcff", "x" * 500, ""])
    return script


def _pause_ms(rng: random.Random) -> int:
    return rng.choice([0, 0, 0, 1, 3, 10, 60, 400])


def _cut_up(rng: random.Random, data: bytes) -> list[tuple[int, bytes | TransportFailed]]:
    """Return bytes in pieces, cut anywhere."""
    count = rng.choice([1, 1, 2, 5])
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(count - 1))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return [(_pause_ms(rng), piece) for piece in pieces if piece]


def _text(words_count: int) -> str:
    return "".join(f"w{number} " for number in range(words_count))


def _completion(rng: random.Random, text: str) -> bytes:
    finish = rng.choice(["stop", "stop", "length", "tool_calls", "content_filter", "odd", None])
    message = {"role": "assistant", "content": text}
    body: dict[str, Any] = {
        "id": rng.choice(["c1", None, 7, "x" * 300]),
        "object": "chat.completion",
        "model": rng.choice(["m", "other", None, 7]),
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    }
    if rng.random() < 0.9:
        body["usage"] = rng.choice(USAGES)
    return json.dumps(body).encode()


def _embeddings(rng: random.Random, call: Call) -> bytes:
    asked = json.loads(call.body)["input"]
    count = len(asked) if isinstance(asked, list) else 1
    if rng.random() < 0.05:
        count += 1
    data = [{"object": "embedding", "index": n, "embedding": [n, 0.5]} for n in range(count)]
    return json.dumps({"object": "list", "data": data, "model": "e", "usage": rng.choice(USAGES)}).encode()


def _event(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    chunk = {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": choices, **more}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _stream(rng: random.Random, words_count: int) -> Script:
    """Return a stream that ends well, in one of many dialects; what is relayed of it is `text`."""
    words = [f"w{number} " for number in range(words_count)]
    events = [_event({"role": "assistant", "content": ""})] if rng.random() < 0.8 else []
    per_event = rng.choice([1, 7, 50])
    for start in range(0, len(words), per_event):
        events.append(_event({"content": "".join(words[start : start + per_event])}))
        if rng.random() < 0.1:
            events.append(rng.choice([b": comment\n\n", b"data: {junk\n\n", b"event: ping\ndata: {}\n\n", b"\n\n"]))
    events.append(_event({}, rng.choice(["stop", "length", "tool_calls", "odd"])))
    if rng.random() < 0.85:
        events.append(_event(usage=rng.choice(USAGES)))
    if rng.random() < 0.85:
        events.append(b"data: [DONE]\n\n")
    if rng.random() < 0.1:
        events.append(b"data: too late\n\n")
    if rng.random() < 0.15:
        events = [event.replace(b"\n", b"\r\n") for event in events]
    pieces: list[tuple[int, bytes | TransportFailed]] = [(_pause_ms(rng), event) for event in events]
    if rng.random() < 0.3:
        pieces = _cut_up(rng, b"".join(events))
    return Script(pieces=pieces, text="".join(words))


def _no_connection(rng: random.Random, call: Call, words_count: int) -> Script:
    return Script(head_ms=_pause_ms(rng), refuses=failed(rng.choice(CONNECT), "connect"))


def _no_head(rng: random.Random, call: Call, words_count: int) -> Script:
    return Script(head_ms=_pause_ms(rng), refuses=failed(rng.choice(HEADERS), "headers"))


def _hangs(rng: random.Random, call: Call, words_count: int) -> Script:
    return Script(head_ms=HANGS_MS)


def _error(rng: random.Random, call: Call, words_count: int) -> Script:
    status, code = rng.choice(ERRORS)
    error = {
        "message": rng.choice(["no", "prompt is too long", "\u2028 odd \x00"]),
        "type": "api_error",
        "code": code,
    }
    body = json.dumps({"error": error}).encode() if rng.random() < 0.7 else rng.choice(JUNK)
    headers = {"content-type": "application/json", **rng.choice(RETRY_AFTERS)}
    script = Script(head_ms=_pause_ms(rng), status=status, headers=headers, pieces=[(_pause_ms(rng), body)])
    if rng.random() < 0.1:
        script.pieces = [(rng.choice([0, HANGS_MS]), failed("stream_truncated", "body"))]
    return script


def _error_as_answer(rng: random.Random, call: Call, words_count: int) -> Script:
    """Return status 200 with an error object: alone, or as an event of a stream."""
    script = _well(rng, call, words_count)
    error = json.dumps({"error": {"message": "no", "type": rng.choice(["overloaded_error", "x"])}}).encode()
    if call.stream and rng.random() < 0.7:
        script.pieces[rng.randrange(len(script.pieces)) :] = [(0, b"\n\ndata: " + error + b"\n\n")]
    else:
        script.pieces = [(0, error)]
        script.headers = {"content-type": "application/json"}
    return script


def _junk(rng: random.Random, call: Call, words_count: int) -> Script:
    script = _well(rng, call, words_count)
    script.pieces, script.text = [(_pause_ms(rng), piece) for piece in rng.choices(JUNK, k=2) if piece], ""
    if rng.random() < 0.3:
        script.headers = {}
    return script


def _cut(rng: random.Random, call: Call, words_count: int) -> Script:
    """Return an answer that breaks off, hangs or just stops somewhere in its body."""
    script = _well(rng, call, words_count)
    at = rng.randrange(len(script.pieces))
    ends: list[list[tuple[int, bytes | TransportFailed]]] = [
        [(_pause_ms(rng), failed(rng.choice(BODY), "body"))],
        [(HANGS_MS, b"")],
        [],
    ]
    script.pieces[at:] = rng.choice(ends)
    return script


_BADLY: list[Callable[[random.Random, Call, int], Script]] = [
    _no_connection, _no_connection, _no_head, _hangs, _hangs, _error, _error, _error,
    _error_as_answer, _junk, _cut, _cut,
]  # fmt: skip
