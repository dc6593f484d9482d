"""Recorded exchanges: what makes two requests the same, one line for each exchange, and its answer bit for bit.

A request is the same whatever dialect, order or spacing it is written in, whether it is streamed, and whoever sends
it; what changes an answer (model, messages, tools, choice, sampling, format) makes it another. A file of lines is
all that a replay needs.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from palyra.redaction import redact_text
from palyra.wire.dialects import DIALECT_ROWS, neutral_of
from palyra.wire.neutral import Call, NeutralRequest, Result
from palyra.wire.request import SurfaceRequest

FORMAT = 1
#: Of a neutral request: what says who asks and how, and not for what.
_ASIDE = ("dialect", "stream", "marks", "namespaces", "wants_cargo")
_PARAMS_ASIDE = (
    "user",
    "metadata",
    "stream_options",
    "store",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
)
_FIELDS_ASIDE = ("file", "model", "stream")
#: Why no answer came, and in which phase of the exchange that showed.
SILENCES = {
    **dict.fromkeys(("dns_failed", "tls_failed", "network_unavailable", "timeout_connect"), "connect"),
    **dict.fromkeys(("timeout_first_byte", "timeout_total"), "headers"),
}
#: Of an answer's headers those that mean something to whoever reads it.
KEPT_HEADERS = ("content-type", "retry-after", "retry-after-ms", "x-request-id", "request-id", "x-should-retry")
_DIFFERENCES_MAX_COUNT = 8


class Chunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Bytes as they arrived, and when: microseconds since the request left."""

    after_us: int
    text: str = ""
    base64: str = ""

    @property
    def data(self) -> bytes:
        return base64.b64decode(self.base64) if self.base64 else self.text.encode()


def chunk_of(after_us: int, data: bytes) -> Chunk:
    """Return a piece of an answer in the form that it can be read in."""
    try:
        return Chunk(after_us=after_us, text=data.decode())
    except UnicodeDecodeError:
        return Chunk(after_us=after_us, base64=base64.b64encode(data).decode())


class Recorded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One exchange: a line of the file."""

    format: int = FORMAT
    run_id: str
    #: Digest of the request (`request_key`).
    key: str
    surface: str
    #: What the bytes are: a dialect, or the surface's own.
    api: str
    stream: bool = False
    #: By its public name, and as the answer may name it.
    model: str
    upstream_model: str = ""
    #: `canonical` with secrets taken out; None where it was too long to be kept.
    request: Any = None
    #: 0 where no answer came at all; `outcome` says why.
    status: int = 200
    headers: dict[str, str] = {}
    chunks: list[Chunk] = []
    outcome: str = "completed"
    usage: dict[str, int] = {}

    @property
    def body(self) -> bytes:
        return b"".join(chunk.data for chunk in self.chunks)


_RECORDED = msgspec.json.Decoder(Recorded)


class BadFixture(ValueError):
    """A line of the file is none."""


def write_line(recorded: Recorded) -> bytes:
    """Return an exchange as a line."""
    return msgspec.json.encode(recorded) + b"\n"


def read_lines(text: bytes) -> list[Recorded]:
    """Return the exchanges of a file, in order; raises `BadFixture` with the number of the line at fault."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            recorded = _RECORDED.decode(line)
            for chunk in recorded.chunks:
                base64.b64decode(chunk.base64, validate=True)
            if not recorded.status and recorded.outcome not in SILENCES:
                raise ValueError(f"nothing came, and {recorded.outcome} does not say why")
        except (msgspec.DecodeError, ValueError, RecursionError) as exc:
            raise BadFixture(f"line {number} is no recorded exchange: {exc}") from exc
        if recorded.format > FORMAT:
            raise BadFixture(f"line {number} was written by a newer release (format {recorded.format})")
        found.append(recorded)
    return found


# -- what makes a request the same


def canonical(request: SurfaceRequest, model: str) -> dict[str, Any]:
    """Return what a request asks for, as plain data; `model` is the model's public name."""
    if request.recording is not None:
        return {"surface": "audio_transcription", "model": model, **_of_form(request)}
    if request.surface == "embeddings":
        given = json.loads(request.body)
        told = {name: given[name] for name in ("input", "dimensions") if given.get(name) is not None}
        return {"surface": "embeddings", "model": model, **told}
    neutral = neutral_of(request)
    plain = _plain(neutral)
    for name in _ASIDE:
        plain.pop(name, None)
    params = {name: value for name, value in plain.pop("params", {}).items() if name not in _PARAMS_ASIDE}
    if params:
        plain["params"] = params
    _number_calls(plain, neutral)
    return {**plain, "surface": "text", "model": model}


