"""Scripted answers of kind `deterministic`: what a rule can say, and how plain data becomes one.

Pure data. Configuration checks rules with `parse_rule`, the provider obeys them; neither knows a part the other
lacks. What a rule matches and answers is decided by the provider, never here.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType

from palyra.usage import TokenUsage

REGEX_MAX_CHARS = 1_024
_Duration = Annotated[int, Meta(ge=0, le=3_600_000)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is left out says nothing."""


class Match(_Part, frozen=True, kw_only=True):
    """Which requests a rule answers; everything that is said must hold."""

    #: That the client came in by.
    surface: Literal["chat", "messages", "responses", "embeddings", "audio_transcription"] | None = None
    #: Model as it is named upstream.
    model: str | None = None
    #: Part of the last user text.
    contains: str | None = None
    #: Found in the first 64 KiB of the last user text.
    regex: str | None = None
    has_tools: bool | None = None
    has_image: bool | None = None
    has_tool_result: bool | None = None
    session: str | None = None
    #: Only the nth request that matches since the start, from 1.
    nth: Annotated[int, Meta(ge=1)] | None = None


class ToolCall(_Part, frozen=True, kw_only=True):
    """A tool call of the answer."""

    name: str
    #: None: made from the rule's place, the same every time.
    id: str | None = None
    #: A table becomes compact JSON; a text is sent as it stands, well-formed or not.
    arguments: dict[str, Any] | str = {}


class Passage(_Part, frozen=True, kw_only=True):
    """A passage of a transcript."""

    start_ms: Annotated[int, Meta(ge=0)]
    end_ms: Annotated[int, Meta(ge=0)]
    text: str
    speaker: str = ""


class TranscriptReply(_Part, frozen=True, kw_only=True):
    """What a recording is said to hold."""

    text: str
    language: str = "english"
    segments: list[Passage] = []
    #: None: as long as the recording is.
    duration_ms: Annotated[int, Meta(ge=0)] | None = None


class Reply(_Part, frozen=True, kw_only=True):
    """The answer. At most one of `text`, `json` and `echo` is its text."""

    text: str | None = None
    #: Value whose compact JSON is the text.
    json: Any | UnsetType = UNSET
    #: The last user text is the answer's text.
    echo: bool = False
    reasoning: str = ""
    refusal: str = ""
    tool_calls: list[ToolCall] = []
    #: None: follows from what is answered.
    stop_reason: Literal["end_turn", "stop_sequence", "max_tokens", "tool_calls", "content_filter"] | None = None
    #: Fields of `TokenUsage`; None: estimated.
    usage: dict[str, Annotated[int, Meta(ge=0)]] | None = None
    embedding: list[float] | None = None
    #: Of a transcription; without one the text is all that is said.
    transcript: TranscriptReply | None = None


class Chunk(_Part, frozen=True, kw_only=True):
    """How a streamed text is cut; the pieces joined are the text exactly."""

    by: Literal["char", "word", "byte", "event"] = "word"
    size: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    #: Between two pieces.
    interval_ms: _Duration = 0


class Pace(_Part, frozen=True, kw_only=True):
    """How long things take; the clock is the provider's."""

    first_byte_ms: _Duration = 0
    #: Before the end of a unary answer.
    latency_ms: _Duration = 0
    chunk: Chunk | None = None


class Fault(_Part, frozen=True, kw_only=True):
    """How a call fails: a status, or exactly one of the accidents."""

    status: Annotated[int, Meta(ge=400, le=599)] | None = None
    #: `error.code` of the body that goes with the status.
    code: str = ""
    retry_after_ms: _Duration | None = None
    refuse_connect: bool = False
    reset: bool = False
    hang: bool = False
    malformed_json: bool = False
    truncate: bool = False
    wrong_content_type: bool = False
    oversize: bool = False


class AfterChunks(_Part, frozen=True, kw_only=True):
    """A point in a stream: after this many pieces of content."""

    after_chunks: Annotated[int, Meta(ge=0)]


class Rule(_Part, frozen=True, kw_only=True):
    """One rule: the first one that matches and has uses left answers."""

    match: Match = Match()
    reply: Reply | None = None
    pace: Pace | None = None
    error: Fault | None = None
    #: Where the error strikes; None: where it strikes by nature.
    at: Literal["connect", "headers", "preamble"] | AfterChunks | None = None
    #: Uses of the rule; None: without end.
    times: Annotated[int, Meta(ge=1)] | None = None


class ScriptProblem(NamedTuple):
    """What is wrong at one place of a rule."""

    #: Keys and indexes from the rule inwards.
    path: tuple[str | int, ...]
    message: str


class ScriptError(ValueError):
    """The rule cannot be obeyed."""

    def __init__(self, problems: list[ScriptProblem]) -> None:
        super().__init__("; ".join(f"{_dotted(problem.path)}: {problem.message}" for problem in problems))
        #: At most one for each key of a part.
        self.problems = problems


