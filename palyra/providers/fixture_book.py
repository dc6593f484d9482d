"""Which recorded exchange answers a request, and how it is played: bit for bit, bounds and pace included."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from palyra.providers.port import Call
from palyra.providers.script_play import Step, Wait
from palyra.wire.answer_reader import WholeReader, fold
from palyra.wire.answer_writer import Reply, written
from palyra.wire.dialects import DIALECT_ROWS, neutral_of
from palyra.wire.fixtures import Chunk, Recorded, answered_as, is_text, nearest, read_lines, request_key
from palyra.wire.neutral_answer import Event, events_of
from palyra.wire.read_surfaces import decode_messages, decode_responses
from palyra.wire.request import SurfaceRequest, decode_chat, decode_embeddings
from palyra.wire.sse import SseSplitter, blocks_of, event_data, event_name
from palyra.wire.target import Target
from palyra.wire.transcription import decode_transcription
from palyra.wire.transcription_answer import transcript_stream

_US_PER_MS = 1_000
#: Answers name a time, but none may be read: 2026-01-01.
_CREATED_S = 1_767_225_600


class FixtureBook:
    """The exchanges of a file by their request, and how often each was asked for since the start."""

    def __init__(self, recorded: list[Recorded]) -> None:
        self._all = recorded
        self._by_key: dict[str, list[Recorded]] = {}
        for one in recorded:
            self._by_key.setdefault(one.key, []).append(one)
        self._asked: dict[str, int] = {}

    @classmethod
    def read(cls, path: str) -> FixtureBook:
        """Read a file; raises `OSError` or `BadFixture`."""
        return cls(read_lines(Path(path).read_bytes()))

    def take(self, plain: Mapping[str, Any]) -> Recorded | None:
        """Return the next exchange of a request; the last one answers for ever."""
        key = request_key(plain)
        found = self._by_key.get(key)
        if found is None:
            return None
        count = self._asked[key] = self._asked.get(key, 0) + 1
        return found[min(count, len(found)) - 1]

    def missing(self, plain: Mapping[str, Any]) -> str:
        """Return what is said of a request that was not recorded."""
        near = nearest(plain, self._all)
        if near is None:
            return "this request was not recorded, nor any like it"
        fields = ", ".join(near.fields) or "nothing that was kept of it"
        return f"this request was not recorded; nearest is run {near.run_id}, which differs in {fields}"


def is_broken(recorded: Recorded) -> bool:
    """Return whether an answer began well and did not end so; nothing whole can be made of it."""
    return recorded.status == 200 and recorded.outcome != "completed"


def is_as_asked(recorded: Recorded, *, api: str, stream: bool) -> bool:
    """Return whether an answer can leave as it came, and need not be made anew."""
    return recorded.api == api and recorded.stream == stream


def content_type_of(recorded: Recorded, *, stream: bool) -> str:
    """Return what an answer is sent as: as it was, unless it is made anew."""
    if recorded.stream == stream or recorded.status != 200:
        return recorded.headers.get("content-type", "application/json")
    return "text/event-stream" if stream else "application/json"


def steps_of(
    recorded: Recorded, *, api: str, model: str, stream: bool, timing: Literal["instant", "recorded"]
) -> Iterator[Step]:
    """Yield an answer as it left the socket; in another dialect, or where it was not a stream, made anew of it."""
    chunks = answered_as(recorded, model)
    pieces = [chunk.data for chunk in chunks]
    if recorded.status == 200 and not is_as_asked(recorded, api=api, stream=stream):
        if recorded.stream and stream and is_text(recorded.api):
            pieces = _made_anew(recorded, pieces, api=api, model=model)
        else:
            pieces = [_cut_or_folded(recorded, b"".join(pieces), api=api, model=model, stream=stream)]
            chunks = [Chunk(after_us=recorded.chunks[-1].after_us if recorded.chunks else 0)]
    yield from _paced(chunks, pieces, timing)


def _paced(chunks: list[Chunk], pieces: list[bytes], timing: str) -> Iterator[Step]:
    passed_ms = 0
    for chunk, piece in zip(chunks, pieces, strict=True):
        at_ms = chunk.after_us // _US_PER_MS
        if timing == "recorded" and at_ms > passed_ms:
            yield Wait(at_ms - passed_ms)
            passed_ms = at_ms
        if piece:
            yield piece


def _reader_of(recorded: Recorded) -> WholeReader:
    """Return what reads an answer; ids that its provider left out become those that the run's client was given."""
    return DIALECT_ROWS[recorded.api].reader(vendor="", seed=f"{recorded.run_id}:1")


