"""Reads answers in OpenAI's newer dialect into the neutral form: whole ones and streams, by the same steps.

An item of a kind that only this dialect has is kept as it came and has no meaning elsewhere.
"""

from __future__ import annotations

from typing import Any

import msgspec

from palyra.usage import TokenUsage
from palyra.wire.answer_reader import fold
from palyra.wire.cargo import made_id, unseal
from palyra.wire.decoding import NULL, read_or_none
from palyra.wire.errors import Malformed
from palyra.wire.neutral_answer import (
    Answer,
    Delta,
    Event,
    Finish,
    PartEnd,
    PartKind,
    PartStart,
    Start,
    Usage,
    derive_stop,
)
from palyra.wire.responses_request import SEPARATOR, VENDOR
from palyra.wire.upstream_errors import UpstreamErrorInBody, holds_error, read_upstream_error
from palyra.wire.usage import decode_usage, read_cost_nanousd, read_openai_usage


class _Text(msgspec.Struct):
    type: str = ""
    text: str = ""
    refusal: str = ""
    annotations: Any = None
    logprobs: Any = None


class _Item(msgspec.Struct):
    type: str = ""
    call_id: str = ""
    name: str = ""
    namespace: str | None = None
    arguments: str = ""
    input: str = ""
    content: list[_Text] | None = None
    summary: list[_Text] | None = None
    encrypted_content: str | None = None


class _Incomplete(msgspec.Struct):
    reason: str = ""


class _Response(msgspec.Struct):
    id: str = ""
    object: str = ""
    model: str = ""
    status: str = ""
    output: list[msgspec.Raw] | None = None
    incomplete_details: _Incomplete | None = None
    usage: msgspec.Raw = NULL
    service_tier: str | None = None
    error: msgspec.Raw = NULL


class _Event(msgspec.Struct):
    type: str
    response: _Response | None = None
    output_index: int = 0
    content_index: int = 0
    summary_index: int = 0
    item: msgspec.Raw = NULL
    part: _Text | None = None
    delta: str = ""


_EVENT = msgspec.json.Decoder(_Event)
_RESPONSE = msgspec.json.Decoder(_Response)
_ITEM = msgspec.json.Decoder(_Item)
_STOPS = {"max_output_tokens": "max_tokens", "content_filter": "content_filter"}
_KINDS: dict[str, PartKind] = {"function_call": "call", "custom_tool_call": "call", "reasoning": "reasoning"}
#: Pieces of thoughts are set apart as paragraphs.
_BREAK = "\n\n"


class _Open(msgspec.Struct):
    """A part that is being read."""

    part: int
    kind: PartKind
    has_text: bool = False
    #: Of reasoning: the summary that is being read.
    summary_index: int = 0


#: An item is (output_index, -1), a piece of a message's content (output_index, content_index).
_Key = tuple[int, int]