def parse_rule(raw: dict[str, Any]) -> Rule:
    """Return the rule that plain data (a TOML table) describes.

    Raises `ScriptError` with everything that has the wrong shape, or, where all shapes are right, with everything
    that contradicts itself.
    """
    problems: list[ScriptProblem] = []
    rest = {key: dict(part) if isinstance(part, dict) else part for key, part in raw.items()}
    while True:
        try:
            rule = msgspec.convert(rest, Rule)
            break
        except msgspec.ValidationError as exc:
            # Only the first fault is told: note it, take it out, look again.
            problem = _read_error(str(exc))
            problems.append(problem)
            _remove(rest, problem.path)
    problems = problems or _contradictions(rule)
    if problems:
        raise ScriptError(problems)
    return rule


_ERROR = re.compile(r"(?P<message>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+)\]")


def _read_error(text: str) -> ScriptProblem:
    """Turn msgspec's sentence into a place and a message; `[...]`, a key that it does not tell, ends the place."""
    error = _ERROR.fullmatch(text)
    assert error is not None, "every part of the pattern may be empty"
    known = (error["path"] or "").partition("[...]")[0]
    path: tuple[str | int, ...] = tuple(step["name"] or int(step["index"]) for step in _STEP.finditer(known))
    unknown = _UNKNOWN.fullmatch(error["message"])
    if unknown is not None:
        return ScriptProblem((*path, unknown["name"]), "is no part of a rule")
    message = error["message"].replace(" | null", "")
    return ScriptProblem(path, message[0].lower() + message[1:])


def _remove(rest: dict[str, Any], path: tuple[str | int, ...]) -> None:
    """Take the faulty part out, or, where it is a table, only its faulty key."""
    name = str(path[0])
    if len(path) > 1 and isinstance(rest[name], dict):
        del rest[name][path[1]]
    else:
        del rest[name]


def _contradictions(rule: Rule) -> list[ScriptProblem]:
    """Return what no single field shows."""
    problems = []
    if rule.match.regex is not None:
        problems += _check_regex(rule.match.regex)
    if rule.reply is not None:
        problems += _check_reply(rule.reply)
    if rule.error is not None:
        problems += _check_fault(rule.error)
    elif rule.at is not None:
        problems.append(ScriptProblem(("at",), "means nothing without error"))
    if rule.reply is None and rule.pace is None and rule.error is None:
        problems.append(ScriptProblem((), "needs a reply, an error or a pace"))
    return problems


def _check_regex(pattern: str) -> list[ScriptProblem]:
    place = ("match", "regex")
    if len(pattern) > REGEX_MAX_CHARS:
        return [ScriptProblem(place, f"is longer than {REGEX_MAX_CHARS} characters")]
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as exc:
        return [ScriptProblem(place, f"is no regular expression: {exc}")]
    return []


def _check_reply(reply: Reply) -> list[ScriptProblem]:
    problems = []
    if (reply.text is not None) + (reply.json is not UNSET) + reply.echo > 1:
        problems.append(ScriptProblem(("reply",), "only one of text, json and echo can be the text"))
    if not _is_json(reply.json):
        problems.append(ScriptProblem(("reply", "json"), "holds something that JSON has not"))
    problems += [
        ScriptProblem(("reply", "tool_calls", index, "arguments"), "holds something that JSON has not")
        for index, call in enumerate(reply.tool_calls)
        if not _is_json(call.arguments)
    ]
    if reply.embedding is not None and not (reply.embedding and _is_json(reply.embedding)):
        problems.append(ScriptProblem(("reply", "embedding"), "must hold numbers"))
    problems += [
        ScriptProblem(("reply", "usage", name), "is no field of usage")
        for name in reply.usage or {}
        if name not in TokenUsage.__struct_fields__
    ]
    return problems


_ACCIDENTS = tuple(name for name in Fault.__struct_fields__ if name not in ("status", "code", "retry_after_ms"))


def _check_fault(fault: Fault) -> list[ScriptProblem]:
    said = (fault.status is not None) + sum(getattr(fault, name) for name in _ACCIDENTS)
    if said != 1:
        return [ScriptProblem(("error",), f"must be a status or exactly one of {', '.join(_ACCIDENTS)}")]
    if fault.status is None and (fault.code or fault.retry_after_ms is not None):
        return [ScriptProblem(("error",), "code and retry_after_ms go with a status")]
    return []


def _is_json(value: Any) -> bool:
    """Return whether plain data can stand in JSON; TOML has dates and infinities, JSON has not."""
    if isinstance(value, dict):
        return all(_is_json(item) for item in value.values())
    if isinstance(value, list):
        return all(_is_json(item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is UNSET or value is None or isinstance(value, (str, int))


def _dotted(path: tuple[str | int, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "rule"
