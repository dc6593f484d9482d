"""The client's side of a run: its headers, the bytes of its stream, and the reply at its end.

Nothing is decided or recorded here; the run says what has happened, the client is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence

import msgspec

from palyra.decisions.naming import VIRTUAL_NAMES
from palyra.decisions.runs import AdmitRun
from palyra.engine.apart import aside
from palyra.engine.cache import CachedAnswer
from palyra.engine.candidate import Candidate
from palyra.engine.exchange import Client, ClientGone, Ended
from palyra.engine.surfaces import Surface
from palyra.errors import Refusal
from palyra.events.routing import PlanStep, RoutingDecided
from palyra.limits import OFF_LOOP_BYTES
from palyra.units import ceil_div, us_to_ms

#: Of what a client wrote and a header repeats.
_HEADER_MAX_CHARS = 256
#: Of the names of all parameters that were dropped, changed or made up for.
_TOLD_MAX_CHARS = 4_096
#: Told where the facts of a run could not be recorded; what became of it is found out later.
_NOT_OF_THE_RUN = ("journal_unwritable", "engine_stopped")


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What goes back to the client. `body` is None when the answer was streamed already."""

    run_id: str
    status: int
    headers: dict[str, str]
    body: bytes | None
    refusal: Refusal | None = None


class KeptAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a client was told: status, headers and all bytes of the body."""

    status: int
    headers: dict[str, str]
    body: bytes
    #: The body went out as a stream.
    is_stream: bool


class ClientSide:
    """What the client of one run is told. Takes a stream's bytes from an `Exchange`."""

    def __init__(self, command: AdmitRun, surface: Surface, client: Client | None) -> None:
        #: Nobody takes the answer any more.
        self.is_gone = False
        #: What the response cache did for it: hit, miss, bypass or off; "" where there is nothing to say.
        self.cache_word = ""
        #: How often bytes of the answer were passed on: a run whose count grows advances.
        self.sends_count = 0
        self._command = command
        self._surface = surface
        self._client = client
        self._has_begun = False
        self._is_ending = False
        self._beginning = asyncio.Lock()
        self._candidate: Candidate | None = None
        self._attempts_count = 0
        self._warnings: Sequence[str] = ()
        self._failover = ""
        #: What is told of the choice of the model.
        self._routing: dict[str, str] = {}
        self._attempt_rows: list[dict[str, object]] = []
        self._last: Ended | None = None
        #: All bytes of the stream so far, where they are to be kept; None where they are not, or are too many.
        self._copy: bytearray | None = None
        self._copy_max_bytes = 0
        #: Of the stream's head, empty before it.
        self._begun_headers: dict[str, str] = {}

    # -- what the run says

    def keep_copy(self, max_bytes: int) -> None:
        """Keep what is sent of a stream, unless it grows beyond this."""
        if self._client is not None:
            self._copy, self._copy_max_bytes = bytearray(), max_bytes

    @property
    def sent(self) -> bytes | None:
        """What was sent of a stream so far, None without a copy."""
        return None if self._copy is None else bytes(self._copy)

    def note_drained(self, data: bytes) -> None:
        """Take bytes of the stream that nobody waits for any more."""
        copy = self._copy
        if copy is not None and len(copy) + len(data) > self._copy_max_bytes:
            self._copy = None
        elif copy is not None:
            copy += data

    def come_to(self, candidate: Candidate) -> None:
        """Note the candidate at hand."""
        if self._candidate is not None:
            before = self._failover or _pair(self._candidate.step)
            self._failover = f"{before}>{_pair(candidate.step)}"
        self._candidate = candidate

    def note_limits(self, candidate: Candidate, warnings: Sequence[str]) -> None:
        """Take the candidate as it is asked, with what its client is warned of."""
        self._candidate = candidate
        self._warnings = warnings

    def note_routing(self, decided: RoutingDecided) -> None:
        """Take what is told of the choice of the model; a trial of routing is the operator's business alone."""
        served = decided.plan[0] if decided.plan else None
        is_chosen = decided.mode == "enforced" or bool(VIRTUAL_NAMES.get(self._command.model.strip()))
        is_chosen = is_chosen or decided.budget_outcome == "downgraded"
        is_hint = decided.mode == "suggest" and served is not None and decided.recommended != _pair(served)
        if decided.strategy and (is_chosen or is_hint):
            codes = ",".join(decided.reason_codes)
            self._routing["x-palyra-routing"] = f"{decided.mode};{decided.action};{codes}"
        if is_hint and decided.recommended and not is_chosen:
            self._routing["x-palyra-recommended-model"] = decided.recommended

    def note_start(self) -> None:
        """Count an attempt."""
        self._attempts_count += 1

    def note_end(self, ended: Ended) -> None:
        """Remember how an attempt ended."""
        assert self._candidate is not None
        step, failure = self._candidate.step, ended.failure
        self._last = ended
        self._attempt_rows.append(
            {
                "provider_id": step.provider_id,
                "model_id": step.model_id,
                "class": failure.failure_class if failure is not None else "",
                "status": failure.status if failure is not None else 200,
                "phase": failure.phase if failure is not None else "",
                "duration_ms": us_to_ms(ended.duration_us),
            }
        )

    # -- the stream

    async def begin(self) -> None:
        """Send the head of the stream, once."""
        if self._has_begun or self._client is None or self.is_gone:
            return
        async with self._beginning:
            if not self._has_begun:
                self._begun_headers = self._begun_headers or self._headers()
                try:
                    await self._client.begin(self._begun_headers)
                except ClientGone:
                    self._copy = None  # what was held back for the head is lost with it
                    raise
                self._has_begun = True

    def send(self, data: bytes) -> Awaitable[None]:
        """Pass bytes of the answer on; raises `ClientGone`."""
        return self._taker(data).send(data)

    def offer(self, data: bytes) -> bool:
        """Pass bytes on, if nobody has to wait for that; False where nothing was done and they are to be sent."""
        if self.is_gone or self._client is None or not self._client.offer(data):
            return False
        self._taker(data)
        return True

    def _taker(self, data: bytes) -> Client:
        if self._copy is not None:
            self.note_drained(data)
        if self.is_gone or self._client is None:
            raise ClientGone
        self.sends_count += 1
        return self._client

    @property
    def is_waiting(self) -> bool:
        """Return whether a client waits for more bytes of a stream; it gets none behind the last."""
        return self._client is not None and not self.is_gone and not self._is_ending

    async def give_sign(self) -> None:
        """Show the client of a silent stream that its request is alive; raises `ClientGone`."""
        await self.begin()
        if self._client is not None and self.is_waiting:
            await self._client.send(self._surface.keepalive)

    # -- the end

    async def finish(self) -> Reply:
        """Hand over what is left of a complete answer; its usage is durable."""
        assert self._last is not None
        headers, body = self._headers(), None
        if not self._surface.request.stream:
            headers.update(_what_came(self._last))
            headers["content-type"] = self._surface.content_type
            body = await self._surface.public_reply()
        else:
            await self._close_stream(await self._stream_end(self._last))
        return Reply(run_id=self._command.run_id, status=200, headers=headers, body=body)

    async def refuse(self, refusal: Refusal) -> Reply:
        """Tell the client why there is no answer: by the reply, or within the stream once that has begun."""
        run_id = self._command.run_id
        envelope = self._surface.envelope(refusal, run_id=run_id, attempts=self._attempt_rows)
        async with self._beginning:
            pass  # a sign of life may be on its way, and the stream begin with it
        if self._has_begun:
            await self._close_stream(self._surface.stream_error(envelope, has_begun=self.sends_count > 0))
        return Reply(
            run_id=run_id,
            status=refusal.http_status,
            headers={**self._headers(), **refusal_headers(refusal), "content-type": "application/json"},
            body=None if self._has_begun else msgspec.json.encode(envelope),
            refusal=refusal,
        )

    def told(self, reply: Reply) -> KeptAnswer | None:
        """Return all that the client was told; None where it did not wait for an end, or that is not known."""
        if reply.refusal is not None and (self.is_gone or reply.refusal.code in _NOT_OF_THE_RUN):
            return None
        if reply.body is not None:
            return KeptAnswer(status=reply.status, headers=reply.headers, body=reply.body, is_stream=False)
        return self._kept_stream(b"")

    async def would_be_told(self) -> KeptAnswer | None:
        """Return the answer that was read to its end although its client had gone."""
        assert self._last is not None
        if self._client is not None:
            return self._kept_stream(await self._stream_end(self._last))
        headers = {**self._headers(), **_what_came(self._last), "content-type": self._surface.content_type}
        return KeptAnswer(status=200, headers=headers, body=await self._surface.public_reply(), is_stream=False)

    async def _stream_end(self, ended: Ended) -> bytes:
        """Return the last bytes of a stream; a dialect may repeat in them all that was said."""
        if ended.output_bytes <= OFF_LOOP_BYTES:
            return self._surface.stream_end(ended)
        return await aside(self._surface.stream_end, ended)

    def _kept_stream(self, end: bytes) -> KeptAnswer | None:
        if self._copy is None:
            return None
        headers = self._begun_headers or self._headers()
        return KeptAnswer(status=200, headers=headers, body=bytes(self._copy) + end, is_stream=True)

    def from_cache(self, answer: CachedAnswer, age_ms: int) -> KeptAnswer:
        """Return a kept answer as this client gets it."""
        known, is_stream = answer.known, self._surface.request.stream
        headers = {
            **_named(self._command.run_id),
            "x-palyra-provider": known.provider_id,
            "x-palyra-model": known.model_id,
            "x-palyra-attempts": "0",
            "x-palyra-cache": "hit",
            "age": str(age_ms // 1_000),
        }
        if self._command.model and self._command.model != known.model_id:
            headers["x-palyra-requested-model"] = _header_value(self._command.model)
        if not is_stream:
            headers["content-type"] = "application/json"
        body = self._surface.as_stream(answer.body) if is_stream else answer.body
        return KeptAnswer(status=200, headers=headers, body=body, is_stream=is_stream)

    async def tell(self, kept: KeptAnswer) -> Reply:
        """Tell the client an answer that is at hand."""
        headers = kept.headers
        if kept.is_stream:
            self._begun_headers = headers
            await self._close_stream(kept.body)
        body = None if kept.is_stream else kept.body
        return Reply(run_id=self._command.run_id, status=kept.status, headers=headers, body=body)

    async def _close_stream(self, data: bytes) -> None:
        self._is_ending = True
        try:
            await self.begin()
            await self._taker(data).close(data)
        except ClientGone:
            self.is_gone = True

    def _headers(self) -> dict[str, str]:
        candidate = self._candidate
        headers = _named(self._command.run_id)
        if self.cache_word:
            headers["x-palyra-cache"] = self.cache_word
        headers |= self._routing
        if candidate is None:
            return headers
        step = candidate.step
        headers["x-palyra-provider"] = step.provider_id
        headers["x-palyra-model"] = step.model_id
        headers["x-palyra-attempts"] = str(self._attempts_count)
        if self._command.model and self._command.model != step.model_id:
            headers["x-palyra-requested-model"] = _header_value(self._command.model)
        if self._failover:
            headers["x-palyra-failover"] = self._failover
        if self._warnings:
            headers["x-palyra-warning"] = ", ".join(self._warnings)
        asked_tokens = self._command.output_max_tokens
        if candidate.cap_tokens is not None and (asked_tokens is None or candidate.cap_tokens < asked_tokens):
            headers["x-palyra-adjusted"] = f"max_tokens={candidate.cap_tokens}"
        for name, value in self._surface.answer_headers().items():
            # Names of parameters are the client's to make up.
            plain = _header_value(value, _TOLD_MAX_CHARS)
            headers[name] = f"{headers[name]}, {plain}" if name in headers else plain
        return headers


def _named(run_id: str) -> dict[str, str]:
    return {"x-palyra-run-id": run_id, "request-id": run_id, "x-request-id": run_id}


def refusal_headers(refusal: Refusal) -> Mapping[str, str]:
    """Return the headers that go with a refusal. A budget is not asked again by a client's own retries."""
    headers = {"x-should-retry": "false"} if refusal.code.startswith("budget_") else {}
    if refusal.retry_after_ms is None:
        return headers
    headers |= {"retry-after": str(max(1, ceil_div(refusal.retry_after_ms, 1_000)))}
    for what, figures in refusal.details.get("rate_limit", {}).items():
        headers[f"x-ratelimit-limit-{what}"] = str(figures["limit"])
        headers[f"x-ratelimit-remaining-{what}"] = str(figures["remaining"])
        headers[f"x-ratelimit-reset-{what}"] = f"{figures['reset_ms']}ms"
    return headers


def _what_came(ended: Ended) -> Mapping[str, str]:
    """Return the headers that only a complete answer can have."""
    headers = {}
    if ended.upstream_request_id:
        headers["x-palyra-upstream-request-id"] = ended.upstream_request_id
    if ended.facts is not None and ended.facts.usage is None:
        headers["x-palyra-estimated"] = "true"
    return headers


def _header_value(text: str, max_chars: int = _HEADER_MAX_CHARS) -> str:
    """Return a text of the client's as it may stand in a header."""
    return "".join(char if " " <= char <= "~" else "?" for char in text[:max_chars])


def _pair(step: PlanStep) -> str:
    return f"{step.provider_id}/{step.model_id}"
