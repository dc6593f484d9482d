"""Kind `deterministic`: a provider without a network, for a fresh install, tests, and rehearsing failures.

The first rule of its script that matches answers; without one the last user text comes back. It speaks OpenAI's
wire format through the same port as a socket and fails the way a socket fails. Equal calls get equal bytes on every
machine: ids come from the request, and no clock is read. Nothing of a request may leave the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from palyra.errors import CODES, TransportFailed
from palyra.limits import OFF_LOOP_BYTES, SCRIPTED_CALL_MAX_BYTES, SSE_LINE_MAX_BYTES, UPSTREAM_BODY_MAX_BYTES
from palyra.providers.fixture_book import (
    TRANSLATED,
    FixtureBook,
    as_chat,
    content_type_of,
    is_as_asked,
    is_broken,
    read_call,
    steps_of,
    translated_reply,
)
from palyra.providers.port import Answer, Call
from palyra.providers.script_match import Asked, RuleBook
from palyra.providers.script_play import Break, Patience, ScriptedAnswer, Sleep, Step, Wait
from palyra.providers.script_reply import (
    compose_chat,
    compose_embeddings,
    compose_transcript,
    cut_text,
    transcript_events,
)
from palyra.redaction import Secret
from palyra.wire.errors import WireError
from palyra.wire.fixtures import SILENCES, BadFixture, canonical
from palyra.wire.openai_errors import openai_error_type
from palyra.wire.openai_reply import chat_completion, chat_events
from palyra.wire.request import SurfaceRequest
from palyra.wire.script import AfterChunks, Chunk, Fault, Pace, Reply, Rule
from palyra.wire.sse import encode_event
from palyra.wire.transcripts import CONTENT_TYPES, write_transcript

_FILLER = b"x" * (64 << 10)
_HTML = b"<!doctype html><title>Not an API</title>"
#: Read by their places, however large they are.
_RECORDINGS = "/audio/transcriptions"
#: What an accident looks like when it strikes before the head of the answer is whole.
_CLASSES_IN_HEAD = {
    "reset": "network_unavailable",
    "malformed_json": "malformed_response",
    "truncate": "stream_truncated",
    "oversize": "response_too_large",
}


class DeterministicSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a deterministic provider obeys. Equal settings may share one provider, and its counts of used rules."""

    rules: tuple[Rule, ...] = ()
    #: Path of a file of recorded exchanges, which go before the rules; "" for none.
    fixtures: str = ""
    #: A changed file makes another provider.
    fixtures_digest: str = ""
    #: What becomes of a request that was not recorded: it fails, or the rules answer it.
    fixture_mode: Literal["strict", "lenient"] = "strict"
    fixture_timing: Literal["instant", "recorded"] = "instant"


