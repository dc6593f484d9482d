"""A real provider on loopback: speaks OpenAI's and Anthropic's wire formats over aiohttp and misbehaves on demand.

::

    async with Upstream() as up:
        up.reply_with(Behaviour.error(429, retry_after="1"), Behaviour(text="Hi", after={2: RESET}))
        ...                                   # point a client at up.url
        await up.request_arrived()
        assert up.requests[0].json["model"] == "gpt-x"

Each POST takes the next queued behaviour, or `up.default` when none is left. Nothing here waits for a clock: a
delay is an `asyncio.Event` that the test sets.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import upstream_audio
import upstream_messages
import upstream_responses
from aiohttp import web


class Fault:
    """A way to fail in the middle of an answer."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


#: Close the connection, what was written arrives. · Reset it. · Say nothing more until the client leaves.
CUT = Fault("CUT")
RESET = Fault("RESET")
HANG = Fault("HANG")

#: Wait for an event, fail, or put these bytes on the wire as they are.
Step = asyncio.Event | Fault | bytes


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """How one request is answered. The defaults answer it well, streamed or not as it asks."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Before the status line: a gate, `CUT`, `RESET` or `HANG`.
    head: Step | None = None
    #: n -> what happens after n pieces of the body. A piece is an event of a stream (the role chunk is the first),
    #: or one half of an unstreamed body; 0 is right after the head.
    after: Mapping[int, Step] = field(default_factory=dict)
    #: The whole body as it is, in place of an answer.
    body: bytes | None = None

    text: str = "Hello from upstream."
    #: Cuts of a streamed text; by default its words.
    chunks: tuple[str, ...] | None = None
    reasoning: str = ""
    #: (id, name, arguments as JSON text) each; streamed in two pieces of arguments.
    tool_calls: tuple[tuple[str, str, str], ...] = ()
    finish_reason: str | None = None
    #: `asked` is what OpenAI does: always in a unary answer, in a chunk of its own if a stream's request wants it.
    usage: Literal["asked", "none", "last_chunk", "usage_chunk", "x_groq"] = "asked"
    prompt_tokens: int = 11
    completion_tokens: int = 5
    #: No answer is billed longer than `max_tokens` of its request, as real providers keep it.
    keeps_cap: bool = False
    #: More keys of the usage object.
    usage_details: Mapping[str, Any] = field(default_factory=dict)
    #: What it says it was served by: beside the answer, or in Anthropic's usage.
    service_tier: str = ""
    #: Shape of the stream: its end marker, its line ends, and `data:` with or without a space.
    done: bool = True
    newline: Literal["\n", "\r\n"] = "\n"
    space: bool = True
    dimensions: int = 8

    @classmethod
    def error(
        cls,
        status: int,
        code: str | None = None,
        message: str = "upstream says no",
        *,
        kind: str = "api_error",
        **headers: str,
    ) -> Behaviour:
        """An error in OpenAI's envelope. Header names are written with underscores: `retry_after="1"`."""
        body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status=status, body=body, headers={"content-type": "application/json", **named})

    @classmethod
    def anthropic_error(
        cls, status: int, kind: str, message: str = "upstream says no", *, code: str = "", **headers: str
    ) -> Behaviour:
        """An error in Anthropic's envelope, with a code in its details."""
        details = {"details": {"error_code": code}} if code else {}
        body = json.dumps({"type": "error", "error": {"type": kind, "message": message, **details}}).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status=status, body=body, headers={"content-type": "application/json", **named})

    @classmethod
    def raw(cls, body: bytes, content_type: str = "application/json", **kwargs: Any) -> Behaviour:
        """Any body at all."""
        return cls(body=body, headers={"content-type": content_type}, **kwargs)

    @classmethod
    def redirect(cls, location: str, status: int = 307) -> Behaviour:
        return cls(status=status, body=b"", headers={"location": location})


def error_event(message: str = "upstream broke", code: str | None = None, kind: str = "server_error") -> bytes:
    """An error object as an event of a stream, for `Behaviour.after`."""
    return b"data: " + json.dumps({"error": {"message": message, "type": kind, "code": code}}).encode() + b"\n\n"


