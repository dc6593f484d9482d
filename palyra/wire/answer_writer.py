"""What every writer of answers offers, whichever dialect it writes, and what each is told of the request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from palyra.wire.neutral_answer import Event


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer carries that is not the model's to say."""

    #: Makes the answer's id: of the run, so that it is the same for a stream and for its repeats.
    run_id: str
    created_s: int
    #: The model's public name.
    model: str
    #: The client of a stream asked for its usage.
    wants_usage: bool = False
    #: What the input is taken to hold while its provider has not said.
    input_estimate_tokens: int = 0
    #: The client takes reasoning as cargo, where its dialect leaves that to it.
    wants_cargo: bool = True
    #: Tools of groups: flat name -> (group, name in it).
    namespaces: dict[str, tuple[str, str]] = {}
    #: Members of the request that an answer of the Responses API repeats.
    echo: dict[str, Any] = {}


class StreamWriter(Protocol):
    """Writes the events of one stream. The very last bytes are held back until its usage is durable."""

    @property
    def keeps_text(self) -> bool:
        """A piece of text changes what is written later."""
        ...

    def write(self, event: Event) -> bytes:
        """Return what the client gets to read now."""
        ...

    def end(self) -> bytes:
        """Return what was held back."""
        ...

    def cut(self) -> bytes:
        """Return the end of an answer that has outgrown its maximum."""
        ...

    def fail(self, envelope: dict[str, Any]) -> bytes:
        """Return the end of a stream that broke; `envelope` is an error answer in the client's dialect."""
        ...


def written(writer: StreamWriter, events: Iterable[Event]) -> bytes:
    """Return a whole stream."""
    return b"".join([writer.write(event) for event in events]) + writer.end()
