"""What every reader of a provider's answers offers, whichever dialect it reads."""

from __future__ import annotations

from typing import Protocol

from palyra.wire.neutral_answer import Answer, Event, Fold


class StreamReader(Protocol):
    """Reads the events of one upstream stream into neutral ones."""

    #: The dialect's last word has been read; nothing follows.
    is_done: bool

    def read(self, name: str, data: bytes) -> list[Event]:
        """Read one event; raises `UpstreamErrorInBody` for an error, `Malformed` for what cannot be read."""
        ...

    def finish(self) -> list[Event]:
        """Return what is left to say when nothing more will come: the end, if the stream got as far."""
        ...


def fold(events: list[Event]) -> Answer:
    """Return the answer that events amount to."""
    folded = Fold()
    for event in events:
        folded.add(event)
    return folded.answer()