class DeterministicProvider:
    """Answers calls by its script; satisfies `palyra.providers.port.Provider`."""

    def __init__(self, settings: DeterministicSettings, *, sleep: Sleep = asyncio.sleep) -> None:
        self._settings = settings
        self._book = RuleBook(settings.rules)
        self._fixtures: FixtureBook | None = None
        self._sleep = sleep

    async def send(self, call: Call, secret: Secret | None) -> Answer:
        """See `palyra.providers.port.Provider.send`; a secret is not used."""
        patience = Patience(call, self._sleep)
        if len(call.body) > SCRIPTED_CALL_MAX_BYTES and call.path != _RECORDINGS:
            message = f"A script takes no request of more than {SCRIPTED_CALL_MAX_BYTES} bytes."
            return _error_answer(413, "body_too_large", message, patience)
        if self._settings.fixtures:
            replayed = await self._replay(call, patience)
            if replayed is not None:
                return replayed
        return await self._obey(call, patience)

    async def _obey(self, call: Call, patience: Patience) -> Answer:
        """Answer by the rules."""
        is_large = len(call.body) > OFF_LOOP_BYTES
        try:
            asked = await asyncio.to_thread(Asked, call) if is_large else Asked(call)
        except WireError as exc:
            status = CODES[exc.code].http_status
            return _error_answer(status, exc.code, exc.message, patience)
        rule = self._book.take(asked) or Rule()
        return await _perform(asked, rule, patience, is_large=is_large)

    async def _replay(self, call: Call, patience: Patience) -> Answer | None:
        """Answer as it was recorded; None for what the rules are to answer."""
        settings = self._settings
        try:
            if self._fixtures is None:
                self._fixtures = await asyncio.to_thread(FixtureBook.read, settings.fixtures)
            request, plain = await asyncio.to_thread(_read, call)
        except (OSError, BadFixture) as exc:
            raise TransportFailed("fixture_missing", "headers", f"the recorded exchanges: {exc}") from exc
        except WireError as exc:
            return _error_answer(CODES[exc.code].http_status, exc.code, exc.message, patience)
        recorded, api = self._fixtures.take(plain), request.surface
        if recorded is None:
            if settings.fixture_mode == "strict":
                raise TransportFailed("fixture_missing", "headers", self._fixtures.missing(plain))
            return None if call.path not in TRANSLATED else await self._obey_in(api, request, call, patience)
        if not recorded.status:
            raise TransportFailed(recorded.outcome, SILENCES[recorded.outcome], "it was so before")
        if is_broken(recorded) and not is_as_asked(recorded, api=api, stream=request.stream):
            raise TransportFailed("stream_truncated", "body", "what was recorded is no whole answer")
        steps = steps_of(
            recorded, api=api, model=request.model, stream=request.stream, timing=settings.fixture_timing
        )
        headers = {**recorded.headers, "content-type": content_type_of(recorded, stream=request.stream)}
        return ScriptedAnswer(recorded.status, headers, steps, patience)

    async def _obey_in(self, api: str, request: SurfaceRequest, call: Call, patience: Patience) -> Answer:
        """Answer a request in another dialect by the rules, which know one."""
        asked = as_chat(request, call)
        answer = await self._obey(asked, patience)
        if answer.status != 200:
            return answer
        body = translated_reply(await answer.body(UPSTREAM_BODY_MAX_BYTES), api, request)
        content_type = "text/event-stream" if request.stream else "application/json"
        return ScriptedAnswer(200, {"content-type": content_type}, [body], patience)

    async def close(self) -> None:
        """Hold nothing, so there is nothing to close."""


def _read(call: Call) -> tuple[SurfaceRequest, dict[str, Any]]:
    request = read_call(call)
    return request, canonical(request, request.model)


async def _perform(asked: Asked, rule: Rule, patience: Patience, *, is_large: bool) -> Answer:
    pace, fault = rule.pace or Pace(), rule.error
    if fault is not None and (rule.at == "connect" or fault.refuse_connect):
        await _fail_to_connect(fault, patience)
    if pace.first_byte_ms:
        await patience.wait(pace.first_byte_ms, "headers")
    if fault is not None and (rule.at == "headers" or (rule.at is None and _strikes_in_head(fault))):
        await _fail_in_head(fault, patience)
        if fault.status is not None:
            headers = {} if fault.retry_after_ms is None else {"retry-after-ms": str(fault.retry_after_ms)}
            return _error_answer(fault.status, fault.code, "The script says so.", patience, headers)
    if fault is not None and fault.wrong_content_type:
        return ScriptedAnswer(200, {"content-type": "text/html"}, [_HTML], patience)
    content_type = "text/event-stream" if asked.view.stream else _content_type(asked)
    steps = _stream(asked, rule, pace) if asked.view.stream else _unary(asked, rule, pace)
    if is_large:  # an echo is as long as what it answers
        steps = iter(await asyncio.to_thread(list, steps))
    return ScriptedAnswer(200, {"content-type": content_type}, steps, patience)


def _strikes_in_head(fault: Fault) -> bool:
    """Return whether a fault belongs before the body when the rule does not say where."""
    return fault.status is not None or fault.reset or fault.hang


async def _fail_to_connect(fault: Fault, patience: Patience) -> None:
    if fault.hang:
        await patience.wait(None, "connect")
    raise TransportFailed("network_unavailable", "connect", "the script refuses the connection")


async def _fail_in_head(fault: Fault, patience: Patience) -> None:
    if fault.hang:
        await patience.wait(None, "headers")
    for name, failure_class in _CLASSES_IN_HEAD.items():
        if getattr(fault, name):
            raise TransportFailed(failure_class, "headers", "the script fails here")


