"""One attempt on the wire: send, read, and tell how it ended. Decides nothing and records nothing.

A unary answer is read whole. A stream is relayed as it arrives, but held back until its first content, so that a
failure before it can be replaced by another candidate without the client noticing.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from palyra.decisions.failures import Failure, classify
from palyra.decisions.pricing import variant_of
from palyra.decisions.usage import Metered
from palyra.engine.apart import Apart, aside
from palyra.engine.clock import Clock
from palyra.errors import TransportFailed
from palyra.limits import (
    FOREIGN_MESSAGE_MAX_CHARS,
    OFF_LOOP_BYTES,
    PREAMBLE_MAX_BYTES,
    UPSTREAM_BODY_MAX_BYTES,
    UPSTREAM_ERROR_MAX_BYTES,
)
from palyra.providers.port import Answer, Call, Provider
from palyra.redaction import Secret, forms_of, redact_text
from palyra.wire.errors import Malformed
from palyra.wire.reply_facts import ReplyFacts
from palyra.wire.retry_after import read_limit_reset_ms, read_retry_after_ms
from palyra.wire.stream_meter import StreamMeter
from palyra.wire.upstream_errors import UpstreamError, UpstreamErrorInBody, read_upstream_error

_HEADER_MAX_CHARS = 128
#: Of a stream that is read in one turn of the loop: some hundred events.
_FED_AT_ONCE_BYTES = 32 * 1024


class ClientGone(Exception):
    """Nobody takes the answer any more."""


class Client(Protocol):
    """Whoever waits for the answer of a stream."""

    async def begin(self, headers: Mapping[str, str]) -> None:
        """Send status 200 with these headers beside the stream's own, once."""
        ...

    async def send(self, data: bytes) -> None:
        """Pass bytes on; returns when they fit into the socket's buffer, raises `ClientGone`."""
        ...

    def offer(self, data: bytes) -> bool:
        """Pass bytes on, if nobody has to wait for that; False where nothing was done and they are to be sent."""
        ...

    async def close(self, data: bytes) -> None:
        """Pass the last bytes on and end the stream with them."""
        ...


#: What a row of usage says of a provider that has written on past the maximum it was given.
_CAP_IGNORED = "cap_ignored_by_provider"


class Ended(msgspec.Struct, kw_only=True):
    """How an attempt ended: `failure` is None for a complete answer."""

    failure: Failure | None = None
    facts: ReplyFacts | None = None
    first_byte_us: int | None = None
    duration_us: int = 0
    output_bytes: int = 0
    upstream_request_id: str = ""
    unparsed_count: int = 0
    #: The stream was cut because it outgrew its output maximum.
    outgrown: bool = False
    #: The call carried a part of the request.
    is_part: bool = False

    @property
    def metered(self) -> Metered:
        """What is known of the attempt's consumption."""
        if self.facts is None:
            return Metered(is_part=self.is_part)
        return Metered(
            reported=self.facts.usage,
            output_estimate_tokens=self.facts.output_tokens_estimate,
            anomalies=(*self.facts.anomalies, _CAP_IGNORED) if self.outgrown else self.facts.anomalies,
            provider_cost_nanousd=self.facts.provider_cost_nanousd,
            variant=variant_of(self.facts.service_tier) if self.facts.service_tier else "",
            is_part=self.is_part,
        )


class Relay(Protocol):
    """What an exchange passes a stream's bytes to."""

    async def begin(self) -> None: ...

    def send(self, data: bytes) -> Awaitable[None]: ...

    def offer(self, data: bytes) -> bool: ...