def _reply_of(recorded: Recorded, model: str) -> Reply:
    return Reply(run_id=recorded.run_id, created_s=_CREATED_S, model=model, wants_usage=True)


def _made_anew(recorded: Recorded, pieces: list[bytes], *, api: str, model: str) -> list[bytes]:
    """Return a stream in another dialect: what came of each piece as it arrived."""
    splitter, reader = SseSplitter(), _reader_of(recorded)
    writer = DIALECT_ROWS[api].writer(_reply_of(recorded, model))

    def written_of(events: list[Event]) -> bytes:
        return b"".join(map(writer.write, events))

    made = [written_of(_events_in(reader, splitter.feed(piece))) for piece in pieces]
    end = written_of(reader.finish()) + writer.end()
    return [*made[:-1], made[-1] + end] if made else made


def _events_in(reader: WholeReader, blocks: Iterable[bytes]) -> list[Event]:
    found = ((event_name(block), event_data(block)) for block in blocks)
    return [event for name, data in found if data for event in reader.read(name, data)]


def _cut_or_folded(recorded: Recorded, body: bytes, *, api: str, model: str, stream: bool) -> bytes:
    """Return a stream as the whole answer that it amounts to, or a whole answer as a stream."""
    if not is_text(recorded.api):
        return transcript_stream(body, "json") if stream else body
    reader, row, reply = _reader_of(recorded), DIALECT_ROWS[api], _reply_of(recorded, model)
    if recorded.stream:
        events = [*_events_in(reader, blocks_of(body)), *reader.finish()]
    else:
        events = reader.read_whole(body)
    answer = fold(events)
    return written(row.writer(reply), events_of(answer)) if stream else row.write_reply(answer, reply)


# -- requests in every dialect

_READERS: Mapping[str, Callable[[bytes], SurfaceRequest]] = {
    "/chat/completions": decode_chat,
    "/messages": decode_messages,
    "/responses": decode_responses,
    "/embeddings": decode_embeddings,
}
#: Paths of the dialects that rules do not know.
TRANSLATED = ("/messages", "/responses")


def read_call(call: Call) -> SurfaceRequest:
    """Read a call in whatever dialect its path means; raises `WireError`."""
    reader = _READERS.get(call.path)
    if reader is None:
        headers = {name.lower(): value for name, value in call.headers.items()}
        return decode_transcription(headers.get("content-type", ""), call.body)
    return reader(call.body)


def as_chat(request: SurfaceRequest, call: Call) -> Call:
    """Return a call of another dialect as the rules read it: a chat request for a whole answer."""
    target = Target(dialect="chat", model=request.model, output_cap_tokens=request.output_max_tokens)
    neutral = msgspec.structs.replace(neutral_of(request), stream=False)
    body = DIALECT_ROWS["chat"].write_call(neutral, target).body
    return msgspec.structs.replace(call, path=DIALECT_ROWS["chat"].path, body=body, stream=False)


def translated_reply(body: bytes, api: str, request: SurfaceRequest) -> bytes:
    """Return a whole chat answer as the answer to a request of another dialect."""
    answer, row = fold(DIALECT_ROWS["chat"].reader(vendor="", seed="").read_whole(body)), DIALECT_ROWS[api]
    reply = Reply(run_id=answer.response_id[-24:], created_s=_CREATED_S, model=request.model)
    return written(row.writer(reply), events_of(answer)) if request.stream else row.write_reply(answer, reply)
