"""Reads answers in OpenAI's older dialect into the neutral form: whole ones and streams, by the same steps.

Reading is tolerant, because many servers speak this dialect each in its own way: content as text, parts or null,
calls without index or id or with their arguments as an object, usage on any chunk, an empty finish reason, no
`[DONE]`. Of several choices the first is read; nobody who needs more is translated.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from palyra.usage import TokenUsage
from palyra.wire.answer_reader import fold
from palyra.wire.cargo import OPAQUE, made_id, unpack
from palyra.wire.chat_request import arguments_text
from palyra.wire.decoding import NULL, read_or_none
from palyra.wire.errors import Malformed
from palyra.wire.neutral_answer import Answer, Delta, Event, Finish, PartEnd, PartStart, Start, Usage
from palyra.wire.openai_chat_reply import GroqExtra, neutral_stop
from palyra.wire.upstream_errors import UpstreamErrorInBody, holds_error, read_upstream_error
from palyra.wire.usage import decode_usage, merge_usage, read_cost_nanousd, read_openai_usage


class _Called(msgspec.Struct):
    name: Any = None
    arguments: Any = None
    input: Any = None


class _Call(msgspec.Struct):
    index: Any = None
    id: Any = None
    function: _Called | None = None
    custom: _Called | None = None


class _Said(msgspec.Struct):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    refusal: Any = None
    tool_calls: list[_Call] | None = None
    function_call: _Called | None = None
    annotations: Any = None


class _Choice(msgspec.Struct):
    index: Any = 0
    message: _Said | None = None
    delta: _Said | None = None
    finish_reason: Any = None
    logprobs: Any = None


class _Reply(msgspec.Struct):
    id: Any = None
    object: Any = None
    model: Any = None
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = NULL
    service_tier: Any = None
    x_groq: GroqExtra | None = None
    error: msgspec.Raw = NULL


_REPLY = msgspec.json.Decoder(_Reply, float_hook=float)
_DONE = b"[DONE]"


class _OpenCall(msgspec.Struct):
    """A call that is being read."""

    part: int
    call_id: str


class ChatReader:
    """Reads one stream, or one whole answer as a stream of a single piece."""

    keeps_text = False

    def __init__(self, *, vendor: str = "", seed: str = "") -> None:
        """`vendor`: whose reasoning this is. `seed`: what ids are made of that the provider left out."""
        self.is_done = False
        self._vendor = vendor
        self._seed = seed
        self._has_started = False
        self._next_part = 0
        #: The text, refusal or reasoning at hand: kind and part.
        self._open: tuple[Literal["text", "refusal", "reasoning"], int] | None = None
        self._reasoning_key = ""
        self._reasoning: list[str] = []
        self._cargo: list[tuple[str, bytes]] = []
        #: By the provider's index, and all of them in order.
        self._by_index: dict[int | str, _OpenCall] = {}
        self._calls: list[_OpenCall] = []
        self._has_refusal = False
        self._dropped: set[str] = set()
        self._usage: dict[str, Any] = {}
        self._service_tier = ""
        #: None until there is a finish reason, which may be empty.
        self._raw_stop: str | None = None
        self._has_ended = False

    def read(self, name: str, data: bytes) -> list[Event]:
        """See `StreamReader.read`."""
        if data == _DONE:
            self.is_done = True
            return self.finish()
        reply = read_or_none(_REPLY, data)
        if reply is None:
            if name == "error":
                raise UpstreamErrorInBody(read_upstream_error(200, data))
            raise Malformed("An event of the provider's stream is not a chat completion chunk.")
        return self._take(reply, data, name)

    def read_whole(self, body: bytes) -> list[Event]:
        """Return the events of a whole answer."""
        reply = read_or_none(_REPLY, body.removeprefix(b"\xef\xbb\xbf"))
        if reply is None:
            raise Malformed("The provider's answer is not a chat completion.")
        events = self._take(reply, body, "")
        if reply.choices is None:
            raise Malformed("The provider's answer has no choices.")
        self._raw_stop = self._raw_stop or ""
        return events + self.finish()

    def finish(self) -> list[Event]:
        """See `StreamReader.finish`."""
        if self._has_ended or (self._raw_stop is None and not self.is_done):
            return []
        self._has_ended = True
        events = self._close_open()
        events += [PartEnd(index=call.part) for call in self._calls]
        raw_stop = self._raw_stop or ""
        stop = neutral_stop(raw_stop, has_call=bool(self._calls), has_refusal=self._has_refusal)
        return [*events, Finish(stop=stop, raw_stop=raw_stop, dropped=tuple(sorted(self._dropped)))]

    def _take(self, reply: _Reply, data: bytes, name: str) -> list[Event]:
        if holds_error(reply.error) or reply.object == "error" or name == "error":
            raise UpstreamErrorInBody(read_upstream_error(200, data))
        events: list[Event] = []
        if not self._has_started and (reply.choices or reply.id):
            self._has_started = True
            events.append(Start(response_id=_text(reply.id), model=_text(reply.model)))
        self._service_tier = _text(reply.service_tier) or self._service_tier
        fields = decode_usage(reply.usage)
        if reply.x_groq is not None:
            fields = merge_usage(decode_usage(reply.x_groq.usage), fields)
        if fields:
            self._usage = merge_usage(self._usage, fields)
            usage, anomalies = read_openai_usage(self._usage, output_seen=self._next_part > 0)
            events.append(
                Usage(
                    usage=usage or TokenUsage(),
                    anomalies=anomalies,
                    cost_nanousd=read_cost_nanousd(self._usage),
                    service_tier=self._service_tier,
                )
            )
        for choice in reply.choices or ():
            if choice.index in (0, None):
                said = choice.delta or choice.message
                if choice.logprobs:
                    self._dropped.add("logprobs")
                events += [] if said is None else self._said(said)
                if choice.finish_reason is not None:
                    self._raw_stop = _text(choice.finish_reason) or self._raw_stop or ""
        return events

    def _said(self, said: _Said) -> list[Event]:
        events: list[Event] = []
        for key in ("reasoning_content", "reasoning"):
            text = getattr(said, key)
            if isinstance(text, str) and text:
                events += self._more("reasoning", text)
                self._reasoning_key = key
                self._reasoning.append(text)
                break
        events += self._details(said.reasoning_details)
        if text := _content(said.content):
            events += self._more("text", text)
        if said.annotations:
            self._dropped.add("citations")
        if isinstance(said.refusal, str) and said.refusal:
            self._has_refusal = True
            events += self._more("refusal", said.refusal)
        for call in said.tool_calls or ():
            events += self._call(call)
        if said.function_call is not None:
            events += self._call(_Call(index="function", function=said.function_call))
        return events

    def _details(self, details: Any) -> list[Event]:
        """Read cargo that another gateway sealed."""
        for detail in details if isinstance(details, list) else ():
            if isinstance(detail, dict) and detail.get("type") == OPAQUE:
                raw = unpack(_text(detail.get("data")))
                if raw is not None:
                    self._cargo.append((_text(detail.get("vendor")), raw))
        if self._cargo and (self._open is None or self._open[0] != "reasoning"):
            return self._begin("reasoning")
        return []

    def _more(self, kind: Literal["text", "refusal", "reasoning"], text: str) -> list[Event]:
        events = [] if self._open is not None and self._open[0] == kind else self._begin(kind)
        assert self._open is not None
        return [*events, Delta(index=self._open[1], text=text)]

    def _begin(self, kind: Literal["text", "refusal", "reasoning"]) -> list[Event]:
        events = self._close_open()
        self._open = (kind, self._next_part)
        self._next_part += 1
        return [*events, PartStart(index=self._open[1], kind=kind)]

    def _close_open(self) -> list[Event]:
        if self._open is None:
            return []
        (kind, part), self._open = self._open, None
        if kind != "reasoning":
            return [PartEnd(index=part)]
        text, cargo = "".join(self._reasoning), self._cargo
        self._reasoning, self._cargo = [], []
        if not cargo:
            raw = msgspec.json.encode({self._reasoning_key: text})
            return [PartEnd(index=part, vendor=self._vendor, raw=raw)]
        events: list[Event] = [PartEnd(index=part, vendor=cargo[0][0], raw=cargo[0][1])]
        for vendor, raw in cargo[1:]:
            events.append(PartStart(index=self._next_part, kind="reasoning"))
            events.append(PartEnd(index=self._next_part, vendor=vendor, raw=raw))
            self._next_part += 1
        return events

    def _call(self, call: _Call) -> list[Event]:
        called = call.function or call.custom or _Called()
        index = call.index if isinstance(call.index, int | str) else None
        events: list[Event] = []
        opened = self._find(index, _text(called.name), _text(call.id))
        if opened is None:
            events = self._close_open()
            call_id = _text(call.id) or made_id("call_", self._seed, len(self._calls))
            opened = _OpenCall(part=self._next_part, call_id=call_id)
            self._next_part += 1
            self._calls.append(opened)
            if index is not None:
                self._by_index[index] = opened
            start = PartStart(
                index=opened.part,
                kind="call",
                call_id=call_id,
                name=_text(called.name),
                is_freeform=call.custom is not None,
            )
            events.append(start)
        said = called.input if call.custom is not None else called.arguments
        text = said if isinstance(said, str) else "" if said is None else arguments_text(said)
        return [*events, Delta(index=opened.part, text=text)] if text else events

    def _find(self, index: int | str | None, name: str, call_id: str) -> _OpenCall | None:
        """Return the call that goes on, None where another one begins."""
        if index is None:
            return self._calls[-1] if self._calls and not name else None
        opened = self._by_index.get(index)
        # Some servers number every call 0.
        is_other = opened is not None and name and call_id and call_id != opened.call_id
        return None if is_other else opened


def read_chat_answer(body: bytes, *, vendor: str = "", seed: str = "") -> Answer:
    """Read a whole answer; raises `Malformed`, or `UpstreamErrorInBody` for an error behind a 200."""
    return fold(ChatReader(vendor=vendor, seed=seed).read_whole(body))


def _content(content: Any) -> str:
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return _text(content)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
