"""A provider's stream on its way to a client: metered, and relayed as it came or written anew in another dialect.

What `openai_chat_stream.ChatStreamMeter` does for the one pair that is asked for most, `EventMeter` does for all
the others: it reads each event once, into the neutral form, and an outlet makes of it what the client gets. The
last bytes are held back until the usage is durable.
"""

from __future__ import annotations

from typing import Any, Protocol

from palyra.limits import OUTPUT_OVERRUN_TOKENS
from palyra.wire.alike import Blocks
from palyra.wire.answer_reader import StreamReader
from palyra.wire.answer_writer import StreamWriter
from palyra.wire.errors import Malformed
from palyra.wire.known import told
from palyra.wire.neutral import Reasoning
from palyra.wire.neutral_answer import Delta, Event, Finish, PartEnd, PartStart, Start, Usage
from palyra.wire.reply_facts import ReplyFacts, estimated_usage
from palyra.wire.sse import event_data, event_name
from palyra.wire.tokens import TokenTally
from palyra.wire.upstream_errors import UpstreamError, UpstreamErrorInBody


class StreamMeter(Protocol):
    """Takes the bytes of one upstream stream and gives back those that may be relayed."""

    @property
    def has_content(self) -> bool:
        """There was text, reasoning, refusal, a tool's name or argument, or a clean end."""
        ...

    @property
    def error(self) -> UpstreamError | None:
        """The error that the stream turned into; it and all that follows is withheld."""
        ...

    @property
    def done(self) -> bool:
        """The stream's own last word has been read."""
        ...

    @property
    def unparsed_count(self) -> int:
        """Events that could not be read."""
        ...

    @property
    def finished(self) -> bool:
        """The answer is complete, whether or not the last word has come."""
        ...

    @property
    def outgrown(self) -> bool:
        """The output is past its maximum, a tenth and a margin."""
        ...

    def feed(self, chunk: bytes) -> bytes:
        """Return what may be relayed now; raises `Malformed` for what cannot be relayed at all."""
        ...

    def end(self) -> bytes:
        """Say that upstream has closed; return what that lets go."""
        ...

    def closing(self, *, is_cut: bool) -> bytes:
        """Return the last bytes of the stream, which was cut at its maximum or not."""
        ...

    def failing(self, envelope: dict[str, Any]) -> bytes:
        """Return the last bytes of a stream that broke; `envelope` is an error answer as plain data."""
        ...

    def facts(self) -> ReplyFacts:
        """Return what the stream has amounted to so far."""
        ...


class Outlet(Protocol):
    """What a client gets of a stream."""

    #: What the client's dialect cannot say does not come out.
    drops: bool
    #: A piece of text changes what comes out later.
    keeps_text: bool

    def pass_on(self, block: bytes) -> bytes:
        """Return what becomes of a block that says nothing: a comment, or what could not be read."""
        ...

    def relay(self, block: bytes, data: bytes, events: list[Event]) -> bytes:
        """Return what becomes of one event of the provider's, which was read as `events`."""
        ...

    def tail(self, events: list[Event]) -> bytes:
        """Return what becomes of events that no event of the provider's says."""
        ...

    def closing(self, *, is_cut: bool) -> bytes:
        """See `StreamMeter.closing`."""
        ...

    def failing(self, envelope: dict[str, Any]) -> bytes:
        """See `StreamMeter.failing`."""
        ...


