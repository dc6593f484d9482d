"""What becomes of a parameter that a target cannot take: one row each, for every pair of dialects (gateway 11.9).

A parameter that changes what the answer is excludes the candidate (`refuse`); one that only hints, counts or costs
is dropped and named (`drop`). What a client sends that stands in no row is unknown, and dropped. The same names are
used in the header, in the journal and in refusals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from palyra.wire.known import told
from palyra.wire.neutral import Dialect, NeutralRequest

#: What the client asked for in `x-palyra-unsupported`; by "rule" where it said nothing.
Policy = Literal["rule", "refuse", "drop"]


class Row(NamedTuple):
    """One parameter."""

    #: Dialects in which it can be said, under this very name.
    dialects: tuple[Dialect, ...]
    rule: Literal["refuse", "drop"]
    #: A request without it still asks for the same kind of answer, so the client may have it dropped.
    may_drop: bool = True
    #: In a dialect that is not among these the name means something else.
    is_theirs: bool = False


def _rows(rule: Literal["refuse", "drop"], names: str, *dialects: Dialect, **more: bool) -> dict[str, Row]:
    return {name: Row(dialects, rule, **more) for name in names.split()}


PARAMETERS: Mapping[str, Row] = MappingProxyType(
    {
        **_rows("drop", "frequency_penalty messages.name prediction presence_penalty seed", "chat"),
        **_rows("drop", "metadata prompt_cache_key prompt_cache_retention safety_identifier", "chat", "responses"),
        **_rows("drop", "user verbosity", "chat", "responses"),
        **_rows("drop", "service_tier", "chat", "responses", is_theirs=True),
        # Nothing is left with a provider whose dialect the client does not speak.
        **_rows("drop", "store"),
        **_rows("drop", "cache_control container context_management metadata.user_id top_k", "messages"),
        **_rows("drop", "reasoning.summary", "messages", "responses"),
        **_rows("drop", "max_tool_calls truncation", "responses"),
        **_rows("refuse", "logit_bias n web_search_options", "chat"),
        # Probabilities of tokens have no place in the neutral form.
        **_rows("refuse", "logprobs top_logprobs"),
        **_rows("refuse", "stop", "chat", "messages"),
        **_rows("refuse", "audio modalities", "chat", may_drop=False),
        **_rows("refuse", "mcp_servers thread", "messages", may_drop=False),
        # Every dialect has them; some servers take their bytes only.
        **_rows("refuse", "image_url", "chat", "messages", "responses", may_drop=False),
        **_rows("refuse", "document_url", "messages", "responses", may_drop=False),
        **_rows("refuse", "file_id", "chat", "responses", may_drop=False, is_theirs=True),
        **_rows("refuse", "background", "responses"),
        **_rows("refuse", "conversation item_reference previous_response_id prompt", "responses", may_drop=False),
    }
)
_UNKNOWN = Row((), "drop")
_FOREIGN_TOOLS = Row((), "refuse", may_drop=False)


class Losses(NamedTuple):
    """What a request loses on its way to one dialect."""

    #: Each of these excludes the candidate.
    refused: tuple[str, ...]
    dropped: tuple[str, ...]


def row_of(name: str) -> Row:
    """Return the row of a parameter."""
    return PARAMETERS.get(name, _UNKNOWN)


def losses(request: NeutralRequest, target: Dialect, policy: Policy = "rule") -> Losses:
    """Return the parameters of a request that a dialect cannot take, and what becomes of each."""
    named = [(name, row_of(name)) for name in _said(request)]
    named += [(f"tools.{name}", _FOREIGN_TOOLS) for name in request.foreign_tools]
    source = request.dialect
    lost = [
        (name, row)
        for name, row in named
        if target not in row.dialects or (row.is_theirs and source not in row.dialects)
    ]
    refused = dict.fromkeys(name for name, row in lost if _is_refused(row, policy))
    return Losses(told(refused), told(name for name, _ in lost if name not in refused))


def _said(request: NeutralRequest) -> Iterable[str]:
    yield from request.params
    if request.stop:
        yield "stop"
    if request.thinking is not None and request.thinking.summary:
        yield "reasoning.summary"
    yield from request.marks


def _is_refused(row: Row, policy: Policy) -> bool:
    if policy == "refuse":
        return True
    return row.rule == "refuse" and not (policy == "drop" and row.may_drop)