class Exchange:
    """One attempt. What it has seen so far can be read at any time, also after it was cancelled."""

    def __init__(
        self,
        provider: Provider,
        call: Call,
        secret: Secret | None,
        clock: Clock,
        *,
        on_refusal: Callable[[UpstreamError], bool] = lambda error: False,
        error_text_bytes: int = FOREIGN_MESSAGE_MAX_CHARS,
    ) -> None:
        """`on_refusal` is told of a refusal, and tells whether another try would be another request.

        So much of what a provider says of an error is stored and shown.
        """
        self._provider = provider
        self._call = call
        self._secret = secret
        self._clock = clock
        self._on_refusal = on_refusal
        self._error_text_bytes = error_text_bytes
        self._started_us = clock.monotonic_us()
        self._answer: Answer | None = None
        self._first_byte_us: int | None = None
        self._output_bytes = 0
        self._meter: StreamMeter | None = None
        #: What has arrived and is not read yet, and what was read and is not sent yet.
        self._unfed = self._unsent = b""
        self._held = bytearray()
        #: What has come in since something last went out: an event that is not whole yet, or many that say nothing.
        self._waiting_bytes = 0
        #: Whether the answer has reached content: from then on nothing can replace it.
        self._reached_content = False
        #: Whether anything of it was relayed.
        self._is_committed = False

    async def unary(self, read: Callable[[bytes], ReplyFacts], apart: Apart) -> Ended:
        """Send and read a whole answer; `read` tells what it says, where that keeps nobody waiting.

        It raises `Malformed` or `UpstreamErrorInBody` where the answer is none.
        """
        try:
            answer = await self._open()
            failure = await self._refused(answer)
            if failure is not None:
                return self._end(failure=failure)
            body = await answer.body(UPSTREAM_BODY_MAX_BYTES)
            self._output_bytes = len(body)
            return self._end(facts=await apart.do(len(body), read, body))
        except TransportFailed as error:
            return self._end(failure=self._cut(error))
        except UpstreamErrorInBody as error:
            return self._end(failure=self._upstream_failure(error.error, "body"))
        except Malformed as error:
            return self._end(failure=self._failure(error.code, "body", str(error)))
        finally:
            await self.close()

    async def stream(self, meter: StreamMeter, relay: Relay, on_content: Callable[[], None]) -> Ended:
        """Send and relay a stream; `on_content` is called once, when the answer has reached content.

        Raises `ClientGone` when nobody takes it; it can then be drained. Whoever streams closes.
        """
        self._meter = meter
        try:
            answer = await self._open()
            failure = await self._refused(answer)
            if failure is None and "text/event-stream" not in answer.headers.get("content-type", "").lower():
                failure = await self._not_a_stream(answer)
            if failure is not None:
                return self._end(failure=failure)
            return await self._relay(answer, meter, relay, on_content)
        except TransportFailed as error:
            return self._end(failure=self._cut(error))
        except Malformed as error:
            return self._end(failure=self._failure(error.code, self._phase, str(error)))

    async def drain(self, max_tokens: int, note: Callable[[bytes], None]) -> Ended:
        """Read a stream on for its usage although nobody takes it, at most so many output tokens.

        `note` is told what would have been relayed.
        """
        meter, answer = self._meter, self._answer
        assert meter is not None
        assert answer is not None
        with contextlib.suppress(TransportFailed, Malformed):
            while not meter.done and meter.error is None and meter.facts().output_tokens_estimate <= max_tokens:
                chunk = await answer.chunk()
                note(self._fed(meter, chunk) if self._is_little(chunk) else await aside(self._fed, meter, chunk))
                if not chunk:
                    break
        if meter.finished and meter.error is None:
            return self._end()
        return self._end(failure=self._failure("client_disconnected", self._phase, ""))

    async def close(self) -> None:
        """Let go of the connection; a connection whose answer was not read to its end is closed."""
        if self._answer is not None:
            await self._answer.close()

    def given_up(self, failure_class: str) -> Ended:
        """Return how the attempt ended if nobody goes on with it."""
        return self._end(failure=self._failure(failure_class, self._phase, ""))

    async def _open(self) -> Answer:
        self._answer = await self._provider.send(self._call, self._secret)
        self._first_byte_us = self._clock.monotonic_us() - self._started_us
        return self._answer

    async def _relay(
        self, answer: Answer, meter: StreamMeter, relay: Relay, on_content: Callable[[], None]
    ) -> Ended:
        pass_on = functools.partial(self._pass_on, meter, relay)
        while True:
            if self._reached_content and self._is_committed:
                await answer.flow(pass_on)
                if self._unsent:
                    unsent, self._unsent = self._unsent, b""
                    await relay.send(unsent)
                ended = self._ended_by(meter)
                if ended is not None:
                    return ended
            chunk, self._unfed = self._unfed or await answer.chunk(), b""
            out = self._fed(meter, chunk) if self._is_little(chunk) else await aside(self._fed, meter, chunk)
            if meter.has_content and not self._reached_content and meter.error is None:
                self._reached_content = True
                on_content()
            if not self._is_committed:
                await self._hold(out, relay)
            elif out:
                await relay.send(out)
            ended = self._ended_by(meter)
            if ended is not None:
                return ended
            if not chunk and meter.finished:
                return self._end()
            if not chunk:
                message = "the stream ended before its answer was complete"
                return self._end(failure=self._failure("stream_truncated", self._phase, message))

    def _pass_on(self, meter: StreamMeter, relay: Relay, chunk: bytes) -> bool:
        """Relay bytes as they arrive; return False where somebody has to be waited for, or the stream has ended."""
        if not self._is_little(chunk):
            self._unfed = chunk
            return False
        out = self._fed(meter, chunk)
        if out and not relay.offer(out):
            self._unsent = out
            return False
        return meter.error is None and not meter.done and not meter.outgrown

    def _ended_by(self, meter: StreamMeter) -> Ended | None:
        """Return how the stream has ended by what it said, None while it goes on."""
        if meter.error is not None:
            return self._end(failure=self._upstream_failure(meter.error, self._phase))
        if meter.outgrown:
            return self._end(outgrown=True)
        return self._end() if meter.done else None

    def _is_little(self, chunk: bytes) -> bool:
        """Return whether reading these bytes keeps nobody waiting."""
        size_bytes = len(chunk)
        return size_bytes <= _FED_AT_ONCE_BYTES and self._waiting_bytes + size_bytes <= OFF_LOOP_BYTES

    def _fed(self, meter: StreamMeter, chunk: bytes) -> bytes:
        """Return what a meter makes of bytes as they came, b"" for the end."""
        self._output_bytes += len(chunk)
        self._waiting_bytes += len(chunk)
        out = meter.feed(chunk) if chunk else meter.end()
        if out:
            self._waiting_bytes = 0
        return out

    async def _hold(self, out: bytes, relay: Relay) -> None:
        """Keep the preamble back until there is content, or until it has grown too long to be one."""
        self._held += out
        if self._reached_content or len(self._held) > PREAMBLE_MAX_BYTES:
            self._is_committed = True
            await relay.begin()
            if self._held:
                await relay.send(bytes(self._held))
            self._held.clear()

    async def _refused(self, answer: Answer) -> Failure | None:
        """Return the failure that an answer's status means, or None for 200."""
        if answer.status == 200:
            return None
        try:
            body = await answer.body(UPSTREAM_ERROR_MAX_BYTES)
        except TransportFailed:
            body = b""  # the status says enough
        error = read_upstream_error(answer.status, body, answer.headers.get("content-type", ""))
        failure = self._upstream_failure(error, "headers")
        return msgspec.structs.replace(failure, should_retry=True) if self._on_refusal(error) else failure

    async def _not_a_stream(self, answer: Answer) -> Failure:
        """Return the failure of a 200 that carries no events: often an error object."""
        body = await answer.body(UPSTREAM_ERROR_MAX_BYTES)
        content_type = answer.headers.get("content-type", "")
        if b'"error"' in body:
            return self._upstream_failure(read_upstream_error(answer.status, body, content_type), "body")
        message = f"the answer is {_plain(content_type) or 'untyped'}, not an event stream"
        return self._failure("malformed_response", "body", message)

    def _upstream_failure(self, error: UpstreamError, phase: str) -> Failure:
        headers = self._answer.headers if self._answer is not None else {}
        now_us = self._clock.now_us()
        retry_after_ms = read_retry_after_ms(headers, now_us)
        if retry_after_ms is None and error.status == 429:
            retry_after_ms = read_limit_reset_ms(headers, now_us)
        failure_class = classify(
            error.status,
            error_type=error.type,
            code=error.code,
            message=error.message,
            has_retry_after=retry_after_ms is not None,
        )
        should_retry = headers.get("x-should-retry")
        return Failure(
            failure_class=failure_class,
            phase=phase,
            status=error.status,
            code=self._without_secret(error.code or error.type)[:64],
            message=self._cut_text(self._without_secret(error.message)),
            retry_after_ms=retry_after_ms,
            should_retry=None if should_retry not in ("true", "false") else should_retry == "true",
        )

    def _without_secret(self, text: str) -> str:
        """Return a provider's words without the credential that it was sent, in whatever form it says it."""
        return text if self._secret is None else redact_text(text, forms_of(self._secret))

    def _cut_text(self, text: str) -> str:
        return text.encode("utf-8", "replace")[: self._error_text_bytes].decode("utf-8", "ignore")

    def _cut(self, error: TransportFailed) -> Failure:
        # A transport knows nothing of content.
        phase = error.phase if self._answer is None else self._phase
        return self._failure(error.failure_class, phase, error.message)

    def _failure(self, failure_class: str, phase: str, message: str) -> Failure:
        return Failure(
            failure_class=failure_class,
            phase=phase,
            status=self._status,
            message=self._cut_text(message),
        )

    @property
    def _status(self) -> int:
        return 0 if self._answer is None else self._answer.status

    @property
    def _phase(self) -> str:
        if self._reached_content:
            return "content"
        return "headers" if self._answer is None else "body"

    def _end(
        self, *, failure: Failure | None = None, facts: ReplyFacts | None = None, outgrown: bool = False
    ) -> Ended:
        headers = self._answer.headers if self._answer is not None else {}
        if facts is None and self._meter is not None and self._answer is not None:
            facts = self._meter.facts()
        return Ended(
            failure=failure,
            facts=facts,
            first_byte_us=self._first_byte_us,
            duration_us=self._clock.monotonic_us() - self._started_us,
            output_bytes=self._output_bytes,
            upstream_request_id=_plain(headers.get("x-request-id") or headers.get("request-id") or ""),
            unparsed_count=0 if self._meter is None else self._meter.unparsed_count,
            outgrown=outgrown,
        )


def _plain(text: str) -> str:
    """Return what a provider wrote into a header, cut; "" for bytes that are no text and fit no journal."""
    return text[:_HEADER_MAX_CHARS] if text.isascii() and text.isprintable() else ""