class EventMeter:
    """See `StreamMeter`."""

    def __init__(
        self,
        reader: StreamReader,
        outlet: Outlet,
        *,
        input_estimate_tokens: int = 0,
        output_cap_tokens: int | None = None,
    ) -> None:
        """`input_estimate_tokens`: what a client is told of the input where its provider says nothing."""
        self.has_content = False
        self.error: UpstreamError | None = None
        self.unparsed_count = 0
        self.failing = outlet.failing
        self._reader = reader
        self._outlet = outlet
        self._input_estimate_tokens = input_estimate_tokens
        self._output_cap_tokens = output_cap_tokens
        self._tally = TokenTally()
        self._blocks = Blocks(self._take, self._tally)
        #: Pieces of text need not be read one by one: neither side remembers them.
        self._may_learn = not (reader.keeps_text or outlet.keeps_text)
        #: Parts that are text, and the one that the newest event brought a piece of and nothing else; -1 for none.
        self._text_parts: set[int] = set()
        self._steady_part = -1
        #: What was thought, and the ids of the calls that it led to.
        self.thoughts: list[Reasoning] = []
        self.call_ids: list[str] = []
        self._start = Start()
        self._finish: Finish | None = None
        self._usage: Usage | None = None
        #: What another dialect cannot say.
        self._foreign: set[str] = set()

    @property
    def done(self) -> bool:
        return self._reader.is_done

    @property
    def finished(self) -> bool:
        """See `StreamMeter.finished`."""
        return self._finish is not None

    @property
    def outgrown(self) -> bool:
        """See `StreamMeter.outgrown`; noticed up to some hundred characters late."""
        cap = self._output_cap_tokens
        return cap is not None and self._tally.counted_tokens > cap + cap // 10 + OUTPUT_OVERRUN_TOKENS

    def feed(self, chunk: bytes) -> bytes:
        """See `StreamMeter.feed`."""
        return self._blocks.feed(chunk)

    def end(self) -> bytes:
        """See `StreamMeter.end`."""
        tail = self._blocks.tail.rstrip(b"\r\n")
        unparsed_count = self.unparsed_count
        out = self._take(tail + b"\n\n") if tail and not self._blocks.is_over else b""
        if self.unparsed_count > unparsed_count:
            out = b""  # an event that was cut off
        if self.error is not None:
            return out
        events = self._reader.finish()
        self._note(events)
        return out + self._outlet.tail(self._told(events))

    def closing(self, *, is_cut: bool) -> bytes:
        """See `StreamMeter.closing`."""
        if is_cut:
            self._outlet.tail([self._counted()])
        return self._outlet.closing(is_cut=is_cut)

    def facts(self) -> ReplyFacts:
        """See `StreamMeter.facts`."""
        finish, usage = self._finish or Finish(stop="unknown"), self._usage
        return ReplyFacts(
            stop=finish.stop,
            raw_stop=finish.raw_stop,
            usage=None if usage is None else usage.usage,
            anomalies=() if usage is None else usage.anomalies,
            upstream_model=self._start.model,
            response_id=self._start.response_id,
            output_tokens_estimate=self._tally.tokens,
            provider_cost_nanousd=None if usage is None else usage.cost_nanousd,
            service_tier="" if usage is None else usage.service_tier,
            dropped=told(sorted({*self._foreign, *finish.dropped})) if self._outlet.drops else (),
        )

    def _take(self, block: bytes) -> bytes:
        data = event_data(block)
        if not data:
            return self._outlet.pass_on(block)
        self._blocks.alike.forget()
        try:
            events = self._reader.read(event_name(block), data)
        except UpstreamErrorInBody as error:
            self.error = error.error
            self._blocks.is_over = True
            return b""
        except Malformed:
            self.unparsed_count += 1
            return self._outlet.pass_on(block)
        self._blocks.is_over = self.done
        self._note(events)
        relayed = self._outlet.relay(block, data, self._told(events))
        self._learn(block, relayed, events)
        return relayed

    def _learn(self, block: bytes, relayed: bytes, events: list[Event]) -> None:
        """Learn from the second piece in a row of a part's text: by then both sides have begun the part."""
        before, self._steady_part = self._steady_part, -1
        if len(events) == 1 and isinstance(events[0], Delta) and events[0].index in self._text_parts:
            self._steady_part = events[0].index
            if self._may_learn and before == self._steady_part and self._blocks.alike.is_promising:
                self._blocks.alike.learn(block, relayed, events[0].text)

    def _told(self, events: list[Event]) -> list[Event]:
        """Return what an outlet gets: an answer whose provider counts nothing has our count where it is written."""
        if self._usage is not None or not self._outlet.drops or not (events and isinstance(events[-1], Finish)):
            return events
        return [*events[:-1], self._counted(), events[-1]]

    def _counted(self) -> Usage:
        """Return the usage as far as it is known, and else as we count it."""
        seen = None if self._usage is None else self._usage.usage
        return Usage(usage=estimated_usage(seen, self._input_estimate_tokens, self._tally.tokens))

    def _note(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Delta(text=text):
                    self._tally.add(text)
                    self.has_content = True
                case PartStart(kind="call", name=name):
                    self._tally.add(name)
                    self.call_ids.append(event.call_id)
                    self.has_content = True
                case PartStart(kind="text", index=index):
                    self._text_parts.add(index)
                case PartEnd(raw=raw) if raw:
                    self._foreign |= {event.label} if event.label else set()
                    self.thoughts += [Reasoning(vendor=event.vendor, raw=raw)] if event.vendor else []
                    self.has_content = True
                case Start():
                    self._start = event
                case Usage():
                    self._usage = event
                case Finish():
                    self._finish = event
                    self.has_content = True


class Translation:
    """An outlet in another dialect than the provider's; what it could not read it cannot pass on."""

    drops = True

    def __init__(self, writer: StreamWriter) -> None:
        self.keeps_text = writer.keeps_text
        self._writer = writer
        self.failing = writer.fail

    def pass_on(self, block: bytes) -> bytes:
        """See `Outlet.pass_on`."""
        return b""

    def relay(self, block: bytes, data: bytes, events: list[Event]) -> bytes:
        """See `Outlet.relay`."""
        return self.tail(events)

    def tail(self, events: list[Event]) -> bytes:
        """See `Outlet.tail`."""
        return b"".join([self._writer.write(event) for event in events])

    def closing(self, *, is_cut: bool) -> bytes:
        """See `Outlet.closing`."""
        return self._writer.cut() if is_cut else self._writer.end()