def _of_form(request: SurfaceRequest) -> dict[str, Any]:
    assert request.recording is not None
    form = request.recording.form
    (file,) = form.named("file")
    told: dict[str, Any] = {"file": hashlib.sha256(form.content(file)).hexdigest()}
    for part in form.parts:
        if part.name not in _FIELDS_ASIDE:
            told.setdefault("fields", []).append([part.name, bytes(form.content(part)).decode("utf-8", "replace")])
    return told


def _plain(value: Any) -> Any:
    """Return a value of the neutral form as plain data; what is not set is left out."""
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, msgspec.Struct):
        plain = {} if isinstance(value, NeutralRequest) else {"kind": type(value).__name__.lower()}
        for name, default in _fields(type(value)):
            held = getattr(value, name)
            if held != default:
                plain[name] = _plain(held)
        return plain
    if isinstance(value, bytes):
        return json.loads(value)
    if isinstance(value, dict):
        return {name: _plain(held) for name, held in value.items()}
    return [_plain(held) for held in value] if isinstance(value, (list, tuple)) else value


@functools.cache
def _fields(kind: type[msgspec.Struct]) -> tuple[tuple[str, Any], ...]:
    """Return the fields of a Struct and what each is where it is not set."""
    return tuple((field.name, field.default) for field in msgspec.structs.fields(kind))


def _number_calls(plain: dict[str, Any], neutral: NeutralRequest) -> None:
    """Put numbers in the place of the ids of calls, which are others every time."""
    numbers: dict[str, int] = {}
    for turn, message in zip(plain.get("messages", ()), neutral.messages, strict=True):
        for told, part in zip(turn["parts"], message.parts, strict=True):
            if isinstance(part, (Call, Result)):
                told["call_id"] = numbers.setdefault(part.call_id, len(numbers))


def request_key(plain: Mapping[str, Any]) -> str:
    """Return the digest of what a request asks for: SHA-256 of its canonical JSON, hex."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def redacted(value: Any) -> Any:
    """Return plain data whose texts hold nothing of a secret's shape."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {name: redacted(held) for name, held in value.items()}
    return [redacted(held) for held in value] if isinstance(value, list) else value


# -- what comes nearest


class Nearest(NamedTuple):
    """The recorded request that differs least, and where."""

    run_id: str
    fields: list[str]


def nearest(plain: Mapping[str, Any], known: Sequence[Recorded]) -> Nearest | None:
    """Return what comes nearest to a request that was not recorded; None where nothing is to be compared."""
    asked = dict(_leaves(redacted(dict(plain))))
    best: Nearest | None = None
    for one in known:
        if isinstance(one.request, dict):
            told = dict(_leaves(one.request))
            fields = [path for path in {**told, **asked} if told.get(path) != asked.get(path)]
            if best is None or len(fields) < len(best.fields):
                best = Nearest(one.run_id, fields)
    return None if best is None else best._replace(fields=best.fields[:_DIFFERENCES_MAX_COUNT])


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, held in value.items():
            yield from _leaves(held, f"{path}.{name}".removeprefix("."))
    elif isinstance(value, list):
        for index, held in enumerate(value):
            yield from _leaves(held, f"{path}[{index}]")
    else:
        yield path, value


# -- the answer


def answered_as(recorded: Recorded, model: str) -> list[Chunk]:
    """Return the chunks of an answer with the asked model's name where the one sent upstream stands.

    Where a name is longer or shorter the bounds of its chunk move with it; a bound inside a name goes to its end.
    """
    sent = recorded.upstream_model
    if not sent or sent == model or recorded.status != 200:
        return recorded.chunks
    name = re.compile(rb'("model"\s*:\s*)' + re.escape(json.dumps(sent, ensure_ascii=False).encode()))
    body, put = recorded.body, json.dumps(model, ensure_ascii=False).encode()
    found = [(match.end(1), match.end()) for match in name.finditer(body)]
    if not found:
        return recorded.chunks
    chunks, start, end, edits = [], 0, 0, iter(found)
    edit = next(edits, None)
    for chunk in recorded.chunks:
        end += len(chunk.data)
        piece = b""
        while edit is not None and edit[0] < end:
            piece += body[start : edit[0]] + put
            start, edit = edit[1], next(edits, None)
        piece += body[start:end]
        start = max(start, end)
        chunks.append(chunk_of(chunk.after_us, piece))
    return chunks


def is_text(api: str) -> bool:
    """Return whether an answer is in one of the dialects, which lead to each other."""
    return api in DIALECT_ROWS
