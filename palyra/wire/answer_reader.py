"""What every reader of a provider's answers offers, whichever dialect it reads."""

from __future__ import annotations

from typing import Protocol

from palyra.wire.neutral_answer import Answer, Event, Fold


class StreamReader(Protocol):
    """Reads the events of one upstream stream into neutral ones."""

    @property
    def keeps_text(self) -> bool:
        """A piece of text changes how later events are read."""
        ...

    @property
    def is_done(self) -> bool:
        """The dialect's last word has been read; nothing follows."""
        ...

    def read(self, name: str, data: bytes) -> list[Event]:
        """Read one event; raises `UpstreamErrorInBody` for an error, `Malformed` for what cannot be read."""
        ...

    def finish(self) -> list[Event]:
        """Return what is left to say when nothing more will come: the end, if the stream got as far."""
        ...


class WholeReader(StreamReader, Protocol):
    """Reads streams, and whole answers by the same steps."""

    def read_whole(self, body: bytes) -> list[Event]:
        """Return the events of a whole answer; raises like `read`."""
        ...


def fold(events: list[Event]) -> Answer:
    """Return the answer that events amount to."""
    folded = Fold()
    for event in events:
        folded.add(event)
    return folded.answer()
