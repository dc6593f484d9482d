"""An answer in no dialect, whole or as it arrives: the facts that every encoder writes from.

A whole answer is the fold of its events, and its events are the answer cut up again; both ways stand here once, so
that a stream and the unary answer to the same request cannot differ in meaning (gateway specification 12.4).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from palyra.usage import TokenUsage
from palyra.wire.neutral import Call, Foreign, Part, Reasoning, Refused, Text

#: end_turn stop_sequence max_tokens context_window tool_calls content_filter refusal pause unknown
Stop = str
PartKind = Literal["text", "refusal", "reasoning", "call", "foreign"]


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """The answer has begun."""

    response_id: str = ""
    model: str = ""


class PartStart(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of content begins; indexes are those of the answer's parts."""

    index: int
    kind: PartKind
    call_id: str = ""
    name: str = ""
    is_freeform: bool = False


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """More of a piece: of its text, of what is visible of reasoning, of a call's arguments."""

    index: int
    text: str


class PartEnd(msgspec.Struct, frozen=True, kw_only=True):
    """A piece is whole. Reasoning brings its opaque cargo here, content of one dialect its bytes."""

    index: int
    vendor: str = ""
    raw: bytes = b""
    label: str = ""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What has been consumed so far; the last one holds."""

    usage: TokenUsage
    #: Codes of what was odd about the provider's counts.
    anomalies: tuple[str, ...] = ()
    #: What the provider says it cost.
    cost_nanousd: int | None = None
    #: The service tier that it was served by, "" where the provider says nothing.
    service_tier: str = ""


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """The answer is complete."""

    stop: Stop
    raw_stop: str = ""
    #: The sequence that ended it.
    stop_text: str = ""
    #: What stood in it that no other dialect can say, sorted: `citations`, `logprobs`.
    dropped: tuple[str, ...] = ()


Event = Start | PartStart | Delta | PartEnd | Usage | Finish


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer."""

    response_id: str = ""
    model: str = ""
    parts: tuple[Part, ...] = ()
    stop: Stop = "unknown"
    raw_stop: str = ""
    stop_text: str = ""
    usage: Usage | None = None
    dropped: tuple[str, ...] = ()


def derive_stop(stop: Stop, *, has_call: bool, has_refusal: bool) -> Stop:
    """Return how an answer ended by what was emitted: a call that was made beats what the provider calls it."""
    if stop not in ("end_turn", "tool_calls", "unknown"):
        return stop
    if has_call:
        return "tool_calls"
    if has_refusal:
        return "refusal"
    return "end_turn" if stop == "tool_calls" else stop


class _Open(msgspec.Struct):
    start: PartStart
    pieces: list[str]


class Fold:
    """Puts an answer together from its events; what is asked of it holds at any time."""

    def __init__(self) -> None:
        self.start = Start()
        self.finish: Finish | None = None
        self._open: dict[int, _Open] = {}
        self._parts: dict[int, Part] = {}
        self._usage: Usage | None = None

    def add(self, event: Event) -> None:
        match event:
            case Delta(index=index, text=text):
                self._open[index].pieces.append(text)
            case PartStart(index=index):
                self._open[index] = _Open(start=event, pieces=[])
            case PartEnd(index=index):
                opened = self._open.pop(index)
                self._parts[index] = _part(opened.start, "".join(opened.pieces), event)
            case Start():
                self.start = event
            case Usage():
                self._usage = event
            case _:
                self.finish = event

    @property
    def open_parts(self) -> list[PartStart]:
        """What has begun and not ended, in order."""
        return [self._open[index].start for index in sorted(self._open)]

    def answer(self) -> Answer:
        finish = self.finish or Finish(stop="unknown")
        return Answer(
            response_id=self.start.response_id,
            model=self.start.model,
            parts=tuple(self._parts[index] for index in sorted(self._parts)),
            stop=finish.stop,
            raw_stop=finish.raw_stop,
            stop_text=finish.stop_text,
            usage=self._usage,
            dropped=finish.dropped,
        )


def _part(start: PartStart, text: str, end: PartEnd) -> Part:
    match start.kind:
        case "text":
            return Text(text=text)
        case "refusal":
            return Refused(text=text)
        case "reasoning":
            return Reasoning(text=text, vendor=end.vendor, raw=end.raw)
        case "call":
            return Call(call_id=start.call_id, name=start.name, arguments=text, is_freeform=start.is_freeform)
        case _:
            return Foreign(label=end.label, raw=end.raw)


def events_of(answer: Answer) -> Iterator[Event]:
    """Yield a whole answer as the events that fold to it."""
    yield Start(response_id=answer.response_id, model=answer.model)
    for index, part in enumerate(answer.parts):
        yield from _events_of_part(index, part)
    if answer.usage is not None:
        yield answer.usage
    yield Finish(stop=answer.stop, raw_stop=answer.raw_stop, stop_text=answer.stop_text, dropped=answer.dropped)


def _events_of_part(index: int, part: Part) -> Iterator[Event]:
    end = PartEnd(index=index)
    match part:
        case Text(text=text):
            yield PartStart(index=index, kind="text")
        case Refused(text=text):
            yield PartStart(index=index, kind="refusal")
        case Reasoning(text=text):
            yield PartStart(index=index, kind="reasoning")
            end = PartEnd(index=index, vendor=part.vendor, raw=part.raw)
        case Call(arguments=text):
            yield PartStart(
                index=index, kind="call", call_id=part.call_id, name=part.name, is_freeform=part.is_freeform
            )
        case Foreign(label=label, raw=raw):
            text = ""
            yield PartStart(index=index, kind="foreign")
            end = PartEnd(index=index, label=label, raw=raw)
        case _:
            raise TypeError(f"no model says {type(part).__name__}")
    if text:
        yield Delta(index=index, text=text)
    yield end