class ResponsesReader:
    """Reads one stream, or one whole answer as a stream whose items are whole."""

    keeps_text = True

    def __init__(self, *, vendor: str = VENDOR, seed: str = "") -> None:
        """`vendor`: whose reasoning this is. `seed`: what ids are made of that the provider left out."""
        self.is_done = False
        self._vendor = vendor
        self._seed = seed
        self._next_part = 0
        self._open: dict[_Key, _Open] = {}
        #: Pieces of messages that were whole before their message was.
        self._ended: set[_Key] = set()
        self._has_call = self._has_refusal = False
        self._dropped: set[str] = set()
        self._finish: tuple[str, str] | None = None
        self._has_started = self._has_ended = False

    def read(self, name: str, data: bytes) -> list[Event]:
        """See `StreamReader.read`."""
        event = read_or_none(_EVENT, data)
        if event is None or event.type in ("error", "response.failed"):
            if event is not None or name == "error":
                raise UpstreamErrorInBody(read_upstream_error(200, _innermost(data)))
            raise Malformed("An event of the provider's stream is not one of the Responses API.")
        key = (event.output_index, event.content_index)
        match event.type:
            case "response.output_text.delta":
                return self._more(key, "text", event.delta)
            case "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta":
                return self._more((event.output_index, -1), "call", event.delta)
            case "response.refusal.delta":
                return self._more(key, "refusal", event.delta)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                return self._think(event.output_index, event.summary_index, event.delta)
            case "response.content_part.done":
                return self._end(key, event.part)
            case "response.output_item.added":
                return self._begin_item(event.output_index, read_or_none(_ITEM, event.item) or _Item())
            case "response.output_item.done":
                return self._end_item(event.output_index, event.item)
            case "response.created" if event.response is not None:
                return self._start(event.response)
            case "response.completed" | "response.incomplete" if event.response is not None:
                self.is_done = True
                return [*self._start(event.response), *self._close(event.response)]
        return []

    def read_whole(self, body: bytes) -> list[Event]:
        """Return the events of a whole answer."""
        response = read_or_none(_RESPONSE, body.removeprefix(b"\xef\xbb\xbf"))
        if response is not None and holds_error(response.error):
            raise UpstreamErrorInBody(read_upstream_error(200, body))
        if response is None or response.output is None:
            raise Malformed("The provider's answer is not a response.")
        events = self._start(response)
        for index, raw in enumerate(response.output):
            events += self._begin_item(index, read_or_none(_ITEM, raw) or _Item())
            events += self._end_item(index, raw)
        return events + self._close(response)

    def finish(self) -> list[Event]:
        """See `StreamReader.finish`."""
        if self._has_ended or self._finish is None:
            return []
        self._has_ended = True
        events: list[Event] = [PartEnd(index=opened.part) for opened in self._open.values()]
        stop, raw_stop = self._finish
        stop = derive_stop(stop, has_call=self._has_call, has_refusal=self._has_refusal)
        return [*events, Finish(stop=stop, raw_stop=raw_stop, dropped=tuple(sorted(self._dropped)))]

    def _start(self, response: _Response) -> list[Event]:
        if self._has_started:
            return []
        self._has_started = True
        return [Start(response_id=response.id, model=response.model)]

    def _close(self, response: _Response) -> list[Event]:
        reason = response.incomplete_details.reason if response.incomplete_details is not None else ""
        stop = _STOPS.get(reason, "unknown") if reason or response.status == "incomplete" else "end_turn"
        self._finish = (stop, reason or response.status)
        events: list[Event] = []
        fields = decode_usage(response.usage)
        if fields:
            usage, anomalies = read_openai_usage(fields, output_seen=self._next_part > 0)
            events.append(
                Usage(
                    usage=usage or TokenUsage(),
                    anomalies=anomalies,
                    cost_nanousd=read_cost_nanousd(fields),
                    service_tier=response.service_tier or "",
                )
            )
        return events + self.finish()

    def _begin(self, key: _Key, kind: PartKind, item: _Item | None = None) -> list[Event]:
        part = self._next_part
        self._next_part += 1
        self._open[key] = _Open(part=part, kind=kind)
        if kind == "refusal":
            self._has_refusal = True
        if kind != "call":
            return [PartStart(index=part, kind=kind)]
        item = item or _Item()
        self._has_call = True
        call_id = item.call_id or made_id("call_", self._seed, part)
        name = f"{item.namespace}{SEPARATOR}{item.name}" if item.namespace else item.name
        is_freeform = item.type == "custom_tool_call"
        return [PartStart(index=part, kind="call", call_id=call_id, name=name, is_freeform=is_freeform)]

    def _more(self, key: _Key, kind: PartKind, text: str) -> list[Event]:
        events = [] if key in self._open else self._begin(key, kind)
        opened = self._open[key]
        if not text or opened.kind != kind:
            return events
        opened.has_text = True
        return [*events, Delta(index=opened.part, text=text)]

    def _think(self, output_index: int, summary_index: int, text: str) -> list[Event]:
        key = (output_index, -1)
        opened = self._open.get(key)
        is_new = opened is not None and opened.has_text and summary_index != opened.summary_index
        if opened is not None:
            opened.summary_index = summary_index
        return self._more(key, "reasoning", _BREAK + text if is_new else text)

    def _end(self, key: _Key, said: _Text | None) -> list[Event]:
        """End a piece of content; what came without deltas is said now."""
        if key in self._ended:
            return []
        self._ended.add(key)
        said = said or _Text()
        self._dropped |= {
            name for name, found in (("citations", said.annotations), ("logprobs", said.logprobs)) if found
        }
        text = said.refusal or said.text
        events: list[Event] = []
        if key not in self._open:
            if not text:
                return []
            events = self._begin(key, "refusal" if said.refusal else "text")
        opened = self._open[key]
        if not opened.has_text:
            events += self._more(key, opened.kind, text)
        return [*events, PartEnd(index=self._open.pop(key).part)]

    def _begin_item(self, output_index: int, item: _Item) -> list[Event]:
        if item.type == "message":
            return []
        return self._begin((output_index, -1), _KINDS.get(item.type, "foreign"), item)

    def _end_item(self, output_index: int, raw: msgspec.Raw) -> list[Event]:
        item = read_or_none(_ITEM, raw) or _Item()
        if item.type == "message":
            events: list[Event] = []
            for content_index, said in enumerate(item.content or ()):
                events += self._end((output_index, content_index), said)
            return events
        key = (output_index, -1)
        events = [] if key in self._open else self._begin_item(output_index, item)
        opened = self._open[key]
        kind = opened.kind
        if kind == "call" and not opened.has_text:
            events += self._more(key, "call", item.input or item.arguments)
        if kind == "reasoning" and not opened.has_text:
            events += self._more(key, "reasoning", _BREAK.join(one.text for one in item.summary or ()))
        del self._open[key]
        if kind == "call":
            return [*events, PartEnd(index=opened.part)]
        compact = msgspec.json.format(bytes(raw), indent=-1)
        if kind == "foreign":
            return [*events, PartEnd(index=opened.part, label=item.type or "unknown", raw=compact)]
        vendor, cargo = unseal(item.encrypted_content or "") or (self._vendor, compact)
        return [*events, PartEnd(index=opened.part, vendor=vendor, raw=cargo)]


class _Failed(msgspec.Struct):
    response: msgspec.Raw = NULL


_FAILED = msgspec.json.Decoder(_Failed)


def _innermost(data: bytes) -> bytes:
    """Return the object that holds the error: the failed response, or the event itself."""
    failed = read_or_none(_FAILED, data)
    return data if failed is None or bytes(failed.response) == b"null" else bytes(failed.response)


def read_responses_answer(body: bytes, *, vendor: str = VENDOR, seed: str = "") -> Answer:
    """Read a whole answer; raises `Malformed`, or `UpstreamErrorInBody` for an error behind a 200."""
    return fold(ResponsesReader(vendor=vendor, seed=seed).read_whole(body))
