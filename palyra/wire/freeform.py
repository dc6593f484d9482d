"""Freeform tools where there are none: they were declared as functions of one text, which is taken out again."""

from __future__ import annotations

import msgspec

from palyra.wire.answer_reader import WholeReader
from palyra.wire.decoding import read_or_none
from palyra.wire.neutral_answer import Delta, Event, PartEnd, PartStart


class _Wrapped(msgspec.Struct):
    input: str


_WRAPPED = msgspec.json.Decoder(_Wrapped)


class Unwrapping:
    """Reads through another reader; calls of these tools are whole before anything is said of them."""

    def __init__(self, reader: WholeReader, names: frozenset[str]) -> None:
        self._reader = reader
        self._names = names
        #: Arguments by part.
        self._held: dict[int, list[str]] = {}

    @property
    def is_done(self) -> bool:
        return self._reader.is_done

    @property
    def keeps_text(self) -> bool:
        return self._reader.keeps_text

    def read(self, name: str, data: bytes) -> list[Event]:
        """See `StreamReader.read`."""
        return self._unwrapped(self._reader.read(name, data))

    def read_whole(self, body: bytes) -> list[Event]:
        """See `WholeReader.read_whole`."""
        return self._unwrapped(self._reader.read_whole(body))

    def finish(self) -> list[Event]:
        """See `StreamReader.finish`."""
        return self._unwrapped(self._reader.finish())

    def _unwrapped(self, events: list[Event]) -> list[Event]:
        return [found for event in events for found in self._take(event)]

    def _take(self, event: Event) -> list[Event]:
        match event:
            case PartStart(index=index, kind="call", name=name) if name in self._names:
                self._held[index] = []
                return [msgspec.structs.replace(event, is_freeform=True)]
            case Delta(index=index, text=text) if index in self._held:
                self._held[index].append(text)
                return []
            case PartEnd(index=index) if index in self._held:
                arguments = "".join(self._held.pop(index))
                wrapped = read_or_none(_WRAPPED, arguments.encode())
                text = arguments if wrapped is None else wrapped.input
                return [*([Delta(index=index, text=text)] if text else []), event]
        return [event]
