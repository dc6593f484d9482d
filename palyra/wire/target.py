"""What a request is written for: one model at one provider, with the ways of the server that it is behind.

The ways are rows of data; no encoder asks for a flavor's name (gateway specification 2.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from palyra.limits import DEFAULT_OUTPUT_CAP_TOKENS
from palyra.wire.known import told
from palyra.wire.neutral import Dialect

ReasoningMode = Literal["none", "effort", "budget"]


class Ways(msgspec.Struct, frozen=True, kw_only=True):
    """How one server differs from the others that speak its dialect."""

    #: Field of a chat request that holds the output maximum.
    cap_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    #: Obeys the other of the two as well; one that does not ignores it and says nothing.
    obeys_both_caps: bool = False
    #: Knows the role `developer`; where it is unknown such a message is a system message.
    takes_developer: bool = False
    #: Knows tools that take a text instead of arguments.
    takes_freeform: bool = False
    #: Parameters that it refuses: a candidate with them is left out.
    refuses: tuple[str, ...] = ()
    #: Members of messages that it refuses; they are dropped and named.
    drops_in_messages: tuple[str, ...] = ()
    #: Writes vectors as numbers only, whatever it is asked for.
    embeds_floats_only: bool = False
    #: Formats in which it writes transcripts; others are made here.
    transcripts: tuple[str, ...] = ("json", "text", "srt", "verbose_json", "vtt", "diarized_json")

    @property
    def is_picky(self) -> bool:
        """Whether a request in its own dialect has to be read before it can go there."""
        return bool(self.refuses or self.drops_in_messages)


WAYS: Mapping[str, Ways] = MappingProxyType(
    {
        "openai": Ways(
            cap_field="max_completion_tokens", obeys_both_caps=True, takes_developer=True, takes_freeform=True
        ),
        "groq": Ways(
            obeys_both_caps=True,
            refuses=("logit_bias", "logprobs", "top_logprobs", "n"),
            drops_in_messages=("name",),
            transcripts=("json", "text", "verbose_json"),
        ),
        "together": Ways(transcripts=("json", "verbose_json")),
        "ollama": Ways(refuses=("image_url",)),
        "localai": Ways(embeds_floats_only=True),
        "generic": Ways(),
        # The kinds without a flavor.
        "": Ways(obeys_both_caps=True, takes_developer=True),
    }
)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a request goes."""

    dialect: Dialect
    #: As the provider names it.
    model: str
    #: Who may read reasoning that comes back.
    vendor: str = ""
    ways: Ways = Ways()
    #: How much it thinks is said by an effort, by a budget, or not at all.
    reasoning: ReasoningMode = "none"
    #: The output maximum to send; None leaves it to the provider.
    output_cap_tokens: int | None = None
    #: What is sent where a dialect demands a maximum and nobody named one.
    output_default_tokens: int = DEFAULT_OUTPUT_CAP_TOKENS
    #: A stream is asked to report its usage; off for a server that has refused the flag.
    ask_usage: bool = True
    #: The answer shall come as a stream.
    stream: bool = False


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A body as it goes upstream, and what was done to make it from the client's."""

    body: bytes
    #: Members that were spliced, where the client's bytes go through.
    edits: tuple[str, ...] = ()
    #: Parameters and content that the target cannot take.
    dropped: tuple[str, ...] = ()
    #: Values that were changed: `temperature=1`.
    adjusted: tuple[str, ...] = ()
    #: What is done here in the provider's place: `response_format=json_object`.
    emulated: tuple[str, ...] = ()


class Changes:
    """Collects what an encoder could not write as it was asked, each once and in order."""

    def __init__(self) -> None:
        self.dropped: dict[str, None] = {}
        self.adjusted: dict[str, None] = {}
        self.emulated: dict[str, None] = {}

    def drop(self, name: str) -> None:
        self.dropped[name] = None

    def adjust(self, name: str, value: object) -> None:
        self.adjusted[f"{name}={value}"] = None

    def emulate(self, name: str) -> None:
        self.emulated[name] = None

    def prepared(self, body: bytes) -> Prepared:
        return Prepared(
            body=body, dropped=told(self.dropped), adjusted=told(self.adjusted), emulated=told(self.emulated)
        )