def _error_body(status: int, code: str, message: str) -> bytes:
    error = {"message": message, "type": openai_error_type(code, status), "param": None, "code": code or None}
    return msgspec.json.encode({"error": error})


def _error_answer(
    status: int, code: str, message: str, patience: Patience, headers: dict[str, str] | None = None
) -> Answer:
    head = {"content-type": "application/json", **(headers or {})}
    return ScriptedAnswer(status, head, [_error_body(status, code, message)], patience)


def _unary(asked: Asked, rule: Rule, pace: Pace) -> Iterator[Step]:
    """Yield a whole answer in two halves, between which faults of the body strike."""
    fault = rule.error
    if fault is not None and fault.status is not None:
        yield _error_body(fault.status, fault.code, "The script says so.")
        return
    body = _whole_body(asked, rule.reply or Reply())
    half = len(body) // 2
    yield body[:half]
    if fault is not None:
        yield from _fail_in_body(fault, UPSTREAM_BODY_MAX_BYTES)
        return
    if pace.latency_ms:
        yield Wait(pace.latency_ms)
    yield body[half:]


def _content_type(asked: Asked) -> str:
    recording = asked.view.recording
    return CONTENT_TYPES.get(recording.response_format if recording else "", "application/json")


def _whole_body(asked: Asked, reply: Reply) -> bytes:
    if asked.view.recording is not None:
        transcript, usage = compose_transcript(asked, reply)
        return write_transcript(transcript, asked.view.recording.response_format, usage)
    if asked.view.surface == "embeddings":
        return compose_embeddings(asked, reply)
    return chat_completion(compose_chat(asked, reply))


def _stream(asked: Asked, rule: Rule, pace: Pace) -> Iterator[Step]:
    """Yield the events of a stream, cut and paced as the rule says, up to where its fault strikes."""
    fault = rule.error
    content_count = None if fault is None else _content_before(fault, rule)
    events = _events(asked, rule.reply or Reply(), pace.chunk, content_count)
    yield from _paced(events, pace.chunk)
    if fault is not None and fault.status is not None:
        yield encode_event(_error_body(fault.status, fault.code, "The script says so."))
    elif fault is not None:
        if fault.malformed_json:
            yield encode_event(b'{"choices":[{"delta":')
        yield from _fail_in_body(fault, SSE_LINE_MAX_BYTES)


def _events(asked: Asked, reply: Reply, chunk: Chunk | None, content_count: int | None) -> list[bytes]:
    """Return the events of a stream: all, or those up to so many pieces of content."""
    if asked.view.recording is not None:
        return transcript_events(asked, reply, chunk)[:content_count]
    answer = compose_chat(asked, reply)
    pieces = cut_text(answer.text, chunk)
    events = list(chat_events(answer, pieces=pieces, include_usage=asked.view.wants_usage))
    # Each choice has its own role event and its own event for each piece of content.
    return events if content_count is None else events[: answer.choices_count * (1 + content_count)]


def _content_before(fault: Fault, rule: Rule) -> int:
    """Return how many pieces of content come before a fault of the body."""
    if isinstance(rule.at, AfterChunks):
        return rule.at.after_chunks
    return 1 if rule.at is None and fault.truncate else 0


def _paced(events: list[bytes], chunk: Chunk | None) -> Iterator[Step]:
    """Yield events as they leave the socket, with the pauses between them."""
    interval_ms = chunk.interval_ms if chunk is not None else 0
    for index, block in enumerate(_blocks(events, chunk)):
        if index and interval_ms:
            yield Wait(interval_ms)
        yield block


def _blocks(events: list[bytes], chunk: Chunk | None) -> Iterable[bytes]:
    if chunk is not None and chunk.by == "byte":
        whole = b"".join(events)
        return [whole[start : start + chunk.size] for start in range(0, len(whole), chunk.size)]
    if chunk is not None and chunk.by == "event":
        return [b"".join(events[start : start + chunk.size]) for start in range(0, len(events), chunk.size)]
    return events


def _fail_in_body(fault: Fault, bound_bytes: int) -> Iterator[Step]:
    """Yield how a body fails; a body that only stops says nothing more."""
    if fault.reset:
        yield Break()
    elif fault.hang:
        yield Wait(None)
    elif fault.oversize:
        yield from (_FILLER for _ in range(bound_bytes // len(_FILLER) + 1))