@dataclass(frozen=True, kw_only=True)
class Received:
    """One request as it arrived."""

    method: str
    path: str
    #: Names in lower case.
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Upstream:
    """The server. `async with Upstream() as up:` starts it on a free loopback port and takes it down."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, models: Iterable[str] = ("gpt-x",)) -> None:
        self.requests: list[Received] = []
        #: Answers that were written to their end: what this provider has its money for.
        self.served: list[tuple[Received, Behaviour]] = []
        #: Requests for the list of models, which come whenever somebody wants to know how the server does.
        self.lists: list[Received] = []
        self.default = Behaviour()
        self.models = list(models)
        #: How GET /models answers, when not with the list.
        self.models_behaviour: Behaviour | None = None
        self._queue: deque[Behaviour] = deque()
        self._tls = tls
        self._changed = asyncio.Condition()
        self._server = _Server(self._handle, self._connections_changed)
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        """The base URL, `/v1` included."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1"

    def drop_replies(self) -> None:
        """Forget the behaviours that nobody has met yet."""
        self._queue.clear()

    def reply_with(self, *behaviours: Behaviour) -> None:
        """Queue behaviours for the next requests."""
        self._queue.extend(behaviours)

    async def request_arrived(self, count: int = 1) -> Received:
        """Wait until `count` requests in all have arrived whole; return the last of them."""
        await self._until(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    @property
    def connection_count(self) -> int:
        return len(self._server.open_connections)

    @property
    def connections_made_count(self) -> int:
        """Connections since the start; fewer than requests where they are reused."""
        return self._server.made_count

    async def connections_closed(self) -> None:
        """Wait until no client is connected."""
        await self._until(lambda: self.connection_count == 0)

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(holds)

    def _connections_changed(self) -> None:
        task = asyncio.get_running_loop().create_task(self._notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def __aenter__(self) -> Upstream:
        self._runner = web.ServerRunner(self._server, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()
        await asyncio.gather(*self._tasks)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(method=request.method, path=request.path, headers=headers, body=body)
        is_list = request.method == "GET" and request.path == "/v1/models"
        (self.lists if is_list else self.requests).append(received)
        await self._notify()
        if is_list:
            return await self._answer(request, received, self.models_behaviour or self._model_list())
        behaviour = self._queue.popleft() if self._queue else self.default
        return await self._answer(request, received, behaviour)

    def _model_list(self) -> Behaviour:
        data = [{"id": name, "object": "model", "created": 1, "owned_by": "upstream"} for name in self.models]
        return Behaviour.raw(json.dumps({"object": "list", "data": data}).encode())

    async def _answer(
        self, request: web.BaseRequest, received: Received, behaviour: Behaviour
    ) -> web.StreamResponse:
        if behaviour.head is not None and not await _take(behaviour.head, request, None):
            return web.Response()
        content_type, pieces = render(behaviour, received)
        head = {"content-type": content_type, **{k.lower(): v for k, v in behaviour.headers.items()}}
        answer = web.StreamResponse(status=behaviour.status, headers=head)
        if content_type != "text/event-stream":
            answer.content_length = sum(map(len, pieces))
        await answer.prepare(request)
        for count, piece in enumerate([*pieces, b""]):
            step = behaviour.after.get(count)
            if step is not None and not await _take(step, request, answer):
                return answer
            await answer.write(piece)
        await answer.write_eof()
        self.served.append((received, behaviour))
        return answer


class _Server(web.Server):
    """Tells when a connection comes or goes."""

    def __init__(self, handler: Any, changed: Callable[[], None]) -> None:
        super().__init__(handler, request_factory=self._any_size, handler_cancellation=True, access_log=None)
        self._tell = changed
        self.open_connections: set[Any] = set()
        self.made_count = 0

    def _any_size(self, *args: Any) -> web.BaseRequest:
        return web.BaseRequest(*args, asyncio.get_running_loop(), client_max_size=1 << 30)

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self.open_connections.add(handler)
        self.made_count += 1
        self._tell()

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self.open_connections.discard(handler)
        self._tell()


async def _take(step: Step, request: web.BaseRequest, answer: web.StreamResponse | None) -> bool:
    """Take one step; return whether the answer goes on."""
    if isinstance(step, asyncio.Event):
        await step.wait()
        return True
    if isinstance(step, bytes):
        assert answer is not None, "bytes cannot come before the head"
        await answer.write(step)
        return True
    transport = request.transport
    if step is HANG:
        await asyncio.Event().wait()
    elif transport is not None and step is RESET:
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    elif transport is not None:
        transport.close()
    return False


def render(behaviour: Behaviour, received: Received) -> tuple[str, list[bytes]]:
    """Return the content type of an answer and the pieces of its body."""
    if behaviour.body is not None:
        half = len(behaviour.body) // 2
        return "application/json", [behaviour.body[:half], behaviour.body[half:]]
    if received.path == "/v1/chat/completions":
        asked = received.json
        if asked.get("stream"):
            return "text/event-stream", list(_events(behaviour, asked))
        answer = _completion(behaviour, asked)
    elif received.path == "/v1/messages":
        if received.json.get("stream"):
            return "text/event-stream", list(upstream_messages.events(behaviour, received.json))
        answer = upstream_messages.message(behaviour, received.json)
    elif received.path == "/v1/responses":
        if received.json.get("stream"):
            return "text/event-stream", list(upstream_responses.events(behaviour, received.json))
        answer = upstream_responses.response(behaviour, received.json)
    elif received.path == "/v1/messages/count_tokens":
        answer = {"input_tokens": behaviour.prompt_tokens}
    elif received.path == "/v1/embeddings":
        answer = _embeddings(behaviour, received.json)
    elif received.path == "/v1/audio/transcriptions":
        return upstream_audio.answer(behaviour, received)
    else:
        raise web.HTTPNotFound
    body = json.dumps(answer).encode()
    return "application/json", [body[: len(body) // 2], body[len(body) // 2 :]]


def _usage(behaviour: Behaviour, asked: dict[str, Any]) -> dict[str, Any]:
    completion_tokens = behaviour.completion_tokens
    if behaviour.keeps_cap:
        completion_tokens = min(completion_tokens, asked.get("max_tokens") or completion_tokens)
    return {
        "prompt_tokens": behaviour.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": behaviour.prompt_tokens + completion_tokens,
        **behaviour.usage_details,
    }


def _finish(behaviour: Behaviour) -> str:
    if behaviour.finish_reason is not None:
        return behaviour.finish_reason
    return "tool_calls" if behaviour.tool_calls else "stop"


def _completion(behaviour: Behaviour, asked: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": behaviour.text or None}
    if behaviour.reasoning:
        message["reasoning_content"] = behaviour.reasoning
    if behaviour.tool_calls:
        message["tool_calls"] = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for call_id, name, arguments in behaviour.tool_calls
        ]
    choice = {"index": 0, "message": message, "finish_reason": _finish(behaviour), "logprobs": None}
    answer = {
        "id": "chatcmpl-upstream",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": asked.get("model"),
        "choices": [choice],
        **_tier(behaviour),
    }
    if behaviour.usage == "x_groq":
        answer["x_groq"] = {"id": "req_1", "usage": _usage(behaviour, asked)}
    elif behaviour.usage != "none":
        answer["usage"] = _usage(behaviour, asked)
    return answer


def _tier(behaviour: Behaviour) -> dict[str, str]:
    return {"service_tier": behaviour.service_tier} if behaviour.service_tier else {}


def _deltas(behaviour: Behaviour) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": ""}
    if behaviour.reasoning:
        yield {"reasoning_content": behaviour.reasoning}
    words = behaviour.text.split(" ")
    chunks = behaviour.chunks
    for chunk in chunks if chunks is not None else [*(f"{word} " for word in words[:-1]), words[-1]]:
        if chunk:
            yield {"content": chunk}
    for index, (call_id, name, arguments) in enumerate(behaviour.tool_calls):
        half = len(arguments) // 2
        opening = {"name": name, "arguments": arguments[:half]}
        yield {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": opening}]}
        yield {"tool_calls": [{"index": index, "function": {"arguments": arguments[half:]}}]}


def _events(behaviour: Behaviour, asked: dict[str, Any]) -> Iterator[bytes]:
    """Yield the events of a chat stream."""
    common = {
        "id": "chatcmpl-upstream",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": asked.get("model"),
        **_tier(behaviour),
    }

    def event(data: str) -> bytes:
        line = f"data:{' ' if behaviour.space else ''}{data}"
        return (line + behaviour.newline * 2).encode()

    def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return event(json.dumps({**common, "choices": choices, **more}))

    for delta in _deltas(behaviour):
        yield chunk([{"index": 0, "delta": delta, "finish_reason": None}])
    usage = _usage(behaviour, asked)
    wants_usage = (asked.get("stream_options") or {}).get("include_usage", False)
    last: dict[str, Any] = {"last_chunk": {"usage": usage}, "x_groq": {"x_groq": {"usage": usage}}}
    closing = {"index": 0, "delta": {}, "finish_reason": _finish(behaviour)}
    yield chunk([closing], **last.get(behaviour.usage, {}))
    if behaviour.usage == "usage_chunk" or (behaviour.usage == "asked" and wants_usage):
        yield chunk([], usage=usage)
    if behaviour.done:
        yield event("[DONE]")


def _embeddings(behaviour: Behaviour, asked: dict[str, Any]) -> dict[str, Any]:
    inputs = asked["input"]
    if isinstance(inputs, str) or (inputs and isinstance(inputs[0], int)):
        inputs = [inputs]
    dimensions = asked.get("dimensions") or behaviour.dimensions
    data = []
    for index in range(len(inputs)):
        vector = [1.0 if axis == index % dimensions else 0.0 for axis in range(dimensions)]
        packed = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
        embedding = packed if asked.get("encoding_format") == "base64" else vector
        data.append({"object": "embedding", "index": index, "embedding": embedding})
    answer = {"object": "list", "model": asked.get("model"), "data": data}
    if behaviour.usage != "none":
        tokens = behaviour.prompt_tokens
        answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return answer


@asynccontextmanager
async def raw_server(answer: bytes = b"") -> AsyncIterator[int]:
    """Serve `answer` byte for byte to whatever comes, then close; yields the port.

    For what no HTTP server would send. Without an answer it takes connections and says nothing, not even to a
    TLS greeting.
    """
    serving: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            if answer:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                await writer.drain()
            else:
                await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])
    for task in serving:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)
