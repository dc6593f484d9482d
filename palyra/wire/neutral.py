"""A request in no dialect: what every decoder reads into and every encoder writes from.

It holds what at least two dialects can say. What only one of them has stands in `params` under its one name, or in
the content as `Foreign`; whether such a thing is refused or dropped where it cannot go is the table's to say
(`parameters.py`), so that nothing vanishes unnamed. Texts are as the client wrote them; JSON that is only carried
(schemas, arguments, opaque reasoning) is kept as its bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

Dialect = Literal["chat", "messages", "responses"]
DIALECTS: tuple[Dialect, ...] = ("chat", "messages", "responses")


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of content."""


class Text(_Part, frozen=True, kw_only=True):
    text: str


class Refused(_Part, frozen=True, kw_only=True):
    """What a model said in place of an answer."""

    text: str


class Blob(_Part, frozen=True, kw_only=True):
    """Where the bytes of an image, a document or a sound are: at a URL, which nobody here fetches, or inline."""

    url: str = ""
    media_type: str = ""
    #: Base64.
    data: str = ""
    #: An id that the provider's own file store gave out; it means nothing elsewhere.
    file_id: str = ""

    @property
    def data_url(self) -> str:
        """The URL that says the same, whichever way the bytes came."""
        return self.url or f"data:{self.media_type};base64,{self.data}"


class Image(_Part, frozen=True, kw_only=True):
    blob: Blob
    #: low, high, auto, or "" where nothing is said.
    detail: str = ""


class Document(_Part, frozen=True, kw_only=True):
    blob: Blob
    name: str = ""
    #: A document given as plain text.
    text: str = ""


class Audio(_Part, frozen=True, kw_only=True):
    data: str
    format: str


class Reasoning(_Part, frozen=True, kw_only=True):
    """What a model thought: opaque cargo that only its vendor may read back. `text` is what people may see."""

    text: str = ""
    vendor: str = ""
    #: The vendor's own block as compact JSON, signature and all; b"" where there is nothing but the text.
    raw: bytes = b""


class Call(_Part, frozen=True, kw_only=True):
    """A tool that was called."""

    call_id: str
    name: str
    #: JSON text; of a freeform tool the input as it is.
    arguments: str
    is_freeform: bool = False


class Result(_Part, frozen=True, kw_only=True):
    """What a tool answered."""

    call_id: str
    parts: tuple[Part, ...] = ()
    is_error: bool = False
    is_freeform: bool = False


class Foreign(_Part, frozen=True, kw_only=True):
    """Content that only one dialect knows."""

    #: As it is named to the client: `search_result`.
    label: str
    raw: bytes


Part = Text | Refused | Image | Document | Audio | Reasoning | Call | Result | Foreign


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A turn, or a piece of one; results of tools are the user's to say."""

    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]


_OF_NOTHING = b'{"type":"object","properties":{}}'
_OF_A_TEXT = b'{"type":"object","properties":{"input":{"type":"string"}},"required":["input"]}'


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that the model may call."""

    name: str
    description: str = ""
    #: JSON schema of its arguments, b"" for none.
    schema: bytes = b""
    strict: bool | None = None
    #: Takes a text instead of arguments.
    is_freeform: bool = False
    #: What its text must look like, as the client wrote it; b"" for any text.
    grammar: bytes = b""

    @property
    def parameters(self) -> msgspec.Raw:
        """The schema of what it takes as a function: of a freeform tool its text, as the one argument."""
        return msgspec.Raw((_OF_A_TEXT if self.is_freeform else self.schema) or _OF_NOTHING)


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Which tool the model shall call."""

    mode: Literal["auto", "none", "required", "named"]
    name: str = ""
    #: Of all tools that it has, these alone; () for any.
    among: tuple[str, ...] = ()


def choice_among(mode: str, names: Sequence[str]) -> Choice:
    """Return a choice that leaves the model some of its tools."""
    return Choice(mode="required" if mode == "required" else "auto", among=tuple(name for name in names if name))


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """How the text of the answer shall look."""

    kind: Literal["json_object", "json_schema"]
    name: str = ""
    description: str = ""
    schema: bytes = b""
    strict: bool | None = None


class Thinking(msgspec.Struct, frozen=True, kw_only=True):
    """How much the model shall think."""

    #: none minimal low medium high xhigh max, or "" where only a budget or nothing was said.
    effort: str = ""
    budget_tokens: int | None = None
    #: Of what was thought a summary is wanted, in the client's word.
    summary: str = ""

    @property
    def is_off(self) -> bool:
        return self.effort in ("none", "minimal")


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """What is known here of a large request that was read in another process; see `NeutralRequest`."""

    wants_cargo: bool = True
    namespaces: dict[str, tuple[str, str]] = {}
    freeform_tools: frozenset[str] = frozenset()
    #: Of every call in it.
    call_ids: tuple[str, ...] = ()

    def wrapped_tools(self, *, takes_freeform: bool) -> frozenset[str]:
        """See `NeutralRequest.wrapped_tools`."""
        return frozenset() if takes_freeform else self.freeform_tools


class NeutralRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a client wants, in the order in which it said it."""

    dialect: Dialect
    model: str = ""
    instructions: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    choice: Choice | None = None
    parallel_calls: bool | None = None
    output_max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    temperature: float | int | None = None
    top_p: float | int | None = None
    format: Format | None = None
    thinking: Thinking | None = None
    stream: bool = False
    #: Everything else that was set, as JSON by its one name: `seed`, `logit_bias`, `web_search_options`.
    params: dict[str, bytes] = {}
    #: Names of tools that only this dialect has: `web_search`.
    foreign_tools: tuple[str, ...] = ()
    #: Marks on content that only this dialect has, and that lose nothing but money: `cache_control`.
    marks: tuple[str, ...] = ()
    #: Tools of groups, which no other dialect has: flat name -> (group, name in it).
    namespaces: dict[str, tuple[str, str]] = {}
    #: The client takes reasoning as cargo.
    wants_cargo: bool = True

    @property
    def offered_tools(self) -> tuple[Tool, ...]:
        """Return the tools that the model may call this time."""
        if self.choice is None or not self.choice.among:
            return self.tools
        return tuple(tool for tool in self.tools if tool.name in self.choice.among)

    def wrapped_tools(self, *, takes_freeform: bool) -> frozenset[str]:
        """Return the freeform tools that have to be declared as functions."""
        return frozenset(tool.name for tool in self.tools if tool.is_freeform and not takes_freeform)
