"""`Fact`, the parent of everything that happened, and `Recorded`, a fact with its envelope."""

from __future__ import annotations

from typing import Any

import msgspec


class Fact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag_field="name"):
    """Something that happened, in the past tense. The tag is the event's name: `run.admitted`.

    Bodies hold integers, texts and codes, never floats; ids that the envelope has (the stream's, the run's) are
    not repeated in them, and fields at their defaults are left out.
    """


class UnknownEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event of a newer release: it can be verified, listed and exported, but not written past."""

    name: str
    schema: int
    body: dict[str, Any]


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """A fact as it stands in the journal, envelope first. What the fields mean: `palyra.journal.port.Row`."""

    position: int
    stream: str
    version: int
    recorded_at_us: int
    actor: str
    correlation: str
    causation: int
    command_key: str
    body: Fact | UnknownEvent

    @property
    def name(self) -> str:
        """What happened: `attempt.failed`."""
        body = self.body
        return body.name if isinstance(body, UnknownEvent) else str(body.__struct_config__.tag)


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A fact that was decided and is not recorded yet: what `decisions/` returns."""

    stream: str
    body: Fact
    #: The work it belongs to where that is not its own stream.
    correlation: str = ""
    #: Idempotency key of the command; on its first event only.
    command_key: str = ""
